//! Byte-level BPE, GGUF's `gpt2`: the file has vocabulary, merges, and the name of the way that text is cut
//! into words.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::pre::PreTokenizer;
use super::{Engine, MERGES, PRE, Tokens};
use crate::gguf::error::GgufError;
use crate::gguf::metadata::Metadata;

pub(super) fn engine(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<Engine, GgufError> {
    let pre = match metadata.text(PRE)? {
        Some(name) if name != UNNAMED => PreTokenizer::named(name)
            .map_err(|known| metadata.error(PRE, format!("is `{name}`; Etude knows {known}")))?,
        _ => unnamed(metadata, tokens)?,
    };
    let stage = |trims: bool| json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": trims, "use_regex": true});
    Ok(Engine {
        normalizer: pre.normalizer(),
        pre_tokenizer: pre.json(),
        post_processor: stage(false),
        decoder: stage(true),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignores_merges(), "vocab": tokens.vocabulary(),
            "merges": merges(metadata, tokens)?,
        }),
        adds_bos: pre.adds_bos(),
    })
}

/// What a file says that does not know.
const UNNAMED: &str = "default";

/// The way of a file without a name for it, as all were before April 2024: by its architecture, and the architecture
/// `llama` by its vocabulary.
fn unnamed(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<PreTokenizer, GgufError> {
    let named = |name| Ok(PreTokenizer::named(name).expect("one of those that are known"));
    match metadata.text("general.architecture")?.unwrap_or_default() {
        "gpt2" => Ok(PreTokenizer::GPT2),
        "qwen2" | "qwen3" => named("qwen2"),
        _ if tokens.texts.iter().any(|text| text == "<|begin_of_text|>") => named("llama3"),
        architecture => {
            let reason = format!(
                "is not there, and nothing else of a `{architecture}` tells how text is cut into words; convert the model again, or import its Hugging Face folder"
            );
            Err(metadata.error(PRE, reason))
        }
    }
}

/// The merges, each of two tokens that make a third.
fn merges(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<Vec<Json>, GgufError> {
    let known: HashSet<&str> = tokens.texts.iter().map(String::as_str).collect();
    let mut merges = Vec::new();
    for (at, merge) in metadata.texts(MERGES)?.iter().enumerate() {
        let whole = |(left, right): &(&str, &str)| {
            known.contains(left)
                && known.contains(right)
                && known.contains(format!("{left}{right}").as_str())
        };
        let Some((left, right)) = merge.split_once(' ').filter(whole) else {
            let reason = format!("has as merge {at} {merge:?}, which does not make a token of two");
            return Err(metadata.error(MERGES, reason));
        };
        merges.push(json!([left, right]));
    }
    Ok(merges)
}
