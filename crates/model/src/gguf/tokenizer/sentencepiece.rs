//! SentencePiece's BPE, GGUF's `llama` (Llama 2, the first Mistral): the file has pieces with scores and no
//! merges. The score of a piece says how late it was made, so the merges follow: each two pieces that make
//! a third, in the order of the third's score.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::{Engine, NORMAL, Tokens, USER_DEFINED};
use crate::gguf::error::GgufError;
use crate::gguf::metadata::Metadata;

const SCORES: &str = "tokenizer.ggml.scores";
const SPACE: &str = "\u{2581}";

/// Longer pieces are not taken apart: SentencePiece makes none of more than a few dozen bytes, and the work
/// grows with the square of the length.
const LONGEST: usize = 256;

pub(super) fn engine(
    metadata: &Metadata,
    tokens: &Tokens<'_>,
    unknown: Option<&str>,
) -> Result<Engine, GgufError> {
    let prefixed = metadata
        .flag("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
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

/// All pairs of pieces that make a piece: those of the best piece first; of one piece, the longest first
/// part first, as Hugging Face's converter has it.
fn merges(tokens: &Tokens<'_>, scores: &[f64]) -> Vec<Json> {
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
        .map(|(_, _, left, right)| json!([left, right]))
        .collect()
}
