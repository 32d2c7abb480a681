//! The fast way to encode plain text with a byte-level BPE: cut it into words here, and ask the
//! engine for each different word once.
//!
//! The engine spends most of its time on keeping every byte's place in the original text, which
//! nobody here asks for. The words are the same (see the tests of `split`), so the ids are too.

use ahash::AHashMap;
use tokenizers::{Model as _, ModelWrapper};

use crate::train::Split;
use crate::{TokenizerError, bytes, split};

/// The ids of the words seen so far.
pub(crate) struct WordCache<'t> {
    /// Where the ids of a word stand in `ids`.
    places: AHashMap<&'t str, (u32, u32)>,
    ids: Vec<u32>,
}

impl<'t> WordCache<'t> {
    pub(crate) fn new() -> Self {
        Self {
            places: AHashMap::new(),
            ids: Vec::new(),
        }
    }

    /// The ids of `text`.
    pub(crate) fn encode(
        &mut self,
        model: &ModelWrapper,
        split: Split,
        text: &'t str,
    ) -> Result<Vec<u32>, TokenizerError> {
        // English comes to about four bytes a token.
        let mut out = Vec::with_capacity(text.len() / 4 + 1);
        let mut failure = None;
        split::words(text, split, |word| {
            if failure.is_some() {
                return;
            }
            match self.place(model, word) {
                Ok((start, end)) => out.extend_from_slice(&self.ids[start as usize..end as usize]),
                Err(error) => failure = Some(error),
            }
        });
        failure.map_or(Ok(out), Err)
    }

    fn place(&mut self, model: &ModelWrapper, word: &'t str) -> Result<(u32, u32), TokenizerError> {
        if let Some(place) = self.places.get(word) {
            return Ok(*place);
        }
        let tokens = model
            .tokenize(&bytes::to_alphabet(word))
            .map_err(TokenizerError::engine)?;
        let start = self.ids.len() as u32;
        self.ids.extend(tokens.iter().map(|token| token.id));
        let place = (start, self.ids.len() as u32);
        self.places.insert(word, place);
        Ok(place)
    }
}
