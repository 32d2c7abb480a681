//! Muon (Jordan et al. 2024): momentum whose direction is made orthogonal by a Newton–Schulz iteration.

use std::collections::BTreeMap;

use etude_tensor::optim::GradScale;
use etude_tensor::{Kind, Tensor};

/// The coefficients of the quintic iteration, from Jordan's description: they drive singular values to
/// about 1 fast rather than exactly.
const QUINTIC: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);

/// Muon's settings at one step.
#[derive(Debug, Clone, Copy)]
pub struct MuonStep {
    /// Learning rate.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Newton–Schulz iterations.
    pub iterations: u32,
    /// The dtype of the iteration's products: bf16 suffices, since it only has to come near.
    pub work: Kind,
}

/// A parameter to step, made of stacked matrices of `parts` rows each.
#[derive(Debug, Clone, Copy)]
pub struct MuonParam<'a> {
    /// `(rows, cols)`.
    pub param: &'a Tensor,
    /// `(rows, cols)`.
    pub gradient: &'a Tensor,
    /// `(rows, cols)`, changed by the step.
    pub momentum: &'a Tensor,
    /// Rows of each matrix; their sum is `rows`.
    pub parts: &'a [i64],
}

/// The nearest semi-orthogonal matrices of `gradient` `(N, rows, cols)`, approximately, with products in
/// `work` and the result in the gradient's own dtype.
pub fn orthogonalize(gradient: &Tensor, iterations: u32, work: Kind) -> Tensor {
    let kind = gradient.kind();
    let [_, rows, cols] = gradient.size()[..] else {
        panic!("a batch of matrices has three dimensions")
    };
    let tall = rows > cols;
    let norm = gradient
        .square()
        .sum_dim_intlist([-2i64, -1].as_slice(), true, kind)
        .sqrt();
    let mut x = (gradient / (norm + 1e-7)).to_kind(work);
    if tall {
        x = x.transpose(-2, -1).contiguous();
    }
    let (a, b, c) = QUINTIC;
    for _ in 0..iterations {
        let gram = x.matmul(&x.transpose(-2, -1)); // X X^T
        let polynomial = gram.baddbmm(&gram, &gram, b, c);
        x = x.baddbmm(&polynomial, &x, a, 1.0);
    }
    if tall {
        x = x.transpose(-2, -1);
    }
    x.to_kind(kind)
}

/// One step for some parameters. Matrices of one shape are made orthogonal together, in one batch.
/// The gradients are clipped as `grads` says; one that is not finite leaves everything as it is.
pub fn step(params: &[MuonParam<'_>], settings: &MuonStep, grads: &GradScale) {
    let Some(first) = params.first() else { return };
    let kind = first.param.kind();
    let good: Tensor = 1.0 - &grads.found_inf;
    let good = good.to_kind(kind);
    let is_good = grads.found_inf.lt(0.5);
    let divisor = grads.divisor.to_kind(kind);
    let divisor = divisor.where_self(&is_good, &divisor.ones_like());
    // Each matrix by its shape: (a view of its parameter, its direction before it is made orthogonal).
    let mut shapes: BTreeMap<(i64, i64), Vec<(Tensor, Tensor)>> = BTreeMap::new();
    for part in params {
        // Non-finite numbers times zero would still be non-finite.
        let mut clean = part
            .gradient
            .where_self(&is_good, &part.gradient.zeros_like());
        let _ = clean.g_div_(&divisor);
        let mut momentum = part.momentum.shallow_clone();
        let _ = momentum.lerp_tensor_(&clean, &(&good * (1.0 - settings.momentum)));
        let nesterov = clean.lerp(&momentum, settings.momentum);
        let mut param = part.param.detach();
        if settings.weight_decay > 0.0 {
            let _ = param.g_mul_(&(1.0 - &good * (settings.lr * settings.weight_decay)));
        }
        let pieces = param.split_with_sizes(part.parts, 0);
        let cols = param.size()[1];
        for ((piece, direction), &rows) in pieces
            .into_iter()
            .zip(nesterov.split_with_sizes(part.parts, 0))
            .zip(part.parts)
        {
            shapes
                .entry((rows, cols))
                .or_default()
                .push((piece, direction));
        }
    }
    for ((rows, cols), matrices) in shapes {
        let directions: Vec<&Tensor> = matrices.iter().map(|(_, direction)| direction).collect();
        let batch = Tensor::stack(&directions, 0); // (N, rows, cols)
        let directions = orthogonalize(&batch, settings.iterations, settings.work)
            * (&good * (settings.lr * shape_scale(rows, cols)));
        for ((mut param, _), direction) in matrices.into_iter().zip(directions.unbind(0)) {
            let _ = param.g_sub_(&direction);
        }
    }
}

/// Tall matrices step further, so that their outputs change as much.
fn shape_scale(rows: i64, cols: i64) -> f64 {
    (rows as f64 / cols as f64).max(1.0).sqrt()
}

/// A zero momentum for a parameter.
pub fn fresh_momentum(param: &Tensor) -> Tensor {
    param.detach().zeros_like()
}
