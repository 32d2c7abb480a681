//! The recipe of a transfer experiment.

use anyhow::{Result, anyhow, ensure};
use etude_eval::TaskMetric;
use etude_train::Validate;
use serde::{Deserialize, Serialize};

/// A transfer recipe: `[transfer]`, and a `[[variant]]` for each further way of fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRecipe {
    /// The experiment.
    pub transfer: TransferSettings,
    /// Other ways of fine-tuning on all examples, compared in what they learn and what they forget.
    #[serde(default, rename = "variant")]
    pub variants: Vec<VariantSettings>,
}

/// `[transfer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferSettings {
    /// The fine-tuning recipe: a built-in one's name, or a file.
    pub finetune: String,
    /// The recipe from scratch, of the same task; by default that of `finetune` with `base.from_scratch` and all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<String>,
    /// What differs in the recipe from scratch besides, as `--set` writes it: rates of its own, say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scratch_set: Vec<String>,
    /// The shares of the training examples, rising. Default 1, 3, 10, 30 and 100 percent.
    #[serde(default = "shares")]
    pub shares: Vec<f64>,
    /// A run for each seed at each share: another draw of examples, in another order. Default 1 and 2.
    #[serde(default = "seeds")]
    pub seeds: Vec<u64>,
    /// What the learning rates of both recipes are multiplied by to find each arm's best, by validation loss.
    /// Default 0.5, 1 and 2.
    #[serde(default = "rates")]
    pub rates: Vec<f64>,
    /// The shares at which the rates are tried; another share takes those of the nearest. Default 10 and 100
    /// percent.
    #[serde(default = "tune_at")]
    pub tune_at: Vec<f64>,
    /// What answers are scored by; the curves are in the first. Default `rouge_l`, `chrf` and `bits_per_byte`.
    #[serde(default = "metrics")]
    pub metrics: Vec<TaskMetric>,
    /// Test examples, evenly from the test split; 0 means all. Default 200.
    #[serde(default = "test")]
    pub test: usize,
    /// A text set whose validation text shows what is forgotten; without it, that is not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub general: Option<String>,
    /// At most so many bytes of it. Default 200,000.
    #[serde(default = "general_bytes")]
    pub general_bytes: usize,
}

/// `[[variant]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSettings {
    /// What the page calls it.
    pub name: String,
    /// What differs from `finetune`, as `--set` writes it.
    pub set: Vec<String>,
}

fn shares() -> Vec<f64> {
    vec![0.01, 0.03, 0.1, 0.3, 1.0]
}
fn seeds() -> Vec<u64> {
    vec![1, 2]
}
fn rates() -> Vec<f64> {
    vec![0.5, 1.0, 2.0]
}
fn tune_at() -> Vec<f64> {
    vec![0.1, 1.0]
}
fn metrics() -> Vec<TaskMetric> {
    ["rouge_l", "chrf", "bits_per_byte"]
        .into_iter()
        .filter_map(|name| TaskMetric::parse(name).ok())
        .collect()
}
fn test() -> usize {
    200
}
fn general_bytes() -> usize {
    200_000
}

impl Validate for TransferRecipe {
    fn validate(&self) -> Result<()> {
        let settings = &self.transfer;
        let rising = |values: &[f64]| values.windows(2).all(|pair| pair[0] < pair[1]);
        for (key, values) in [("shares", &settings.shares), ("tune_at", &settings.tune_at)] {
            ensure!(
                !values.is_empty()
                    && rising(values)
                    && values.iter().all(|&share| share > 0.0 && share <= 1.0),
                "transfer.{key} = {values:?}: give shares above 0 and up to 1, rising"
            );
        }
        ensure!(
            settings.shares.last() == Some(&1.0),
            "transfer.shares = {:?}: the last is 1.0, all examples, which the others are compared with; fewer in all are task.examples of the fine-tuning recipe",
            settings.shares
        );
        for share in &settings.tune_at {
            ensure!(
                settings.shares.contains(share),
                "transfer.tune_at holds {share}, which is none of transfer.shares = {:?}",
                settings.shares
            );
        }
        ensure!(
            !settings.rates.is_empty()
                && settings
                    .rates
                    .iter()
                    .all(|&rate| rate.is_finite() && rate > 0.0)
                && distinct(&settings.rates),
            "transfer.rates = {:?}: give finite factors above 0, each once, such as [0.5, 1.0, 2.0]",
            settings.rates
        );
        ensure!(
            !settings.seeds.is_empty() && distinct(&settings.seeds),
            "transfer.seeds = {:?}: give at least one seed, each once",
            settings.seeds
        );
        ensure!(
            !settings.metrics.is_empty(),
            "transfer.metrics is empty: name at least one, such as \"rouge_l\""
        );
        TaskMetric::check_distinct(&settings.metrics)
            .map_err(|error| anyhow!("transfer.{error}"))?;
        let names: Vec<&String> = self.variants.iter().map(|variant| &variant.name).collect();
        ensure!(
            distinct(&names) && names.iter().all(|name| !name.trim().is_empty()),
            "variants: their names are {names:?}; give each one of its own"
        );
        Ok(())
    }
}

fn distinct<T: PartialEq>(values: &[T]) -> bool {
    (1..values.len()).all(|at| !values[..at].contains(&values[at]))
}
