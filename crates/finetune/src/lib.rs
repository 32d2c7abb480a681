//! The second stage: a base model and examples of one task to a task model.
//!
//! A [`Recipe`] names the base model, the examples and how they are rendered; [`run`] renders them once,
//! into tokens and a mask of which are supervised, and gives the training loop batches of them. Only the
//! answer and its end token are learnt: by all weights, or by an adapter over a frozen base. With `base.from_scratch` the same decoder starts
//! from scratch: the arm that shows what pre-training was worth.

mod base;
mod inspect;
mod mix;
mod plan;
mod ready;
mod recipe;
mod score;
mod stage;
mod task;

use anyhow::{Context, Result};
use etude_model::hf::TokenIds;
use etude_tensor::{device, parse_device};
use etude_train::interrupt::unless_stopped;
use etude_train::{
    Ended, RunContext, RunFolder, Stage, Trainer, TrainerSettings, Validate, recipe as text,
};

pub use base::model_folder;
pub use inspect::{inspect, ledger};
pub use mix::MixSettings;
pub use plan::{make_ready, plan};
pub use ready::ready;
pub use recipe::{
    BaseDtype, BaseSettings, Layout, LoraSettings, Method, Recipe, TaskEvalSettings, TaskSettings,
};
pub use score::Scores;
pub use stage::batches;
pub use task::{Questions, Task, prepare, questions, renderer};

/// Runs a recipe in `context.folder`, or goes on where an earlier run of it stopped.
///
/// # Errors
/// When a setting is impossible, the base model or data cannot be had, the folder holds another run, or
/// training fails.
pub fn run(recipe: &Recipe, context: &RunContext) -> Result<Ended> {
    recipe.validate()?;
    let folder = RunFolder::open(&context.folder, &text::to_toml(recipe)?)?;
    context.interrupt.nothing_to_save();
    device::set_threads(recipe.train.threads);
    let on = parse_device(&recipe.train.device)?;
    let base = base::load(recipe, on)?;
    let mut task = prepare(
        &recipe.task,
        base.decoder.config().context as usize,
        &base.tokenizer,
        context,
    )?;
    score::check(recipe, &task)?;
    let context_tokens = base.decoder.config().context as usize;
    let stage = stage::Finetuning::new(recipe, &task, &base.tokenizer, context_tokens)?;
    task.description.ledger = ledger(&task, stage.rows());
    task.description.base = base.fingerprint.clone();
    let settings = trainer_settings(recipe, &base, &task, &stage);
    folder.record_data(&task.description, &settings.data_fingerprint)?;
    etude_train::progress::tell(context, &task.description.ledger);
    let stage: &dyn Stage = &stage;
    let unfinished = || {
        format!(
            "{}: the run did not finish; what is saved there is whole",
            context.folder.display()
        )
    };
    let ended = Trainer::new(stage, &base.decoder, &settings, context, &folder)?
        .run()
        .with_context(unfinished)?;
    let Ended::Finished(mut summary) = ended else {
        return Ok(ended);
    };
    let model = (&base.decoder, &base.tokenizer);
    let scored = score::score(recipe, &task, model, &folder, &mut summary, context);
    Ok(match unless_stopped(scored.with_context(unfinished))? {
        Some(()) => Ended::Finished(summary),
        None => Ended::Interrupted {
            step: summary.steps,
        },
    })
}

/// What the loop is told.
fn trainer_settings(
    recipe: &Recipe,
    base: &base::Base,
    task: &Task,
    stage: &stage::Finetuning,
) -> TrainerSettings {
    TrainerSettings {
        train: recipe.train.clone(),
        optimizer: recipe.optimizer.clone(),
        schedule: recipe.schedule.clone(),
        ids: TokenIds {
            bos: base.tokenizer.bos_id(),
            eos: base.tokenizer.stop_ids(),
            pad: base.tokenizer.pad_id(),
        },
        length: stage.typical_length(),
        data_fingerprint: format!("{} {}", base.fingerprint, task.fingerprint),
    }
}
