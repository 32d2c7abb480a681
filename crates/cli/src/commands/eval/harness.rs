//! `etude eval --tasks`.

use std::collections::HashSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use etude_eval::{
    HarnessResult, HarnessSettings, HarnessTask, TaskKind, evaluate_harness, results_json,
};
use serde_json::{Value, json};

use super::EvalArgs;
use super::bar::Bar;
use super::{checkpoints, files, table};
use crate::error::{Misuse, bad_input};
use crate::model::Loaded;
use crate::output;

pub(super) fn run(args: &EvalArgs, names: &[String]) -> Result<()> {
    let tasks = tasks(args, names)?;
    if args.harness.checkpoints {
        return checkpoints::run(args, &tasks);
    }
    let output = args
        .harness
        .output
        .as_deref()
        .map(files::Output::new)
        .transpose()?;
    let loaded = args.device.load(&args.model)?;
    let started = Instant::now();
    let results = evaluate(args, &tasks, &loaded)?;
    let mut all = results_json(&results);
    about(args, &loaded, started, &mut all);
    let written = output
        .map(|output| output.write(&all, &results))
        .transpose()?;
    if args.json {
        if let Some(written) = &written {
            all["files"] = json!(written);
        }
        return output::json(&all);
    }
    output::text(&table::results(&results))?;
    for file in written.iter().flatten() {
        output::line(&format!("written: {}", file.display()))?;
    }
    Ok(())
}

fn tasks(args: &EvalArgs, names: &[String]) -> Result<Vec<HarnessTask>> {
    let catalog = args.catalog.catalog()?;
    let mut known = HashSet::new();
    let load = |name: &String| {
        let mut task = HarnessTask::load(name, &catalog)?;
        // A text to read has no question before which examples could stand.
        let asks = task.spec.kind != TaskKind::Perplexity;
        if let Some(count) = args.num_fewshot.filter(|_| asks) {
            task = task.with_fewshot(count, &catalog)?;
        }
        match known.insert(task.spec.name.clone()) {
            true => Ok(task),
            false => Err(Misuse::error(
                format!("two of the tasks are called `{}`", task.spec.name),
                "give each once, or change the `name` in one of the files",
            )),
        }
    };
    names.iter().map(load).collect()
}

/// Runs a model on the tasks.
pub(super) fn evaluate(
    args: &EvalArgs,
    tasks: &[HarnessTask],
    loaded: &Loaded,
) -> Result<Vec<HarnessResult>> {
    let settings = HarnessSettings {
        limit: args.limit,
        context: args.context.unwrap_or(0),
        ..HarnessSettings::default()
    };
    let run = |task: &HarnessTask| {
        let mut bar = Bar::new();
        let follow = &mut |now| bar.follow(now);
        evaluate_harness(&loaded.decoder, &loaded.tokenizer, task, &settings, follow)
            .map_err(bad_input)
    };
    tasks.iter().map(run).collect()
}

/// What lm-evaluation-harness says about a run beside its results.
fn about(args: &EvalArgs, loaded: &Loaded, started: Instant, all: &mut Value) {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let name = args.model.display().to_string();
    let parameters: i64 = loaded
        .decoder
        .params()
        .iter()
        .map(|(_, tensor)| tensor.size().iter().product::<i64>())
        .sum();
    all["config"] = json!({
        "model": "etude",
        "model_args": {"pretrained": name},
        "model_num_parameters": parameters,
        "batch_size": HarnessSettings::default().rows,
        "device": args.device.device,
        "limit": (args.limit > 0).then_some(args.limit),
        "bootstrap_iters": HarnessSettings::default().bootstrap.resamples,
    });
    all["date"] = json!(since.as_secs_f64());
    all["etude_version"] = json!(env!("CARGO_PKG_VERSION"));
    all["model_source"] = json!("etude");
    all["model_name"] = json!(name);
    all["max_length"] = json!(
        args.context
            .map_or(loaded.decoder.config().context, |c| c as i64)
    );
    all["total_evaluation_time_seconds"] = json!(started.elapsed().as_secs_f64().to_string());
}
