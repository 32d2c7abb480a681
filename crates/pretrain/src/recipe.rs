//! The recipe of a pre-training run.

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use etude_data::{Boundaries, LocalOptions};
use etude_tokenizer::{Split, TokenizerError, TrainSettings as BpeSettings};
use etude_train::{ModelSettings, OptimizerSettings, ScheduleSettings, TrainSettings, Validate};
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// A pre-training recipe, one table a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The text.
    pub data: DataSettings,
    /// The tokenizer.
    #[serde(default)]
    pub tokenizer: TokenizerSettings,
    /// The decoder.
    #[serde(default)]
    pub model: ModelSettings,
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
    pub eval: EvalSettings,
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// Data sets by name, or paths of text files, folders, JSONL, CSV or manifests.
    pub sources: Vec<Source>,
    /// `ignored` (default): windows run on across documents, the cheaper form. `kept`: attention stays
    /// inside each document.
    #[serde(default = "ignored")]
    pub boundaries: Boundaries,
    /// How sources that are paths are read.
    #[serde(default)]
    pub local: LocalOptions,
}

fn ignored() -> Boundaries {
    Boundaries::Ignored
}

/// `[tokenizer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerSettings {
    /// A `tokenizer.json` or model folder to use; none (default) trains one on the training text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Tokens of a trained one, special ones and the 256 bytes included. Default 4,096.
    pub vocab_size: usize,
    /// At most this many bytes of text train it, sampled evenly over the documents. Default 16 MiB.
    pub byte_budget: u64,
    /// How text is cut into words: `words` (default) or `digits`.
    pub split: Split,
}

impl Default for TokenizerSettings {
    fn default() -> Self {
        Self {
            path: None,
            vocab_size: 4096,
            byte_budget: 16 << 20,
            split: Split::Words,
        }
    }
}

impl TokenizerSettings {
    /// What the tokenizer crate is asked to train.
    pub fn bpe(&self) -> BpeSettings {
        BpeSettings {
            vocab_size: self.vocab_size,
            byte_budget: self.byte_budget,
            split: self.split,
            ..BpeSettings::default()
        }
    }
}

/// `[eval]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// Validation windows scored during the run, spread evenly; 0 means all. Default 64. The end of the run
    /// always scores all.
    pub windows: u64,
    /// What the model is given to go on from, at each sampling.
    pub prompts: Vec<String>,
    /// Tokens of a sample. Default 60.
    pub sample_tokens: usize,
    /// Sampling temperature; 0 is greedy. Default 0.8.
    pub temperature: f64,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self {
            windows: 64,
            prompts: Vec::new(),
            sample_tokens: 60,
            temperature: 0.8,
        }
    }
}

impl Validate for Recipe {
    fn validate(&self) -> Result<()> {
        ensure!(
            !self.data.sources.is_empty(),
            "data.sources is empty: name at least one data set or path"
        );
        for (index, source) in self.data.sources.iter().enumerate() {
            source.validate(index)?;
        }
        if self.tokenizer.path.is_none() {
            self.tokenizer
                .bpe()
                .validate()
                .map_err(|error| match error {
                    TokenizerError::Setting { field, message } => {
                        anyhow!("tokenizer.{field} {message}")
                    }
                    other => other.into(),
                })?;
        }
        self.model.config(self.tokenizer.vocab_size.max(1))?;
        self.optimizer.validate()?;
        self.train.validate()?;
        self.schedule.validate(self.train.steps)?;
        let temperature = self.eval.temperature;
        ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "eval.temperature = {temperature}: it must be 0 or more"
        );
        ensure!(
            (self.eval.sample_tokens > 0 || self.eval.prompts.is_empty())
                && (self.eval.sample_tokens as i64) < self.model.context,
            "eval.sample_tokens = {}: it must be at least 1 and below model.context = {1}; set it to {2}, say, also where the recipe leaves it to its default",
            self.eval.sample_tokens,
            self.model.context,
            self.model.context / 2
        );
        Ok(())
    }
}
