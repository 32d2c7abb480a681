//! The metrics by name: what a recipe or a command line may ask for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bleu::Bleu;
use crate::bleu_tokens::BleuTokenizer;
use crate::bootstrap::{Bootstrap, Score};
use crate::chrf::Chrf;
use crate::error::ScoreError;
use crate::measured::{Measured, Pair};
use crate::rouge::{Rouge, RougeKind};

/// A score of predictions, most of them against references.
///
/// As text (and in serde) a metric is its name, so settings that have no name of their own do not
/// survive being written; [`Metric::parse`] lists the names when it is given one that it does not
/// know.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Metric {
    /// The mean over the items of the F of ROUGE, 0 to 1.
    Rouge(Rouge),
    /// Corpus BLEU, 0 to 100.
    Bleu(Bleu),
    /// Corpus chrF, 0 to 100.
    Chrf(Chrf),
    /// The share of predictions that equal a reference after SQuAD's normalization, 0 to 1.
    ExactMatch,
    /// The mean F1 of SQuAD-normalized tokens, 0 to 1.
    TokenF1,
    /// The share of predictions that equal a reference as they stand, 0 to 1.
    Accuracy,
    /// The different n-grams of all predictions over all their n-grams, 0 to 1, of this n, from 1: how varied
    /// they are among each other as well. Needs no reference.
    Distinct(usize),
    /// The mean share of n-grams that repeat an earlier one in the same prediction, 0 to 1, of this
    /// n, from 1. Needs no reference, and less is better.
    Repetition(usize),
}

use RougeKind::{L, Lsum, N};

/// Every name with what to call it in a table.
const KNOWN: &[(&str, &str, Metric)] = &[
    ("rouge_1", "ROUGE-1", Metric::Rouge(Rouge::new(N(1)))),
    ("rouge_2", "ROUGE-2", Metric::Rouge(Rouge::new(N(2)))),
    ("rouge_l", "ROUGE-L", Metric::Rouge(Rouge::new(L))),
    ("rouge_lsum", "ROUGE-Lsum", Metric::Rouge(Rouge::new(Lsum))),
    (
        "rouge_1_stem",
        "ROUGE-1, stemmed",
        Metric::Rouge(Rouge::stemmed(N(1))),
    ),
    (
        "rouge_2_stem",
        "ROUGE-2, stemmed",
        Metric::Rouge(Rouge::stemmed(N(2))),
    ),
    (
        "rouge_l_stem",
        "ROUGE-L, stemmed",
        Metric::Rouge(Rouge::stemmed(L)),
    ),
    (
        "rouge_lsum_stem",
        "ROUGE-Lsum, stemmed",
        Metric::Rouge(Rouge::stemmed(Lsum)),
    ),
    ("bleu", "BLEU", bleu(BleuTokenizer::V13a)),
    ("bleu_intl", "BLEU, intl", bleu(BleuTokenizer::Intl)),
    ("bleu_char", "BLEU, characters", bleu(BleuTokenizer::Char)),
    ("bleu_none", "BLEU, tokenized", bleu(BleuTokenizer::None)),
    ("chrf", "chrF", Metric::Chrf(Chrf::with_words(0))),
    ("chrf++", "chrF++", Metric::Chrf(Chrf::with_words(2))),
    ("exact_match", "Exact match", Metric::ExactMatch),
    ("token_f1", "Token F1", Metric::TokenF1),
    ("accuracy", "Accuracy", Metric::Accuracy),
    ("distinct_1", "Different words", Metric::Distinct(1)),
    ("distinct_2", "Different 2-grams", Metric::Distinct(2)),
    ("distinct_3", "Different 3-grams", Metric::Distinct(3)),
    ("repetition_1", "Repeated words", Metric::Repetition(1)),
    ("repetition_2", "Repeated 2-grams", Metric::Repetition(2)),
    ("repetition_3", "Repeated 3-grams", Metric::Repetition(3)),
    ("repetition_4", "Repeated 4-grams", Metric::Repetition(4)),
];

/// Other spellings in use, after lower-casing and with `-` and space as `_`.
const ALIASES: &[(&str, &str)] = &[
    ("rouge1", "rouge_1"),
    ("rouge2", "rouge_2"),
    ("rougel", "rouge_l"),
    ("rougelsum", "rouge_lsum"),
    ("chrf2", "chrf"),
    ("chrf_pp", "chrf++"),
    ("chrf2++", "chrf++"),
    ("em", "exact_match"),
    ("f1", "token_f1"),
];

const fn bleu(tokenizer: BleuTokenizer) -> Metric {
    Metric::Bleu(Bleu::with_tokenizer(tokenizer))
}

impl Metric {
    /// The metric of a name, such as `rouge_l`, `bleu` or `chrf++`.
    ///
    /// # Errors
    /// An unknown name is refused with the nearest known one.
    pub fn parse(name: &str) -> Result<Self, ScoreError> {
        let folded = name.trim().to_lowercase().replace(['-', ' '], "_");
        let wanted = ALIASES
            .iter()
            .find(|(alias, _)| *alias == folded)
            .map_or(folded.as_str(), |(_, name)| name);
        if let Some((_, _, metric)) = KNOWN.iter().find(|(known, _, _)| *known == wanted) {
            return Ok(*metric);
        }
        Err(ScoreError::unknown_metric(name, Self::names().collect()))
    }

    /// All names that [`Metric::parse`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _, _)| *name)
    }

    /// The name that [`Metric::parse`] gives this metric for. Settings that have no name of their
    /// own go by their family's: `bleu`, `chrf`, `rouge_n`, `distinct`, `repetition`.
    pub fn name(&self) -> &'static str {
        self.known().map_or_else(
            || match self {
                Self::Bleu(_) => "bleu",
                Self::Chrf(_) => "chrf",
                Self::Distinct(_) => "distinct",
                Self::Repetition(_) => "repetition",
                _ => "rouge_n",
            },
            |(name, _)| name,
        )
    }

    /// What to call the metric in a table: `ROUGE-L`.
    pub fn label(&self) -> &'static str {
        self.known().map_or_else(|| self.name(), |(_, label)| label)
    }

    fn known(&self) -> Option<(&'static str, &'static str)> {
        KNOWN
            .iter()
            .find(|(_, _, metric)| metric == self)
            .map(|(name, label, _)| (*name, *label))
    }

    /// The best possible value of the scale: 100 for BLEU and chrF, 1 for the rest.
    pub fn scale(&self) -> f64 {
        match self {
            Self::Bleu(_) | Self::Chrf(_) => 100.0,
            _ => 1.0,
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(&self) -> bool {
        !matches!(self, Self::Repetition(_))
    }

    /// Whether every item must have a reference.
    pub fn needs_references(&self) -> bool {
        !matches!(self, Self::Distinct(_) | Self::Repetition(_))
    }

    /// The settings of BLEU or chrF as sacrebleu prints them, for a report to be reproducible; for
    /// the others, the name.
    pub fn signature(&self, pairs: &[Pair]) -> String {
        match self {
            Self::Bleu(bleu) => bleu.signature(pairs),
            Self::Chrf(chrf) => chrf.signature(pairs),
            _ => self.name().to_owned(),
        }
    }

    /// The corpus-level score with its interval (95%, from 1,000 resamples; [`Measured::score`]
    /// takes other settings).
    ///
    /// # Errors
    /// If there are no items, or one has no reference.
    pub fn score(&self, pairs: &[Pair]) -> Result<Score, ScoreError> {
        Measured::new(self, pairs)?.score(&Bootstrap::default())
    }

    /// The score of each item by itself (of [`Metric::Distinct`] its part in that of all), to sort examples by. BLEU uses the effective order here;
    /// its corpus score, like chrF's, is not the mean of these.
    ///
    /// # Errors
    /// If there are no items, or one has no reference.
    pub fn item_scores(&self, pairs: &[Pair]) -> Result<Vec<f64>, ScoreError> {
        let settings = match *self {
            Self::Bleu(bleu) => Self::Bleu(Bleu {
                effective_order: true,
                ..bleu
            }),
            other => other,
        };
        Ok(Measured::new(&settings, pairs)?.item_scores())
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = ScoreError;

    fn from_str(name: &str) -> Result<Self, ScoreError> {
        Self::parse(name)
    }
}

impl TryFrom<String> for Metric {
    type Error = ScoreError;

    fn try_from(name: String) -> Result<Self, ScoreError> {
        Self::parse(&name)
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back() {
        for name in Metric::names() {
            let metric = Metric::parse(name).expect("a known name");
            assert_eq!(metric.name(), name);
            assert_eq!(metric.to_string().parse(), Ok(metric));
        }
        for (alias, name) in ALIASES {
            assert_eq!(Metric::parse(alias), Metric::parse(name));
        }
        assert_eq!(Metric::parse(" ROUGE-Lsum "), Metric::parse("rouge_lsum"));
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest() {
        for (name, expected) in [
            ("rogue_l", "rouge_l"),
            ("blue", "bleu"),
            ("acuracy", "accuracy"),
            ("exact", "exact_match"),
            ("chrf+", "chrf++"),
        ] {
            let Err(ScoreError::UnknownMetric { nearest, .. }) = Metric::parse(name) else {
                panic!("{name} was taken");
            };
            assert_eq!(nearest, expected);
        }
        let message = Metric::parse("blue").expect_err("unknown").to_string();
        assert!(message.contains("did you mean `bleu`?") && message.contains("rouge_lsum"));
    }

    #[test]
    fn is_its_name_in_json() {
        let metric: Metric = serde_json::from_str("\"rouge_l\"").expect("a name");
        assert_eq!(serde_json::to_string(&metric).expect("text"), "\"rouge_l\"");
        assert!(serde_json::from_str::<Metric>("\"rouge\"").is_err());
    }

    #[test]
    fn settings_without_a_name_go_by_the_family() {
        assert_eq!(Metric::Rouge(Rouge::new(N(7))).name(), "rouge_n");
        let lower = Bleu {
            lowercase: true,
            ..Bleu::default()
        };
        assert_eq!(Metric::Bleu(lower).name(), "bleu");
        assert_eq!(Metric::Repetition(9).name(), "repetition");
    }
}
