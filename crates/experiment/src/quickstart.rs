//! The main job from end to end, in a folder of its own: `base/`, `task/` and `scratch/` are run folders,
//! `summary.json`, `examples.jsonl` and `report.html` set them side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use etude_data::DataError;
use etude_eval::{TaskResult, compare};
use etude_scores::{Bootstrap, Difference, Score};
use etude_train::interrupt::unless_stopped;
use etude_train::{Ended, FolderKind, RUN, RunContext, Summary, Validate, durable, holds_no_file};
use serde::Serialize;
use serde_json::json;

use crate::arms::{self, Questions};

/// Quickstarts' folders.
const QUICKSTART: FolderKind = FolderKind {
    mark: ".quickstart",
    name: "folder of a quickstart",
    otherwise: |folder| RUN.is(&folder.join("base")) && holds_nothing_else(folder),
};

/// The runs of a quickstart, by their folders.
const RUNS: [&str; 3] = ["base", "task", "scratch"];

/// Whether all that lies in the folder, but for hidden files, is of a quickstart.
fn holds_nothing_else(folder: &Path) -> bool {
    let made = ["summary.json", "examples.jsonl", "report.html"];
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.all(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        RUNS.contains(&&*name) || made.contains(&&*name) || name.starts_with('.')
    })
}

/// The metric that the summary's two gains are in.
const METRIC: &str = "rouge_l";

/// The three runs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// General text to the base model.
    pub pretrain: etude_pretrain::Recipe,
    /// The base model to the task model; its base path is filled in.
    pub finetune: etude_finetune::Recipe,
    /// The same decoder from scratch to the task, with its own learning rate.
    pub scratch: etude_finetune::Recipe,
}

/// How the quickstart ended.
#[derive(Debug)]
pub enum Outcome {
    /// Everything is in the folder.
    Finished(Box<Finished>),
    /// Someone asked it to stop; the same command goes on.
    Interrupted,
}

/// What a finished quickstart made.
#[derive(Debug)]
pub struct Finished {
    /// `summary.json`.
    pub summary: QuickstartSummary,
    /// The page to look at.
    pub report: PathBuf,
    /// The task model's folder.
    pub model: PathBuf,
}

/// `summary.json` of a quickstart.
#[derive(Debug, Clone, Serialize)]
pub struct QuickstartSummary {
    /// Of the whole and of training alone (all three runs).
    pub seconds: Seconds,
    /// The base model.
    pub base: BaseSummary,
    /// The task.
    pub task: TaskSummary,
}

/// Times, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Seconds {
    /// From the start of the command to the report, data preparation and evaluation included.
    pub total: f64,
    /// Of the three training runs, over all sessions.
    pub training: f64,
}

/// The base model on held-out general text.
#[derive(Debug, Clone, Serialize)]
pub struct BaseSummary {
    /// Bits per byte of the whole validation text.
    pub bits_per_byte: f64,
}

/// The three arms on the task's test split.
#[derive(Debug, Clone, Serialize)]
pub struct TaskSummary {
    /// The task.
    pub name: String,
    /// The metric of the two gains.
    pub metric: String,
    /// Test items.
    pub n: usize,
    /// The base model, not fine-tuned.
    pub base: BTreeMap<String, Score>,
    /// The fine-tuned model.
    pub finetuned: BTreeMap<String, Score>,
    /// The same decoder, trained on the task alone.
    pub scratch: BTreeMap<String, Score>,
    /// Fine-tuned minus base, by paired bootstrap, in `metric`.
    pub gain_over_base: Difference,
    /// Fine-tuned minus scratch.
    pub gain_over_scratch: Difference,
    /// The same for every metric; for bits per byte below zero is better.
    pub gains_over_base: BTreeMap<String, Difference>,
    /// The same for every metric.
    pub gains_over_scratch: BTreeMap<String, Difference>,
}

/// Runs the plan in `context.folder`, going on where an interrupted one stopped. `say` hears a line at the
/// start of each part.
///
/// # Errors
/// As the stages; and when something else lies in the folder.
pub fn quickstart(plan: &Plan, context: &RunContext, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let started = Instant::now();
    let folder = &context.folder;
    plan.pretrain.validate()?;
    QUICKSTART.claim(folder)?;
    let [base, task, scratch] = RUNS.map(|name| folder.join(name));

    say(
        "Part 1 of 4: pre-training. The model reads general text and learns to predict the next token.",
    );
    let run = context.for_folder(base.clone());
    let Some(pretrained) = finished(etude_pretrain::run(&plan.pretrain, &run)?)? else {
        return Ok(Outcome::Interrupted);
    };

    say("Part 2 of 4: fine-tuning. The same model now learns one task from examples.");
    let mut recipe = plan.finetune.clone();
    recipe.base.path = base.join("model");
    let run = context.for_folder(task.clone());
    let Some(finetuned) = finished(etude_finetune::run(&recipe, &run)?)? else {
        return Ok(Outcome::Interrupted);
    };

    say(
        "Part 3 of 4: the control. The same decoder learns the same task from scratch, with no pre-training.",
    );
    let mut control = plan.scratch.clone();
    control.base.path = base.join("model");
    control.base.from_scratch = true;
    let run = context.for_folder(scratch.clone());
    let Some(from_scratch) = finished(etude_finetune::run(&control, &run)?)? else {
        return Ok(Outcome::Interrupted);
    };

    say("Part 4 of 4: the test. All three models answer the same held-out questions.");
    let mut results = Vec::new();
    let mut name = String::new();
    for (arm, path) in [("base", &base), ("task", &task), ("scratch", &scratch)] {
        let answers = arms::answers(
            &path.join("model"),
            &recipe.task,
            &Questions {
                metrics: arms::metrics()?,
                choices: Vec::new(),
                limit: 0,
            },
            &recipe.train.device,
            context,
        );
        let Some((task_name, result)) = unless_stopped(answers)? else {
            return Ok(Outcome::Interrupted);
        };
        name = task_name;
        say(&format!("  {arm}: {}", line(&result)));
        results.push(result);
    }
    let training = pretrained.seconds + finetuned.seconds + from_scratch.seconds;
    let seconds = Seconds {
        total: started.elapsed().as_secs_f64(),
        training,
    };
    let summary = summarize(name, &results, seconds, pretrained.last.bits_per_byte)?;
    write_examples(&folder.join("examples.jsonl"), &results)?;
    let mut bytes = serde_json::to_vec_pretty(&summary).context("a summary is plain data")?;
    bytes.push(b'\n');
    durable::write(&folder.join("summary.json"), &bytes)?;
    let report = etude_report::write(folder)?;
    Ok(Outcome::Finished(Box::new(Finished {
        summary,
        report,
        model: task.join("model"),
    })))
}

/// Sets a finished quickstart aside as `FOLDER.previous`, so that the command runs anew; the quickstart that was set
/// aside before it is removed. True when there was one to set aside.
///
/// # Errors
/// When something else than a quickstart lies in either folder; and when they cannot be moved.
pub fn set_aside(folder: &Path) -> Result<bool> {
    QUICKSTART.check(folder)?;
    if !folder.join("summary.json").is_file() {
        return Ok(false);
    }
    let Some(name) = folder.file_name() else {
        let what = "a finished quickstart is set aside under another name, and this is none";
        return Err(DataError::in_file(folder, what, "give --run the folder's name").into());
    };
    let mut name = name.to_owned();
    name.push(".previous");
    let previous = folder.with_file_name(name);
    if previous.exists() {
        let free = previous.is_dir() && holds_no_file(&previous)?;
        let is_ours = QUICKSTART.is(&previous) && holds_nothing_else(&previous);
        if !free && !is_ours {
            let what = format!(
                "is no folder of a quickstart alone, and in the way of {}, which is to be set aside there",
                folder.display()
            );
            let remedy = "move one of them elsewhere, or choose another --run";
            return Err(DataError::in_file(&previous, what, remedy).into());
        }
        fs::remove_dir_all(&previous)
            .with_context(|| format!("{}: cannot be removed", previous.display()))?;
    }
    fs::rename(folder, &previous)
        .with_context(|| format!("{}: cannot be set aside", folder.display()))?;
    Ok(true)
}

fn finished(ended: Ended) -> Result<Option<Box<Summary>>> {
    match ended {
        Ended::Finished(summary) => Ok(Some(summary)),
        Ended::Interrupted { .. } => Ok(None),
    }
}

fn line(result: &TaskResult) -> String {
    let show = |name: &str| {
        let score = result.scores.get(name)?;
        Some(format!(
            "{name} {:.3} ({:.3} to {:.3})",
            score.value, score.low, score.high
        ))
    };
    let parts: Vec<String> = [METRIC, "bits_per_byte"]
        .into_iter()
        .filter_map(show)
        .collect();
    parts.join(", ")
}

fn summarize(
    name: String,
    results: &[TaskResult],
    seconds: Seconds,
    bits_per_byte: f64,
) -> Result<QuickstartSummary> {
    let [base, finetuned, scratch] = results else {
        bail!("three arms were scored")
    };
    let metrics = arms::metrics()?;
    let gains = |other: &TaskResult| {
        compare(
            &finetuned.items,
            &other.items,
            &metrics,
            &Bootstrap::default(),
        )
    };
    let (over_base, over_scratch) = (gains(base)?, gains(scratch)?);
    let of = |gains: &BTreeMap<String, Difference>| {
        gains.get(METRIC).cloned().context("the metric was scored")
    };
    Ok(QuickstartSummary {
        seconds,
        base: BaseSummary { bits_per_byte },
        task: TaskSummary {
            name,
            metric: METRIC.to_owned(),
            n: finetuned.items.len(),
            gain_over_base: of(&over_base.differences)?,
            gain_over_scratch: of(&over_scratch.differences)?,
            base: base.scores.clone(),
            finetuned: finetuned.scores.clone(),
            scratch: scratch.scores.clone(),
            gains_over_base: over_base.differences,
            gains_over_scratch: over_scratch.differences,
        },
    })
}

fn write_examples(path: &Path, results: &[TaskResult]) -> Result<()> {
    let [base, finetuned, scratch] = results else {
        bail!("three arms were scored")
    };
    let mut text = String::new();
    for (place, item) in finetuned.items.iter().enumerate() {
        let example = json!({
            "id": item.id, "prompt": item.prompt, "reference": item.reference,
            "base": arms::by_position(&base.items, place, &item.id),
            "finetuned": item.prediction,
            "scratch": arms::by_position(&scratch.items, place, &item.id),
        });
        text.push_str(&example.to_string());
        text.push('\n');
    }
    durable::write(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files.
    /// Marks are empty.
    fn filled(folder: &Path, files: &[&str]) {
        for file in files {
            let path = folder.join(file);
            let name = path.file_name().unwrap().to_string_lossy();
            let text = if name.starts_with('.') { "" } else { "text" };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
    }

    fn refusal(folder: &Path) -> String {
        let error = set_aside(folder).unwrap_err();
        let error = error.downcast::<DataError>().expect("bad input");
        assert!(error.is_input(), "{error}");
        error.to_string()
    }

    #[test]
    fn only_a_quickstart_is_set_aside_and_only_a_quickstart_removed() {
        let parent = tempfile::tempdir().unwrap();
        let [folder, previous] = ["mine", "mine.previous"].map(|name| parent.path().join(name));
        assert!(!set_aside(&folder).unwrap());
        filled(&folder, &["summary.json", "thesis.txt"]);
        let told = refusal(&folder);
        assert!(told.contains("is no folder of a quickstart"), "{told}");
        assert!(folder.join("thesis.txt").is_file());
        fs::remove_dir_all(&folder).unwrap();

        // One that was made before such folders were marked.
        let old = ["summary.json", "base/.lock", "task/.lock", "report.html"];
        filled(&folder, &old);
        filled(&previous, &["thesis.txt"]);
        let told = refusal(&folder);
        assert!(told.contains("mine.previous: is no"), "{told}");
        assert!(previous.join("thesis.txt").is_file() && folder.join("base").is_dir());
        fs::remove_dir_all(&previous).unwrap();
        assert!(set_aside(&folder).unwrap());
        assert!(previous.join("base").is_dir() && !folder.exists());

        // And one that is marked.
        filled(&folder, &[".quickstart", "summary.json", "notes.txt"]);
        assert!(set_aside(&folder).unwrap());
        assert!(previous.join("notes.txt").is_file() && !previous.join("base").exists());
        filled(&folder, &[".quickstart", "summary.json"]);
        let told = refusal(&folder);
        assert!(
            told.contains("mine.previous: is no"),
            "somebody's notes: {told}"
        );
        fs::remove_dir_all(&folder).unwrap();
        filled(&folder, &[".quickstart", "base/.lock"]);
        assert!(!set_aside(&folder).unwrap(), "it goes on");
    }
}
