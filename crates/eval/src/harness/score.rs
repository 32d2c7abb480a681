//! From samples to scores, with standard errors and intervals.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use etude_scores::{Bootstrap, Measured};
use serde::{Deserialize, Serialize};

use super::HarnessSettings;
use super::metric::HarnessMetric;
use super::sample::{Outcome, Sample};
use super::spec::TaskSpec;
use super::task::HarnessTask;

/// A score with what is known of its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HarnessScore {
    /// The score of all items.
    pub value: f64,
    /// The lower end of its bootstrap interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The standard error of a mean, from two items on; none for scores that are no mean.
    pub stderr: Option<f64>,
}

/// The scores of a task, or of a part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// How many items.
    pub n: usize,
    /// By metric, in the task's order.
    pub scores: Vec<(HarnessMetric, HarnessScore)>,
    /// For multiple choice: what guessing gives (the mean of one over the number of choices).
    pub chance: Option<f64>,
}

impl Scored {
    /// The score of a metric by name.
    pub fn get(&self, name: &str) -> Option<&HarnessScore> {
        let found = self.scores.iter().find(|(metric, _)| metric.name() == name);
        found.map(|(_, score)| score)
    }
}

/// A model's result on a task.
#[derive(Debug, Clone, PartialEq)]
pub struct HarnessResult {
    /// The task.
    pub spec: TaskSpec,
    /// How many records it has, evaluated or not.
    pub records: usize,
    /// The scores of all items.
    pub all: Scored,
    /// Where the task has `by`: the scores by its value.
    pub parts: BTreeMap<String, Scored>,
    /// The items, in the order of the records.
    pub samples: Vec<Sample>,
    /// Seconds that it took.
    pub seconds: f64,
}

pub(super) fn score(
    task: &HarnessTask,
    samples: Vec<Sample>,
    settings: &HarnessSettings,
    seconds: f64,
) -> Result<HarnessResult> {
    let all: Vec<&Sample> = samples.iter().collect();
    let mut parts: BTreeMap<String, Vec<&Sample>> = BTreeMap::new();
    if !task.spec.by.is_empty() {
        for sample in &samples {
            parts.entry(sample.by.clone()).or_default().push(sample);
        }
    }
    let metrics = &task.spec.metrics;
    let scored = |samples: &[&Sample]| scored(metrics, samples, &settings.bootstrap);
    Ok(HarnessResult {
        spec: task.spec.clone(),
        records: task.records.len(),
        all: scored(&all)?,
        parts: parts
            .into_iter()
            .map(|(by, samples)| Ok((by, scored(&samples)?)))
            .collect::<Result<_>>()?,
        samples,
        seconds,
    })
}

fn scored(metrics: &[HarnessMetric], samples: &[&Sample], bootstrap: &Bootstrap) -> Result<Scored> {
    let score = |metric: &HarnessMetric| {
        let measured = metric.measure(samples);
        let scored = measured.and_then(|measured| {
            let score = measured.score(bootstrap)?;
            Ok(HarnessScore {
                value: score.value,
                low: score.low,
                high: score.high,
                stderr: metric.is_mean().then(|| stderr(&measured)).flatten(),
            })
        });
        let scored = scored.with_context(|| format!("cannot score by {metric}"))?;
        Ok((*metric, scored))
    };
    let chances: Vec<f64> = samples
        .iter()
        .filter_map(|sample| match &sample.outcome {
            Outcome::Choice { choices, .. } => Some(1.0 / choices.len() as f64),
            _ => None,
        })
        .collect();
    let mean = chances.iter().sum::<f64>() / chances.len() as f64;
    Ok(Scored {
        n: samples.len(),
        scores: metrics.iter().map(score).collect::<Result<_>>()?,
        chance: (!chances.is_empty()).then_some(mean),
    })
}

/// The standard error of the mean: the deviation in the sample (over n - 1) over the root of n.
fn stderr(measured: &Measured) -> Option<f64> {
    let items = measured.item_scores();
    let n = items.len() as f64;
    let mean = items.iter().sum::<f64>() / n;
    let squares: f64 = items.iter().map(|item| (item - mean).powi(2)).sum();
    (items.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt())
}
