//! `etude transfer` on recipes of the user's own: one run after the other, and several at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use serde_json::Value;

use crate::stages::pretraining;
use crate::support::{corpus, good, json, run, scratch, signalled, text, write, wrong};

/// The files of a tiny experiment below `place`, whose base model is there or made first: the fine-tuning recipe and the
/// transfer recipe with these rates.
pub(crate) fn experiment(place: &str, rates: &str) -> (String, String) {
    let corpus = write(&format!("{place}/corpus.txt"), corpus());
    let base = text(&scratch(&format!("{place}/base"))).to_owned();
    let pretrain = write(&format!("{place}/pretrain.toml"), pretraining(&corpus));
    let tasks: String = (0..40)
        .map(|number| {
            format!(
                "{{\"prompt\": \"rose {number}\", \"completion\": \"red {}\"}}\n",
                number % 4
            )
        })
        .collect();
    let tasks = write(&format!("{place}/tasks.jsonl"), tasks);
    let finetune = write(
        &format!("{place}/finetune.toml"),
        format!(
            "[base]\npath = \"{base}\"\npretrain = \"{pretrain}\"\n\
             [task]\nsource = \"{tasks}\"\nanswer_tokens = 4\nlocal = {{ validation = 20, test = 20 }}\n\
             [train]\nsteps = 4\nbatch_rows = 2\nlog_every = 1\nthreads = 1\n[eval]\nexamples = 4\nsamples = 0\n"
        ),
    );
    let recipe = write(
        &format!("{place}/mine.toml"),
        format!(
            "[transfer]\nfinetune = \"{finetune}\"\nshares = [0.5, 1.0]\nseeds = [1]\nrates = {rates}\n\
             tune_at = [1.0]\ntest = 4\n\
             [[variant]]\nname = \"By LoRA\"\nset = [\"base.method=lora\", \"lora.rank=2\"]\n"
        ),
    );
    (finetune, recipe)
}

#[test]
fn a_transfer_experiment_runs_from_a_recipe_of_the_users_own() {
    let (finetune, recipe) = experiment("transfer-own", "[1.0]");
    let run = text(&scratch("transfer-own/run")).to_owned();
    let told = json(&["transfer", &recipe, "--run", &run, "--json", "--quiet"]);
    assert_eq!(told["points"].as_array().map(Vec::len), Some(2));
    assert_eq!(told["metric"], "rouge_l");
    let page = fs::read_to_string(scratch("transfer-own/run").join("report.html")).unwrap();
    assert!(page.contains("What pre-training is worth"));
    let again = good(&["transfer", &recipe, "--run", &run, "--quiet"]);
    assert!(
        again.contains("from scratch") && again.contains("report.html"),
        "{again}"
    );

    // The base model was made on the way; the recipe alone finds it there now.
    let told = json(&[
        "finetune",
        &finetune,
        "--run",
        text(&scratch("transfer-own/alone")),
        "--json",
        "--quiet",
    ]);
    assert_eq!(told["steps"], 4);

    wrong(
        &["transfer", "descriptons"],
        &["did you mean `transfer-descriptions`"],
    );
    wrong(
        &["transfer", &finetune],
        &["is a recipe for `etude finetune`"],
    );
    wrong(
        &["finetune", &recipe],
        &["is a recipe for `etude transfer`"],
    );
    wrong(
        &["transfer", &recipe, "--set", "transfer.shares=[2.0]"],
        &["transfer.shares", "up to 1"],
    );
    wrong(
        &["transfer", &recipe, "--set", "transfer.shares=[0.5]"],
        &["transfer.shares", "the last is 1.0"],
    );
}

/// Several at once.
fn together(recipe: &str, run: &Path, more: &[&str]) -> Vec<String> {
    let own = ["transfer", recipe, "--run", text(run), "--parallel", "2"];
    own.iter()
        .chain(more)
        .map(|&word| word.to_owned())
        .collect()
}

/// What was found, without the times.
fn found(run: &Path) -> Value {
    let json = fs::read(run.join("transfer.json")).unwrap();
    let mut found: Value = serde_json::from_slice(&json).unwrap();
    forget_times(&mut found);
    found
}

fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("seconds");
            fields.values_mut().for_each(forget_times);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_times),
        _ => (),
    }
}

#[test]
fn runs_side_by_side_find_what_runs_one_by_one_find() {
    if available_parallelism().is_ok_and(|cores| cores.get() == 1) {
        return; // there is nothing to share out
    }
    // The second rate is no rate to train at: it is the worst of those tried, and no failure.
    let (_, recipe) = experiment("transfer-parallel", "[1.0, 1e30]");
    let [one, two] = ["one", "two"].map(|name| scratch(&format!("transfer-parallel/{name}")));
    good(&["transfer", &recipe, "--run", text(&one), "--quiet"]);
    let words = together(&recipe, &two, &["--quiet"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = run(&words);
    assert_eq!(done.status, 0, "{}", done.err);
    assert_eq!(found(&one), found(&two));
    // A worker's warnings are told as well.
    for what in [
        "[8/8] ",
        "By LoRA, 100%",
        "diverged",
        "rouge_l ",
        "was not applied",
    ] {
        assert!(done.err.contains(what), "{what}: {}", done.err);
    }
    let left = fs::read_dir(&two).unwrap().flatten();
    let said = left.filter(|entry| entry.file_name().to_string_lossy().ends_with(".said.txt"));
    assert_eq!(said.count(), 0);

    // A worker's refusal is the command's: by the run, what is wrong and what to do.
    let lost = two.join("runs/scratch-0.5-seed-1-rate-1");
    fs::remove_file(lost.join("record.json")).unwrap();
    fs::write(lost.join("recipe.toml"), "[base]\npath = \"elsewhere\"\n").unwrap();
    wrong(&words, &["scratch-0.5-seed-1-rate-1", "another recipe"]);
    // Without it, it is made again, and what is there stays; behind `--` as well.
    fs::remove_dir_all(&lost).unwrap();
    let own = [
        "transfer",
        "--run",
        text(&two),
        "--parallel",
        "2",
        "--quiet",
        "--",
        &recipe,
    ];
    let done = run(&own);
    assert_eq!(done.status, 0, "{}", done.err);
    assert_eq!(done.err.matches("/8] ").count(), 1, "{}", done.err);
    // A worker makes the runs of the recipe that the leading process read, and no others.
    let work = |leader: u32| format!("train/scratch-0.5-seed-1-rate-1/0/{leader}");
    let refused = |leader: u32, words: &str| {
        let work = work(leader);
        let done = run(&["transfer", &recipe, "--run", text(&two), "--worker", &work]);
        assert!(done.status != 0 && done.err.contains(words), "{}", done.err);
    };
    refused(std::process::id(), "a recipe was changed");
    refused(1, "the process that leads the experiment is gone");
    assert_eq!(found(&one), found(&two));

    let many = ["transfer", &recipe, "--parallel", "100000"];
    wrong(&many, &["--parallel 100000", "cores", "give 1 to"]);
    wrong(&["transfer", &recipe, "--parallel", "0"], &["give 1 to"]);
}

/// Starts an experiment whose runs do not end, two at once, and sends its leader a signal when both are under way: the
/// leader's exit status, and the runs' folders.
#[cfg(unix)]
fn signalled_under_way(place: &str, signal: &str) -> (Option<i32>, [PathBuf; 2]) {
    let (_, recipe) = experiment(place, "[1.0]");
    let folder = scratch(&format!("{place}/run"));
    let endless = ["--set-finetune", "train.steps=1000000", "--quiet"];
    let words = together(&recipe, &folder, &endless);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runs = ["pretrained-1-seed-1-rate-1", "scratch-1-seed-1-rate-1"];
    let runs = runs.map(|name| folder.join("runs").join(name));
    let begun = || {
        runs.iter().all(|run| {
            fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|log| log.lines().count() > 1)
        })
    };
    let status = signalled(&words, begun, signal);
    (status, runs)
}

#[cfg(unix)]
fn checkpoints(run: &Path) -> usize {
    fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count)
}

#[cfg(unix)]
#[test]
fn runs_side_by_side_save_what_they_have_when_they_are_stopped() {
    if available_parallelism().is_ok_and(|cores| cores.get() == 1) {
        return;
    }
    let (status, runs) = signalled_under_way("transfer-stopped", "-TERM");
    assert_eq!(status, Some(130));
    assert_eq!(runs.map(|run| checkpoints(&run)), [1, 1]);
}

#[cfg(target_os = "linux")]
#[test]
fn runs_side_by_side_save_what_they_have_and_end_when_their_leader_is_killed() {
    use std::time::{Duration, Instant};

    if available_parallelism().is_ok_and(|cores| cores.get() == 1) {
        return;
    }
    let (status, runs) = signalled_under_way("transfer-orphaned", "-KILL");
    assert_eq!(status, None, "it was killed");
    let patience = Instant::now() + Duration::from_secs(60);
    while runs.iter().any(|run| checkpoints(run) == 0) {
        assert!(
            Instant::now() < patience,
            "a worker goes on without its leader"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
