//! Every file-system call of a save goes wrong, one after the other, as SQLite's tests do it: the process dies at the
//! call, the disk is full, the device fails, a write is cut short. After each, the same run goes on and ends in the
//! same bytes as one that was left alone, and no checkpoint is lost but the one that was being written.
//!
//! Here the calls of one save of a pre-training run fail. `ETUDE_FAULTS=all` takes every call that three runs make
//! beneath their run folders (pre-training, fine-tuning, LoRA), and kills real processes besides; a job's name takes one
//! of them: `scripts/faults.sh`.

#![cfg(target_os = "linux")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "which call it is at, and how many went wrong"
)]

mod inject;
mod place;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use etude_experiment::compare_runs;
use etude_train::Ended;
use etude_train::checkpoint::Checkpoints;

use inject::{Call, Kind};
use place::{Job, Place};

/// The folder that the process under injection works in.
const FOLDER: &str = "ETUDE_TEST_FAULTS_FOLDER";
/// `all` for everything, or a job's name for all that goes wrong with it.
const FAULTS: &str = "ETUDE_FAULTS";
/// Of a process that is killed: the place of its job among all.
const JOB: &str = "ETUDE_TEST_FAULTS_JOB";
/// The run that such a process works in.
const KILLED: &str = "killed";
/// The save whose calls fail when not all do: one that removes an older checkpoint.
const ONE_SAVE: &str = "/checkpoints/.unfinished-step-00000002";

#[test]
fn whatever_call_of_a_save_goes_wrong_the_run_ends_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("is there");
    let library = inject::build(&folder);
    let output = Command::new(env::current_exe().expect("this test's program"))
        .args(["--exact", "child_under_injection", "--nocapture"])
        .env("LD_PRELOAD", &library)
        .env(inject::LOG, folder.join("calls.txt"))
        .env(FOLDER, &folder)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let cases = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = cases.lines().rev().take(12).collect();
    assert!(
        output.status.success(),
        "{said}\n{}",
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    );
    for line in said.lines().filter(|line| line.contains("calls")) {
        println!("{line}");
    }
}

/// Not a test by itself: what runs with the library loaded.
#[test]
fn child_under_injection() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    if env::var_os(JOB).is_some() {
        return;
    }
    let place = Place::new(Path::new(&folder));
    let asked = env::var(FAULTS).unwrap_or_default();
    if asked.is_empty() {
        return try_all(&place, Job::Pretrain, false);
    }
    let jobs = Job::ALL
        .into_iter()
        .filter(|job| ["all", job.name()].contains(&asked.as_str()));
    for job in jobs {
        finished(&place, Job::Pretrain, "whole-pretrain"); // the base of the others
        try_all(&place, job, true);
    }
}

/// Not a test by itself: what is killed at a call, with its plan in the environment.
#[test]
fn child_that_is_killed_at_a_call() {
    let (Some(folder), Some(job)) = (env::var_os(FOLDER), env::var_os(JOB)) else {
        return;
    };
    let job = Job::ALL.into_iter().find(|known| job == known.name());
    let place = Place::new(Path::new(&folder));
    place.run(job.expect("a job"), KILLED).expect("runs");
}

fn try_all(place: &Place, job: Job, all: bool) {
    let whole = format!("whole-{}", job.name());
    let counted = place.folder("counted");
    finished(place, job, &whole);
    inject::tell(&inject::plan(Kind::Count, 1, &counted));
    finished(place, job, "counted");
    let calls = inject::calls();
    inject::end();
    let chosen = chosen(&calls, all);
    let mut cases: BTreeMap<Kind, usize> = BTreeMap::new();
    for &at in &chosen {
        for kind in kinds(&calls[at], at == chosen[0], all) {
            eprintln!(
                "{} {kind:?} at call {} of {}: {:?}",
                job.name(),
                at + 1,
                calls.len(),
                calls[at]
            );
            goes_on(place, job, &whole, &calls[..at], kind);
            *cases.entry(kind).or_default() += 1;
        }
    }
    let cases: Vec<String> = cases
        .iter()
        .map(|(kind, count)| format!("{} {count}", kind.name()))
        .collect();
    println!(
        "{}: {} of {} calls went wrong: {}",
        job.name(),
        chosen.len(),
        calls.len(),
        cases.join(", ")
    );
}

/// The calls that go wrong, by their place: all, or those of one save, from its first to the removal of the older
/// checkpoint.
fn chosen(calls: &[Call], all: bool) -> Vec<usize> {
    if all {
        return (0..calls.len()).collect();
    }
    let in_save = |call: &Call| call.path.contains(ONE_SAVE);
    let first = calls.iter().position(in_save).expect("it was saved");
    let removal = |call: &Call| call.path.contains("/checkpoints/step-00000001");
    let last = calls.iter().rposition(removal).expect("it was removed");
    (first..=last).collect()
}

/// What may go wrong with a call. What lasts (a full disk) is tried from the `first` call on, or from each.
fn kinds(call: &Call, first: bool, all: bool) -> Vec<Kind> {
    let mut kinds = vec![Kind::Crash, Kind::Eio];
    if call.writes() {
        kinds.extend([Kind::Torn, Kind::Short]);
    }
    if call.needs_room() {
        kinds.push(Kind::Enospc);
    }
    if first || all {
        kinds.extend([Kind::Full, Kind::Readonly]);
    }
    if all {
        kinds.push(Kind::Kill);
    }
    kinds
}

/// Makes the call after `done` go wrong, goes on with the run, and compares its end.
fn goes_on(place: &Place, job: Job, whole: &str, done: &[Call], kind: Kind) {
    let (name, folder) = (KILLED, place.folder(KILLED));
    let _ = fs::remove_dir_all(&folder);
    let plan = inject::plan(kind, done.len() + 1, &folder);
    if kind == Kind::Kill {
        killed(job, &plan);
    } else {
        inject::tell(&plan);
        let ended = place.run(job, name);
        inject::end();
        match ended {
            Ok(_) => assert!(
                !matches!(kind, Kind::Crash | Kind::Torn),
                "nothing can be written, and nobody notices"
            ),
            Err(error) if kind == Kind::Short => panic!("half a write is no failure: {error:#}"),
            Err(error) => {
                let told = format!("{error:#}");
                assert!(told.contains(name), "the message names no file: {told}");
            }
        }
    }
    // Where a checkpoint was in its place before, it or a newer one still is.
    let (newest, torn) = Checkpoints::new(&folder).newest().expect("can be read");
    let newest = newest.map_or(0, |checkpoint| checkpoint.state.step);
    let saved = done.iter().filter(|call| call.name == "rename");
    let saved = saved.filter_map(|call| {
        let (_, step) = call.path.split_once("/checkpoints/.unfinished-step-")?;
        step.parse::<u64>().ok()
    });
    let saved = saved.max().unwrap_or(0);
    assert!(
        newest >= saved,
        "step {saved} was saved, {newest} is left; torn: {torn:?}"
    );

    finished(place, job, name);
    let (_, differences) = compare_runs(&place.folder(whole), &folder).expect("both are whole");
    assert!(differences.is_empty(), "{differences:#?}");
}

fn finished(place: &Place, job: Job, run: &str) {
    match place.run(job, run) {
        Ok(Ended::Finished(_)) => {}
        other => panic!("{run}: does not end: {other:?}"),
    }
}

/// A process of its own that is killed at the planned call.
fn killed(job: Job, plan: &str) {
    let status = Command::new(env::current_exe().expect("this test's program"))
        .args(["--exact", "child_that_is_killed_at_a_call"])
        .env(JOB, job.name())
        .env("FAULT_PLAN", plan)
        .env_remove(inject::LOG)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("starts");
    assert_eq!(status.signal(), Some(9), "it was killed: {status}");
}
