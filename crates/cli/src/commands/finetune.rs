//! `etude finetune`: a base model and examples to a task model.

use anyhow::Result;
use clap::Args;
use etude_data::KnownModel;
use etude_experiment::ready_base;
use etude_finetune::Recipe;
use etude_train::{Ended, RUN, RunContext};

use crate::error::{Exit, bad_input};
use crate::model;
use crate::output;
use crate::recipes::{self, Stage};
use crate::stage::{self, StageArgs};

const ABOUT: &str = "\
Fine-tune: a base model and examples of one task to a task model.

The examples are a data set by name, or your own JSONL with {\"prompt\", \"completion\"} or {\"messages\"}. \
Only the answers are learnt. The run folder holds the same as that of pre-training, and the task's scores.

The same command goes on where an earlier run of the same recipe stopped. Ctrl-C saves a checkpoint first.";

const EXAMPLES: &str = "\
Examples:
  etude recipe list                                         what is built in
  etude finetune RECIPE
  etude finetune smollm2-descriptions                       a published model, by LoRA
  etude finetune RECIPE --set train.steps=200 --run runs/short
  etude finetune mine.toml --dry-run                        the recipe as it would be run";

/// Which recipe.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    stage: StageArgs,
}

pub(crate) fn run(args: &FinetuneArgs) -> Result<Exit> {
    stage::run(&args.stage, Stage::Finetune, with_its_base)
}

/// Fine-tunes, after pre-training the base model where the recipe says how and it is not there.
fn with_its_base(recipe: &Recipe, context: &RunContext) -> Result<Ended> {
    drop(RUN.claim(&context.folder)?); // before a base model is fetched or made, which may lie in it
    let recipe = with_base(recipe)?;
    let pretrain = pretrain_recipe(&recipe, &[])?;
    let mut say = |line: &str| output::note(line);
    match ready_base(&recipe, pretrain.as_ref(), context, &mut say)? {
        Some(stopped) => Ok(stopped),
        None => etude_finetune::run(&recipe, context),
    }
}

/// The recipe that makes the base model, found and parsed, with settings on top.
pub(crate) fn pretrain_recipe(
    recipe: &Recipe,
    settings: &[String],
) -> Result<Option<etude_pretrain::Recipe>> {
    let Some(name) = &recipe.base.pretrain else {
        return Ok(None);
    };
    let source = recipes::for_stage(Stage::Pretrain, name)?;
    recipes::check_stage(Stage::Pretrain, &source)?;
    let parsed: etude_pretrain::Recipe = source.parse(settings).map_err(bad_input)?;
    Ok(Some(parsed))
}

/// The recipe with a published base model, named instead of a path, fetched and found in the cache.
pub(crate) fn with_base(recipe: &Recipe) -> Result<Recipe> {
    let mut recipe = recipe.clone();
    if !recipe.base.path.exists()
        && KnownModel::named(&recipe.base.path.to_string_lossy()).is_some()
    {
        recipe.base.path = model::folder(&recipe.base.path)?;
    }
    Ok(recipe)
}
