//! Forecast beside fact: what `forecast.json` said of a run, and what came, from `forecast` of `summary.json`.

use serde::Serialize;
use serde_json::Value;

use crate::format;
use crate::run::{Run, number, text};

/// The table; empty when the run had no forecast.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    /// How the forecast was made.
    pub(crate) made_by: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) forecast: String,
    pub(crate) fact: String,
    /// The fact against the forecast, in percent; where there is an interval, whether it was inside.
    pub(crate) difference: String,
}

pub(crate) fn table(run: &Run) -> Table {
    let Some(found) = run.summary.get("forecast") else {
        return Table::default();
    };
    let rows = [
        row(found, "Time of training", "/seconds", format::duration),
        row(found, "Peak memory", "/peak_memory", format::bytes),
        row(
            found,
            "Checkpoints and result on disk",
            "/disk",
            format::bytes,
        ),
        loss(found),
    ];
    Table {
        made_by: match text(found, "/made_by") {
            Some("plan") => "by etude plan, before the run",
            _ => "by the run itself, from its first steps",
        },
        rows: rows.into_iter().flatten().collect(),
    }
}

fn row(found: &Value, name: &'static str, place: &str, show: fn(f64) -> String) -> Option<Row> {
    let forecast = number(found, &format!("{place}/forecast"))?;
    let fact = number(found, &format!("{place}/fact"))?;
    Some(Row {
        name,
        forecast: show(forecast),
        fact: show(fact),
        difference: if forecast > 0.0 {
            let share = format::percent(fact / forecast - 1.0);
            let sign = if fact >= forecast { "+" } else { "" };
            format!("{sign}{share}")
        } else {
            String::new()
        },
    })
}

fn loss(found: &Value) -> Option<Row> {
    let get = |key: &str| number(found, &format!("/validation_loss/{key}"));
    let (value, low, high, fact) = (get("value")?, get("low")?, get("high")?, get("fact")?);
    let [value, from, to] = [value, low, high].map(format::score);
    let where_it_fell = match fact {
        fact if fact < low => "below the interval",
        fact if fact > high => "above the interval",
        _ => "inside the interval",
    };
    Some(Row {
        name: "Validation loss, nats per token",
        forecast: format!("{value} ({from} to {to})"),
        fact: format::score(fact),
        difference: where_it_fell.to_owned(),
    })
}
