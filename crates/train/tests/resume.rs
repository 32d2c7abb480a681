//! A run that is stopped and taken up again ends in the same bytes as one that was not: after an
//! interruption, after a kill, and whatever the log and the checkpoints look like then.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etude_model::Family;
use etude_tensor::Precision;
use etude_train::checkpoint::Checkpoints;
use etude_train::interrupt::Interrupt;
use etude_train::{Ended, OptimizerKind};
use support::{
    Counting, assert_same_runs, context, decoder, losses, metrics, run, run_with, settings,
};

const LAST: &str = "step-00000020";
/// Names the folder that the child of the kill test trains in.
const CHILD: &str = "ETUDE_TEST_RESUME_FOLDER";

#[test]
fn twenty_steps_are_ten_and_ten() {
    for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let parent = tempfile::tempdir().expect("a folder");
        let (whole, halves) = (parent.path().join("whole"), parent.path().join("halves"));
        let mut settings = settings(20, kind);
        settings.train.eval_every = 9;
        run(&Counting::default(), &settings, &whole).expect("runs");

        let context = context(&halves);
        let stage = Counting {
            stop_at_validation: Some(context.interrupt.clone()),
            ..Counting::default()
        };
        let ended = run_with(
            &stage,
            &settings,
            &context,
            &decoder(Family::NanoChat, Precision::Float32),
        )
        .expect("runs");
        assert_eq!(
            ended,
            Ended::Interrupted { step: 10 },
            "asked at step 9, it ends with the next"
        );
        assert!(!halves.join("summary.json").exists() && !halves.join("model").exists());
        let ended = run(&Counting::default(), &settings, &halves).expect("resumes");
        assert!(matches!(ended, Ended::Finished(_)));
        assert_same_runs(&whole, &halves, LAST);
        assert_eq!(losses(&halves).len(), 20);
    }
}

#[test]
fn a_run_may_be_interrupted_at_every_step() {
    let parent = tempfile::tempdir().expect("a folder");
    let (whole, pieces) = (parent.path().join("whole"), parent.path().join("pieces"));
    let settings = settings(5, OptimizerKind::Muon);
    run(&Counting::default(), &settings, &whole).expect("runs");
    for step in 1..5 {
        let context = context(&pieces);
        context.interrupt.ask();
        let decoder = decoder(Family::NanoChat, Precision::Float32);
        let ended = run_with(&Counting::default(), &settings, &context, &decoder).expect("runs");
        assert_eq!(ended, Ended::Interrupted { step });
    }
    run(&Counting::default(), &settings, &pieces).expect("finishes");
    assert_same_runs(&whole, &pieces, "step-00000005");
}

#[test]
fn a_last_sample_that_fails_costs_the_sample_alone() {
    let parent = tempfile::tempdir().expect("a folder");
    let (whole, failed) = (parent.path().join("whole"), parent.path().join("failed"));
    let mut settings = settings(5, OptimizerKind::Adamw);
    settings.train.sample_every = 0; // the last alone
    run(&Counting::default(), &settings, &whole).expect("runs");

    let mute = Counting {
        mute: true,
        ..Counting::default()
    };
    for _ in 0..2 {
        let error = run(&mute, &settings, &failed).expect_err("no sample can be made");
        assert!(format!("{error:#}").contains("nothing comes to mind"));
        assert!(failed.join("checkpoints/step-00000005").is_dir());
        assert!(!failed.join("summary.json").exists());
    }
    let ended = run(&Counting::default(), &settings, &failed).expect("finishes");
    assert!(matches!(ended, Ended::Finished(_)));
    assert_same_runs(&whole, &failed, "step-00000005");
    let samples = |folder: &Path| fs::read(folder.join("samples.jsonl")).expect("is written");
    assert_eq!(samples(&whole), samples(&failed));
    assert!(failed.join("summary.json").is_file());
}

#[test]
fn samples_that_a_checkpoint_is_without_are_made_when_the_run_goes_on() {
    let parent = tempfile::tempdir().expect("a folder");
    let (whole, torn) = (parent.path().join("whole"), parent.path().join("torn"));
    let mut settings = settings(5, OptimizerKind::Adamw);
    settings.train.sample_every = 2;
    settings.train.checkpoint_every = 2;
    run(&Counting::default(), &settings, &whole).expect("runs");
    let context = context(&torn);
    context.interrupt.ask();
    let decoder = decoder(Family::NanoChat, Precision::Float32);
    for _ in 0..2 {
        run_with(&Counting::default(), &settings, &context, &decoder).expect("is stopped");
    }
    // As a disk that was full for a moment leaves it: the checkpoint of step 2, and not its samples.
    let path = torn.join("samples.jsonl");
    let text = fs::read_to_string(&path).expect("is written");
    let (kept, lost): (Vec<&str>, Vec<&str>) = text
        .lines()
        .partition(|line| !line.contains("\"step\":2,") && !line.contains("\"step\":2}"));
    assert!(!lost.is_empty() && !kept.is_empty(), "{text}");
    fs::write(&path, kept.join("\n") + "\n").expect("writes");
    run(&Counting::default(), &settings, &torn).expect("finishes");
    assert_same_runs(&whole, &torn, "step-00000005");
    let samples = |folder: &Path| fs::read_to_string(folder.join("samples.jsonl")).expect("text");
    assert_eq!(samples(&whole), samples(&torn));
}

#[test]
fn a_run_does_not_begin_anew_over_what_it_has_learnt() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("run");
    let settings = settings(5, OptimizerKind::Adamw);
    run(&Counting::default(), &settings, &folder).expect("runs");
    let log = || fs::read(folder.join("metrics.jsonl")).expect("is written");
    let before = log();
    let (place, aside) = (folder.join("checkpoints"), folder.join("aside"));
    fs::rename(&place, &aside).expect("renames");
    let refused = |says: &str| {
        let error = run(&Counting::default(), &settings, &folder).expect_err(says);
        let error = format!("{error:#}");
        assert!(error.contains(says), "{error}");
        assert_eq!(log(), before);
    };
    refused("a finished run without its checkpoints");
    fs::write(&place, "in the way").expect("writes");
    refused("checkpoints: cannot be read");
    fs::remove_file(&place).expect("removes");
    fs::rename(&aside, &place).expect("renames");
    run(&Counting::default(), &settings, &folder).expect("is finished");
    assert_eq!(log(), before);
}

/// Not a test by itself: what the kill test starts and kills.
#[test]
fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let stage = Counting {
        pause: Duration::from_millis(20),
        ..Counting::default()
    };
    run(&stage, &killed_settings(), Path::new(&folder)).expect("runs");
}

fn killed_settings() -> etude_train::TrainerSettings {
    let mut settings = settings(20, OptimizerKind::Adamw);
    settings.train.checkpoint_every = 3;
    settings.train.eval_every = 6;
    settings
}

#[test]
fn a_killed_run_ends_as_one_that_was_left_alone() {
    let parent = tempfile::tempdir().expect("a folder");
    let (whole, killed) = (parent.path().join("whole"), parent.path().join("killed"));
    run(&Counting::default(), &killed_settings(), &whole).expect("runs");

    for after in [2, 8, 14] {
        let mut child = Command::new(std::env::current_exe().expect("this test's program"))
            .args(["--exact", "child_that_is_killed"])
            .env(CHILD, &killed)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let begun = Instant::now();
        while !logged(&killed, after) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "the child makes no step {after}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("is killed");
        assert_eq!(
            child.wait().expect("ends").signal(),
            Some(9),
            "it was not done yet"
        );
        assert!(!killed.join("summary.json").exists());
    }
    assert!(
        Checkpoints::new(&killed)
            .newest()
            .expect("can be read")
            .0
            .is_some_and(|found| found.state.step >= 12),
        "there is one to take up"
    );
    run(&Counting::default(), &killed_settings(), &killed).expect("resumes");
    assert_same_runs(&whole, &killed, LAST);
}

fn logged(folder: &Path, step: u64) -> bool {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    text.lines()
        .any(|line| line.starts_with(&format!("{{\"kind\":\"train\",\"step\":{step},")))
}

#[test]
fn a_torn_checkpoint_and_a_torn_log_are_made_good() {
    let parent = tempfile::tempdir().expect("a folder");
    let (whole, torn) = (parent.path().join("whole"), parent.path().join("torn"));
    let mut settings = settings(20, OptimizerKind::Adamw);
    settings.train.checkpoint_every = 4;
    settings.train.keep = 1;
    run(&Counting::default(), &settings, &whole).expect("runs");

    // With one checkpoint kept, the torn one of step 12 must not be kept in place of a whole one.
    stopped_after(12, 2, &settings, &torn);
    let newest = torn.join("checkpoints/step-00000012/model.safetensors");
    let mut contents = fs::read(&newest).expect("reads");
    *contents.last_mut().expect("not empty") ^= 1;
    fs::write(&newest, contents).expect("writes");
    for name in ["metrics.jsonl", "samples.jsonl"] {
        let mut log = fs::read(torn.join(name)).expect("reads");
        log.extend_from_slice("{\"kind\":\"train\",\"step\":13,\"text\":\"ü".as_bytes());
        log.pop(); // in the midst of a letter
        fs::write(torn.join(name), log).expect("writes");
    }
    let context = context(&torn);
    context.interrupt.ask();
    let ended = run_with(
        &Counting::default(),
        &settings,
        &context,
        &decoder(Family::NanoChat, Precision::Float32),
    );
    assert_eq!(
        ended.expect("takes up step 8"),
        Ended::Interrupted { step: 9 }
    );
    assert_eq!(
        Checkpoints::new(&torn)
            .newest()
            .expect("can be read")
            .0
            .expect("there is one")
            .state
            .step,
        9
    );
    run(&Counting::default(), &settings, &torn).expect("finishes");
    assert_same_runs(&whole, &torn, LAST);
    let samples = |folder: &Path| fs::read_to_string(folder.join("samples.jsonl")).expect("reads");
    assert_eq!(samples(&whole), samples(&torn));
}

/// Runs to step `step` and stops there, keeping `keep` checkpoints.
fn stopped_after(step: u64, keep: usize, settings: &etude_train::TrainerSettings, folder: &Path) {
    let mut settings = settings.clone();
    (settings.train.eval_every, settings.train.keep) = (step - 1, keep);
    let context = context(folder);
    let stage = Counting {
        stop_at_validation: Some(context.interrupt.clone()),
        ..Counting::default()
    };
    let decoder = decoder(Family::NanoChat, Precision::Float32);
    let ended = run_with(&stage, &settings, &context, &decoder).expect("runs");
    assert_eq!(ended, Ended::Interrupted { step });
    // The line of that validation is not one of the run it is compared with.
    let path = folder.join("metrics.jsonl");
    let text = fs::read_to_string(&path).expect("reads");
    let kept: String = text
        .lines()
        .filter(|line| !line.contains("\"eval\""))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(path, kept).expect("writes");
}

#[test]
fn a_run_that_died_before_its_first_checkpoint_starts_over() {
    let parent = tempfile::tempdir().expect("a folder");
    let (whole, again) = (parent.path().join("whole"), parent.path().join("again"));
    let mut settings = settings(3, OptimizerKind::Adamw);
    settings.train.sample_every = 2;
    run(&Counting::default(), &settings, &whole).expect("runs");
    fs::create_dir_all(&again).expect("makes");
    for name in [".lock", "recipe.toml"] {
        fs::copy(whole.join(name), again.join(name)).expect("copies");
    }
    for name in ["metrics.jsonl", "samples.jsonl"] {
        let log = fs::read_to_string(whole.join(name)).expect("reads");
        fs::write(again.join(name), &log[..log.len() / 2]).expect("writes");
    }
    run(&Counting::default(), &settings, &again).expect("runs");
    assert_same_runs(&whole, &again, "step-00000003");
    let samples = |folder: &Path| fs::read_to_string(folder.join("samples.jsonl")).expect("reads");
    assert_eq!(
        samples(&whole),
        samples(&again),
        "the samples of step 0 are there once"
    );
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("run");
    let settings = settings(3, OptimizerKind::Adamw);
    run(&Counting::default(), &settings, &folder).expect("runs");
    let (before, samples) = (
        metrics(&folder),
        fs::read(folder.join("samples.jsonl")).expect("reads"),
    );
    let Ended::Finished(again) = run(&Counting::default(), &settings, &folder).expect("runs")
    else {
        panic!("it is finished");
    };
    assert_eq!(again.steps, 3);
    assert_eq!(metrics(&folder), before, "nothing is logged twice");
    assert_eq!(
        fs::read(folder.join("samples.jsonl")).expect("reads"),
        samples,
        "nothing is sampled twice"
    );
    assert!(
        again.last.train_loss.is_some(),
        "what the run found stays known"
    );
}

#[test]
fn a_result_that_was_torn_is_made_again_from_the_checkpoint() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("run");
    let settings = settings(3, OptimizerKind::Adamw);
    run(&Counting::default(), &settings, &folder).expect("runs");
    let weights = folder.join("model/model.safetensors");
    let whole = fs::read(&weights).expect("reads");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("writes");
    run(&Counting::default(), &settings, &folder).expect("runs");
    assert_eq!(fs::read(&weights).expect("reads"), whole);
}

#[test]
fn validation_without_a_finite_loss_does_not_spoil_the_checkpoint() {
    for made_up in [(|| f64::NAN) as fn() -> f64, || f64::INFINITY, || 800.0] {
        let parent = tempfile::tempdir().expect("a folder");
        let mut settings = settings(9, OptimizerKind::Adamw);
        (settings.train.eval_every, settings.train.checkpoint_every) = (3, 3);
        let stage = Counting {
            validation_loss: Some(made_up),
            ..Counting::default()
        };
        let context = context(parent.path());
        let stopping = Counting {
            stop_at_validation: Some(context.interrupt.clone()),
            ..stage
        };
        let decoder = decoder(Family::NanoChat, Precision::Float32);
        let ended = run_with(&stopping, &settings, &context, &decoder).expect("runs");
        assert_eq!(ended, Ended::Interrupted { step: 4 });
        let (newest, torn) = Checkpoints::new(parent.path())
            .newest()
            .expect("can be read");
        assert!(torn.is_empty(), "{torn:?}");
        assert_eq!(newest.expect("there is one").state.step, 4);
        run(&Counting::default(), &settings, parent.path()).expect("resumes");
        let best = Checkpoints::new(parent.path())
            .newest()
            .expect("can be read")
            .0
            .expect("there is one")
            .state
            .best;
        assert!(
            best.is_some_and(|(loss, step)| loss < 10.0 && step > 4),
            "a real loss is better: {best:?}"
        );
    }
}

#[test]
fn the_best_checkpoint_is_found_by_losses_of_the_same_text() {
    let parent = tempfile::tempdir().expect("a folder");
    let mut settings = settings(12, OptimizerKind::Adamw);
    (settings.train.eval_every, settings.train.checkpoint_every) = (4, 4);
    let stage = Counting {
        whole_adds: 5.0,
        ..Counting::default()
    };
    run(&stage, &settings, parent.path()).expect("runs");
    let state = Checkpoints::new(parent.path())
        .newest()
        .expect("can be read")
        .0
        .expect("there is one")
        .state;
    let last = state.last_evaluation.expect("validated").loss;
    let (best, step) = state.best.expect("validated");
    assert_eq!(step, 12, "the model still learns");
    assert!((last - best - 5.0).abs() < 1e-9, "{best} beside {last}");
}

#[test]
fn another_run_s_data_is_refused() {
    let parent = tempfile::tempdir().expect("a folder");
    let mut settings = settings(3, OptimizerKind::Adamw);
    let context = context(parent.path());
    context.interrupt.ask();
    let decoder = decoder(Family::NanoChat, Precision::Float32);
    run_with(&Counting::default(), &settings, &context, &decoder).expect("runs");
    settings.data_fingerprint = "other".to_owned();
    let error = run(&Counting::default(), &settings, parent.path())
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("the data has changed") && error.contains("--run"),
        "{error}"
    );
}

#[test]
fn asking_is_seen_by_every_copy() {
    let interrupt = Interrupt::default();
    let copy = interrupt.clone();
    assert!(!copy.asked());
    interrupt.ask();
    assert!(copy.asked());
}
