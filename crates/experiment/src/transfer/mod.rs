//! The transfer experiment: one task, the same steps and tuned learning rates, from a pre-trained model and from
//! scratch, at several amounts of task data. It answers what pre-training is worth: how much less data the
//! pre-trained model needs for the same score, at what cost, and what it forgets meanwhile.
//!
//! Of each run the state with the lowest validation loss answers, so that neither arm is judged by what it learnt
//! by heart. Runs lie below `runs/`; `transfer.json`, `examples.jsonl` and
//! `report.html` hold what came out.

mod circumstances;
mod found;
mod lab;
mod ratio;
mod runs;
mod settings;
mod summary;
mod workers;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use etude_finetune::{Recipe, model_folder};
use etude_model::hf;
use etude_train::interrupt::unless_stopped;
use etude_train::{RunContext, Summary, durable};

use crate::base::ready_base;

use circumstances::EXPERIMENT;
use lab::Lab;

pub use ratio::DataRatio;
pub use runs::Arm;
pub use settings::{TransferRecipe, TransferSettings, VariantSettings};
pub use summary::{ArmScores, Compute, Cost, Point, TransferSummary, Variant};
pub use workers::{Work, Workers, transfer_worker};

/// A transfer experiment with its recipes found and parsed.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// `[transfer]`.
    pub settings: TransferSettings,
    /// The base model's recipe, for when it is not there yet.
    pub pretrain: Option<etude_pretrain::Recipe>,
    /// From the base model to the task.
    pub finetune: Recipe,
    /// From scratch to the task.
    pub scratch: Recipe,
    /// Other ways of fine-tuning, by name.
    pub variants: Vec<(String, Recipe)>,
}

/// How a transfer experiment ended.
#[derive(Debug)]
pub enum Transferred {
    /// Everything is in the folder.
    Finished(Box<TransferSummary>, PathBuf),
    /// Someone asked it to stop; the same command goes on.
    Interrupted,
}

/// Runs the experiment in `context.folder`, going on where an interrupted one stopped: one run after the other, or, by
/// `workers`, several at once. `say` hears a line before and after each run.
///
/// # Errors
/// As the stages; when the two recipes are not of one task; and when something else lies in the folder.
pub fn transfer(
    plan: &Transfer,
    context: &RunContext,
    workers: Option<&Workers>,
    say: &mut dyn FnMut(&str),
) -> Result<Transferred> {
    let started = Instant::now();
    let (a, b) = (&plan.finetune.task, &plan.scratch.task);
    ensure!(
        a.examples == b.examples,
        "task.examples is {} in one recipe and {} in the other: the same examples must teach both arms",
        a.examples,
        b.examples
    );
    ensure!(
        plan.finetune.task.source == plan.scratch.task.source,
        "the recipes are of two tasks, `{}` and `{}`: the same examples must teach both arms",
        plan.finetune.task.source,
        plan.scratch.task.source
    );
    ensure!(
        !plan.finetune.base.from_scratch && plan.scratch.base.from_scratch,
        "base.from_scratch is {} in transfer.finetune and {} in transfer.scratch: the first starts from a model, the second from random numbers",
        plan.finetune.base.from_scratch,
        plan.scratch.base.from_scratch
    );
    EXPERIMENT.claim(&context.folder)?;
    if ready_base(&plan.finetune, plan.pretrain.as_ref(), context, say)?.is_some() {
        return Ok(Transferred::Interrupted);
    }
    let mut lab = Lab::new(plan, context, say)?;
    if let Some(workers) = workers
        && unless_stopped(lab.ahead(workers))?.flatten().is_none()
    {
        return Ok(Transferred::Interrupted);
    }
    let Some(records) = unless_stopped(lab.all())?.flatten() else {
        return Ok(Transferred::Interrupted);
    };
    let summary = lab.summarize(&records, pretraining(plan)?, started)?;
    let mut json = serde_json::to_vec_pretty(&summary).context("a summary is plain data")?;
    json.push(b'\n');
    durable::write(&context.folder.join("transfer.json"), &json)?;
    let report = etude_report::write(&context.folder)?;
    Ok(Transferred::Finished(Box::new(summary), report))
}

/// What the base model cost, where it is the result of a run here.
fn pretraining(plan: &Transfer) -> Result<Option<Cost>> {
    let model = model_folder(&plan.finetune.base.path);
    let run = model.parent().unwrap_or(&model);
    let Ok(text) = fs::read(run.join("summary.json")) else {
        return Ok(None);
    };
    let Ok(summary) = serde_json::from_slice::<Summary>(&text) else {
        return Ok(None); // another program's
    };
    let (config, _) = hf::load_config(&model)?;
    Ok(Some(Cost {
        runs: 1,
        tokens: summary.tokens,
        seconds: summary.seconds,
        flops: config.flops_per_token(config.context) * summary.tokens as f64,
    }))
}
