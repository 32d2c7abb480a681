//! What the model could do at each checkpoint: `probes.json`, which `etude eval --checkpoints` leaves in a run.
//!
//! `{"scores": {TASK: {"metric", "chance", "steps": [{"step", "value", "low", "high", "parts": {NAME: {…}}}]}},
//! "next": {PROMPT: [{"step", "tokens": [{"text", "probability"}]}]}}`

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::canvas::{Ink, SERIES};
use crate::chart::{Chart, Mark, NARROW, WIDE};
use crate::figures::{Figure, Words, curve, figure};
use crate::format;
use crate::metric::metric;
use crate::run::{Run, number, text};
use crate::scores::score;
use crate::series;

/// Steps of which the likeliest next tokens are shown, spread evenly.
const SHOWN_STEPS: usize = 8;

/// What the model would have said next after a text, over the steps.
#[derive(Debug, Serialize)]
pub(crate) struct Next {
    pub(crate) prompt: String,
    pub(crate) rows: Vec<NextRow>,
}

/// The likeliest tokens at one step.
#[derive(Debug, Serialize)]
pub(crate) struct NextRow {
    pub(crate) step: String,
    pub(crate) tokens: Vec<NextToken>,
}

/// A token with its probability.
#[derive(Debug, Serialize)]
pub(crate) struct NextToken {
    pub(crate) text: String,
    pub(crate) probability: String,
}

/// A figure for each task, with a curve for the whole and one for each of its parts.
pub(crate) fn figures(run: &Run) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, found) in members(&run.probes, "scores") {
        figures.extend(task(name, found)?);
    }
    Ok(figures)
}

fn task(name: &str, found: &Value) -> Result<Option<Figure>> {
    let steps = list(found, "steps");
    let points = |of: &dyn Fn(&Value) -> Option<f64>| {
        series::segments(
            steps
                .iter()
                .filter_map(|at| Some((number(at, "/step")?, of(at)))),
        )
    };
    let value = |at: Option<&Value>| at.and_then(score).map(|score| score.value);
    let mut parts: Vec<&str> = Vec::new();
    for part in steps.iter().flat_map(|at| members(at, "parts")) {
        if !parts.contains(&part.0) && parts.len() + 1 < SERIES {
            parts.push(part.0);
        }
    }
    let mut whole = curve(
        "all",
        Ink::Series(0),
        Mark::Dots,
        points(&|at| value(Some(at))),
    );
    if parts.is_empty() {
        let bars = steps.iter().filter_map(|at| {
            let (low, high) = score(at)?.interval?;
            Some((number(at, "/step")?, low, high))
        });
        whole.bars = bars.collect();
    }
    let mut curves = vec![whole];
    curves.extend(parts.iter().zip(1u8..).map(|(part, ink)| {
        let of_part = |at: &Value| value(at.get("parts").and_then(|parts| parts.get(*part)));
        curve(part, Ink::Series(ink), Mark::Line, points(&of_part))
    }));
    let measured = text(found, "/metric").unwrap_or("score");
    let chance = number(found, "/chance");
    let guessing = chance.map(|chance| format!("guessing: {}", format::score(chance)));
    let mut caption = vec![match measured {
        "acc" => {
            "Share of the items in which the model finds the right choice likeliest.".to_owned()
        }
        other => metric(other).meaning.to_owned(),
    }];
    let ends = (steps.first().and_then(score), steps.last().and_then(score));
    if let (Some(first), Some(last)) = ends
        && steps.len() > 1
    {
        let (first, last) = (format::score(first.value), format::score(last.value));
        caption.push(format!("Over the run it went from {first} to {last}."));
    }
    let chart = Chart {
        curves,
        level: chance,
        ..Chart::default()
    };
    let words = Words {
        title: name,
        unit: if measured == "acc" {
            "accuracy"
        } else {
            measured
        },
        level: guessing,
        caption: caption
            .into_iter()
            .filter(|line| !line.is_empty())
            .collect(),
    };
    figure(chart, words, &[WIDE, NARROW])
}

/// The likeliest next tokens, a table a prompt.
pub(crate) fn next(run: &Run) -> Vec<Next> {
    let table = |(prompt, steps): (&str, &Value)| {
        let steps = steps.as_array().map_or(&[][..], Vec::as_slice);
        let shown = steps.len().min(SHOWN_STEPS);
        let spread = |n: usize| n * (steps.len() - 1) / (shown - 1).max(1);
        let rows = (0..shown).filter_map(|n| row(&steps[spread(n)]));
        Next {
            prompt: prompt.to_owned(),
            rows: rows.collect(),
        }
    };
    let tables = members(&run.probes, "next").map(table);
    tables.filter(|next| !next.rows.is_empty()).collect()
}

fn row(at: &Value) -> Option<NextRow> {
    let tokens = list(at, "tokens").iter().filter_map(|token| {
        Some(NextToken {
            text: text(token, "/text")?.to_owned(),
            probability: format::percent(number(token, "/probability")?),
        })
    });
    Some(NextRow {
        step: format::count(number(at, "/step")?),
        tokens: tokens.collect(),
    })
}

fn members<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let object = value.get(name).and_then(Value::as_object);
    let members = object.into_iter().flatten();
    members.map(|(name, value)| (name.as_str(), value))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let found = value.get(name).and_then(Value::as_array);
    found.map_or(&[], Vec::as_slice)
}
