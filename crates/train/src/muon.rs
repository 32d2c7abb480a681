//! Muon (Jordan et al. 2024): momentum whose direction is made orthogonal by a Newton–Schulz iteration.

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
}

/// The nearest semi-orthogonal matrix of `gradient` `(…, rows, cols)`, approximately; a leading
/// dimension is a batch of matrices. In bf16 on CUDA, in the gradient's own dtype elsewhere.
pub fn orthogonalize(gradient: &Tensor, iterations: u32) -> Tensor {
    let kind = gradient.kind();
    let work = if gradient.device().is_cuda() {
        Kind::BFloat16
    } else {
        kind
    };
    let [rows, cols] = gradient.size()[gradient.dim() - 2..] else {
        panic!("a matrix has two dimensions")
    };
    let tall = rows > cols;
    let mut x = gradient.to_kind(work);
    if tall {
        x = x.transpose(-2, -1);
    }
    let norm = x
        .square()
        .sum_dim_intlist([-2i64, -1].as_slice(), true, work)
        .sqrt();
    x = &x / (norm + 1e-7); // not in place: x may be the caller's tensor
    let (a, b, c) = QUINTIC;
    for _ in 0..iterations {
        let gram = x.matmul(&x.transpose(-2, -1)); // X X^T
        let polynomial = &gram * b + gram.matmul(&gram) * c;
        x = &x * a + polynomial.matmul(&x);
    }
    if tall {
        x = x.transpose(-2, -1);
    }
    x.to_kind(kind)
}

/// One step for a parameter made of stacked matrices of `parts` rows each. `bad` (0 or 1, on the device)
/// leaves everything as it is where it is 1.
pub fn step(
    param: &Tensor,
    gradient: &Tensor,
    momentum: &Tensor,
    parts: &[i64],
    settings: &MuonStep,
    bad: &Tensor,
) {
    let good: Tensor = 1.0 - bad;
    let good = good.to_kind(param.kind());
    // Non-finite numbers times zero would still be non-finite.
    let clean = gradient.where_self(&bad.lt(0.5), &gradient.zeros_like());
    let mut momentum = momentum.shallow_clone();
    let _ = momentum.lerp_tensor_(&clean, &(&good * (1.0 - settings.momentum)));
    let nesterov = clean.lerp(&momentum, settings.momentum);
    let sizes = param.size();
    let (width, same) = (sizes[1], parts.windows(2).all(|pair| pair[0] == pair[1]));
    let directions = if same {
        let batch = nesterov.view([parts.len() as i64, parts[0], width]);
        orthogonalize(&batch, settings.iterations).view([sizes[0], width])
            * shape_scale(parts[0], width)
    } else {
        let pieces: Vec<Tensor> = nesterov
            .split_with_sizes(parts, 0)
            .iter()
            .map(|piece| {
                orthogonalize(piece, settings.iterations) * shape_scale(piece.size()[0], width)
            })
            .collect();
        Tensor::cat(&pieces, 0)
    };
    let mut param = param.detach();
    if settings.weight_decay > 0.0 {
        let _ = param.g_mul_(&(1.0 - &good * (settings.lr * settings.weight_decay)));
    }
    let _ = param.g_sub_(&(directions * (good * settings.lr)));
}

/// Tall matrices step further, so that their outputs change as much.
fn shape_scale(rows: i64, cols: i64) -> f64 {
    (rows as f64 / cols as f64).max(1.0).sqrt()
}

/// A zero momentum for a parameter.
pub fn fresh_momentum(param: &Tensor) -> Tensor {
    param.detach().zeros_like()
}
