//! The base model of a fine-tuning recipe, pre-trained first where it is not there yet.

use anyhow::Result;
use etude_finetune::{Recipe, model_folder};
use etude_train::{Ended, RunContext};

/// Pre-trains by `pretrain` into the run folder that `recipe.base.path` names, unless a model is there; an
/// unfinished run is gone on with. None when the model is there, or how an interrupted run ended. `say` hears of
/// it when something is to be done.
///
/// # Errors
/// As pre-training.
pub fn ready_base(
    recipe: &Recipe,
    pretrain: Option<&etude_pretrain::Recipe>,
    context: &RunContext,
    say: &mut dyn FnMut(&str),
) -> Result<Option<Ended>> {
    let path = &recipe.base.path;
    let there = model_folder(path).join("config.json").is_file();
    let Some(pretrain) = pretrain.filter(|_| !there) else {
        return Ok(None);
    };
    let name = recipe.base.pretrain.as_deref().unwrap_or_default();
    say(&format!(
        "{}: the base model is not there yet; pre-training it by {name}",
        path.display()
    ));
    let ended = etude_pretrain::run(pretrain, &context.for_folder(path.clone()))?;
    Ok(match ended {
        Ended::Finished(_) => None,
        stopped @ Ended::Interrupted { .. } => Some(stopped),
    })
}
