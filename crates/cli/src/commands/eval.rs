//! `etude eval`: one model on a text or on a task.

mod bar;
mod task;
mod text;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use etude_data::Split;
use etude_eval::TaskMetric;

use super::data::CatalogArgs;
use crate::error::Exit;
use crate::model::DeviceArgs;

const ABOUT: &str = "\
Measure a model on a text or on a task.

--text FILE: how well the model predicts the text, as bits per byte and perplexity. Windows of C tokens \
start every S; a token that an earlier window scored is context only, and a window's first token is never \
scored.

--task TASK: greedy answers to held-out examples, scored against the reference answers, each score with a \
bootstrap interval. Examples are written the way the model was fine-tuned on them, as its run folder says.";

const EXAMPLES: &str = "\
Examples:
  etude eval runs/shakespeare --text held-out.txt
  etude eval runs/shakespeare --text held-out.txt --context 256 --stride 128 --json
  etude eval runs/task --task wiki-description --limit 100
  etude eval runs/task --task wiki-description --data mine.jsonl --metric rouge_l --metric exact_match";

/// Which model, on what.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// A model folder, run folder, checkpoint or adapter folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    what: What,
    /// For a text: tokens of a window; by default the model's context, at most 1,024
    #[arg(long, value_name = "C", requires = "text")]
    context: Option<usize>,
    /// For a text: tokens from one window's start to the next; by default C
    #[arg(long, value_name = "S", requires = "text")]
    stride: Option<usize>,
    #[command(flatten)]
    task: TaskArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// A file of text; `-` for standard input
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A task by name, or the path of examples
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
}

/// What only a task has.
#[derive(Debug, Args)]
#[command(next_help_heading = "For a task")]
struct TaskArgs {
    /// Your own examples in place of the task's; all of them are used
    #[arg(long, value_name = "FILE", requires = "task")]
    data: Option<PathBuf>,
    /// At most this many examples, spread evenly over the split; 0 takes all
    #[arg(long, value_name = "N", default_value_t = 0, requires = "task")]
    limit: usize,
    /// Which examples
    #[arg(long, value_enum, default_value_t = SplitArg::Test, requires = "task")]
    split: SplitArg,
    /// Write examples as this fine-tuning recipe (a name, a file or a run folder) does, to ask a model that
    /// was not fine-tuned by it
    #[arg(long, value_name = "RECIPE", requires = "task")]
    like: Option<String>,
    /// How examples are written; by default as the model was fine-tuned, else plain
    #[arg(long, value_enum, requires = "task")]
    format: Option<FormatArg>,
    /// What is scored, such as rouge_l; may be given several times
    #[arg(long = "metric", value_name = "NAME", value_parser = TaskMetric::parse, requires = "task")]
    metrics: Vec<TaskMetric>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 128, requires = "task")]
    max_tokens: usize,
    /// Where the answers go, a JSON object a line; by default into the run folder, else here
    #[arg(long, value_name = "FILE", requires = "task")]
    predictions: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Validation,
    Test,
}

impl SplitArg {
    fn split(self) -> Split {
        match self {
            SplitArg::Train => Split::Train,
            SplitArg::Validation => Split::Validation,
            SplitArg::Test => Split::Test,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    /// Prompt and answer as text
    Plain,
    /// Turns in the model's chat template
    Chat,
}

impl FormatArg {
    fn name(self) -> &'static str {
        match self {
            FormatArg::Plain => "plain",
            FormatArg::Chat => "chat",
        }
    }
}

pub(crate) fn run(args: &EvalArgs) -> Result<Exit> {
    match (&args.what.text, &args.what.task) {
        (Some(file), _) => text::run(args, file)?,
        (None, Some(task)) => task::run(args, task)?,
        (None, None) => unreachable!("clap demands one of the two"),
    }
    Ok(Exit::Done)
}
