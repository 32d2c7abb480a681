//! What a stage gives the loop, and what the loop gives back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use etude_data::Batch;
use etude_model::hf::TokenIds;
use etude_model::{Decoder, Prompt};
use etude_tensor::Precision;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::forecast::{Comparison, DataFacts};
use crate::settings::{OptimizerSettings, ScheduleSettings, TrainSettings};
use crate::step::within_memory;

/// What a validation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean cross-entropy in nats over the scored tokens.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// The same in bits per byte of the scored text.
    #[serde(deserialize_with = "number")]
    pub bits_per_byte: f64,
    /// `exp(loss)`.
    #[serde(deserialize_with = "number")]
    pub perplexity: f64,
}

/// A text that the model made during the run.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// What it was given.
    pub prompt: String,
    /// What it made of it.
    pub text: String,
}

/// Makes the batch of a step: a pure function, called on several threads.
pub type MakeBatch = Arc<dyn Fn(u64) -> Result<Batch> + Send + Sync>;

/// What a stage gives the loop.
pub trait Stage {
    /// `pretrain` or `finetune`.
    fn name(&self) -> &'static str;
    /// The batches, a function of the step alone.
    fn batches(&self) -> MakeBatch;
    /// The largest batch that will come, tried before step 1; none when all are alike.
    fn largest_batch(&self) -> Option<Batch>;
    /// Validation: a quick one during the run, a whole one when it is the `last`.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn evaluate(&self, decoder: &Decoder, last: bool) -> Result<Evaluation>;
    /// The batches that [`Stage::evaluate`] scores, for a forecast that measures some of them in place of all. With
    /// none, it measures a whole validation.
    fn validation_batches(&self, last: bool) -> Box<dyn Iterator<Item = Batch> + '_> {
        let _ = last;
        Box::new(std::iter::empty())
    }
    /// Whether a validation during the run is of a part of what the last one is of.
    fn validates_in_part(&self) -> bool {
        false
    }
    /// What is known of the training data, for a forecast.
    fn data_facts(&self) -> DataFacts {
        DataFacts::default()
    }
    /// A few texts to see how the model does.
    ///
    /// # Errors
    /// When generation fails.
    fn samples(&self, decoder: &Decoder) -> Result<Vec<Sample>>;
    /// Prompts whose greedy answers are kept with the result, so that it can be checked later. With none,
    /// some that suit any model are taken.
    fn prompts(&self) -> Vec<Prompt> {
        Vec::new()
    }
    /// Where the pieces of a step's batch are from, a list for each stretch of the batch, as far as is known.
    ///
    /// # Errors
    /// When the data cannot be read again.
    fn origins(&self, _step: u64, batch: &Batch) -> Result<Vec<Vec<Origin>>> {
        Ok(vec![Vec::new(); batch.stretches().len()])
    }
    /// The text of each token, together the text of all; without a tokenizer, their numbers.
    ///
    /// # Errors
    /// When an id is not the tokenizer's.
    fn spelled(&self, ids: &[u32]) -> Result<Vec<String>> {
        Ok(ids.iter().map(|id| format!("<{id}>")).collect())
    }
    /// Writes what a model folder holds besides weights and configuration: the tokenizer.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn save_tokenizer(&self, folder: &Path) -> Result<()>;
}

/// A stage's validation, computed as training computes: its loss belongs to the curve of the training loss.
pub(crate) fn validation(
    stage: &dyn Stage,
    decoder: &Decoder,
    precision: Precision,
    whole: bool,
) -> Result<Evaluation> {
    within_memory(|| precision.autocast(decoder.device(), || stage.evaluate(decoder, whole)))
}

/// Where a piece of a batch is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1: where the example, or the document, or the piece of it begins.
    pub line: u64,
    /// The example's or the document's name.
    pub name: String,
    /// Whether it was cut to fit.
    pub truncated: bool,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A stage and all that its run starts from, before the first step.
pub struct Ready {
    /// Batches, validation, samples.
    pub stage: Box<dyn Stage>,
    /// The decoder as it starts.
    pub decoder: Decoder,
    /// How it is trained.
    pub settings: TrainerSettings,
    /// What its data is, as `data.json` has it: an object with `sources`.
    pub data: Value,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("stage", &self.stage.name())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The settings of a run that both stages have.
#[derive(Debug, Clone)]
pub struct TrainerSettings {
    /// `[train]`.
    pub train: TrainSettings,
    /// `[optimizer]`.
    pub optimizer: OptimizerSettings,
    /// `[schedule]`.
    pub schedule: ScheduleSettings,
    /// Special tokens of the model.
    pub ids: TokenIds,
    /// Tokens in a row at most, for the count of operations.
    pub length: usize,
    /// Hash of the data that the run is a function of, besides its recipe.
    pub data_fingerprint: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Ended {
    /// All steps were made.
    Finished(Box<Summary>),
    /// Someone asked it to stop; the same command goes on from here.
    Interrupted {
        /// Steps made.
        step: u64,
    },
}

/// Why a run cannot go on: too many steps in a row whose loss or gradient is not finite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{steps} steps in a row had a loss or gradient that is not finite, the last one step {last} (batch in {}); lower the learning rate, or resume from an earlier checkpoint",
    .batch.display()
)]
pub struct Diverged {
    /// How many.
    pub steps: u64,
    /// The number of the last one.
    pub last: u64,
    /// Where its batch was kept.
    pub batch: PathBuf,
}

/// `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// `pretrain` or `finetune`.
    pub stage: String,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Tokens that were supervised.
    pub supervised_tokens: u64,
    /// Seconds trained, validation and samples included, over all sessions.
    pub seconds: f64,
    /// Tokens a second over those.
    pub tokens_per_second: f64,
    /// Seconds from the start of the process to the end of its first step.
    pub seconds_to_first_step: Option<f64>,
    /// Numbers in the model.
    pub parameters: u64,
    /// Numbers that training moved: fewer with an adapter.
    #[serde(default)]
    pub trained_parameters: u64,
    /// The most memory that the process held, in bytes.
    pub peak_memory: Option<u64>,
    /// Losses at the end.
    #[serde(rename = "final")]
    pub last: FinalLosses,
    /// Task scores, by metric, where the run was scored at its end.
    pub scores: BTreeMap<String, f64>,
    /// What `forecast.json` said beside what came to pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Comparison>,
}

/// Losses at the end of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalLosses {
    /// Of the last step, nats a supervised token.
    pub train_loss: Option<f64>,
    /// Of the validation data.
    #[serde(deserialize_with = "number")]
    pub validation_loss: f64,
    /// The same in bits per byte.
    #[serde(deserialize_with = "number")]
    pub bits_per_byte: f64,
    /// The same as perplexity.
    #[serde(deserialize_with = "number")]
    pub perplexity: f64,
}

/// JSON has no number for what is not finite and writes `null`.
fn number<'de, D: Deserializer<'de>>(source: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(source)?.unwrap_or(f64::NAN))
}
