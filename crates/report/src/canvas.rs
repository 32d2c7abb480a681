//! The pencil of a chart: axes, curves and levels in SVG that follows the page's colours.
//!
//! `plotters` draws in whole pixels and fixed colours. Two things are done about that: the drawing is
//! ten times as large as it is shown, and each colour is a placeholder that becomes a class
//! (`stroke="#010262"` → `class="sb"`), which the style sheet colours for light, dark and paper.
//! Words stay outside, in HTML, where they wrap; the drawing holds only the numbers of the axes.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::chart::{Axis, Curve, Mark, Ranges};
use crate::format;
use crate::series;
use crate::ticks;

/// Units of the drawing for one pixel of the page.
pub(crate) const SCALE: i32 = 10;

/// Size of the axis numbers on the page; `plotters` divides by 1.24 when it writes SVG.
const TEXT: f64 = 11.5 * 1.24 * SCALE as f64;

/// Width of one digit at that size: a safe estimate over the usual system fonts.
pub(crate) const DIGIT: f64 = 7.4;

/// Colours are named by what they are for; the style sheet has one rule for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// A curve: `a` to `h`.
    Series(u8),
    /// A dashed level to compare with.
    Level,
    Grid,
    Axis,
    Label,
}

/// How many curves have a colour of their own.
pub(crate) const SERIES: usize = 8;

const INKS: [Ink; SERIES + 4] = [
    Ink::Series(0),
    Ink::Series(1),
    Ink::Series(2),
    Ink::Series(3),
    Ink::Series(4),
    Ink::Series(5),
    Ink::Series(6),
    Ink::Series(7),
    Ink::Level,
    Ink::Grid,
    Ink::Axis,
    Ink::Label,
];

impl Ink {
    /// The letter of its class.
    pub(crate) fn letter(self) -> char {
        match self {
            Ink::Series(index) => char::from(b'a' + index % SERIES as u8),
            Ink::Level => 'v',
            Ink::Grid => 'w',
            Ink::Axis => 'x',
            Ink::Label => 'y',
        }
    }

    fn placeholder(self) -> RGBColor {
        RGBColor(1, 2, self.letter() as u8)
    }
}

/// The width that tells a bar from a curve.
const BAR: u32 = 12;

/// The plotting area in units of the drawing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) left: i32,
    pub(crate) right: i32,
    pub(crate) top: i32,
    pub(crate) bottom: i32,
}

/// Where the parts of a chart are drawn.
pub(crate) struct Canvas<'a, 'b> {
    pub(crate) area: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    pub(crate) frame: Frame,
    pub(crate) ranges: Ranges,
    pub(crate) log: bool,
    pub(crate) axis: Axis,
}

impl Canvas<'_, '_> {
    fn x(&self, step: f64) -> i32 {
        let (low, high) = self.ranges.x;
        let [low, high, step] = [low, high, step].map(|value| self.axis.place(value));
        self.frame.left
            + ((step - low) / (high - low) * f64::from(self.frame.right - self.frame.left)).round()
                as i32
    }

    /// Values past the top (a cut spike) lie on the top edge.
    pub(crate) fn y(&self, value: f64) -> i32 {
        let scaled = |value: f64| if self.log { value.log10() } else { value };
        let (low, high) = (scaled(self.ranges.y.0), scaled(self.ranges.y.1));
        let share = ((scaled(value) - low) / (high - low)).clamp(0.0, 1.0);
        self.frame.bottom - (share * f64::from(self.frame.bottom - self.frame.top)).round() as i32
    }

    pub(crate) fn path(&self, points: Vec<(i32, i32)>, ink: Ink, width: u32) -> Result<()> {
        let style = ShapeStyle {
            color: ink.placeholder().to_rgba(),
            filled: false,
            stroke_width: width,
        };
        self.area
            .draw(&PathElement::new(points, style))
            .map_err(failed)
    }

    fn label(&self, text: &str, at: (i32, i32), anchor: Pos) -> Result<()> {
        let color = Ink::Label.placeholder();
        let style = TextStyle::from(("sans-serif", TEXT).into_font())
            .color(&color)
            .pos(anchor);
        self.area
            .draw(&Text::new(text.to_owned(), at, style))
            .map_err(failed)
    }

    /// Grid lines and the numbers left of them.
    pub(crate) fn horizontals(&self, ticks: &[f64], labels: &[String]) -> Result<()> {
        for (tick, label) in ticks.iter().zip(labels) {
            let y = self.y(*tick);
            self.path(
                vec![(self.frame.left, y), (self.frame.right, y)],
                Ink::Grid,
                10,
            )?;
            self.label(
                label,
                (self.frame.left - 7 * SCALE, y),
                Pos::new(HPos::Right, VPos::Center),
            )?;
        }
        Ok(())
    }

    /// The step axis: a line, ticks, and as many numbers as fit.
    pub(crate) fn steps(&self, width: i32) -> Result<()> {
        let (low, high) = self.ranges.x;
        let widest = format::tick(high, 1.0).chars().count() as f64 * DIGIT + 26.0;
        let wanted = ((f64::from(width) - 60.0) / widest) as usize;
        let (ticks, gap) = ticks::whole(low, high, wanted.clamp(2, 8));
        let labels = ticks.iter().map(|tick| format::tick(*tick, gap));
        self.horizontal(ticks.iter().copied().zip(labels))
    }

    /// The axis of a share, in percent.
    pub(crate) fn shares(&self, width: i32) -> Result<()> {
        let (low, high) = self.ranges.x;
        let ticks = ticks::logarithmic(low, high, (width / 75) as usize);
        let label = |tick: &f64| {
            let percent = tick * 100.0;
            format!(
                "{}%",
                format::tick(percent, 10f64.powf(percent.log10().floor()))
            )
        };
        let labels = ticks.iter().map(label);
        self.horizontal(ticks.iter().copied().zip(labels))
    }

    /// A line with ticks and their labels.
    fn horizontal(&self, ticks: impl Iterator<Item = (f64, String)>) -> Result<()> {
        let Frame {
            left,
            right,
            bottom,
            ..
        } = self.frame;
        self.path(vec![(left, bottom), (right, bottom)], Ink::Axis, 10)?;
        for (tick, label) in ticks {
            let x = self.x(tick);
            self.path(vec![(x, bottom), (x, bottom + 4 * SCALE)], Ink::Axis, 10)?;
            self.label(
                &label,
                (x, bottom + 8 * SCALE),
                Pos::new(HPos::Center, VPos::Top),
            )?;
        }
        Ok(())
    }

    pub(crate) fn curve(&self, curve: &Curve, kept: usize) -> Result<()> {
        let width = match curve.mark {
            Mark::Raw => 9,
            Mark::Line | Mark::Dots => 20,
        };
        for &(at, low, high) in &curve.bars {
            let (x, low, high) = (self.x(at), self.y(low), self.y(high));
            self.path(vec![(x, low), (x, high)], curve.ink, BAR)?;
        }
        let measured: usize = curve.segments.iter().map(Vec::len).sum();
        for segment in series::thin_all(&curve.segments, kept) {
            let place: Vec<(i32, i32)> = segment
                .iter()
                .map(|(step, value)| (self.x(*step), self.y(*value)))
                .collect();
            // Circles at every one of many points would hide the line; a lone point needs one.
            let circles = segment.len() == 1 || (curve.mark == Mark::Dots && measured <= 40);
            let style = curve.ink.placeholder().filled();
            if segment.len() > 1 {
                self.path(place.clone(), curve.ink, width)?;
            }
            for at in place.into_iter().filter(|_| circles) {
                self.area
                    .draw(&Circle::new(at, 3 * SCALE, style))
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}

/// The drawing without its outer tag, placeholders turned into classes. A pale curve is thin, which
/// its width tells.
pub(crate) fn themed(svg: &str) -> String {
    let inner = svg.split_once(">\n").map_or(svg, |(_, rest)| rest);
    let inner = inner.strip_suffix("</svg>\n").unwrap_or(inner);
    let mut out = inner
        .replace(" opacity=\"1\"", "")
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" fill=\"none\"", "")
        .replace(" stroke=\"none\" stroke-width=\"1\"", "")
        .replace(" \"/>", "\"/>")
        .replace(">\n", ">")
        .replace("\n</", "</");
    for ink in INKS {
        let (letter, color) = (ink.letter(), ink.placeholder());
        let hex = format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
        out = out
            .replace(
                &format!("stroke=\"{hex}\" stroke-width=\"9\""),
                &format!("class=\"s{letter} raw\""),
            )
            .replace(
                &format!("stroke=\"{hex}\" stroke-width=\"{BAR}\""),
                &format!("class=\"s{letter} bar\""),
            )
            .replace(
                &format!("stroke=\"{hex}\""),
                &format!("class=\"s{letter}\""),
            )
            .replace(&format!("fill=\"{hex}\""), &format!("class=\"f{letter}\""));
    }
    out
}
