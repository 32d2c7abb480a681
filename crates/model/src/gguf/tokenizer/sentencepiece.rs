//! SentencePiece's BPE, GGUF's `llama` (Llama 2, the first Mistral): the file has pieces with scores and no
//! merges. The score of a piece says how late it was made, so the merges follow: each two pieces that make
//! a third, in the order of the third's score.

use std::collections::{HashMap, HashSet};

use serde_json::{Value as Json, json};

use super::{BYTE, Engine, NORMAL, Tokens, UNKNOWN, USER_DEFINED};
use crate::gguf::error::GgufError;
use crate::gguf::metadata::Metadata;

pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const SPACE: &str = "\u{2581}";

/// Longer pieces are not taken apart: SentencePiece makes none of more than a few dozen bytes, and the work
/// grows with the square of the length.
const LONGEST: usize = 256;

pub(super) fn engine(
    metadata: &Metadata,
    tokens: &Tokens<'_>,
    unknown: Option<&str>,
) -> Result<Engine, GgufError> {
    let prefixed = metadata.flag(SPACE_PREFIX)?.unwrap_or(true);
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let mut normalizers = vec![spaces];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Engine {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Json::Null,
        post_processor: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": tokens.vocabulary(),
            "merges": merges(tokens, scores(metadata, tokens)?),
        }),
        adds_bos: true,
    })
}

fn scores<'a>(metadata: &'a Metadata, tokens: &Tokens<'_>) -> Result<&'a [f64], GgufError> {
    let scores = metadata.floats(SCORES)?;
    if scores.len() < tokens.texts.len() {
        let reason = format!(
            "has {} scores for {} tokens",
            scores.len(),
            tokens.texts.len()
        );
        return Err(metadata.error(SCORES, reason));
    }
    Ok(scores)
}

/// Whether the model of a `tokenizer.json` puts a space before a text; none where spaces are treated in a way that GGUF
/// cannot say. Files have it in the normalizer or, newer ones, as a pre-tokenizer that cuts nothing.
pub(super) fn prefixes(json: &Json) -> Option<bool> {
    let normalizer = &json["normalizer"];
    let parts: &[Json] = match normalizer["type"].as_str() {
        None => &[],
        Some("Sequence") => normalizer["normalizers"].as_array()?.as_slice(),
        Some(_) => std::slice::from_ref(normalizer),
    };
    let replaces = |part: &Json| part["type"] == "Replace" && part["content"] == SPACE;
    let prepends = |part: &Json| part["type"] == "Prepend" && part["prepend"] == SPACE;
    let before = &json["pre_tokenizer"];
    match parts {
        [one] if before.is_null() && replaces(one) => Some(false),
        [one, two] if before.is_null() && prepends(one) && replaces(two) => Some(true),
        [] if before["type"] == "Metaspace" && before["replacement"] == SPACE => {
            (before["split"] == false).then(|| before["prepend_scheme"] != "never")
        }
        _ => None,
    }
}

/// What a piece is.
pub(super) fn kind(text: &str, model: &Json) -> i64 {
    let byte = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    match byte.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok()) {
        true => BYTE,
        false if model["unk_token"] == *text => UNKNOWN,
        false => NORMAL,
    }
}

/// A score for each piece: the earlier it is made, the higher. Pieces that are not made of others have none to speak of.
pub(super) fn ranks(texts: &[String], merges: &[String]) -> Vec<f64> {
    let mut ranks: HashMap<String, f64> = HashMap::with_capacity(merges.len());
    for merge in merges {
        let next = -(ranks.len() as f64) - 1.0;
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(next);
    }
    let last = -(ranks.len() as f64) - 1.0;
    texts
        .iter()
        .map(|text| ranks.get(text).copied().unwrap_or(last))
        .collect()
}

/// Whether scores tell the merges that they were made of: each two pieces that make a third are a merge, and those of
/// one piece stand together.
pub(super) fn tell(scores: &[f64], texts: &[String], types: &[i64], merges: &[String]) -> bool {
    let normal = texts.iter().zip(types).filter(|(_, kind)| **kind == NORMAL);
    let normal: HashSet<&str> = normal.map(|(text, _)| text.as_str()).collect();
    let pieces = Tokens {
        texts,
        types: types
            .iter()
            .map(|&kind| if kind == NORMAL { NORMAL } else { UNKNOWN })
            .collect(),
        base: texts.len(),
    };
    let follow: HashSet<String> = merges_of(&pieces, scores)
        .into_iter()
        .map(|(left, right)| format!("{left} {right}"))
        .collect();
    let mut made = HashSet::new();
    let mut last = String::new();
    let mut count = 0;
    for merge in merges {
        let Some((left, right)) = merge.split_once(' ') else {
            return false;
        };
        let whole = format!("{left}{right}");
        if [left, right, whole.as_str()]
            .iter()
            .any(|piece| !normal.contains(piece))
        {
            continue; // of special tokens, which are no text
        }
        if !follow.contains(merge) || (whole != last && !made.insert(whole.clone())) {
            return false;
        }
        last = whole;
        count += 1;
    }
    count == follow.len()
}

/// All pairs of pieces that make a piece: those of the best piece first; of one piece, the longest first
/// part first, as Hugging Face's converter has it.
fn merges(tokens: &Tokens<'_>, scores: &[f64]) -> Vec<Json> {
    let pairs = merges_of(tokens, scores).into_iter();
    pairs.map(|(left, right)| json!([left, right])).collect()
}

fn merges_of<'t>(tokens: &Tokens<'t>, scores: &[f64]) -> Vec<(&'t str, &'t str)> {
    let is_piece = |kind: i64| matches!(kind, NORMAL | USER_DEFINED);
    let pieces: HashMap<&str, f64> = tokens
        .texts
        .iter()
        .zip(&tokens.types)
        .zip(scores)
        .filter(|((text, kind), _)| is_piece(**kind) && text.len() <= LONGEST)
        .map(|((text, _), score)| (text.as_str(), *score))
        .collect();
    let mut found: Vec<(f64, usize, &str, &str)> = Vec::new();
    for (place, text) in tokens.texts.iter().enumerate() {
        let Some(score) = pieces.get(text.as_str()) else {
            continue;
        };
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if pieces.contains_key(left) && pieces.contains_key(right) {
                found.push((*score, place, left, right));
            }
        }
    }
    found.sort_by(|a, b| {
        let score = b.0.total_cmp(&a.0);
        score
            .then(b.2.chars().count().cmp(&a.2.chars().count()))
            .then(a.1.cmp(&b.1))
    });
    found
        .into_iter()
        .map(|(_, _, left, right)| (left, right))
        .collect()
}
