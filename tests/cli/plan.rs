//! `etude plan`: forecasts of tiny runs beside what the runs come to, and what is refused.

use std::fs;

use serde_json::Value;

use crate::support::{corpus, good, json, run, scratch, text, write, wrong};

/// A pre-training recipe whose run takes a second.
fn recipe(name: &str, train: &str) -> String {
    let corpus = write("plan/corpus.txt", corpus());
    write(
        &format!("plan/{name}.toml"),
        format!(
            "# A test.\n[data]\nsources = [\"{corpus}\"]\n[tokenizer]\nvocab_size = 300\n\
             [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n\
             [train]\nbatch_rows = 2\nthreads = 1\n{train}\n\
             [eval]\nsample_tokens = 4\nprompts = [\"A rose\"]\n"
        ),
    )
}

fn read(path: std::path::PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn number(value: &Value, place: &str) -> f64 {
    let found = value.pointer(place).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number {place} in {value}"))
}

#[test]
fn a_plan_says_what_the_run_comes_to() {
    let train = "steps = 7\neval_every = 2\nsample_every = 3\ncheckpoint_every = 2";
    let recipe = recipe("counted", train);
    let folder = scratch("plan/counted");
    let plan = json(&["plan", &recipe, "--run", text(&folder), "--json", "--quiet"]);
    assert_eq!(read(folder.join("forecast.json")), plan);
    assert!(!folder.join("recipe.toml").exists(), "nothing was run");
    let left: Vec<_> = fs::read_dir(scratch("plan"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".etude"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let done = json(&[
        "pretrain",
        &recipe,
        "--run",
        text(&folder),
        "--json",
        "--quiet",
    ]);
    let data = read(folder.join("data.json"));
    for (forecast, fact) in [
        ("/steps", number(&done, "/steps")),
        ("/tokens", number(&done, "/tokens")),
        ("/supervised_tokens", number(&done, "/supervised_tokens")),
        ("/parameters", number(&done, "/parameters")),
        ("/trained_parameters", number(&done, "/trained_parameters")),
        ("/epoch_tokens", number(&data, "/train_tokens")),
    ] {
        assert_eq!(number(&plan["work"], forecast), fact, "{forecast}");
    }
    // Windows lie end to end, so an epoch is all of its tokens but the cut at its ends.
    let epochs = number(&done, "/tokens") / number(&data, "/train_tokens");
    assert!((number(&plan["work"], "/epochs") / epochs - 1.0).abs() < 0.05);
    let disk = &done["forecast"]["disk"];
    let share = number(disk, "/fact") / number(disk, "/forecast");
    assert!((0.97..1.03).contains(&share), "{disk}");
    let memory = &done["forecast"]["peak_memory"];
    let share = number(memory, "/fact") / number(memory, "/forecast");
    assert!((0.8..1.2).contains(&share), "{memory}");
    assert_eq!(done["forecast"]["made_by"], "plan");
    let report = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.contains("Forecast and fact"));

    // A second plan learns from the first run, and leaves a begun run's forecast alone.
    let beside = scratch("plan/next");
    let next = json(&["plan", &recipe, "--run", text(&beside), "--json", "-q"]);
    let loss = number(&next, "/loss/value");
    assert_eq!(loss, number(&done, "/final/validation_loss"));
    let again = run(&["plan", &recipe, "--run", text(&folder), "-q"]);
    assert!(
        again.status == 0 && again.err.contains("has begun"),
        "{}",
        again.err
    );
    assert_eq!(read(folder.join("forecast.json")), plan);
}

#[test]
fn a_run_that_nobody_planned_forecasts_itself() {
    let recipe = recipe("unplanned", "steps = 8\neval_every = 4");
    let folder = scratch("plan-alone/unplanned");
    let other = [
        "plan",
        &recipe,
        "--set",
        "train.steps=9",
        "--run",
        text(&folder),
        "-q",
    ];
    let page = good(&other);
    for part in [
        "time",
        "memory",
        "disk",
        "it fits",
        "9 steps",
        "no earlier runs",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    for line in page.lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
    let done = json(&["pretrain", &recipe, "--run", text(&folder), "--json", "-q"]);
    let forecast = read(folder.join("forecast.json"));
    assert_eq!(
        forecast["made_by"], "first-steps",
        "the plan was of other settings"
    );
    assert_eq!(
        number(&forecast["work"], "/tokens"),
        number(&done, "/tokens")
    );
    assert_eq!(done["forecast"]["made_by"], "first-steps");
}

#[test]
fn the_answers_at_the_end_are_planned_too() {
    let base = scratch("plan-answers/base");
    let pretraining = recipe("answers-base", "steps = 2");
    good(&["pretrain", &pretraining, "--run", text(&base), "-q"]);
    let lines: String = (0..80)
        .map(|index| format!("{{\"prompt\": \"Say {index}.\", \"completion\": \"A rose.\"}}\n"))
        .collect();
    let examples = write("plan-answers/examples.jsonl", lines);
    let scored = write(
        "plan-answers/scored.toml",
        format!(
            "# A test.\n[base]\npath = \"{}\"\n[task]\nsource = \"{examples}\"\nanswer_tokens = 6\n\
             [train]\nsteps = 2\nbatch_rows = 2\nthreads = 1\n\
             [eval]\nexamples = 2\nsamples = 1\nmetrics = [\"rouge_l\", \"bits_per_byte\"]\n",
            text(&base)
        ),
    );
    let folder = scratch("plan-answers/scored");
    let plan = json(&["plan", &scored, "--run", text(&folder), "--json", "-q"]);
    let of = |name: &str| number(&plan, &format!("/seconds/{name}"));
    assert!(of("answers") > 0.0, "{plan}");
    let parts = of("setup") + of("training") + of("result") + of("answers");
    assert!((of("total") - parts).abs() < 1e-6, "{plan}");
    let row = "of the test split, scored";
    assert!(good(&["plan", &scored, "-q"]).contains(row));

    let unscored = ["plan", &scored, "--set", "eval.metrics=[]", "-q"];
    assert!(!good(&unscored).contains(row));
    let plan = json(&[&unscored[..], &["--json"]].concat());
    assert_eq!(number(&plan, "/seconds/answers"), 0.0);

    // What the answers took of the memory is in the run's own figures.
    let done = json(&["finetune", &scored, "--run", text(&folder), "--json", "-q"]);
    let peak = number(&done, "/forecast/peak_memory/fact");
    assert_eq!(peak, number(&done, "/peak_memory"));
    assert_eq!(read(folder.join("summary.json"))["peak_memory"], peak);
}

#[test]
fn a_run_that_would_fill_the_disk_is_refused() {
    let train = "steps = 1000000000000\ncheckpoint_every = 1\nkeep = 1000000000";
    let recipe = recipe("large", train);
    let folder = scratch("plan/large");
    let expected = [
        "the disk cannot hold this run",
        text(&folder),
        "lower train.keep",
        "train.checkpoint_every = 0",
        "--run",
    ];
    wrong(
        &["pretrain", &recipe, "--run", text(&folder), "-q"],
        &expected,
    );
    assert!(!folder.join("checkpoints").exists());
    let page = good(&["plan", &recipe, "-q"]);
    assert!(page.contains("IT DOES NOT FIT"), "{page}");
}

#[test]
fn what_is_wrong_with_a_plan_is_said() {
    wrong(
        &["plan", "quickstart"],
        &["say which", "pretrain-quickstart"],
    );
    wrong(&["plan", "no-such-recipe-is-there"], &["etude recipe list"]);
    let empty = write("plan/neither.toml", "[train]\nsteps = 4\n");
    wrong(&["plan", &empty], &["neither stage"]);
    let fine = recipe("fine", "steps = 4");
    wrong(
        &["plan", &fine, "--set", "train.stesp=4"],
        &["did you mean `steps`"],
    );
    let gone = write(
        "plan/gone.toml",
        "[data]\nsources = [\"no-such-text.txt\"]\n",
    );
    wrong(&["plan", &gone, "-q"], &["no-such-text.txt"]);
}
