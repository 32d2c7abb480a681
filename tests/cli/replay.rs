//! `etude replay`: steps of tiny runs of both stages made again, what it says of them, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::{corpus, good, json, model, run, scratch, signalled, text, write};

#[path = "replay/refused.rs"]
mod refused;

/// A pre-training run of six steps, two rows of the four at a time; checkpoints after the fourth and the sixth.
fn pretrained(name: &str) -> PathBuf {
    let corpus = write(&format!("replay/{name}.txt"), corpus());
    let recipe = write(
        &format!("replay/{name}.toml"),
        format!(
            "[data]\nsources = [\"{corpus}\"]\n[tokenizer]\nvocab_size = 300\n\
             [model]\nn_layer = 2\nn_head = 2\nn_embd = 16\ncontext = 32\n\
             [train]\nsteps = 6\nbatch_rows = 4\nmicro_rows = 2\nlog_every = 1\nthreads = 1\ndevice = \"cpu\"\n\
             checkpoint_every = 4\n[eval]\nsample_tokens = 4\nprompts = [\"A rose\"]\n"
        ),
    );
    let folder = scratch(&format!("replay/{name}"));
    good(&["pretrain", &recipe, "--run", text(&folder), "--quiet"]);
    folder
}

/// The one that tests only read.
fn base() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| pretrained("base"))
}

/// A fine-tuning run of the tiny model: `lines` are examples, `more` settings of the recipe, by table.
fn finetuned(name: &str, lines: &str, more: [&str; 4]) -> PathBuf {
    let examples = write(&format!("replay/{name}.jsonl"), lines);
    let [base, task, train, tables] = more;
    let recipe = write(
        &format!("replay/{name}.toml"),
        format!(
            "[base]\npath = \"{}\"\n{base}\n[task]\nsource = \"{examples}\"\n\
             local = {{ validation = 10, test = 10 }}\n{task}\n[optimizer]\nlr = 0.02\n\
             [train]\nbatch_rows = 4\nlog_every = 1\nthreads = 1\ndevice = \"cpu\"\n{train}\n\
             [eval]\nexamples = 2\nsamples = 0\n{tables}",
            model()
        ),
    );
    let folder = scratch(&format!("replay/{name}"));
    good(&["finetune", &recipe, "--run", text(&folder), "--quiet"]);
    folder
}

fn examples() -> String {
    let answer = |n: usize| "A rose. ".repeat(1 + n % 4);
    (0..40)
        .map(|n| {
            let answer = answer(n);
            format!("{{\"prompt\": \"Say {n}.\", \"completion\": \"{answer}\"}}\n")
        })
        .collect()
}

/// All that a step is, as JSON.
#[track_caller]
fn step(run: &Path, number: u64, more: &[&str]) -> Value {
    let number = number.to_string();
    let arguments = ["replay", text(run), "--step", &number, "--json", "--quiet"];
    json(&[&arguments, more].concat())
}

/// The logged losses by step.
fn logged(run: &Path) -> BTreeMap<u64, f64> {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["kind"] == "train")
        .map(|line| {
            (
                line["step"].as_u64().unwrap(),
                line["loss"].as_f64().unwrap(),
            )
        })
        .collect()
}

/// Every byte of a folder's files.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

/// Asserts that a step came out as it was logged, and that its parts are those of its loss.
#[track_caller]
fn reproduced(found: &Value, log: &BTreeMap<u64, f64>) {
    let number = found["step"].as_u64().unwrap();
    let loss = found["loss"].as_f64().unwrap();
    assert_eq!(found["reproduced"], true, "step {number}: {found}");
    assert_eq!(loss.to_bits(), log[&number].to_bits(), "step {number}");
    assert_eq!(found["recorded"]["grad_norm"]["exact"], true);
    let of_examples = found["examples"].as_array().unwrap().iter();
    let nats: Vec<f64> = of_examples
        .flat_map(|example| example["tokens"].as_array().unwrap())
        .filter_map(|token| token["nats"].as_f64())
        .collect();
    assert_eq!(nats.len() as u64, found["supervised"].as_u64().unwrap());
    let mean = nats.iter().sum::<f64>() / nats.len() as f64;
    assert!((mean - loss).abs() < 1e-6 * loss, "{mean} and {loss}");
}

#[test]
fn a_pre_training_step_is_shown_with_its_texts_and_comes_out_the_same() {
    let (base, log) = (base(), logged(base()));
    let before = contents(base);
    for (number, from) in [(1, 0), (3, 0), (5, 4), (6, 4)] {
        let found = step(base, number, &[]);
        reproduced(&found, &log);
        assert_eq!(found["from"], from, "step {number}");
        for same in ["same_weights", "same_optimizer"] {
            assert_eq!(found[same].as_bool(), (number == 6).then_some(true));
        }
    }
    let page = good(&["replay", text(base), "--step", "6", "--without", "2"]);
    for words in [
        "step 6 of 6",
        "the checkpoint after step 4",
        "as in the log, to the last bit",
        "Reproduced to the last bit: loss, gradient norm, learning rate and tokens of 2 logged steps, all weights",
        "layer 1",
        "output layer",
        "without 2",
        "base.txt:",
        "+ ",
        " nats ",
    ] {
        assert!(page.contains(words), "no `{words}` in: {page}");
    }
    assert!(
        !page.contains('\u{1b}'),
        "piped, there are no colours: {page}"
    );
    let tokens = good(&[
        "replay",
        text(base),
        "--step",
        "6",
        "--example",
        "2",
        "--tokens",
    ]);
    assert!(
        tokens.contains("PLACE") && tokens.contains("example 2, row 2"),
        "{tokens}"
    );
    assert!(contents(base) == before, "a run is only read");

    // The text of an example stands where its source says.
    let found = step(base, 2, &[]);
    let example = &found["examples"][0];
    let line = example["origins"][0]["line"].as_u64().unwrap() as usize;
    let corpus = corpus();
    let here = corpus.lines().nth(line - 1).unwrap();
    let first = example["text"].as_str().unwrap().lines().next().unwrap();
    assert!(here.contains(first), "`{first}` in `{here}`");
}

#[test]
fn steps_of_fine_tuning_come_out_the_same_whatever_the_rows_and_the_method() {
    let lora = "[lora]\nrank = 2\ndropout = 0.2\n";
    for (name, more) in [
        ("padded", ["", "", "steps = 4\ncheckpoint_every = 2", ""]),
        (
            "grouped",
            ["", "layout = \"grouped\"", "steps = 3\nmicro_rows = 3", ""],
        ),
        (
            "lora",
            [
                "method = \"lora\"",
                "layout = \"packed\"",
                "steps = 5\nmicro_rows = 1\ncheckpoint_every = 3",
                lora,
            ],
        ),
    ] {
        let folder = finetuned(name, &examples(), more);
        let log = logged(&folder);
        for number in log.keys() {
            let found = step(&folder, *number, &["--without", "1"]);
            reproduced(&found, &log);
            let supervised = |value: &Value| value["supervised"].as_u64().unwrap();
            assert_eq!(
                supervised(&found["without"]) + supervised(&found["examples"][0]),
                supervised(&found)
            );
            // What the others cost does not depend on the one left out, nor what dropout takes from them.
            let made = found["without"]["loss"].as_f64().unwrap();
            let reckoned = found["examples"][0]["loss_without"].as_f64().unwrap();
            assert!(
                (made - reckoned).abs() < 1e-5,
                "{name}: {made} and {reckoned}"
            );
        }
    }
}

/// A run that was stopped and went on, and whose early checkpoints are gone.
#[cfg(unix)]
#[test]
fn a_run_that_was_stopped_and_pruned_is_made_again_from_what_is_left() {
    let corpus = write("replay/stopped.txt", corpus());
    let recipe = write(
        "replay/stopped.toml",
        format!(
            "[data]\nsources = [\"{corpus}\"]\nboundaries = \"kept\"\n[tokenizer]\nvocab_size = 300\n\
             [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n[optimizer]\nkind = \"muon\"\n\
             [train]\nsteps = 600\nbatch_rows = 2\nlog_every = 3\nthreads = 1\ndevice = \"cpu\"\n\
             checkpoint_every = 150\nkeep = 1\n[eval]\nsample_tokens = 4\n"
        ),
    );
    let folder = scratch("replay/stopped");
    let arguments = ["pretrain", &recipe, "--run", text(&folder), "--quiet"];
    let begun =
        || fs::read_to_string(folder.join("metrics.jsonl")).is_ok_and(|log| log.contains('\n'));
    assert_eq!(signalled(&arguments, begun, "-INT"), Some(130));
    good(&arguments);
    let kept = fs::read_dir(folder.join("checkpoints")).unwrap().count();
    assert_eq!(kept, 1, "the last one");
    let found = step(&folder, 320, &[]);
    assert_eq!(
        (&found["from"], &found["reproduced"]),
        (&0.into(), &true.into())
    );
    let passed = logged(&folder).range(..320).count();
    assert_eq!(found["passed"].as_array().map(Vec::len), Some(passed));
    assert!(found["recorded"].is_null(), "every third is logged");
    let page = good(&["replay", text(&folder), "--step", "320", "--quiet"]);
    assert!(page.contains("this step itself was not logged"), "{page}");
    reproduced(&step(&folder, 597, &[]), &logged(&folder));
}

#[test]
fn a_bad_example_is_named_as_what_made_the_spike() {
    let lines: String = (0..40)
        .map(|n| {
            let answer = match n {
                20 => "zq#xj@kv%QQ&&wf*pb~0x7f",
                _ => "A rose is a rose.",
            };
            format!("{{\"prompt\": \"Say {n}.\", \"completion\": \"{answer}\"}}\n")
        })
        .collect();
    let folder = finetuned("spike", &lines, ["", "", "steps = 20", ""]);
    // It comes in each of the two epochs; the second time the model knows the others well.
    let log = logged(&folder);
    let rise = |number: u64| log[&number] - log[&(number - 1)];
    let spike = (10..=20).max_by(|one, other| rise(*one).total_cmp(&rise(*other)));
    let spike = spike.unwrap();
    assert!(rise(spike) > 0.5, "{log:?}");
    let found = step(&folder, spike, &[]);
    let examples = found["examples"].as_array().unwrap();
    let bad = examples
        .iter()
        .find(|example| example["origins"][0]["line"] == 21);
    let bad = bad.expect("it is in the batch of the spike");
    let number = bad["number"].to_string();
    let page = good(&[
        "replay",
        text(&folder),
        "--step",
        &spike.to_string(),
        "--without",
        &number,
        "--first",
        "1",
    ]);
    assert!(
        page.contains(&format!("Example {number}, spike.jsonl:21, raises it by")),
        "{page}"
    );
    assert!(
        page.contains("zq#xj@kv%QQ&&wf*pb~0x7f"),
        "its text is the first that is shown: {page}"
    );
    let without = step(&folder, spike, &["--without", &number]);
    let [with, without] =
        [&without["loss"], &without["without"]["loss"]].map(|loss| loss.as_f64().unwrap());
    assert!(
        without < log[&(spike - 1)] && with - without > 0.5,
        "{with}, {without}"
    );
}

#[test]
fn an_edited_log_fails_and_says_which_number() {
    let folder = pretrained("edited");
    let log = folder.join("metrics.jsonl");
    let loss = logged(&folder)[&2];
    let forged = f64::from_bits(loss.to_bits() - 1);
    let honest = fs::read_to_string(&log).unwrap();
    fs::write(&log, honest.replace(&loss.to_string(), &forged.to_string())).unwrap();
    let done = run(&["replay", text(&folder), "--step", "2", "--quiet"]);
    assert_eq!(done.status, 1, "{}", done.err);
    let told = format!("loss of step 2: {forged} in the log, {loss} here");
    for words in [
        "NOT as in the log",
        "NOT reproduced: 1 of 2 logged steps",
        &told,
        "the log, recipe.toml or a checkpoint",
    ] {
        assert!(done.out.contains(words), "no `{words}` in: {}", done.out);
    }
    // Computed otherwise, it need not come out the same, and the reason is the reader's own.
    fs::write(&log, &honest).unwrap();
    let otherwise = [
        "replay",
        text(&folder),
        "--step",
        "6",
        "--quiet",
        "--set",
        "train.micro_rows=1",
    ];
    let done = run(&otherwise);
    assert!(
        done.status == 0 || done.out.contains("--set train.micro_rows=1"),
        "{}",
        done.out
    );

    // A step that no run can have reached counts for nothing.
    let far = "{\"kind\":\"train\",\"step\":18446744073709551615,\"loss\":1.0,\"grad_norm\":1.0}\n";
    fs::write(&log, honest.clone() + far).unwrap();
    good(&["replay", text(&folder), "--step", "3", "--quiet"]);
    fs::write(&log, &honest).unwrap();

    // The checkpoint of the step itself, damaged: the log is all that is left to compare with.
    let weights = folder.join("checkpoints/step-00000006/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, "").unwrap();
    let page = good(&["replay", text(&folder), "--step", "6", "--quiet"]);
    assert!(
        page.contains("passed over") && !page.contains("all weights of"),
        "{page}"
    );
    fs::write(&weights, whole).unwrap();

    // A recipe that says something else than the run did makes other steps.
    let recipe = folder.join("recipe.toml");
    let saved = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, saved.replace("seed = 1", "seed = 2")).unwrap();
    let done = run(&["replay", text(&folder), "--step", "1", "--quiet"]);
    assert_eq!(done.status, 1, "{}", done.err);
    assert!(done.out.contains("NOT reproduced"), "{}", done.out);
}

/// Weights that are no numbers any more are the same ones when they come out again.
#[test]
fn a_run_that_went_to_nothing_is_made_again_all_the_same() {
    let corpus = write("replay/lost.txt", corpus());
    let recipe = write(
        "replay/lost.toml",
        format!(
            "[data]\nsources = [\"{corpus}\"]\n[tokenizer]\nvocab_size = 300\n\
             [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n\
             [optimizer]\nlr = 1e38\nclip = 0.0\n[train]\nsteps = 4\nbatch_rows = 2\nlog_every = 1\n\
             threads = 1\ndevice = \"cpu\"\nmax_bad_steps = 50\n[eval]\nsample_tokens = 4\n"
        ),
    );
    let folder = scratch("replay/lost");
    good(&["pretrain", &recipe, "--run", text(&folder), "--quiet"]);
    let found = step(&folder, 4, &[]);
    assert_eq!(found["same_weights"], true, "{found}");
    assert_eq!(found["reproduced"], true, "{found}");
}
