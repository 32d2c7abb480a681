//! Scores for generated text, with intervals.
//!
//! Give [`Metric::score`] predictions and references and get the corpus-level score with a bootstrap
//! interval; give [`paired`] the outputs of two systems on the same items and get their difference,
//! its interval and a p-value. The scores are those of the tools that papers quote: BLEU and chrF
//! equal sacrebleu 2.6, ROUGE equals rouge-score 0.1.2 (see the crate's README for what is tested
//! and for each metric's paper).
//!
//! ```
//! use etude_scores::{Metric, Pair, paired};
//!
//! let truth = ["A cat sat on the mat.", "It rained all day."];
//! let good: Vec<Pair> = ["The cat sat on the mat.", "It rained the whole day."]
//!     .iter().zip(truth).map(|(p, r)| Pair::new(*p, [r])).collect();
//! let poor: Vec<Pair> = ["A dog.", "Sun."]
//!     .iter().zip(truth).map(|(p, r)| Pair::new(*p, [r])).collect();
//!
//! let metric = Metric::parse("rouge_l")?;
//! let score = metric.score(&good)?;
//! assert!(score.low <= score.value && score.value <= score.high);
//! assert!(paired(&metric, &good, &poor)?.value > 0.0);
//! # Ok::<(), etude_scores::ScoreError>(())
//! ```
//!
//! # Scales
//!
//! BLEU and chrF run from 0 to 100, as sacrebleu prints them. Everything else runs from 0 to 1, as
//! rouge-score gives it, except bits per byte and perplexity, which are what they are.
//! [`Metric::scale`] tells them apart.
//!
//! # How it works
//!
//! Every metric first turns each item into a few additive numbers (its sufficient statistics: for
//! BLEU the matched and total n-grams and the two lengths), in parallel. [`Measured`] holds them.
//! A corpus score is a function of their sum, so a bootstrap resample only adds numbers up and no
//! text is tokenized twice.

mod answers;
mod bleu;
mod bleu_tokens;
mod bootstrap;
mod chrf;
mod classes;
mod diversity;
mod error;
mod likelihood;
mod measured;
mod metric;
mod ngrams;
mod porter;
mod random;
mod rouge;
mod text;

pub use answers::{accuracy, exact_match, normalize_answer, token_f1};
pub use bleu::{Bleu, BleuScore, BleuStatistics, Smoothing};
pub use bleu_tokens::BleuTokenizer;
pub use bootstrap::{
    Bootstrap, Difference, Score, Statistics, interval, paired_interval, resampled,
};
pub use chrf::{Chrf, ChrfStatistics};
pub use diversity::{distinct, repetition};
pub use error::ScoreError;
pub use likelihood::{Ratio, bits_per_byte, perplexity};
pub use measured::{Measured, Pair, paired};
pub use metric::Metric;
pub use porter::stem;
pub use rouge::{Rouge, RougeKind, RougeScore};

/// The sacrebleu release whose BLEU and chrF these equal; it stands in every signature.
pub const SACREBLEU_VERSION: &str = "2.6.0";

/// Compiles and runs the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
