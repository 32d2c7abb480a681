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

/// How many times less data the pre-trained model needs for the score that the one from scratch reaches with all
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DataRatio {
    /// The quotient; 0 where the pre-trained model never reaches that score.
    pub value: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end of its interval.
    pub high: f64,
    /// Whether the smallest share sufficed already, so that the true quotient may be larger.
    pub at_least: bool,
}

impl DataRatio {
    /// From both curves as measured, and as measured on each resample of the test items: `pretrained[k][i]` is
    /// the score at share `k` on resample `i`, and `scratch[i]` that from scratch with all data.
    pub(super) fn new(
        measured: Curve<'_>,
        target: f64,
        pretrained: &[Vec<f64>],
        scratch: &[f64],
        bootstrap: &Bootstrap,
    ) -> Self {
        let most = measured.shares.last().copied().unwrap_or(1.0);
        let ratio = |reached: Reached| match reached {
            Reached::AtMost(share) | Reached::At(share) => most / share,
            Reached::Never => 0.0,
        };
        let resampled: Vec<f64> = (scratch.iter().enumerate())
            .map(|(resample, &target)| {
                let scores: Vec<f64> = pretrained.iter().map(|scores| scores[resample]).collect();
                let scores = &scores;
                ratio(Curve { scores, ..measured }.reaches(target))
            })
            .collect();
        let reached = measured.reaches(target);
        let value = ratio(reached);
        let (low, high) = bootstrap.ends(&resampled, value);
        Self {
            value,
            low,
            high,
            at_least: matches!(reached, Reached::AtMost(_)),
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

    #[test]
    fn the_interval_follows_the_resamples() {
        let bootstrap = Bootstrap::default();
        let scores = [0.1, 0.2, 0.4];
        let resamples = vec![vec![0.1; 4], vec![0.2; 4], vec![0.4; 4]];
        let found = DataRatio::new(
            curve(&scores, true),
            0.2,
            &resamples,
            &[0.2, 0.2, 0.5, 0.05],
            &bootstrap,
        );
        assert!((found.value - 10.0).abs() < 1e-9 && !found.at_least);
        // One resample never gets there, one is there at once: 0 and 100 pull the ends apart.
        assert!(found.low < 2.0 && found.high > 80.0, "{found:?}");
        let found = DataRatio::new(
            curve(&scores, true),
            0.05,
            &resamples,
            &[0.05; 4],
            &bootstrap,
        );
        assert_eq!((found.value.round(), found.at_least), (100.0, true));
        let found = DataRatio::new(curve(&scores, true), 0.9, &resamples, &[0.9; 4], &bootstrap);
        assert_eq!((found.value, found.low, found.high), (0.0, 0.0, 0.0));
    }
}
