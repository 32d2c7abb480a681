//! `data.json`: what a run's data is, and whether it is still what the run began with.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use etude_data::DataError;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::checkpoint::Checkpoints;
use crate::run::RunFolder;

/// The key under which the hash of everything that the run is a function of is kept.
const FINGERPRINT: &str = "fingerprint";
/// The key of what tells one base model from another.
const BASE: &str = "base";
/// What follows from the data and would only repeat what differs in it.
const DERIVED: [&str; 2] = [FINGERPRINT, "ledger"];

impl RunFolder {
    /// Writes `data.json`: `description`, an object whose `sources` are objects with a `name`, and the
    /// `fingerprint` of the data.
    ///
    /// # Errors
    /// When the run has checkpoints or is finished, and its `data.json` has another fingerprint: the message says which source
    /// differs, and in what. The file then stays as it was. And when it cannot be written.
    pub fn record_data(&self, description: &impl Serialize, fingerprint: &str) -> Result<()> {
        let mut now = serde_json::to_value(description).context("a description is plain data")?;
        let object = now.as_object_mut().context("a description is an object")?;
        object.insert(FINGERPRINT.to_owned(), fingerprint.into());
        let finished = self.file("summary.json").exists(); // its checkpoints may be gone
        let begun = finished || !Checkpoints::new(self.path()).steps()?.is_empty();
        if begun && compare(self.path(), fingerprint) == Compared::Other {
            let remedy = |old: &str| format!("choose another --run, or bring the old {old} back");
            return Err(changed(self.path(), &now, remedy));
        }
        self.write_json("data.json", &now)
    }
}

/// What `data.json` says of data at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compared {
    /// That it is the run's.
    Same,
    /// That it is not.
    Other,
    /// Nothing.
    Unknown,
}

/// Whether the data of this fingerprint is the one that a run folder was begun with.
pub(crate) fn compare(run: &Path, fingerprint: &str) -> Compared {
    match recorded(run)[FINGERPRINT].as_str() {
        None => Compared::Unknown,
        Some(known) if known == fingerprint => Compared::Same,
        Some(_) => Compared::Other,
    }
}

/// The refusal of other data, with what differs. `remedy` hears what changed: `data` or `base model`.
pub(crate) fn changed(
    run: &Path,
    now: &Value,
    remedy: impl FnOnce(&str) -> String,
) -> anyhow::Error {
    let recorded = recorded(run);
    let found = changes(&recorded, now);
    let subject = match found.len() {
        1 if recorded[BASE].is_string() && recorded[BASE] != now[BASE] => "base model",
        _ => "data",
    };
    let mut what = format!("the {subject} has changed since this run began");
    for line in found {
        what += &format!("\n  {line}");
    }
    DataError::in_file(run, what, remedy(subject)).into()
}

/// `data.json` of a run folder; null when there is none.
fn recorded(run: &Path) -> Value {
    let bytes = fs::read(run.join("data.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// What differs between two descriptions, a line a source and a line for each other figure.
fn changes(before: &Value, now: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let (old, new) = (sources(before), sources(now));
    for (name, source) in &old {
        match new.iter().find(|(other, _)| other == name) {
            None => lines.push(format!("source `{name}` is no longer there")),
            Some((_, other)) => {
                let found = differing(source, other);
                if !found.is_empty() {
                    lines.push(format!("source `{name}`: {}", found.join("; ")));
                }
            }
        }
    }
    for (name, _) in &new {
        if old.iter().all(|(other, _)| other != name) {
            lines.push(format!("source `{name}` was not there"));
        }
    }
    let rest = |value: &Value| -> Map<String, Value> {
        let all = value.as_object().into_iter().flatten();
        all.filter(|(key, _)| *key != "sources" && !DERIVED.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    lines.extend(differing(&rest(before), &rest(now)));
    lines
}

/// The sources by name.
fn sources(description: &Value) -> Vec<(String, Map<String, Value>)> {
    let all = description["sources"].as_array().into_iter().flatten();
    all.filter_map(|source| {
        let name = source["name"].as_str()?.to_owned();
        Some((name, source.as_object()?.clone()))
    })
    .collect()
}

/// `KEY VALUE before, VALUE now` for each key whose values differ; those within objects as `KEY.KEY`.
fn differing(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let (was, is) = (before.get(key), now.get(key));
        if was == is {
            continue;
        }
        if let (Some(Value::Object(was)), Some(Value::Object(is))) = (was, is) {
            found.extend(
                differing(was, is)
                    .iter()
                    .map(|line| format!("{key}.{line}")),
            );
            continue;
        }
        found.push(format!("{key} {} before, {} now", short(was), short(is)));
    }
    found
}

/// A value for a message: of a hash the beginning tells enough.
fn short(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) if text.len() > 40 => {
            format!("{}…", text.chars().take(12).collect::<String>())
        }
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changed_is_named_with_both_figures() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&parent.path().join("run"), "").unwrap();
        let description = |documents: u64, hash: &str| {
            json!({
                "sources": [
                    {"name": "same", "documents": 3},
                    {"name": "mine", "documents": documents, "sha256": hash.repeat(64)},
                ],
                "examples": {"train": documents},
                "base": "one",
                "ledger": [documents],
            })
        };
        run.record_data(&description(4, "a"), "one").unwrap();
        // Before the first checkpoint nothing depends on it.
        run.record_data(&description(5, "b"), "two").unwrap();
        fs::create_dir_all(run.file("checkpoints/step-00000002")).unwrap();
        run.record_data(&description(5, "b"), "two").unwrap();
        let kept = fs::read(run.file("data.json")).unwrap();
        let error = run.record_data(&description(6, "c"), "three").unwrap_err();
        let told = error.to_string();
        for expected in [
            "the data has changed since this run began",
            "source `mine`: documents 5 before, 6 now; sha256 bbbbbbbbbbbb… before, cccccccccccc… now",
            "examples.train 5 before, 6 now",
        ] {
            assert!(told.contains(expected), "no `{expected}` in: {told}");
        }
        assert!(!told.contains("same") && !told.contains("ledger"), "{told}");
        assert_eq!(fs::read(run.file("data.json")).unwrap(), kept);

        let mut other = description(5, "b");
        other["base"] = "another".into();
        let error = run.record_data(&other, "four").unwrap_err().to_string();
        assert!(
            error.contains("the base model has changed")
                && error.contains("base one before, another now"),
            "{error}"
        );
    }
}
