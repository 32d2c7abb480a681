//! The same ids, text and merges as Python's `tokenizers`, on goldens.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use etude_tokenizer::{Split, Tokenizer, TrainSettings};
use serde_json::{Value, json};
use support::{golden, ids, load, stream, text};

fn check(entry: &Value, name: &str) {
    let tokenizer = load(&entry["tokenizer"], json!({}));
    let mut texts = Vec::new();
    let mut expected = Vec::new();
    for case in entry["cases"].as_array().unwrap() {
        let input = text(&case["text"]);
        let plain = tokenizer.encode(input).unwrap();
        assert_eq!(plain, ids(&case["ids"]), "{name}: {input:?}");
        assert_eq!(
            tokenizer.encode_with_special(input).unwrap(),
            ids(&case["ids_with_special"]),
            "{name}, with special tokens: {input:?}"
        );
        assert_eq!(
            tokenizer.decode(&plain, false).unwrap(),
            text(&case["decoded"]),
            "{name}"
        );
        texts.push(input);
        expected.push(plain);
    }
    assert!(texts.len() > 5);
    assert_eq!(tokenizer.encode_batch(&texts).unwrap(), expected);
    for case in entry["streams"].as_array().unwrap() {
        let ids = ids(&case["ids"]);
        for (skip, field) in [(false, "kept"), (true, "skipped")] {
            assert_eq!(
                tokenizer.decode(&ids, skip).unwrap(),
                text(&case[field]),
                "{name}"
            );
            assert_eq!(
                stream(&tokenizer, &ids, skip).concat(),
                text(&case[field]),
                "{name}"
            );
        }
    }
}

#[test]
fn byte_level_tokenizers_agree() {
    let goldens = golden("byte_level.json");
    check(&goldens["words"], "words");
    check(&goldens["digits"], "digits");
}

#[test]
fn sentence_piece_tokenizers_agree() {
    let goldens = golden("sentence_piece.json");
    check(&goldens["legacy"], "legacy");
    check(&goldens["first"], "first");
}

#[test]
fn training_gives_the_same_tokenizer() {
    let goldens = golden("byte_level.json");
    let corpus: Vec<String> = goldens["corpus"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| text(t).to_owned())
        .collect();
    for (split, name) in [(Split::Words, "words"), (Split::Digits, "digits")] {
        let settings = TrainSettings {
            vocab_size: 400,
            split,
            ..TrainSettings::default()
        };
        let (tokenizer, report) = Tokenizer::train(corpus.clone().into_iter(), &settings).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let saved = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
        let saved: Value = serde_json::from_str(&saved).unwrap();
        let python = &goldens[name]["tokenizer"];
        for part in ["model", "pre_tokenizer", "normalizer", "added_tokens"] {
            assert_eq!(saved[part], python[part], "{name}: {part}");
        }
        assert_eq!(
            tokenizer.fingerprint(),
            load(&saved, json!({})).fingerprint()
        );
        let bytes: u64 = corpus.iter().map(|text| text.len() as u64).sum();
        assert_eq!(
            (report.documents_seen, report.bytes_seen),
            (corpus.len() as u64, bytes)
        );
        assert_eq!((report.bytes_used, report.vocab_size), (bytes, 400));
    }
}
