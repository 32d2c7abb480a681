//! What was measured at a run's checkpoints, kept in the run as `probes.json` for its report.

use std::fs;
use std::path::Path;

use anyhow::Result;
use etude_train::durable;
use serde_json::{Map, Value, json};

use crate::output;

/// Sets `found` under `section`, in place of what was measured of the same names before, and makes the report anew
/// where the run has one. A folder that cannot be written to loses nothing but this note of it.
pub(super) fn keep(run: &Path, section: &str, found: Map<String, Value>) {
    match put(run, section, found) {
        Ok(()) => output::note(&format!(
            "kept in {}; `etude report` shows it",
            run.join("probes.json").display()
        )),
        Err(error) => output::note(&format!("warning: not kept for the report: {error:#}")),
    }
}

fn put(run: &Path, section: &str, found: Map<String, Value>) -> Result<()> {
    let path = run.join("probes.json");
    let before = fs::read(&path).ok();
    let mut all: Map<String, Value> = before
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let members = all.entry(section).or_insert_with(|| json!({}));
    if !members.is_object() {
        *members = json!({});
    }
    for (name, value) in found {
        members[name] = value;
    }
    durable::write(&path, &serde_json::to_vec_pretty(&all)?)?;
    if run.join("report.html").is_file() {
        etude_report::write(run)?;
    }
    Ok(())
}
