//! How much less data one model needs than another for the same score.

use etude_scores::Bootstrap;
use serde::{Deserialize, Serialize};

/// A learning curve: the shares of the data, rising, and a score at each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Curve<'a> {
    pub(super) shares: &'a [f64],
    pub(super) scores: &'a [f64],
    pub(super) higher_is_better: bool,
}

/// The share of the data at which a curve reaches a score.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reached {
    /// At its first point already: the true share may be smaller.
    AtMost(f64),
    /// Between two points, on a straight line over the share's logarithm.
    At(f64),
    /// Nowhere up to its last point.
    Never,
}

impl Curve<'_> {
    /// Where the curve first reaches `target`.
    fn reaches(&self, target: f64) -> Reached {
        let sign = if self.higher_is_better { 1.0 } else { -1.0 };
        let lead = |place: usize| sign * (self.scores[place] - target);
        let Some(first) = (0..self.scores.len()).find(|&place| lead(place) >= 0.0) else {
            return Reached::Never;
        };
        let Some(before) = first.checked_sub(1) else {
            return Reached::AtMost(self.shares[0]);
        };
        let way = -lead(before) / (lead(first) - lead(before));
        let [low, high] = [before, first].map(|place| self.shares[place].ln());
        Reached::At((low + way * (high - low)).exp())
    }
}

/// An arm's scores.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measurements {
    /// At each share.
    pub(super) scores: Vec<f64>,
    /// At each share, on each resample of the test items.
    pub(super) resampled: Vec<Vec<f64>>,
}

impl Measurements {
    /// On one resample.
    fn on(&self, resample: usize) -> Vec<f64> {
        (self.resampled.iter())
            .map(|scores| scores[resample])
            .collect()
    }
}

/// How many times less data the pre-trained model needs for the score that the one from scratch has with all of it:
/// the share at which the latter first has it over the share at which the former does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DataRatio {
    /// The quotient; 0 where the pre-trained model never reaches that score.
    pub value: f64,
    /// The lower end of its interval; 0 likewise.
    pub low: f64,
    /// The upper end of its interval.
    pub high: f64,
    /// Whether the smallest share sufficed already, so that the true quotient may be larger.
    pub at_least: bool,
    /// Whether the true upper end may be larger for the same reason.
    #[serde(default)]
    pub high_at_least: bool,
}

impl DataRatio {
    /// From both arms' scores at the same shares and on the same resamples.
    pub(super) fn new(
        shares: &[f64],
        higher_is_better: bool,
        pretrained: &Measurements,
        scratch: &Measurements,
        bootstrap: &Bootstrap,
    ) -> Self {
        // With whether it is a lower bound only.
        let ratio = |pretrained: &[f64], scratch: &[f64]| {
            let reaches = |scores, target| {
                let curve = Curve {
                    shares,
                    scores,
                    higher_is_better,
                };
                curve.reaches(target)
            };
            let target = scratch.last().copied().unwrap_or(f64::NAN);
            let needed = match reaches(scratch, target) {
                Reached::AtMost(share) | Reached::At(share) => share,
                Reached::Never => f64::NAN, // it has that score
            };
            match reaches(pretrained, target) {
                Reached::AtMost(share) => (needed / share, true),
                Reached::At(share) => (needed / share, false),
                Reached::Never => (0.0, false),
            }
        };
        let resamples = scratch.resampled.first().map_or(0, Vec::len);
        let resampled: Vec<(f64, bool)> = (0..resamples)
            .map(|resample| ratio(&pretrained.on(resample), &scratch.on(resample)))
            .collect();
        let (value, at_least) = ratio(&pretrained.scores, &scratch.scores);
        let values: Vec<f64> = resampled.iter().map(|(value, _)| *value).collect();
        let (low, high) = bootstrap.ends(&values, value);
        let bounds = resampled.iter().filter(|(_, bound)| *bound).count() as f64;
        Self {
            value,
            low,
            high,
            at_least,
            high_at_least: bounds > resamples as f64 * (1.0 - bootstrap.level) / 2.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: [f64; 3] = [0.01, 0.1, 1.0];

    fn curve(scores: &[f64], higher_is_better: bool) -> Curve<'_> {
        Curve {
            shares: &SHARES,
            scores,
            higher_is_better,
        }
    }

    #[test]
    fn the_share_is_found_on_a_logarithmic_line() {
        let rising = curve(&[0.1, 0.2, 0.4], true);
        assert_eq!(rising.reaches(0.05), Reached::AtMost(0.01));
        assert_eq!(rising.reaches(0.5), Reached::Never);
        let Reached::At(share) = rising.reaches(0.3) else {
            panic!("it lies between two points")
        };
        assert!((share - 0.1f64.powf(0.5)).abs() < 1e-12, "{share}");
        // Where less is better the same curve is walked the other way.
        let falling = curve(&[3.0, 2.0, 1.0], false);
        let Reached::At(share) = falling.reaches(2.5) else {
            panic!("it lies between two points")
        };
        assert!((share - 0.1f64.powf(1.5)).abs() < 1e-12, "{share}");
        assert_eq!(falling.reaches(3.0), Reached::AtMost(0.01));
        // A curve that dips counts from where it first gets there.
        let dips = curve(&[0.1, 0.4, 0.3], true);
        assert!(matches!(dips.reaches(0.35), Reached::At(share) if share < 0.1));
    }

    /// On each resample what was measured.
    fn measured(scores: [f64; 3], resamples: usize) -> Measurements {
        Measurements {
            scores: scores.to_vec(),
            resampled: scores.iter().map(|&score| vec![score; resamples]).collect(),
        }
    }

    fn ratio(pretrained: &Measurements, scratch: &Measurements) -> DataRatio {
        DataRatio::new(&SHARES, true, pretrained, scratch, &Bootstrap::default())
    }

    #[test]
    fn the_interval_follows_the_resamples() {
        let pretrained = measured([0.1, 0.2, 0.4], 4);
        let mut scratch = measured([0.0, 0.1, 0.2], 4);
        scratch.resampled[2] = vec![0.2, 0.2, 0.5, 0.05];
        // On the last one, what it has with all it had before its dip: at half the way to a tenth.
        let found = ratio(&pretrained, &scratch);
        assert!(
            (found.value - 10.0).abs() < 1e-9 && !found.at_least,
            "{found:?}"
        );
        // On one resample the pre-trained model never gets there.
        assert!(found.low < 2.0 && found.high_at_least, "{found:?}");

        let found = ratio(&pretrained, &measured([0.0, 0.01, 0.05], 4));
        assert_eq!(
            (found.value.round(), found.at_least, found.high_at_least),
            (100.0, true, true)
        );
        let found = ratio(&pretrained, &measured([0.0, 0.1, 0.9], 4));
        assert_eq!((found.value, found.low, found.high), (0.0, 0.0, 0.0));
    }

    #[test]
    fn data_that_the_model_from_scratch_does_not_need_do_not_count() {
        // It has what it has with all of them with a tenth already, as the other has.
        let found = ratio(&measured([0.1, 0.2, 0.4], 2), &measured([0.0, 0.2, 0.2], 2));
        assert!((found.value - 1.0).abs() < 1e-9, "{found:?}");
    }
}
