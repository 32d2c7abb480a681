//! Text to ids: plain text in which special tokens are ordinary, trusted text in which they are
//! recognised, many texts in parallel, and pieces of one text encoded apart.
//!
//! Uses the engine's parts instead of its `encode`, for three reasons: no post-processor adds
//! tokens and no truncation takes any, special tokens can be ignored without a second copy of the
//! engine, and the space that some tokenizers put before a text can be left out when the text is
//! the continuation of another.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{
    AddedToken, AddedVocabulary, Model as _, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
};

use crate::{TokenizerError, split};

/// Bytes of text that are encoded at a time where a text may be cut. Longer texts in one go cost
/// more per byte, and would leave cores idle at the end of a batch.
const CHUNK: usize = 32 << 10;

/// Where a piece of text stands, as far as a prefix space is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing stands before it.
    Start,
    /// A special token stands before it.
    AfterSpecial,
    /// Text stands before it.
    Continuing,
}

/// Which texts the tokenizer puts a space before (SentencePiece's "dummy prefix").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PrefixSpace {
    Never,
    /// The beginning of a text.
    First,
    /// The beginning, and after every special token.
    Each,
}

/// The engine's normalizer and pre-tokenizer.
#[derive(Clone)]
struct Stages {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
}

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
    unknown: Option<u32>,
    /// Whether text may be cut where [`split::chunks`] cuts it.
    may_cut: bool,
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
        let unknown = unknown_token(engine);
        Ok(Self {
            plain,
            special,
            stages,
            continuing,
            prefix_space,
            unknown,
            may_cut,
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
        let encoded: Vec<Vec<u32>> = pieces
            .par_iter()
            .map(|(_, piece)| encode(piece))
            .collect::<Result<_, _>>()?;
        let mut ids = vec![Vec::new(); texts.len()];
        for ((index, _), piece) in pieces.iter().zip(encoded) {
            if ids[*index].is_empty() {
                ids[*index] = piece;
            } else {
                ids[*index].extend(piece);
            }
        }
        Ok(ids)
    }

    /// Plain text at some place in a larger one.
    pub(crate) fn plain_at(
        &self,
        engine: &tokenizers::Tokenizer,
        text: &str,
        place: Place,
    ) -> Result<Vec<u32>, TokenizerError> {
        let ids = run(engine, &self.plain, self.stages_at(place), text)?;
        if !self.has_special(engine, &ids) {
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
        if self.has_special(engine, &ids) {
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
        let mut at = 0;
        for (piece, special) in self.split_special(text) {
            if let Some(token) = special {
                return Some((at..at + piece.len(), token));
            }
            at += piece.len();
        }
        None
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

    fn has_special(&self, engine: &tokenizers::Tokenizer, ids: &[u32]) -> bool {
        let known = engine.get_added_vocabulary().get_added_tokens_decoder();
        ids.iter()
            .any(|id| Some(*id) != self.unknown && known.get(id).is_some_and(|token| token.special))
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

/// Runs the engine's stages over `text`.
fn run(
    engine: &tokenizers::Tokenizer,
    vocabulary: &AddedVocabulary,
    stages: &Stages,
    text: &str,
) -> Result<Vec<u32>, TokenizerError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut pieces: PreTokenizedString =
        vocabulary.extract_and_normalize(stages.normalizer.as_ref(), text);
    if let Some(pre_tokenizer) = &stages.pre_tokenizer {
        pre_tokenizer
            .pre_tokenize(&mut pieces)
            .map_err(TokenizerError::engine)?;
    }
    engine
        .get_model()
        .tokenize_in_pretokenized(&mut pieces, None)
        .map_err(TokenizerError::engine)?;
    let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
    let tokens = splits
        .iter()
        .filter_map(|(_, _, tokens)| tokens.as_ref())
        .flatten();
    Ok(tokens.map(|token| token.id).collect())
}

/// The model's unknown token, which is special in some files and yet comes out of ordinary text.
fn unknown_token(engine: &tokenizers::Tokenizer) -> Option<u32> {
    use tokenizers::ModelWrapper::{BPE, Unigram, WordLevel, WordPiece};
    match engine.get_model() {
        BPE(model) => model
            .get_unk_token()
            .as_ref()
            .and_then(|token| model.token_to_id(token)),
        WordPiece(model) => model.token_to_id(&model.unk_token),
        WordLevel(model) => model.token_to_id(&model.unk_token),
        // Not public there; every file spells it so.
        Unigram(model) => model
            .token_to_id("<unk>")
            .or_else(|| model.token_to_id("[UNK]")),
    }
}

/// The pre-tokenizer that sees the text whole.
fn first_pre_tokenizer(stages: &Stages) -> Option<&PreTokenizerWrapper> {
    match stages.pre_tokenizer.as_ref()? {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref().first(),
        single => Some(single),
    }
}

fn prefix_space(stages: &Stages) -> PrefixSpace {
    let prepends =
        |normalizer: &NormalizerWrapper| matches!(normalizer, NormalizerWrapper::Prepend(_));
    let normalizer_prepends = match &stages.normalizer {
        Some(NormalizerWrapper::Sequence(sequence)) => sequence.as_ref().iter().any(prepends),
        Some(single) => prepends(single),
        None => false,
    };
    if normalizer_prepends {
        return PrefixSpace::Each;
    }
    match first_pre_tokenizer(stages) {
        Some(PreTokenizerWrapper::ByteLevel(byte_level)) if byte_level.add_prefix_space => {
            PrefixSpace::Each
        }
        Some(PreTokenizerWrapper::Metaspace(metaspace)) => match metaspace.prepend_scheme {
            PrependScheme::Always => PrefixSpace::Each,
            PrependScheme::First => PrefixSpace::First,
            PrependScheme::Never => PrefixSpace::Never,
        },
        _ => PrefixSpace::Never,
    }
}

/// The same stages, adding no space. A pre-tokenizer that stands behind one that cuts words keeps
/// its prefix: there it marks every word, not the beginning of a text.
fn without_prefix_space(stages: &Stages) -> Result<Stages, TokenizerError> {
    let mut continuing = stages.clone();
    if let Some(normalizer) = &stages.normalizer {
        let mut json = serde_json::to_value(normalizer).map_err(TokenizerError::engine)?;
        let prepends = |part: &Value| part.get("type").and_then(Value::as_str) == Some("Prepend");
        if prepends(&json) {
            continuing.normalizer = None;
        } else if let Some(parts) = json.get_mut("normalizers").and_then(Value::as_array_mut) {
            parts.retain(|part| !prepends(part));
            continuing.normalizer =
                Some(serde_json::from_value(json).map_err(TokenizerError::engine)?);
        }
    }
    let first = match &mut continuing.pre_tokenizer {
        Some(PreTokenizerWrapper::Sequence(sequence)) => sequence.as_mut().first_mut(),
        Some(single) => Some(single),
        None => None,
    };
    match first {
        Some(PreTokenizerWrapper::ByteLevel(byte_level)) => byte_level.add_prefix_space = false,
        Some(PreTokenizerWrapper::Metaspace(metaspace)) => {
            metaspace.set_prepend_scheme(PrependScheme::Never);
        }
        _ => {}
    }
    Ok(continuing)
}

/// Whether cutting text as [`split::chunks`] does cannot change an id: the words are those of the
/// pattern that it was made for, and nothing else looks across them.
fn may_cut(stages: &Stages, added: &AddedVocabulary) -> bool {
    let is_pattern = |part: &PreTokenizerWrapper| matches!(part, PreTokenizerWrapper::ByteLevel(b) if b.use_regex && !b.add_prefix_space);
    let words = match &stages.pre_tokenizer {
        Some(PreTokenizerWrapper::Sequence(sequence)) => match sequence.as_ref() {
            [single] => is_pattern(single),
            [PreTokenizerWrapper::Digits(_), second] => is_pattern(second),
            _ => false,
        },
        Some(single) => is_pattern(single),
        None => false,
    };
    // Special tokens play no part in plain text; other added tokens may span a cut or look beyond.
    let local = |token: &AddedToken| {
        token.special
            || !(token.lstrip
                || token.rstrip
                || token.single_word
                || token.content.contains(char::is_whitespace))
    };
    stages.normalizer.is_none() && words && added.get_added_tokens_decoder().values().all(local)
}
