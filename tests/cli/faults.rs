//! What goes wrong around a training run, and how the program ends then: one message, a status that tells
//! the user's mistakes (2) from failures (1), and nothing harmed that was saved.

use std::fs;

use std::path::Path;

use etude_tokenizer::Tokenizer;

use crate::support::{
    check_wrong, command, corpus, good, run, scratch, signalled, text, write, wrong,
};

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
    let few = task("few", &[example("one"), example("two")], "");
    let folder = scratch("faults/few-run");
    let none = "holds out no example for validation";
    let arguments = ["finetune", &few, "--run", text(&folder), "--quiet"];
    wrong(
        &arguments,
        &[none, "give at least 3 examples with different prompts"],
    );
    wrong(
        &[&arguments[..], &["--set", "task.local.validation=0"]].concat(),
        &[none, "set task.local.validation to a percentage"],
    );
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

/// Learning a tokenizer from a million different words takes many seconds.
#[test]
fn a_signal_while_data_is_made_ready_ends_the_process_at_once() {
    let words = (1..1_000_000_u64).map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let corpus = write("faults/words.txt", words.collect::<String>());
    let file = write("faults/words.toml", recipe(&corpus, ""));
    let folder = scratch("faults/words");
    let arguments = ["pretrain", &file, "--run", text(&folder), "--quiet"];
    let begun = || folder.join("recipe.toml").exists();
    assert_eq!(signalled(&arguments, begun, "-TERM"), Some(143));
    assert!(!folder.join("metrics.jsonl").exists(), "no run had begun");
}

/// A limit on the address space stands in for a machine with little memory.
#[cfg(target_os = "linux")]
#[test]
fn memory_that_does_not_suffice_is_one_message() {
    let corpus = write("faults/memory.txt", sentences());
    let file = write("faults/memory.toml", recipe(&corpus, "batch_rows = 100000"));
    let folder = scratch("faults/memory");
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 2500000; exec \"$0\" \"$@\""])
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
        told.contains("memory does not suffice")
            && told.contains("\n  try: lower train.micro_rows"),
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

#[test]
fn data_that_changed_between_two_runs_is_refused() {
    let corpus = write("faults/changed.txt", sentences());
    let file = write("faults/changed.toml", recipe(&corpus, ""));
    let folder = scratch("faults/changed");
    let arguments = ["pretrain", &file, "--run", text(&folder), "--quiet"];
    good(&arguments);
    let before = fs::read(folder.join("model/model.safetensors")).unwrap();
    write("faults/changed.txt", sentences().replace("rose", "tulip"));
    wrong(&arguments, &["the data has changed", "try: ", "--run"]);
    let after = fs::read(folder.join("model/model.safetensors")).unwrap();
    assert!(before == after, "what was saved is left alone");
}

#[test]
fn a_tokenizer_that_does_not_fit_its_model_is_named_with_both_sizes() {
    let folder = scratch("faults/unfit");
    crate::support::save_model(&folder);
    let settings = etude_tokenizer::TrainSettings {
        vocab_size: 330,
        ..Default::default()
    };
    let (larger, _) = Tokenizer::train([corpus()].into_iter(), &settings).unwrap();
    larger.save(&folder).unwrap();
    let corpus = write("faults/unfit.txt", corpus());
    for arguments in [
        &["generate", text(&folder), "--prompt", "A rose"][..],
        &["eval", text(&folder), "--text", &corpus],
    ] {
        wrong(arguments, &["unfit", "330 tokens", "320", "try: "]);
    }
}

/// A base model and a recipe that teaches it `examples`, a file of JSON lines.
fn task(name: &str, examples: &[String], settings: &str) -> String {
    let base = scratch(&format!("faults/{name}-base"));
    crate::support::save_model(&base);
    let examples = write(&format!("faults/{name}.jsonl"), examples.join("\n"));
    let recipe = format!(
        "[base]\npath = \"{}\"\n[task]\nsource = \"{examples}\"\n{settings}\n\
         [train]\nsteps = 1\ndevice = \"cpu\"\nthreads = 1\n[eval]\nexamples = 2\n",
        text(&base)
    );
    write(&format!("faults/{name}.toml"), recipe)
}

fn example(prompt: &str) -> String {
    serde_json::json!({"prompt": prompt, "completion": "red"}).to_string()
}

#[test]
fn a_missing_field_is_named_with_its_line_and_what_to_do() {
    let mut lines: Vec<String> = (0..40).map(|n| example(&format!("rose {n}"))).collect();
    lines[16] = serde_json::json!({"prompt": "rose", "answer": "red"}).to_string();
    let recipe = task("missing", &lines, "");
    let folder = scratch("faults/missing");
    wrong(
        &["finetune", &recipe, "--run", text(&folder), "--quiet"],
        &[
            "missing.jsonl:17: no field `completion`",
            "try: ",
            "`answer`",
        ],
    );
}

#[test]
fn examples_that_are_left_out_are_counted_in_the_run_folder() {
    let long = "a rose ".repeat(60);
    let lines: Vec<String> = (0..60)
        .map(|n| example(&format!("{n} {}", if n < 7 { &long } else { "rose" })))
        .collect();
    let settings = "truncation = \"drop\"\nlocal = { test = 0 }";
    let recipe = task("counted", &lines, settings);
    let folder = scratch("faults/counted");
    good(&["finetune", &recipe, "--run", text(&folder), "--quiet"]);
    let data = fs::read(folder.join("data.json")).unwrap();
    let data: serde_json::Value = serde_json::from_slice(&data).unwrap();
    let sum = |counts: &serde_json::Value| -> u64 {
        let counts = counts.as_object().unwrap().values();
        counts.filter_map(serde_json::Value::as_u64).sum()
    };
    assert_eq!(
        (sum(&data["dropped"]), sum(&data["examples"])),
        (7, 53),
        "{data}"
    );
}

#[test]
fn a_damaged_tokenizer_of_the_cache_is_named() {
    let corpus = write("faults/cached.txt", sentences());
    let file = write("faults/cached.toml", recipe(&corpus, ""));
    let (folder, cache) = (scratch("faults/cached"), scratch("faults/own-cache"));
    let arguments = ["pretrain", &file, "--run", text(&folder), "--quiet"];
    let run = || {
        let output = command(&arguments)
            .env("ETUDE_CACHE", &cache)
            .output()
            .unwrap();
        crate::support::Done {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    };
    assert_eq!(run().status, 0);
    let entry = fs::read_dir(cache.join("tokenizers")).unwrap().next();
    let tokenizer = entry.unwrap().unwrap().path();
    cut_in_half(&tokenizer.join("tokenizer.json"));
    let remedy = [
        "this tokenizer of the cache cannot be loaded",
        "remove the folder",
    ];
    check_wrong(&run(), &arguments, &remedy);
    fs::remove_dir_all(&tokenizer).unwrap();
    assert_eq!(run().status, 0, "the remedy helps");
}

fn cut_in_half(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// The folder that cannot be written to is a file's place: a superuser may write into read-only folders.
#[test]
fn answers_that_cannot_be_kept_are_refused_before_they_are_made() {
    let lines: Vec<String> = (0..20).map(|n| example(&format!("rose {n}"))).collect();
    let examples = write("faults/unkept.jsonl", lines.join("\n"));
    let nowhere = write("faults/a-file", "") + "/answers.jsonl";
    let model = crate::support::model();
    let arguments = [
        "eval",
        model,
        "--task",
        &examples,
        "--predictions",
        &nowhere,
    ];
    let done = run(&arguments);
    assert_eq!((done.status, done.out.as_str()), (1, ""), "{}", done.err);
    assert!(
        done.err.contains("choose another place with --predictions"),
        "{}",
        done.err
    );
    assert!(
        !done.err.contains("answers 0"),
        "nothing was scored: {}",
        done.err
    );
}
