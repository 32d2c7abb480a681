//! The device side of an optimizer step: fused AdamW over many parameters, the global gradient norm,
//! clipping and the refusal of non-finite gradients, all without the host waiting for the device.

use tch::{Kind, Tensor};

use crate::native::{self, AdamWCall, NativeError};

/// The gradients' global norm and what follows from it, kept on the device.
#[derive(Debug)]
pub struct GradScale {
    /// The global L2 norm, a float scalar.
    pub norm: Tensor,
    /// What every gradient is divided by: `max(1, norm / max_norm)`.
    pub divisor: Tensor,
    /// 1 when the norm is NaN or infinite, else 0.
    pub found_inf: Tensor,
}

impl GradScale {
    /// Measures `grads`; `max_norm` none means no clipping.
    ///
    /// # Errors
    /// A message of libtorch's, for gradients on several devices.
    pub fn measure(grads: &[Tensor], max_norm: Option<f64>) -> Result<Self, NativeError> {
        let norm = native::grad_norm(grads)?.to_kind(Kind::Float);
        let divisor = match max_norm {
            Some(max_norm) => (&norm / max_norm).clamp_min(1.0),
            None => norm.ones_like(),
        };
        let found_inf = norm.isfinite().logical_not().to_kind(Kind::Float);
        Ok(Self {
            norm,
            divisor,
            found_inf,
        })
    }
}

/// AdamW's settings that do not change from step to step.
#[derive(Debug, Clone, Copy)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// Parameters that AdamW (Loshchilov and Hutter 2017) updates with the same settings, and their state.
#[derive(Debug)]
pub struct AdamWGroup {
    params: Vec<Tensor>,
    exp_avg: Vec<Tensor>,
    exp_avg_sq: Vec<Tensor>,
}

impl AdamWGroup {
    /// Fresh state (zeros) for these parameters.
    pub fn new(params: Vec<Tensor>) -> Self {
        let zeros = |params: &[Tensor]| {
            params
                .iter()
                .map(|param| tch::no_grad(|| param.zeros_like()))
                .collect()
        };
        let (exp_avg, exp_avg_sq) = (zeros(&params), zeros(&params));
        Self {
            params,
            exp_avg,
            exp_avg_sq,
        }
    }

    /// The parameters.
    pub fn params(&self) -> &[Tensor] {
        &self.params
    }

    /// First and second moments, in the order of the parameters: what a checkpoint holds.
    pub fn moments(&self) -> impl Iterator<Item = (&Tensor, &Tensor)> {
        self.exp_avg.iter().zip(&self.exp_avg_sq)
    }

    /// One step. `step` is its number, counted from 1, a float scalar on the device. A parameter without
    /// a gradient stays as it is.
    ///
    /// # Errors
    /// A message of libtorch's.
    pub fn step(
        &self,
        step: &Tensor,
        lr: f64,
        weight_decay: f64,
        settings: &AdamWSettings,
        scale: &GradScale,
    ) -> Result<(), NativeError> {
        let grads: Vec<Tensor> = self.params.iter().map(Tensor::grad).collect();
        let live: Vec<usize> = (0..grads.len()).filter(|&i| grads[i].defined()).collect();
        if live.is_empty() {
            return Ok(());
        }
        fn pick<'a>(live: &[usize], tensors: &'a [Tensor]) -> Vec<&'a Tensor> {
            live.iter().map(|&i| &tensors[i]).collect()
        }
        native::adamw(&AdamWCall {
            params: &pick(&live, &self.params),
            grads: &pick(&live, &grads),
            exp_avg: &pick(&live, &self.exp_avg),
            exp_avg_sq: &pick(&live, &self.exp_avg_sq),
            step,
            lr,
            betas: (settings.beta1, settings.beta2),
            weight_decay,
            eps: settings.eps,
            grad_scale: Some(&scale.divisor),
            found_inf: Some(&scale.found_inf),
        })
    }
}
