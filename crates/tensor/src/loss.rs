//! The training objective: cross-entropy as a sum over supervised tokens. The division by their
//! number, over the whole optimizer step, is the training step's.

use tch::{Device, Kind, Reduction, Tensor};

use crate::native;

/// Marks a position that is not supervised.
pub const IGNORE: i64 = -100;

/// Bytes of logits that are alive at a time on the CPU: near the size of a last-level cache. With a large
/// vocabulary it is more: each block reads the whole weight, so a block has 256 rows at least.
const BLOCK_BYTES: i64 = 8 << 20;

/// `cap * tanh(logits / cap)` (Gemma 2's soft cap), or the logits as they are.
pub fn soft_cap(logits: &Tensor, cap: Option<f64>) -> Tensor {
    match cap {
        Some(cap) => (logits / cap).tanh() * cap,
        None => logits.shallow_clone(),
    }
}

/// The summed cross-entropy, in nats, of `targets` `(N)` under the logits `x weight^T`; `x` is
/// `(N, C)`, `weight` `(V, C)`. Rows with target [`IGNORE`] count nothing. The result is a scalar that
/// can be differentiated once.
pub fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    cap: Option<f64>,
) -> Tensor {
    match fused_rows(x, weight) {
        Some(rows) => native::linear_cross_entropy(x, weight, targets, cap.unwrap_or(0.0), rows)
            .expect("shapes and dtypes are the model's own"),
        None => composed(x, weight, targets, cap, Reduction::Sum),
    }
}

/// The summands of [`linear_cross_entropy`], `(N)`, without gradients: what it sums, to the last bit on the CPU.
pub fn linear_cross_entropies(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    cap: Option<f64>,
) -> Tensor {
    match fused_rows(x, weight) {
        Some(rows) => native::linear_cross_entropies(x, weight, targets, cap.unwrap_or(0.0), rows)
            .expect("shapes and dtypes are the model's own"),
        None => tch::no_grad(|| composed(x, weight, targets, cap, Reduction::None)),
    }
}

/// The rows of a block where the native kernel computes the loss.
fn fused_rows(x: &Tensor, weight: &Tensor) -> Option<i64> {
    let fused = x.device() == Device::Cpu
        && match x.kind() {
            Kind::BFloat16 => matches!(weight.kind(), Kind::Float | Kind::BFloat16),
            Kind::Float | Kind::Double => x.kind() == weight.kind(),
            _ => false,
        };
    let vocabulary = weight.size()[0];
    let element = x.kind().elt_size_in_bytes() as i64;
    fused.then(|| (BLOCK_BYTES / (element * vocabulary.max(1))).clamp(256, 4096))
}

fn composed(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    cap: Option<f64>,
    reduction: Reduction,
) -> Tensor {
    let logits = x.linear(weight, None::<&Tensor>); // (N, V)
    let wide = if logits.kind() == Kind::Double {
        logits
    } else {
        logits.to_kind(Kind::Float)
    };
    let capped = soft_cap(&wide, cap);
    capped.cross_entropy_loss(targets, None::<&Tensor>, reduction, IGNORE, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_give_the_loss_and_gradients_of_the_plain_form() {
        tch::manual_seed(1);
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-5)] {
            for cap in [None, Some(15.0)] {
                let options = (kind, Device::Cpu);
                // All sides wide enough for the products of whole layers.
                let (n, c, v) = (150, 24, 37);
                let x0 = Tensor::randn([n, c], options) * 2.0;
                let w0 = Tensor::randn([v, c], options) * 2.0;
                let targets = Tensor::randint(v, [n], (Kind::Int64, Device::Cpu));
                let _ = targets.narrow(0, 3, 5).fill_(IGNORE);
                let run = |f: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
                    let x = x0.copy().set_requires_grad(true);
                    let w = w0.copy().set_requires_grad(true);
                    let loss = f(&x, &w);
                    (&loss * 0.25).backward();
                    [loss.detach(), x.grad(), w.grad()]
                };
                let plain = run(&|x, w| composed(x, w, &targets, cap, Reduction::Sum));
                let blocks = run(&|x, w| {
                    native::linear_cross_entropy(x, w, &targets, cap.unwrap_or(0.0), 64)
                        .expect("runs")
                });
                let summands = linear_cross_entropies(&x0, &w0, &targets, cap);
                let alone = composed(&x0, &w0, &targets, cap, Reduction::None);
                assert_eq!(summands.size(), [n]);
                assert!(summands.allclose(&alone, 1e-4, 1e-4, false));
                let whole = linear_cross_entropy(&x0, &w0, &targets, cap);
                assert!(summands.sum(kind).equal(&whole), "to the last bit");
                for (a, b) in plain.iter().zip(&blocks) {
                    let scale = f64::try_from(a.abs().max()).expect("a number").max(1.0);
                    let difference = f64::try_from((a - b).abs().max()).expect("a number") / scale;
                    assert!(difference < tolerance, "{kind:?} cap {cap:?}: {difference}");
                }
            }
        }
    }

    #[test]
    fn products_in_bf16_stay_near_and_a_frozen_weight_has_no_gradient() {
        tch::manual_seed(2);
        let options = (Kind::Float, Device::Cpu);
        let x0 = Tensor::randn([150, 32], options).to_kind(Kind::BFloat16);
        let w0 = Tensor::randn([40, 32], options).to_kind(Kind::BFloat16);
        let targets = Tensor::randint(40, [150], (Kind::Int64, Device::Cpu));
        let run = |x_kind: Kind, weight_kind: Kind, frozen: bool| {
            let x = x0.to_kind(x_kind).detach().set_requires_grad(true);
            let w = w0.to_kind(weight_kind).detach();
            let w = w.set_requires_grad(!frozen);
            let loss = native::linear_cross_entropy(&x, &w, &targets, 15.0, 64).expect("runs");
            loss.backward();
            assert_eq!(w.grad().defined(), !frozen);
            let dw = if frozen { w.zeros_like() } else { w.grad() };
            assert_eq!(dw.kind(), weight_kind, "in the weight's own dtype");
            [loss.detach(), x.grad(), dw].map(|tensor| tensor.to_kind(Kind::Float))
        };
        let exact = run(Kind::Float, Kind::Float, false);
        let mixed = run(Kind::BFloat16, Kind::Float, false);
        for (wide, narrow) in exact.iter().zip(&mixed) {
            let scale = f64::try_from(wide.abs().max()).expect("a number");
            let off = f64::try_from((wide - narrow).abs().max()).expect("a number");
            assert!(off < scale / 60.0, "off by {off} of {scale}");
        }
        let frozen = run(Kind::BFloat16, Kind::Float, true);
        assert!(frozen[0].equal(&mixed[0]) && frozen[1].equal(&mixed[1]));
    }

    #[test]
    fn extreme_logits_stay_finite_and_nan_is_seen() {
        let x = Tensor::from_slice(&[1e4f32, -1e4]).view([2, 1]);
        let weight = Tensor::from_slice(&[1f32, -1.0, 0.5]).view([3, 1]);
        let targets = Tensor::from_slice(&[0i64, 0]);
        let loss =
            f64::try_from(linear_cross_entropy(&x, &weight, &targets, None)).expect("a number");
        assert!((loss - 2e4).abs() < 1.0, "{loss}");
        let nan = Tensor::from_slice(&[f32::NAN, 1.0]).view([2, 1]);
        assert!(
            f64::try_from(linear_cross_entropy(&nan, &weight, &targets, None))
                .expect("a number")
                .is_nan()
        );
    }
}
