//! `etude finetune`: a base model and examples to a task model.

use anyhow::Result;
use clap::Args;
use etude_data::KnownModel;
use etude_finetune::Recipe;

use crate::error::Exit;
use crate::model;
use crate::recipes::Stage;
use crate::stage::{self, Library, StageArgs};

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
    let library = Library {
        validate: Recipe::validate,
        run: |recipe, context| etude_finetune::run(&with_base(recipe)?, context),
    };
    stage::run(&args.stage, Stage::Finetune, &library)
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
