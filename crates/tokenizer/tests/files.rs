//! Loading and saving folders, what stands in which file, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::fs;
use std::path::Path;

use etude_tokenizer::{
    DEFAULT_TEMPLATE, END_OF_TEXT, Split, Tokenizer, TokenizerError, TrainSettings,
};
use serde_json::{Value, json};
use support::golden;

fn folder_with(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = &golden("chat.json")["tokenizer"];
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, value) in files {
        let text = value.as_str().map_or(value.to_string(), str::to_owned);
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn trained() -> Tokenizer {
    let settings = TrainSettings {
        vocab_size: 300,
        ..TrainSettings::default()
    };
    let documents = [
        "The ferry leaves at half past six.",
        "The ferry comes at seven.",
    ];
    Tokenizer::train(documents.into_iter().map(String::from), &settings)
        .unwrap()
        .0
}

#[test]
fn a_trained_tokenizer_has_its_special_tokens_and_comes_back_whole() {
    let tokenizer = trained();
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()),
        (Some(0), Some(0), Some(1))
    );
    assert_eq!(tokenizer.token_id(END_OF_TEXT), Some(0));
    assert_eq!(tokenizer.id_to_token(5).as_deref(), Some("<|end|>"));
    assert_eq!(tokenizer.stop_ids(), [0, 5]);

    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("new/model");
    tokenizer.save(&place).unwrap();
    for path in [place.clone(), place.join("tokenizer.json")] {
        let loaded = Tokenizer::load(&path).unwrap();
        assert_eq!(loaded.fingerprint(), tokenizer.fingerprint());
        assert_eq!(loaded.fingerprint().len(), 64);
        assert_eq!(loaded.chat_template().unwrap().source(), DEFAULT_TEMPLATE);
        assert_eq!(loaded.stop_ids(), [0, 5]);
        assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
        assert_eq!(loaded.pad_id(), Some(1));
    }
    let names: Vec<_> = fs::read_dir(&place)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "no unfinished file is left: {names:?}");
    // Under another name nothing beside it is read; the usual spellings are known all the same.
    fs::rename(place.join("tokenizer.json"), place.join("other.json")).unwrap();
    let bare = Tokenizer::load(&place.join("other.json")).unwrap();
    assert!(bare.chat_template().is_none());
    assert_eq!((bare.eos_id(), bare.pad_id()), (Some(0), Some(1)));
}

#[test]
fn special_tokens_may_be_strings_objects_and_lists() {
    let config = json!({
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": false},
        "eos_token": "<|im_end|>",
        "pad_token": null,
        "additional_special_tokens": ["<|eot|>"],
    });
    let generation = json!({"eos_token_id": [6, 1], "pad_token_id": 2});
    let folder = folder_with(&[
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
        ("config.json", json!({"eos_token_id": 9, "bos_token_id": 3})),
    ]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.bos_id(), tokenizer.token_id("<s>"));
    assert_eq!(tokenizer.named_bos_id(), tokenizer.bos_id());
    assert_eq!(tokenizer.eos_id(), tokenizer.token_id("<|im_end|>"));
    assert_eq!(tokenizer.pad_id(), Some(2));
    assert_eq!(tokenizer.stop_ids(), [1, 6]);

    let folder = folder_with(&[
        ("tokenizer_config.json", json!({"eos_token": "<|im_end|>"})),
        (
            "special_tokens_map.json",
            json!({"bos_token": {"content": "<s>"}, "eos_token": "<s>"}),
        ),
    ]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.named_bos_id(), tokenizer.token_id("<s>"));
    assert_eq!(tokenizer.eos_id(), tokenizer.token_id("<|im_end|>"));

    // As of Qwen 3: the model's beginning token is none of the tokenizer's.
    let folder = folder_with(&[
        (
            "tokenizer_config.json",
            json!({"bos_token": null, "eos_token": "<|im_end|>"}),
        ),
        ("config.json", json!({"bos_token_id": 3})),
    ]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(
        (tokenizer.bos_id(), tokenizer.named_bos_id()),
        (Some(3), None)
    );
}

#[test]
fn tokens_beyond_a_models_vocabulary_can_be_left_out_where_they_were_added() {
    let mut tokenizer = golden("chat.json")["tokenizer"].clone();
    let size = support::load(&tokenizer, json!({})).vocab_size();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    for (nth, text) in ["<pad-2>", "plain"].into_iter().enumerate() {
        let special = text != "plain";
        added.push(json!({
            "id": size + nth, "content": text, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }));
    }
    let config = json!({
        "pad_token": "<pad-2>", "additional_special_tokens": ["<pad-2>", "<|im_end|>"],
        "chat_template": "{{ messages[0].content }}<|im_end|>",
    });
    let whole = support::load(&tokenizer, config.clone());
    assert_eq!(whole.vocab_size(), size + 2);
    assert_eq!(whole.pad_id(), Some(size as u32));
    assert!(
        whole.within(size - 1).is_none(),
        "that one is not beyond it"
    );

    let smaller = whole.within(size).unwrap();
    assert_eq!(smaller.vocab_size(), size);
    assert_ne!(smaller.pad_id(), Some(size as u32));
    assert_eq!(smaller.end_of_turn_id(), whole.end_of_turn_id());
    let ids = smaller
        .encode_with_special("<pad-2> plain <|im_end|>")
        .unwrap();
    assert!(ids.iter().all(|&id| (id as usize) < size));
    assert_eq!(
        smaller.decode(&ids, false).unwrap(),
        "<pad-2> plain <|im_end|>"
    );
    let folder = tempfile::tempdir().unwrap();
    smaller.save(folder.path()).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().vocab_size(), size);

    let mut config = config;
    config["chat_template"] = json!("<pad-2>{{ messages[0].content }}<|im_end|>");
    let needed = support::load(&tokenizer, config);
    assert!(needed.within(size).is_none(), "the template writes it");
}

#[test]
fn a_token_that_only_the_configuration_calls_special_is_special() {
    let mut tokenizer = golden("chat.json")["tokenizer"].clone();
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        token["special"] = json!(token["content"] != "<|im_end|>");
    }
    let plain = support::load(&tokenizer, json!({}));
    let id = plain.token_id("<|im_end|>").unwrap();
    assert_eq!(
        plain.encode("<|im_end|>").unwrap(),
        [id],
        "an ordinary added token is found in text"
    );
    let config = json!({"eos_token": "<|im_end|>"});
    let declared = support::load(&tokenizer, config);
    assert!(!declared.encode("<|im_end|>").unwrap().contains(&id));
    assert_eq!(declared.encode_with_special("<|im_end|>").unwrap(), [id]);
    assert_eq!(declared.decode(&[id], true).unwrap(), "");
}

#[test]
fn tokens_that_only_the_configuration_has_are_added() {
    let size = Tokenizer::load(folder_with(&[]).path())
        .unwrap()
        .vocab_size();
    let added = |id: usize| {
        let table = json!({id.to_string(): {"content": "<|tool|>", "special": true}});
        folder_with(&[(
            "tokenizer_config.json",
            json!({"added_tokens_decoder": table}),
        )])
    };
    let tokenizer = Tokenizer::load(added(size).path()).unwrap();
    assert_eq!(
        tokenizer.encode_with_special("<|tool|>").unwrap(),
        [size as u32]
    );
    assert_eq!(tokenizer.vocab_size(), size + 1);
    let error = Tokenizer::load(added(size + 7).path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tokenizer_config.json") && error.contains("added_tokens_decoder"),
        "{error}"
    );
}

#[test]
fn templates_are_found_where_hugging_face_puts_them() {
    let source = |folder: &tempfile::TempDir| {
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        tokenizer
            .chat_template()
            .map(|template| template.source().to_owned())
    };
    assert_eq!(source(&folder_with(&[])), None);
    let string = ("tokenizer_config.json", json!({"chat_template": "one"}));
    assert_eq!(
        source(&folder_with(std::slice::from_ref(&string))).as_deref(),
        Some("one")
    );
    let list = json!([{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]);
    let list = ("tokenizer_config.json", json!({"chat_template": list}));
    assert_eq!(
        source(&folder_with(std::slice::from_ref(&list))).as_deref(),
        Some("b")
    );
    let file = ("chat_template.jinja", json!("three"));
    let folder = folder_with(&[string, file]);
    assert_eq!(source(&folder).as_deref(), Some("three"));

    // What is saved over it wins from then on, and what we do not know is kept.
    let folder = folder_with(&[list, ("chat_template.jinja", json!("old"))]);
    let tokenizer = Tokenizer::load(folder.path())
        .unwrap()
        .with_chat_template("new")
        .unwrap();
    tokenizer.save(folder.path()).unwrap();
    assert_eq!(source(&folder).as_deref(), Some("new"));
    trained().save(folder.path()).unwrap();
    assert_eq!(source(&folder).as_deref(), Some(DEFAULT_TEMPLATE));
}

#[test]
fn unknown_fields_of_the_configuration_survive() {
    let config = json!({"eos_token": "</s>", "model_max_length": 77, "tokenizer_class": "Own"});
    let folder = folder_with(&[("tokenizer_config.json", config)]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    tokenizer.save(copy.path()).unwrap();
    let saved = fs::read_to_string(copy.path().join("tokenizer_config.json")).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(
        (&saved["model_max_length"], &saved["tokenizer_class"]),
        (&json!(77), &json!("Own"))
    );
    assert_eq!(
        Tokenizer::load(copy.path()).unwrap().fingerprint(),
        tokenizer.fingerprint()
    );
}

#[test]
fn bad_files_are_named() {
    let missing = Tokenizer::load(Path::new("no/such/tokenizer.json")).unwrap_err();
    assert!(
        missing.to_string().contains("no/such/tokenizer.json"),
        "{missing}"
    );
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(empty.path()).unwrap_err();
    assert!(
        matches!(error, TokenizerError::NoTokenizer { .. }),
        "{error}"
    );

    let cases: [(&str, Value, &str); 5] = [
        (
            "tokenizer.json",
            json!("{\"version\": \"1.0\", \"model\":"),
            "tokenizer.json",
        ),
        ("tokenizer_config.json", json!("{"), "line 1"),
        (
            "tokenizer_config.json",
            json!({"eos_token": 3}),
            "\"eos_token\"",
        ),
        (
            "tokenizer_config.json",
            json!({"chat_template": 3}),
            "\"chat_template\"",
        ),
        (
            "generation_config.json",
            json!({"eos_token_id": "x"}),
            "\"eos_token_id\"",
        ),
    ];
    for (name, content, part) in cases {
        let folder = folder_with(&[(name, content)]);
        let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
    let blocked = tempfile::NamedTempFile::new().unwrap();
    let error = trained().save(blocked.path()).unwrap_err();
    assert!(matches!(error, TokenizerError::Write { .. }), "{error}");
}

#[test]
fn impossible_settings_are_refused() {
    let train = |settings: &TrainSettings, text: &str| {
        Tokenizer::train(std::iter::once(text.to_owned()), settings).unwrap_err()
    };
    let default = TrainSettings::default;
    let with = |special: &[&str]| TrainSettings {
        special_tokens: special.iter().map(|token| (*token).to_owned()).collect(),
        ..default()
    };
    let cases = [
        (
            TrainSettings {
                vocab_size: 261,
                ..default()
            },
            "vocab_size",
        ),
        (
            TrainSettings {
                byte_budget: 0,
                ..default()
            },
            "byte_budget",
        ),
        (
            TrainSettings {
                byte_budget: 1 << 31,
                ..default()
            },
            "byte_budget",
        ),
        (with(&["<|a|>", "<|a|>"]), "special_tokens"),
        (with(&["the"]), "special_tokens"),
        (with(&[""]), "special_tokens"),
    ];
    for (settings, field) in cases {
        let error = train(&settings, "some text");
        assert!(
            matches!(&error, TokenizerError::Setting { field: f, .. } if *f == field),
            "{error}"
        );
    }
    assert!(matches!(
        train(&default(), ""),
        TokenizerError::EmptyCorpus { documents: 1 }
    ));
    let unknown: Result<TrainSettings, _> = serde_json::from_str("{\"vocab_sise\": 3}");
    assert!(unknown.is_err());
    let digits: TrainSettings = serde_json::from_str("{\"split\": \"digits\"}").unwrap();
    assert_eq!(digits.split, Split::Digits);
}

#[test]
fn training_is_deterministic_and_samples_within_the_budget() {
    let documents: Vec<String> = (0..400)
        .map(|n| format!("Document {n} speaks of {} and of {}. ", n * n, n % 7).repeat(40))
        .collect();
    let settings = TrainSettings {
        vocab_size: 500,
        byte_budget: 200_000,
        ..TrainSettings::default()
    };
    let train = || Tokenizer::train(documents.clone().into_iter(), &settings).unwrap();
    let (first, report) = train();
    assert_eq!(report.documents_seen, 400);
    assert!(
        report.bytes_used <= 200_000 && report.bytes_used > 190_000,
        "{report}"
    );
    assert!(report.bytes_seen > 400_000 && report.to_string().contains("sampled evenly"));
    assert_eq!(train().0.fingerprint(), first.fingerprint());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    assert_eq!(pool.install(train).0.fingerprint(), first.fingerprint());
}

#[test]
fn a_model_that_is_no_bpe_loads_and_keeps_special_tokens_out_of_text() {
    let added = json!([
        {"id": 0, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
        {"id": 1, "content": "STOP", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true},
    ]);
    let words = json!({"[UNK]": 0, "STOP": 1, "the": 2, "S": 3, "TOP": 4});
    let tokenizer = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2,
            "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    });
    let tokenizer = support::load(&tokenizer, json!({}));
    // Whole words are looked up, so the model itself would find the special one.
    assert_eq!(
        tokenizer.encode("the STOP new the").unwrap(),
        [2, 3, 4, 0, 2]
    );
    assert_eq!(
        tokenizer.encode_with_special("the STOP new").unwrap(),
        [2, 1, 0]
    );
    assert_eq!(tokenizer.vocab_size(), 5);
}
