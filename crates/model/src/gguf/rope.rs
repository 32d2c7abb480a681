//! Llama 3's scaling of rotary positions: a file has, for each pair of a head, by how much its wavelength grows, and not
//! the settings that this follows from.

use std::f64::consts::TAU;

use crate::config::RotaryScaling;
use crate::rotary;

/// How far a stored factor may lie from the one that the settings give.
const TOLERANCE: f64 = 1e-4;

/// Upper ends of the ramp where the lower one is 1. All published models have the first.
const HIGHS: [f64; 5] = [4.0, 2.0, 8.0, 3.0, 16.0];

/// The context before stretching where the factors tell of none: they tell how it relates to the ends of the ramp alone.
const USUAL_CONTEXT: f64 = 8192.0;

/// By how much each wavelength grows.
pub(super) fn factors(
    scaling: &RotaryScaling,
    theta: f64,
    head_dim: i64,
) -> impl Iterator<Item = f64> {
    rotary::frequencies(theta, head_dim)
        .map(move |frequency| frequency / rotary::stretch(frequency, scaling))
}

/// Settings that give these factors; none where no settings do. Many give the same: usual ones go before others.
pub(super) fn llama3(factors: &[f32], theta: f64, head_dim: i64) -> Option<RotaryScaling> {
    let grown: Vec<f64> = factors.iter().map(|&factor| factor.into()).collect();
    let factor = *grown.last()?;
    let fits = |candidate: &RotaryScaling| {
        self::factors(candidate, theta, head_dim)
            .zip(&grown)
            .all(|(ours, theirs)| (ours / theirs - 1.0).abs() < TOLERANCE)
    };
    let with = |low, high, original_context| RotaryScaling::Llama3 {
        factor,
        low,
        high,
        original_context,
    };
    let powers = || (5..=24).map(|power| f64::from(1 << power));
    let contexts = || powers().chain(powers().map(|power| 1.5 * power));
    let mut usual = HIGHS
        .into_iter()
        .flat_map(|high| contexts().map(move |context| (high, context)))
        .map(|(high, context)| with(1.0, high, context));
    usual.find(&fits).or_else(|| {
        let frequencies: Vec<f64> = rotary::frequencies(theta, head_dim).collect();
        let (low, high) = Ramp::through(&frequencies, &grown, factor)?.ends(USUAL_CONTEXT);
        Some(with(low, high, USUAL_CONTEXT)).filter(&fits)
    })
}

/// Which share of a frequency is left alone: `slope * frequency - offset`, within 0 and 1.
struct Ramp {
    slope: f64,
    offset: f64,
}

impl Ramp {
    /// The ramp that factors of falling frequencies tell of, the last of which is stretched wholly; where they tell less
    /// than a line, one that gives the same factors.
    fn through(frequencies: &[f64], grown: &[f64], factor: f64) -> Option<Self> {
        let share = |grown: f64| (1.0 / grown - 1.0 / factor) / (1.0 - 1.0 / factor);
        let points: Vec<(f64, f64)> = frequencies
            .iter()
            .zip(grown)
            .map(|(&frequency, &grown)| (frequency, share(grown)))
            .collect();
        let inside = |(_, share): &&(f64, f64)| *share > 1e-6 && *share < 1.0 - 1e-6;
        let alone = points.iter().rfind(|(_, share)| *share >= 1.0 - 1e-6);
        let stretched = points.iter().find(|(_, share)| *share <= 1e-6)?;
        let first = points.iter().find(inside);
        let last = points.iter().rfind(inside);
        let line = |from: &(f64, f64), to: &(f64, f64)| (from.1 - to.1) / (from.0 - to.0);
        let (slope, through) = match (first, last, alone) {
            (Some(first), Some(last), _) if first != last => (line(first, last), first),
            // Steep enough for both neighbours.
            (Some(one), _, Some(alone)) => (line(alone, one).max(line(one, stretched)), one),
            (Some(one), _, None) => (line(one, stretched), one),
            (None, _, Some(alone)) => (line(alone, stretched), alone),
            // All are stretched wholly.
            (None, _, None) => (1.0 / stretched.0, stretched),
        };
        let offset = slope * through.0 - through.1;
        (slope.is_finite() && slope > 0.0).then_some(Self { slope, offset })
    }

    /// The two ends, in turns within a context.
    fn ends(&self, context: f64) -> (f64, f64) {
        let between = context / (TAU * self.slope);
        let low = between * self.offset;
        (low, low + between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings found give the factors that the others gave.
    fn found(scaling: RotaryScaling, theta: f64, head_dim: i64) -> RotaryScaling {
        let stored: Vec<f32> = factors(&scaling, theta, head_dim)
            .map(|factor| factor as f32)
            .collect();
        let found = llama3(&stored, theta, head_dim)
            .unwrap_or_else(|| panic!("{scaling:?} at {theta} and {head_dim}"));
        let again = factors(&found, theta, head_dim);
        for (ours, stored) in again.zip(stored) {
            let off = (ours / f64::from(stored) - 1.0).abs();
            assert!(off < TOLERANCE, "{scaling:?} as {found:?}");
        }
        found
    }

    fn llama3_of(factor: f64, low: f64, high: f64, original_context: f64) -> RotaryScaling {
        RotaryScaling::Llama3 {
            factor,
            low,
            high,
            original_context,
        }
    }

    #[test]
    fn all_settings_come_back_or_others_that_say_the_same() {
        for head_dim in [4, 8, 12, 16, 64, 128] {
            for theta in [100.0, 10_000.0, 500_000.0, 1e7] {
                for factor in [0.5, 1.0, 2.0, 8.0, 32.0] {
                    for (low, high) in [(1.0, 4.0), (2.0, 4.0), (1.0, 8.0), (0.7, 1.1), (0.0, 3.0)]
                    {
                        for context in [64.0, 1000.0, 8192.0, 12_288.0, 65_536.0] {
                            found(llama3_of(factor, low, high, context), theta, head_dim);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn usual_settings_come_back_as_they_were() {
        for context in [8192.0, 12_288.0] {
            let scaling = llama3_of(8.0, 1.0, 4.0, context);
            assert_eq!(found(scaling, 500_000.0, 64), scaling);
        }
        let halved = llama3_of(8.0, 1.0, 2.0, 4096.0);
        assert_eq!(
            found(llama3_of(8.0, 2.0, 4.0, 8192.0), 500_000.0, 64),
            halved
        );
    }

    #[test]
    fn factors_of_another_rule_are_none() {
        assert_eq!(llama3(&[1.0, 3.0, 2.0, 4.0], 10_000.0, 8), None);
        assert_eq!(llama3(&[1.0, f32::NAN, 2.0, 4.0], 10_000.0, 8), None);
        assert_eq!(llama3(&[2.0, 1.0, 1.0, 0.0], 10_000.0, 8), None);
        assert_eq!(llama3(&[], 10_000.0, 0), None);
    }
}
