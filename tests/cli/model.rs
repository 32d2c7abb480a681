//! The commands that take a model and make no text: eval, export, doctor MODEL.

use std::fs;
use std::path::Path;

use etude_tokenizer::Tokenizer;

use crate::support::{
    corpus, good, json, keys, model, run, save_model, scratch, text, tokenizer, write, wrong,
};

#[test]
fn a_text_is_scored_as_the_contract_says() {
    let file = write("held-out.txt", &corpus()[..2000]);
    let told = json(&["eval", model(), "--text", &file, "--json"]);
    assert_eq!(
        keys(&told),
        ["bits_per_byte", "nll", "perplexity", "tokens"]
    );
    let words = Tokenizer::load(Path::new(tokenizer())).unwrap();
    let count = words.encode(&corpus()[..2000]).unwrap().len();
    let windows = count.div_ceil(96);
    assert_eq!(
        told["tokens"],
        count - windows,
        "the first token of each window is not scored"
    );
    let nll = told["nll"].as_f64().unwrap();
    assert!((told["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-9 * nll.exp());
    let all = json(&[
        "eval",
        model(),
        "--text",
        &file,
        "--context",
        "64",
        "--stride",
        "32",
        "--json",
    ]);
    assert_eq!(
        all["tokens"],
        count - 1,
        "overlapping windows score all but the text's first"
    );
    assert!(good(&["eval", model(), "--text", &file]).contains("bits per byte"));

    wrong(
        &["eval", model(), "--text", &file, "--context", "97"],
        &["context = 97", "96"],
    );
    wrong(
        &[
            "eval",
            model(),
            "--text",
            &file,
            "--context",
            "8",
            "--stride",
            "9",
        ],
        &["stride = 9"],
    );
    wrong(
        &["eval", model(), "--text", &write("empty.txt", "")],
        &["nothing to score"],
    );
    wrong(
        &["eval", model(), "--text", "no-such.txt"],
        &["no-such.txt"],
    );
    wrong(
        &["eval", model(), "--text", &write("bad-utf8.txt", b"\xff")],
        &["bad-utf8.txt:1", "UTF-8"],
    );
    wrong(&["eval", model()], &["--text", "--task"]);
}

#[test]
fn solved_examples_come_before_the_questions_of_a_task() {
    let lines: String = (0..60)
        .map(|index| format!("{{\"prompt\": \"Say {index}.\", \"completion\": \"A {index}.\"}}\n"))
        .collect();
    let file = write("few-shot.jsonl", lines);
    let predictions = scratch("few-shot-answers.jsonl");
    let base = ["eval", model(), "--task", &file, "--max-tokens", "4"];
    let base = [
        &base[..],
        &[
            "--predictions",
            text(&predictions),
            "--metric",
            "bits_per_byte",
        ],
    ]
    .concat();
    let bits = |count: &str| {
        let told = json(&[&base[..], &["--num-fewshot", count, "--json"]].concat());
        told["scores"]["bits_per_byte"]["value"].as_f64().unwrap()
    };
    let alone = bits("0");
    assert!(
        (bits("2") - alone).abs() > 1e-3,
        "nothing came before: {alone}"
    );
    // One question for all: with its answer before it, it would be no question.
    let same: String = (0..60)
        .map(|index| {
            format!("{{\"prompt\": \"Say it.\", \"completion\": \"A\", \"key\": \"{index}\"}}\n")
        })
        .collect();
    let same = write("few-shot-same.jsonl", same);
    let like = write(
        "few-shot-same.toml",
        format!(
            "[base]\npath = \"{}\"\n[task]\nsource = \"{same}\"\nlocal = {{ key = \"{{key}}\", test = 20 }}\n[train]\nsteps = 1\n",
            model()
        ),
    );
    let asked = [
        "eval",
        model(),
        "--task",
        &same,
        "--like",
        &like,
        "--num-fewshot",
        "1",
    ];
    wrong(&asked, &["0 solved examples to choose from"]);
    let refused = "the training split";
    wrong(
        &[&base[..], &["--num-fewshot", "2", "--data", &file]].concat(),
        &[refused],
    );
    wrong(
        &[&base[..], &["--num-fewshot", "2", "--split", "train"]].concat(),
        &[refused],
    );
    wrong(
        &[&base[..], &["--num-fewshot", "999"]].concat(),
        &["solved examples to choose from", "ask for fewer"],
    );
}

#[test]
fn a_task_is_scored_as_the_contract_says() {
    let lines: String = (0..30)
        .map(|index| {
            format!("{{\"prompt\": \"Say {index}.\", \"completion\": \"The number {index}.\"}}\n")
        })
        .collect();
    let file = write("task.jsonl", lines);
    let predictions = scratch("answers.jsonl");
    let base = [
        "eval",
        model(),
        "--task",
        &file,
        "--max-tokens",
        "4",
        "--predictions",
        text(&predictions),
    ];
    let told = json(&[&base[..], &["--data", &file, "--limit", "7", "--json"]].concat());
    assert_eq!(
        keys(&told),
        [
            "beams",
            "left_out",
            "n",
            "num_fewshot",
            "predictions",
            "scores",
            "task"
        ]
    );
    assert_eq!(told["num_fewshot"], 0);
    assert_eq!(told["left_out"], serde_json::json!({}));
    assert_eq!(told["n"], 7);
    assert_eq!(keys(&told["scores"]["rouge_l"]), ["high", "low", "value"]);
    let answers = fs::read_to_string(told["predictions"].as_str().unwrap()).unwrap();
    assert_eq!(answers.lines().count(), 7);
    assert!(answers.contains("\"reference\":\"The number "));
    let only = json(
        &[
            &base[..],
            &["--split", "train", "--metric", "exact_match", "--json"],
        ]
        .concat(),
    );
    assert_eq!(keys(&only["scores"]), ["exact_match"]);
    assert!(
        good(&[&base[..], &["--data", &file, "--limit", "3"]].concat()).contains("95% INTERVAL")
    );

    let twice = [&base[..], &["--data", &file, "--against", model()]].concat();
    let told = json(&[&twice[..], &["--json"]].concat());
    assert_eq!(
        keys(&told["against"]),
        ["differences", "left_out", "model", "n", "scores"]
    );
    assert_eq!(told["against"]["n"], 30);
    assert_eq!(told["against"]["scores"], told["scores"]);
    let difference = &told["against"]["differences"]["rouge_l"];
    assert_eq!(difference["value"], 0.0);
    assert_eq!(difference["p"], 1.0, "a model is no better than itself");
    assert!(good(&twice).contains("DIFFERENCE"));
    wrong(
        &[&base[..], &["--against", "no-such-model"]].concat(),
        &["no-such-model", "there is no such folder"],
    );

    wrong(
        &["eval", model(), "--task", "wiki-descriptoin"],
        &["did you mean `wiki-description`"],
    );
    wrong(
        &["eval", model(), "--task", &file, "--metric", "rogue_l"],
        &["rogue_l", "rouge_l"],
    );
    wrong(
        &[
            "eval",
            model(),
            "--task",
            "wiki-leads",
            "--data",
            &write("t.txt", "x"),
        ],
        &["t.txt"],
    );
    let bad = write(
        "bad-task.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}\n",
    );
    wrong(
        &["eval", model(), "--task", &bad, "--data", &bad],
        &["bad-task.jsonl:2", "completion"],
    );
}

#[test]
fn an_export_is_a_model_folder_of_its_own() {
    let run = scratch("a-run");
    save_model(&run.join("model"));
    let out = scratch("exported");
    let told = json(&[
        "export",
        text(&run),
        text(&out),
        "--max-shard",
        "20kB",
        "--json",
    ]);
    assert_eq!(keys(&told), ["bytes", "files", "folder"]);
    let files: Vec<&str> = told["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file.as_str().unwrap())
        .collect();
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
    ] {
        assert!(files.contains(&file), "{files:?}");
    }
    let prompt = [
        "--prompt",
        "A rose",
        "--temperature",
        "0",
        "--max-tokens",
        "6",
        "--json",
    ];
    let ids = |folder: &str| json(&[&["generate", folder], &prompt[..]].concat())["ids"].clone();
    assert_eq!(ids(text(&out)), ids(text(&run)));

    wrong(
        &["export", text(&run), text(&out)],
        &["exported", "not empty"],
    );
    wrong(
        &[
            "export",
            text(&run),
            text(&scratch("more")),
            "--max-shard",
            "much",
        ],
        &["much", "500MB"],
    );
    wrong(
        &["export", "no-such-run", text(&scratch("more"))],
        &["no-such-run", "no such folder"],
    );
    assert!(!scratch("more").exists());
    let half = scratch("half");
    good(&["export", text(&run), text(&half), "--dtype", "bfloat16"]);
    let size = |folder: &Path| {
        fs::metadata(folder.join("model.safetensors"))
            .unwrap()
            .len()
    };
    assert!(size(&half) < size(&run.join("model")) * 2 / 3);
}

#[test]
fn the_doctor_finds_what_is_wrong_with_a_folder() {
    let told = json(&["doctor", model(), "--json"]);
    assert_eq!(told["family"], "llama");
    assert_eq!(told["chat_template"], true);
    assert!(told["parameters"].as_u64().unwrap() > 10_000);
    assert!(good(&["doctor", model()]).contains("The folder is whole"));

    wrong(
        &["doctor", "no-such-model"],
        &["no-such-model", "no such folder"],
    );
    let folder = scratch("cut-weights");
    save_model(&folder);
    let weights = folder.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    wrong(
        &["doctor", text(&folder)],
        &["model.safetensors", "not a whole"],
    );
    fs::remove_file(&weights).unwrap();
    wrong(
        &["generate", text(&folder), "--prompt", "x"],
        &["model.safetensors"],
    );
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    wrong(&["doctor", text(&folder)], &["no tokenizer.json"]);
    fs::write(folder.join("config.json"), "{").unwrap();
    wrong(&["doctor", text(&folder)], &["config.json", "JSON"]);
}

#[test]
fn a_tokenizer_that_is_not_the_models_is_refused() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/goldens/nanochat");
    let folder = scratch("foreign");
    fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(file), folder.join(file)).unwrap();
    }
    fs::copy(
        Path::new(tokenizer()).join("tokenizer.json"),
        folder.join("tokenizer.json"),
    )
    .unwrap();
    for command in [
        &["doctor", text(&folder)][..],
        &["generate", text(&folder), "--prompt", "x"],
    ] {
        wrong(
            command,
            &["its tokenizer has 320 tokens, its model knows 96"],
        );
    }
}

#[test]
fn a_folder_without_a_model_says_where_one_is() {
    let quickstart = scratch("quick");
    save_model(&quickstart.join("base/model"));
    wrong(
        &["generate", text(&quickstart), "--prompt", "x"],
        &["holds no model", "quick/base"],
    );
    let stopped = scratch("stopped");
    fs::create_dir_all(stopped.join("checkpoints")).unwrap();
    save_model(&stopped.join("checkpoints/step-00000007"));
    wrong(&["chat", text(&stopped)], &["step-00000007"]);
    good(&["doctor", text(&stopped.join("checkpoints/step-00000007"))]);
    let file = Path::new(model()).join("config.json");
    wrong(&["doctor", text(&file)], &["is a file", "give the folder"]);
    assert_eq!(run(&["chat"]).status, 2);
}
