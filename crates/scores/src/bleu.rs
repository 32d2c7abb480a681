//! BLEU: clipped n-gram precision with a brevity penalty, from statistics summed over the corpus.
//!
//! Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation"; the
//! choices of detail are those of sacrebleu (Post 2018, "A Call for Clarity in Reporting BLEU
//! Scores"), the smoothing methods those that Chen and Cherry 2014 compare.

use std::collections::HashMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::bleu_tokens::BleuTokenizer;
use crate::measured::Pair;
use crate::ngrams::{self, Counts};
use crate::text::trim_end;

/// N-grams of 1 to this many words count.
const ORDERS: usize = 4;

/// What to do with an n-gram order without a single match, which would make the score 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Smoothing {
    /// Halve the pretended match for each such order in turn (NIST's way); the default.
    #[default]
    Exp,
    /// Pretend this many matches; customary is 0.1.
    Floor(f64),
    /// Add this many to the matches and to the total of every order above 1; customary is 1.
    AddK(f64),
    /// Nothing: the score is 0.
    None,
}

/// The settings of BLEU. The default is sacrebleu's default, 0 to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bleu {
    /// How text becomes words.
    pub tokenizer: BleuTokenizer,
    /// What to do with orders without a match.
    pub smoothing: Smoothing,
    /// Compare in lower case.
    pub lowercase: bool,
    /// Average only over the orders that the predictions are long enough to have. For single
    /// sentences; [`Bleu::sentence`] always does it.
    pub effective_order: bool,
}

/// Additive statistics of one item, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BleuStatistics {
    /// Words in the prediction.
    pub predicted_len: u64,
    /// Words in the reference whose length is closest (of two equally close, the shorter).
    pub reference_len: u64,
    /// N-grams of the prediction that some reference has, clipped, for n = 1 to 4.
    pub correct: [u64; ORDERS],
    /// N-grams of the prediction, for n = 1 to 4.
    pub total: [u64; ORDERS],
}

impl AddAssign for BleuStatistics {
    fn add_assign(&mut self, other: Self) {
        self.predicted_len += other.predicted_len;
        self.reference_len += other.reference_len;
        for n in 0..ORDERS {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
    }
}

/// BLEU and the parts it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BleuScore {
    /// The score, 0 to 100.
    pub score: f64,
    /// The smoothed precision of each order, 0 to 100.
    pub precisions: [f64; ORDERS],
    /// The factor that punishes short output, 0 to 1.
    pub brevity_penalty: f64,
}

impl Bleu {
    /// sacrebleu's default with another tokenizer.
    pub const fn with_tokenizer(tokenizer: BleuTokenizer) -> Self {
        Self {
            tokenizer,
            smoothing: Smoothing::Exp,
            lowercase: false,
            effective_order: false,
        }
    }

    /// The statistics of one item. With no reference nothing matches and the reference length is 0.
    pub fn statistics(&self, prediction: &str, references: &[String]) -> BleuStatistics {
        let predicted = self.words(prediction);
        let references: Vec<Vec<String>> = references.iter().map(|r| self.words(r)).collect();
        let length = predicted.len();
        let closest = references
            .iter()
            .map(Vec::len)
            .min_by_key(|&len| (len.abs_diff(length), len))
            .unwrap_or(0);
        let mut statistics = BleuStatistics {
            predicted_len: length as u64,
            reference_len: closest as u64,
            ..BleuStatistics::default()
        };
        for n in 1..=ORDERS {
            let allowed = most_frequent(&references, n);
            statistics.correct[n - 1] = ngrams::matches(&ngrams::count(&predicted, n), &allowed);
            statistics.total[n - 1] = ngrams::total(length, n);
        }
        statistics
    }

    /// The score of summed statistics with its parts.
    pub fn score(&self, statistics: &BleuStatistics) -> BleuScore {
        let BleuStatistics {
            predicted_len,
            reference_len,
            correct,
            total,
        } = *statistics;
        let mut result = BleuScore {
            score: 0.0,
            precisions: [0.0; ORDERS],
            brevity_penalty: brevity_penalty(predicted_len, reference_len),
        };
        if correct.iter().all(|&n| n == 0) {
            return result;
        }
        let mut order = ORDERS;
        let mut pretended = 1.0;
        for n in 0..ORDERS {
            let (mut correct, mut total) = (correct[n] as f64, total[n] as f64);
            if let (Smoothing::AddK(k), 1..) = (self.smoothing, n) {
                correct += k;
                total += k;
            }
            if total == 0.0 {
                break;
            }
            if self.effective_order {
                order = n + 1;
            }
            result.precisions[n] = match self.smoothing {
                _ if correct != 0.0 => 100.0 * correct / total,
                Smoothing::Exp => {
                    pretended *= 2.0;
                    100.0 / (pretended * total)
                }
                Smoothing::Floor(value) => 100.0 * value / total,
                Smoothing::AddK(_) | Smoothing::None => 0.0,
            };
        }
        let logs: f64 = result.precisions[..order].iter().map(|p| p.ln()).sum();
        // A precision of 0 has the logarithm minus infinity, and the score is 0.
        result.score = result.brevity_penalty * (logs / order as f64).exp();
        result
    }

    /// The score of one sentence, with the effective order.
    pub fn sentence(&self, prediction: &str, references: &[String]) -> f64 {
        let settings = Self {
            effective_order: true,
            ..*self
        };
        settings
            .score(&self.statistics(prediction, references))
            .score
    }

    /// What sacrebleu prints for a reader to reproduce the score, such as
    /// `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`.
    pub fn signature(&self, pairs: &[Pair]) -> String {
        let smoothing = match self.smoothing {
            Smoothing::Exp => "exp".to_owned(),
            Smoothing::Floor(value) => format!("floor[{value:.2}]"),
            Smoothing::AddK(value) => format!("add-k[{value:.2}]"),
            Smoothing::None => "none".to_owned(),
        };
        format!(
            "nrefs:{}|case:{}|eff:{}|tok:{}|smooth:{smoothing}|version:{}",
            crate::measured::reference_count(pairs),
            if self.lowercase { "lc" } else { "mixed" },
            if self.effective_order { "yes" } else { "no" },
            self.tokenizer.name(),
            crate::SACREBLEU_VERSION,
        )
    }

    fn words(&self, text: &str) -> Vec<String> {
        if self.lowercase {
            self.tokenizer.tokenize(trim_end(&text.to_lowercase()))
        } else {
            self.tokenizer.tokenize(trim_end(text))
        }
    }
}

/// For each n-gram the most that any one reference has of it.
fn most_frequent(references: &[Vec<String>], n: usize) -> Counts<'_, String> {
    let mut most: Counts<'_, String> = HashMap::new();
    for reference in references {
        for (gram, count) in ngrams::count(reference, n) {
            let entry = most.entry(gram).or_insert(0);
            *entry = count.max(*entry);
        }
    }
    most
}

fn brevity_penalty(predicted: u64, reference: u64) -> f64 {
    if predicted >= reference {
        1.0
    } else if predicted == 0 {
        0.0
    } else {
        (1.0 - reference as f64 / predicted as f64).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(text: &str, references: &[&str]) -> BleuStatistics {
        let references: Vec<String> = references.iter().map(|&r| r.to_owned()).collect();
        Bleu::default().statistics(text, &references)
    }

    #[test]
    fn clips_by_the_best_reference() {
        // Papineni's example: "the" seven times matches twice.
        let found = statistics(
            "the the the the the the the",
            &["the cat is on the mat", "there is a cat on the mat"],
        );
        assert_eq!(found.correct, [2, 0, 0, 0]);
        assert_eq!(found.total, [7, 6, 5, 4]);
        assert_eq!((found.predicted_len, found.reference_len), (7, 7));
    }

    #[test]
    fn a_tie_of_lengths_takes_the_shorter() {
        assert_eq!(statistics("a b c", &["a b c d", "a b"]).reference_len, 2);
    }

    #[test]
    fn smoothing_decides_what_a_missing_order_costs() {
        let counts = BleuStatistics {
            predicted_len: 4,
            reference_len: 4,
            correct: [2, 0, 0, 0],
            total: [4, 3, 2, 1],
        };
        let with = |smoothing| {
            let bleu = Bleu {
                smoothing,
                ..Bleu::default()
            };
            bleu.score(&counts)
        };
        assert_eq!(with(Smoothing::None).score, 0.0);
        assert_eq!(
            with(Smoothing::Exp).precisions,
            [50.0, 100.0 / 6.0, 12.5, 12.5]
        );
        assert_eq!(with(Smoothing::Floor(0.1)).precisions[3], 10.0);
        assert_eq!(with(Smoothing::AddK(1.0)).precisions[1], 25.0);
    }
}
