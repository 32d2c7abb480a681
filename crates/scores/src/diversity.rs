//! How varied generated text is, with no reference: distinct n-grams and repetition.
//!
//! Words are what white space separates, case kept.

use std::collections::{HashMap, HashSet};

use crate::likelihood::Ratio;
use crate::ngrams;
use crate::text::words;

/// Distinct-n (Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
/// Models"): the different n-grams of all texts over all their n-grams, 0 to 1; 0 where there are
/// none.
///
/// N-grams do not run from one text into the next. It depends on the amount of text (more text
/// repeats more), so compare equal amounts.
pub fn distinct<T: AsRef<str>>(texts: &[T], n: usize) -> f64 {
    assert!(n > 0, "n-grams have at least one word");
    let texts: Vec<Vec<&str>> = texts.iter().map(|t| words(t.as_ref()).collect()).collect();
    let different: HashSet<&[&str]> = texts.iter().flat_map(|words| words.windows(n)).collect();
    let all: u64 = texts
        .iter()
        .map(|words| ngrams::total(words.len(), n))
        .sum();
    different.len() as f64 / all.max(1) as f64
}

/// Each text's part in [`distinct`]: over all texts, the numerators add up to the number of different
/// n-grams and the denominators to that of all.
///
/// An n-gram that occurs `c` times in all texts counts `1 / c` each time. That belongs to the text, and
/// stays with it where texts are resampled: counting the different n-grams of a resample instead
/// would find fewer, only because it has texts twice.
pub(crate) fn distinct_shares<T: AsRef<str>>(texts: &[T], n: usize) -> Vec<Ratio> {
    let texts: Vec<Vec<&str>> = texts.iter().map(|t| words(t.as_ref()).collect()).collect();
    let mut counts: HashMap<&[&str], u64> = HashMap::new();
    for gram in texts.iter().flat_map(|words| words.windows(n)) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    let share = |words: &Vec<&str>| {
        let shares = words.windows(n).map(|gram| 1.0 / counts[gram] as f64);
        Ratio::new(shares.sum(), ngrams::total(words.len(), n) as f64)
    };
    texts.iter().map(share).collect()
}

/// The share of a text's n-grams that repeat an earlier one (Welleck et al. 2020, "Neural Text
/// Generation with Unlikelihood Training", `seq-rep-n`): 0 for none, towards 1 for a loop.
pub fn repetition(text: &str, n: usize) -> f64 {
    let words: Vec<&str> = words(text).collect();
    let all = ngrams::total(words.len(), n);
    let different = ngrams::count(&words, n).len() as u64;
    (all - different) as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        // a b a b: unigrams 2 of 4, bigrams ab ba ab: 2 of 3.
        assert_eq!(distinct(&["a b", "a b"], 1), 0.5);
        assert_eq!(distinct(&["a b", "a b"], 2), 0.5);
        assert_eq!(distinct(&["a b a b"], 2), 2.0 / 3.0);
        assert_eq!(repetition("a b a b", 2), 1.0 / 3.0);
        assert_eq!(repetition("la la la la la", 1), 0.8);
    }

    #[test]
    fn the_shares_of_all_texts_make_the_whole() {
        let texts = [
            "once upon a time there was a king",
            "there was once a king and a king",
            "",
            "a time",
        ];
        for n in 1..=3 {
            let sum = (distinct_shares(&texts, n).into_iter()).fold(
                Ratio::default(),
                |mut sum, share| {
                    sum += share;
                    sum
                },
            );
            assert!((sum.value() - distinct(&texts, n)).abs() < 1e-12, "{n}");
        }
        // `a b` is in both, `b c` in one: half a bigram, and one and a half of two.
        let shares = distinct_shares(&["a b", "a b c"], 2);
        assert_eq!(shares, [Ratio::new(0.5, 1.0), Ratio::new(1.5, 2.0)]);
    }

    #[test]
    fn nothing_to_count_is_zero() {
        assert_eq!(distinct::<&str>(&[], 1), 0.0);
        assert_eq!(distinct(&["", " \n"], 2), 0.0);
        assert_eq!(repetition("one two", 3), 0.0);
    }
}
