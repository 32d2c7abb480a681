//! `etude eval`: one model on a text, on a task, or on benchmarks.

mod against;
mod bar;
mod checkpoints;
mod files;
mod harness;
mod next;
mod probes;
mod table;
mod task;
mod text;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use etude_data::Split;
use etude_eval::TaskMetric;

use super::data::CatalogArgs;
use crate::error::{Exit, Misuse};
use crate::generation::BeamArgs;
use crate::model::DeviceArgs;

const ABOUT: &str = "\
Measure a model on a text, on a task, or on benchmarks.

--text FILE: how well the model predicts the text, as bits per byte and perplexity. Windows of C tokens \
start every S; a token that an earlier window scored is context only, and a window's first token is never \
scored.

--task TASK: greedy answers to held-out examples (or, with --beams, those likeliest as a whole), scored against the reference answers, each score with a \
bootstrap interval. Examples are written the way the model was fine-tuned on them, as its run folder says.

--tasks NAME_OR_FILE,…: benchmarks in standard formats, scored as lm-evaluation-harness scores them: multiple \
choice by likelihood, cloze, perplexity, generation. A task is a TOML file with templates over the records of a \
JSONL file (docs/guide.md#benchmarks), or built in: `grammar`, minimal pairs of sentences.

--next TEXT: the five likeliest next tokens with their probabilities.";

const EXAMPLES: &str = "\
Examples:
  etude eval runs/pretrain-shakespeare --text held-out.txt
  etude eval runs/pretrain-shakespeare --text held-out.txt --context 256 --stride 128 --json
  etude eval runs/task --task wiki-description --limit 100
  etude eval runs/task --task wiki-description --against runs/task-scratch
  etude eval runs/translate --task debian-en-fr --beams 4
  etude eval runs/task --task wiki-description --data mine.jsonl --metric rouge_l --metric exact_match
  etude eval smollm2 --tasks grammar,arc.toml --num-fewshot 5 --output results
  etude eval runs/base --tasks grammar --checkpoints
  etude eval runs/base --next \"The president of the United\" --checkpoints";

/// Which model, on what.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// A model folder, run folder, checkpoint or adapter folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    what: What,
    /// For a text: tokens of a window; by default the model's context, at most 1,024. For benchmarks: the most
    /// tokens that the model reads at a time; by default its context
    #[arg(long, value_name = "C", conflicts_with_all = ["task", "next"])]
    context: Option<usize>,
    /// For a text: tokens from one window's start to the next; by default C
    #[arg(long, value_name = "S", requires = "text")]
    stride: Option<usize>,
    /// For a task or benchmarks: at most this many examples, spread evenly; 0 takes all
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with_all = ["text", "next"])]
    limit: usize,
    /// Solved examples before each question: of a task's training split, none by default; of benchmarks as the
    /// benchmark says
    #[arg(long, value_name = "N", conflicts_with_all = ["text", "next"])]
    num_fewshot: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    harness: HarnessArgs,
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
    /// Benchmarks: names of those that are built in, or task files, with commas between them
    #[arg(long, value_name = "NAME_OR_FILE", value_delimiter = ',')]
    tasks: Vec<String>,
    /// What the model would say next after a text: the likeliest tokens; may be given several times
    #[arg(long, value_name = "TEXT")]
    next: Vec<String>,
}

/// What only benchmarks have.
#[derive(Debug, Args)]
#[command(next_help_heading = "For benchmarks")]
struct HarnessArgs {
    /// Write results_….json and samples_TASK_….jsonl into this folder, as lm-evaluation-harness lays them out
    #[arg(long, value_name = "DIR", requires = "tasks")]
    output: Option<PathBuf>,
    /// Measure all checkpoints of a run, a row a step; also with --next
    #[arg(long, conflicts_with_all = ["text", "task"])]
    checkpoints: bool,
}

/// What only a task has.
#[derive(Debug, Args)]
#[command(next_help_heading = "For a task")]
struct TaskArgs {
    /// Your own examples in place of the task's; all of them are used
    #[arg(long, value_name = "FILE", requires = "task")]
    data: Option<PathBuf>,
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
    /// What choice_accuracy chooses from, with commas between; by default all answers of the split
    #[arg(long, value_name = "ANSWERS", value_delimiter = ',', requires = "task")]
    choices: Vec<String>,
    /// Most tokens of an answer; by default as many as the fine-tuning recipe has, else 128
    #[arg(long, value_name = "N", requires = "task")]
    max_tokens: Option<usize>,
    /// Another model that answers the same examples; the scores' differences are told with intervals
    #[arg(long, value_name = "MODEL", requires = "task")]
    against: Option<PathBuf>,
    /// Where the answers go, a JSON object a line; by default into the run folder, else here
    #[arg(long, value_name = "FILE", requires = "task")]
    predictions: Option<PathBuf>,
    #[command(flatten)]
    beams: BeamArgs,
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
    if args.task.beams.is_given() && args.what.task.is_none() {
        return Err(Misuse::error(
            "--beams: only a task's answers are searched for",
            "leave it out, or name a task with --task",
        ));
    }
    match (&args.what.text, &args.what.task) {
        (Some(file), _) => text::run(args, file)?,
        (None, Some(task)) => task::run(args, task)?,
        (None, None) if args.what.tasks.is_empty() => next::run(args, &args.what.next)?,
        (None, None) => harness::run(args, &args.what.tasks)?,
    }
    Ok(Exit::Done)
}
