//! Macro-averaged F1 of a classification, as additive counts.

use std::ops::AddAssign;

/// The most classes.
const CLASSES: usize = 64;

/// How often each class was right, and how often it was predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Confusion {
    /// Predicted and right.
    hits: [u32; CLASSES],
    /// Predicted plus right: twice the hits, plus what was predicted wrongly, plus what was missed.
    seen: [u32; CLASSES],
}

impl Default for Confusion {
    fn default() -> Self {
        Self {
            hits: [0; CLASSES],
            seen: [0; CLASSES],
        }
    }
}

impl AddAssign for Confusion {
    fn add_assign(&mut self, other: Self) {
        for class in 0..CLASSES {
            self.hits[class] += other.hits[class];
            self.seen[class] += other.seen[class];
        }
    }
}

impl Confusion {
    /// One item: its right class and the predicted one. None for a class beyond the last.
    pub(crate) fn of((right, predicted): (usize, usize)) -> Option<Self> {
        let mut one = Self::default();
        *one.seen.get_mut(right)? += 1;
        *one.seen.get_mut(predicted)? += 1;
        one.hits[right] += u32::from(right == predicted);
        Some(one)
    }

    /// The mean of the classes' F1, over the classes that occur (scikit-learn's `f1_score` with
    /// `average="macro"`).
    pub(crate) fn macro_f1(&self) -> f64 {
        let classes = self.hits.iter().zip(&self.seen);
        let f1: Vec<f64> = classes
            .filter(|&(_, &seen)| seen > 0)
            .map(|(&hits, &seen)| 2.0 * f64::from(hits) / f64::from(seen))
            .collect();
        f1.iter().sum::<f64>() / f1.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use crate::{Bootstrap, Measured};

    #[test]
    fn equals_scikit_learn() {
        // f1_score([0, 0, 0, 1, 1, 2], [0, 1, 0, 1, 1, 0], average="macro")
        let pairs = [(0, 0), (0, 1), (0, 0), (1, 1), (1, 1), (2, 0)];
        let measured = Measured::macro_f1(&pairs).expect("few classes");
        let score = measured.score(&Bootstrap::default()).expect("items");
        assert!(
            (score.value - 0.488_888_888_888_888_9).abs() < 1e-12,
            "{score:?}"
        );
        assert!(score.low < score.value && score.value < score.high);
        assert!(Measured::macro_f1(&[(0, 64)]).is_err());
    }
}
