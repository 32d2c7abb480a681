//! The recipe of a fine-tuning run.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use etude_data::{ExampleFormat, LocalOptions, PlainFormat, Truncation};
use etude_train::{OptimizerSettings, ScheduleSettings, TrainSettings};
use serde::{Deserialize, Serialize};

/// A fine-tuning recipe, one table a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model to start from.
    pub base: BaseSettings,
    /// The examples.
    pub task: TaskSettings,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerSettings,
    /// The learning rate's shape.
    #[serde(default)]
    pub schedule: ScheduleSettings,
    /// The run.
    #[serde(default)]
    pub train: TrainSettings,
    /// Validation and samples.
    #[serde(default)]
    pub eval: TaskEvalSettings,
}

/// What of the model is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Every weight.
    #[default]
    Full,
}

/// `[base]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseSettings {
    /// A model folder: its weights, configuration and tokenizer. A run folder stands for its `model/`.
    pub path: PathBuf,
    /// True leaves the weights aside and starts the same decoder, with the same tokenizer, from scratch.
    #[serde(default)]
    pub from_scratch: bool,
    /// `full` (default): every weight is trained.
    #[serde(default)]
    pub method: Method,
}

/// `[task]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSettings {
    /// A task by name, or the path of a JSONL, CSV or manifest.
    pub source: String,
    /// `plain` (default) writes prompt and answer as text, `chat` through the model's chat template.
    #[serde(default = "plain")]
    pub format: String,
    /// The plain format's prompt, `{prompt}` in it. Default `"{prompt}\n\n"`.
    #[serde(default = "plain_prompt")]
    pub prompt: String,
    /// The plain format's answer, `{completion}` in it. Default `"{completion}"`.
    #[serde(default = "plain_completion")]
    pub completion: String,
    /// Characters of the example's prompt that are kept, cut at a word; 0 (default) keeps all.
    #[serde(default)]
    pub prompt_chars: usize,
    /// Tokens of the longest example, at most the model's context; 0 (default) means the context.
    #[serde(default)]
    pub context: usize,
    /// Tokens kept free for the answer when prompts are cut. Default 32.
    #[serde(default = "answer_tokens")]
    pub answer_tokens: usize,
    /// What happens to longer examples: `drop` (default), `truncate-prompt` or `truncate`.
    #[serde(default)]
    pub truncation: Truncation,
    /// At most this many training examples, the first by a fixed shuffle; 0 (default) takes all.
    #[serde(default)]
    pub examples: usize,
    /// How a source that is a path is read.
    #[serde(default)]
    pub local: LocalOptions,
}

fn plain() -> String {
    "plain".to_owned()
}
fn plain_prompt() -> String {
    PlainFormat::default().prompt
}
fn plain_completion() -> String {
    PlainFormat::default().completion
}
fn answer_tokens() -> usize {
    32
}

impl TaskSettings {
    /// How examples are rendered.
    ///
    /// # Errors
    /// When the format is unknown.
    pub fn format(&self) -> Result<ExampleFormat> {
        match self.format.as_str() {
            "plain" => Ok(ExampleFormat::Plain(PlainFormat {
                prompt: self.prompt.clone(),
                completion: self.completion.clone(),
                begin: true,
            })),
            "chat" => Ok(ExampleFormat::Chat),
            other => bail!("task.format = `{other}`: use `plain` or `chat`"),
        }
    }
}

/// `[eval]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskEvalSettings {
    /// Validation examples scored during the run and at its end; 0 means all. Default 200.
    pub examples: usize,
    /// Validation examples answered at each sampling. Default 4.
    pub samples: usize,
}

impl Default for TaskEvalSettings {
    fn default() -> Self {
        Self {
            examples: 200,
            samples: 4,
        }
    }
}

impl Recipe {
    /// Refuses settings that no run can have.
    ///
    /// # Errors
    /// The key, its value and what it must be.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            !self.task.source.is_empty(),
            "task.source is empty: name a task or a JSONL file"
        );
        self.task.format()?;
        self.optimizer.validate()?;
        self.train.validate()?;
        self.schedule.validate(self.train.steps)
    }
}
