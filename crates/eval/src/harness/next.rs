//! What a model would say next: the likeliest tokens after a prompt, with their probabilities.

use anyhow::{Result, ensure};
use etude_model::{Decoder, Input};
use etude_tensor::{Kind, Tensor, no_grad};
use etude_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use super::encode::Encoder;
use super::{HarnessSettings, longest};

/// A token that may come next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NextToken {
    /// Its id.
    pub id: u32,
    /// Its text; bytes that are no whole character become U+FFFD.
    pub text: String,
    /// Its probability, 0 to 1.
    pub probability: f64,
}

/// The `count` likeliest tokens after a prompt, the likeliest first. The prompt may be empty: then what begins
/// a text.
///
/// # Errors
/// A tokenizer of another model, or a prompt longer than the model's context.
pub fn next_tokens(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    prompt: &str,
    count: usize,
) -> Result<Vec<NextToken>> {
    let longest = longest(decoder, tokenizer, &HarnessSettings::default())?;
    let ids = Encoder::new(tokenizer, longest).prompt(prompt)?;
    ensure!(
        ids.len() <= longest,
        "the prompt has {} tokens, and the model reads {longest}; shorten it",
        ids.len()
    );
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let (values, tokens) = no_grad(|| {
        let read = Tensor::from_slice(&ids)
            .unsqueeze(0)
            .to_device(decoder.device()); // (1, T)
        let hidden = decoder.hidden(Input::plain(&read), None); // (1, T, C)
        let last = hidden.select(1, ids.len() as i64 - 1); // (1, C)
        let probabilities = decoder
            .logits(&last)
            .softmax(-1, Kind::Double)
            .squeeze_dim(0); // (V)
        // Rows of the embedding beyond the tokenizer's tokens stand for none.
        let known = probabilities.narrow(0, 0, tokenizer.vocab_size() as i64);
        known.topk(count.min(tokenizer.vocab_size()) as i64, -1, true, true)
    });
    let values = Vec::<f64>::try_from(values)?; // sync
    let tokens = Vec::<i64>::try_from(tokens)?; // sync
    let token = |(probability, id): (f64, i64)| {
        let id = u32::try_from(id)?;
        Ok(NextToken {
            id,
            text: tokenizer.decode(&[id], false)?,
            probability,
        })
    };
    values.into_iter().zip(tokens).map(token).collect()
}

#[cfg(test)]
mod tests {
    use etude_model::Family;

    use super::*;
    use crate::task::testing::{decoder, tokenizer};

    #[test]
    fn the_likeliest_come_first_and_all_add_up_to_one() -> Result<()> {
        let (tokenizer, decoder) = (tokenizer(), decoder(Family::Llama, 64));
        let five = next_tokens(&decoder, &tokenizer, "a rose is", 5)?;
        assert_eq!(five.len(), 5);
        assert!(five.is_sorted_by(|a, b| a.probability >= b.probability));
        let all = next_tokens(&decoder, &tokenizer, "a rose is", 9999)?;
        assert_eq!(all.len(), tokenizer.vocab_size());
        assert_eq!(all[..5], five);
        let sum: f64 = all.iter().map(|token| token.probability).sum();
        // The model has some rows that no token uses.
        assert!(sum > 0.5 && sum < 1.0 + 1e-9, "{sum}");
        assert_eq!(next_tokens(&decoder, &tokenizer, "", 1)?.len(), 1);
        let long = "rose ".repeat(99);
        let error = next_tokens(&decoder, &tokenizer, &long, 1).expect_err("long");
        assert!(error.to_string().contains("shorten it"), "{error}");
        Ok(())
    }
}
