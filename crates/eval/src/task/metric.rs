//! What a task may be scored by: the metrics over text, and bits per byte of the reference answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use etude_scores::{Bootstrap, Measured, Metric, Pair, Ratio, Score, ScoreError};
use serde::{Deserialize, Serialize};

use super::{TaskItem, TaskResult};

const BITS_PER_BYTE: &str = "bits_per_byte";
const CHOICE_ACCURACY: &str = "choice_accuracy";
const CHOICE_MACRO_F1: &str = "choice_macro_f1";

/// A score of a task. As text it is its name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TaskMetric {
    /// Of the model's answers.
    Answers(Metric),
    /// Of the model's probabilities: the bits that the right answers cost, each with its end token,
    /// over their bytes. Less is better.
    BitsPerByte,
    /// Of the model's probabilities, for a classification: the share of items whose right answer is the
    /// likeliest of all answers that there are.
    ChoiceAccuracy,
    /// The same by F1, averaged over the answers, so that a rare one counts as much as a frequent one.
    ChoiceMacroF1,
}

impl TaskMetric {
    /// The metric of a name: `bits_per_byte`, `choice_accuracy`, `choice_macro_f1`, or one that
    /// [`Metric::parse`] knows.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one.
    pub fn parse(name: &str) -> Result<Self, ScoreError> {
        match name.trim().to_lowercase().replace(['-', ' '], "_").as_str() {
            BITS_PER_BYTE => Ok(Self::BitsPerByte),
            CHOICE_ACCURACY => Ok(Self::ChoiceAccuracy),
            CHOICE_MACRO_F1 => Ok(Self::ChoiceMacroF1),
            _ => Metric::parse(name).map(Self::Answers).map_err(|_| {
                let own = [BITS_PER_BYTE, CHOICE_ACCURACY, CHOICE_MACRO_F1];
                ScoreError::unknown_metric(name, Metric::names().chain(own).collect())
            }),
        }
    }

    /// Refuses a list in which one stands twice.
    ///
    /// # Errors
    /// Its name.
    pub fn check_distinct(metrics: &[Self]) -> anyhow::Result<()> {
        let twice = (1..metrics.len()).find(|&at| metrics[..at].contains(&metrics[at]));
        match twice {
            Some(at) => anyhow::bail!("metrics: {} is named twice", metrics[at].name()),
            None => Ok(()),
        }
    }

    /// Its name, such as `rouge_l`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Answers(metric) => metric.name(),
            Self::BitsPerByte => BITS_PER_BYTE,
            Self::ChoiceAccuracy => CHOICE_ACCURACY,
            Self::ChoiceMacroF1 => CHOICE_MACRO_F1,
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(&self) -> bool {
        match self {
            Self::Answers(metric) => metric.higher_is_better(),
            Self::BitsPerByte => false,
            Self::ChoiceAccuracy | Self::ChoiceMacroF1 => true,
        }
    }

    /// Whether the model must write an answer for it.
    pub(super) fn needs_answers(&self) -> bool {
        matches!(self, Self::Answers(_))
    }

    /// Whether it compares the likelihoods of answers.
    pub fn is_choice(&self) -> bool {
        matches!(self, Self::ChoiceAccuracy | Self::ChoiceMacroF1)
    }

    /// Whether it rises, or falls, with what was learnt. How much a model repeats itself does neither.
    pub fn tells_what_was_learnt(&self) -> bool {
        !matches!(
            self,
            Self::Answers(Metric::Distinct(_) | Metric::Repetition(_))
        )
    }

    /// Whether an evaluation by other metrics tells it as well.
    pub fn is_told_by(&self, result: &TaskResult) -> bool {
        let all_chosen = result.items.iter().all(|item| item.chosen.is_some());
        let wrote = |name: &String| Self::parse(name).is_ok_and(|metric| metric.needs_answers());
        match self {
            Self::BitsPerByte => true,
            Self::ChoiceAccuracy | Self::ChoiceMacroF1 => all_chosen,
            // Of a classification alone the predictions are the choices.
            Self::Answers(_) => !all_chosen || result.scores.keys().any(wrote),
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
        self.measure_beside(items, &[])
    }

    /// The same, as it can be pooled with the statistics of other systems' items: classes are numbered alike.
    ///
    /// # Errors
    /// No items.
    pub fn measure_beside(
        &self,
        items: &[TaskItem],
        others: &[&[TaskItem]],
    ) -> Result<Measured, ScoreError> {
        match self {
            Self::Answers(metric) => {
                let right = |item: &TaskItem| {
                    [&item.reference]
                        .into_iter()
                        .chain(&item.also)
                        .cloned()
                        .collect::<Vec<_>>()
                };
                let pair = |item: &TaskItem| Pair::new(&item.prediction, right(item));
                Measured::new(metric, &items.iter().map(pair).collect::<Vec<_>>())
            }
            Self::BitsPerByte => {
                let ratio = |item: &TaskItem| Ratio::new(item.nats, item.bytes as f64);
                Ok(Measured::bits_per_byte(items.iter().map(ratio).collect()))
            }
            Self::ChoiceAccuracy => {
                let right = |item: &TaskItem| item.judged_choice() == Some(&item.reference);
                Ok(Measured::share(items.iter().map(right)))
            }
            Self::ChoiceMacroF1 => {
                let all = others.iter().flat_map(|items| items.iter()).chain(items);
                let answers = all.flat_map(|item| [Some(&item.reference), item.judged_choice()]);
                let answers: BTreeSet<Option<&String>> = answers.collect();
                let class = |answer: Option<&String>| answers.iter().position(|one| *one == answer);
                let pair = |item: &TaskItem| {
                    let (right, chosen) = (Some(&item.reference), item.judged_choice());
                    class(right).zip(class(chosen)).unwrap_or_default()
                };
                Measured::macro_f1(&items.iter().map(pair).collect::<Vec<_>>())
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
