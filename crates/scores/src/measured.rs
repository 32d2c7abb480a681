//! A system's output, measured item by item: from here corpus scores, intervals and comparisons are
//! sums, and no text is looked at again.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::answers::{accuracy, exact_match, token_f1};
use crate::bleu::{Bleu, BleuStatistics};
use crate::bootstrap::{self, Bootstrap, Difference, Score, Statistics};
use crate::chrf::{Chrf, ChrfStatistics};
use crate::classes::Confusion;
use crate::diversity::{distinct_shares, repetition};
use crate::error::ScoreError;
use crate::likelihood::Ratio;
use crate::metric::Metric;

/// What a system said about an item, and what it should have said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The system's output.
    pub prediction: String,
    /// The right answers; the number may differ from item to item.
    pub references: Vec<String>,
}

impl Pair {
    /// A prediction with its references.
    pub fn new<R: Into<String>>(
        prediction: impl Into<String>,
        references: impl IntoIterator<Item = R>,
    ) -> Self {
        Self {
            prediction: prediction.into(),
            references: references.into_iter().map(Into::into).collect(),
        }
    }
}

/// Per-item statistics of one system under one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    items: Items,
}

/// The statistics with what turns their sum into a score.
#[derive(Debug, Clone, PartialEq)]
enum Items {
    Bleu(Bleu, Vec<BleuStatistics>),
    Chrf(Chrf, Vec<ChrfStatistics>),
    /// A metric that is the mean of its item scores, of [`Metric::Distinct`] weighted by their n-grams.
    Mean(Metric, Vec<Ratio>),
    /// A quotient of sums that came from elsewhere.
    Quotient(Quotient, Vec<Ratio>),
    /// Right and predicted classes.
    MacroF1(Vec<Confusion>),
}

/// A mean; 0 of nothing, as of texts without n-grams.
fn mean(sum: &Ratio) -> f64 {
    match sum.denominator {
        0.0 => 0.0,
        _ => sum.value(),
    }
}

/// What is made of a quotient of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotient {
    Plain,
    BitsPerByte,
    Perplexity,
}

impl Quotient {
    fn value(self, sum: &Ratio) -> f64 {
        match self {
            Self::Plain => sum.value(),
            Self::BitsPerByte => sum.value() / std::f64::consts::LN_2,
            Self::Perplexity => sum.value().exp(),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "ratio",
            Self::BitsPerByte => "bits_per_byte",
            Self::Perplexity => "perplexity",
        }
    }
}

/// Calls `$body` with the item statistics and the function from their sum to the score, whatever the
/// metric.
macro_rules! with_items {
    ($measured:expr, |$items:ident, $value:ident| $body:expr) => {
        match &$measured.items {
            Items::Bleu(bleu, $items) => {
                let $value = |sum: &BleuStatistics| bleu.score(sum).score;
                $body
            }
            Items::Chrf(chrf, $items) => {
                let $value = |sum: &ChrfStatistics| chrf.score(sum);
                $body
            }
            Items::Mean(_, $items) => {
                let $value = |sum: &Ratio| mean(sum);
                $body
            }
            Items::Quotient(kind, $items) => {
                let $value = |sum: &Ratio| kind.value(sum);
                $body
            }
            Items::MacroF1($items) => {
                let $value = |sum: &Confusion| sum.macro_f1();
                $body
            }
        }
    };
}

impl Measured {
    /// Measures every item, in parallel.
    ///
    /// # Errors
    /// If there are no items, or one has no reference and the metric needs one.
    pub fn new(metric: &Metric, pairs: &[Pair]) -> Result<Self, ScoreError> {
        if pairs.is_empty() {
            return Err(ScoreError::NoItems);
        }
        if metric.needs_references()
            && let Some(item) = pairs.iter().position(|pair| pair.references.is_empty())
        {
            return Err(ScoreError::NoReferences {
                metric: metric.name(),
                item,
            });
        }
        let each_alone = |score: fn(&str, &[String]) -> f64| {
            let items = each(pairs, |p, r| Ratio::one(score(p, r)));
            Items::Mean(*metric, items)
        };
        let items = match *metric {
            Metric::Bleu(bleu) => Items::Bleu(bleu, each(pairs, |p, r| bleu.statistics(p, r))),
            Metric::Chrf(chrf) => Items::Chrf(chrf, each(pairs, |p, r| chrf.statistics(p, r))),
            Metric::Rouge(rouge) => {
                Items::Mean(*metric, each(pairs, |p, r| Ratio::one(rouge.score(p, r).f)))
            }
            Metric::Distinct(n) => {
                let texts: Vec<&str> = pairs.iter().map(|pair| pair.prediction.as_str()).collect();
                Items::Mean(*metric, distinct_shares(&texts, n))
            }
            Metric::Repetition(n) => {
                Items::Mean(*metric, each(pairs, |p, _| Ratio::one(repetition(p, n))))
            }
            Metric::ExactMatch => each_alone(exact_match),
            Metric::TokenF1 => each_alone(token_f1),
            Metric::Accuracy => each_alone(accuracy),
        };
        Ok(Self { items })
    }

    /// Bits per byte of texts, from each item's summed nats (numerator) and its bytes (denominator).
    pub fn bits_per_byte(items: Vec<Ratio>) -> Self {
        Self {
            items: Items::Quotient(Quotient::BitsPerByte, items),
        }
    }

    /// Perplexity, from each item's summed nats (numerator) and its tokens (denominator).
    pub fn perplexity(items: Vec<Ratio>) -> Self {
        Self {
            items: Items::Quotient(Quotient::Perplexity, items),
        }
    }

    /// The F1 of each class, averaged over the classes that are right or predicted anywhere, from each item's
    /// right and predicted class, numbered from 0.
    ///
    /// # Errors
    /// More than 64 classes.
    pub fn macro_f1(items: &[(usize, usize)]) -> Result<Self, ScoreError> {
        let items: Option<Vec<Confusion>> = items.iter().map(|&pair| Confusion::of(pair)).collect();
        items
            .map(|items| Self {
                items: Items::MacroF1(items),
            })
            .ok_or(ScoreError::Undefined {
                why: "macro-F1 is for at most 64 classes",
            })
    }

    /// The share of items that are right.
    pub fn share(items: impl IntoIterator<Item = bool>) -> Self {
        let one = |right: bool| Ratio::one(f64::from(u8::from(right)));
        Self {
            items: Items::Mean(Metric::Accuracy, items.into_iter().map(one).collect()),
        }
    }

    /// Any other quotient of sums; with denominators of 1 the mean of a score of your own.
    pub fn ratio(items: Vec<Ratio>) -> Self {
        Self {
            items: Items::Quotient(Quotient::Plain, items),
        }
    }

    /// Several systems' outputs for the same items as one's: an item's statistics are added up. So the
    /// corpus score is that of all outputs together, and a resample draws an item with all of its outputs.
    /// [`Metric::Distinct`] does not ask whether one system repeats another: it is the mean over the systems,
    /// weighted by their n-grams. Of [`Measured::macro_f1`] all must number the classes alike.
    ///
    /// # Errors
    /// No system, and systems that were measured differently or have different numbers of items.
    pub fn pooled(systems: &[Self]) -> Result<Self, ScoreError> {
        let (first, others) = systems.split_first().ok_or(ScoreError::NoItems)?;
        let mut pooled = first.clone();
        for other in others {
            let (a, b) = (pooled.len(), other.len());
            if a != b {
                return Err(ScoreError::DifferentLengths { a, b });
            }
            match (&mut pooled.items, &other.items) {
                (Items::Bleu(m, a), Items::Bleu(n, b)) if m == n => add(a, b),
                (Items::Chrf(m, a), Items::Chrf(n, b)) if m == n => add(a, b),
                (Items::Mean(m, a), Items::Mean(n, b)) if m == n => add(a, b),
                (Items::Quotient(m, a), Items::Quotient(n, b)) if m == n => add(a, b),
                (Items::MacroF1(a), Items::MacroF1(b)) => add(a, b),
                _ => {
                    return Err(ScoreError::DifferentMetrics {
                        a: first.description(),
                        b: other.description(),
                    });
                }
            }
        }
        Ok(pooled)
    }

    /// The corpus-level score of every resample, in order: of the same items, resample by resample, for
    /// every system that has as many.
    ///
    /// # Errors
    /// As [`Measured::score`].
    pub fn resampled(&self, settings: &Bootstrap) -> Result<Vec<f64>, ScoreError> {
        with_items!(self, |items, value| bootstrap::resampled(
            items, value, settings
        ))
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        with_items!(self, |items, _value| items.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The corpus-level score alone.
    ///
    /// # Errors
    /// If there are no items or the score is not finite.
    pub fn value(&self) -> Result<f64, ScoreError> {
        with_items!(self, |items, value| bootstrap::corpus(items, value))
    }

    /// The score of each item by itself; of [`Metric::Distinct`] the item's part in that of all. A quotient over nothing is not finite.
    pub fn item_scores(&self) -> Vec<f64> {
        with_items!(self, |items, value| items.iter().map(value).collect())
    }

    /// The corpus-level score with its interval. Items that all are 0, or all 1, resample to no width at all; what
    /// they leave open is told by the exact interval of a proportion (Clopper and Pearson 1934).
    ///
    /// # Errors
    /// If there are no items, the score is not finite, or a setting makes no sense.
    pub fn score(&self, settings: &Bootstrap) -> Result<Score, ScoreError> {
        let score = with_items!(self, |items, value| bootstrap::interval(
            items, value, settings
        ))?;
        let Items::Mean(_, items) = &self.items else {
            return Ok(score);
        };
        let open = 1.0 - ((1.0 - settings.level) / 2.0).powf(1.0 / items.len() as f64);
        let all = |right: fn(&Ratio) -> f64| {
            (items.iter()).all(|item| item.denominator > 0.0 && item.numerator == right(item))
        };
        Ok(match () {
            () if all(|_| 0.0) => Score {
                high: open,
                ..score
            },
            () if all(|item| item.denominator) => Score {
                low: 1.0 - open,
                ..score
            },
            () => score,
        })
    }

    /// The score of this system minus that of `other` on the same items, with interval and p-value.
    ///
    /// # Errors
    /// As [`Measured::score`], and if the two were measured differently or have different numbers of
    /// items. That the items are the same ones is the caller's to know; [`paired`] checks it.
    pub fn minus(&self, other: &Self, settings: &Bootstrap) -> Result<Difference, ScoreError> {
        let differ = || ScoreError::DifferentMetrics {
            a: self.description(),
            b: other.description(),
        };
        match (&self.items, &other.items) {
            (Items::Bleu(m, a), Items::Bleu(n, b)) if m == n => {
                bootstrap::paired_interval(a, b, |sum| m.score(sum).score, settings)
            }
            (Items::Chrf(m, a), Items::Chrf(n, b)) if m == n => {
                bootstrap::paired_interval(a, b, |sum| m.score(sum), settings)
            }
            (Items::Mean(m, a), Items::Mean(n, b)) if m == n => {
                bootstrap::paired_interval(a, b, mean, settings)
            }
            (Items::Quotient(m, a), Items::Quotient(n, b)) if m == n => {
                bootstrap::paired_interval(a, b, |sum| m.value(sum), settings)
            }
            (Items::MacroF1(a), Items::MacroF1(b)) => {
                bootstrap::paired_interval(a, b, Confusion::macro_f1, settings)
            }
            _ => Err(differ()),
        }
    }

    /// The metric with its settings, for an error.
    fn description(&self) -> String {
        match &self.items {
            Items::Bleu(bleu, _) => format!("{bleu:?}"),
            Items::Chrf(chrf, _) => format!("{chrf:?}"),
            Items::Mean(metric, _) => metric.name().to_owned(),
            Items::Quotient(kind, _) => kind.name().to_owned(),
            Items::MacroF1(_) => "macro_f1".to_owned(),
        }
    }
}

/// The score of system `a` minus that of system `b`, which answered the same items in the same
/// order, with interval and p-value (95%, from 1,000 resamples; [`Measured::minus`] takes other
/// settings).
///
/// # Errors
/// If there are no items, the items differ in number or references, or one has no reference.
pub fn paired(metric: &Metric, a: &[Pair], b: &[Pair]) -> Result<Difference, ScoreError> {
    if a.len() != b.len() {
        return Err(ScoreError::DifferentLengths {
            a: a.len(),
            b: b.len(),
        });
    }
    let same = |(a, b): (&Pair, &Pair)| a.references == b.references;
    if let Some(item) = a.iter().zip(b).position(|pair| !same(pair)) {
        return Err(ScoreError::DifferentReferences { item });
    }
    Measured::new(metric, a)?.minus(&Measured::new(metric, b)?, &Bootstrap::default())
}

/// The number of references per item for a signature, or `var` where it varies.
pub(crate) fn reference_count(pairs: &[Pair]) -> String {
    let count = |pair: &Pair| pair.references.len();
    let first = pairs.first().map_or(0, count);
    match pairs.iter().all(|pair| count(pair) == first) {
        true => first.to_string(),
        false => "var".to_owned(),
    }
}

/// Adds the statistics of `b`'s items to `a`'s.
fn add<S: Statistics>(a: &mut [S], b: &[S]) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a += b);
}

/// The statistics of every item, in order.
fn each<S: Statistics>(pairs: &[Pair], measure: impl Fn(&str, &[String]) -> S + Sync) -> Vec<S> {
    pairs
        .par_iter()
        .map(|pair| measure(&pair.prediction, &pair.references))
        .collect()
}

#[cfg(test)]
mod tests;
