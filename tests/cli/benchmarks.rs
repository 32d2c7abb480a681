//! `etude eval --tasks` and `--next`: what they print and write, and what they say to mistakes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{good, json, keys, model, save_model, scratch, text, write, wrong};

const TASK: &str = "name = \"flowers\"\nkind = \"multiple-choice\"\ndata = \"flowers.jsonl\"\n\
                    context = \"{{ question }}\"\nchoices = \"{{ options }}\"\nanswer = \"{{ answer }}\"\n";

/// A task file with its records.
fn task(folder: &str) -> String {
    let lines: String = (0..9)
        .map(|index| {
            let options = "[\"a rose\", \"a river\", \"the dog\"]";
            let answer = index % 3;
            format!("{{\"question\": \"Number {index} is\", \"options\": {options}, \"answer\": {answer}}}\n")
        })
        .collect();
    write(&format!("{folder}/flowers.jsonl"), lines);
    write(&format!("{folder}/flowers.toml"), TASK)
}

fn only(folder: &Path, start: &str) -> String {
    let named = |path: &std::path::PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(start))
    };
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(named)
        .collect();
    assert_eq!(found.len(), 1, "{start}: {found:?}");
    fs::read_to_string(found.remove(0)).unwrap()
}

#[test]
fn benchmarks_print_and_write_what_readers_of_lm_eval_know() {
    let file = task("benchmarks/one");
    let out = scratch("benchmarks/out");
    let tasks = format!("grammar,{file}");
    let asked = ["eval", model(), "--tasks", &tasks, "--limit", "6"];
    let told = json(&[&asked[..], &["--output", text(&out), "--json"]].concat());
    assert_eq!(
        keys(&told["results"]),
        [
            "flowers",
            "grammar",
            "grammar_agreement",
            "grammar_negation",
            "grammar_word_order"
        ]
    );
    let flowers = &told["results"]["flowers"];
    assert_eq!(
        keys(flowers),
        [
            "acc,none",
            "acc_norm,none",
            "acc_norm_stderr,none",
            "acc_stderr,none",
            "alias"
        ]
    );
    assert_eq!(told["n-samples"]["flowers"]["original"], 9);
    assert_eq!(told["n-samples"]["flowers"]["effective"], 6);
    assert_eq!(told["chance"]["grammar"], 0.5);
    assert_eq!(told["files"].as_array().unwrap().len(), 3);
    let written: Value = serde_json::from_str(&only(&out, "results_")).unwrap();
    assert_eq!(written["results"], told["results"]);
    let lines = only(&out, "samples_flowers_");
    assert_eq!(lines.lines().count(), 6);
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(line["arguments"]["gen_args_0"]["arg_1"], " a rose");

    let table = good(&asked);
    assert!(table.starts_with("|Tasks"), "{table}");
    for cell in [
        "95% interval",
        " - agreement",
        "acc_norm",
        "0.5000",
        "6 of 9 records",
    ] {
        assert!(table.contains(cell), "no {cell}: {table}");
    }
    let shots = json(&[
        "eval",
        model(),
        "--tasks",
        &file,
        "--num-fewshot",
        "1",
        "--json",
    ]);
    assert_eq!(shots["n-shot"]["flowers"], 1);
}

#[test]
fn a_runs_checkpoints_are_rows() {
    let run = scratch("benchmarks/run");
    for step in ["step-00000005", "step-00000010"] {
        save_model(&run.join("checkpoints").join(step));
    }
    let asked = [
        "eval",
        text(&run),
        "--tasks",
        "grammar",
        "--limit",
        "9",
        "--checkpoints",
    ];
    let table = good(&asked);
    let first: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(first, ["step", "chance", "5", "10"], "{table}");
    let told_of = json(&[&asked[..], &["--json"]].concat());
    assert_eq!(told_of["checkpoints"][1]["step"], 10);
    assert!(told_of["checkpoints"][1]["results"]["grammar"]["acc,none"].is_number());
    let asked = ["eval", text(&run), "--next", "A rose is", "--checkpoints"];
    assert_eq!(good(&asked).lines().count(), 3);
    let told = json(&[&asked[..], &["--json"]].concat());
    assert_eq!(
        told["checkpoints"][0]["next"][0]["tokens"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    // Both are kept for the report.
    let kept = std::fs::read(run.join("probes.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    let grammar = &kept["scores"]["grammar"];
    assert_eq!(
        (&grammar["metric"], &grammar["chance"]),
        (&"acc".into(), &0.5.into())
    );
    assert_eq!(
        grammar["steps"][1]["value"],
        told_of["checkpoints"][1]["results"]["grammar"]["acc,none"]
    );
    assert_eq!(
        kept["next"]["A rose is"][0],
        told["checkpoints"][0]["next"][0]["tokens"]
            .as_array()
            .map(|tokens| { serde_json::json!({"step": 5, "tokens": tokens}) })
            .unwrap()
    );
    wrong(
        &["eval", model(), "--tasks", "grammar", "--checkpoints"],
        &["has no checkpoints", "train.checkpoint_every"],
    );
}

#[test]
fn the_next_tokens_are_shown_with_their_probabilities() {
    let told = json(&["eval", model(), "--next", "A rose", "--next", "", "--json"]);
    assert_eq!(told["next"].as_array().unwrap().len(), 2);
    let tokens = &told["next"][0]["tokens"];
    assert_eq!(keys(&tokens[0]), ["id", "probability", "text"]);
    let shown = good(&["eval", model(), "--next", "A rose"]);
    assert_eq!(shown.lines().count(), 6);
    assert!(
        shown.starts_with("A rose\n") && shown.contains('%'),
        "{shown}"
    );
}

#[test]
fn mistakes_in_tasks_are_named() {
    let file = task("benchmarks/bad");
    let eval =
        |tasks: &str, expected: &[&str]| wrong(&["eval", model(), "--tasks", tasks], expected);
    eval(
        "gramar",
        &[
            "no task and no file is called `gramar`",
            "did you mean `grammar`?",
        ],
    );
    eval(
        &format!("{file},{file}"),
        &["two of the tasks are called `flowers`"],
    );
    let misspelt = write(
        "benchmarks/bad/misspelt.toml",
        TASK.replace("answer =", "anwser ="),
    );
    eval(&misspelt, &["misspelt.toml:6", "did you mean `answer`?"]);
    let field = write(
        "benchmarks/bad/field.toml",
        TASK.replace("{{ question", "{{ qestion"),
    );
    eval(
        &field,
        &[
            "flowers.jsonl:1",
            "no `qestion`",
            "did you mean `question`?",
            "field.toml",
        ],
    );
    let gone = write(
        "benchmarks/bad/gone.toml",
        TASK.replace("flowers.jsonl", "gone.jsonl"),
    );
    eval(&gone, &["gone.jsonl"]);
    let name = write(
        "benchmarks/bad/name.toml",
        TASK.replace("flowers.jsonl", "wiki-descriptoin"),
    );
    eval(&name, &["did you mean `wiki-description`?"]);
    wrong(
        &["eval", model(), "--tasks", &file, "--num-fewshot", "9"],
        &["`fewshot.count` is 9", "8 examples"],
    );
    wrong(
        &["eval", model(), "--tasks", &file, "--context", "97"],
        &["context = 97", "96"],
    );
    wrong(
        &["eval", model(), "--tasks", &file, "--task", &file],
        &["cannot be used with"],
    );
    wrong(
        &[
            "eval",
            model(),
            "--tasks",
            &file,
            "--output",
            &write("benchmarks/bad/file", ""),
        ],
        &["--output"],
    );
}

#[test]
fn a_classification_is_scored_by_likelihood() {
    let lines: String = (0..12)
        .map(|index| {
            let label = ["positive", "negative"][index % 2];
            format!("{{\"prompt\": \"Review {index}.\", \"completion\": \"{label}\"}}\n")
        })
        .collect();
    let file = write("benchmarks/reviews.jsonl", lines);
    let answers = scratch("benchmarks/answers.jsonl");
    let asked = [
        "eval",
        model(),
        "--task",
        &file,
        "--data",
        &file,
        "--max-tokens",
        "2",
    ];
    let asked = [
        &asked[..],
        &[
            "--predictions",
            text(&answers),
            "--metric",
            "choice_accuracy",
        ],
    ]
    .concat();
    let told = json(&[&asked[..], &["--metric", "choice_macro_f1", "--json"]].concat());
    let value = |name: &str| told["scores"][name]["value"].as_f64().unwrap();
    let lines = fs::read_to_string(&answers).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let right = lines
        .iter()
        .filter(|line| line["chosen"] == line["reference"])
        .count();
    assert_eq!(value("choice_accuracy"), right as f64 / 12.0);
    assert!((0.0..=1.0).contains(&value("choice_macro_f1")));
    let more = [
        &asked[..],
        &["--choices", "positive,negative,neutral", "--json"],
    ]
    .concat();
    assert_eq!(json(&more)["n"], 12);
    wrong(
        &[&asked[..], &["--choices", "positive,neutral"]].concat(),
        &["`negative` is none of the choices"],
    );
    let prose: String = (0..70)
        .map(|index| format!("{{\"prompt\": \"Say {index}.\", \"completion\": \"{index}\"}}\n"))
        .collect();
    let prose = write("benchmarks/prose.jsonl", prose);
    wrong(
        &[
            "eval",
            model(),
            "--task",
            &prose,
            "--data",
            &prose,
            "--metric",
            "choice_accuracy",
        ],
        &["70 different answers"],
    );
}
