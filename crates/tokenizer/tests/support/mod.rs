//! Reading the golden files that `scripts/goldens/tokenizer.py` writes, for every test here.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::path::PathBuf;

use etude_tokenizer::{Message, Tokenizer};
use serde_json::Value;

pub(crate) fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A model folder with a tokenizer of the goldens, loaded.
pub(crate) fn load(tokenizer: &Value, config: Value) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        config.to_string(),
    )
    .unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(crate) fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).unwrap()
}

/// All that a decoder returns for `ids`, piece by piece.
pub(crate) fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut decoder = tokenizer.decoder(skip_special);
    let mut pieces: Vec<String> = ids
        .iter()
        .filter_map(|id| decoder.push(*id).unwrap())
        .collect();
    pieces.push(decoder.finish());
    pieces
}
