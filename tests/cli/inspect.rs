//! `etude data inspect`: the ledger of a recipe, its examples and its batches.

use std::fs;

use crate::support::{corpus, good, json, scratch, text, write, wrong};

/// A base model made by a short run, and a task with an example that is there twice.
fn recipes(place: &str) -> (String, String) {
    let corpus = write(&format!("{place}/corpus.txt"), corpus());
    let base = text(&scratch(&format!("{place}/base"))).to_owned();
    let pretrain = write(
        &format!("{place}/pretrain.toml"),
        format!(
            "[data]\nsources = [\"{corpus}\"]\n[tokenizer]\nvocab_size = 300\n\
             [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n\
             [train]\nsteps = 2\nbatch_rows = 2\nthreads = 1\n[eval]\nsample_tokens = 4\n"
        ),
    );
    good(&["pretrain", &pretrain, "--run", &base, "--quiet"]);
    let line =
        |number: usize| format!("{{\"prompt\": \"rose {number}\", \"completion\": \"red\"}}\n");
    let mut tasks: String = (0..20).map(line).collect();
    tasks.push_str(&line(5));
    let tasks = write(&format!("{place}/tasks.jsonl"), tasks);
    let finetune = write(
        &format!("{place}/finetune.toml"),
        format!(
            "[base]\npath = \"{base}\"\n[task]\nsource = \"{tasks}\"\n\
             local = {{ validation = 20, test = 20 }}\n\
             [train]\nsteps = 3\nbatch_rows = 2\nthreads = 1\n"
        ),
    );
    (pretrain, finetune)
}

#[test]
fn a_recipe_s_books_examples_and_batches_are_shown() {
    let (pretrain, finetune) = recipes("inspect");
    let told = good(&["data", "inspect", &finetune]);
    for words in [
        "records in the files",
        "The books balance",
        "tasks.jsonl:",
        "+ red",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // Piped, there are no colours.
    assert!(!told.contains('\u{1b}'), "{told}");
    let tokens = good(&["data", "inspect", &finetune, "--example", "1", "--tokens"]);
    assert!(
        tokens.contains("supervised") || tokens.contains('+'),
        "{tokens}"
    );

    let line = "{\"prompt\": \"rose\", \"answers\": [\"red\", \"crimson\"]}\n";
    let answers = write(
        "inspect/answers.jsonl",
        (0..9).map(|_| line).collect::<String>(),
    );
    let source = format!("task.source={answers}");
    let example = [
        "data",
        "inspect",
        &finetune,
        "--set",
        &source,
        "--example",
        "1",
    ];
    let local = [
        "--set",
        "task.local={ key = \"{@index}\", validation = 20, test = 20 }",
    ];
    let told = good(&[&example[..], &local].concat());
    assert!(told.contains("right as well: crimson"), "{told}");

    let found = json(&["data", "inspect", &finetune, "--batch", "2", "--json"]);
    assert_eq!(found["ledger"]["rests"].as_array().map(Vec::len), Some(0));
    assert_eq!(found["batch"]["step"], 2);
    assert_eq!(found["batch"]["rows"].as_array().map(Vec::len), Some(2));
    let warnings = found["ledger"]["warnings"].to_string();
    assert!(
        warnings.contains("tasks.jsonl:21") || warnings.contains("tasks.jsonl:6"),
        "{warnings}"
    );

    let found = json(&["data", "inspect", &pretrain, "--json"]);
    assert_eq!(found["ledger"]["rests"].as_array().map(Vec::len), Some(0));
    let batch = good(&["data", "inspect", &pretrain, "--batch", "1"]);
    assert!(batch.contains("corpus.txt"), "{batch}");

    let page = scratch("inspect/page.html");
    good(&["data", "inspect", &finetune, "--html", text(&page)]);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("records in the files") && !html.contains("http://"));
}

#[test]
fn what_is_not_there_to_inspect_is_said() {
    let (pretrain, finetune) = recipes("inspect-wrong");
    for (recipe, step) in [(&pretrain, "3"), (&finetune, "4")] {
        let asked = ["data", "inspect", recipe, "--batch", step];
        wrong(&asked, &["train.steps is", "give 1 to"]);
    }
    wrong(
        &["data", "inspect", &finetune, "--example", "999"],
        &["give 1 to"],
    );
    wrong(
        &["data", "inspect", "transfer-descriptions"],
        &["makes many runs"],
    );
    wrong(
        &["data", "inspect", "no-such-recipe"],
        &["no-such-recipe", "recipe list"],
    );
    wrong(
        &[
            "data", "inspect", &finetune, "--batch", "1", "--split", "test",
        ],
        &["--batch"],
    );
}
