//! Search by beams from the command line, in `generate` and in `eval --task`.

use std::fs;
use std::path::Path;

use etude_model::{Beams, Prompt, TextGenerator, TextSettings, hf};
use etude_tensor::{Device, Kind};
use etude_tokenizer::Tokenizer;

use crate::support::{json, model, run_in, save_model, scratch, text, write, wrong};

const ASKED: [&str; 3] = ["--prompt", "A rose", "--json"];

fn generated(folder: &str, more: &[&str]) -> serde_json::Value {
    let own = ["generate", folder, "--max-tokens", "12"];
    json(&[&own[..], &ASKED, more].concat())
}

/// What the library finds.
fn found(beams: Beams) -> serde_json::Value {
    let loaded = hf::load(Path::new(model()), Kind::Float, Device::Cpu).unwrap();
    let words = Tokenizer::load(Path::new(model())).unwrap();
    let settings = TextSettings {
        max_tokens: 12,
        beams,
        ..TextSettings::default()
    };
    let generator = TextGenerator::new(&loaded.decoder, &words).unwrap();
    let made = generator
        .complete(&Prompt::Text("A rose".into()), &settings)
        .unwrap();
    serde_json::to_value(&made.ids).unwrap()
}

#[test]
fn generate_takes_the_text_that_the_library_finds() {
    for (width, length_penalty) in [(3, 1.0), (5, -0.5)] {
        let beams = Beams {
            width,
            length_penalty,
        };
        let options = [
            "--beams",
            &width.to_string(),
            "--length-penalty",
            &length_penalty.to_string(),
        ];
        assert_eq!(generated(model(), &options)["ids"], found(beams));
    }
    let greedy = generated(model(), &["--temperature", "0"]);
    assert_eq!(
        generated(model(), &["--beams", "1", "--temperature", "0"])["ids"],
        greedy["ids"]
    );
}

#[test]
fn a_folder_may_ask_for_a_search() {
    let folder = scratch("asks-for-beams");
    save_model(&folder);
    let path = folder.join("generation_config.json");
    fs::write(&path, r#"{"num_beams": 4, "length_penalty": 0.5}"#).unwrap();
    let folder = text(&folder);
    let four = found(Beams {
        width: 4,
        length_penalty: 0.5,
    });
    assert_eq!(generated(folder, &[])["ids"], four);
    let other = ["--beams", "3"];
    let three = found(Beams {
        width: 3,
        length_penalty: 0.5,
    });
    assert_eq!(generated(folder, &other)["ids"], three);
    let longer = found(Beams {
        width: 4,
        length_penalty: 2.0,
    });
    assert_eq!(generated(folder, &["--length-penalty", "2"])["ids"], longer);
    // What the command line says of sampling goes before.
    let greedy = ["--temperature", "0"];
    assert_eq!(
        generated(folder, &greedy)["ids"],
        generated(model(), &greedy)["ids"]
    );
    let one = ["generate", folder, "--beams", "1", "--max-tokens", "2"];
    let told = run_in(&scratch("."), &one, b"");
    assert!(!told.err.contains("num_beams"), "{}", told.err);
    wrong(
        &["generate", folder, "--length-penalty", "2", "--top-k", "5"],
        &["--top-k", "search by beams"],
    );
    let told = run_in(&scratch("."), &["chat", folder], b"Hello\n");
    assert_eq!(told.status, 0, "{}", told.err);
    assert!(told.err.contains("asks for num_beams"), "{}", told.err);
}

#[test]
fn answers_to_a_task_are_searched_for() {
    let lines: String = (0..6)
        .map(|n| format!("{{\"prompt\": \"A rose {n}\", \"completion\": \"is a rose\"}}\n"))
        .collect();
    let examples = write("beams.jsonl", lines);
    let told = |more: &[&str]| {
        let path = scratch("beams-predictions.jsonl");
        let own = [
            "eval",
            model(),
            "--task",
            &examples,
            "--data",
            &examples,
            "--max-tokens",
            "9",
        ];
        let told = json(&[&own[..], &["--json", "--predictions", text(&path)], more].concat());
        let answers: Vec<serde_json::Value> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (
            told["beams"]["width"].clone(),
            told["scores"]["bits_per_byte"].clone(),
            answers,
        )
    };
    let (greedy, searched) = (told(&[]), told(&["--beams", "6"]));
    assert_eq!((greedy.0, searched.0), (1.into(), 6.into()));
    assert_eq!(
        greedy.1, searched.1,
        "the right answers are as likely as before"
    );
    let differ =
        |(a, b): (&serde_json::Value, &serde_json::Value)| a["prediction"] != b["prediction"];
    assert!(greedy.2.iter().zip(&searched.2).any(differ));
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let refuse = |more: &[&str], words: &[&str]| {
        wrong(&[&["generate", model()][..], &ASKED, more].concat(), words);
    };
    refuse(&["--beams", "0"], &["beams.width = 0", "4 to 10"]);
    refuse(&["--beams", "400"], &["beams.width = 400", "to 256"]);
    refuse(
        &["--beams", "4", "--temperature", "0.7"],
        &["temperature 0"],
    );
    refuse(&["--beams", "4", "--top-k", "5"], &["--top-k", "--beams"]);
    refuse(
        &["--length-penalty", "2"],
        &["--length-penalty", "--beams 4"],
    );
    refuse(
        &["--beams", "2", "--length-penalty", "inf"],
        &["length_penalty = inf"],
    );
    let file = write("beams-text.txt", "A rose is a rose.");
    wrong(
        &["eval", model(), "--task", &file, "--length-penalty", "2"],
        &["--length-penalty", "--beams 4"],
    );
    wrong(
        &["eval", model(), "--text", &file, "--beams", "4"],
        &["--beams", "--task"],
    );
}
