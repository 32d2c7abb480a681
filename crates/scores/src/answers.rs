//! Scores of short answers: exact match and token F1 as SQuAD defines them (Rajpurkar et al. 2016,
//! "SQuAD: 100,000+ Questions for Machine Comprehension of Text"; empty answers as in 2018's
//! version 2), and plain accuracy of labels. All from 0 to 1, the best over the references.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::text::{trim, words};

/// A maximal run of word characters as Python's `\w` has them (letters, numbers, underscore; no
/// combining marks), so that an article is found exactly where `\b(a|an|the)\b` finds it there.
static WORD: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("the pattern is well-formed"));

/// An answer as SQuAD compares it: lower case, without ASCII punctuation, without the articles
/// *a*, *an*, *the*, with single spaces.
pub fn normalize_answer(text: &str) -> String {
    let bare: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let without_articles = WORD.replace_all(&bare, |found: &regex::Captures<'_>| match &found[0] {
        "a" | "an" | "the" => " ".to_owned(),
        word => word.to_owned(),
    });
    words(&without_articles).collect::<Vec<_>>().join(" ")
}

/// 1 if the normalized prediction equals a normalized reference, else 0.
pub fn exact_match(prediction: &str, references: &[String]) -> f64 {
    let prediction = normalize_answer(prediction);
    let hit = references.iter().any(|r| normalize_answer(r) == prediction);
    f64::from(u8::from(hit))
}

/// The harmonic mean of the precision and recall of normalized tokens, the best over the
/// references. If either side is empty, 1 if both are, else 0 (the rule of SQuAD 2.0; the script of
/// 1.1 gives 0 for two empty answers, which its exact match calls equal).
pub fn token_f1(prediction: &str, references: &[String]) -> f64 {
    let prediction = normalize_answer(prediction);
    references
        .iter()
        .map(|reference| f1(&prediction, &normalize_answer(reference)))
        .fold(0.0, f64::max)
}

/// Token F1 of two normalized answers.
fn f1(prediction: &str, reference: &str) -> f64 {
    let count = |text: &str| text.split_whitespace().count() as f64;
    let (predicted, expected) = (count(prediction), count(reference));
    if predicted == 0.0 || expected == 0.0 {
        return f64::from(u8::from(predicted == expected));
    }
    let mut left: HashMap<&str, u32> = HashMap::new();
    for token in words(reference) {
        *left.entry(token).or_insert(0) += 1;
    }
    let mut same = 0.0;
    for token in words(prediction) {
        if let Some(count @ 1..) = left.get_mut(token) {
            *count -= 1;
            same += 1.0;
        }
    }
    if same == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (same / predicted, same / expected);
    2.0 * precision * recall / (precision + recall)
}

/// 1 if the prediction is one of the references, space at the ends aside and nothing else: for
/// labels and multiple choice.
pub fn accuracy(prediction: &str, references: &[String]) -> f64 {
    let hit = references.iter().any(|r| trim(r) == trim(prediction));
    f64::from(u8::from(hit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&t| t.to_owned()).collect()
    }

    #[test]
    fn normalizes() {
        assert_eq!(
            normalize_answer("The  Cat, an a-b \"A\" cafe\u{301}"),
            "cat ab cafe\u{301}"
        );
        // Punctuation goes first, so "a-" becomes an article; "the" within a word stays.
        assert_eq!(normalize_answer("a- other theatre a_b"), "other theatre ab");
        assert_eq!(normalize_answer("—the—"), "— —");
    }

    #[test]
    fn takes_the_best_reference() {
        assert_eq!(exact_match("Paris.", &refs(&["Lyon", "the paris"])), 1.0);
        assert_eq!(exact_match("Paris", &refs(&["Lyon"])), 0.0);
        let f1 = token_f1("red red fox", &refs(&["blue", "a red fox ran"]));
        // 2 of 3 predicted, 2 of 3 expected.
        assert!((f1 - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!(token_f1("the", &refs(&["an"])), 1.0);
        assert_eq!(token_f1("the", &refs(&["cat"])), 0.0);
    }

    #[test]
    fn accuracy_is_literal() {
        assert_eq!(accuracy(" yes\n", &refs(&["yes"])), 1.0);
        assert_eq!(accuracy("Yes", &refs(&["yes"])), 0.0);
    }
}
