//! How many bytes of a text each of its tokens stands for.

use anyhow::Result;
use etude_data::token_byte_lengths;
use etude_tokenizer::Tokenizer;

/// The bytes of each token of `text`; their sum is the text's length.
pub(super) fn token_bytes(tokenizer: &Tokenizer, ids: &[u32], text: &str) -> Result<Vec<u64>> {
    // No id is a separator: the text was encoded without any.
    let table = token_byte_lengths(tokenizer, u32::MAX);
    let exact: Vec<u64> = ids
        .iter()
        .map(|&id| u64::from(table[id as usize]))
        .collect();
    if exact.iter().sum::<u64>() == text.len() as u64 {
        return Ok(exact);
    }
    decoded_bytes(tokenizer, ids, text)
}

/// The bytes that decoding gives out at each token, in proportion to the text's own.
fn decoded_bytes(tokenizer: &Tokenizer, ids: &[u32], text: &str) -> Result<Vec<u64>> {
    let mut decoder = tokenizer.decoder(false);
    let mut up_to = Vec::with_capacity(ids.len());
    let mut decoded = 0;
    for &id in ids {
        decoded += decoder.push(id)?.map_or(0, |piece| piece.len());
        up_to.push(decoded);
    }
    // What is left at the end belongs to the last token.
    if let Some(last) = up_to.last_mut() {
        *last += decoder.finish().len();
    }
    let whole = up_to.last().copied().unwrap_or(0).max(1) as u128;
    let scale = |bytes: usize| (bytes as u128 * text.len() as u128 / whole) as u64;
    let mut before = 0;
    let mut step = |bytes: &usize| {
        let here = scale(*bytes);
        let own = here - before;
        before = here;
        own
    };
    Ok(up_to.iter().map(&mut step).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::testing::tokenizer;

    #[test]
    fn bytes_add_up_to_the_text_and_decoding_agrees() -> Result<()> {
        let tokenizer = tokenizer();
        for text in [
            "the rose is red",
            "é, 日本, 🌹 and 🌹",
            "a",
            "\n\n \t x",
            "<|end|> is text",
        ] {
            let ids = tokenizer.encode(text)?;
            let exact = token_bytes(&tokenizer, &ids, text)?;
            assert_eq!(exact.iter().sum::<u64>(), text.len() as u64, "{text:?}");
            assert!(exact.iter().all(|&bytes| bytes > 0), "{text:?}");
            let decoded = decoded_bytes(&tokenizer, &ids, text)?;
            assert_eq!(decoded.iter().sum::<u64>(), text.len() as u64, "{text:?}");
            // A character's bytes come out with its last token; at ends of characters they agree.
            let (mut a, mut b) = (0, 0);
            for (exact, decoded) in exact.iter().zip(&decoded) {
                a += exact;
                b += decoded;
                assert!(
                    b == a || (b < a && !text.is_char_boundary(a as usize)),
                    "{text:?}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn a_text_that_does_not_come_back_is_shared_out_in_proportion() -> Result<()> {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("roses are red")?;
        let shared = decoded_bytes(&tokenizer, &ids, &"x".repeat(26))?;
        let own = token_bytes(&tokenizer, &ids, "roses are red")?;
        assert_eq!(
            shared,
            own.iter().map(|bytes| 2 * bytes).collect::<Vec<_>>()
        );
        Ok(())
    }
}
