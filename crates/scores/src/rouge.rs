//! ROUGE: overlap of n-grams (ROUGE-N) or of the longest common subsequence (ROUGE-L, ROUGE-Lsum)
//! between a summary and its reference, 0 to 1.
//!
//! Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; details as in Google's
//! rouge-score 0.1.2: words are runs of `a-z0-9` in lower case (other scripts have none), with
//! several references the one with the best F counts. Lsum takes each line for a sentence.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::ngrams;
use crate::porter::stem;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RougeKind {
    /// N-grams of this many words, from 1.
    N(usize),
    /// The longest common subsequence of the two texts.
    L,
    /// For every line of the reference, the union of its longest common subsequences with the
    /// prediction's lines.
    Lsum,
}

/// The settings of ROUGE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rouge {
    /// What is compared.
    pub kind: RougeKind,
    /// Compare the Porter stems of words longer than three letters.
    pub stemming: bool,
}

/// ROUGE of one item, each part 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RougeScore {
    /// The share of the prediction that the reference has.
    pub precision: f64,
    /// The share of the reference that the prediction has.
    pub recall: f64,
    /// Their harmonic mean: what is reported as ROUGE.
    pub f: f64,
}

impl RougeScore {
    fn new(matched: u64, predicted: u64, reference: u64) -> Self {
        let precision = matched as f64 / predicted.max(1) as f64;
        let recall = matched as f64 / reference.max(1) as f64;
        let f = match precision + recall > 0.0 {
            true => 2.0 * precision * recall / (precision + recall),
            false => 0.0,
        };
        Self {
            precision,
            recall,
            f,
        }
    }
}

impl Rouge {
    /// ROUGE without stemming.
    pub const fn new(kind: RougeKind) -> Self {
        Self {
            kind,
            stemming: false,
        }
    }

    /// ROUGE on Porter stems.
    pub const fn stemmed(kind: RougeKind) -> Self {
        Self {
            kind,
            stemming: true,
        }
    }

    /// The score against the reference with the best F (of equals, the first); zero without one.
    pub fn score(&self, prediction: &str, references: &[String]) -> RougeScore {
        let mut vocabulary = Vocabulary {
            stemming: self.stemming,
            ids: HashMap::new(),
        };
        let predicted = vocabulary.lines(prediction, self.kind);
        let mut best: Option<RougeScore> = None;
        for reference in references {
            let score = compare(
                self.kind,
                &predicted,
                &vocabulary.lines(reference, self.kind),
            );
            if best.is_none_or(|highest| score.f > highest.f) {
                best = Some(score);
            }
        }
        best.unwrap_or_default()
    }
}

/// Compares two texts, each as its lines (one line unless the kind is [`RougeKind::Lsum`]).
fn compare(kind: RougeKind, predicted: &[Vec<u32>], reference: &[Vec<u32>]) -> RougeScore {
    let words = |lines: &[Vec<u32>]| lines.iter().map(Vec::len).sum::<usize>();
    let (predicted_words, reference_words) = (words(predicted), words(reference));
    match kind {
        RougeKind::N(n) => {
            let (predicted, reference) = (&predicted[0], &reference[0]);
            RougeScore::new(
                ngrams::matches(&ngrams::count(predicted, n), &ngrams::count(reference, n)),
                ngrams::total(predicted_words, n),
                ngrams::total(reference_words, n),
            )
        }
        RougeKind::L => RougeScore::new(
            common_length(&predicted[0], &reference[0]),
            predicted_words as u64,
            reference_words as u64,
        ),
        RougeKind::Lsum => RougeScore::new(
            union_hits(predicted, reference),
            predicted_words as u64,
            reference_words as u64,
        ),
    }
}

/// Gives equal words equal numbers, so that words are compared once.
struct Vocabulary {
    stemming: bool,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    fn lines(&mut self, text: &str, kind: RougeKind) -> Vec<Vec<u32>> {
        match kind {
            RougeKind::Lsum => text.split('\n').map(|line| self.words(line)).collect(),
            RougeKind::N(_) | RougeKind::L => vec![self.words(text)],
        }
    }

    fn words(&mut self, text: &str) -> Vec<u32> {
        let lower = text.to_lowercase();
        lower
            .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
            .map(|word| match self.stemming && word.len() > 3 {
                true => stem(word),
                false => word.to_owned(),
            })
            .filter(|word| !word.is_empty())
            .map(|word| {
                let next = self.ids.len() as u32;
                *self.ids.entry(word).or_insert(next)
            })
            .collect()
    }
}

/// The length of the longest common subsequence, in memory for one row.
fn common_length(a: &[u32], b: &[u32]) -> u64 {
    let mut row = vec![0_u64; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[j])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// The words of the reference's lines that lie in a common subsequence with some line of the
/// prediction, each counted at most as often as the whole prediction and the whole reference have
/// it (the rule of the original ROUGE 1.5.5).
fn union_hits(predicted: &[Vec<u32>], reference: &[Vec<u32>]) -> u64 {
    let mut left: HashMap<u32, u64> = HashMap::new();
    for &word in predicted.iter().flatten() {
        *left.entry(word).or_insert(0) += 1;
    }
    let mut hits = 0;
    for line in reference {
        let mut covered = vec![false; line.len()];
        for candidate in predicted {
            mark_common(line, candidate, &mut covered);
        }
        // The reference's own count cannot run out: each of its words is visited once.
        for (word, _) in line.iter().zip(covered).filter(|(_, covered)| *covered) {
            if let Some(count @ 1..) = left.get_mut(word) {
                *count -= 1;
                hits += 1;
            }
        }
    }
    hits
}

/// Marks the places in `reference` of one longest common subsequence. Of several the choice matters
/// for the union, so it is rouge-score's: from the end, a match is always taken, and of two equal
/// ways the reference is shortened.
fn mark_common(reference: &[u32], candidate: &[u32], covered: &mut [bool]) {
    let width = candidate.len();
    // Whether the subsequence without the candidate's word is longer than without the reference's.
    let mut skip_candidate = vec![false; reference.len() * width];
    let mut row = vec![0_u32; width + 1];
    for (i, x) in reference.iter().enumerate() {
        let mut diagonal = 0;
        for (j, y) in candidate.iter().enumerate() {
            let (above, left) = (row[j + 1], row[j]);
            skip_candidate[i * width + j] = left > above;
            row[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(left)
            };
            diagonal = above;
        }
    }
    let (mut i, mut j) = (reference.len(), candidate.len());
    while i > 0 && j > 0 {
        if reference[i - 1] == candidate[j - 1] {
            covered[i - 1] = true;
            i -= 1;
            j -= 1;
        } else if skip_candidate[(i - 1) * width + j - 1] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(kind: RougeKind, prediction: &str, reference: &str) -> RougeScore {
        Rouge::new(kind).score(prediction, &[reference.to_owned()])
    }

    #[test]
    fn by_hand() {
        // Lin 2004: police killed the gunman / police kill the gunman.
        let (reference, prediction) = ("police killed the gunman", "police kill the gunman");
        assert_eq!(score(RougeKind::L, prediction, reference).f, 0.75);
        assert_eq!(
            score(RougeKind::N(2), prediction, reference).recall,
            1.0 / 3.0
        );
        let stemmed = Rouge::stemmed(RougeKind::L).score(prediction, &[reference.to_owned()]);
        assert_eq!(stemmed.f, 1.0);
    }

    #[test]
    fn lsum_is_the_union_over_lines() {
        // Lin 2004, section 3.2: w1 to w5 against two lines gives 4 of 5.
        let found = score(
            RougeKind::Lsum,
            "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5",
            "w1 w2 w3 w4 w5",
        );
        assert_eq!(found.recall, 0.8);
        assert_eq!(found.precision, 0.4);
    }

    #[test]
    fn empty_sides_score_zero() {
        for kind in [
            RougeKind::N(1),
            RougeKind::N(2),
            RougeKind::L,
            RougeKind::Lsum,
        ] {
            assert_eq!(score(kind, "", "a b"), RougeScore::default());
            assert_eq!(score(kind, "a b", "…"), RougeScore::default());
        }
    }
}
