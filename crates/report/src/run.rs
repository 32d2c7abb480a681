//! What a run folder holds, as plain data. Reading it is in `read`, showing it in `sections`.

use serde_json::Value;

/// One run folder, with whatever of it could be read.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) train: Vec<TrainPoint>,
    pub(crate) evals: Vec<EvalPoint>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) data: Value,
    pub(crate) summary: Value,
    /// `scores.json`, where the run was scored on its test split.
    pub(crate) scores: Value,
    /// `probes.json`, where the checkpoints were measured.
    pub(crate) probes: Value,
    pub(crate) environment: Value,
    pub(crate) recipe: Recipe,
    pub(crate) notes: Vec<Note>,
}

/// The resolved recipe: parsed, or as text where it is not valid TOML.
#[derive(Debug, Default)]
pub(crate) enum Recipe {
    #[default]
    Missing,
    Parsed(toml::Table),
    Raw(String),
}

/// A line of kind `train`; numbers that were not finite are `None`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct TrainPoint {
    pub(crate) step: f64,
    pub(crate) loss: Option<f64>,
    pub(crate) lr: Option<f64>,
    pub(crate) grad_norm: Option<f64>,
    pub(crate) tokens: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) seconds: Option<f64>,
    pub(crate) mfu: Option<f64>,
}

/// A line of kind `eval`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct EvalPoint {
    pub(crate) step: f64,
    pub(crate) loss: Option<f64>,
    /// Of the last, which is of more text than those before it: the loss of the same text.
    pub(crate) part_loss: Option<f64>,
    pub(crate) bits_per_byte: Option<f64>,
    pub(crate) perplexity: Option<f64>,
}

/// A line of `samples.jsonl`.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) step: f64,
    pub(crate) prompt: String,
    pub(crate) text: String,
}

/// A line of a quickstart's `examples.jsonl`.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) id: String,
    pub(crate) prompt: String,
    pub(crate) reference: String,
    pub(crate) base: String,
    pub(crate) finetuned: String,
    pub(crate) scratch: String,
}

/// Something a reader of the report should know about its input.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Note {
    /// File name, with the line where there is one: `metrics.jsonl, line 17`.
    pub(crate) place: String,
    pub(crate) text: String,
}

/// Which of the two stages a run was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Pretrain,
    Finetune,
    Unknown,
}

impl Run {
    /// A number at a JSON pointer of `summary.json`.
    pub(crate) fn summary_number(&self, pointer: &str) -> Option<f64> {
        number(&self.summary, pointer)
    }

    /// A number at a JSON pointer of `data.json`.
    pub(crate) fn data_number(&self, pointer: &str) -> Option<f64> {
        number(&self.data, pointer)
    }

    /// `summary.json` is the last file that a run writes.
    pub(crate) fn finished(&self) -> bool {
        self.summary.is_object()
    }

    /// From `summary.json`; before that exists, from what only fine-tuning writes.
    pub(crate) fn stage(&self) -> Stage {
        match self.summary.pointer("/stage").and_then(Value::as_str) {
            Some("pretrain") => Stage::Pretrain,
            Some("finetune") => Stage::Finetune,
            _ if self.data.pointer("/examples").is_some() => Stage::Finetune,
            _ if !self.samples.is_empty() => Stage::Pretrain,
            _ => Stage::Unknown,
        }
    }

    /// The last step that any record names.
    pub(crate) fn last_step(&self) -> Option<f64> {
        let logged = self.train.last().map(|point| point.step);
        logged.or_else(|| self.summary_number("/steps"))
    }

    /// Bits per byte on the validation text at the end (or so far).
    pub(crate) fn bits_per_byte(&self) -> Option<f64> {
        self.summary_number("/final/bits_per_byte").or_else(|| {
            self.evals
                .iter()
                .rev()
                .find_map(|point| point.bits_per_byte)
        })
    }

    /// Loss on the validation text at the end (or so far).
    pub(crate) fn validation_loss(&self) -> Option<f64> {
        self.summary_number("/final/validation_loss")
            .or_else(|| self.evals.iter().rev().find_map(|point| point.loss))
    }
}

/// A finite number at a JSON pointer.
pub(crate) fn number(value: &Value, pointer: &str) -> Option<f64> {
    value
        .pointer(pointer)?
        .as_f64()
        .filter(|found| found.is_finite())
}

/// A string at a JSON pointer.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}
