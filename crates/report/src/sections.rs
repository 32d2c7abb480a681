//! The parts of a page about one run, as the templates need them: plain strings, ready to show.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::data::{self, Data};
use crate::facts::{self, Fact, Facts};
use crate::figures::{self, Figure};
use crate::forecast;
use crate::format;
use crate::mechanics;
use crate::probes;
use crate::run::{Recipe, Run, Sample, Stage};
use crate::scores::{self, Gain, Group};
use crate::series;

/// Characters of a generated sample that the page shows.
const SAMPLE_CHARS: usize = 900;

/// Samples of one prompt shown openly; the others are folded away.
const SHOWN_SAMPLES: usize = 6;

/// Everything the page shows of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    pub(crate) name: String,
    /// Prefix of the run's anchors.
    pub(crate) id: String,
    pub(crate) stage: &'static str,
    pub(crate) finished: bool,
    pub(crate) lede: String,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) curves: Vec<Figure>,
    pub(crate) mechanics: Vec<Figure>,
    /// What the model could do at each checkpoint.
    pub(crate) probes: Vec<Figure>,
    pub(crate) next: Vec<probes::Next>,
    pub(crate) samples: Vec<Prompt>,
    pub(crate) data: Option<Data>,
    pub(crate) finals: Vec<Fact>,
    pub(crate) forecast: forecast::Table,
    pub(crate) scores: Vec<Group>,
    /// What fine-tuning gained, where the model was asked before it, too.
    pub(crate) gains: Vec<Gain>,
    pub(crate) recipe: Vec<Facts>,
    pub(crate) recipe_text: Option<String>,
    pub(crate) environment: Vec<Facts>,
}

/// A figure of merit in large type.
#[derive(Debug, Serialize)]
pub(crate) struct Tile {
    pub(crate) value: String,
    pub(crate) label: String,
    pub(crate) remark: String,
}

/// The samples of one prompt through the run.
#[derive(Debug, Serialize)]
pub(crate) struct Prompt {
    pub(crate) prompt: String,
    pub(crate) shown: Vec<Text>,
    pub(crate) folded: Vec<Text>,
}

/// One generated text.
#[derive(Debug, Serialize)]
pub(crate) struct Text {
    pub(crate) step: String,
    pub(crate) remark: String,
    pub(crate) text: String,
    /// Characters left off.
    pub(crate) more: usize,
}

/// Prepares all parts of one run's page.
pub(crate) fn section(run: &Run, id: &str) -> Result<Section> {
    let mut curves: Vec<Figure> = figures::loss(run)?.into_iter().collect();
    curves.extend(figures::bits_per_byte(run)?);
    let (recipe, recipe_text) = facts::recipe(&run.recipe);
    Ok(Section {
        name: run.name.clone(),
        id: id.to_owned(),
        stage: match run.stage() {
            Stage::Pretrain => "pretrain",
            Stage::Finetune => "finetune",
            Stage::Unknown => "unknown",
        },
        finished: run.finished(),
        lede: lede(run),
        tiles: tiles(run),
        curves,
        mechanics: mechanics::mechanics(run)?,
        probes: probes::figures(run)?,
        next: probes::next(run),
        samples: samples(run),
        data: data::data(run),
        finals: finals(run),
        forecast: forecast::table(run),
        scores: score_groups(run),
        gains: score_gains(run),
        recipe,
        recipe_text,
        environment: facts::groups(&run.environment, "machine"),
    })
}

/// The scores on the test split: with their intervals and beside those before fine-tuning where the run has them.
fn score_groups(run: &Run) -> Vec<Group> {
    let plain = run.summary.get("scores").unwrap_or(&Value::Null);
    let after = run.scores.get("after").unwrap_or(plain);
    let mut arms = vec![("After fine-tuning", 'a', after)];
    arms.extend(
        run.scores
            .get("before")
            .map(|before| ("Before", 'c', before)),
    );
    scores::groups(&arms, named_metric(run))
}

/// The metric that the recipe names first, but for bits per byte, which has a place of its own.
fn named_metric(run: &Run) -> Option<&str> {
    let Recipe::Parsed(recipe) = &run.recipe else {
        return None;
    };
    let metrics = recipe.get("eval")?.get("metrics")?.as_array()?;
    let mut names = metrics.iter().filter_map(toml::Value::as_str);
    names.find(|name| *name != "bits_per_byte")
}

fn score_gains(run: &Run) -> Vec<Gain> {
    let of = |name: &str| run.scores.get(name).cloned().unwrap_or(Value::Null);
    let results = serde_json::json!({
        "finetuned": of("after"), "base": of("before"), "gains": of("gains"),
    });
    scores::gains(&results, "gains", "base", "the model before fine-tuning")
}

fn lede(run: &Run) -> String {
    let size = run.summary_number("/parameters");
    let model = size.map_or_else(
        || "A language model".into(),
        |size| format!("A language model of {} parameters", format::short(size)),
    );
    let verb = match run.stage() {
        Stage::Pretrain => "pre-trained from scratch on general text",
        Stage::Finetune => "fine-tuned on examples of one task",
        Stage::Unknown => "in training",
    };
    let steps = run.summary_number("/steps").or_else(|| run.last_step());
    let steps = steps
        .map(|steps| format!(" for {}", format::plural(steps, "step", "steps")))
        .unwrap_or_default();
    let seconds = seconds(run)
        .map(|seconds| format!(" in {}", format::duration(seconds)))
        .unwrap_or_default();
    format!("{model}, {verb}{steps}{seconds}.")
}

fn seconds(run: &Run) -> Option<f64> {
    run.summary_number("/seconds")
        .or_else(|| run.train.last().and_then(|point| point.seconds))
}

pub(crate) fn tokens(run: &Run) -> Option<f64> {
    run.summary_number("/tokens")
        .or_else(|| run.train.last().and_then(|point| point.tokens))
}

fn speed(run: &Run) -> Option<f64> {
    let logged = || series::median(run.train.iter().filter_map(|point| point.tokens_per_second));
    run.summary_number("/tokens_per_second").or_else(logged)
}

fn tiles(run: &Run) -> Vec<Tile> {
    let tile = |value: Option<String>, label: &str, remark: &str| {
        value.map(|value| Tile {
            value,
            label: label.into(),
            remark: remark.into(),
        })
    };
    let scores = (run.scores.get("after").or(run.summary.get("scores"))).and_then(Value::as_object);
    let first_score = scores.and_then(|scores| {
        let usual = scores.keys().map(String::as_str);
        let usual = usual.filter(|key| *key != "bits_per_byte");
        let named = named_metric(run).filter(|key| scores.contains_key(*key));
        let key = named.or(usual.min())?;
        let score = scores::score(&scores[key])?;
        Some(Tile {
            value: format::score(score.value),
            label: crate::metric::metric(key).label,
            remark: scores::interval(&score),
        })
    });
    let found = [
        tile(
            run.bits_per_byte().map(format::score),
            "bits per byte",
            "on unseen text; guessing is 8",
        ),
        tile(
            run.validation_loss().map(format::score),
            "validation loss",
            "nats per token",
        ),
        first_score,
        tile(tokens(run).map(format::short), "tokens seen", ""),
        tile(seconds(run).map(format::duration), "of training", ""),
        tile(speed(run).map(format::count), "tokens per second", ""),
    ];
    found.into_iter().flatten().collect()
}

fn finals(run: &Run) -> Vec<Fact> {
    let last = run.evals.last();
    let train = run.train.iter().rev().find_map(|point| point.loss);
    let rows = [
        (
            "Training loss, nats per token",
            run.summary_number("/final/train_loss")
                .or(train)
                .map(format::score),
        ),
        (
            "Validation loss, nats per token",
            run.validation_loss().map(format::score),
        ),
        (
            "Validation bits per byte",
            run.bits_per_byte().map(format::score),
        ),
        (
            "Validation perplexity",
            run.summary_number("/final/perplexity")
                .or(last.and_then(|point| point.perplexity))
                .map(format::score),
        ),
        (
            "Parameters",
            run.summary_number("/parameters").map(format::count),
        ),
        (
            "Optimizer steps",
            run.summary_number("/steps")
                .or(run.last_step())
                .map(format::count),
        ),
        ("Tokens seen", tokens(run).map(format::count)),
        (
            "Tokens that counted for the loss",
            run.summary_number("/supervised_tokens").map(format::count),
        ),
        ("Tokens per second", speed(run).map(format::count)),
        ("Time", seconds(run).map(format::duration)),
    ];
    rows.into_iter()
        .filter_map(|(name, value)| {
            Some(Fact {
                name: name.into(),
                value: value?,
            })
        })
        .collect()
}

/// Samples by prompt; of many, a few spread evenly from first to last are shown openly.
pub(crate) fn samples(run: &Run) -> Vec<Prompt> {
    let mut prompts: Vec<(&str, Vec<&Sample>)> = Vec::new();
    for sample in &run.samples {
        match prompts
            .iter_mut()
            .find(|(prompt, _)| *prompt == sample.prompt)
        {
            Some((_, found)) => found.push(sample),
            None => prompts.push((&sample.prompt, vec![sample])),
        }
    }
    prompts
        .into_iter()
        .map(|(prompt, found)| prompt_samples(run, prompt, &found))
        .collect()
}

fn prompt_samples(run: &Run, prompt: &str, found: &[&Sample]) -> Prompt {
    let open: Vec<usize> = if found.len() <= SHOWN_SAMPLES {
        (0..found.len()).collect()
    } else {
        (0..SHOWN_SAMPLES)
            .map(|index| index * (found.len() - 1) / (SHOWN_SAMPLES - 1))
            .collect()
    };
    let (mut shown, mut folded) = (Vec::new(), Vec::new());
    for (index, sample) in found.iter().enumerate() {
        let (text, more) = format::clip(&sample.text, SAMPLE_CHARS);
        let remark = measured_at(run, sample.step)
            .map(|bits| format!("{} bits per byte", format::score(bits)));
        let step = format::count(sample.step);
        let entry = Text {
            step,
            remark: remark.unwrap_or_default(),
            text,
            more,
        };
        if open.contains(&index) {
            shown.push(entry)
        } else {
            folded.push(entry)
        }
    }
    Prompt {
        prompt: format::clip(prompt, SAMPLE_CHARS).0,
        shown,
        folded,
    }
}

/// Bits per byte measured at that very step.
fn measured_at(run: &Run, step: f64) -> Option<f64> {
    run.evals
        .iter()
        .find(|point| point.step == step)?
        .bits_per_byte
}
