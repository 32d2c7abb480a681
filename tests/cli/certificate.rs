//! Certificates: an import compared with what Transformers makes of the model, transcripts that go with what is
//! exported, and a doctor who finds what was changed since.

use std::fs;
use std::path::{Path, PathBuf};

use etude_tokenizer::{Tokenizer, TrainSettings};
use serde_json::Value;

use crate::support::{good, json, model, run, scratch, text, write, wrong};

/// A tiny model with the reference that Transformers made of it.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/goldens/reference")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// What the doctor says of a model that has a fault: status 1, and each of `expected`.
#[track_caller]
fn faulty(given: &Path, expected: &[&str]) {
    let done = run(&["doctor", text(given)]);
    assert_eq!(done.status, 1, "{}{}", done.out, done.err);
    for text in expected.iter().chain(&["FAILED"]) {
        assert!(done.out.contains(text), "no `{text}` in: {}", done.out);
    }
    let told = run(&["doctor", text(given), "--json"]);
    let told: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(told["whole"], false);
}

#[test]
fn an_import_is_compared_with_a_reference() {
    let source = golden();
    let folder = scratch("with-reference");
    let told = json(&["import", text(&source), text(&folder), "--json"]);
    assert!(
        told["reference"]
            .as_str()
            .unwrap()
            .starts_with("transformers")
    );
    assert!(
        told["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["outcome"] == "passed")
    );
    let certificate = read(&folder.join("certificate.json"));
    assert_eq!(certificate["reference"], told["reference"]);
    assert!(certificate["files"]["model.safetensors"]["sha256"].is_string());
    let seen = good(&["doctor", text(&folder)]);
    for expected in [
        "reference: logits",
        "reference: greedy",
        "transcripts",
        "The folder is whole",
    ] {
        assert!(seen.contains(expected), "{seen}");
    }

    // Rounded numbers are not those of the reference: they were compared before.
    let half = scratch("rounded");
    let told = good(&["import", text(&source), text(&half), "--dtype", "bfloat16"]);
    assert!(told.contains("before rounding"), "{told}");
    assert!(!half.join("reference.json").exists());
    good(&["doctor", text(&half)]);

    let without = scratch("without-reference");
    let told = good(&["import", model(), text(&without)]);
    assert!(told.contains("nothing external was verified"), "{told}");
    assert_eq!(
        read(&without.join("certificate.json"))["reference"],
        Value::Null
    );
    good(&["doctor", text(&without)]);
}

#[test]
fn an_import_that_disagrees_leaves_nothing_behind() {
    let source = golden();
    let mut reference = read(&source.join("reference.json"));
    let sum = &mut reference["logits"][0]["positions"][1]["logsumexp"];
    *sum = (sum.as_f64().unwrap() + 0.5).into();
    let other = write("other-reference.json", reference.to_string());
    let out = scratch("disagrees");
    let command = ["import", text(&source), text(&out), "--reference", &other];
    wrong(
        &command,
        &[
            "reference: logits",
            "5.0e-1",
            "transformers",
            "--allow-mismatch",
        ],
    );
    assert!(!out.exists());
    let beside = fs::read_dir(out.parent().unwrap()).unwrap().flatten();
    let mut left = beside.filter(|one| one.file_name().to_string_lossy().contains("disagrees.unf"));
    assert!(left.next().is_none());

    let told = good(&[&command[..], &["--allow-mismatch"]].concat());
    assert!(told.contains("FAILED"), "{told}");
    faulty(&out, &["reference: logits"]);

    let of_another = text(&source.join("reference.json")).to_owned();
    let out = scratch("of-another");
    wrong(
        &["import", model(), text(&out), "--reference", &of_another],
        &["another model", "intermediate_size is 24 there and 32 here"],
    );
    let torn = write("torn-reference.json", "{\"format\": 1, \"made_by\":");
    wrong(
        &["import", model(), text(&out), "--reference", &torn],
        &["torn-reference.json", "JSON"],
    );
    assert!(!out.exists());
}

#[test]
fn the_doctor_names_what_was_changed() {
    let folder = scratch("to-be-changed");
    good(&["import", model(), text(&folder)]);
    let file = |name: &str| folder.join(name);
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>), expected: &[&str]| {
        let whole = fs::read(file(name)).unwrap();
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(file(name), bytes).unwrap();
        faulty(&folder, expected);
        fs::write(file(name), whole).unwrap();
    };
    let flip = |bytes: &mut Vec<u8>| {
        let place = bytes.len() - 6;
        bytes[place] ^= 0x10;
    };
    changed(
        "model.safetensors",
        &flip,
        &["files", "model.safetensors is not the file"],
    );
    let edit = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains("assistant"));
        *bytes = text.replace("assistant", "bot").into_bytes();
    };
    changed(
        "tokenizer_config.json",
        &edit,
        &["tokenizer_config.json is not", "chat template"],
    );
    let exchange = |bytes: &mut Vec<u8>| {
        let settings = TrainSettings {
            vocab_size: 320,
            ..TrainSettings::default()
        };
        let words = "Quite other words, with other pairs in them. ".repeat(90);
        let (other, _) = Tokenizer::train([words].into_iter(), &settings).unwrap();
        *bytes = other.to_json().into_bytes();
    };
    changed(
        "tokenizer.json",
        &exchange,
        &["tokenizer.json is not", "other tokens"],
    );
    assert!(good(&["doctor", text(&folder)]).contains("The folder is whole"));

    // What cannot even be loaded is refused with the file that was changed.
    fs::write(file("config.json"), "{}").unwrap();
    wrong(&["doctor", text(&folder)], &["config.json is not the file"]);
}

#[test]
fn transcripts_go_with_what_is_exported() {
    let folder = scratch("exported-with");
    good(&["export", model(), text(&folder), "--max-shard", "20kB"]);
    let certificate = read(&folder.join("certificate.json"));
    assert!(certificate["files"]["model.safetensors.index.json"].is_object());
    assert!(
        !certificate["transcripts"][0]["ids"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    good(&["doctor", text(&folder)]);

    for format in ["f32", "q8_0"] {
        let file = scratch(&format!("with-{format}.gguf"));
        good(&["export", text(&folder), text(&file), "--format", format]);
        let beside = read(&scratch(&format!("with-{format}.gguf.certificate.json")));
        let prompts = |it: &Value| it["transcripts"].as_array().unwrap().len();
        assert_eq!(prompts(&beside), prompts(&certificate));
        let checks = beside["checks"].as_array().unwrap();
        let note = checks.last().unwrap()["detail"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(format != "f32" || note.starts_with("3 of 3"), "{note}");
        let seen = good(&["doctor", text(&file)]);
        assert!(seen.contains("The file is whole"), "{seen}");

        let mut bytes = fs::read(&file).unwrap();
        let place = bytes.len() - 50;
        bytes[place] ^= 0x10;
        fs::write(&file, bytes).unwrap();
        faulty(
            &file,
            &["files", &format!("with-{format}.gguf is not the file")],
        );
    }
}
