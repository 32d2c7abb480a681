//! The small figures on how the optimizer and the machine behaved.

use anyhow::Result;

use crate::chart::{Chart, Curve, Mark, SMALL};
use crate::figures::{Figure, TRAIN, Words, curve, figure, segments};
use crate::format;
use crate::run::Run;
use crate::series::{self, Points};

/// The small figures on how the machine and the optimizer behaved.
pub(crate) fn mechanics(run: &Run) -> Result<Vec<Figure>> {
    let figures = [
        learning_rate(run)?,
        grad_norm(run)?,
        throughput(run)?,
        peak_share(run)?,
    ];
    Ok(figures.into_iter().flatten().collect())
}

fn learning_rate(run: &Run) -> Result<Option<Figure>> {
    let parts = segments(&run.train, |point| point.lr);
    let high = parts
        .iter()
        .flatten()
        .map(|point| point.1)
        .fold(0.0, f64::max);
    let caption = vec![format!(
        "How large a step the optimizer takes, at most {}. It usually rises at first and falls at the end, \
         so that the model settles.",
        format::rate(high)
    )];
    let chart = Chart {
        curves: vec![curve("learning rate", TRAIN, Mark::Line, parts)],
        from_zero: true,
        ..Chart::default()
    };
    figure(
        chart,
        Words {
            title: "Learning rate",
            unit: "",
            level: None,
            caption,
        },
        &[SMALL],
    )
}

fn grad_norm(run: &Run) -> Result<Option<Figure>> {
    let raw = segments(&run.train, |point| point.grad_norm);
    let values = || raw.iter().flatten().map(|point| point.1);
    let least = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(0.0, f64::max);
    let log = least > 0.0 && most / least > 20.0;
    let typical = series::median(values())
        .map(format::score)
        .unwrap_or_default();
    let caption = vec![format!(
        "How hard each batch pulled at the weights: typically {typical}, at most {}. Pale is every record, the full line \
         their average. A lone spike is an odd batch; a lasting rise means that training is coming apart.",
        format::score(most)
    )];
    // On a logarithmic axis the average is geometric, or one spike would lift its whole surroundings.
    let logs = |value: f64| if log { value.ln() } else { value };
    let back = |value: f64| if log { value.exp() } else { value };
    let smoothed = mapped(&series::smooth_all(&mapped(&raw, logs)), back);
    let unit = if log { "logarithmic" } else { "" };
    let chart = Chart {
        curves: pale_and_full(raw, smoothed),
        log,
        from_zero: !log,
        ..Chart::default()
    };
    figure(
        chart,
        Words {
            title: "Gradient norm",
            unit,
            level: None,
            caption,
        },
        &[SMALL],
    )
}

fn throughput(run: &Run) -> Result<Option<Figure>> {
    let raw = segments(&run.train, |point| point.tokens_per_second);
    let typical = series::median(raw.iter().flatten().map(|point| point.1)).unwrap_or_default();
    let caption = vec![format!(
        "Training text read per second: typically {} tokens. Dips are moments when the machine did something else.",
        format::count(typical)
    )];
    let smoothed = series::smooth_all(&raw);
    let chart = Chart {
        curves: pale_and_full(raw, smoothed),
        from_zero: true,
        ..Chart::default()
    };
    figure(
        chart,
        Words {
            title: "Throughput",
            unit: "tokens per second",
            level: None,
            caption,
        },
        &[SMALL],
    )
}

fn peak_share(run: &Run) -> Result<Option<Figure>> {
    let raw = segments(&run.train, |point| point.mfu);
    let typical = series::median(raw.iter().flatten().map(|point| point.1)).unwrap_or_default();
    let caption = vec![format!(
        "How much of the fastest matrix product measured on this machine the training reached: typically {}. \
         The rest goes to all other work, and to waiting.",
        format::percent(typical)
    )];
    let smoothed = series::smooth_all(&raw);
    let chart = Chart {
        curves: pale_and_full(raw, smoothed),
        from_zero: true,
        percent: true,
        ..Chart::default()
    };
    figure(
        chart,
        Words {
            title: "Share of peak",
            unit: "of matrix-product speed",
            level: None,
            caption,
        },
        &[SMALL],
    )
}

/// Every record, and the average over it.
fn pale_and_full(raw: Vec<Points>, smoothed: Vec<Points>) -> Vec<Curve> {
    vec![
        curve("each record", TRAIN, Mark::Raw, raw),
        curve("smoothed", TRAIN, Mark::Line, smoothed),
    ]
}

/// Changes every value of a series.
fn mapped(parts: &[Points], change: impl Fn(f64) -> f64) -> Vec<Points> {
    let part = |part: &Points| {
        part.iter()
            .map(|(step, value)| (*step, change(*value)))
            .collect()
    };
    parts.iter().map(part).collect()
}
