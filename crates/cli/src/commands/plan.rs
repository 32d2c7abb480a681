//! `etude plan`: what a run will take, before it.

mod page;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;
use etude_data::Cache;
use etude_tensor::memory;
use etude_train::forecast::Forecast;
use etude_train::{RUN, RunContext};

use crate::commands::data::CatalogArgs;
use crate::commands::finetune::with_base;
use crate::error::{Exit, bad_input};
use crate::output;
use crate::recipes::{self, Stage};

const ABOUT: &str = "\
Say what a run will take before it is made: time, memory, disk, operations, passes over the data, and the \
loss to expect where earlier runs tell.

The data is fetched and prepared as the run would do it, and kept in the cache for the run. Then the run is \
rehearsed for some seconds on this machine: the largest batch, a few steps, a part of a validation, samples, \
a checkpoint and a result in a folder that is removed again. Plan when the machine is as busy as it will be \
during the run.

With --run DIR the forecast is kept there as forecast.json, and the run's report sets it beside what came.";

const EXAMPLES: &str = "\
Examples:
  etude plan shakespeare
  etude plan smollm2-descriptions --set train.batch_rows=16
  etude plan mine.toml --run runs/mine && etude pretrain mine.toml --run runs/mine
  etude plan mine.toml --json";

/// Which recipe, and where its run would go.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct PlanArgs {
    /// A built-in recipe's name, or a recipe file (.toml), of either stage
    #[arg(value_name = "RECIPE")]
    recipe: String,
    /// Change one setting, as in train.steps=200; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Where the run would go; the forecast is kept there. Without it, runs/ and the recipe's name is looked at
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Tell nothing on the way
    #[arg(long, short)]
    quiet: bool,
    /// Print the forecast as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
    /// Make the data ready, and stop
    #[arg(long, hide = true)]
    only_prepare: bool,
}

pub(crate) fn run(args: &PlanArgs) -> Result<Exit> {
    memory::tune();
    let (stage, source) = recipes::of_any_stage(&args.recipe)?;
    let folder = args
        .run
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(&source.name));
    if let Some(folder) = &args.run {
        RUN.check(folder)?;
    }
    let context = || {
        let catalog = args.catalog.catalog()?;
        RunContext::new(folder.clone(), catalog, Cache::user()?, !args.quiet)
    };
    let forecast = match stage {
        Stage::Pretrain => {
            let recipe: etude_pretrain::Recipe = source.parse(&args.settings).map_err(bad_input)?;
            if args.only_prepare {
                etude_pretrain::make_ready(&recipe, &context()?)?;
                return Ok(Exit::Done);
            }
            if let Some(exit) = prepare()? {
                return Ok(exit);
            }
            etude_pretrain::plan(&recipe, &context()?)?
        }
        Stage::Finetune => {
            let recipe: etude_finetune::Recipe = source.parse(&args.settings).map_err(bad_input)?;
            if args.only_prepare {
                etude_finetune::make_ready(&with_base(&recipe)?, &context()?)?;
                return Ok(Exit::Done);
            }
            if let Some(exit) = prepare()? {
                return Ok(exit);
            }
            etude_finetune::plan(&with_base(&recipe)?, &context()?)?
        }
        Stage::Transfer => return Err(recipes::many_runs(&source.name)),
    };
    let Some(forecast) = forecast else {
        output::note("stopped; nothing was planned");
        return Ok(Exit::Interrupted);
    };
    keep(args, &forecast)?;
    if args.json {
        output::json(&forecast)?;
    } else {
        output::text(&page::page(&source.name, &folder, &forecast))?;
    }
    Ok(Exit::Done)
}

/// Makes the data ready in a process of its own: what training a tokenizer takes must not count for the run,
/// which will find it in the cache. The status of a process that failed; it has said why.
fn prepare() -> Result<Option<Exit>> {
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--only-prepare")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("the data cannot be prepared in a process of its own")?;
    Ok(match status.code() {
        Some(0) => None,
        Some(2) => Some(Exit::Wrong),
        Some(130) => Some(Exit::Interrupted),
        _ => Some(Exit::Failed),
    })
}

/// Keeps the forecast where the run will go, unless one has begun there.
fn keep(args: &PlanArgs, forecast: &Forecast) -> Result<()> {
    let Some(folder) = &args.run else {
        return Ok(());
    };
    if folder.join("metrics.jsonl").is_file() {
        output::note(&format!(
            "{}: a run has begun there, and its own forecast stays",
            folder.display()
        ));
        return Ok(());
    }
    forecast.write(folder)
}
