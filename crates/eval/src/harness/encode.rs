//! Texts to tokens as lm-evaluation-harness makes them, so that the same model gives the same likelihoods.

use anyhow::{Context, Result, ensure};
use etude_tokenizer::Tokenizer;

use super::request::Request;
use super::sample::is_space;

/// A tokenizer, and what it wants before a text.
pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Put before each text, for models that were trained so.
    begin: Option<u32>,
    /// What an empty context consists of.
    prefix: Option<u32>,
    /// The most tokens that the model reads.
    longest: usize,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, longest: usize) -> Self {
        Self {
            tokenizer,
            begin: tokenizer.begins_texts(),
            prefix: tokenizer.named_bos_id().or(tokenizer.eos_id()),
            longest,
        }
    }

    /// A text's tokens, with the beginning token of tokenizers that add one.
    pub(super) fn text(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.begin.into_iter().collect();
        ids.extend(self.tokenizer.encode(text)?);
        Ok(ids)
    }

    /// A text to continue; an empty one is the prefix token alone.
    pub(super) fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.text(text)?;
        match ids.is_empty() {
            true => Ok(vec![self.prefix()?]),
            false => Ok(ids),
        }
    }

    /// A continuation after its context: the tokens of both together, divided where those of the context
    /// alone end. White space at the end of the context belongs to the continuation.
    pub(super) fn pair(&self, context: &str, continuation: &str) -> Result<Request> {
        let bare = context.trim_end_matches(is_space);
        let continuation = format!("{}{continuation}", &context[bare.len()..]);
        if bare.is_empty() {
            let mut rest = self.tokenizer.encode(&continuation)?;
            let prefix = self.prefix()?;
            let begins = rest.first() == Some(&prefix);
            let context = if begins { rest.remove(0) } else { prefix };
            return self.checked(vec![context], rest);
        }
        let mut ids = self.text(&format!("{bare}{continuation}"))?;
        let alone = self.text(bare)?.len().min(ids.len());
        let rest = ids.split_off(alone);
        self.checked(ids, rest)
    }

    /// A whole text in pieces that the model can read: each token is scored once, after as many tokens before
    /// it as fit; the first after the prefix token.
    pub(super) fn windows(&self, text: &str) -> Result<Vec<Request>> {
        let ids = self.text(text)?;
        let prefix = self.prefix()?;
        let mut windows = Vec::new();
        let mut scored = 0;
        while scored < ids.len() {
            let end = ids.len().min(scored + self.longest);
            // The last window is full, too: it begins as far back as it may.
            let context = match scored {
                0 => vec![prefix],
                _ => ids[end.saturating_sub(self.longest + 1)..scored].to_vec(),
            };
            windows.push(Request {
                context,
                continuation: ids[scored..end].to_vec(),
            });
            scored = end;
        }
        Ok(windows)
    }

    fn prefix(&self) -> Result<u32> {
        self.prefix.context(
            "the tokenizer has neither a beginning nor an end token to stand before a text; name one as bos_token in tokenizer_config.json",
        )
    }

    fn checked(&self, context: Vec<u32>, continuation: Vec<u32>) -> Result<Request> {
        ensure!(
            !continuation.is_empty(),
            "what follows the context has no token of its own: there is nothing to score; correct the template or the record"
        );
        ensure!(
            continuation.len() <= self.longest,
            "what follows the context has {} tokens, and the model reads {} at a time; shorten it",
            continuation.len(),
            self.longest
        );
        Ok(Request {
            context,
            continuation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::testing::tokenizer;

    #[test]
    fn white_space_before_a_continuation_belongs_to_it() -> Result<()> {
        let tokenizer = tokenizer();
        let encoder = Encoder::new(&tokenizer, 64);
        let whole = tokenizer.encode("a rose is red")?;
        let bare = tokenizer.encode("a rose is")?;
        let one = encoder.pair("a rose is", " red")?;
        assert_eq!(one, encoder.pair("a rose is ", "red")?);
        assert_eq!(one.context, bare);
        assert_eq!([one.context, one.continuation].concat(), whole);
        let alone = encoder.pair("", "red")?;
        assert_eq!(alone.context, [tokenizer.bos_id().expect("has one")]);
        assert_eq!(alone.continuation, tokenizer.encode("red")?);
        let error = encoder.pair("a rose", "").expect_err("nothing").to_string();
        assert!(error.contains("nothing to score"), "{error}");
        Ok(())
    }

    #[test]
    fn windows_score_each_token_once_and_the_last_is_full() -> Result<()> {
        let tokenizer = tokenizer();
        let text = "roses are red, violets are blue; a rose";
        let ids = tokenizer.encode(text)?;
        let prefix = tokenizer.bos_id().expect("has one");
        for longest in [1, 3, 4, ids.len() - 1, ids.len(), 99] {
            let windows = Encoder::new(&tokenizer, longest).windows(text)?;
            let scored: Vec<u32> = windows
                .iter()
                .flat_map(|w| w.continuation.clone())
                .collect();
            assert_eq!(scored, ids);
            assert_eq!(windows[0].context, [prefix]);
            for window in &windows[1..] {
                // What is read is all but the last token.
                let read = window.context.len() + window.continuation.len() - 1;
                assert_eq!(read, longest);
            }
        }
        assert!(Encoder::new(&tokenizer, 8).windows("")?.is_empty());
        Ok(())
    }
}
