//! Certificates and references: what is whole passes, and what was changed is found and named.
//!
//! The golden is a tiny random Llama with the reference that Transformers made of it
//! (scripts/goldens/reference.py).

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use std::fs;
use std::path::{Path, PathBuf};

use etude_model::certificate::{
    self, CERTIFICATE, Certificate, Check, Outcome, REFERENCE, Reference, Subject,
};
use etude_model::gguf::{self, ExportFormat};
use etude_model::hf;
use etude_model::{Decoder, Prompt};
use etude_tensor::{Kind, no_grad};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/reference")
}

/// A copy of the golden's model with a certificate.
fn certified(folder: &Path) -> Certificate {
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != REFERENCE {
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    let certificate = certificate::certify(folder, &[], None).unwrap();
    certificate.write(&folder.join(CERTIFICATE)).unwrap();
    certificate
}

fn recheck(folder: &Path) -> Vec<Check> {
    certificate::recheck(folder, || Subject::load(folder))
        .unwrap()
        .1
}

/// The failed checks, as `what: detail`.
fn failures(checks: &[Check]) -> Vec<String> {
    let failed = checks.iter().filter(|check| check.has_failed());
    failed
        .map(|check| format!("{}: {}", check.what, check.detail))
        .collect()
}

#[track_caller]
fn fails_with(checks: &[Check], what: &str, detail: &str) {
    let failed = failures(checks);
    let named = |each: &String| each.starts_with(&format!("{what}: ")) && each.contains(detail);
    assert!(
        failed.iter().any(named),
        "no {what} with `{detail}` in {failed:#?}"
    );
}

/// Loads a decoder, lets `change` at it, and saves it in place.
fn with_weights(folder: &Path, change: impl FnOnce(&Decoder)) {
    let loaded = hf::load(folder, Kind::Float, etude_tensor::Device::Cpu).unwrap();
    no_grad(|| change(&loaded.decoder));
    hf::save(&loaded.decoder, &loaded.ids, folder).unwrap();
}

fn reference(edit: impl FnOnce(&mut serde_json::Value)) -> Result<Reference, hf::FolderError> {
    let text = fs::read_to_string(golden().join(REFERENCE)).unwrap();
    let mut json = serde_json::from_str(&text).unwrap();
    edit(&mut json);
    Reference::from_text(&json.to_string(), Path::new(REFERENCE))
}

#[test]
fn a_folder_is_found_as_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certified(folder.path());
    assert_eq!(failures(&certificate.checks), [""; 0]);
    assert_eq!(certificate.reference, None);
    assert_eq!(certificate.transcripts.len(), 3);
    assert!(matches!(
        certificate.transcripts[0].prompt,
        Prompt::Messages(_)
    ));
    for each in &certificate.transcripts {
        assert!(!each.ids.is_empty() && each.ids.len() == each.logprobs.len());
        assert!(each.logprobs.iter().all(|&logprob| logprob < 0.0));
    }
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    ] {
        assert_eq!(certificate.files[name].sha256.len(), 64, "{name}");
    }
    assert_eq!(Certificate::load(folder.path()).unwrap(), Some(certificate));

    let checks = recheck(folder.path());
    assert_eq!(failures(&checks), [""; 0]);
    let transcripts = checks
        .iter()
        .find(|check| check.what == "transcripts")
        .unwrap();
    assert!(transcripts.largest.unwrap() < 1e-5, "{transcripts:?}");

    fs::remove_file(folder.path().join(CERTIFICATE)).unwrap();
    let checks = recheck(folder.path());
    assert_eq!(checks.last().unwrap().outcome, Outcome::Noted);
}

#[test]
fn what_was_changed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    certified(folder);
    let whole = |name: &str| fs::read(golden().join(name)).unwrap();
    let edit = |name: &str, from: &str, to: &str| {
        let text = String::from_utf8(whole(name)).unwrap();
        assert!(text.contains(from));
        fs::write(folder.join(name), text.replace(from, to)).unwrap();
    };

    // One weight.
    let mut bytes = whole("model.safetensors");
    let middle = bytes.len() - 2;
    bytes[middle] ^= 0x40;
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
    fails_with(&recheck(folder), "files", "model.safetensors is not");
    fs::write(folder.join("model.safetensors"), whole("model.safetensors")).unwrap();
    with_weights(folder, |decoder| {
        let norm = decoder.params().get("norm.weight").unwrap();
        let _ = norm.narrow(0, 3, 1).fill_(7.0);
    });
    fails_with(&recheck(folder), "transcripts", "transcript 1");
    for name in ["config.json", "generation_config.json"] {
        fs::write(folder.join(name), whole(name)).unwrap();
    }
    fs::write(folder.join("model.safetensors"), whole("model.safetensors")).unwrap();

    edit("chat_template.jinja", "assistant", "bot");
    let checks = recheck(folder);
    fails_with(&checks, "files", "chat_template.jinja is not");
    fails_with(&checks, "tokens of the transcripts", "chat template");
    edit(
        "chat_template.jinja",
        "{% if",
        "{{ raise_exception('no') }}{% if",
    );
    fails_with(&recheck(folder), "template", "user's turn");
    fs::write(
        folder.join("chat_template.jinja"),
        whole("chat_template.jinja"),
    )
    .unwrap();

    // Two tokens exchanged: the same size, other texts.
    edit("tokenizer.json", "\"A\":", "\"swap\":");
    let text = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let text = text
        .replace("\"a\":", "\"A\":")
        .replace("\"swap\":", "\"a\":");
    fs::write(folder.join("tokenizer.json"), text).unwrap();
    let checks = recheck(folder);
    fails_with(&checks, "files", "tokenizer.json is not");
    fails_with(&checks, "tokens of the transcripts", "tokenizer");
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    fails_with(&recheck(folder), "files", "tokenizer.json is missing");
    fs::write(folder.join("tokenizer.json"), whole("tokenizer.json")).unwrap();

    // A file that is read where it lies is no less a change than an edited one.
    fs::write(folder.join("adapter_model.safetensors"), "").unwrap();
    fails_with(
        &recheck(folder),
        "files",
        "adapter_model.safetensors was added",
    );
    fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();

    // What cannot be loaded is refused with the file that was changed.
    fs::write(folder.join("config.json"), "{}").unwrap();
    let refused = certificate::recheck(folder, || Subject::load(folder)).unwrap_err();
    assert!(
        format!("{refused:#}").contains("config.json is not the file"),
        "{refused:#}"
    );
    fs::write(folder.join("config.json"), whole("config.json")).unwrap();
    assert_eq!(failures(&recheck(folder)), [""; 0]);
}

#[test]
fn a_certificate_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let certificate = certified(folder);
    let check = |change: &dyn Fn(&mut Certificate)| {
        let mut changed = certificate.clone();
        change(&mut changed);
        changed.write(&folder.join(CERTIFICATE)).unwrap();
        recheck(folder)
    };
    fails_with(
        &check(&|it| it.transcripts[0].ids[1] = 4_000_000),
        "transcripts",
        "no token",
    );
    fails_with(
        &check(&|it| *it.transcripts[1].ids.last_mut().unwrap() = 320),
        "transcripts",
        "no such token",
    );
    fails_with(
        &check(&|it| it.transcripts[1].prompt_ids.clear()),
        "transcripts",
        "damaged",
    );
    fails_with(
        &check(&|it| it.transcripts[1].prompt_ids = vec![3; 9999]),
        "transcripts",
        "10022",
    );
    fails_with(
        &check(&|it| it.transcripts[0].ids[1] ^= 1),
        "transcripts",
        "from token 2",
    );
    fails_with(
        &check(&|it| it.transcripts[0].logprobs[2] += 0.1),
        "transcripts",
        "probabilities",
    );
    let outside = |it: &mut Certificate| {
        let record = it.files["config.json"].clone();
        it.files.insert("../config.json".to_owned(), record);
    };
    fails_with(&check(&outside), "files", "../config.json is missing");

    for (text, named) in [
        ("{}", "`format`"),
        ("{", "JSON"),
        ("{\"format\": 2}", "later version"),
    ] {
        fs::write(folder.join(CERTIFICATE), text).unwrap();
        let refused = Certificate::load(folder).unwrap_err().to_string();
        assert!(
            refused.contains(CERTIFICATE) && refused.contains(named),
            "{refused}"
        );
    }
}

#[test]
fn transformers_own_reference_agrees() {
    let subject = Subject::load(&golden()).unwrap();
    let checks = Reference::load(&golden().join(REFERENCE))
        .unwrap()
        .check(&subject);
    assert_eq!(failures(&checks), [""; 0]);
    assert_eq!(checks.len(), 5);
    let logits = checks
        .iter()
        .find(|check| check.what == "reference: logits")
        .unwrap();
    assert!(logits.largest.unwrap() < 2e-5, "{logits:?}");
    let certificate =
        certificate::certify(&golden(), &[], Some(&reference(|_| {}).unwrap())).unwrap();
    assert!(certificate.reference.unwrap().starts_with("transformers "));
}

#[test]
fn a_wrong_reference_is_found() {
    let subject = Subject::load(&golden()).unwrap();
    let check = |edit: &dyn Fn(&mut serde_json::Value)| reference(edit).unwrap().check(&subject);
    let other = check(&|it| it["config"]["hidden_size"] = 576.into());
    assert_eq!(other.len(), 1, "nothing else is said of another model");
    fails_with(
        &other,
        "reference: sizes",
        "hidden_size is 576 there and 16 here",
    );
    fails_with(
        &check(&|it| it["tokenizer"][2]["ids"][0] = 5.into()),
        "reference: tokenizer",
        "two spaces",
    );
    fails_with(
        &check(&|it| it["template"][1]["text"] = "x".into()),
        "reference: template",
        "conversation 2",
    );
    fails_with(
        &check(&|it| it["template"][1]["ids"][0] = 5.into()),
        "reference: template",
        "tokens",
    );
    let place = |it: &mut serde_json::Value| it["logits"][1]["positions"][0].take();
    let nudged = |it: &mut serde_json::Value| {
        let mut changed = place(it);
        changed["logsumexp"] = (changed["logsumexp"].as_f64().unwrap() + 0.01).into();
        it["logits"][1]["positions"][0] = changed;
    };
    fails_with(
        &check(&nudged),
        "reference: logits",
        "differ by 1.0e-2 (prompt 2",
    );
    fails_with(
        &check(&|it| it["logits"][0]["positions"][0]["position"] = 77.into()),
        "reference: logits",
        "not there",
    );
    fails_with(
        &check(&|it| it["logits"][0]["positions"][0]["top"][0][0] = 320.into()),
        "reference: logits",
        "not there",
    );
    fails_with(
        &check(&|it| it["logits"][0]["ids"][0] = 320.into()),
        "reference: logits",
        "no token 320",
    );
    fails_with(
        &check(&|it| it["greedy"][3]["ids"][4] = 5.into()),
        "reference: greedy",
        "prompt 4: token 5",
    );
    fails_with(
        &check(&|it| it["greedy"][0]["prompt"] = serde_json::json!([])),
        "reference: greedy",
        "empty",
    );

    let refuse = |edit: &dyn Fn(&mut serde_json::Value)| reference(edit).unwrap_err().to_string();
    assert!(refuse(&|it| it["logits"] = serde_json::json!([])).contains("`logits` is empty"));
    assert!(refuse(&|it| it["format"] = 3.into()).contains("`format`"));
    let blind = |it: &mut serde_json::Value| {
        it["logits"][0]["positions"][0]["top"] = serde_json::json!([]);
    };
    assert!(refuse(&blind).contains("`logits` is empty"));
    for field in ["logits", "near_tie"] {
        let refused = refuse(&|it| it["tolerance"][field] = 1e300.into());
        assert!(refused.contains(field), "{refused}");
    }
    assert!(refuse(&|it| it["gready"] = 3.into()).contains("gready"));
}

#[test]
fn a_near_tie_is_called_one() {
    let subject = Subject::load(&golden()).unwrap();
    // Some token is nearly as likely as the one that the golden has.
    let tied = (0..subject.decoder.config().vocab_size).find_map(|token| {
        let loose = reference(|it| {
            it["tolerance"]["near_tie"] = 1.0.into();
            it["greedy"][3]["ids"][4] = token.into();
        });
        let [.., greedy] = &loose.unwrap().check(&subject)[..] else {
            panic!("a check of what is greedy")
        };
        (greedy.outcome == Outcome::NearTie).then(|| greedy.detail.clone())
    });
    let detail = tied.expect("one of all tokens");
    assert!(detail.contains("prompt 4"), "{detail}");
}

#[test]
fn a_gguf_file_has_its_certificate_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let before = certificate::certify(&golden(), &[], None)
        .unwrap()
        .transcripts;
    for (format, name) in [
        (ExportFormat::F32, "f32.gguf"),
        (ExportFormat::Q8_0, "q8.gguf"),
    ] {
        let path = folder.path().join(name);
        let Subject {
            decoder,
            ids,
            tokenizer,
            ..
        } = Subject::load(&golden()).unwrap();
        gguf::export(&decoder, &ids, &tokenizer.unwrap(), &path, format).unwrap();
        let certificate = certificate::certify_gguf(&path, name, &before).unwrap();
        certificate.write(&certificate::beside(&path)).unwrap();
        let note = certificate.checks.last().unwrap();
        assert_eq!(note.outcome, Outcome::Noted);
        if format == ExportFormat::F32 {
            assert!(note.detail.starts_with("3 of 3"), "{}", note.detail);
        }
        let (_, checks) = certificate::recheck_gguf(&path).unwrap();
        assert_eq!(failures(&checks), [""; 0]);
        let renamed = folder.path().join("renamed.gguf");
        fs::copy(&path, &renamed).unwrap();
        certificate.write(&certificate::beside(&renamed)).unwrap();
        let (_, checks) = certificate::recheck_gguf(&renamed).unwrap();
        assert_eq!(failures(&checks), [""; 0]);

        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.len() - 40;
        bytes[place] ^= 0x30;
        fs::write(&path, bytes).unwrap();
        fails_with(&certificate::recheck_gguf(&path).unwrap().1, "files", name);
    }
}
