//! One line chart: its curves, the ranges of its axes, and its drawing in the sizes of the page.
//! How lines and numbers become SVG is in `canvas`.

use anyhow::Result;
use plotters::prelude::*;
use serde::Serialize;

use crate::canvas::{Canvas, DIGIT, Frame, Ink, SCALE, failed, themed};
use crate::format;
use crate::series::{self, Points};
use crate::ticks;

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// Thin and pale: every measurement.
    Raw,
    /// A full line.
    Line,
    /// A line with a circle at each measurement.
    Dots,
}

/// What lies on the horizontal axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Axis {
    /// Optimizer steps, from left to right at even distances.
    #[default]
    Steps,
    /// A share of something, on a logarithmic scale, in percent.
    Share,
}

impl Axis {
    /// What the page writes below it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steps => "optimizer step",
            Self::Share => "share of the training examples",
        }
    }

    /// A value of it in words.
    pub(crate) fn value(self, value: f64) -> String {
        match self {
            Self::Steps => format!("step {}", format::count(value)),
            Self::Share => format!("{} of the examples", format::percent(value)),
        }
    }

    /// A value's place on the axis, before it is scaled to the drawing.
    pub(crate) fn place(self, value: f64) -> f64 {
        match self {
            Self::Steps => value,
            Self::Share => value.log10(),
        }
    }
}

/// One curve; it has several segments where measurements are missing.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) ink: Ink,
    pub(crate) mark: Mark,
    pub(crate) segments: Vec<Points>,
    /// Upright bars: where, and from which value to which.
    pub(crate) bars: Vec<(f64, f64, f64)>,
}

/// What to draw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chart {
    pub(crate) curves: Vec<Curve>,
    /// A level to compare with, as a dashed line.
    pub(crate) level: Option<f64>,
    /// Logarithmic values; only where all are positive.
    pub(crate) log: bool,
    /// The value axis starts at zero.
    pub(crate) from_zero: bool,
    /// Values are shares, shown in percent.
    pub(crate) percent: bool,
    /// What the horizontal axis holds.
    pub(crate) axis: Axis,
}

/// How large a drawing is on the page, in pixels at full width.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) class: &'static str,
    width: i32,
    height: i32,
    kept: usize,
}

/// A drawing for the full column.
pub(crate) const WIDE: Size = Size {
    class: "wide",
    width: 720,
    height: 300,
    kept: series::KEPT,
};
/// The same chart for a phone: as tall, half as wide, its numbers as large.
pub(crate) const NARROW: Size = Size {
    class: "narrow",
    width: 352,
    height: 250,
    kept: 400,
};
/// One of two in a row, or the full width of a phone.
pub(crate) const SMALL: Size = Size {
    class: "small",
    width: 352,
    height: 190,
    kept: 500,
};

/// A finished drawing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Drawing {
    pub(crate) class: &'static str,
    pub(crate) width: i32,
    pub(crate) height: i32,
    /// SVG elements: markup of our own, holding nothing from the run but numbers.
    pub(crate) inner: String,
    pub(crate) readout: Readout,
}

/// How the read-out script turns positions back into values: `[value, value, unit, unit]`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Readout {
    pub(crate) x: [f64; 4],
    pub(crate) y: [f64; 4],
    pub(crate) log: bool,
    pub(crate) percent: bool,
    /// Whether the horizontal axis is a share on a logarithmic scale.
    pub(crate) share: bool,
    pub(crate) curves: Vec<(char, String)>,
}

/// The ranges of both axes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ranges {
    pub(crate) x: (f64, f64),
    pub(crate) y: (f64, f64),
}

impl Chart {
    fn points(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.curves
            .iter()
            .flat_map(|curve| curve.segments.iter().flatten().copied())
    }

    /// Whether there is anything to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.points().next().is_none()
    }

    /// The axes: all points, except that a rare spike far above the rest does not flatten them.
    pub(crate) fn ranges(&self) -> Ranges {
        let bound = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let x = bound(&mut self.points().map(|point| point.0));
        let (mut low, mut high) = bound(&mut self.points().map(|point| point.1));
        let spread = |(low, high): (f64, f64)| match self.axis {
            Axis::Steps => spread((low, high)),
            // Room beside the outermost points, for their bars.
            Axis::Share => (low / 1.15, high * 1.15),
        };
        if !self.log
            && let Some(usual) = series::quantile(self.points().map(|point| point.1), 0.995)
        {
            let other = self.curves.iter().filter(|curve| curve.mark != Mark::Raw);
            let kept = bound(
                &mut other.flat_map(|curve| curve.segments.iter().flatten().map(|point| point.1)),
            );
            if high - low > 3.0 * (usual - low) && usual > low {
                high = usual.max(kept.1);
            }
        }
        let bars = self.curves.iter().flat_map(|curve| &curve.bars);
        let (bottom, top) = bound(&mut bars.flat_map(|bar| [bar.1, bar.2]));
        (low, high) = (low.min(bottom), high.max(top));
        if let Some(level) = self.level {
            (low, high) = (low.min(level), high.max(level));
        }
        if self.from_zero {
            low = low.min(0.0);
        }
        if self.log {
            let (low, high) = (low.log10(), high.log10());
            let pad = ((high - low) * 0.05).max(0.05);
            return Ranges {
                x: spread(x),
                y: (10f64.powf(low - pad), 10f64.powf(high + pad)),
            };
        }
        let pad = if high > low {
            (high - low) * 0.06
        } else {
            (high.abs() * 0.1).max(1e-9)
        };
        let floor = if low >= 0.0 && (self.from_zero || low < pad) {
            0.0
        } else {
            low - pad
        };
        Ranges {
            x: spread(x),
            y: (floor, high + pad),
        }
    }

    /// Draws the chart in one size.
    pub(crate) fn draw(&self, size: Size) -> Result<Drawing> {
        let ranges = self.ranges();
        let (y_ticks, y_labels) = self.y_axis(&ranges, size);
        let widest = y_labels
            .iter()
            .map(|label| label.chars().count())
            .max()
            .unwrap_or(1);
        let left = (widest as f64 * DIGIT).ceil() as i32 + 9;
        let frame = Frame {
            left: left * SCALE,
            right: (size.width - 22) * SCALE,
            top: 9 * SCALE,
            bottom: (size.height - 24) * SCALE,
        };
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(
                &mut svg,
                ((size.width * SCALE) as u32, (size.height * SCALE) as u32),
            )
            .into_drawing_area();
            let canvas = Canvas {
                area: &area,
                frame,
                ranges,
                log: self.log,
                axis: self.axis,
            };
            canvas.horizontals(&y_ticks, &y_labels)?;
            match self.axis {
                Axis::Steps => canvas.steps(size.width)?,
                Axis::Share => canvas.shares(size.width)?,
            }
            if let Some(level) = self.level {
                let y = canvas.y(level);
                canvas.path(vec![(frame.left, y), (frame.right, y)], Ink::Level, 13)?;
            }
            for curve in &self.curves {
                canvas.curve(curve, size.kept)?;
            }
            area.present().map_err(failed)?;
        }
        let curves = self
            .curves
            .iter()
            .map(|curve| (curve.ink.letter(), curve.name.clone()))
            .collect();
        Ok(Drawing {
            class: size.class,
            width: size.width * SCALE,
            height: size.height * SCALE,
            inner: themed(&svg),
            readout: Readout {
                x: [
                    ranges.x.0,
                    ranges.x.1,
                    f64::from(frame.left),
                    f64::from(frame.right),
                ],
                y: [
                    ranges.y.0,
                    ranges.y.1,
                    f64::from(frame.bottom),
                    f64::from(frame.top),
                ],
                log: self.log,
                percent: self.percent,
                share: self.axis == Axis::Share,
                curves,
            },
        })
    }

    fn y_axis(&self, ranges: &Ranges, size: Size) -> (Vec<f64>, Vec<String>) {
        let wanted = (size.height as usize - 33) / 42;
        let (low, high) = ranges.y;
        if self.log {
            let ticks = ticks::logarithmic(low, high, wanted + 1);
            let labels = ticks
                .iter()
                .map(|tick| format::tick(*tick, 10f64.powf(tick.log10().floor())));
            let labels = labels.collect();
            return (ticks, labels);
        }
        let (ticks, gap) = ticks::linear(low, high, wanted);
        let label = |tick: &f64| match self.percent {
            true => format!("{}%", format::tick(tick * 100.0, gap * 100.0)),
            false => format::tick(*tick, gap),
        };
        let labels = ticks.iter().map(label).collect();
        (ticks, labels)
    }
}

/// A range with some extent, around a single value too; from zero where that is near.
fn spread((low, high): (f64, f64)) -> (f64, f64) {
    let low = if low > 0.0 && low < high * 0.05 {
        0.0
    } else {
        low
    };
    if high > low {
        (low, high)
    } else {
        (low - 0.5, high + 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[f64]) -> Chart {
        let points = values
            .iter()
            .enumerate()
            .map(|(step, value)| (step as f64, *value))
            .collect();
        let curve = Curve {
            name: "loss".into(),
            ink: Ink::Series(1),
            mark: Mark::Raw,
            segments: vec![points],
            bars: Vec::new(),
        };
        Chart {
            curves: vec![curve],
            ..Chart::default()
        }
    }

    #[test]
    fn drawings_hold_classes_instead_of_colours() {
        let drawing = chart(&[8.0, 4.0, 3.0]).draw(WIDE).expect("draws");
        assert!(
            !drawing.inner.contains('#') && !drawing.inner.contains("<svg"),
            "{}",
            drawing.inner
        );
        assert!(
            drawing.inner.contains("class=\"sb raw\"") && drawing.inner.contains("class=\"fy\"")
        );
        assert_eq!(
            drawing.inner.matches("<text").count(),
            drawing.inner.matches("</text>").count()
        );
    }

    #[test]
    fn every_size_keeps_its_labels_inside() {
        for size in [WIDE, NARROW, SMALL] {
            let drawing = chart(&[0.8125, 0.79, 0.81]).draw(size).expect("draws");
            let numbers = drawing.inner.split("text-anchor=\"end\"").skip(1);
            let numbers = numbers.map(|rest| {
                rest.split(['>', '<'])
                    .nth(1)
                    .unwrap_or_default()
                    .chars()
                    .count()
            });
            let widest = numbers.max().expect("numbers on the value axis") as f64;
            assert!(
                widest >= 4.0 && drawing.readout.x[2] >= (widest * DIGIT + 7.0) * f64::from(SCALE)
            );
            assert!(drawing.readout.x[3] <= f64::from(drawing.width - 20 * SCALE));
        }
    }

    #[test]
    fn a_rare_spike_is_cut_and_a_common_one_is_not() {
        let mut values = vec![3.0; 999];
        values[0] = 8.0;
        values[500] = 900.0;
        values
            .iter_mut()
            .skip(1)
            .step_by(3)
            .for_each(|value| *value = 2.0);
        assert!(chart(&values).ranges().y.1 < 100.0);
        assert!(chart(&[2.0, 3.0, 900.0]).ranges().y.1 > 900.0);
    }

    #[test]
    fn bars_lie_inside_and_shares_are_logarithmic() {
        let curve = Curve {
            name: "pre-trained".into(),
            ink: Ink::Series(0),
            mark: Mark::Dots,
            segments: vec![vec![(0.01, 0.1), (0.1, 0.2), (1.0, 0.3)]],
            bars: vec![(0.01, 0.05, 0.2), (1.0, 0.2, 0.9)],
        };
        let chart = Chart {
            curves: vec![curve],
            axis: Axis::Share,
            ..Chart::default()
        };
        let ranges = chart.ranges();
        assert!(ranges.y.1 > 0.9 && ranges.x.0 < 0.01 && ranges.x.1 > 1.0);
        for size in [WIDE, NARROW] {
            let drawing = chart.draw(size).expect("draws");
            assert!(drawing.readout.share);
            for label in ["1%", "10%", "100%"] {
                assert!(drawing.inner.contains(&format!(">{label}<")), "{label}");
            }
            let lines = drawing.inner.matches("<polyline").count();
            assert!(
                lines >= 2 && drawing.inner.contains("class=\"sa bar\""),
                "{lines}"
            );
        }
    }

    #[test]
    fn one_point_and_equal_values_have_a_range() {
        for values in [&[2.0][..], &[2.0, 2.0][..], &[0.0][..]] {
            let ranges = chart(values).ranges();
            assert!(
                ranges.x.1 > ranges.x.0 && ranges.y.1 > ranges.y.0,
                "{ranges:?}"
            );
            chart(values).draw(SMALL).expect("draws");
        }
    }
}
