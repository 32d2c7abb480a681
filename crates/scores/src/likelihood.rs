//! Scores of a model's own probabilities: bits per byte and perplexity, from summed nats.
//!
//! The sums come from whoever ran the model; here they are only divided, once.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Additive statistics of one item, or of many: what is averaged and what it is averaged over.
/// The corpus value is the ratio of the sums, never the mean of the ratios.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// For example the nats that a model needed for the item's text.
    pub numerator: f64,
    /// For example the bytes of that text.
    pub denominator: f64,
}

impl Ratio {
    /// A numerator over a denominator.
    pub const fn new(numerator: f64, denominator: f64) -> Self {
        Self {
            numerator,
            denominator,
        }
    }

    /// One item with a score of its own, for metrics that are the mean over the items.
    pub const fn one(value: f64) -> Self {
        Self::new(value, 1.0)
    }

    /// The quotient; not finite where the denominator is zero.
    pub fn value(self) -> f64 {
        self.numerator / self.denominator
    }
}

impl AddAssign for Ratio {
    fn add_assign(&mut self, other: Self) {
        self.numerator += other.numerator;
        self.denominator += other.denominator;
    }
}

/// Bits per byte of text: `nats / (bytes · ln 2)`. `None` for no bytes.
///
/// Comparable between models with different tokenizers, as a loss per token is not.
pub fn bits_per_byte(nats: f64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| Ratio::new(nats, bytes as f64).value() / std::f64::consts::LN_2)
}

/// Perplexity: `exp(nats / tokens)`. `None` for no tokens.
pub fn perplexity(nats: f64, tokens: u64) -> Option<f64> {
    (tokens > 0).then(|| Ratio::new(nats, tokens as f64).value().exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // A uniform guess over 256 bytes costs 8 bits a byte and has perplexity 256.
        let nats = 10.0 * 256_f64.ln();
        assert!((bits_per_byte(nats, 10).expect("bytes") - 8.0).abs() < 1e-12);
        assert!((perplexity(nats, 10).expect("tokens") - 256.0).abs() < 1e-9);
        assert_eq!(bits_per_byte(1.0, 0), None);
        assert_eq!(perplexity(1.0, 0), None);
    }
}
