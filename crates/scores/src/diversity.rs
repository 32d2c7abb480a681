//! How varied generated text is, with no reference: distinct n-grams and repetition.
//!
//! Words are what white space separates, case kept.

use std::collections::HashSet;

use crate::ngrams;
use crate::text::words;

/// Distinct-n (Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
/// Models"): the different n-grams of all texts over all their n-grams, 0 to 1; 0 where there are
/// none.
///
/// N-grams do not run from one text into the next. It depends on the amount of text (more text
/// repeats more), so compare equal amounts; and since a resample repeats whole items, a bootstrap
/// would bias it downwards, which is why it is no [`crate::Metric`].
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
    fn nothing_to_count_is_zero() {
        assert_eq!(distinct::<&str>(&[], 1), 0.0);
        assert_eq!(distinct(&["", " \n"], 2), 0.0);
        assert_eq!(repetition("one two", 3), 0.0);
    }
}
