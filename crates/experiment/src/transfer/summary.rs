//! `transfer.json`: what a transfer experiment found.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use etude_eval::{TaskItem, TaskMetric, TaskResult, compare};
use etude_scores::{Bootstrap, Difference, Measured, Score};
use serde::Serialize;
use serde_json::{Value, json};

use super::ratio::{DataRatio, Measurements};
use super::runs::{Arm, Record};

/// Examples listed for each side of the comparison.
const EXAMPLES: usize = 12;

/// `transfer.json`.
#[derive(Debug, Clone, Serialize)]
pub struct TransferSummary {
    /// The task.
    pub task: String,
    /// What the curves are in.
    pub metric: String,
    /// Whether more of it is better.
    pub higher_is_better: bool,
    /// Test examples.
    pub n: usize,
    /// Optimizer steps of a run from the pre-trained model, and of one from scratch.
    pub steps: [u64; 2],
    /// Examples of a step, likewise.
    pub batch_rows: [usize; 2],
    /// The pre-trained model before any fine-tuning.
    pub base: BTreeMap<String, Score>,
    /// Both arms at each amount of data.
    pub points: Vec<Point>,
    /// How much less data the pre-trained model needs; none where more data does not help the model from scratch by
    /// the main metric.
    pub data_ratio: Option<DataRatio>,
    /// The same by each metric that tells what was learnt, the main one among them.
    pub data_ratios: BTreeMap<String, DataRatio>,
    /// Work done, in all.
    pub compute: Compute,
    /// The ways of fine-tuning on all examples: what each learnt, and what it forgot.
    pub variants: Vec<Variant>,
    /// Bits per byte of the base model on the general text, where that was measured.
    pub general_before: Option<f64>,
    /// The general text's name.
    pub general: Option<String>,
    /// Seconds of the whole command in this session.
    pub seconds: f64,
}

/// Both arms at one amount of data.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// The share of the training examples.
    pub share: f64,
    /// How many those are.
    pub examples: usize,
    /// From the pre-trained model.
    pub pretrained: ArmScores,
    /// From scratch.
    pub scratch: ArmScores,
    /// Pre-trained minus scratch on the same items, by metric.
    pub differences: BTreeMap<String, Difference>,
}

/// One arm at one amount of data.
#[derive(Debug, Clone, Serialize)]
pub struct ArmScores {
    /// By metric, over all seeds' answers, with the interval over test items.
    pub scores: BTreeMap<String, Score>,
    /// The main metric of each seed by itself.
    pub seeds: Vec<f64>,
    /// What the recipe's learning rates were multiplied by: the best one tried.
    pub rate: f64,
    /// The step of each seed's best state, which answered.
    pub best_steps: Vec<u64>,
    /// Mean seconds of training.
    pub seconds: f64,
    /// Numbers in the model.
    pub parameters: u64,
}

/// Tokens, seconds and floating-point operations of training.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cost {
    /// Runs.
    pub runs: usize,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Floating-point operations of its steps.
    pub flops: f64,
}

impl Cost {
    pub(super) fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        records
            .into_iter()
            .fold(Self::default(), |sum, record| Self {
                runs: sum.runs + 1,
                tokens: sum.tokens + record.tokens,
                seconds: sum.seconds + record.seconds,
                flops: sum.flops + record.flops,
            })
    }
}

/// The work of pre-training beside that of all fine-tunings.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Compute {
    /// Of the base model; none where it came ready made.
    pub pretraining: Option<Cost>,
    /// Of one run from the pre-trained model, on all examples.
    pub finetuning: Cost,
    /// Of all its runs here, those that tried learning rates included.
    pub finetunings: Cost,
    /// Of all runs from scratch.
    pub scratch: Cost,
}

/// One way of fine-tuning on all examples.
#[derive(Debug, Clone, Serialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its scores on the task.
    pub scores: BTreeMap<String, Score>,
    /// Bits per byte of the general text after it.
    pub general: Option<f64>,
    /// The rates' factor.
    pub rate: f64,
    /// Seconds of training.
    pub seconds: f64,
}

/// The answers of an arm's seeds at one share.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    pub(super) rate: f64,
    pub(super) records: Vec<&'a Record>,
}

impl Answers<'_> {
    fn results(&self) -> Result<Vec<&TaskResult>> {
        let results = self.records.iter().map(|record| record.result.as_ref());
        results
            .map(|result| result.context("every run was asked"))
            .collect()
    }

    /// The items of all seeds, each seed's in the order of the first.
    fn measured(&self, metric: &TaskMetric) -> Result<Measured> {
        let results = self.results()?;
        let all: Vec<&[TaskItem]> = results.iter().map(|result| &*result.items).collect();
        let each = results.iter().map(|result| {
            metric
                .measure_beside(&result.items, &all)
                .with_context(|| format!("cannot score by {metric}"))
        });
        Ok(Measured::pooled(&each.collect::<Result<Vec<_>>>()?)?)
    }

    /// A metric on each resample of the test items.
    fn resampled(&self, metric: &TaskMetric, bootstrap: &Bootstrap) -> Result<Vec<f64>> {
        Ok(self.measured(metric)?.resampled(bootstrap)?)
    }

    fn scores(&self, metrics: &[TaskMetric], bootstrap: &Bootstrap) -> Result<ArmScores> {
        let score = |metric: &TaskMetric| {
            let score = self.measured(metric)?.score(bootstrap)?;
            Ok((metric.name().to_owned(), score))
        };
        let main = metrics.first().context("at least one metric")?;
        let seeds = self.results()?.into_iter().map(|result| {
            let score = result.scores.get(main.name());
            score.map_or(f64::NAN, |score| score.value)
        });
        let count = self.records.len().max(1) as f64;
        Ok(ArmScores {
            scores: metrics.iter().map(score).collect::<Result<_>>()?,
            seeds: seeds.collect(),
            rate: self.rate,
            best_steps: self.records.iter().map(|record| record.best_step).collect(),
            seconds: self
                .records
                .iter()
                .map(|record| record.seconds)
                .sum::<f64>()
                / count,
            parameters: self.records.first().map_or(0, |record| record.parameters),
        })
    }
}

/// Both arms' answers at one share.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) share: f64,
    pub(super) examples: usize,
    pub(super) pretrained: Answers<'a>,
    pub(super) scratch: Answers<'a>,
}

/// The points of both curves, and the data ratio by each metric that has one.
pub(super) fn curves(
    pairs: &[Pair<'_>],
    metrics: &[TaskMetric],
    bootstrap: &Bootstrap,
) -> Result<(Vec<Point>, BTreeMap<String, DataRatio>)> {
    same_items(pairs)?;
    let mut points = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let difference = |metric: &TaskMetric| {
            let scratch = pair.scratch.measured(metric)?;
            let difference = pair
                .pretrained
                .measured(metric)?
                .minus(&scratch, bootstrap)?;
            Ok((metric.name().to_owned(), difference))
        };
        points.push(Point {
            share: pair.share,
            examples: pair.examples,
            pretrained: pair.pretrained.scores(metrics, bootstrap)?,
            scratch: pair.scratch.scores(metrics, bootstrap)?,
            differences: metrics.iter().map(difference).collect::<Result<_>>()?,
        });
    }
    let mut ratios = BTreeMap::new();
    for metric in metrics {
        if let Some(ratio) = data_ratio(pairs, &points, metric, bootstrap)? {
            ratios.insert(metric.name().to_owned(), ratio);
        }
    }
    Ok((points, ratios))
}

/// None where amounts of data cannot be compared: by a metric that does not tell what was learnt, and when the model
/// from scratch does no better with all examples than with the fewest, by more than chance. It may have learnt
/// nothing, or all that there is.
fn data_ratio(
    pairs: &[Pair<'_>],
    points: &[Point],
    metric: &TaskMetric,
    bootstrap: &Bootstrap,
) -> Result<Option<DataRatio>> {
    let (first, last) = (pairs.first().zip(pairs.last())).context("at least one share")?;
    if !metric.tells_what_was_learnt() {
        return Ok(None);
    }
    let fewest = first.scratch.measured(metric)?;
    let learnt = last.scratch.measured(metric)?.minus(&fewest, bootstrap)?;
    if !learnt.is_more_than_chance() || (learnt.value > 0.0) != metric.higher_is_better() {
        return Ok(None);
    }
    let arm = |of: fn(&Point) -> &ArmScores,
               answers: for<'p, 'r> fn(&'p Pair<'r>) -> &'p Answers<'r>| {
        let value = |point: &Point| {
            let score = of(point).scores.get(metric.name());
            score.map_or(f64::NAN, |score| score.value)
        };
        let resampled = (pairs.iter()).map(|pair| answers(pair).resampled(metric, bootstrap));
        Ok::<_, anyhow::Error>(Measurements {
            scores: points.iter().map(value).collect(),
            resampled: resampled.collect::<Result<_>>()?,
        })
    };
    Ok(Some(DataRatio::new(
        &points.iter().map(|point| point.share).collect::<Vec<_>>(),
        metric.higher_is_better(),
        &arm(|point| &point.pretrained, |pair| &pair.pretrained)?,
        &arm(|point| &point.scratch, |pair| &pair.scratch)?,
        bootstrap,
    )))
}

/// Scores are compared item by item and added up over seeds: all answers must be to the same examples.
fn same_items(pairs: &[Pair<'_>]) -> Result<()> {
    let answers = pairs
        .iter()
        .flat_map(|pair| [&pair.pretrained, &pair.scratch]);
    let mut first: Option<&TaskResult> = None;
    for answers in answers {
        for result in answers.results()? {
            same_examples(first.get_or_insert(result), result)?;
        }
    }
    Ok(())
}

/// Refuses answers to different examples.
pub(super) fn same_examples(a: &TaskResult, b: &TaskResult) -> Result<()> {
    let ids = |result: &TaskResult| -> Vec<String> {
        result.items.iter().map(|item| item.id.clone()).collect()
    };
    ensure!(
        ids(a) == ids(b),
        "two models answered other test examples ({} and {}): those that are too long for one context are left out; set task.truncation = \"truncate-prompt\" in both recipes",
        a.items.len(),
        b.items.len()
    );
    Ok(())
}

/// Lines of `examples.jsonl`: test examples in which the two arms differ most, half of them in each one's favour.
///
/// # Errors
/// When the arms answered other examples.
pub(super) fn examples(pair: &Pair<'_>, metric: &TaskMetric) -> Result<Vec<Value>> {
    let first = |answers: &Answers<'_>| -> Result<Vec<TaskItem>> {
        let results = answers.results()?;
        Ok(results.first().context("at least one seed")?.items.clone())
    };
    let (pretrained, scratch) = (first(&pair.pretrained)?, first(&pair.scratch)?);
    // The same examples, in the same order: or comparing them would have no meaning.
    compare(&pretrained, &scratch, &[*metric], &Bootstrap::default())?;
    let scores =
        |items: &[TaskItem]| -> Result<Vec<f64>> { Ok(metric.measure(items)?.item_scores()) };
    let sign = if metric.higher_is_better() { 1.0 } else { -1.0 };
    let (ours, theirs) = (scores(&pretrained)?, scores(&scratch)?);
    let lead = |place: &usize| sign * (ours[*place] - theirs[*place]);
    let mut places: Vec<usize> = (0..pretrained.len())
        .filter(|place| lead(place).is_finite() && lead(place) != 0.0)
        .collect();
    places.sort_by(|a, b| lead(b).total_cmp(&lead(a)));
    let (better, worse) = (places.clone(), places.iter().rev().copied());
    let better = better.into_iter().filter(|place| lead(place) > 0.0);
    let worse = worse.filter(|place| lead(place) < 0.0);
    let line = |(arm, place): (Arm, usize)| {
        let (a, b) = (&pretrained[place], &scratch[place]);
        json!({
            "better": arm, "share": pair.share, "id": a.id, "prompt": a.prompt, "reference": a.reference,
            "pretrained": a.prediction, "scratch": b.prediction,
            "scores": { "pretrained": ours[place], "scratch": theirs[place] },
        })
    };
    let chosen = (better.take(EXAMPLES).map(|place| (Arm::Pretrained, place)))
        .chain(worse.take(EXAMPLES).map(|place| (Arm::Scratch, place)));
    Ok(chosen.map(line).collect())
}
