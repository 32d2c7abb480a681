//! Figures that put the curves of several runs into one chart.

use anyhow::Result;

use crate::canvas::{Ink, SERIES};
use crate::chart::{Chart, Mark, NARROW, WIDE};
use crate::figures::{Figure, Words, curve, figure, segments};
use crate::run::{EvalPoint, Run};
use crate::series;

/// The validation curves of several runs in one chart; `by_byte` chooses bits per byte over loss.
pub(crate) fn validation(
    runs: &[(String, &Run)],
    by_byte: bool,
    caption: Vec<String>,
) -> Result<Option<Figure>> {
    let value = |point: &EvalPoint| {
        if by_byte {
            point.bits_per_byte
        } else {
            point.loss
        }
    };
    let curves = runs.iter().enumerate().map(|(index, (name, run))| {
        let parts = series::segments(run.evals.iter().map(|point| (point.step, value(point))));
        curve(name, Ink::Series((index % SERIES) as u8), Mark::Dots, parts)
    });
    let (title, unit) = if by_byte {
        ("Bits per byte on validation text", "bits")
    } else {
        ("Validation loss", "nats per token")
    };
    figure(
        Chart {
            curves: curves.collect(),
            ..Chart::default()
        },
        Words {
            title,
            unit,
            level: None,
            caption,
        },
        &[WIDE, NARROW],
    )
}

/// The smoothed training curves of several runs in one chart.
pub(crate) fn training(runs: &[(String, &Run)], caption: Vec<String>) -> Result<Option<Figure>> {
    let curves = runs.iter().enumerate().map(|(index, (name, run))| {
        let parts = segments(&run.train, |point| point.loss);
        let parts = series::smooth_all(&parts);
        curve(name, Ink::Series((index % SERIES) as u8), Mark::Line, parts)
    });
    let words = Words {
        title: "Training loss, smoothed",
        unit: "nats per token",
        level: None,
        caption,
    };
    figure(
        Chart {
            curves: curves.collect(),
            ..Chart::default()
        },
        words,
        &[WIDE, NARROW],
    )
}
