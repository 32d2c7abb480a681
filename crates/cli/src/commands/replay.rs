//! `etude replay`: a step of a run made again, to see what it learnt from and whether it comes out the same.

mod page;
mod texts;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use etude_data::Cache;
use etude_tensor::memory;
use etude_train::interrupt::Interrupt;
use etude_train::{Ready, RecipeText, ReplayRequest, RunContext, Validate, recipe, replay, run};
use serde::Serialize;

use crate::commands::data::CatalogArgs;
use crate::commands::finetune::with_base;
use crate::error::{Exit, Misuse, bad_input};
use crate::files;
use crate::output;
use crate::recipes::{self, Stage};

const ABOUT: &str = "\
Make a step of a run again, and look inside: the texts of its batch with file and line, the loss of every example \
and token, the gradient's norm by layer, and whether the loss comes out as it was logged, to the last bit.

The step is made by the loop's own code, from the nearest whole checkpoint before it; the steps between are made \
again too, and where no such checkpoint is left, all from the beginning. The run folder is only read, so a run \
that is still going may be looked at.

Exit status: 0 when the logged figures and the weights and optimizer's state of the step's checkpoint came out the \
same, or none of them is there; 1 when something came out otherwise. On another machine, or with another number of threads, that is to be expected.";

const EXAMPLES: &str = "\
Examples:
  etude replay runs/task --step 480
  etude replay runs/task --step 480 --without 3           without its third example, too
  etude replay runs/task --step 480 --example 3 --tokens  a token a line
  etude replay runs/task --step 480 --set train.device=cpu
  etude replay runs/task --step 480 --json | jq '.examples[] | {number, loss}'";

/// Which step, and what of it.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct ReplayArgs {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The step, from 1, as the log and the report count
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    step: u64,
    /// Make the step again without this example of its batch, too; may be given several times
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    without: Vec<u32>,
    /// How many texts to show, those first that raise the loss most
    #[arg(long, value_name = "N", default_value_t = 3)]
    first: usize,
    /// Show the text of this example instead; may be given several times
    #[arg(long, value_name = "K", conflicts_with = "first")]
    example: Vec<usize>,
    /// Texts with a token a line: id, loss, probability
    #[arg(long)]
    tokens: bool,
    /// Change how the step is computed, not what: train.device, train.threads, train.micro_rows
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Tell nothing on the way
    #[arg(long, short)]
    quiet: bool,
    /// Print all of it as one JSON object: {"step", "reproduced", "loss", "layers", "examples", "without", …}
    #[arg(long, conflicts_with_all = ["tokens", "first"])]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
}

pub(crate) fn run(args: &ReplayArgs) -> Result<Exit> {
    memory::tune();
    files::utf8(&args.run)?;
    let file = recipe_file(&args.run)?;
    let (stage, source) = recipes::of_any_stage(&file)?;
    let context = RunContext {
        folder: args.run.clone(),
        catalog: args.catalog.catalog()?,
        cache: Cache::user()?,
        progress: !args.quiet,
        interrupt: Interrupt::default(), // nothing to save: Ctrl-C ends it
        started: Instant::now(),
    };
    // What fetching and rendering tell, the run told when it was made.
    let silent = RunContext {
        progress: false,
        ..context.for_folder(args.run.clone())
    };
    let ready: Ready = match stage {
        Stage::Pretrain => {
            let recipe = as_it_was(args, &source)?;
            etude_pretrain::ready(&recipe, &silent)?
        }
        Stage::Finetune => {
            let recipe = as_it_was(args, &source)?;
            etude_finetune::ready(&with_base(&recipe)?, &silent)?
        }
        Stage::Transfer => return Err(recipes::many_runs(&source.name)),
    };
    let request = ReplayRequest {
        run: args.run.clone(),
        step: args.step,
        without: args.without.iter().map(|&number| number as usize).collect(),
        examples: args.example.clone(),
        progress: context.progress,
    };
    let found = replay(ready, &request)?;
    let shown = texts::Shown {
        first: args.first,
        chosen: &args.example,
        tokens: args.tokens,
    };
    if args.json {
        output::json(&found)?;
    } else {
        output::text(&page::page(&found, &args.settings))?;
        output::text(&shown.text(&found))?;
    }
    Ok(match found.reproduced {
        Some(false) => Exit::Failed,
        _ => Exit::Done,
    })
}

/// The recipe that a run folder keeps.
fn recipe_file(run: &Path) -> Result<String> {
    let file = run.join("recipe.toml");
    if file.is_file() {
        return Ok(file.display().to_string());
    }
    let shown = run.display();
    if !run.is_dir() {
        let what = match run.exists() {
            true => format!("{shown}: is a file, not a run folder"),
            false => format!("{shown}: there is no such run folder"),
        };
        return Err(Misuse::error(what, "give one, such as those in runs/"));
    }
    let inside = fs::read_dir(run).into_iter().flatten().flatten();
    let inside = inside.map(|entry| entry.path());
    let mut runs: Vec<String> = inside
        .filter(|path| path.join("recipe.toml").is_file())
        .map(|path| path.display().to_string())
        .collect();
    runs.sort();
    let remedy = match runs.is_empty() {
        true => "give a folder that `etude pretrain` or `etude finetune` made".to_owned(),
        false => format!("give one of the runs in it: {}", runs.join(", ")),
    };
    Err(Misuse::error(
        format!("{shown}: is no run folder, as it has no recipe.toml"),
        remedy,
    ))
}

/// The recipe as it was run, with settings that do not change what is computed.
fn as_it_was<R: Validate + Serialize>(args: &ReplayArgs, source: &RecipeText) -> Result<R> {
    let saved: R = source.parse(&[]).map_err(bad_input)?;
    let now: R = source.parse(&args.settings).map_err(bad_input)?;
    const ALLOWED: [&str; 3] = ["train.device", "train.threads", "train.micro_rows"];
    let remedy = "change only how it is computed: train.device, train.threads, train.micro_rows";
    let other = args.settings.iter().find(|setting| {
        let key = setting.split('=').next().unwrap_or_default().trim();
        !ALLOWED.contains(&key)
    });
    if let Some(other) = other {
        let what = format!("--set {other}: is not how a step is computed");
        return Err(Misuse::error(what, remedy));
    }
    let [saved, changed] = [recipe::to_toml(&saved)?, recipe::to_toml(&now)?];
    let differences = run::recipe_differences(&saved, &changed)?;
    if differences.is_empty() {
        return Ok(now);
    }
    let what = format!(
        "--set would make another step than the run's\n  {}",
        differences.join("\n  ")
    );
    Err(Misuse::error(what, remedy))
}
