//! Text to ids: plain text in which special tokens are ordinary, trusted text in which they are
//! recognised, many texts in parallel, and pieces of one text encoded apart.
//!
//! Uses the engine's parts instead of its `encode`, for three reasons: no post-processor adds
//! tokens and no truncation takes any, special tokens can be ignored without a second copy of the
//! engine, and the space that some tokenizers put before a text can be left out when the text is
//! the continuation of another.

use std::ops::Range;

use rayon::prelude::*;
use tokenizers::{AddedToken, AddedVocabulary, NormalizerWrapper, OffsetReferential, OffsetType};

use crate::stages::{
    Place, PrefixSpace, Stages, forbidden_ids, may_cut, prefix_space, run, without_prefix_space,
    words_of,
};
use crate::train::Split;
use crate::words::WordCache;
use crate::{TokenizerError, split};

/// Bytes of text that are encoded at a time where a text may be cut. Longer texts in one go cost
/// more per byte, and would leave cores idle at the end of a batch.
const CHUNK: usize = 32 << 10;

/// Bytes of text that share one cache of words, at most; small enough that all cores get some.
const LARGEST_GROUP: usize = 1 << 20;

/// What encoding needs beside the engine.
pub(crate) struct Encoder {
    /// The added vocabulary, told to leave special tokens alone.
    plain: AddedVocabulary,
    /// The special tokens alone, under ids of its own.
    special: AddedVocabulary,
    stages: Stages,
    /// `stages` without the prefix space.
    continuing: Stages,
    prefix_space: PrefixSpace,
    /// By id, whether it is a special token that plain text must never give.
    forbidden: Vec<bool>,
    /// Whether text may be cut where [`split::chunks`] cuts it.
    may_cut: bool,
    /// How to cut words, where plain text needs nothing of the engine but its BPE.
    words: Option<Split>,
}

impl Encoder {
    pub(crate) fn new(engine: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let all = engine.get_added_vocabulary();
        let mut plain = all.clone();
        plain.set_encode_special_tokens(true);
        let mut tokens: Vec<(&u32, &AddedToken)> = all
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, token)| token.special)
            .collect();
        tokens.sort_by_key(|(id, _)| **id);
        // A special token is found by its own spelling, before any normalizer.
        let tokens = tokens
            .into_iter()
            .map(|(_, token)| token.clone().normalized(false));
        let mut special = AddedVocabulary::new();
        special
            .add_special_tokens::<NormalizerWrapper>(tokens, engine.get_model(), None)
            .map_err(TokenizerError::engine)?;

        let stages = Stages {
            normalizer: engine.get_normalizer().cloned(),
            pre_tokenizer: engine.get_pre_tokenizer().cloned(),
        };
        let prefix_space = prefix_space(&stages);
        let continuing = without_prefix_space(&stages)?;
        let may_cut = may_cut(&stages, all);
        let words = if may_cut {
            words_of(engine, &stages)
        } else {
            None
        };
        let forbidden = forbidden_ids(engine);
        Ok(Self {
            plain,
            special,
            stages,
            continuing,
            prefix_space,
            forbidden,
            may_cut,
            words,
        })
    }

    /// See [`crate::Tokenizer::encode`].
    pub(crate) fn plain(
        &self,
        engine: &tokenizers::Tokenizer,
        text: &str,
    ) -> Result<Vec<u32>, TokenizerError> {
        if self.may_cut && text.len() > 2 * CHUNK {
            return Ok(self
                .batch(engine, &[text])?
                .pop()
                .expect("one text in, one out"));
        }
        self.plain_at(engine, text, Place::Start)
    }

    /// See [`crate::Tokenizer::encode_with_special`].
    pub(crate) fn with_special(
        &self,
        engine: &tokenizers::Tokenizer,
        text: &str,
    ) -> Result<Vec<u32>, TokenizerError> {
        run(engine, engine.get_added_vocabulary(), &self.stages, text)
    }

    /// See [`crate::Tokenizer::encode_batch`].
    pub(crate) fn batch<T: AsRef<str> + Sync>(
        &self,
        engine: &tokenizers::Tokenizer,
        texts: &[T],
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        let encode = |text: &str| self.plain_at(engine, text, Place::Start);
        if !self.may_cut {
            return texts.par_iter().map(|text| encode(text.as_ref())).collect();
        }
        // Cutting is cheap beside encoding; one flat list keeps the cores evenly busy.
        let pieces: Vec<(usize, &str)> = (texts.iter().enumerate())
            .flat_map(|(index, text)| {
                split::chunks(text.as_ref(), CHUNK).map(move |piece| (index, piece))
            })
            .collect();
        let bytes: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
        let group = (bytes / (4 * rayon::current_num_threads())).clamp(CHUNK, LARGEST_GROUP);
        let groups = grouped(&pieces, group);
        let encoded: Vec<Vec<Vec<u32>>> = groups
            .par_iter()
            .map(|group| {
                let mut cache = WordCache::new();
                let pieces = group.iter().map(|(_, piece)| *piece);
                pieces
                    .map(|piece| self.cached(engine, piece, &mut cache))
                    .collect()
            })
            .collect::<Result<_, _>>()?;
        let mut ids = vec![Vec::new(); texts.len()];
        for ((index, _), piece) in pieces.iter().zip(encoded.into_iter().flatten()) {
            if ids[*index].is_empty() {
                ids[*index] = piece;
            } else {
                ids[*index].extend(piece);
            }
        }
        Ok(ids)
    }

    /// Plain text at the start of a text, or where it may be cut.
    fn cached<'t>(
        &self,
        engine: &tokenizers::Tokenizer,
        text: &'t str,
        cache: &mut WordCache<'t>,
    ) -> Result<Vec<u32>, TokenizerError> {
        if let Some(split) = self.words {
            let ids = cache.encode(engine.get_model(), split, text)?;
            if !self.has_forbidden(&ids) {
                return Ok(ids);
            }
        }
        self.staged_at(engine, text, Place::Start)
    }

    /// Plain text at some place in a larger one.
    pub(crate) fn plain_at(
        &self,
        engine: &tokenizers::Tokenizer,
        text: &str,
        place: Place,
    ) -> Result<Vec<u32>, TokenizerError> {
        if self.words.is_some() {
            // With such words there is no prefix space, so the place does not matter.
            return self.cached(engine, text, &mut WordCache::new());
        }
        self.staged_at(engine, text, place)
    }

    /// Plain text, by the engine's stages.
    fn staged_at(
        &self,
        engine: &tokenizers::Tokenizer,
        text: &str,
        place: Place,
    ) -> Result<Vec<u32>, TokenizerError> {
        let ids = run(engine, &self.plain, self.stages_at(place), text)?;
        if !self.has_forbidden(&ids) {
            return Ok(ids);
        }
        // Some models (Unigram, whole words) find special tokens in plain text all by themselves.
        // Cut each spelling after its first character, and they cannot.
        let mut ids = Vec::new();
        let mut place = place;
        let mut rest = text;
        while let Some(found) = self.find_spelling(engine, rest) {
            let first = rest[found.start..].chars().next().map_or(0, char::len_utf8);
            let (head, tail) = rest.split_at(found.start + first);
            ids.extend(run(engine, &self.plain, self.stages_at(place), head)?);
            (place, rest) = (Place::Continuing, tail);
        }
        ids.extend(run(engine, &self.plain, self.stages_at(place), rest)?);
        if self.has_forbidden(&ids) {
            let message = "ordinary text encodes to a special token; \
                           its tokenizer.json marks a token as special that text is made of";
            return Err(TokenizerError::engine(message));
        }
        Ok(ids)
    }

    /// Trusted text at some place in a larger one, and the place after it.
    pub(crate) fn trusted_at(
        &self,
        engine: &tokenizers::Tokenizer,
        text: &str,
        place: Place,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut place = place;
        for (piece, special) in self.split_special(text) {
            match special {
                Some(token) => {
                    ids.extend(engine.token_to_id(&token));
                    place = Place::AfterSpecial;
                }
                None => {
                    ids.extend(run(
                        engine,
                        engine.get_added_vocabulary(),
                        self.stages_at(place),
                        &piece,
                    )?);
                    place = Place::Continuing;
                }
            }
        }
        Ok(ids)
    }

    /// The place after `text`, which itself stands at `place`.
    pub(crate) fn place_after(&self, text: &str, trusted: bool, place: Place) -> Place {
        match (text.is_empty(), trusted) {
            (true, _) => place,
            (false, false) => Place::Continuing,
            (false, true) => match self.split_special(text).pop() {
                Some((_, Some(_))) => Place::AfterSpecial,
                _ => Place::Continuing,
            },
        }
    }

    /// The first special token in `text`, with the white space that it takes in.
    pub(crate) fn first_special(&self, text: &str) -> Option<(Range<usize>, String)> {
        self.specials(text).next()
    }

    /// Where the last special token in `text` stands.
    pub(crate) fn last_special(&self, text: &str) -> Option<Range<usize>> {
        self.specials(text).last().map(|(range, _)| range)
    }

    fn specials(&self, text: &str) -> impl Iterator<Item = (Range<usize>, String)> {
        let mut at = 0;
        self.split_special(text)
            .into_iter()
            .filter_map(move |(piece, special)| {
                let start = at;
                at += piece.len();
                special.map(|token| (start..at, token))
            })
    }

    /// `text` in pieces, each a special token (named by its own spelling, without white space
    /// around it) or the text between two.
    fn split_special(&self, text: &str) -> Vec<(String, Option<String>)> {
        let pieces = self
            .special
            .extract_and_normalize(None::<&NormalizerWrapper>, text);
        let known = self.special.get_added_tokens_decoder();
        pieces
            .get_splits(OffsetReferential::Original, OffsetType::None)
            .into_iter()
            .filter(|(piece, _, _)| !piece.is_empty())
            .map(|(piece, _, tokens)| {
                let id = tokens
                    .as_ref()
                    .and_then(|tokens| tokens.first())
                    .map(|token| token.id);
                (piece.to_owned(), id.map(|id| known[&id].content.clone()))
            })
            .collect()
    }

    fn stages_at(&self, place: Place) -> &Stages {
        match (place, self.prefix_space) {
            (Place::Start, _) | (Place::AfterSpecial, PrefixSpace::Each) => &self.stages,
            _ => &self.continuing,
        }
    }

    fn has_forbidden(&self, ids: &[u32]) -> bool {
        ids.iter()
            .any(|id| self.forbidden.get(*id as usize).copied().unwrap_or(false))
    }

    /// The first spelling of a special token, in the text as the model sees it too.
    fn find_spelling(&self, engine: &tokenizers::Tokenizer, text: &str) -> Option<Range<usize>> {
        let known = engine
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .values();
        known
            .filter(|token| token.special)
            .filter_map(|token| {
                text.find(&token.content)
                    .map(|at| at..at + token.content.len())
            })
            .min_by_key(|range| range.start)
    }
}

/// `pieces` in groups of about `bytes` bytes.
fn grouped<'p, 't>(pieces: &'p [(usize, &'t str)], bytes: usize) -> Vec<&'p [(usize, &'t str)]> {
    let mut groups = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, (_, piece)) in pieces.iter().enumerate() {
        size += piece.len();
        if size >= bytes || index + 1 == pieces.len() {
            groups.push(&pieces[start..=index]);
            (start, size) = (index + 1, 0);
        }
    }
    groups
}
