//! What `pretrain` and `finetune` share: from a recipe's name to a run folder and its summary.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use etude_data::Cache;
use etude_finetune::Scores;
use etude_scores::Score;
use etude_tensor::memory;
use etude_train::{Ended, RunContext, Summary, Validate, recipe};
use serde::Serialize;

use crate::commands::data::CatalogArgs;
use crate::error::{Exit, bad_input};
use crate::output;
use crate::recipes::{self, Stage};

/// Which recipe, what is changed in it, and where the run goes.
#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    /// A built-in recipe's name, or a recipe file (.toml)
    #[arg(value_name = "RECIPE")]
    recipe: String,
    /// Change one setting, as in train.steps=200; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The run folder; by default runs/ and the recipe's name
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Print the recipe as it would be run, and stop
    #[arg(long)]
    dry_run: bool,
    /// Show no bars
    #[arg(long, short)]
    quiet: bool,
    /// Print the run's summary as one JSON object
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
}

/// Runs one stage: `train` is its library's run.
pub(crate) fn run<R: Validate + Serialize>(
    args: &StageArgs,
    stage: Stage,
    train: impl Fn(&R, &RunContext) -> Result<Ended>,
) -> Result<Exit> {
    memory::tune();
    let source = recipes::for_stage(stage, &args.recipe)?;
    recipes::check_stage(stage, &source)?;
    let settings: R = source.parse(&args.settings).map_err(bad_input)?;
    if args.dry_run {
        output::text(&recipe::to_toml(&settings)?)?;
        return Ok(Exit::Done);
    }
    let folder = args
        .run
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(&source.name));
    let context = RunContext::new(
        folder.clone(),
        args.catalog.catalog()?,
        Cache::user()?,
        !args.quiet,
    )?;
    match train(&settings, &context)? {
        Ended::Interrupted { step } => {
            output::note(&format!(
                "stopped after step {step}; the same command goes on from there"
            ));
            Ok(Exit::Interrupted)
        }
        Ended::Finished(summary) => {
            // The run is done and saved; a page that cannot be written does not undo it.
            let page = etude_report::write(&folder);
            if let Err(failure) = &page {
                output::note(&format!("note: no report was written: {failure:#}"));
            }
            if args.json {
                output::json(&summary)?;
            } else {
                output::text(&tell(&summary, &folder, page.ok()))?;
            }
            Ok(Exit::Done)
        }
    }
}

fn tell(summary: &Summary, folder: &Path, page: Option<PathBuf>) -> String {
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    let last = &summary.last;
    let mut rows = vec![
        row("model", folder.join("model").display().to_string()),
        row("parameters", output::count(summary.parameters)),
        row("steps", output::count(summary.steps)),
        row(
            "tokens",
            format!(
                "{}, {} a second",
                output::count(summary.tokens),
                output::count(summary.tokens_per_second as u64)
            ),
        ),
        row("time", format!("{:.1} s", summary.seconds)),
        row(
            "validation loss",
            format!("{:.4} nats a token", last.validation_loss),
        ),
        row(
            "",
            format!(
                "{:.4} bits per byte, perplexity {:.2}",
                last.bits_per_byte, last.perplexity
            ),
        ),
    ];
    match scores(folder) {
        Some(scores) => rows.extend(score_rows(&scores)),
        None => rows
            .extend((summary.scores.iter()).map(|(name, value)| row(name, format!("{value:.4}")))),
    }
    if let Some(forecast) = &summary.forecast {
        let seconds = forecast.seconds;
        let memory = forecast.peak_memory.map(|memory| {
            let [said, came] =
                [memory.forecast, memory.fact].map(|bytes| output::size(bytes as u64));
            format!("; memory {came}, forecast {said}")
        });
        rows.push(row(
            "forecast",
            format!("{:.1} s{}", seconds.forecast, memory.unwrap_or_default()),
        ));
    }
    rows.extend(page.map(|page| row("report", page.display().to_string())));
    output::columns(&rows)
}

/// The test split's scores, where the recipe asked for them.
fn scores(folder: &Path) -> Option<Scores> {
    let text = fs::read(folder.join("scores.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// A line a metric: after, before and the gain, with their 95% intervals.
fn score_rows(scores: &Scores) -> Vec<Vec<String>> {
    let line = |(name, after): (&String, &Score)| {
        let mut text = format!("{:.3} [{:.3}, {:.3}]", after.value, after.low, after.high);
        if let (Some(before), Some(gain)) = (scores.before.get(name), scores.gains.get(name)) {
            text.push_str(&format!(
                ", before {:.3}, gain {:+.3} [{:+.3}, {:+.3}]",
                before.value, gain.value, gain.low, gain.high
            ));
        }
        vec![name.clone(), text]
    };
    let head = format!("of {} test examples, with 95% intervals", scores.n);
    let mut rows = vec![vec!["scores".to_owned(), head]];
    rows.extend(scores.after.iter().map(line));
    rows
}
