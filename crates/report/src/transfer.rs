//! The page of a transfer experiment: what pre-training was worth, out of `transfer.json` and `examples.jsonl`.

mod tables;

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::canvas::Ink;
use crate::chart::{Axis, Chart, Mark, NARROW, WIDE};
use crate::figures::{Figure, Words, curve, figure};
use crate::format;
use crate::metric::metric;
use crate::read;
use crate::run::{Note, number, text};
use crate::scores::{self, Score};
use crate::sections::Tile;
use tables::{CostRow, Forgetting, Row};

/// The two arms: their field and their name.
const ARMS: [(&str, &str); 2] = [
    ("pretrained", "from the pre-trained model"),
    ("scratch", "from scratch"),
];

/// Characters of a prompt and of an answer that the page shows.
const PROMPT_CHARS: usize = 500;
const ANSWER_CHARS: usize = 400;

/// The whole page.
#[derive(Debug, Serialize)]
pub(crate) struct TransferPage {
    name: String,
    task: String,
    test_examples: String,
    tiles: Vec<Tile>,
    /// One figure a metric.
    figures: Vec<Figure>,
    /// The answer in a sentence or two.
    conclusion: Vec<String>,
    effort: String,
    metric: String,
    rows: Vec<Row>,
    costs: Vec<CostRow>,
    cost_note: String,
    general: Option<Forgetting>,
    better: Vec<Card>,
    worse: Vec<Card>,
    share_shown: String,
    notes: Vec<Note>,
}

#[derive(Debug, Serialize)]
struct Card {
    id: String,
    prompt: String,
    reference: String,
    pretrained: String,
    scratch: String,
}

/// Whether the folder holds a finished transfer experiment.
pub(crate) fn is_transfer(dir: &Path) -> bool {
    dir.join("transfer.json").is_file()
}

/// Reads the folder and prepares its page.
pub(crate) fn page(dir: &Path) -> Result<TransferPage> {
    let mut notes = Vec::new();
    let found = read::json(dir, "transfer.json", &mut notes)?;
    let points = found.get("points").and_then(Value::as_array);
    let Some(points) = points.filter(|points| !points.is_empty()) else {
        bail!(
            "{}: holds no points of a transfer experiment; run `etude transfer` again to write it anew",
            dir.join("transfer.json").display()
        );
    };
    let main = text(&found, "/metric").unwrap_or("rouge_l").to_owned();
    let differing = differing(dir, &mut notes)?;
    Ok(TransferPage {
        name: read::folder_name(dir),
        task: text(&found, "/task").unwrap_or("the task").to_owned(),
        test_examples: number(&found, "/n").map(format::count).unwrap_or_default(),
        tiles: tiles(&found, points),
        figures: figures(&found, points, &main)?,
        conclusion: conclusion(&found, points, &main),
        effort: effort(&found),
        metric: metric(&main).label,
        rows: points
            .iter()
            .map(|point| tables::row(point, &main))
            .collect(),
        costs: tables::costs(&found),
        cost_note: tables::cost_note(&found),
        general: tables::forgetting(&found, &main),
        better: differing.better,
        worse: differing.worse,
        share_shown: differing.share.map(format::percent).unwrap_or_default(),
        notes,
    })
}

/// An arm's score in a metric at a point.
fn arm_score(point: &Value, arm: &str, key: &str) -> Option<Score> {
    scores::score(point.get(arm)?.get("scores")?.get(key)?)
}

fn tiles(found: &Value, points: &[Value]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if let Some(ratio) = number(found, "/data_ratio/value").filter(|ratio| *ratio > 0.0) {
        let sign = match flag(&found["data_ratio"], "at_least") {
            true => "≥ ",
            false => "",
        };
        tiles.push(Tile {
            value: format!("{sign}{}×", times(ratio)),
            label: "less data".into(),
            remark:
                "that the pre-trained model needs for the score that the other reaches with all"
                    .into(),
        });
    }
    let last = points.last().unwrap_or(&Value::Null);
    if let Some(examples) = number(last, "/examples") {
        tiles.push(Tile {
            value: format::count(examples),
            label: "training examples".into(),
            remark: "that is all of them".into(),
        });
    }
    if let Some(parameters) = number(last, "/pretrained/parameters") {
        tiles.push(Tile {
            value: format::short(parameters),
            label: "parameters".into(),
            remark: "of the pre-trained model".into(),
        });
    }
    let runs = ["finetunings", "scratch"]
        .iter()
        .filter_map(|name| number(found, &format!("/compute/{name}/runs")))
        .sum();
    tiles.push(Tile {
        value: format::count(runs),
        label: "training runs".into(),
        remark: "those that tried learning rates included".into(),
    });
    tiles
}

/// A ratio in words: one decimal below 10.
fn times(ratio: f64) -> String {
    if ratio < 10.0 {
        format!("{ratio:.1}")
    } else {
        format::count(ratio.round())
    }
}

/// Score against amount of data, a chart for each metric, the main one first.
fn figures(found: &Value, points: &[Value], main: &str) -> Result<Vec<Figure>> {
    let scored = points[0]
        .pointer("/pretrained/scores")
        .and_then(Value::as_object);
    let mut keys: Vec<&str> = scored
        .into_iter()
        .flat_map(|all| all.keys().map(String::as_str))
        .collect();
    keys.sort_by_key(|key| *key != main);
    let mut figures = Vec::new();
    for key in keys {
        let known = metric(key);
        let curves = ARMS.iter().enumerate().map(|(index, (arm, name))| {
            let at = |point: &Value| Some((number(point, "/share")?, arm_score(point, arm, key)?));
            let found: Vec<(f64, Score)> = points.iter().filter_map(at).collect();
            let line = found
                .iter()
                .map(|(share, score)| (*share, score.value))
                .collect();
            let mut drawn = curve(name, Ink::Series(index as u8), Mark::Dots, vec![line]);
            // Side by side, where the two would hide each other.
            let aside = if index == 0 { 0.98 } else { 1.02 };
            drawn.bars = (found.iter())
                .filter_map(|(share, score)| {
                    let (low, high) = score.interval?;
                    Some((share * aside, low, high))
                })
                .collect();
            drawn
        });
        let base = found
            .pointer(&format!("/base/{key}"))
            .and_then(scores::score);
        let way = if known.higher_is_better {
            "Higher"
        } else {
            "Lower"
        };
        let chart = Chart {
            curves: curves.collect(),
            axis: Axis::Share,
            level: base.map(|score| score.value),
            ..Chart::default()
        };
        let words = Words {
            title: &format!("{} by amount of data", known.label),
            unit: "",
            level: base.map(|score| {
                format!(
                    "the pre-trained model before fine-tuning: {}",
                    format::score(score.value)
                )
            }),
            caption: vec![
                known.meaning.to_owned(),
                format!("{way} is better. The bars are 95% intervals over the test examples."),
            ],
        };
        figures.extend(figure(chart, words, &[WIDE, NARROW])?);
    }
    Ok(figures)
}

/// How much less data one side needs.
struct RatioWords {
    value: f64,
    at_least: bool,
    fewer: String,
    interval: String,
}

impl RatioWords {
    /// 0 stands for a score that was not reached with all examples: less than 1.
    fn of(ratio: &Value) -> Option<Self> {
        let part = |key: &str| ratio.get(key).and_then(Value::as_f64);
        let (value, low, high) = (part("value")?, part("low")?, part("high")?);
        let at_least = flag(ratio, "at_least");
        let end = |end: f64| match end {
            0.0 => "below 1".to_owned(),
            end => times(end),
        };
        let more = match flag(ratio, "high_at_least") && high > 0.0 {
            true => " or more",
            false => "",
        };
        Some(Self {
            value,
            at_least,
            fewer: format!(
                "{}{} times fewer",
                if at_least { "at least " } else { "" },
                times(value)
            ),
            interval: format!("{} to {}{more}", end(low), end(high)),
        })
    }
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// How much each side trained, as far as the file tells.
fn effort(found: &Value) -> String {
    let of = |key: &str, side: usize| number(found, &format!("/{key}/{side}"));
    let side = |side| Some((of("steps", side)?, of("batch_rows", side)?));
    let told = |(steps, rows): (f64, f64)| {
        format!("{} steps of {}", format::count(steps), format::count(rows))
    };
    match (side(0), side(1)) {
        (Some(a), Some(b)) if a == b => {
            format!("Both sides take {} of the same examples.", told(a))
        }
        (Some(a), Some(b)) => format!(
            "Both sides learn from the same examples, the pre-trained model in {}, the other in {}.",
            told(a),
            told(b)
        ),
        _ => "Both sides learn from the same examples.".to_owned(),
    }
}

fn conclusion(found: &Value, points: &[Value], main: &str) -> Vec<String> {
    let label = metric(main).label;
    let mut out = Vec::new();
    let last = points.last().unwrap_or(&Value::Null);
    let target = arm_score(last, "scratch", main).map(|score| format::score(score.value));
    let ratio = found.get("data_ratio").and_then(RatioWords::of);
    match target.zip(ratio) {
        Some((target, ratio)) if ratio.value <= 0.0 => out.push(format!(
            "With all examples the model from scratch reaches {target} in {label}. The pre-trained one does not get there (95% interval of how many times fewer examples it needs: {}).",
            ratio.interval
        )),
        Some((target, ratio)) => out.push(format!(
            "With all examples the model from scratch reaches {target} in {label}. The pre-trained one gets there with {} (95% interval: {}).{}",
            ratio.fewer,
            ratio.interval,
            match ratio.at_least {
                true => " The smallest amount that was tried was enough already, so the true figure may be larger.",
                false => "",
            }
        )),
        None if points.len() < 2 => out.push("Only one amount of data was tried, so amounts are not compared.".to_owned()),
        None => out.push(format!(
            "In {label} there is no amount of data to compare: more of it does not help the model from scratch by more than chance, or the metric does not tell what was learnt."
        )),
    }
    let others = found.pointer("/data_ratios").and_then(Value::as_object);
    let others: Vec<String> = (others.into_iter().flatten())
        .filter(|(name, _)| *name != main)
        .filter_map(|(name, ratio)| {
            let (ratio, label) = (RatioWords::of(ratio)?, metric(name).label);
            Some(match ratio.value > 0.0 {
                true => format!("{label} {} ({})", ratio.fewer, ratio.interval),
                false => format!("{label} not reached"),
            })
        })
        .collect();
    if !others.is_empty() {
        out.push(format!("By the other metrics: {}.", others.join(", ")));
    }
    let wins = points
        .iter()
        .filter(|point| verdict(point, main).1 == "better")
        .count();
    out.push(format!(
        "At {wins} of the {} amounts of data the pre-trained model is better by more than chance explains.",
        points.len()
    ));
    out
}

/// Whether the pre-trained model's lead at a point is more than chance.
fn verdict(point: &Value, main: &str) -> (&'static str, &'static str) {
    let difference = point
        .get("differences")
        .and_then(|all| scores::score(all.get(main)?));
    let Some(score) = difference.filter(|score| score.interval.is_some()) else {
        return ("not compared", "open");
    };
    match (
        score.is_more_than_chance(),
        (score.value > 0.0) == metric(main).higher_is_better,
    ) {
        (false, _) => ("could be chance", "open"),
        (true, true) => ("clearly better", "better"),
        (true, false) => ("clearly worse", "worse"),
    }
}

/// The examples in which the two arms differ.
#[derive(Default)]
struct Differing {
    /// In the pre-trained model's favour.
    better: Vec<Card>,
    /// In the other's.
    worse: Vec<Card>,
    /// The share of the examples that both had learnt from.
    share: Option<f64>,
}

fn differing(dir: &Path, notes: &mut Vec<Note>) -> Result<Differing> {
    let mut found = Differing::default();
    read::lines(dir, "examples.jsonl", notes, |value| {
        let field = |name: &str, most: usize| {
            format::clip(text(value, name).unwrap_or_default().trim(), most).0
        };
        if text(value, "/reference").is_none() {
            return Err("has no \"reference\"".into());
        }
        found.share = found.share.or_else(|| number(value, "/share"));
        let side = match text(value, "/better") {
            Some("pretrained") => &mut found.better,
            _ => &mut found.worse,
        };
        side.push(Card {
            id: field("/id", 80),
            prompt: field("/prompt", PROMPT_CHARS),
            reference: field("/reference", ANSWER_CHARS),
            pretrained: field("/pretrained", ANSWER_CHARS),
            scratch: field("/scratch", ANSWER_CHARS),
        });
        Ok(())
    })?;
    Ok(found)
}
