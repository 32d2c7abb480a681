//! The transfer experiment: one task, the same steps and tuned learning rates, from a pre-trained model and from
//! scratch, at several amounts of task data. It answers what pre-training is worth: how much less data the
//! pre-trained model needs for the same score, at what cost, and what it forgets meanwhile.
//!
//! Of each run the state with the lowest validation loss answers, so that neither arm is judged by what it learnt
//! by heart. Runs lie below `runs/`, the base model in `base/`; `transfer.json`, `examples.jsonl` and
//! `report.html` hold what came out.

mod lab;
mod ratio;
mod runs;
mod settings;
mod summary;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use etude_finetune::Recipe;
use etude_train::{Ended, RunContext, durable};

use lab::Lab;

pub use ratio::DataRatio;
pub use runs::Arm;
pub use settings::{TransferRecipe, TransferSettings, VariantSettings};
pub use summary::{ArmScores, Compute, Cost, Point, TransferSummary, Variant};

/// A transfer experiment with its recipes found and parsed.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// `[transfer]`.
    pub settings: TransferSettings,
    /// The base model's recipe, where it is pre-trained first; `finetune`'s base path is then filled in.
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

/// Runs the experiment in `context.folder`, going on where an interrupted one stopped. `say` hears a line before
/// and after each run.
///
/// # Errors
/// As the stages; and when the two recipes are not of one task.
pub fn transfer(
    plan: &Transfer,
    context: &RunContext,
    say: &mut dyn FnMut(&str),
) -> Result<Transferred> {
    let started = Instant::now();
    let mut plan = plan.clone();
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
    let pretraining = match pretrain(&mut plan, context, say)? {
        Some(pretraining) => pretraining,
        None => return Ok(Transferred::Interrupted),
    };
    let mut lab = Lab::new(&plan, context, say)?;
    let Some(records) = lab.all()? else {
        return Ok(Transferred::Interrupted);
    };
    let summary = lab.summarize(&records, pretraining, started)?;
    let mut json = serde_json::to_vec_pretty(&summary).context("a summary is plain data")?;
    json.push(b'\n');
    durable::write(&context.folder.join("transfer.json"), &json)?;
    let report = etude_report::write(&context.folder)?;
    Ok(Transferred::Finished(Box::new(summary), report))
}

/// The base model, pre-trained where the plan says so, and what that cost. None when someone asked to stop.
fn pretrain(
    plan: &mut Transfer,
    context: &RunContext,
    say: &mut dyn FnMut(&str),
) -> Result<Option<Option<Cost>>> {
    let Some(recipe) = &plan.pretrain else {
        return Ok(Some(None));
    };
    say("The base model: pre-training.");
    let folder = context.folder.join("base");
    let summary = match etude_pretrain::run(recipe, &context.for_folder(folder.clone()))? {
        Ended::Finished(summary) => summary,
        Ended::Interrupted { .. } => return Ok(None),
    };
    let model = folder.join("model");
    let (config, _) = etude_model::hf::load_config(&model)?;
    for recipe in (plan.variants.iter_mut().map(|(_, recipe)| recipe))
        .chain([&mut plan.finetune, &mut plan.scratch])
    {
        recipe.base.path = model.clone();
    }
    Ok(Some(Some(Cost {
        runs: 1,
        tokens: summary.tokens,
        seconds: summary.seconds,
        flops: config.flops_per_token(recipe.model.context) * summary.tokens as f64,
    })))
}
