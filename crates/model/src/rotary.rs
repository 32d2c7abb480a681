//! The angles of rotary positions, computed once, as far as they are asked for: a context is what a file
//! says, and few texts are as long.

use std::sync::{Mutex, PoisonError};

use etude_tensor::ops::{Angles, Rotation};
use etude_tensor::{Device, Kind, Tensor};

use crate::config::{ModelConfig, Position, RotaryScaling};

/// Positions computed at a time: always the same ones together, so that a value never depends on how far
/// the tables had to go before.
const BLOCK: i64 = 1024;

/// Cosines and sines of the first positions of the context.
#[derive(Debug)]
pub(crate) struct Rotary {
    /// Radians a position, `(D/2)`.
    frequencies: Tensor,
    context: i64,
    rotation: Rotation,
    tables: Mutex<Tables>,
}

/// Both are `(rows, D/2)`.
#[derive(Debug)]
struct Tables {
    cos: Tensor,
    sin: Tensor,
    rows: i64,
}

impl Rotary {
    /// None when the configuration has learned positions.
    pub(crate) fn new(config: &ModelConfig, kind: Kind, device: Device) -> Option<Self> {
        let Position::Rotary {
            theta,
            flipped,
            scaling,
        } = config.position
        else {
            return None;
        };
        // In float32 as Transformers does it, so that long positions round alike; in float64 for checks.
        let wide = if kind == Kind::Double {
            Kind::Double
        } else {
            Kind::Float
        };
        let frequencies: Vec<f64> = frequencies(theta, config.head_dim)
            .map(|frequency| scaling.map_or(frequency, |scaling| stretch(frequency, &scaling)))
            .collect();
        let frequencies = Tensor::from_slice(&frequencies)
            .to_kind(wide)
            .to_device(device);
        let none = Tensor::zeros([0, config.head_dim / 2], (wide, device));
        Some(Self {
            frequencies,
            context: config.context,
            rotation: if flipped {
                Rotation::Flipped
            } else {
                Rotation::Forward
            },
            tables: Mutex::new(Tables {
                cos: none.shallow_clone(),
                sin: none,
                rows: 0,
            }),
        })
    }

    /// The angles of `positions` `(B, T)`, or of `start .. start + t` for every row.
    pub(crate) fn angles(&self, positions: Option<&Tensor>, start: i64, t: i64) -> Angles {
        // Positions given lie anywhere in the context; to look would be to wait for the device.
        let needed = positions.map_or(start + t, |_| self.context);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        self.extend(&mut tables, needed);
        let pick = |table: &Tensor| match positions {
            Some(positions) => table.index_select(0, &positions.reshape([-1])), // (B * T, D/2)
            None => table.narrow(0, start, t),                                  // (T, D/2)
        };
        Angles {
            cos: pick(&tables.cos),
            sin: pick(&tables.sin),
            rotation: self.rotation,
        }
    }

    /// Computes the blocks that are missing up to `needed` positions.
    fn extend(&self, tables: &mut Tables, needed: i64) {
        if tables.rows >= needed {
            return;
        }
        let (mut cos, mut sin) = (
            vec![tables.cos.shallow_clone()],
            vec![tables.sin.shallow_clone()],
        );
        let options = (self.frequencies.kind(), self.frequencies.device());
        while tables.rows < needed {
            let end = (tables.rows + BLOCK).min(self.context);
            let positions = Tensor::arange_start(tables.rows, end, options);
            let angle = positions.unsqueeze(1) * self.frequencies.unsqueeze(0); // (≤ BLOCK, D/2)
            cos.push(angle.cos());
            sin.push(angle.sin());
            tables.rows = end;
        }
        tables.cos = Tensor::cat(&cos, 0);
        tables.sin = Tensor::cat(&sin, 0);
    }
}

/// A frequency (radians a position) after the wavelengths were stretched. Llama 3's rule: long ones by the
/// factor, short ones not, a ramp between.
pub(crate) fn stretch(frequency: f64, scaling: &RotaryScaling) -> f64 {
    match *scaling {
        RotaryScaling::Linear { factor } => frequency / factor,
        RotaryScaling::Llama3 {
            factor,
            low,
            high,
            original_context,
        } => {
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            let turns = original_context / wavelength;
            if turns < low {
                frequency / factor
            } else if turns > high {
                frequency
            } else {
                let smooth = (turns - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// The frequencies of all pairs of a head `head_dim` wide, before any stretching.
pub(crate) fn frequencies(theta: f64, head_dim: i64) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / head_dim as f64))
}
