//! What goes wrong around a training run, and how the program ends then: one message, a status that tells
//! the user's mistakes (2) from failures (1), and nothing harmed that was saved.

use std::fs;

use crate::support::{good, run, scratch, text, write, wrong};

/// A pre-training recipe over a text, with settings of `[train]`.
fn recipe(corpus: &str, train: &str) -> String {
    format!(
        "[data]\nsources = [\"{corpus}\"]\n[tokenizer]\nvocab_size = 300\n\
         [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n\
         [train]\nsteps = 2\nthreads = 1\ndevice = \"cpu\"\n{train}\n[eval]\nsample_tokens = 4\n"
    )
}

fn sentences() -> String {
    (0..400)
        .map(|n| format!("The {n}th rose is as sweet as the {}th.\n", n * 7 % 400))
        .collect()
}

#[test]
fn texts_that_cannot_be_trained_on_are_the_users_to_mend() {
    let cases = [
        ("empty", String::new(), "", "empty.txt: "),
        ("short", "A rose. ".to_owned(), "", "none is held out"),
        (
            "one-window",
            sentences(),
            "model.context=100000",
            "one window takes 100001",
        ),
        (
            "none-held-out",
            sentences(),
            "data.local.validation=0",
            "none is held out",
        ),
    ];
    for (name, contents, setting, expected) in cases {
        let corpus = write(&format!("faults/{name}.txt"), contents);
        let file = write(&format!("faults/{name}.toml"), recipe(&corpus, ""));
        let folder = scratch(&format!("faults/{name}"));
        let mut arguments = vec!["pretrain", &file, "--run", text(&folder), "--quiet"];
        if !setting.is_empty() {
            arguments.extend(["--set", setting]);
        }
        wrong(&arguments, &[expected, "try: "]);
    }
}

#[test]
fn examples_that_cannot_be_learnt_are_the_users_to_mend() {
    let corpus = write("faults/base.txt", sentences());
    let file = write("faults/base.toml", recipe(&corpus, ""));
    let base = scratch("faults/base");
    good(&["pretrain", &file, "--run", text(&base), "--quiet"]);
    let examples = |name: &str, prompt: &str, completion: &str| {
        let line = |n: u32| serde_json::json!({"prompt": format!("{n} {prompt}"), "completion": completion});
        let lines: Vec<String> = (0..60).map(|n| line(n).to_string()).collect();
        let examples = write(&format!("faults/{name}.jsonl"), lines.join("\n"));
        let task = format!(
            "[base]\npath = \"{}\"\n[task]\nsource = \"{examples}\"\n[train]\nsteps = 1\ndevice = \"cpu\"\n",
            text(&base)
        );
        write(&format!("faults/task-{name}.toml"), task)
    };
    let long = "a rose ".repeat(200);
    let cases = [
        (
            examples("unanswered", "rose", ""),
            "drop",
            "nothing is left of it",
        ),
        (examples("long", &long, "red"), "drop", "too long"),
        (examples("cut", &long, "red"), "truncate", "answer cut away"),
    ];
    for (task, truncation, expected) in cases {
        let folder = scratch("faults/refused");
        let setting = format!("task.truncation={truncation}");
        let arguments = [
            "finetune",
            &task,
            "--set",
            &setting,
            "--run",
            text(&folder),
            "--quiet",
        ];
        wrong(&arguments, &[expected, "try: "]);
    }
    let task = examples("good", "rose", "red");
    wrong(
        &["pretrain", &task],
        &["is a recipe for `etude finetune`", "run `etude finetune "],
    );
    wrong(
        &["finetune", &file],
        &["is a recipe for `etude pretrain`", "run `etude pretrain "],
    );
}

/// A limit on the address space stands in for a machine with little memory.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_does_not_suffice_is_one_message() {
    let corpus = write("faults/memory.txt", sentences());
    let file = write("faults/memory.toml", recipe(&corpus, "batch_rows = 200000"));
    let folder = scratch("faults/memory");
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""])
        .args([
            env!("CARGO_BIN_EXE_etude"),
            "pretrain",
            &file,
            "--quiet",
            "--run",
            text(&folder),
        ])
        .env("ETUDE_CACHE", scratch("cache"))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.starts_with("error: "), "{told}");
    assert!(
        told.contains("train.micro_rows") && told.contains("memory does not suffice"),
        "{told}"
    );
    assert!(
        !told.contains("panicked") && !told.contains("frame #"),
        "{told}"
    );
}

#[test]
fn a_cached_shard_with_a_flipped_byte_is_named_and_not_trained_on() {
    let corpus = write("faults/flipped.txt", sentences());
    let file = write("faults/flipped.toml", recipe(&corpus, ""));
    let folder = scratch("faults/flipped");
    let arguments = ["pretrain", &file, "--run", text(&folder), "--quiet"];
    good(&arguments);
    let shards = fs::read_dir(scratch("cache").join("shards")).unwrap();
    let shard = shards
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("flipped-train") && name.ends_with(".tokens")
        })
        .unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let told = run(&arguments);
    assert_eq!(told.status, 2, "{}", told.err);
    assert!(
        told.err.contains("damaged") && told.err.contains("delete it"),
        "{}",
        told.err
    );
}
