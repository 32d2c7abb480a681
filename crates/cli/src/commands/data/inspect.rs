//! `etude data inspect`: what a recipe teaches, token by token, and the account of all of it.

mod show;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use etude_data::ledger::{Asked, Inspection, Seen};
use etude_data::{Cache, Split};
use etude_train::RunContext;
use etude_train::interrupt::Interrupt;
use serde_json::{Value, json};

use super::CatalogArgs;
use crate::commands::finetune::with_base;
use crate::error::{Misuse, bad_input};
use crate::files;
use crate::output;
use crate::recipes::{self, Stage};

pub(super) const ABOUT: &str = "\
Show what a recipe teaches: its supervision ledger, and examples or batches as the model will see them.

The ledger accounts for every record, character and token from the files to the batches of one epoch: what was \
left out and why, what was cut and where, padding, what is supervised. Each account has two sides that must be \
equal; what does not add up is told. Below it stand the first examples (of fine-tuning) or rows (of \
pre-training), or what is asked for. No model is trained or run.";

pub(super) const EXAMPLES: &str = "\
Examples:
  etude data inspect task.toml                       the ledger and the first examples
  etude data inspect task.toml --example 17          one example: where it comes from, what of it is learnt
  etude data inspect task.toml --batch 200 --tokens  the batch of step 200, a token a line
  etude data inspect task.toml --run runs/task       what the run has seen so far, too
  etude data inspect pretrain-quickstart --html page.html";

/// Which recipe, and what of it.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A built-in recipe's name, or a recipe file (.toml), of either stage
    #[arg(value_name = "RECIPE")]
    recipe: String,
    /// Change one setting, as in task.truncation=truncate; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The split that examples are shown of
    #[arg(long, value_name = "SPLIT", default_value = "train")]
    split: SplitArg,
    /// How many of the first examples or rows to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    first: usize,
    /// Show this example (of pre-training: document), from 1
    #[arg(long, value_name = "N", conflicts_with = "batch")]
    example: Option<u64>,
    /// Show all rows of the batch of this step, from 1 as in the log
    #[arg(long, value_name = "STEP", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    batch: Option<u64>,
    /// A run of the recipe: count what it has seen so far, and compare that with its batches
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// A token a line, with its id, position and role
    #[arg(long)]
    tokens: bool,
    /// Write one self-contained page instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "tokens"])]
    html: Option<PathBuf>,
    /// Print {"recipe", "stage", "ledger", "examples", "batch"}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SplitArg {
    Train,
    Validation,
    Test,
}

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let split = match args.split {
        SplitArg::Train => Split::Train,
        SplitArg::Validation => Split::Validation,
        SplitArg::Test => Split::Test,
    };
    if args.batch.is_some() && split != Split::Train {
        return Err(Misuse::error(
            format!("--batch: the {} split has no steps", split.name()),
            "leave --split away, or ask for --example",
        ));
    }
    if let Some(page) = &args.html {
        files::replace_pages_only(page, "--html")?;
    }
    let asked = Asked {
        split,
        first: args.first,
        example: args.example,
        batch: args.batch,
        seen: args.run.as_deref().map(seen).transpose()?,
    };
    let (stage, source) = recipes::of_any_stage(&args.recipe)?;
    let context = RunContext {
        folder: PathBuf::new(),
        catalog: args.catalog.catalog()?,
        cache: Cache::user()?,
        progress: false,
        interrupt: Interrupt::default(), // nothing to save: Ctrl-C ends it
        started: Instant::now(),
    };
    let inspection = match stage {
        Stage::Pretrain => {
            let recipe: etude_pretrain::Recipe = source.parse(&args.settings).map_err(bad_input)?;
            etude_pretrain::inspect(&recipe, &context, &asked)?
        }
        Stage::Finetune => {
            let recipe: etude_finetune::Recipe = source.parse(&args.settings).map_err(bad_input)?;
            etude_finetune::inspect(&with_base(&recipe)?, &context, &asked)?
        }
        Stage::Transfer => return Err(recipes::many_runs(&source.name)),
    };
    tell(args, stage, &source.name, &inspection)
}

fn tell(args: &InspectArgs, stage: Stage, name: &str, inspection: &Inspection) -> Result<()> {
    let mut value = serde_json::to_value(inspection).context("an inspection is plain data")?;
    let fields = value
        .as_object_mut()
        .context("an inspection is an object")?;
    fields.insert("recipe".into(), json!(name));
    fields.insert("stage".into(), json!(stage.name()));
    if args.json {
        return output::json(&value);
    }
    if let Some(page) = &args.html {
        etude_report::write_inspection(&value, page)?;
        return output::line(&page.display().to_string());
    }
    output::text(&show::text(inspection, args.tokens))
}

/// What a run has counted, by the last step of its log.
fn seen(run: &Path) -> Result<Seen> {
    let file = run.join("metrics.jsonl");
    let text = fs::read_to_string(&file).map_err(|error| {
        Misuse::error(
            format!("{}: cannot be read: {error}", file.display()),
            "give a run folder of this recipe, such as those in runs/",
        )
    })?;
    let lines = text.lines().rev();
    let mut steps = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = steps.find(|line| line["kind"] == "train");
    let number = |key: &str| last.as_ref().and_then(|line| line[key].as_u64());
    match (number("step"), number("tokens"), number("supervised")) {
        (Some(step), Some(tokens), Some(supervised)) => Ok(Seen {
            step,
            tokens,
            supervised,
        }),
        _ => Err(Misuse::error(
            format!("{}: tells of no step", file.display()),
            "wait until the run has made one, or leave --run away",
        )),
    }
}
