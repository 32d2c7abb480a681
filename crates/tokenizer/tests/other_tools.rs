//! What other programs put into a tokenizer's files: ids with holes or far out, chance, ids that are none.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::fs;

use etude_tokenizer::Tokenizer;
use serde_json::{Value, json};
use support::golden;

/// A folder with the golden tokenizer, and these files.
fn folder_with(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = &golden("chat.json")["tokenizer"];
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, value) in files {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    folder
}

/// The golden tokenizer, with a token more under this id.
fn with_id(id: u32) -> Value {
    let mut tokenizer = golden("chat.json")["tokenizer"].clone();
    tokenizer["model"]["vocab"]["far"] = json!(id);
    tokenizer
}

#[test]
fn a_vocabulary_may_have_holes() {
    let folder = folder_with(&[("tokenizer.json", with_id(200_000))]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 200_001);
    assert_eq!(tokenizer.token_id("far"), Some(200_000));
}

#[test]
fn an_id_far_beyond_the_tokens_is_refused_by_file_and_field() {
    for id in [2_147_483_648, 20_000_000, u32::MAX] {
        let folder = folder_with(&[("tokenizer.json", with_id(id))]);
        let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
        let told = format!("\"model.vocab\": gives \"far\" the id {id},");
        for part in ["tokenizer.json", &told, "fetch the file again"] {
            assert!(error.contains(part), "no `{part}` in: {error}");
        }
    }
}

#[test]
fn the_same_text_is_the_same_ids_whatever_the_file_s_dropout() {
    let text = "The ferry leaves at half past six. ".repeat(20);
    let mut dropping = golden("chat.json")["tokenizer"].clone();
    dropping["model"]["dropout"] = json!(0.5);
    let folder = folder_with(&[("tokenizer.json", dropping)]);
    let plain = folder_with(&[]);
    let [dropping, plain] = [&folder, &plain].map(|it| Tokenizer::load(it.path()).unwrap());
    let ids = plain.encode(&text).unwrap();
    assert_eq!(dropping.encode(&text).unwrap(), ids);
    assert_eq!(dropping.encode_with_special(&text).unwrap(), ids);
    assert_eq!(dropping.fingerprint(), plain.fingerprint());
}

#[test]
fn a_negative_id_in_a_list_is_none() {
    let eos = json!({"eos_token_id": [5, 6, -1], "bos_token_id": -1});
    let folder = folder_with(&[("generation_config.json", eos)]);
    let stops = Tokenizer::load(folder.path()).unwrap().stop_ids();
    assert!(stops.contains(&5) && stops.contains(&6), "{stops:?}");
}
