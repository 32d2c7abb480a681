//! All that a pre-training run starts from, before its first step.

use anyhow::{Context, Result};
use etude_tensor::{device, parse_device};
use etude_train::{Ready, RunContext, Validate};

use crate::prepare::prepare;
use crate::recipe::Recipe;
use crate::{decoder, stage, trainer_settings};

/// What the run of a recipe starts from. Nothing is written but the cache; `context.folder` is not looked at.
///
/// # Errors
/// As [`run`](crate::run).
pub fn ready(recipe: &Recipe, context: &RunContext) -> Result<Ready> {
    recipe.validate()?;
    device::set_threads(recipe.train.threads);
    let on = parse_device(&recipe.train.device)?;
    let prepared = prepare(recipe, context)?;
    Ok(Ready {
        stage: Box::new(stage::Pretraining::new(recipe, &prepared)?),
        decoder: decoder(recipe, &prepared, on)?,
        settings: trainer_settings(recipe, &prepared),
        data: serde_json::to_value(&prepared.description).context("plain data")?,
    })
}
