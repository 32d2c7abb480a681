//! Damaged checkpoints, token shards, recipes and JSONL files: each is refused with a message, or read as what it
//! was; nothing panics, nothing hangs, and nothing wrong is taken as right.
//!
//! A few of each here; `ETUDE_DAMAGED=10000` takes as many in all (`scripts/faults.sh`).

#![allow(clippy::print_stdout, reason = "how many were read all the same")]

mod mutate;
#[path = "../faults/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etude_data::{Catalog, LocalOptions, Progress, Shard, Split, TaskBody, open_cached};
use etude_train::checkpoint::Checkpoints;
use etude_train::{RecipeText, Validate};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use mutate::{apply, damages};
use place::{Job, Place};

/// Longer than any of these small files takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Damaged files of each kind.
fn cases() -> u32 {
    let all = env::var("ETUDE_DAMAGED").ok().map(|all| all.parse());
    all.map_or(100, |all: Result<u32, _>| {
        all.expect("ETUDE_DAMAGED is a number") / 4
    })
}

/// Tries `check` on so many damaged forms of `whole`; it is true when the file was read, false when it was refused.
fn try_damaged(
    name: &str,
    files: &[Vec<u8>],
    check: impl Fn(usize, &[u8]) -> Result<bool, TestCaseError>,
) {
    let config = Config {
        cases: cases(),
        failure_persistence: None,
        ..Config::default()
    };
    let read = std::cell::Cell::new(0);
    let strategy = (0..files.len(), damages());
    let tried = TestRunner::new(config).run(&strategy, |(which, damages)| {
        let begun = Instant::now();
        let taken = check(which, &apply(&files[which], &damages))?;
        read.set(read.get() + u32::from(taken));
        prop_assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("{name}: {failure}");
    }
    println!(
        "{name}: {} damaged, {} of them read as they were meant",
        cases(),
        read.get()
    );
}

/// A message is there, and says little more than the value that it quotes.
fn refused(message: &str) -> Result<bool, TestCaseError> {
    prop_assert!(!message.is_empty());
    prop_assert!(
        message.len() < 50_000,
        "a message of {} bytes",
        message.len()
    );
    Ok(false)
}

#[test]
fn checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::new(folder.path());
    for job in Job::ALL {
        let run = format!("whole-{}", job.name());
        place.run(job, &run).expect("runs");
        let run = place.folder(&run);
        let saved = run.join("checkpoints/step-00000003");
        let mut files = Vec::new();
        list(&saved, &mut files);
        let contents: Vec<Vec<u8>> = files
            .iter()
            .map(|path| fs::read(path).expect("reads"))
            .collect();
        let state = Checkpoints::new(&run).open(3).expect("whole").state;
        try_damaged(
            &format!("checkpoint of {}", job.name()),
            &contents,
            |which, damaged| {
                fs::write(&files[which], damaged).expect("written");
                let opened = Checkpoints::new(&run).open(3);
                let now: BTreeMap<&PathBuf, Vec<u8>> = files
                    .iter()
                    .map(|path| (path, fs::read(path).expect("reads")))
                    .collect();
                fs::write(&files[which], &contents[which]).expect("written");
                match opened {
                    Err(error) => refused(&format!("{error:#}")),
                    Ok(checkpoint) => {
                        prop_assert_eq!(&checkpoint.state, &state);
                        for (path, whole) in files.iter().zip(&contents) {
                            let manifest = path.ends_with("manifest.json");
                            prop_assert!(manifest || now[path] == *whole, "{}", path.display());
                        }
                        Ok(true)
                    }
                }
            },
        );
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("reads").flatten() {
        match entry.path() {
            path if path.is_dir() => list(&path, files),
            path => files.push(path),
        }
    }
    files.sort();
}

#[test]
fn shards() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::new(folder.path());
    place.run(Job::Pretrain, "whole-pretrain").expect("runs");
    let shard = fs::read_dir(place.folder("cache/shards"))
        .expect("the run made some")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "tokens"))
        .expect("one of them");
    let whole = fs::read(&shard).expect("reads");
    let before = Shard::open(&shard).expect("whole");
    let fingerprint = before.fingerprint();
    let damaged_path = place.folder("damaged.tokens");
    let everything = |shard: &Shard| {
        let mut ids = Vec::new();
        shard.read(0..shard.tokens(), &mut ids);
        let documents: Vec<_> = (0..shard.documents()).map(|n| shard.document(n)).collect();
        (ids, documents, shard.text_bytes(), shard.id_bound())
    };
    let expected = everything(&before);
    try_damaged("shard", &[whole], |_, damaged| {
        // A new file each time: an open shard must not be written over.
        let _ = fs::remove_file(&damaged_path);
        fs::write(&damaged_path, damaged).expect("written");
        match open_cached(&damaged_path, &fingerprint) {
            Err(error) => refused(&error.to_string()),
            Ok(shard) => {
                prop_assert!(
                    everything(&shard) == expected,
                    "a damaged shard is taken as whole"
                );
                Ok(true)
            }
        }
    });
}

#[test]
fn recipes() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::new(folder.path());
    let texts: Vec<Vec<u8>> = Job::ALL
        .iter()
        .map(|&job| place.recipe(job).into_bytes())
        .collect();
    try_damaged("recipe", &texts, |which, damaged| {
        let path = place.folder("damaged.toml");
        fs::write(&path, damaged).expect("written");
        let text = match RecipeText::read(&path) {
            Err(error) => return refused(&format!("{error:#}")),
            Ok(text) => text,
        };
        if which == 0 {
            taken::<etude_pretrain::Recipe>(&text)
        } else {
            taken::<etude_finetune::Recipe>(&text)
        }
    });
}

/// A recipe that passes its checks is saved with the run, and must say the same there.
fn taken<R>(text: &RecipeText) -> Result<bool, TestCaseError>
where
    R: Validate + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let recipe: R = match text.parse(&[]) {
        Err(error) => return refused(&format!("{error:#}")),
        Ok(recipe) => recipe,
    };
    let saved = RecipeText {
        text: etude_train::recipe::to_toml(&recipe).expect("what was read can be written"),
        ..text.clone()
    };
    let again: R = saved.parse(&[]).expect("what was written can be read");
    prop_assert_eq!(recipe, again);
    Ok(true)
}

#[test]
fn examples() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place::new(folder.path());
    let catalog = Catalog::load(&[] as &[PathBuf]).expect("the shipped manifests");
    let cache = etude_data::Cache::at(place.folder("cache"));
    let line = |n: u32| {
        format!(
            "{{\"prompt\": \"Say {n}, \\u00fc.\", \"completion\": \"A rose {}.5.\"}}\n",
            n * 7
        )
    };
    let whole: String = (0..40).map(line).collect();
    let path = place.folder("damaged.jsonl");
    try_damaged("JSONL", &[whole.into_bytes()], |_, damaged| {
        fs::write(&path, damaged).expect("written");
        let read = catalog
            .get_with(&path.display().to_string(), &LocalOptions::default())
            .and_then(|manifest| manifest.fetch(&cache, &Progress::Silent))
            .and_then(|dataset| {
                let splits = [Split::Train, Split::Validation, Split::Test];
                dataset.examples(&splits)?.collect::<Result<Vec<_>, _>>()
            });
        let examples = match read {
            Err(error) => return refused(&error.to_string()),
            Ok(examples) => examples,
        };
        // What was taken is what its line says, read by itself.
        let lines: Vec<&[u8]> = damaged.split(|&byte| byte == b'\n').collect();
        for example in &examples {
            let line = lines[example.source.line as usize - 1];
            let value: serde_json::Value = match serde_json::from_slice(line) {
                Ok(value) => value,
                Err(error) => {
                    return Err(TestCaseError::fail(format!("{}: {error}", example.source)));
                }
            };
            let TaskBody::Completion { prompt, completion } = &example.body else {
                return Err(TestCaseError::fail("a conversation out of a completion"));
            };
            for (field, read) in [("prompt", prompt), ("completion", completion)] {
                let said = value[field].as_str().map(str::trim);
                prop_assert_eq!(said, Some(read.trim()), "{}", example.source);
            }
        }
        Ok(true)
    });
}
