//! `etude quickstart`: both stages, the control and the test, in one go.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use etude_data::Cache;
use etude_experiment::{Outcome, Plan, QuickstartSummary, quickstart, set_aside};
use etude_scores::Difference;
use etude_tensor::memory;
use etude_train::RunContext;

use crate::commands::data::CatalogArgs;
use crate::error::{Exit, bad_input};
use crate::output;
use crate::recipes::{self, Stage};

const ABOUT: &str = "\
The main job from end to end, in a few minutes on two cores: a small model is pre-trained on general \
English, then fine-tuned to say in a few words what a text is about. The same decoder also learns that \
task from scratch, and all three answer the same held-out questions.

The folder then holds three runs (base, task, scratch), summary.json, examples.jsonl and report.html. \
The same command goes on where an interrupted one stopped; when the last one was finished it is set \
aside (FOLDER.previous) and everything is trained anew. The one that was set aside before it is then deleted. A \
folder in which anything else lies is refused.";

const EXAMPLES: &str = "\
Examples:
  etude quickstart
  etude quickstart --run runs/second
  etude generate runs/quickstart/base --prompt 'My fellow citizens,'";

/// Where to.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct QuickstartArgs {
    /// The folder of the three runs
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    run: PathBuf,
    /// Change one setting of the pre-training recipe, as in train.steps=200
    #[arg(long = "set-pretrain", value_name = "KEY=VALUE")]
    pretrain: Vec<String>,
    /// Change one setting of both fine-tuning recipes
    #[arg(long = "set-finetune", value_name = "KEY=VALUE")]
    finetune: Vec<String>,
    /// Show no bars
    #[arg(long, short)]
    quiet: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
}

pub(crate) fn run(args: &QuickstartArgs) -> Result<Exit> {
    memory::tune();
    let finetune = |name: &str| {
        recipes::for_stage(Stage::Finetune, name)?
            .parse(&args.finetune)
            .map_err(bad_input)
    };
    let plan = Plan {
        pretrain: recipes::for_stage(Stage::Pretrain, "quickstart")?
            .parse(&args.pretrain)
            .map_err(bad_input)?,
        finetune: finetune("quickstart")?,
        scratch: finetune("quickstart-scratch")?,
    };
    if set_aside(&args.run)? {
        output::note("the last quickstart was finished and is set aside; training anew");
    }
    let context = RunContext::new(
        args.run.clone(),
        args.catalog.catalog()?,
        Cache::user()?,
        !args.quiet,
    )?;
    match quickstart(&plan, &context, &mut |line| output::note(line))? {
        Outcome::Interrupted => {
            output::note("stopped; `etude quickstart` goes on from here");
            Ok(Exit::Interrupted)
        }
        Outcome::Finished(finished) if args.json => {
            output::json(&finished.summary).map(|()| Exit::Done)
        }
        Outcome::Finished(finished) => {
            let rows = table(&finished.summary);
            let seconds = finished.summary.seconds;
            output::text(&format!(
                "\n{}\n{}report    {}\nmodel     {}\nseconds   {:.0}, of which training {:.0}\n",
                "Held-out questions, score and 95% interval:",
                output::columns(&rows),
                finished.report.display(),
                finished.model.display(),
                seconds.total,
                seconds.training
            ))?;
            Ok(Exit::Done)
        }
    }
}

fn table(summary: &QuickstartSummary) -> Vec<Vec<String>> {
    let task = &summary.task;
    let head = [
        "",
        "base",
        "fine-tuned",
        "from scratch",
        "gain over base",
        "gain over scratch",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (metric, finetuned) in &task.finetuned {
        let show = |score: Option<&etude_scores::Score>| {
            score.map_or_else(String::new, |score| {
                format!("{:.3} [{:.3}, {:.3}]", score.value, score.low, score.high)
            })
        };
        let gain = |gain: Option<&Difference>| {
            gain.map_or_else(String::new, |gain| {
                format!("{:+.3} [{:+.3}, {:+.3}]", gain.value, gain.low, gain.high)
            })
        };
        rows.push(vec![
            metric.clone(),
            show(task.base.get(metric)),
            show(Some(finetuned)),
            show(task.scratch.get(metric)),
            gain(task.gains_over_base.get(metric)),
            gain(task.gains_over_scratch.get(metric)),
        ]);
    }
    rows
}
