//! Recipes, and the two stages from the command line to the run folder.

use std::fs;

use crate::support::{corpus, good, json, keys, run, scratch, text, write, wrong};

/// A pre-training run that takes a second.
pub(crate) fn pretraining(corpus: &str) -> String {
    format!(
        "# A test.\n[data]\nsources = [\"{corpus}\"]\n[tokenizer]\nvocab_size = 300\n\
         [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n\
         [train]\nsteps = 4\nbatch_rows = 2\nlog_every = 1\nthreads = 1\n\
         [eval]\nsample_tokens = 4\nprompts = [\"A rose\"]\n"
    )
}

#[test]
fn built_in_recipes_are_listed_and_shown() {
    let all = json(&["recipe", "list", "--json"]);
    let all = all["recipes"].as_array().unwrap();
    let table = good(&["recipe", "list"]);
    for recipe in all {
        assert_eq!(keys(recipe), ["description", "name", "stage"]);
        let (name, stage) = (
            recipe["name"].as_str().unwrap(),
            recipe["stage"].as_str().unwrap(),
        );
        assert!(table.contains(name), "{table}");
        let (written, filled_in) = match stage {
            "transfer" => ("[transfer]", "rates = "),
            _ => ("[train]", "[optimizer]"),
        };
        assert!(good(&["recipe", "show", name]).contains(written), "{name}");
        let resolved = good(&[stage, name, "--dry-run"]);
        assert!(resolved.contains(filled_in), "{name}: {resolved}");
    }
    for stage in ["pretrain", "finetune", "transfer"] {
        assert!(
            all.iter().any(|recipe| recipe["stage"] == stage),
            "a recipe for {stage}"
        );
    }
    assert_eq!(
        good(&["recipe", "show", "shakespeare"]),
        good(&["recipe", "show", "pretrain-shakespeare"])
    );
    wrong(
        &["recipe", "show", "quickstart"],
        &["`pretrain-quickstart` or `finetune-quickstart`"],
    );
    wrong(
        &["recipe", "show", "shakespear"],
        &["did you mean `pretrain-shakespeare`"],
    );
    wrong(
        &["recipe", "show", "no-recipe-has-this-name"],
        &["no-recipe-has-this-name", "etude recipe list"],
    );
    let name = all[0]["name"].as_str().unwrap();
    wrong(
        &["recipe", "show", &name[..name.len() - 1]],
        &[&format!("did you mean `{name}`")],
    );
}

#[test]
fn both_stages_run_from_recipes_of_the_users_own() {
    let corpus = write("stages/corpus.txt", corpus());
    let recipe = write("stages/base.toml", pretraining(&corpus));
    let base = scratch("stages/base");
    let told = json(&[
        "pretrain",
        &recipe,
        "--run",
        text(&base),
        "--json",
        "--quiet",
    ]);
    assert_eq!(
        (&told["stage"], &told["steps"]),
        (&"pretrain".into(), &4.into())
    );
    assert!(told["final"]["bits_per_byte"].as_f64().unwrap() > 0.0);
    for file in [
        "recipe.toml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "data.json",
    ] {
        assert!(base.join(file).is_file(), "{file}");
    }
    assert!(good(&["doctor", text(&base)]).contains("The folder is whole"));
    let certificate = fs::read(base.join("model/certificate.json")).unwrap();
    let certificate: serde_json::Value = serde_json::from_slice(&certificate).unwrap();
    let prompt = serde_json::json!({"document": "A rose"});
    assert_eq!(
        certificate["transcripts"][0]["prompt"], prompt,
        "the recipe's own"
    );
    let chat = run(&["chat", text(&base)]);
    assert!(
        chat.status == 0 && chat.err.contains("this is a base model"),
        "{}",
        chat.err
    );
    let again = good(&["pretrain", &recipe, "--run", text(&base), "--quiet"]);
    assert!(
        again.contains("bits per byte"),
        "a finished run tells its summary again: {again}"
    );

    let lines: String = (0..60)
        .map(|index| {
            format!("{{\"prompt\": \"Say {index}.\", \"completion\": \"A rose {index}.\"}}\n")
        })
        .collect();
    let examples = write("stages/examples.jsonl", lines);
    let recipe = write(
        "stages/task.toml",
        format!(
            "# A test.\n[base]\npath = \"{}\"\n[task]\nsource = \"{examples}\"\n\
             [train]\nsteps = 3\nbatch_rows = 2\nlog_every = 1\nthreads = 1\n[eval]\nexamples = 2\nsamples = 1\n",
            text(&base)
        ),
    );
    let task = scratch("stages/task");
    let told = json(&[
        "finetune",
        &recipe,
        "--run",
        text(&task),
        "--json",
        "--quiet",
    ]);
    assert_eq!(
        (&told["stage"], &told["steps"]),
        (&"finetune".into(), &3.into())
    );
    let prompt = [
        "--prompt",
        "Say 7.",
        "--temperature",
        "0",
        "--max-tokens",
        "4",
        "--json",
    ];
    let as_task = json(&[&["generate", text(&task), "--task"], &prompt[..]].concat());
    let spelt = json(
        &[
            &["generate", text(&task), "--bos", "--prompt", "Say 7.\n\n"],
            &prompt[2..],
        ]
        .concat(),
    );
    assert_eq!(
        as_task["ids"], spelt["ids"],
        "the task's format is the recipe's"
    );
    let scored = json(&[
        "eval",
        text(&task),
        "--task",
        &examples,
        "--max-tokens",
        "4",
        "--json",
    ]);
    assert!(
        scored["predictions"]
            .as_str()
            .unwrap()
            .starts_with(text(&task)),
        "{scored}"
    );
    let both = good(&[
        "report",
        text(&base),
        text(&task),
        "--out",
        text(&scratch("stages/both.html")),
    ]);
    assert!(both.contains("both.html"));
}

#[test]
fn recipes_that_are_wrong_are_refused_before_anything_is_made() {
    let corpus = write("wrong/corpus.txt", corpus());
    let folder = scratch("wrong/run");
    let refuse = |recipe: &str, settings: &[&str], expected: &[&str]| {
        wrong(
            &[&["pretrain", recipe, "--run", text(&folder)], settings].concat(),
            expected,
        );
        assert!(!folder.exists(), "nothing is made");
    };
    let fine = write("wrong/fine.toml", pretraining(&corpus));
    let misspelt = write(
        "wrong/misspelt.toml",
        pretraining(&corpus).replace("batch_rows", "batch_row"),
    );
    refuse(
        &misspelt,
        &[],
        &[
            "misspelt.toml:13",
            "`batch_row`",
            "did you mean `batch_rows`",
        ],
    );
    refuse(
        &fine,
        &["--set", "train.stepps=5"],
        &["train.stepps", "did you mean `steps`"],
    );
    refuse(
        &fine,
        &["--set", "train.steps"],
        &["--set train.steps", "key.path=value"],
    );
    refuse(&fine, &["--set", "train.steps=-5"], &["train.steps=-5"]);
    refuse(&fine, &["--set", "train.steps=0"], &["train.steps = 0"]);
    refuse(&fine, &["--set", "model.n_head=3"], &["n_head"]);
    refuse("no-such.toml", &[], &["no-such.toml", "etude recipe list"]);
    refuse(
        "nothing-is-called-like-this",
        &[],
        &["nothing-is-called-like-this"],
    );
    wrong(
        &["finetune", &fine, "--run", text(&folder)],
        &["fine.toml", "is a recipe for `etude pretrain`"],
    );
    let gone = write("wrong/gone.toml", pretraining("no-such-corpus.txt"));
    wrong(
        &["pretrain", &gone, "--run", text(&folder)],
        &["no-such-corpus.txt"],
    );
    assert_eq!(run(&["finetune"]).status, 2);
}

#[test]
fn a_run_folder_of_another_recipe_is_left_alone() {
    let corpus = write("other/corpus.txt", corpus());
    let recipe = write("other/base.toml", pretraining(&corpus));
    let folder = scratch("other/run");
    good(&["pretrain", &recipe, "--run", text(&folder), "--quiet"]);
    let before = fs::read(folder.join("recipe.toml")).unwrap();
    let done = run(&[
        "pretrain",
        &recipe,
        "--set",
        "train.steps=9",
        "--run",
        text(&folder),
        "--quiet",
    ]);
    assert_eq!(done.status, 2);
    assert!(
        done.err.contains("another recipe") && done.err.contains("train.steps"),
        "{}",
        done.err
    );
    assert_eq!(fs::read(folder.join("recipe.toml")).unwrap(), before);
}

/// Ctrl-C, as the terminal sends it.
#[cfg(unix)]
#[test]
fn a_run_that_is_stopped_saves_and_ends_with_130() {
    let corpus = write("stopped-run/corpus.txt", corpus());
    let recipe = write("stopped-run/base.toml", pretraining(&corpus));
    let folder = scratch("stopped-run/run");
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_etude"))
        .args([
            "pretrain",
            &recipe,
            "--run",
            text(&folder),
            "--quiet",
            "--set",
            "train.steps=1000000",
        ])
        .env("ETUDE_CACHE", scratch("cache"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let logged = || {
        fs::read_to_string(folder.join("metrics.jsonl")).is_ok_and(|log| log.lines().count() > 2)
    };
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !logged() && std::time::Instant::now() < patience {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let done = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(130), "{err}");
    assert!(err.contains("the same command goes on"), "{err}");
    assert_eq!(fs::read_dir(folder.join("checkpoints")).unwrap().count(), 1);
}
