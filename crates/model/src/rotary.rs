//! The angles of rotary positions, computed once for the whole context.

use etude_tensor::ops::{Angles, Rotation};
use etude_tensor::{Device, Kind, Tensor};

use crate::config::{ModelConfig, Position, RotaryScaling};

/// Cosines and sines of all positions of the context, `(context, D/2)`.
#[derive(Debug)]
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
    rotation: Rotation,
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
        let half = config.head_dim / 2;
        // In float32 as Transformers does it, so that long positions round alike; in float64 for checks.
        let wide = if kind == Kind::Double {
            Kind::Double
        } else {
            Kind::Float
        };
        let frequencies: Vec<f64> = (0..half)
            .map(|pair| theta.powf(-2.0 * pair as f64 / config.head_dim as f64))
            .map(|frequency| scaling.map_or(frequency, |scaling| stretch(frequency, &scaling)))
            .collect();
        let frequencies = Tensor::from_slice(&frequencies)
            .to_kind(wide)
            .to_device(device);
        let positions = Tensor::arange(config.context, (wide, device));
        let angle = positions.unsqueeze(1) * frequencies.unsqueeze(0); // (context, D/2)
        let rotation = if flipped {
            Rotation::Flipped
        } else {
            Rotation::Forward
        };
        Some(Self {
            cos: angle.cos(),
            sin: angle.sin(),
            rotation,
        })
    }

    /// The angles of `positions` `(B, T)`, or of `start .. start + t` for every row.
    pub(crate) fn angles(&self, positions: Option<&Tensor>, start: i64, t: i64) -> Angles {
        let pick = |table: &Tensor| match positions {
            Some(positions) => table.index_select(0, &positions.reshape([-1])), // (B * T, D/2)
            None => table.narrow(0, start, t),                                  // (T, D/2)
        };
        Angles {
            cos: pick(&self.cos),
            sin: pick(&self.sin),
            rotation: self.rotation,
        }
    }
}

/// Llama 3's rule: long wavelengths by the factor, short ones not, a ramp between.
fn stretch(frequency: f64, scaling: &RotaryScaling) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / frequency;
    let turns = scaling.original_context / wavelength;
    if turns < scaling.low {
        frequency / scaling.factor
    } else if turns > scaling.high {
        frequency
    } else {
        let smooth = (turns - scaling.low) / (scaling.high - scaling.low);
        (1.0 - smooth) * frequency / scaling.factor + smooth * frequency
    }
}
