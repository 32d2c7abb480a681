//! What a task may be scored by: the metrics over text, and bits per byte of the reference answers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use etude_scores::{Bootstrap, Measured, Metric, Pair, Ratio, Score, ScoreError};
use serde::{Deserialize, Serialize};

use super::TaskItem;

const BITS_PER_BYTE: &str = "bits_per_byte";

/// A score of a task. As text it is its name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TaskMetric {
    /// Of the model's answers.
    Answers(Metric),
    /// Of the model's probabilities: the bits that the right answers cost, each with its end token,
    /// over their bytes. Less is better.
    BitsPerByte,
}

impl TaskMetric {
    /// The metric of a name: `bits_per_byte`, or one that [`Metric::parse`] knows.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one.
    pub fn parse(name: &str) -> Result<Self, ScoreError> {
        match name.trim().to_lowercase().replace(['-', ' '], "_").as_str() {
            BITS_PER_BYTE => Ok(Self::BitsPerByte),
            _ => Metric::parse(name).map(Self::Answers),
        }
    }

    /// Its name, such as `rouge_l`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Answers(metric) => metric.name(),
            Self::BitsPerByte => BITS_PER_BYTE,
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(&self) -> bool {
        match self {
            Self::Answers(metric) => metric.higher_is_better(),
            Self::BitsPerByte => false,
        }
    }

    /// What is scored when nothing else is asked for.
    pub(super) fn usual() -> Vec<Self> {
        let names = [
            "rouge_1",
            "rouge_2",
            "rouge_l",
            "bleu",
            "chrf",
            "exact_match",
            "token_f1",
        ];
        let answers = names.map(|name| Self::parse(name).expect("a known name"));
        [&answers[..], &[Self::BitsPerByte]].concat()
    }

    /// The items' statistics under this metric.
    ///
    /// # Errors
    /// No items.
    pub fn measure(&self, items: &[TaskItem]) -> Result<Measured, ScoreError> {
        match self {
            Self::Answers(metric) => {
                let pair = |item: &TaskItem| Pair::new(&item.prediction, [&item.reference]);
                Measured::new(metric, &items.iter().map(pair).collect::<Vec<_>>())
            }
            Self::BitsPerByte => {
                let ratio = |item: &TaskItem| Ratio::new(item.nats, item.bytes as f64);
                Ok(Measured::bits_per_byte(items.iter().map(ratio).collect()))
            }
        }
    }
}

impl fmt::Display for TaskMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TaskMetric {
    type Err = ScoreError;

    fn from_str(name: &str) -> Result<Self, ScoreError> {
        Self::parse(name)
    }
}

impl TryFrom<String> for TaskMetric {
    type Error = ScoreError;

    fn try_from(name: String) -> Result<Self, ScoreError> {
        Self::parse(&name)
    }
}

impl From<TaskMetric> for String {
    fn from(metric: TaskMetric) -> Self {
        metric.name().to_owned()
    }
}

/// Each metric's score of the items, with its interval.
///
/// # Errors
/// No items, or a score that is not finite.
pub fn score_items(
    items: &[TaskItem],
    metrics: &[TaskMetric],
    bootstrap: &Bootstrap,
) -> anyhow::Result<BTreeMap<String, Score>> {
    let score = |metric: &TaskMetric| {
        let measured = metric
            .measure(items)
            .and_then(|measured| measured.score(bootstrap));
        let score = measured.with_context(|| format!("cannot score by {metric}"))?;
        Ok((metric.name().to_owned(), score))
    };
    metrics.iter().map(score).collect()
}
