//! `etude transfer`: what pre-training is worth, at several amounts of task data.

use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use etude_data::Cache;
use etude_eval::TaskMetric;
use etude_experiment::{
    DataRatio, RunFailed, Transfer, TransferRecipe, TransferSummary, Transferred, Work, Workers,
    transfer, transfer_worker,
};
use etude_tensor::memory;
use etude_train::RunContext;

use crate::commands::data::CatalogArgs;
use crate::commands::finetune::{pretrain_recipe, with_base};
use crate::error::{Exit, Misuse, bad_input};
use crate::output;
use crate::recipes::{self, Stage};

const ABOUT: &str = "\
The transfer experiment: one task is learnt from a pre-trained model and from scratch, in the same steps and \
with each side's best learning rates, at 1, 3, 10, 30 and 100% of its examples and with several seeds.

One page then shows the score against the amount of data, how much less data the pre-trained model needs for \
the same score, what its pre-training cost beside all fine-tunings, and what fine-tuning made it forget.

The folder holds the runs, transfer.json, examples.jsonl and report.html. The same command goes on where an \
interrupted one stopped; what is finished is not run again.";

const EXAMPLES: &str = "\
Examples:
  etude transfer descriptions
  etude transfer mine.toml --set 'transfer.shares=[0.1, 1.0]' --run runs/short
  etude recipe show transfer-descriptions > mine.toml";

/// Which experiment, and where it goes.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct TransferArgs {
    /// A built-in transfer recipe's name, or a recipe file (.toml)
    #[arg(value_name = "RECIPE")]
    recipe: String,
    /// Change one setting of the experiment, as in transfer.test=100; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Change one setting of all its fine-tuning recipes, as in train.steps=100
    #[arg(long = "set-finetune", value_name = "KEY=VALUE")]
    finetune: Vec<String>,
    /// Change one setting of the base model's recipe, where it is pre-trained first
    #[arg(long = "set-pretrain", value_name = "KEY=VALUE")]
    pretrain: Vec<String>,
    /// The folder of the experiment; by default runs/ and the recipe's name
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Runs at once, each in a process of its own with its share of the cores; at most as many as there are cores, and
    /// as memory holds. For many cores and a small model, which cannot use them all
    #[arg(long, value_name = "N", default_value_t = 1)]
    parallel: usize,
    /// Make one run, for the process that leads the experiment
    #[arg(long, hide = true, value_name = "WORK")]
    worker: Option<Work>,
    /// Print the experiment's recipe as it would be run, and stop
    #[arg(long)]
    dry_run: bool,
    /// Show no bars
    #[arg(long, short)]
    quiet: bool,
    /// Print transfer.json
    #[arg(long, conflicts_with = "dry_run")]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
}

pub(crate) fn run(args: &TransferArgs) -> Result<Exit> {
    if let Some(work) = &args.worker {
        work.end_with_the_leader()?;
    }
    memory::tune();
    let source = recipes::for_stage(Stage::Transfer, &args.recipe)?;
    recipes::check_stage(Stage::Transfer, &source)?;
    let recipe: TransferRecipe = source.parse(&args.settings).map_err(bad_input)?;
    if args.dry_run {
        output::text(&etude_train::recipe::to_toml(&recipe)?)?;
        return Ok(Exit::Done);
    }
    let plan = plan(&recipe, args)?;
    let folder = args
        .run
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(&source.name));
    let bars = !args.quiet && args.worker.is_none();
    let context = RunContext::new(folder, args.catalog.catalog()?, Cache::user()?, bars)?;
    if let Some(work) = &args.worker {
        let done = transfer_worker(&plan, &context, work)?;
        return Ok(if done { Exit::Done } else { Exit::Interrupted });
    }
    let workers = workers(args.parallel)?;
    let say = &mut |line: &str| output::note(line);
    match transfer(&plan, &context, workers.as_ref(), say).map_err(explained)? {
        Transferred::Interrupted => {
            output::note("stopped; the same command goes on from here");
            Ok(Exit::Interrupted)
        }
        Transferred::Finished(summary, _) if args.json => {
            output::json(&summary).map(|()| Exit::Done)
        }
        Transferred::Finished(summary, report) => {
            output::text(&format!(
                "\n{}\n{}\nreport  {}\n",
                output::columns(&table(&summary)),
                tell(&summary),
                report.display()
            ))?;
            Ok(Exit::Done)
        }
    }
}

/// This program as it was called, for `--parallel`; none for one run at a time.
fn workers(count: usize) -> Result<Option<Workers>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if !(1..=cores).contains(&count) {
        return Err(Misuse::error(
            format!("--parallel {count}: this machine has {cores} cores"),
            format!("give 1 to {cores}"),
        ));
    }
    if count == 1 {
        return Ok(None);
    }
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut arguments = std::env::args_os().skip(1);
    let stage = arguments.next().context("a command was given")?;
    Ok(Some(Workers {
        command: vec![program.into_os_string(), stage, "--worker".into()],
        arguments: arguments.collect(),
        count,
    }))
}

/// A run that failed for what the user gave it is the user's to mend here as well.
fn explained(failure: anyhow::Error) -> anyhow::Error {
    match failure.downcast_ref::<RunFailed>() {
        Some(failed) if failed.status == Some(2) => Misuse::error(
            failed.to_string(),
            "the same command then goes on from here",
        ),
        _ => failure,
    }
}

/// The experiment's recipes, found and parsed.
fn plan(recipe: &TransferRecipe, args: &TransferArgs) -> Result<Transfer> {
    let settings = &recipe.transfer;
    let finetune = |name: &str, more: &[String]| -> Result<etude_finetune::Recipe> {
        let source = recipes::for_stage(Stage::Finetune, name)?;
        recipes::check_stage(Stage::Finetune, &source)?;
        let all = [args.finetune.as_slice(), more].concat();
        let parsed: etude_finetune::Recipe = source.parse(&all).map_err(bad_input)?;
        with_base(&parsed)
    };
    let scratch = match &settings.scratch {
        Some(name) => finetune(name, &settings.scratch_set)?,
        None => {
            // Random weights have no use for an adapter.
            let from_scratch = ["base.from_scratch=true", "base.method=full"].map(str::to_owned);
            let all = [&from_scratch[..], &settings.scratch_set].concat();
            finetune(&settings.finetune, &all)?
        }
    };
    let main = finetune(&settings.finetune, &[])?;
    let variant = |variant: &etude_experiment::VariantSettings| {
        Ok((
            variant.name.clone(),
            finetune(&settings.finetune, &variant.set)?,
        ))
    };
    Ok(Transfer {
        settings: settings.clone(),
        pretrain: pretrain_recipe(&main, &args.pretrain)?,
        finetune: main,
        scratch,
        variants: recipe.variants.iter().map(variant).collect::<Result<_>>()?,
    })
}

/// A row for each amount of data.
fn table(summary: &TransferSummary) -> Vec<Vec<String>> {
    let metric = &summary.metric;
    let head = [
        "examples",
        "share",
        "from the pre-trained model",
        "from scratch",
        "difference",
        "p",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let show = |arm: &etude_experiment::ArmScores| {
        arm.scores.get(metric).map_or_else(String::new, |score| {
            format!("{:.3} [{:.3}, {:.3}]", score.value, score.low, score.high)
        })
    };
    for point in &summary.points {
        let difference = point.differences.get(metric);
        rows.push(vec![
            output::count(point.examples as u64),
            format!("{}%", point.share * 100.0),
            show(&point.pretrained),
            show(&point.scratch),
            difference.map_or_else(String::new, |gain| {
                format!("{:+.3} [{:+.3}, {:+.3}]", gain.value, gain.low, gain.high)
            }),
            difference.map_or_else(String::new, |gain| etude_report::shown_p(gain.p)),
        ]);
    }
    rows
}

/// Whether a metric rises, or falls, with what was learnt.
fn tells(metric: &str) -> bool {
    TaskMetric::parse(metric).is_ok_and(|metric| metric.tells_what_was_learnt())
}

fn fewer(ratio: &DataRatio) -> String {
    let sign = if ratio.at_least { "at least " } else { "" };
    format!("{sign}{:.1} times fewer", ratio.value)
}

/// An end of the interval where the model never got to the score stands for less than what was tried.
fn interval(ratio: &DataRatio) -> String {
    let low = match ratio.low {
        0.0 => "below 1".to_owned(),
        low => format!("{low:.1}"),
    };
    let high = match (ratio.high, ratio.high_at_least) {
        (0.0, _) => "below 1".to_owned(),
        (high, true) => format!("{high:.1} or more"),
        (high, false) => format!("{high:.1}"),
    };
    format!("{low} to {high}")
}

fn tell(summary: &TransferSummary) -> String {
    let metric = &summary.metric;
    let mut data = match &summary.data_ratio {
        None if !tells(metric) => format!(
            "{metric} does not tell what was learnt, so amounts of data are not compared by it.\n"
        ),
        None if summary.points.len() < 2 => {
            "Only one amount of data was tried, so amounts are not compared.\n".to_owned()
        }
        None => format!(
            "More data does not help the model from scratch in {metric}, by more than chance, so that there is no amount of data to compare by it.\n"
        ),
        Some(ratio) if ratio.value == 0.0 => format!(
            "The pre-trained model does not reach, in {metric}, what the other reaches with all examples (95%: {}).\n",
            interval(ratio)
        ),
        Some(ratio) => format!(
            "For the {metric} that the model from scratch reaches with all examples, the pre-trained one needs {} (95%: {}).\n",
            fewer(ratio),
            interval(ratio)
        ),
    };
    let others = (summary.data_ratios.iter()).filter(|(name, _)| *name != metric);
    let others: Vec<String> = others
        .map(|(name, ratio)| match ratio.value {
            0.0 => format!("{name} not reached"),
            _ => format!("{name} {} ({})", fewer(ratio), interval(ratio)),
        })
        .collect();
    if !others.is_empty() {
        data += &format!("By the other metrics: {}.\n", others.join(", "));
    }
    let forgetting: Vec<Vec<String>> = (summary.variants.iter())
        .filter_map(|variant| {
            let score = variant.scores.get(metric)?;
            let general = variant.general?;
            Some(vec![
                format!("  {}", variant.name),
                format!("{metric} {:.3}", score.value),
                format!("{general:.3} bits per byte of general text"),
            ])
        })
        .collect();
    match summary.general_before {
        Some(before) => format!(
            "{data}General text cost {before:.3} bits per byte before fine-tuning, and after it:\n{}",
            output::columns(&forgetting)
        ),
        None => data,
    }
}
