//! `etude pretrain`: general text to a base model.

use anyhow::Result;
use clap::Args;

use crate::error::Exit;
use crate::recipes::Stage;
use crate::stage::{self, StageArgs};

const ABOUT: &str = "\
Pre-train: general text to a base model.

Fetches the recipe's text, trains its tokenizer, cuts the text into tokens, and trains the model to say \
what comes next. Everything lands in the run folder: the model (model/, a Hugging Face folder), \
checkpoints, metrics.jsonl, samples.jsonl, summary.json and report.html.

The same command goes on where an earlier run of the same recipe stopped. Ctrl-C saves a checkpoint first.";

const EXAMPLES: &str = "\
Examples:
  etude recipe list                                         what is built in
  etude pretrain RECIPE
  etude pretrain RECIPE --set train.steps=200 --run runs/short
  etude pretrain RECIPE --set 'data.sources=[\"my.txt\"]' --run runs/mine
  etude pretrain mine.toml --dry-run                        the recipe as it would be run";

/// Which recipe.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct PretrainArgs {
    #[command(flatten)]
    stage: StageArgs,
}

pub(crate) fn run(args: &PretrainArgs) -> Result<Exit> {
    stage::run(&args.stage, Stage::Pretrain, etude_pretrain::run)
}
