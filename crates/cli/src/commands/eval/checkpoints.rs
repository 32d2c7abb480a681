//! `etude eval RUN --tasks … --checkpoints`: what a run's model could do at each of its checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use etude_eval::{HarnessResult, HarnessScore, HarnessTask, Scored, results_json};
use etude_model::hf::peft;
use serde_json::{Map, Value, json};

use super::{EvalArgs, files, harness, probes, table};
use crate::error::Misuse;
use crate::output;

pub(super) fn run(args: &EvalArgs, tasks: &[HarnessTask]) -> Result<()> {
    let checkpoints = found(&args.model)?;
    let output = args
        .harness
        .output
        .as_deref()
        .map(files::Output::new)
        .transpose()?;
    let mut steps: Vec<(u64, Vec<HarnessResult>)> = Vec::with_capacity(checkpoints.len());
    for (step, folder) in &checkpoints {
        let loaded = args.device.load(folder)?;
        steps.push((*step, harness::evaluate(args, tasks, &loaded)?));
    }
    let all: Vec<Value> = steps
        .iter()
        .map(|(step, results)| {
            let mut all = results_json(results);
            all["step"] = json!(step);
            all
        })
        .collect();
    let all = json!({"checkpoints": all});
    probes::keep(&args.model, "scores", by_task(&steps));
    let none: &[HarnessResult] = &[];
    let written = output.map(|output| output.write(&all, none)).transpose()?;
    if args.json {
        return output::json(&all);
    }
    output::text(&table::steps(&steps))?;
    for file in written.iter().flatten() {
        output::line(&format!("written: {}", file.display()))?;
    }
    Ok(())
}

/// The chief score of each task and of its parts, over the steps, as the report reads it.
fn by_task(steps: &[(u64, Vec<HarnessResult>)]) -> Map<String, Value> {
    let score = |scored: &Scored| {
        let (
            _,
            HarnessScore {
                value, low, high, ..
            },
        ) = table::chief(scored)?;
        Some(json!({"value": value, "low": low, "high": high}))
    };
    let mut tasks = Map::new();
    for (step, results) in steps {
        for result in results {
            let (Some((metric, _)), Some(mut at)) = (table::chief(&result.all), score(&result.all))
            else {
                continue;
            };
            let parts = result.parts.iter();
            at["step"] = json!(step);
            at["parts"] = parts
                .filter_map(|(name, scored)| Some((name.clone(), score(scored)?)))
                .collect::<Map<_, _>>()
                .into();
            let task = tasks.entry(result.spec.name.clone()).or_insert_with(
                || json!({"metric": metric.name(), "chance": result.all.chance, "steps": []}),
            );
            if let Some(steps) = task["steps"].as_array_mut() {
                steps.push(at);
            }
        }
    }
    tasks
}

/// The checkpoints of a run, by step.
pub(super) fn found(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = fs::read_dir(run.join("checkpoints"))
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("step-")?.parse().ok()?;
            let folder = entry.path();
            let whole = folder.join("config.json").is_file() || peft::is_adapter(&folder);
            whole.then_some((step, folder))
        })
        .collect();
    found.sort();
    match found.is_empty() {
        false => Ok(found),
        true => Err(Misuse::error(
            format!("{}: has no checkpoints", run.display()),
            "give a run folder; `train.checkpoint_every` and `train.keep` say how many a run leaves",
        )),
    }
}
