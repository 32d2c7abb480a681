//! The tables of a transfer experiment's page: both arms in numbers, the cost, and what was forgotten.

use serde::Serialize;
use serde_json::Value;

use super::{ARMS, arm_score, times, verdict};
use crate::format;
use crate::run::{number, text};
use crate::scores;

/// Both arms at one amount of data.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) examples: String,
    pub(super) share: String,
    /// Score, interval, each seed's score, rates' factor, best steps: of either arm.
    pub(super) arms: Vec<[String; 5]>,
    pub(super) difference: String,
    pub(super) interval: String,
    /// Of a test of no difference.
    pub(super) p: String,
    pub(super) verdict: &'static str,
    pub(super) kind: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct CostRow {
    pub(super) what: &'static str,
    pub(super) cells: [String; 4],
}

/// The ways of fine-tuning, and what each forgot.
#[derive(Debug, Serialize)]
pub(super) struct Forgetting {
    pub(super) text: String,
    pub(super) before: String,
    pub(super) rows: Vec<[String; 5]>,
}

/// A point as a row of the table.
pub(super) fn row(point: &Value, main: &str) -> Row {
    let list = |place: String| -> Vec<f64> {
        let values = point.pointer(&place).and_then(Value::as_array);
        values
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect()
    };
    let arm = |name: &str| {
        let score = arm_score(point, name, main);
        let seeds = list(format!("/{name}/seeds"))
            .into_iter()
            .map(format::score);
        let steps = list(format!("/{name}/best_steps"))
            .into_iter()
            .map(format::count);
        [
            score
                .map(|score| format::score(score.value))
                .unwrap_or_default(),
            score
                .map(|score| scores::interval(&score))
                .unwrap_or_default(),
            seeds.collect::<Vec<_>>().join(", "),
            number(point, &format!("/{name}/rate"))
                .map(format::rate)
                .unwrap_or_default(),
            steps.collect::<Vec<_>>().join(", "),
        ]
    };
    let difference = point
        .get("differences")
        .and_then(|all| scores::score(all.get(main)?));
    let interval = difference.and_then(|score| score.interval);
    let (verdict, kind) = verdict(point, main);
    Row {
        examples: number(point, "/examples")
            .map(format::count)
            .unwrap_or_default(),
        share: number(point, "/share")
            .map(format::percent)
            .unwrap_or_default(),
        arms: ARMS.iter().map(|(name, _)| arm(name)).collect(),
        difference: difference
            .map(|score| format::signed(score.value))
            .unwrap_or_default(),
        interval: interval
            .map(|(low, high)| format!("{} to {}", format::signed(low), format::signed(high)))
            .unwrap_or_default(),
        p: difference
            .and_then(|score| score.p)
            .map(format::p)
            .unwrap_or_default(),
        verdict,
        kind,
    }
}

/// The work of training.
pub(super) fn costs(found: &Value) -> Vec<CostRow> {
    let rows = [
        ("pretraining", "Pre-training, once"),
        ("finetuning", "One fine-tuning on all examples"),
        ("finetunings", "All fine-tunings of this page"),
        ("scratch", "All runs from scratch"),
    ];
    rows.into_iter()
        .filter_map(|(field, what)| {
            let cost = found
                .pointer(&format!("/compute/{field}"))
                .filter(|cost| cost.is_object())?;
            let shown = |place: &str, show: fn(f64) -> String| {
                number(cost, place).map(show).unwrap_or_default()
            };
            Some(CostRow {
                what,
                cells: [
                    shown("/runs", format::count),
                    shown("/tokens", format::short),
                    shown("/seconds", format::duration),
                    shown("/flops", operations),
                ],
            })
        })
        .collect()
}

/// Floating-point operations in powers of ten.
fn operations(flops: f64) -> String {
    if flops <= 0.0 {
        return "–".into();
    }
    let power = flops.log10().floor();
    format!("{:.1} · 10^{power}", flops / 10f64.powf(power))
}

/// What that says.
pub(super) fn cost_note(found: &Value) -> String {
    let flops = |name: &str| number(found, &format!("/compute/{name}/flops"));
    match (flops("pretraining"), flops("finetuning")) {
        (Some(base), Some(one)) if one > 0.0 => format!(
            "Pre-training took {} times the operations of one fine-tuning. It is paid once, and every task after it starts from the same base model.",
            times(base / one)
        ),
        _ => "The base model came ready made: what its pre-training cost, its makers paid, once for all tasks.".into(),
    }
}

/// What each way of fine-tuning learnt and forgot; nothing where that was not measured.
pub(super) fn forgetting(found: &Value, main: &str) -> Option<Forgetting> {
    let before = number(found, "/general_before")?;
    let variants = found.get("variants")?.as_array()?;
    let row = |variant: &Value| {
        let score = variant
            .get("scores")
            .and_then(|all| scores::score(all.get(main)?));
        let general = number(variant, "/general");
        [
            text(variant, "/name").unwrap_or("unnamed").to_owned(),
            score
                .map(|score| format::score(score.value))
                .unwrap_or_default(),
            score
                .map(|score| scores::interval(&score))
                .unwrap_or_default(),
            general.map(format::score).unwrap_or_default(),
            general
                .map(|bits| format::signed(bits - before))
                .unwrap_or_default(),
        ]
    };
    Some(Forgetting {
        text: text(found, "/general").unwrap_or("general text").to_owned(),
        before: format::score(before),
        rows: variants.iter().map(row).collect(),
    })
}
