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
