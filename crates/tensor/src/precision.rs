//! The number formats that training and inference run in.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::native;

/// How parameters are kept and products computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 autocast on CUDA, float32 elsewhere.
    #[default]
    Auto,
    /// Parameters and products in float32.
    Float32,
    /// Parameters in float32, products in bf16 by autocast.
    Bfloat16,
    /// Parameters and products in float64: for checks, not for training.
    Float64,
}

impl Precision {
    /// [`Precision::Auto`] resolved for a device.
    pub fn resolve(self, device: Device) -> Precision {
        match (self, device) {
            (Precision::Auto, Device::Cuda(_)) => Precision::Bfloat16,
            (Precision::Auto, _) => Precision::Float32,
            (chosen, _) => chosen,
        }
    }

    /// The dtype of the parameters.
    pub fn kind(self) -> Kind {
        if self == Precision::Float64 {
            Kind::Double
        } else {
            Kind::Float
        }
    }

    /// Runs `body` with autocast to bf16 where this precision asks for it.
    pub fn autocast<T>(self, device: Device, body: impl FnOnce() -> T) -> T {
        if self.resolve(device) != Precision::Bfloat16 {
            return body();
        }
        let _guard = native::Autocast::enter(device);
        body()
    }
}
