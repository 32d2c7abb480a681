//! What a task of the harness is scored by, under lm-evaluation-harness' names and definitions.

use std::fmt;

use etude_data::nearest;
use etude_scores::{Measured, Metric, Pair, Ratio, ScoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::sample::{Outcome, Sample};
use super::spec::TaskKind;

/// A score of a task. As text it is its name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HarnessMetric {
    /// Multiple choice: the share of items whose right choice is the likeliest. Cloze: the share of items
    /// whose answer is what greedy decoding gives.
    Acc,
    /// As `acc`, with each choice's log-likelihood over its characters.
    AccNorm,
    /// As `acc`, with each choice's log-likelihood over its bytes.
    AccBytes,
    /// The F1 of each class (the number of the choice), averaged over the classes. For choices that mean
    /// the same in every item.
    MacroF1,
    /// e to the mean cost of an answer in nats (of an answer, not of a token).
    Perplexity,
    /// e to the nats a word; words are what white space separates.
    WordPerplexity,
    /// e to the nats a byte.
    BytePerplexity,
    /// Bits a byte.
    BitsPerByte,
    /// A score of generated answers, as `etude_scores` defines it.
    Text(Metric),
}

use HarnessMetric::{
    Acc, AccBytes, AccNorm, BitsPerByte, BytePerplexity, MacroF1, Perplexity, WordPerplexity,
};

const KNOWN: &[(&str, HarnessMetric)] = &[
    ("acc", Acc),
    ("acc_norm", AccNorm),
    ("acc_bytes", AccBytes),
    ("macro_f1", MacroF1),
    ("perplexity", Perplexity),
    ("word_perplexity", WordPerplexity),
    ("byte_perplexity", BytePerplexity),
    ("bits_per_byte", BitsPerByte),
];

impl HarnessMetric {
    /// The metric of a name.
    ///
    /// # Errors
    /// An unknown name, with the nearest known one.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some((_, metric)) = KNOWN.iter().find(|(known, _)| *known == name) {
            return Ok(*metric);
        }
        Metric::parse(name).map(Self::Text).map_err(|_| {
            let known = KNOWN.iter().map(|(known, _)| *known).chain(Metric::names());
            let close = nearest(name, known).unwrap_or("acc");
            format!("unknown metric `{name}`; did you mean `{close}`?")
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        if let Self::Text(metric) = self {
            return metric.name();
        }
        let own = KNOWN.iter().find(|(_, metric)| metric == self);
        own.map_or("", |(name, _)| name)
    }

    /// Whether more is better.
    pub fn higher_is_better(&self) -> bool {
        match self {
            Acc | AccNorm | AccBytes | MacroF1 => true,
            Perplexity | WordPerplexity | BytePerplexity | BitsPerByte => false,
            Self::Text(metric) => metric.higher_is_better(),
        }
    }

    /// What tasks of a kind are scored by when they do not say.
    pub(super) fn usual(kind: TaskKind) -> Vec<Self> {
        match kind {
            TaskKind::MultipleChoice => vec![Acc, AccNorm],
            TaskKind::Cloze => vec![Acc, Perplexity],
            TaskKind::Perplexity => vec![WordPerplexity, BytePerplexity, BitsPerByte],
            TaskKind::Generation => vec![Self::Text(Metric::ExactMatch)],
        }
    }

    /// Whether tasks of a kind have it.
    pub(super) fn fits(&self, kind: TaskKind) -> bool {
        match kind {
            TaskKind::MultipleChoice => matches!(self, Acc | AccNorm | AccBytes | MacroF1),
            TaskKind::Cloze => matches!(self, Acc | Perplexity),
            TaskKind::Perplexity => {
                matches!(self, WordPerplexity | BytePerplexity | BitsPerByte)
            }
            TaskKind::Generation => matches!(self, Self::Text(_)),
        }
    }

    /// Whether its score is the mean of the items' own, so that it has a standard error in closed form.
    pub(super) fn is_mean(&self) -> bool {
        match self {
            Acc | AccNorm | AccBytes => true,
            Self::Text(metric) => !matches!(
                metric,
                Metric::Bleu(_) | Metric::Chrf(_) | Metric::Distinct(_)
            ),
            _ => false,
        }
    }

    /// The samples' statistics.
    pub(super) fn measure(&self, samples: &[&Sample]) -> Result<Measured, ScoreError> {
        match self {
            Acc | AccNorm | AccBytes => {
                let right = |sample: &&Sample| self.is_right(&sample.outcome) > 0.0;
                Ok(Measured::share(samples.iter().map(right)))
            }
            MacroF1 => {
                let pair = |sample: &&Sample| match &sample.outcome {
                    Outcome::Choice { gold, .. } => (*gold, sample.outcome.likeliest(Acc)),
                    _ => unreachable!("macro_f1 fits multiple choice alone"),
                };
                let pairs: Vec<(usize, usize)> = samples.iter().map(pair).collect();
                Measured::macro_f1(&pairs)
            }
            Perplexity | WordPerplexity | BytePerplexity => {
                Ok(Measured::perplexity(self.ratios(samples)))
            }
            BitsPerByte => Ok(Measured::bits_per_byte(self.ratios(samples))),
            Self::Text(metric) => {
                let pair = |sample: &&Sample| match &sample.outcome {
                    Outcome::Text { made, references } => Pair::new(made, references.clone()),
                    _ => unreachable!("scores of answers fit generation alone"),
                };
                Measured::new(metric, &samples.iter().map(pair).collect::<Vec<_>>())
            }
        }
    }

    /// Nats over what they are counted by.
    fn ratios(&self, samples: &[&Sample]) -> Vec<Ratio> {
        let ratio = |sample: &&Sample| match (&sample.outcome, self) {
            (Outcome::Cloze(found), Perplexity) => Ratio::one(-found.log_likelihood),
            (
                Outcome::Rolling {
                    log_likelihood,
                    words,
                    ..
                },
                WordPerplexity,
            ) => Ratio::new(-log_likelihood, *words as f64),
            (
                Outcome::Rolling {
                    log_likelihood,
                    bytes,
                    ..
                },
                _,
            ) => Ratio::new(-log_likelihood, *bytes as f64),
            _ => unreachable!("a task's metrics fit its kind"),
        };
        samples.iter().map(ratio).collect()
    }

    /// 1 where the item is right, else 0.
    fn is_right(&self, outcome: &Outcome) -> f64 {
        let right = match outcome {
            Outcome::Choice { gold, .. } => outcome.likeliest(*self) == *gold,
            Outcome::Cloze(found) => found.is_greedy,
            _ => unreachable!("accuracies fit choices and clozes alone"),
        };
        f64::from(u8::from(right))
    }

    /// What a samples file has for one item: its score, or the summands of a score that is no mean.
    pub(super) fn of_item(&self, sample: &Sample) -> Value {
        match (&sample.outcome, self) {
            (_, Acc | AccNorm | AccBytes) => json!(self.is_right(&sample.outcome)),
            (Outcome::Choice { gold, .. }, _) => json!([gold, sample.outcome.likeliest(Acc)]),
            (Outcome::Cloze(found), _) => json!(found.log_likelihood),
            (
                Outcome::Rolling {
                    log_likelihood,
                    words,
                    ..
                },
                WordPerplexity,
            ) => {
                json!([log_likelihood, words])
            }
            (
                Outcome::Rolling {
                    log_likelihood,
                    bytes,
                    ..
                },
                _,
            ) => json!([log_likelihood, bytes]),
            (Outcome::Text { .. }, _) => {
                let measured = self
                    .measure(&[sample])
                    .map(|measured| measured.item_scores());
                json!(measured.ok().and_then(|scores| scores.first().copied()))
            }
        }
    }
}

impl fmt::Display for HarnessMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<String> for HarnessMetric {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name)
    }
}

impl From<HarnessMetric> for String {
    fn from(metric: HarnessMetric) -> Self {
        metric.name().to_owned()
    }
}
