//! All that a fine-tuning run starts from, before its first step.

use anyhow::{Context, Result};
use etude_tensor::{device, parse_device};
use etude_train::{Ready, RunContext, Validate};

use crate::recipe::Recipe;
use crate::{base, prepare, stage, trainer_settings};

/// What the run of a recipe starts from. Nothing is written but the cache; `context.folder` is not looked at.
///
/// # Errors
/// As [`run`](crate::run).
pub fn ready(recipe: &Recipe, context: &RunContext) -> Result<Ready> {
    recipe.validate()?;
    device::set_threads(recipe.train.threads);
    let base = base::load(recipe, parse_device(&recipe.train.device)?)?;
    let positions = base.decoder.config().context as usize;
    let mut task = prepare(&recipe.task, positions, &base.tokenizer, context)?;
    task.description.base = base.fingerprint.clone();
    let stage = stage::Finetuning::new(recipe, &task, &base.tokenizer, positions)?;
    Ok(Ready {
        settings: trainer_settings(recipe, &base, &task, &stage),
        stage: Box::new(stage),
        decoder: base.decoder,
        data: serde_json::to_value(&task.description).context("plain data")?,
    })
}
