//! The engine's stages, normalizer and pre-tokenizer, and what can be told from them: whether they
//! put a space before a text, and whether a text may be cut before they see it.

use serde_json::Value;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{
    AddedToken, AddedVocabulary, Model as _, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper,
};

use crate::TokenizerError;
use crate::train::Split;

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
pub(crate) enum PrefixSpace {
    Never,
    /// The beginning of a text.
    First,
    /// The beginning, and after every special token.
    Each,
}

/// The engine's normalizer and pre-tokenizer.
#[derive(Clone)]
pub(crate) struct Stages {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: Option<PreTokenizerWrapper>,
}

/// Runs the engine's stages over `text`.
pub(crate) fn run(
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

/// By id, the special tokens but the unknown one.
pub(crate) fn forbidden_ids(engine: &tokenizers::Tokenizer) -> Vec<bool> {
    let unknown = unknown_token(engine);
    let mut forbidden = Vec::new();
    for (id, token) in engine.get_added_vocabulary().get_added_tokens_decoder() {
        if token.special && Some(*id) != unknown {
            let index = *id as usize;
            forbidden.resize(forbidden.len().max(index + 1), false);
            forbidden[index] = true;
        }
    }
    forbidden
}

/// How plain text is cut into words, if the model is a BPE without chance and no added token but
/// special ones plays a part.
pub(crate) fn words_of(engine: &tokenizers::Tokenizer, stages: &Stages) -> Option<Split> {
    let added = engine.get_added_vocabulary().get_added_tokens_decoder();
    let is_plain_bpe = match engine.get_model() {
        tokenizers::ModelWrapper::BPE(model) => model.dropout.is_none(),
        _ => false,
    };
    if !is_plain_bpe || added.values().any(|token| !token.special) {
        return None;
    }
    let single = match stages.pre_tokenizer.as_ref()? {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref(),
        single => std::slice::from_ref(single),
    };
    match single {
        [_] => Some(Split::Words),
        [PreTokenizerWrapper::Digits(digits), _] if digits.individual_digits => Some(Split::Digits),
        _ => None,
    }
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

pub(crate) fn prefix_space(stages: &Stages) -> PrefixSpace {
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
pub(crate) fn without_prefix_space(stages: &Stages) -> Result<Stages, TokenizerError> {
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

/// Whether cutting text as `split::chunks` does cannot change an id: the words are those of the
/// pattern that it was made for, and nothing else looks across them.
pub(crate) fn may_cut(stages: &Stages, added: &AddedVocabulary) -> bool {
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
