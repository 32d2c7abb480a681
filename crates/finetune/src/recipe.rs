//! The recipe of a fine-tuning run.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail, ensure};
use etude_data::{ChatFormat, ExampleFormat, LocalOptions, PlainFormat, Truncation};
use etude_eval::TaskMetric;
use etude_model::lora::{LoraConfig, Targets};
use etude_tensor::Kind;
use etude_train::{OptimizerSettings, ScheduleSettings, TrainSettings, Validate};
use serde::{Deserialize, Serialize};

use crate::mix::MixSettings;

/// A fine-tuning recipe, one table a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model to start from.
    pub base: BaseSettings,
    /// The adapter, when `base.method` is `lora`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSettings>,
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
    /// Low-rank updates of chosen matrices, the base frozen.
    Lora,
}

/// `[base]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseSettings {
    /// A model folder: its weights, configuration and tokenizer. A run folder stands for its `model/`.
    pub path: PathBuf,
    /// The pre-training recipe that makes a run at `path` first, where no model is there: a built-in one's name, or
    /// a file. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<String>,
    /// True leaves the weights aside and starts the same decoder, with the same tokenizer, from scratch.
    #[serde(default)]
    pub from_scratch: bool,
    /// `full` (default): every weight is trained. `lora`: the adapter of `[lora]`.
    #[serde(default)]
    pub method: Method,
}

/// `[lora]`: an adapter as PEFT defines it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Columns of the update's narrow side. Default 8.
    pub rank: i64,
    /// The update counts `alpha / rank` times. Default 16.
    pub alpha: f64,
    /// True counts it `alpha / √rank` times. Default false.
    pub rslora: bool,
    /// True gives each row of an updated weight a length that is learnt apart (DoRA). Default false.
    pub dora: bool,
    /// The share of its input that an update does not see in training. Default 0.
    pub dropout: f64,
    /// `"all-linear"` (default): every linear layer but the output layer; or a list of names (`["q_proj", "v_proj"]`).
    pub targets: Targets,
    /// Modules trained whole beside it, such as `["embed_tokens"]`. Default none.
    pub modules_to_save: Vec<String>,
    /// What the frozen matrices are kept in: `float32` (default) or `bfloat16`.
    pub base_dtype: BaseDtype,
    /// An adapter folder to go on from, of this rank and these targets; without it, the adapter starts as nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
}

/// The dtype of frozen matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseDtype {
    /// As training computes.
    #[default]
    Float32,
    /// Half the memory, converted for each product.
    Bfloat16,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            rslora: false,
            dora: false,
            dropout: 0.0,
            targets: Targets::AllLinear,
            modules_to_save: Vec::new(),
            base_dtype: BaseDtype::Float32,
            start: None,
        }
    }
}

impl LoraSettings {
    /// The adapter that these settings describe.
    pub fn config(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            rslora: self.rslora,
            dora: self.dora,
            dropout: self.dropout,
            targets: self.targets.clone(),
            modules_to_save: self.modules_to_save.clone(),
        }
    }

    /// What frozen matrices are converted to, if to anything.
    pub(crate) fn frozen_kind(&self) -> Option<Kind> {
        (self.base_dtype == BaseDtype::Bfloat16).then_some(Kind::BFloat16)
    }
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
    /// The prompt, in the chat format the user's turn, with `{prompt}` once where the example's own goes.
    /// Default `"{prompt}\n\n"`, in the chat format `"{prompt}"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
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
    /// How examples make rows: `padded` (default), `grouped` or `packed`.
    #[serde(default)]
    pub layout: Layout,
    /// Tokens of a packed row; 0 (default) means as many as the longest example may have.
    #[serde(default)]
    pub row_tokens: usize,
    /// At most this many training examples, the first by a fixed shuffle; 0 (default) takes all.
    #[serde(default)]
    pub examples: usize,
    /// Which shuffle `examples` are the first by; default 0. Another number draws others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draw: u64,
    /// How a source that is a path is read.
    #[serde(default)]
    pub local: LocalOptions,
    /// General text that is learnt beside the examples; default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<MixSettings>,
}

/// How examples make rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// An example a row, padded to the longest of the batch.
    #[default]
    Padded,
    /// The same, with examples of like length in a batch.
    Grouped,
    /// As many examples a row as fit, none seeing another.
    Packed,
}

fn plain() -> String {
    "plain".to_owned()
}
fn plain_completion() -> String {
    PlainFormat::default().completion
}
fn answer_tokens() -> usize {
    32
}
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TaskSettings {
    /// How examples are rendered.
    ///
    /// # Errors
    /// When the format is unknown.
    pub fn format(&self) -> Result<ExampleFormat> {
        match self.format.as_str() {
            "plain" => Ok(ExampleFormat::Plain(PlainFormat {
                prompt: self
                    .prompt
                    .clone()
                    .unwrap_or_else(|| PlainFormat::default().prompt),
                completion: self.completion.clone(),
                begin: true,
            })),
            "chat" => Ok(ExampleFormat::Chat(
                self.prompt
                    .clone()
                    .map_or_else(ChatFormat::default, |prompt| ChatFormat { prompt }),
            )),
            other => bail!("task.format = `{other}`: use `plain` or `chat`"),
        }
    }
}

const USUAL_TEST: usize = 200;

fn is_usual_test(number: &usize) -> bool {
    *number == USUAL_TEST
}

/// `[eval]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskEvalSettings {
    /// Validation examples scored during the run and at its end; 0 means all. Default 200.
    pub examples: usize,
    /// Validation examples answered at each sampling. Default 4.
    pub samples: usize,
    /// What the answers to the test split are scored by when the run is done, before fine-tuning and after it:
    /// `rouge_l`, `exact_match`, `bits_per_byte` and others. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<TaskMetric>,
    /// What `choice_accuracy` and `choice_macro_f1` choose from; default all answers of the test split.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Test examples that are then answered, evenly from the split; 0 means all. Default 200.
    #[serde(skip_serializing_if = "is_usual_test")]
    pub test: usize,
}

impl Default for TaskEvalSettings {
    fn default() -> Self {
        Self {
            examples: 200,
            samples: 4,
            metrics: Vec::new(),
            choices: Vec::new(),
            test: USUAL_TEST,
        }
    }
}

impl Recipe {
    /// The adapter that is trained, if one is.
    pub fn adapter(&self) -> Option<&LoraSettings> {
        let trained = self.base.method == Method::Lora;
        self.lora.as_ref().filter(|_| trained)
    }
}

impl Validate for Recipe {
    fn validate(&self) -> Result<()> {
        ensure!(
            !self.task.source.is_empty(),
            "task.source is empty: name a task or a JSONL file"
        );
        ensure!(
            self.task.answer_tokens > 0,
            "task.answer_tokens = 0: an answer has at least one token"
        );
        let format = self.task.format()?;
        format.validate().map_err(|error| anyhow!("task.{error}"))?;
        self.task
            .mix
            .as_ref()
            .map_or(Ok(()), MixSettings::validate)?;
        match (self.base.method, &self.lora) {
            (Method::Full, None) => {}
            // The control arm of a recipe with an adapter: the same file.
            (Method::Full, Some(_)) if self.base.from_scratch => {}
            (Method::Full, Some(_)) => {
                bail!(
                    "[lora] is there, and base.method = \"full\" trains no adapter: set base.method = \"lora\", or remove the table"
                )
            }
            (Method::Lora, None) => {
                bail!("base.method = \"lora\" needs the table [lora], with rank = 8, say")
            }
            (Method::Lora, Some(lora)) => {
                ensure!(
                    !self.base.from_scratch,
                    "base.from_scratch = true: an adapter on random weights learns nothing; use base.method = \"full\""
                );
                lora.config().validate()?;
            }
        }
        TaskMetric::check_distinct(&self.eval.metrics).map_err(|error| anyhow!("eval.{error}"))?;
        self.optimizer.validate()?;
        self.train.validate()?;
        self.schedule.validate(self.train.steps)
    }
}
