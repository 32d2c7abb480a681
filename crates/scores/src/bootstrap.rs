//! Bootstrap intervals from additive per-item statistics, for one system and for the difference of
//! two.
//!
//! A resample draws as many items as there are, with replacement, adds up their statistics and
//! scores the sum, as the corpus itself is scored (Efron and Tibshirani 1993, "An Introduction to
//! the Bootstrap"; Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation").
//! The interval is that of the percentiles of the resampled scores. For two systems each resample
//! draws the same items for both, which takes the difficulty of the items out of the difference.
//!
//! Resample `i` is drawn from a random stream that depends on the seed and `i` alone, and is summed
//! on one thread: the result is the same, bit for bit, on any number of threads.

use std::ops::AddAssign;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::ScoreError;
use crate::random::Stream;

/// Additive statistics: the default is the sum of nothing.
pub trait Statistics: Copy + Default + AddAssign + Send + Sync {}

impl<T: Copy + Default + AddAssign + Send + Sync> Statistics for T {}

/// A corpus-level score with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The score of the items as they are.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// The score of one system minus that of another, on the same items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The difference of the corpus-level scores.
    pub value: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end of its interval.
    pub high: f64,
    /// Two-sided p-value of the hypothesis that the true difference is zero:
    /// `(1 + #{|dᵢ - d| ≥ |d|}) / (1 + resamples)` for the difference d and its resamples dᵢ, so
    /// never below 1 / (1 + resamples), and 1 for equal systems. (sacrebleu counts
    /// `|dᵢ| - mean |dᵢ| > |d|`, which calls a system significantly different from itself.) Nor is it below
    /// `2^(1 - n)` for n items: so often all n differences fall on one side by chance.
    pub p: f64,
}

impl Difference {
    /// Whether it is more than chance: its 95% interval and its p-value say so both.
    pub fn is_more_than_chance(&self) -> bool {
        (self.low > 0.0 || self.high < 0.0) && self.p < 0.05
    }
}

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// How many resamples to draw; 1,000 by default.
    pub resamples: usize,
    /// The share of resamples that the interval holds; 0.95 by default.
    pub level: f64,
    /// Another seed draws other resamples; 12345 by default.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            resamples: 1000,
            level: 0.95,
            seed: 12345,
        }
    }
}

impl Bootstrap {
    /// Refuses settings that make no sense.
    pub fn validate(&self) -> Result<(), ScoreError> {
        if self.resamples == 0 {
            return Err(ScoreError::InvalidBootstrap {
                field: "resamples",
                value: self.resamples.to_string(),
                must: "at least 1 (1000 is customary)",
            });
        }
        if !(self.level > 0.0 && self.level < 1.0) {
            return Err(ScoreError::InvalidBootstrap {
                field: "level",
                value: self.level.to_string(),
                must: "above 0 and below 1 (0.95 is customary)",
            });
        }
        Ok(())
    }

    /// The score of every resample, in order.
    fn resample<S: Statistics, V: Send>(
        &self,
        items: usize,
        add: impl Fn(&mut S, usize) + Sync,
        score: impl Fn(&S) -> V + Sync,
    ) -> Vec<V> {
        (0..self.resamples)
            .into_par_iter()
            .map(|index| {
                let mut stream = Stream::new(self.seed, index as u64);
                let mut sum = S::default();
                for _ in 0..items {
                    add(&mut sum, stream.below(items));
                }
                score(&sum)
            })
            .collect()
    }

    /// The ends of the interval of the finite ones among these values.
    ///
    /// Only a ratio can be infinite, in the rare resample whose denominators are all zero.
    pub fn ends(&self, values: &[f64], value: f64) -> (f64, f64) {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        if sorted.is_empty() {
            return (value, value);
        }
        sorted.sort_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        (percentile(&sorted, tail), percentile(&sorted, 1.0 - tail))
    }
}

/// The corpus-level score of items with its bootstrap interval. `value` turns summed statistics into
/// the score.
///
/// # Errors
/// If there are no items, the settings make no sense, or the score is not finite.
pub fn interval<S: Statistics>(
    items: &[S],
    value: impl Fn(&S) -> f64 + Sync,
    settings: &Bootstrap,
) -> Result<Score, ScoreError> {
    settings.validate()?;
    let point = corpus(items, &value)?;
    let values = settings.resample(
        items.len(),
        |sum: &mut S, item| *sum += items[item],
        |sum| value(sum),
    );
    let (low, high) = settings.ends(&values, point);
    Ok(Score {
        value: point,
        low,
        high,
    })
}

/// The corpus-level score of every resample, in order. Resample `i` draws the same items for every system
/// with as many of them.
///
/// # Errors
/// As [`interval`].
pub fn resampled<S: Statistics>(
    items: &[S],
    value: impl Fn(&S) -> f64 + Sync,
    settings: &Bootstrap,
) -> Result<Vec<f64>, ScoreError> {
    settings.validate()?;
    corpus(items, &value)?;
    Ok(settings.resample(
        items.len(),
        |sum: &mut S, item| *sum += items[item],
        |sum| value(sum),
    ))
}

/// The difference `a - b` of two systems on the same items, with its interval and p-value.
///
/// # Errors
/// As [`interval`], and if the numbers of items differ.
pub fn paired_interval<S: Statistics>(
    a: &[S],
    b: &[S],
    value: impl Fn(&S) -> f64 + Sync,
    settings: &Bootstrap,
) -> Result<Difference, ScoreError> {
    settings.validate()?;
    if a.len() != b.len() {
        return Err(ScoreError::DifferentLengths {
            a: a.len(),
            b: b.len(),
        });
    }
    let point = corpus(a, &value)? - corpus(b, &value)?;
    let values = settings.resample(
        a.len(),
        |sum: &mut Both<S>, item| {
            sum.a += a[item];
            sum.b += b[item];
        },
        |sum| value(&sum.a) - value(&sum.b),
    );
    let (low, high) = settings.ends(&values, point);
    // A resample that has no score at all counts as no evidence of a difference.
    let as_far = |d: f64| !d.is_finite() || (d - point).abs() >= point.abs();
    let count = values.iter().filter(|&&d| as_far(d)).count();
    let p = (1 + count) as f64 / (1 + settings.resamples) as f64;
    Ok(Difference {
        value: point,
        low,
        high,
        p: p.max(0.5f64.powi(a.len().min(1000) as i32 - 1)),
    })
}

/// The score of all items.
pub(crate) fn corpus<S: Statistics>(
    items: &[S],
    value: impl Fn(&S) -> f64,
) -> Result<f64, ScoreError> {
    if items.is_empty() {
        return Err(ScoreError::NoItems);
    }
    let mut sum = S::default();
    for &item in items {
        sum += item;
    }
    let score = value(&sum);
    if score.is_finite() {
        Ok(score)
    } else {
        Err(ScoreError::Undefined {
            why: "the summed numerator is not finite or the summed denominator is zero",
        })
    }
}

/// The sums of two systems over one resample.
#[derive(Clone, Copy, Default)]
struct Both<S> {
    a: S,
    b: S,
}

impl<S: AddAssign> AddAssign for Both<S> {
    fn add_assign(&mut self, other: Self) {
        self.a += other.a;
        self.b += other.b;
    }
}

/// The quantile of sorted values, interpolated linearly between neighbours (NumPy's default).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::likelihood::Ratio;

    fn mean(values: impl IntoIterator<Item = f64>) -> Vec<Ratio> {
        values.into_iter().map(Ratio::one).collect()
    }

    fn value(sum: &Ratio) -> f64 {
        sum.value()
    }

    #[test]
    fn percentiles_as_numpy_has_them() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(percentile(&sorted, 0.0), 1.0);
        assert_eq!(percentile(&sorted, 0.5), 3.0);
        assert!((percentile(&sorted, 0.975) - 7.7).abs() < 1e-12);
        assert_eq!(percentile(&sorted, 1.0), 8.0);
        assert_eq!(percentile(&[5.0], 0.3), 5.0);
    }

    #[test]
    fn a_mean_has_the_interval_of_the_normal_distribution() {
        // 400 items, half 0, half 1: standard error 0.025, so ± 1.96 · 0.025 = 0.049.
        let items = mean((0..400).map(|i| f64::from(i % 2)));
        let settings = Bootstrap {
            resamples: 4000,
            ..Bootstrap::default()
        };
        let score = interval(&items, value, &settings).expect("items");
        assert_eq!(score.value, 0.5);
        assert!((score.low - 0.451).abs() < 0.004, "{score:?}");
        assert!((score.high - 0.549).abs() < 0.004, "{score:?}");
    }

    #[test]
    fn threads_do_not_matter_but_the_seed_does() {
        let items = mean((0..300).map(|i| f64::from(i).sin()));
        let on = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let settings = Bootstrap {
                seed,
                ..Bootstrap::default()
            };
            let pool = pool.build().expect("a pool");
            pool.install(|| interval(&items, value, &settings).expect("items"))
        };
        assert_eq!(on(1, 7), on(5, 7));
        assert_ne!(on(1, 7), on(1, 8));
    }

    #[test]
    fn equal_systems_do_not_differ() {
        let a = mean((0..50).map(|i| f64::from(i % 7)));
        let found = paired_interval(&a, &a, value, &Bootstrap::default()).expect("items");
        assert_eq!(
            (found.value, found.low, found.high, found.p),
            (0.0, 0.0, 0.0, 1.0)
        );
    }

    #[test]
    fn pairing_removes_what_the_items_share() {
        // The items vary by 100, the systems by about 1.
        let a = mean((0..200).map(|i| f64::from(i % 10) * 10.0 + 1.0 + f64::from(i % 3) * 0.1));
        let b = mean((0..200).map(|i| f64::from(i % 10) * 10.0));
        let found = paired_interval(&a, &b, value, &Bootstrap::default()).expect("items");
        assert!(found.low > 1.0 && found.high < 1.2, "{found:?}");
        assert!((found.p - 1.0 / 1001.0).abs() < 1e-15, "{found:?}");
        let alone = interval(&a, value, &Bootstrap::default()).expect("items");
        assert!(alone.high - alone.low > 5.0);
    }

    #[test]
    fn chance_is_called_chance() {
        // ±1 by turns with one more of each sign: the true difference is 0.
        let a = mean((0..100).map(|i| f64::from(i % 2) * 2.0 - 1.0 + f64::from(i % 5) * 0.01));
        let b = mean((0..100).map(|_| 0.0));
        let found = paired_interval(&a, &b, value, &Bootstrap::default()).expect("items");
        assert!(
            found.low < 0.0 && found.high > 0.0 && found.p > 0.5,
            "{found:?}"
        );
    }

    #[test]
    fn a_handful_of_items_proves_nothing() {
        let p = |n: usize| {
            let (a, b) = (mean(vec![0.9; n]), mean(vec![0.1; n]));
            let found = paired_interval(&a, &b, value, &Bootstrap::default());
            found.expect("items").p
        };
        assert_eq!((p(1), p(4)), (1.0, 0.125));
        assert!(p(20) < 0.001);
    }

    #[test]
    fn one_item_is_its_own_interval() {
        let score = interval(&mean([0.3]), value, &Bootstrap::default()).expect("an item");
        assert_eq!((score.value, score.low, score.high), (0.3, 0.3, 0.3));
    }

    #[test]
    fn refuses_what_has_no_score() {
        let settings = Bootstrap::default();
        let none: &[Ratio] = &[];
        assert_eq!(interval(none, value, &settings), Err(ScoreError::NoItems));
        let zero = [Ratio::new(1.0, 0.0)];
        assert!(matches!(
            interval(&zero, value, &settings),
            Err(ScoreError::Undefined { .. })
        ));
        for (resamples, level) in [(0, 0.95), (10, 0.0), (10, 1.0), (10, f64::NAN)] {
            let settings = Bootstrap {
                resamples,
                level,
                ..settings
            };
            assert!(matches!(
                interval(&mean([1.0]), value, &settings),
                Err(ScoreError::InvalidBootstrap { .. })
            ));
        }
    }

    #[test]
    fn resamples_without_a_denominator_are_left_out() {
        let items = [Ratio::new(1.0, 0.0), Ratio::new(2.0, 1.0)];
        let score = interval(&items, value, &Bootstrap::default()).expect("items");
        assert_eq!(score.value, 3.0);
        assert!(score.low >= 2.0 && score.high.is_finite(), "{score:?}");
    }
}
