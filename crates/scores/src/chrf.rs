//! chrF and chrF++: an F-score of character n-grams, with word n-grams for the plus signs.
//!
//! Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", and 2017, "chrF++:
//! words helping character n-grams"; details as in sacrebleu.

use std::ops::AddAssign;

use crate::measured::Pair;
use crate::ngrams;
use crate::text::{is_space, words};

/// Character n-grams of 1 to this many characters count.
const CHAR_ORDER: usize = 6;
/// Word n-grams of 1 to at most this many words count.
const MAX_WORD_ORDER: usize = 2;
const MAX_ORDER: usize = CHAR_ORDER + MAX_WORD_ORDER;

/// The settings of chrF, 0 to 100. The default is sacrebleu's: characters only, β = 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chrf {
    word_order: usize,
    /// Recall weighs β times as much as precision.
    pub beta: u32,
    /// Compare in lower case.
    pub lowercase: bool,
    /// Let white space be part of character n-grams; without, it is removed first.
    pub whitespace: bool,
    /// Average the F-scores of all orders, with a tiny number for those that a side lacks, as the
    /// metric's first scripts did. Without, only the orders that both sides have count.
    pub eps_smoothing: bool,
}

impl Default for Chrf {
    fn default() -> Self {
        Self::with_words(0)
    }
}

/// Additive statistics of one item, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChrfStatistics {
    orders: [OrderCounts; MAX_ORDER],
}

/// The n-grams of one order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OrderCounts {
    predicted: u64,
    reference: u64,
    matched: u64,
}

impl AddAssign for ChrfStatistics {
    fn add_assign(&mut self, other: Self) {
        for (sum, one) in self.orders.iter_mut().zip(other.orders) {
            sum.predicted += one.predicted;
            sum.reference += one.reference;
            sum.matched += one.matched;
        }
    }
}

/// A text cut up for counting.
struct Cut<'a> {
    chars: Vec<char>,
    words: Vec<&'a str>,
}

impl Chrf {
    /// chrF with word n-grams of up to `word_order` words: 0 is chrF, 1 is chrF+, 2 is chrF++.
    ///
    /// # Panics
    /// If `word_order` is above 2.
    pub const fn with_words(word_order: usize) -> Self {
        assert!(
            word_order <= MAX_WORD_ORDER,
            "chrF has word order 0, 1 or 2"
        );
        Self {
            word_order,
            beta: 2,
            lowercase: false,
            whitespace: false,
            eps_smoothing: false,
        }
    }

    /// The word n-gram order: 0 for chrF, 2 for chrF++.
    pub const fn word_order(&self) -> usize {
        self.word_order
    }

    /// The statistics of one item: those of the reference with the best score (of equals, the
    /// first). Without a reference, all are 0.
    pub fn statistics(&self, prediction: &str, references: &[String]) -> ChrfStatistics {
        let prediction = self.fold_case(prediction);
        let predicted = self.cut(&prediction);
        let mut best: Option<(f64, ChrfStatistics)> = None;
        for reference in references {
            let reference = self.fold_case(reference);
            let found = self.compare(&predicted, &self.cut(&reference));
            let score = self.score(&found);
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, found));
            }
        }
        best.map(|(_, found)| found).unwrap_or_default()
    }

    /// The score of summed statistics.
    pub fn score(&self, statistics: &ChrfStatistics) -> f64 {
        const EPS: f64 = 1e-16;
        let factor = f64::from(self.beta).powi(2);
        let f_score = |precision: f64, recall: f64| {
            (1.0 + factor) * precision * recall / (factor * precision + recall)
        };
        let orders = &statistics.orders[..CHAR_ORDER + self.word_order];
        let (mut f_sum, mut precision_sum, mut recall_sum, mut both) = (0.0, 0.0, 0.0, 0.0);
        for order in orders {
            let share = |of: u64| match of {
                0 => EPS,
                _ => order.matched as f64 / of as f64,
            };
            let (precision, recall) = (share(order.predicted), share(order.reference));
            f_sum += match factor * precision + recall > 0.0 {
                true => f_score(precision, recall),
                false => EPS,
            };
            if order.predicted > 0 && order.reference > 0 {
                precision_sum += precision;
                recall_sum += recall;
                both += 1.0;
            }
        }
        if self.eps_smoothing {
            return 100.0 * f_sum / orders.len() as f64;
        }
        if precision_sum + recall_sum == 0.0 {
            return 0.0;
        }
        100.0 * f_score(precision_sum / both, recall_sum / both)
    }

    /// What sacrebleu calls this: `chrF2`, `chrF2++`.
    pub fn label(&self) -> String {
        format!("chrF{}{}", self.beta, "+".repeat(self.word_order))
    }

    /// What sacrebleu prints for a reader to reproduce the score, such as
    /// `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0`.
    pub fn signature(&self, pairs: &[Pair]) -> String {
        let yes = |flag| if flag { "yes" } else { "no" };
        format!(
            "nrefs:{}|case:{}|eff:{}|nc:{CHAR_ORDER}|nw:{}|space:{}|version:{}",
            crate::measured::reference_count(pairs),
            if self.lowercase { "lc" } else { "mixed" },
            yes(!self.eps_smoothing),
            self.word_order,
            yes(self.whitespace),
            crate::SACREBLEU_VERSION,
        )
    }

    fn fold_case(&self, text: &str) -> String {
        if self.lowercase {
            text.to_lowercase()
        } else {
            text.to_owned()
        }
    }

    fn cut<'a>(&self, text: &'a str) -> Cut<'a> {
        Cut {
            chars: text
                .chars()
                .filter(|&c| self.whitespace || !is_space(c))
                .collect(),
            words: match self.word_order {
                0 => Vec::new(),
                _ => words(text).flat_map(split_punctuation).collect(),
            },
        }
    }

    fn compare(&self, predicted: &Cut<'_>, reference: &Cut<'_>) -> ChrfStatistics {
        let mut found = ChrfStatistics::default();
        let (chars, words) = found.orders.split_at_mut(CHAR_ORDER);
        for (n, counts) in (1..).zip(chars) {
            *counts = compare_order(&predicted.chars, &reference.chars, n);
        }
        for (n, counts) in (1..=self.word_order).zip(words) {
            *counts = compare_order(&predicted.words, &reference.words, n);
        }
        found
    }
}

/// Counts one order. Where the reference has none of it the prediction's are not counted either, so
/// that they cannot be held against it.
fn compare_order<T: std::hash::Hash + Eq>(
    predicted: &[T],
    reference: &[T],
    n: usize,
) -> OrderCounts {
    let wanted = ngrams::total(reference.len(), n);
    if wanted == 0 {
        return OrderCounts::default();
    }
    OrderCounts {
        predicted: ngrams::total(predicted.len(), n),
        reference: wanted,
        matched: ngrams::matches(&ngrams::count(predicted, n), &ngrams::count(reference, n)),
    }
}

/// Takes one ASCII punctuation mark off a word's end, else off its start: `(hi)` is `(hi` and `)`.
fn split_punctuation(word: &str) -> impl Iterator<Item = &str> {
    let is_mark = |c: Option<char>| c.is_some_and(|c| c.is_ascii_punctuation());
    let parts = if word.chars().nth(1).is_none() {
        [word, ""]
    } else if is_mark(word.chars().next_back()) {
        word.split_at(word.len() - 1).into()
    } else if is_mark(word.chars().next()) {
        word.split_at(1).into()
    } else {
        [word, ""]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_comes_off_one_side() {
        let split = |word| split_punctuation(word).collect::<Vec<_>>();
        assert_eq!(split("(hi)"), ["(hi", ")"]);
        assert_eq!(split("\"so"), ["\"", "so"]);
        assert_eq!(split("."), ["."]);
        assert_eq!(split(".."), [".", "."]);
        assert_eq!(split("né!"), ["né", "!"]);
        assert_eq!(split("é"), ["é"]);
    }

    #[test]
    fn equal_texts_score_100() {
        for chrf in [Chrf::default(), Chrf::with_words(2)] {
            let found = chrf.statistics("A long sentence.", &["A long sentence.".to_owned()]);
            assert!((chrf.score(&found) - 100.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_best_reference_counts() {
        let chrf = Chrf::default();
        let refs = ["xyz".to_owned(), "house".to_owned()];
        assert!(chrf.score(&chrf.statistics("house", &refs)) > 99.0);
        assert_eq!(chrf.score(&chrf.statistics("house", &[])), 0.0);
    }

    #[test]
    fn names_the_variant() {
        assert_eq!(Chrf::with_words(2).label(), "chrF2++");
    }
}
