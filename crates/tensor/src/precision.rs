//! The number formats that training and inference run in.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::native;

/// How parameters are kept and products computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 autocast on CUDA, float32 elsewhere.
    #[default]
    Auto,
    /// bf16 autocast wherever the device multiplies bf16 natively (CUDA; x86 with AVX512-BF16 or AMX),
    /// float32 elsewhere.
    Fast,
    /// Parameters and products in float32.
    Float32,
    /// Parameters in float32, products in bf16 by autocast.
    Bfloat16,
    /// Parameters and products in float64: for checks, not for training.
    Float64,
}

impl Precision {
    /// [`Precision::Auto`] and [`Precision::Fast`] resolved for a device.
    pub fn resolve(self, device: Device) -> Precision {
        match (self, device) {
            (Precision::Auto | Precision::Fast, Device::Cuda(_)) => Precision::Bfloat16,
            (Precision::Fast, Device::Cpu) if multiplies_bf16() => Precision::Bfloat16,
            (Precision::Auto | Precision::Fast, _) => Precision::Float32,
            (chosen, _) => chosen,
        }
    }

    /// The dtype that products are computed in on a device.
    pub fn product_kind(self, device: Device) -> Kind {
        match self.resolve(device) {
            Precision::Bfloat16 => Kind::BFloat16,
            resolved => resolved.kind(),
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

/// Whether this processor has instructions for products of bf16.
fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// What goes into a layer, in the dtype that it computes in: bf16 under autocast on the CPU, where half the
/// bytes are half the time, and as it is elsewhere. The stream that layers add to stays in float32.
pub fn to_compute_kind(x: &Tensor) -> Tensor {
    if x.device() == Device::Cpu && x.kind() == Kind::Float && native::autocasts_cpu() {
        x.to_kind(Kind::BFloat16)
    } else {
        x.shallow_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_choice_or_hardware_leaves_float32_on_the_cpu() {
        let cpu = |precision: Precision| precision.resolve(Device::Cpu);
        assert_eq!(cpu(Precision::Auto), Precision::Float32);
        assert_eq!(cpu(Precision::Bfloat16), Precision::Bfloat16);
        let fast = match multiplies_bf16() {
            true => Precision::Bfloat16,
            false => Precision::Float32,
        };
        assert_eq!(cpu(Precision::Fast), fast);
        for precision in [Precision::Auto, Precision::Fast] {
            assert_eq!(precision.resolve(Device::Cuda(0)), Precision::Bfloat16);
            assert_eq!(precision.kind(), Kind::Float, "parameters stay float32");
        }
        assert_eq!(Precision::Float64.product_kind(Device::Cpu), Kind::Double);
    }

    #[test]
    fn layers_compute_in_bf16_under_autocast_alone() {
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu));
        assert_eq!(to_compute_kind(&x).kind(), Kind::Float);
        let inside = Precision::Bfloat16.autocast(Device::Cpu, || to_compute_kind(&x).kind());
        assert_eq!(inside, Kind::BFloat16);
        assert_eq!(
            to_compute_kind(&x).kind(),
            Kind::Float,
            "it ends with the scope"
        );
        let double = Tensor::ones([2], (Kind::Double, Device::Cpu));
        let inside = Precision::Bfloat16.autocast(Device::Cpu, || to_compute_kind(&double).kind());
        assert_eq!(inside, Kind::Double);
    }
}
