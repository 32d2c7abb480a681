//! Which charts a run gets, and the captions that say what to see in them.

use anyhow::Result;
use serde::Serialize;

use crate::canvas::Ink;
use crate::chart::{Chart, Curve, Drawing, Mark, NARROW, Size, WIDE};
use crate::format;
use crate::run::{Run, Stage, TrainPoint};
use crate::series::{self, Points};

pub(crate) const TRAIN: Ink = Ink::Series(0);
const VALIDATION: Ink = Ink::Series(1);

/// One figure of the page.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) title: String,
    /// What the value axis counts.
    pub(crate) unit: String,
    /// What the horizontal axis holds.
    pub(crate) axis: &'static str,
    pub(crate) legend: Vec<Key>,
    /// Sentences under the chart.
    pub(crate) caption: Vec<String>,
    /// The curves in words, for those who do not see them.
    pub(crate) description: String,
    pub(crate) drawings: Vec<Drawing>,
}

/// One entry of a legend.
#[derive(Debug, Serialize)]
pub(crate) struct Key {
    pub(crate) ink: char,
    pub(crate) mark: &'static str,
    pub(crate) name: String,
}

/// The text that goes with a chart.
pub(crate) struct Words<'a> {
    pub(crate) title: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) level: Option<String>,
    pub(crate) caption: Vec<String>,
}

/// Loss over the steps: each step, smoothed, and on validation text.
pub(crate) fn loss(run: &Run) -> Result<Option<Figure>> {
    let raw = segments(&run.train, |point| point.loss);
    let measured: usize = raw.iter().map(Vec::len).sum();
    let half = series::smoothing(measured);
    let of_one_text = run
        .evals
        .iter()
        .map(|point| (point.step, point.part_loss.or(point.loss)));
    let validation = series::segments(of_one_text);
    let smoothed = series::smooth_all(&raw);
    let mut caption = Vec::new();
    if let (Some(first), Some(last)) = (ends(&smoothed).0, ends(&smoothed).1) {
        caption.push(format!(
            "Loss is the model's surprise at the right next token, in nats; lower is better. \
             In training it went from {} to {}.",
            format::score(first),
            format::score(last)
        ));
        caption.push(format!(
            "The pale line is every logged batch, which are never equally hard; the full line is their average over {} \
             neighbouring records.",
            2 * half + 1
        ));
    }
    caption.extend(overfitting(&validation));
    let vocab = run.data_number("/vocab_size").filter(|size| *size > 1.0);
    let pretrain = run.stage() != Stage::Finetune;
    let level = vocab.filter(|_| pretrain).map(f64::ln);
    let level_name = vocab.map(|size| {
        format!(
            "pure guessing among {} tokens: {}",
            format::count(size),
            format::score(size.ln())
        )
    });
    let mut curves = vec![
        curve("training, each record", TRAIN, Mark::Raw, raw),
        curve("training, smoothed", TRAIN, Mark::Line, smoothed),
    ];
    curves.push(curve("validation", VALIDATION, Mark::Dots, validation));
    let chart = Chart {
        curves,
        level,
        ..Chart::default()
    };
    let words = Words {
        title: "Loss",
        unit: "nats per token",
        level: level_name.filter(|_| level.is_some()),
        caption,
    };
    figure(chart, words, &[WIDE, NARROW])
}

/// Bits per byte on the validation text.
pub(crate) fn bits_per_byte(run: &Run) -> Result<Option<Figure>> {
    let validation = series::segments(
        run.evals
            .iter()
            .map(|point| (point.step, point.bits_per_byte)),
    );
    let mut caption = vec![
        "How many bits the model needs for each byte of text it has never seen; lower is better. Unlike \
         the loss it does not depend on the tokenizer, so different models can be compared by it."
            .to_owned(),
    ];
    if let Some(last) = ends(&validation).1 {
        caption.push(format!(
            "A guesser who knows nothing needs 8. At {} the model would store the validation text in {} of its size.",
            format::score(last),
            format::percent(last / 8.0)
        ));
    }
    let chart = Chart {
        curves: vec![curve("validation", VALIDATION, Mark::Dots, validation)],
        ..Chart::default()
    };
    figure(
        chart,
        Words {
            title: "Bits per byte",
            unit: "on validation text",
            level: None,
            caption,
        },
        &[WIDE, NARROW],
    )
}

/// What the course of the validation loss says about memorizing.
fn overfitting(validation: &[Points]) -> Option<String> {
    let last = *validation.last()?.last()?;
    let best = *validation
        .iter()
        .flatten()
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    let points: usize = validation.iter().map(Vec::len).sum();
    if points < 3 {
        return Some(format!(
            "On text the model never trained on it stands at {}.",
            format::score(last.1)
        ));
    }
    Some(if last.1 > best.1 * 1.01 {
        format!(
            "On text the model never trained on it was best at step {} ({}) and rose to {} since: from there on the \
             model learnt its training text by heart.",
            format::count(best.0),
            format::score(best.1),
            format::score(last.1)
        )
    } else {
        format!(
            "On text the model never trained on it stands at {}, at or near its best: what the model learnt carries over.",
            format::score(last.1)
        )
    })
}

pub(crate) fn segments(
    train: &[TrainPoint],
    value: impl Fn(&TrainPoint) -> Option<f64>,
) -> Vec<Points> {
    let recorded = train.iter().any(|point| value(point).is_some());
    if !recorded {
        return Vec::new();
    }
    series::segments(train.iter().map(|point| (point.step, value(point))))
}

fn ends(parts: &[Points]) -> (Option<f64>, Option<f64>) {
    let first = parts
        .first()
        .and_then(|part| part.first())
        .map(|point| point.1);
    (
        first,
        parts
            .last()
            .and_then(|part| part.last())
            .map(|point| point.1),
    )
}

pub(crate) fn curve(name: &str, ink: Ink, mark: Mark, segments: Vec<Points>) -> Curve {
    Curve {
        name: name.to_owned(),
        ink,
        mark,
        segments,
        bars: Vec::new(),
    }
}

/// Draws a chart in each size, `None` when it would be empty.
pub(crate) fn figure(mut chart: Chart, words: Words<'_>, sizes: &[Size]) -> Result<Option<Figure>> {
    chart.curves.retain(|curve| !curve.segments.is_empty());
    if chart.is_empty() {
        return Ok(None);
    }
    let mut caption = words.caption;
    let top = chart.ranges().y.1;
    let all = || {
        chart
            .curves
            .iter()
            .flat_map(|curve| curve.segments.iter().flatten())
    };
    let above = all().filter(|point| point.1 > top).count();
    if let Some(most) = all()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .filter(|_| above > 0)
    {
        caption.push(format!(
            "{} above the chart, up to {} at step {}; drawn on its upper edge.",
            if above == 1 {
                "One point lies".into()
            } else {
                format!("{above} points lie")
            },
            format::score(most.1),
            format::count(most.0)
        ));
    }
    let mut legend: Vec<Key> = chart
        .curves
        .iter()
        .map(|curve| Key {
            ink: curve.ink.letter(),
            mark: match curve.mark {
                Mark::Raw => "raw",
                Mark::Line => "line",
                Mark::Dots => "dots",
            },
            name: curve.name.clone(),
        })
        .collect();
    legend.extend(words.level.map(|name| Key {
        ink: Ink::Level.letter(),
        mark: "level",
        name,
    }));
    // Small charts have no room; their captions say it.
    if legend.len() == 1 || sizes.len() == 1 {
        legend.clear();
    }
    let drawings = sizes
        .iter()
        .map(|size| chart.draw(*size))
        .collect::<Result<_>>()?;
    Ok(Some(Figure {
        description: describe(&chart),
        title: words.title.to_owned(),
        unit: words.unit.to_owned(),
        axis: chart.axis.name(),
        legend,
        caption,
        drawings,
    }))
}

fn describe(chart: &Chart) -> String {
    let shown = |value: f64| match chart.percent {
        true => format::percent(value),
        false if value != 0.0 && value.abs() < 0.1 => format::rate(value),
        false => format::score(value),
    };
    let mut out = Vec::new();
    for curve in chart.curves.iter().filter(|curve| curve.mark != Mark::Raw) {
        let Some(first) = curve.segments.first().and_then(|part| part.first()) else {
            continue;
        };
        let Some(last) = curve.segments.last().and_then(|part| part.last()) else {
            continue;
        };
        out.push(format!(
            "{}: {} at {}, {} at {}.",
            curve.name,
            shown(first.1),
            chart.axis.value(first.0),
            shown(last.1),
            chart.axis.value(last.0)
        ));
    }
    out.join(" ")
}
