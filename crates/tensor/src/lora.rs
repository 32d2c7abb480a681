//! Low-rank updates of frozen linear layers: LoRA (Hu et al. 2021), `x W^T + s · (x A^T) B^T`.
//!
//! A layer that stacks several matrices over one input (queries, keys and values) has an update for each
//! of its parts. Their `A` lie in one matrix, so that the input is read once; each `B` adds to its part's own
//! columns of the output. Which layers are updated, and their files, are the model's business.
//!
//! I inputs, O outputs, R ranks of all parts together.

use tch::{Device, Kind, Tensor, no_grad};

use crate::native;

/// The update of a layer.
#[derive(Debug)]
pub struct LowRank {
    /// `(R, I)`: the parts' `A`, stacked in the order of `parts`.
    pub a: Tensor,
    /// The updated parts.
    pub parts: Vec<LowRankPart>,
    /// The share of the input's numbers that `A` does not see while gradients are recorded.
    pub dropout: f64,
}

/// The update of one part of a layer.
#[derive(Debug)]
pub struct LowRankPart {
    /// The part's first output.
    pub start: i64,
    /// `(outputs, rank)`.
    pub b: Tensor,
    /// What the product is multiplied with.
    pub scale: f64,
}

impl LowRank {
    /// The same tensors under another handle.
    pub fn shallow_clone(&self) -> Self {
        let part = |part: &LowRankPart| LowRankPart {
            b: part.b.shallow_clone(),
            ..*part
        };
        Self {
            a: self.a.shallow_clone(),
            parts: self.parts.iter().map(part).collect(),
            dropout: self.dropout,
        }
    }

    /// Each part with its own rows of `A`, `(rank, I)`.
    pub fn pairs(&self) -> impl Iterator<Item = (Tensor, &LowRankPart)> {
        let mut first = 0;
        self.parts.iter().map(move |part| {
            let rank = rank(part);
            first += rank;
            (self.a.narrow(0, first - rank, rank), part)
        })
    }

    /// Adds the update, `weight` times over, to a layer's weight `(O, I)`, in float32 at least.
    pub fn merge_into(&self, target: &Tensor, weight: f64) {
        no_grad(|| {
            for (a, part) in self.pairs() {
                let delta = part.b.matmul(&a) * (part.scale * weight); // (outputs, I)
                let mut rows = target.narrow(0, part.start, delta.size()[0]);
                let sum = rows.to_kind(delta.kind()) + delta;
                rows.copy_(&sum);
            }
        });
    }
}

fn rank(part: &LowRankPart) -> i64 {
    part.b.size()[1]
}

/// A frozen layer's output for `x` `(…, I)`: `x W^T + bias`, and the update where there is one. A weight
/// that is kept in another dtype than `x` is converted for the product and not kept so.
pub fn frozen_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    update: Option<&LowRank>,
) -> Tensor {
    let known = matches!(x.kind(), Kind::Float | Kind::Double | Kind::BFloat16);
    if x.device() == Device::Cpu && known {
        return native::low_rank_linear(x, weight, bias, update)
            .expect("shapes and dtypes are the layer's own");
    }
    composed(x, weight, bias, update)
}

fn composed(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    update: Option<&LowRank>,
) -> Tensor {
    // Where autocast is on, it converts by itself.
    let own = |tensor: &Tensor| tensor.to_kind(x.kind());
    let y = x.linear(&own(weight), bias.map(own).as_ref()); // (…, O)
    let Some(update) = update else { return y };
    let mut shape = y.size();
    let outputs = weight.size()[0];
    let (mut pieces, mut filled) = (Vec::new(), 0);
    let mut skip = |until: i64, filled: i64, pieces: &mut Vec<Tensor>| {
        if until > filled {
            *shape.last_mut().expect("at least one dimension") = until - filled;
            pieces.push(Tensor::zeros(&shape, (y.kind(), y.device())));
        }
    };
    let dropout = update.dropout > 0.0 && native::records_gradients();
    let shared = (!dropout).then(|| x.linear(&own(&update.a), None::<&Tensor>)); // (…, R)
    let mut first = 0;
    for (a, part) in update.pairs() {
        let rank = rank(part);
        let inner = match &shared {
            Some(shared) => shared.narrow(-1, first, rank),
            None => x
                .dropout(update.dropout, true)
                .linear(&own(&a), None::<&Tensor>),
        }; // (…, rank)
        skip(part.start, filled, &mut pieces);
        let product = inner.linear(&own(&part.b), None::<&Tensor>) * part.scale;
        pieces.push(product.to_kind(y.kind()));
        filled = part.start + part.b.size()[0];
        first += rank;
    }
    skip(outputs, filled, &mut pieces);
    y + Tensor::cat(&pieces, -1) // (…, O)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

    /// Parts of ranks 2 and 3 over outputs 0..4 and 6..9 of 11.
    fn update(dropout: f64) -> LowRank {
        tch::manual_seed(5);
        let draw = |shape: [i64; 2]| Tensor::randn(shape, DOUBLE).set_requires_grad(true);
        let part = |start, shape, scale| LowRankPart {
            start,
            b: draw(shape),
            scale,
        };
        LowRank {
            a: draw([5, 7]),
            parts: vec![part(0, [4, 2], 0.5), part(6, [3, 3], 2.0)],
            dropout,
        }
    }

    fn largest(tensor: Tensor) -> f64 {
        f64::try_from(tensor.abs().max()).expect("a number")
    }

    /// Output and the gradients of x, A and both B.
    fn run(
        f: impl Fn(&Tensor, &Tensor, Option<&Tensor>, Option<&LowRank>) -> Tensor,
        biased: bool,
    ) -> Vec<Tensor> {
        let update = update(0.0);
        let x = Tensor::randn([2, 3, 7], DOUBLE).set_requires_grad(true);
        let weight = Tensor::randn([11, 7], DOUBLE);
        let bias = biased.then(|| Tensor::randn([11], DOUBLE));
        let y = f(&x, &weight, bias.as_ref(), Some(&update));
        y.sin().sum(Kind::Double).backward();
        let grads = update.parts.iter().map(|part| part.b.grad());
        [y.detach(), x.grad(), update.a.grad()]
            .into_iter()
            .chain(grads)
            .collect()
    }

    #[test]
    fn fused_and_composed_forms_agree_with_a_dense_update() {
        for biased in [false, true] {
            let fused = run(frozen_linear, biased);
            let plain = run(composed, biased);
            let dense = run(
                |x, weight, bias, update| {
                    let update = update.expect("given");
                    let pieces: Vec<Tensor> = update
                        .pairs()
                        .map(|(a, part)| part.b.matmul(&a) * part.scale)
                        .collect();
                    let zeros = Tensor::zeros([2, 7], DOUBLE);
                    let delta = Tensor::cat(&[&pieces[0], &zeros, &pieces[1], &zeros], 0);
                    x.linear(&(weight + delta), bias)
                },
                biased,
            );
            for ((fused, plain), dense) in fused.iter().zip(&plain).zip(&dense) {
                assert!(largest(fused - dense) < 1e-12);
                assert!(largest(plain - dense) < 1e-12);
            }
        }
    }

    #[test]
    fn a_merged_weight_gives_the_same_output() {
        let update = update(0.0);
        let x = Tensor::randn([6, 7], DOUBLE);
        let weight = Tensor::randn([11, 7], DOUBLE);
        let apart = frozen_linear(&x, &weight, None, Some(&update));
        update.merge_into(&weight, 1.0);
        assert!(largest(apart - x.linear(&weight, None::<&Tensor>)) < 1e-12);
    }

    #[test]
    fn a_weight_in_bf16_is_used_in_the_input_s_dtype() {
        tch::manual_seed(5);
        let x = Tensor::randn([6, 7], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let weight = Tensor::randn([11, 7], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        let y = frozen_linear(&x, &weight, None, None);
        let wide = x.linear(&weight.to_kind(Kind::Float), None::<&Tensor>);
        assert_eq!(y.kind(), Kind::Float);
        assert!(largest(&y - &wide) < 1e-6);
        y.sum(Kind::Float).backward();
        assert!(
            largest(
                x.grad()
                    - weight.to_kind(Kind::Float).sum_dim_intlist(
                        [0i64].as_slice(),
                        false,
                        Kind::Float
                    )
            ) < 1e-5
        );
    }

    #[test]
    fn dropout_is_for_training_alone_and_right_on_average() {
        let update = update(0.0);
        let dropped = LowRank {
            dropout: 0.4,
            ..update.shallow_clone()
        };
        let x = Tensor::randn([1, 7], DOUBLE).set_requires_grad(true);
        let weight = Tensor::zeros([11, 7], DOUBLE);
        let whole = frozen_linear(&x, &weight, None, Some(&update)).detach();
        let quiet = no_grad(|| frozen_linear(&x, &weight, None, Some(&dropped)));
        assert!(largest(&whole - quiet) < 1e-12);
        let many = x.expand([200_000, 7], false);
        for form in [frozen_linear, composed] {
            let y = form(&many, &weight, None, Some(&dropped));
            let mean = y.mean_dim([0i64].as_slice(), false, Kind::Double);
            let spread = f64::try_from(y.std(true).max()).expect("a number");
            assert!(largest(&whole - mean) < 0.1, "the mean is the whole");
            assert!(spread > 0.5, "something is dropped");
        }
    }

    #[test]
    fn dropout_s_gradients_are_those_of_the_same_draw() {
        // With x of ones and no weight the output is linear in A and in B, so that value and gradient tell
        // of the same draw: f = Σ B ∂f/∂B = Σ A ∂f/∂A.
        let update = update(0.5);
        let x = Tensor::randn([50, 7], DOUBLE).set_requires_grad(true);
        let y = frozen_linear(&x, &Tensor::zeros([11, 7], DOUBLE), None, Some(&update));
        let f = y.sum(Kind::Double);
        f.backward();
        let f = f64::try_from(f).expect("a number");
        let product =
            |of: &Tensor| f64::try_from((of * of.grad()).sum(Kind::Double)).expect("a number");
        let by_b: f64 = update.parts.iter().map(|part| product(&part.b)).sum();
        assert!((f - by_b).abs() < 1e-9 * f.abs().max(1.0));
        assert!((f - product(&update.a)).abs() < 1e-9 * f.abs().max(1.0));
        assert!((f - product(&x)).abs() < 1e-9 * f.abs().max(1.0));
    }
}
