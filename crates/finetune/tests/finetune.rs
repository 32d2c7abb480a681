//! Whole fine-tuning runs of a tiny base model on a JSONL file: stopping and going on, and what a user who
//! made a mistake is told.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use etude_finetune::{Scores, Task, prepare, questions};
use etude_train::{Ended, RunFolder};
use serde_json::{Value, json};
use support::{Place, assert_same, metrics, tasks, wait_for};

/// Names the folder that the child of the kill test works in.
const CHILD: &str = "ETUDE_TEST_FINETUNE_FOLDER";

#[test]
fn a_run_learns() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let Ended::Finished(summary) = place.run("run", &[]).expect("runs") else {
        panic!("nobody stopped it")
    };
    assert_eq!((summary.stage.as_str(), summary.steps), ("finetune", 40));
    let lines = metrics(&place.folder("run"));
    let loss = |line: &Value| line["loss"].as_f64().expect("finite");
    let (first, last) = (loss(&lines[0]), loss(&lines[lines.len() - 1]));
    assert!(last < first - 0.1, "{first} to {last}");
}

#[test]
fn an_interrupted_and_a_killed_run_end_as_one_left_alone() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    place.run("whole", &[]).expect("runs");

    let (context, recipe) = (place.context("halves"), place.recipe(&[]).expect("parses"));
    let interrupt = context.interrupt.clone();
    let folder = context.folder.clone();
    let asking = std::thread::spawn(move || {
        wait_for(&folder, 10);
        interrupt.ask();
    });
    let ended = etude_finetune::run(&recipe, &context).expect("runs");
    asking.join().expect("asked");
    assert!(
        matches!(ended, Ended::Interrupted { step } if (10..40).contains(&step)),
        "{ended:?}"
    );
    place.run("halves", &[]).expect("resumes");
    assert_same(&place.folder("whole"), &place.folder("halves"));

    let mut child = Command::new(std::env::current_exe().expect("this test's program"))
        .args(["--exact", "child_that_is_killed"])
        .env(CHILD, root.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    wait_for(&place.folder("killed"), 13);
    child.kill().expect("is killed");
    assert_eq!(
        child.wait().expect("ends").signal(),
        Some(9),
        "it was not done yet"
    );
    place.run("killed", &[]).expect("resumes");
    assert_same(&place.folder("whole"), &place.folder("killed"));
}

/// Not a test by itself: what the test above starts and kills.
#[test]
fn child_that_is_killed() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    Place(root.into()).run("killed", &[]).expect("runs");
}

#[test]
fn a_base_model_that_cannot_be_used_is_named() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let message = place.refusal(&["base.path=nowhere"]);
    assert!(message.contains("base.path = nowhere"), "{message}");
    let file = place.folder("model.gguf");
    fs::write(&file, "GGUF").expect("writes");
    let message = place.refusal(&[&format!("base.path={:?}", file)]);
    assert!(
        message.contains("base.path = ") && !message.contains("checkpoints"),
        "{message}"
    );
    let stopped = place.folder("stopped");
    for step in ["step-00000005", "step-00000010"] {
        fs::create_dir_all(stopped.join("checkpoints").join(step)).expect("makes");
    }
    let message = place.refusal(&[&format!("base.path={:?}", stopped)]);
    assert!(
        message.contains("stopped: the run has not finished")
            && message.contains("checkpoints/step-00000010"),
        "{message}"
    );
    fs::remove_file(place.folder("base/model.safetensors")).expect("removes");
    let message = place.refusal(&["train.steps=2"]);
    assert!(message.contains("model.safetensors"), "{message}");
    // Its configuration and tokenizer are enough for a start from scratch.
    place
        .run("scratch", &["train.steps=2", "base.from_scratch=true"])
        .expect("runs");
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    for (setting, says) in [
        (
            "task.trunkation=drop",
            &["--set task.trunkation=drop", "did you mean `truncation`"][..],
        ),
        (
            "task.truncation=cut",
            &["--set task.truncation=cut", "`cut`", "truncate-prompt"],
        ),
        ("optimizer.lr=-1", &["optimizer.lr = -1", "above 0"]),
        ("task.format=poem", &["task.format = `poem`", "`chat`"]),
        ("task.prompt=hello", &["{prompt}"]),
        ("task.source=nowhere.jsonl", &["nowhere.jsonl"]),
        ("task.local.validation=0", &["task.local.validation"]),
        (
            "schedule.warmup_steps=41",
            &["schedule.warmup_steps = 41", "train.steps = 40"],
        ),
    ] {
        let message = match place.recipe(&[setting]) {
            Err(error) => format!("{error:#}"),
            Ok(_) => place.refusal(&[setting]),
        };
        for part in says {
            assert!(message.contains(part), "{setting}: {message}");
        }
    }
}

#[test]
fn examples_that_cannot_be_learnt_from_are_named() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    place.write_tasks(tasks().enumerate().map(|(n, mut task)| {
        if n == 7 {
            task.as_object_mut()
                .expect("an object")
                .remove("completion");
        }
        task
    }));
    let message = place.refusal(&[]);
    assert!(
        message.contains("task.jsonl:8") && message.contains("completion"),
        "{message}"
    );

    // Prompts longer than the context: cutting the end leaves no answer, dropping leaves no example.
    place.write_tasks(tasks().map(|mut task| {
        task["prompt"] = Value::from(format!(
            "{} {}",
            task["prompt"],
            "9 8 7 6 5 4 3 2 1 0 ".repeat(20)
        ));
        task
    }));
    for (steps, truncation, reason) in [
        (
            "train.steps=2",
            "task.truncation=truncate",
            "answer cut away",
        ),
        ("train.steps=3", "task.truncation=drop", "too long"),
    ] {
        let message = place.refusal(&[steps, truncation]);
        assert!(message.contains(reason), "{truncation}: {message}");
    }
    // Cutting the prompt instead keeps the answers.
    place
        .run("cut", &["train.steps=2", "task.truncation=truncate-prompt"])
        .expect("runs");

    place.write_tasks([]);
    let message = place.refusal(&["train.steps=4"]);
    assert!(
        message.contains("task.jsonl") && message.contains("no record"),
        "{message}"
    );
}

#[test]
fn changed_data_a_changed_base_and_a_second_process_are_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let settings = ["train.steps=4"];
    let context = place.context("run");
    context.interrupt.ask();
    let recipe = place.recipe(&settings).expect("parses");
    assert_eq!(
        etude_finetune::run(&recipe, &context).expect("runs"),
        Ended::Interrupted { step: 1 }
    );

    place.write_tasks(tasks().skip(1));
    let error = format!("{:#}", place.run("run", &settings).expect_err("refused"));
    assert!(error.contains("the data has changed"), "{error}");
    place.write_tasks(tasks());
    place.write_base(6);
    let error = format!("{:#}", place.run("run", &settings).expect_err("refused"));
    assert!(error.contains("has changed"), "{error}");
    place.write_base(5);

    let recipe_text = fs::read_to_string(place.folder("run/recipe.toml")).expect("reads");
    let held = RunFolder::open(&place.folder("run"), &recipe_text).expect("opens");
    let error = format!("{:#}", place.run("run", &settings).expect_err("refused"));
    assert!(error.contains("another etude process"), "{error}");
    drop(held);
    assert!(matches!(
        place.run("run", &settings).expect("goes on"),
        Ended::Finished(_)
    ));
}

#[test]
fn a_run_is_scored_before_and_after_when_its_recipe_asks() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let metrics = "eval.metrics=[\"exact_match\", \"bits_per_byte\"]";
    let finished = |settings: &[&str]| match place.run("scored", settings).expect("runs") {
        Ended::Finished(summary) => summary,
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    };
    let file = |name: &str| place.folder("scored").join(name);
    let plain = finished(&[]);
    assert!(plain.scores.is_empty() && !file("scores.json").exists());

    // A signal ends the answering, and nothing half done is kept.
    let recipe = place.recipe(&[metrics, "eval.test=5"]).expect("parses");
    let context = place.context("scored");
    context.interrupt.ask();
    assert_eq!(
        etude_finetune::run(&recipe, &context).expect("stops"),
        Ended::Interrupted { step: plain.steps }
    );
    assert!(!file("scores.json").exists());

    // A finished run can be asked later, and is not trained again.
    let summary = finished(&[metrics, "eval.test=5"]);
    let scores: Scores =
        serde_json::from_slice(&fs::read(file("scores.json")).expect("there")).expect("scores");
    assert_eq!(
        (scores.n, scores.after.len(), scores.before.len()),
        (5, 2, 2)
    );
    let (before, after) = (
        scores.before["bits_per_byte"],
        scores.after["bits_per_byte"],
    );
    assert!(after.value < before.value, "{before:?} {after:?}");
    let gain = scores.gains["bits_per_byte"];
    assert!((gain.value - (after.value - before.value)).abs() < 1e-12);
    assert_eq!(summary.scores["bits_per_byte"], after.value);
    let saved: Value =
        serde_json::from_slice(&fs::read(file("summary.json")).expect("there")).expect("JSON");
    assert_eq!(saved["scores"]["bits_per_byte"], after.value);
    for name in ["answers.jsonl", "answers-before.jsonl"] {
        let text = fs::read_to_string(file(name)).expect("answers");
        assert_eq!(text.lines().count(), 5, "{name}");
    }
    // The scores are there: the same again, without asking.
    let stamp = fs::metadata(file("answers.jsonl"))
        .and_then(|found| found.modified())
        .expect("a time");
    assert_eq!(finished(&[metrics, "eval.test=5"]).scores, summary.scores);
    let again = fs::metadata(file("answers.jsonl"))
        .and_then(|found| found.modified())
        .expect("a time");
    assert_eq!(stamp, again);

    // From scratch there is nothing before.
    place
        .run(
            "scratch",
            &["base.from_scratch=true", metrics, "train.steps=2"],
        )
        .expect("runs");
    let text = fs::read_to_string(place.folder("scratch").join("scores.json")).expect("there");
    assert!(!text.contains("before"), "{text}");
}

#[test]
fn general_text_is_mixed_in_by_its_share_of_learnt_tokens() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let text: String = (0..300)
        .map(|number| format!("line {number} of a plain text.\n"))
        .collect();
    fs::write(place.0.join("text.txt"), text).expect("writes");
    let mix = |share: &str| {
        format!(
            "task.mix={{source={:?}, share={share}}}",
            place.0.join("text.txt")
        )
    };
    let prepared = |settings: &[&str]| {
        let recipe = place.recipe(settings).expect("parses");
        let tokenizer = etude_tokenizer::Tokenizer::load(&place.folder("base")).expect("loads");
        prepare(&recipe.task, 64, &tokenizer, &place.context("unused")).expect("prepares")
    };
    let plain = prepared(&[]);
    let mixed = prepared(&[&mix("0.5")]);
    let learnt = |task: &Task| {
        task.train
            .iter()
            .map(|example| example.targets())
            .sum::<usize>() as f64
    };
    let share = 1.0 - learnt(&plain) / learnt(&mixed);
    // Whole stretches of 64 tokens: half, up to one of them.
    let stretch = 64.0 / learnt(&mixed);
    assert!((share - 0.5).abs() <= stretch, "{share}");
    assert_eq!(plain.train[..], mixed.train[..plain.train.len()]);
    let general = &mixed.train[plain.train.len()..];
    assert!(
        general
            .iter()
            .all(|stretch| !stretch.supervised[0] && stretch.supervised[1..].iter().all(|&s| s))
    );
    // Each says on which line of the file it begins.
    let tokenizer = etude_tokenizer::Tokenizer::load(&place.folder("base")).expect("loads");
    let mut checked = 0;
    for stretch in general {
        let text = tokenizer.decode(&stretch.ids, true).expect("decodes");
        let Some((before, after)) = text.split_once("\nline ") else {
            continue;
        };
        let number = after
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok());
        if let Some(number) = number.filter(|_| after.contains(" of")) {
            let number: u64 = number; // from 0, on the line after
            let lines = before.matches('\n').count() as u64 + 1;
            assert_eq!(stretch.source.line + lines, number + 1, "{text:?}");
            checked += 1;
        }
    }
    assert!(checked >= 2, "{checked}");
    assert_ne!(plain.fingerprint, mixed.fingerprint);
    for share in ["0", "1", "-0.5"] {
        assert!(place.refusal(&[&mix(share)]).contains("task.mix.share"));
    }
    place
        .run(
            "mixed",
            &[&mix("0.3"), "task.layout=packed", "train.steps=3"],
        )
        .expect("runs");

    // Another draw takes other examples, as many; one draw's smaller set is part of its larger one.
    let names = |settings: &[&str]| {
        let task = prepared(settings);
        task.train
            .iter()
            .map(|example| example.id.clone())
            .collect::<Vec<_>>()
    };
    let (first, second) = (
        names(&["task.examples=6"]),
        names(&["task.examples=6", "task.draw=1"]),
    );
    assert_eq!((first.len(), second.len()), (6, 6));
    assert_ne!(first, second);
    let larger = names(&["task.examples=9", "task.draw=1"]);
    assert!(second.iter().all(|name| larger.contains(name)));
}

#[test]
fn what_is_asked_does_not_hang_on_what_is_learnt() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let tokenizer = etude_tokenizer::Tokenizer::load(&place.folder("base")).expect("loads");
    let context = place.context("unused");
    let task = |settings: &[&str]| place.recipe(settings).expect("parses").task;
    // No example has room in two tokens.
    let error = prepare(&task(&["task.context=2"]), 64, &tokenizer, &context).unwrap_err();
    assert!(error.to_string().contains("fits the context"), "{error}");
    let asked = questions(&task(&["task.context=2"]), 64, &tokenizer, &context).expect("asks");
    let whole = prepare(&task(&[]), 64, &tokenizer, &context).expect("prepares");
    assert_eq!((asked.name, asked.test), (whole.name, whole.test));
}

#[test]
fn scores_that_cannot_be_had_are_refused_before_anything_is_learnt() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let folder = root.path().join("tasks");
    fs::create_dir(&folder).expect("makes");
    let example = |prompt: String| format!("{}\n", json!({"prompt": prompt, "completion": "a"}));
    let short: String = (0..20).map(|index| example(format!("{index}"))).collect();
    fs::write(folder.join("train.jsonl"), &short).expect("writes");
    fs::write(folder.join("validation.jsonl"), &short).expect("writes");
    fs::write(folder.join("test.jsonl"), example("long ".repeat(200))).expect("writes");
    let source = format!("task.source={:?}", folder.display().to_string());
    let message = place.refusal(&[&source, "eval.metrics=[\"rouge_l\"]"]);
    assert!(message.contains("test split cannot be scored"), "{message}");
    assert!(message.contains("none of the 1 examples fits"), "{message}");
    let choice = "eval.metrics=[\"choice_accuracy\"]";
    let message = place.refusal(&[choice, "eval.choices=[\"\", \"red\"]"]);
    assert!(
        message.contains("one of the choices ``, `red` is empty"),
        "{message}"
    );
    assert!(metrics(&place.folder("refused")).is_empty());
}
