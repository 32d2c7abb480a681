//! One record of a task with what the model made of it.

use etude_data::SourceRef;
use serde_json::Value;

use super::metric::HarnessMetric;

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its fields: an object.
    pub value: Value,
    /// Where it stands.
    pub source: SourceRef,
}

/// How likely a continuation is after its context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// The sum over its tokens, in nats; at most 0.
    pub log_likelihood: f64,
    /// Whether each of its tokens is the likeliest at its place.
    pub is_greedy: bool,
}

/// One evaluated record.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The record's number in the task's data, from 0.
    pub doc_id: usize,
    /// The record.
    pub record: Record,
    /// The value of the task's `by`; empty where it has none.
    pub by: String,
    /// The right answer as text (for multiple choice the number of the choice).
    pub target: String,
    /// What the model was asked: a context with what follows it, which is the stop texts for generation
    /// and empty for whole texts.
    pub requests: Vec<(String, String)>,
    /// What the model made of it.
    pub outcome: Outcome,
}

/// What the model made of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The likelihood of each choice.
    Choice {
        /// The right choice, from 0.
        gold: usize,
        /// The choices, without what stands before them.
        choices: Vec<String>,
        /// As many.
        found: Vec<Likelihood>,
    },
    /// The likelihood of the answer.
    Cloze(Likelihood),
    /// The likelihood of a text.
    Rolling {
        /// Of all of its tokens, in nats.
        log_likelihood: f64,
        /// Runs of white space, plus one.
        words: u64,
        /// UTF-8.
        bytes: u64,
    },
    /// An answer.
    Text {
        /// The model's.
        made: String,
        /// The right ones.
        references: Vec<String>,
    },
}

impl Outcome {
    /// The choice that is the likeliest under one of the accuracies; the first of equals.
    ///
    /// # Panics
    /// For other outcomes than [`Outcome::Choice`].
    pub(super) fn likeliest(&self, metric: HarnessMetric) -> usize {
        let Self::Choice { choices, found, .. } = self else {
            panic!("only choices have a likeliest one");
        };
        let value = |place: usize| {
            let size = match metric {
                HarnessMetric::AccNorm => choices[place].chars().count() as f64,
                HarnessMetric::AccBytes => choices[place].len() as f64,
                _ => 1.0,
            };
            found[place].log_likelihood / size
        };
        let better = |best: usize, place: usize| {
            if value(place) > value(best) {
                place
            } else {
                best
            }
        };
        (1..found.len()).fold(0, better)
    }
}

/// The words of a text as lm-evaluation-harness counts them: runs of white space, plus one.
pub(super) fn count_words(text: &str) -> u64 {
    let mut words = 1;
    let mut in_space = false;
    for c in text.chars() {
        let space = is_space(c);
        if space && !in_space {
            words += 1;
        }
        in_space = space;
    }
    words
}

/// White space as Python has it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_a_split_at_white_space_counts_them() {
        let counts = ["", "a", "a b", " a  b\n", "a\u{1c}b"].map(count_words);
        assert_eq!(counts, [1, 1, 2, 4, 2]);
    }

    #[test]
    fn the_likeliest_choice_depends_on_what_it_is_divided_by() {
        let likelihood = |log_likelihood| Likelihood {
            log_likelihood,
            is_greedy: false,
        };
        // Per character -1, -0.9, -0.8; per byte -1, -0.45, -0.8.
        let outcome = Outcome::Choice {
            gold: 0,
            choices: vec!["ab".into(), "éèê".into(), "abcde".into()],
            found: [-2.0, -2.7, -4.0].map(likelihood).to_vec(),
        };
        let of = |metric| outcome.likeliest(metric);
        let all = [
            HarnessMetric::Acc,
            HarnessMetric::AccNorm,
            HarnessMetric::AccBytes,
        ]
        .map(of);
        assert_eq!(all, [0, 2, 1]);
    }
}
