//! The layers: each is its settings, a constructor over a [`Scope`], and `forward`.

use tch::Tensor;

use crate::few_rows::{Before, few_rows_linear};
use crate::lora::{self, LowRank};
use crate::{Init, Scope, ops, to_compute_kind};

/// `x W^T + b`, weight `(out, in)`.
#[derive(Debug)]
pub struct Linear {
    /// `(out, in)`.
    pub weight: Tensor,
    /// `(out)`.
    pub bias: Option<Tensor>,
    /// A low-rank update; the weight is frozen then.
    pub low_rank: Option<LowRank>,
}

impl Linear {
    /// Declares `weight` and, when `bias` is true, `bias` (zeros).
    pub fn new(scope: Scope<'_>, inputs: i64, outputs: i64, bias: bool, init: Init) -> Self {
        Self::stacked(scope, inputs, &[outputs], bias, init)
    }

    /// Several layers over the same input in one product; their outputs lie side by side.
    pub fn stacked(
        mut scope: Scope<'_>,
        inputs: i64,
        outputs: &[i64],
        bias: bool,
        init: Init,
    ) -> Self {
        let total: i64 = outputs.iter().sum();
        let weight = scope.stacked("weight", &[total, inputs], outputs, init);
        let bias = bias.then(|| scope.stacked("bias", &[total], outputs, Init::Zeros));
        Self {
            weight,
            bias,
            low_rank: None,
        }
    }

    /// `(…, in)` to `(…, out)`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_at(x, None)
    }

    /// The same, with the numbers by which dropout draws, see [`lora::frozen_linear`].
    pub fn forward_at(&self, x: &Tensor, places: Option<&Tensor>) -> Tensor {
        let (weight, bias) = (&self.weight, self.bias.as_ref());
        let converted = weight.kind() != x.kind() && !weight.requires_grad();
        if self.low_rank.is_some() || converted {
            return lora::frozen_linear(x, weight, bias, self.low_rank.as_ref(), places);
        }
        ops::linear(x, weight, bias)
    }

    /// What comes of `x` behind `norm`, or as it is, `(…, in)` to `(…, out)`.
    pub fn forward_behind(
        &self,
        norm: Option<&Norm>,
        x: &Tensor,
        places: Option<&Tensor>,
    ) -> Tensor {
        let Some(norm) = norm else {
            return self.forward_at(&to_compute_kind(x), places);
        };
        let at_once = match norm {
            Norm::Rms(RmsNorm { weight, eps }) => {
                let (weight, eps) = (weight.as_ref(), *eps);
                self.few_rows(x, Before::RmsNorm { weight, eps }, None)
            }
            Norm::Layer(_) => None,
        };
        at_once.unwrap_or_else(|| self.forward_at(&to_compute_kind(&norm.forward(x)), places))
    }

    /// The stream, `(…, out)`, with what comes of `x` `(…, in)` added.
    pub fn add_to(&self, stream: &Tensor, x: &Tensor, places: Option<&Tensor>) -> Tensor {
        self.few_rows(x, Before::Nothing, Some(stream))
            .unwrap_or_else(|| stream + self.forward_at(x, places))
    }

    /// The same behind [`ops::swiglu`], of `x` `(…, 2 in)`.
    pub fn add_gated_to(&self, stream: &Tensor, x: &Tensor, places: Option<&Tensor>) -> Tensor {
        self.few_rows(x, Before::SwiGlu, Some(stream))
            .unwrap_or_else(|| stream + self.forward_at(&ops::swiglu(x), places))
    }

    /// All of it in one operation, where it is made for the input.
    fn few_rows(&self, x: &Tensor, before: Before<'_>, stream: Option<&Tensor>) -> Option<Tensor> {
        if self.low_rank.is_some() {
            return None;
        }
        few_rows_linear(x, before, &self.weight, self.bias.as_ref(), stream)
    }
}

/// A table of vectors, weight `(rows, width)`.
#[derive(Debug)]
pub struct Embedding {
    /// `(rows, width)`.
    pub weight: Tensor,
}

impl Embedding {
    /// Declares `weight`.
    pub fn new(mut scope: Scope<'_>, rows: i64, width: i64, init: Init) -> Self {
        Self {
            weight: scope.param("weight", &[rows, width], init),
        }
    }

    /// `(…)` ids to `(…, width)`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, -1, false, false)
    }
}

/// Layer norm with weight and bias (Ba et al. 2016).
#[derive(Debug)]
pub struct LayerNorm {
    /// `(width)`.
    pub weight: Tensor,
    /// `(width)`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// Root-mean-square norm, with or without a weight.
#[derive(Debug)]
pub struct RmsNorm {
    /// `(width)`, or none.
    pub weight: Option<Tensor>,
    /// Added to the mean square.
    pub eps: f64,
}

/// Either norm.
#[derive(Debug)]
pub enum Norm {
    /// Mean and variance, weight and bias.
    Layer(LayerNorm),
    /// Root mean square.
    Rms(RmsNorm),
}

impl Norm {
    /// A layer norm over `width`.
    pub fn layer(mut scope: Scope<'_>, width: i64, eps: f64) -> Self {
        let weight = scope.param("weight", &[width], Init::Ones);
        let bias = scope.param("bias", &[width], Init::Zeros);
        Norm::Layer(LayerNorm { weight, bias, eps })
    }

    /// An RMS norm over `width`, with a weight when `weighted`.
    pub fn rms(mut scope: Scope<'_>, width: i64, weighted: bool, eps: f64) -> Self {
        let weight = weighted.then(|| scope.param("weight", &[width], Init::Ones));
        Norm::Rms(RmsNorm { weight, eps })
    }

    /// Normalises the last dimension.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Norm::Layer(LayerNorm { weight, bias, eps }) => {
                x.layer_norm(weight.size(), Some(weight), Some(bias), *eps, true)
            }
            Norm::Rms(RmsNorm { weight, eps }) => ops::rms_norm(x, weight.as_ref(), *eps),
        }
    }
}
