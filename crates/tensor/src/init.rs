//! How a parameter starts.

use tch::{Device, Kind, Tensor};

/// The distribution that a new parameter is drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform on ±bound.
    Uniform(f64),
}

impl Init {
    /// A new tensor. It is drawn on the CPU in float32 whatever the device and dtype, so that a seed
    /// gives the same model everywhere.
    pub fn tensor(self, shape: &[i64], kind: Kind, device: Device) -> Tensor {
        let options = (Kind::Float, Device::Cpu);
        let drawn = match self {
            Init::Zeros => Tensor::zeros(shape, options),
            Init::Ones => Tensor::ones(shape, options),
            Init::Normal(std) => Tensor::randn(shape, options) * std,
            Init::Uniform(bound) => Tensor::empty(shape, options).uniform_(-bound, bound),
        };
        drawn.to_kind(kind).to_device(device)
    }
}
