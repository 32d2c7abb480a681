//! Low-rank updates of frozen linear layers: LoRA (Hu et al. 2021), `x W^T + s · (x A^T) B^T`.
//!
//! A layer that stacks several matrices over one input (queries, keys and values) has an update for each
//! of its parts. Their `A` lie in one matrix, so that the input is read once; each `B` adds to its part's own
//! columns of the output. Which layers are updated, and their files, are the model's business.
//!
//! Dropout draws nothing from a generator. Whether a part sees a number of its input is a hash of the seed that
//! this thread gave last (every training step gives one), of the layer and the part, of the place and of the
//! column. A place is a number of the caller's; where it names the token and not the row that the token happens to
//! lie in, training does not depend on how rows are put together.
//!
//! I inputs, O outputs, R ranks of all parts together, N places.

use tch::{Device, Kind, Tensor, no_grad};

use crate::few_rows::{Before, few_rows_linear, inference};
use crate::seed::last_seed;
use crate::{native, ops};

/// The update of a layer.
#[derive(Debug)]
pub struct LowRank {
    /// `(R, I)`: the parts' `A`, stacked in the order of `parts`.
    pub a: Tensor,
    /// The updated parts.
    pub parts: Vec<LowRankPart>,
    /// The share of the input's numbers that `A` does not see while gradients are recorded.
    pub dropout: f64,
    /// The layer's number: each draws for itself.
    pub layer: u64,
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
            layer: self.layer,
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
/// that is kept in another dtype than `x` is converted for the product and not kept so. `places`: what dropout draws
/// by, an int64 for each row of `x`; with none, that is the row's number.
pub fn frozen_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    update: Option<&LowRank>,
    places: Option<&Tensor>,
) -> Tensor {
    if update.is_none() && x.device() == Device::Cpu && inference() {
        // As if the weight had been in x's dtype from the start.
        return few_rows_linear(x, Before::Nothing, weight, bias, None)
            .unwrap_or_else(|| ops::linear_of_many_rows(x, &weight.to_kind(x.kind()), bias));
    }
    let known = matches!(x.kind(), Kind::Float | Kind::Double | Kind::BFloat16);
    if x.device() == Device::Cpu && known {
        return native::low_rank_linear(x, weight, bias, update, places)
            .expect("shapes and dtypes are the layer's own");
    }
    composed(x, weight, bias, update, places)
}

fn composed(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    update: Option<&LowRank>,
    places: Option<&Tensor>,
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
    for (number, (a, part)) in update.pairs().enumerate() {
        let rank = rank(part);
        let inner = match &shared {
            Some(shared) => shared.narrow(-1, first, rank),
            None => {
                let kept = kept(x, update, number as u64, places).to_kind(x.kind());
                (x * kept / (1.0 - update.dropout)).linear(&own(&a), None::<&Tensor>)
            }
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

/// One where a part sees a number of `x` `(…, I)`, and zero where not: what `Dropout` of `native/lora.cpp` draws.
fn kept(x: &Tensor, update: &LowRank, part: u64, places: Option<&Tensor>) -> Tensor {
    const STEP: i64 = 0x9e37_79b9_7f4a_7c15u64 as i64;
    let width = *x.size().last().expect("at least one dimension");
    let rows = x.numel() as i64 / width;
    let int = (Kind::Int64, x.device());
    let shifted = |z: &Tensor, by: i64| {
        let copies_of_the_sign = z.bitwise_right_shift_tensor_scalar(by);
        copies_of_the_sign.bitwise_and(u64::MAX.wrapping_shr(by as u32) as i64)
    };
    let splitmix = |state: &Tensor| {
        let z = state + STEP;
        let z = z.bitwise_xor_tensor(&shifted(&z, 30)) * 0xbf58_476d_1ce4_e5b9u64 as i64;
        let z = z.bitwise_xor_tensor(&shifted(&z, 27)) * 0x94d0_49bb_1331_11ebu64 as i64;
        z.bitwise_xor_tensor(&shifted(&z, 31))
    };
    let layer_key = mixed(mixed(last_seed()) ^ (update.layer << 8 | part)) as i64;
    let places = match places {
        Some(places) => places.reshape([-1]),
        None => Tensor::arange(rows, int),
    }; // (N)
    let state = splitmix(&places.bitwise_xor(layer_key)).unsqueeze(1); // (N, 1)
    let pairs = (width + 1) / 2;
    let drawn = splitmix(&(state + Tensor::arange(pairs, int) * STEP)); // (N, I / 2)
    let halves = [drawn.bitwise_and(i64::from(u32::MAX)), shifted(&drawn, 32)];
    let halves = Tensor::stack(&halves, -1)
        .view([rows, -1])
        .narrow(1, 0, width); // (N, I)
    let least = (update.dropout * 4_294_967_296.0) as i64;
    halves.ge(least).view(&x.size()[..])
}

/// SplitMix64's next number (Steele, Lea and Flood 2014).
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed_everything;

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
            layer: 3,
        }
    }

    fn largest(tensor: Tensor) -> f64 {
        f64::try_from(tensor.abs().max()).expect("a number")
    }

    /// Output and the gradients of x, A and both B.
    fn run(
        f: impl Fn(&Tensor, &Tensor, Option<&Tensor>, Option<&LowRank>, Option<&Tensor>) -> Tensor,
        biased: bool,
    ) -> Vec<Tensor> {
        let update = update(0.0);
        let x = Tensor::randn([2, 3, 7], DOUBLE).set_requires_grad(true);
        let weight = Tensor::randn([11, 7], DOUBLE);
        let bias = biased.then(|| Tensor::randn([11], DOUBLE));
        let y = f(&x, &weight, bias.as_ref(), Some(&update), None);
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
                |x, weight, bias, update, _| {
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
    fn wide_sides_in_float32_agree_as_well() {
        tch::manual_seed(8);
        let float = (Kind::Float, Device::Cpu);
        let normal = |size: &[i64]| Tensor::randn(size, float) * 0.3;
        let (x0, weight, dy) = (normal(&[40, 48]), normal(&[64, 48]), normal(&[40, 64]));
        let bias = normal(&[64]);
        let (a0, b0) = (normal(&[20, 48]), [normal(&[24, 12]), normal(&[40, 8])]);
        type Form =
            fn(&Tensor, &Tensor, Option<&Tensor>, Option<&LowRank>, Option<&Tensor>) -> Tensor;
        let run = |form: Form| {
            let x = x0.copy().set_requires_grad(true);
            let part = |place: usize, start, scale| LowRankPart {
                start,
                b: b0[place].copy().set_requires_grad(true),
                scale,
            };
            let update = LowRank {
                a: a0.copy().set_requires_grad(true),
                parts: vec![part(0, 0, 2.0), part(1, 24, 0.5)],
                dropout: 0.0,
                layer: 0,
            };
            let y = form(&x, &weight, Some(&bias), Some(&update), None);
            (&y * &dy).sum(Kind::Float).backward();
            let b = update.parts.iter().map(|part| part.b.grad());
            let all = [y.detach(), x.grad(), update.a.grad()].into_iter();
            all.chain(b).collect::<Vec<_>>()
        };
        for (fused, plain) in run(frozen_linear).iter().zip(&run(composed)) {
            assert!(fused.allclose(plain, 1e-4, 1e-4, false));
        }
    }

    #[test]
    fn a_merged_weight_gives_the_same_output() {
        let update = update(0.0);
        let x = Tensor::randn([6, 7], DOUBLE);
        let weight = Tensor::randn([11, 7], DOUBLE);
        let apart = frozen_linear(&x, &weight, None, Some(&update), None);
        update.merge_into(&weight, 1.0);
        assert!(largest(apart - x.linear(&weight, None::<&Tensor>)) < 1e-12);
    }

    #[test]
    fn a_weight_in_bf16_is_used_in_the_input_s_dtype() {
        tch::manual_seed(5);
        let x = Tensor::randn([6, 7], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let weight = Tensor::randn([11, 7], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        let y = frozen_linear(&x, &weight, None, None, None);
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
        let whole = frozen_linear(&x, &weight, None, Some(&update), None).detach();
        let quiet = no_grad(|| frozen_linear(&x, &weight, None, Some(&dropped), None));
        assert!(largest(&whole - quiet) < 1e-12);
        let many = x.expand([200_000, 7], false);
        for form in [frozen_linear, composed] {
            let y = form(&many, &weight, None, Some(&dropped), None);
            let mean = y.mean_dim([0i64].as_slice(), false, Kind::Double);
            let spread = f64::try_from(y.std(true).max()).expect("a number");
            assert!(largest(&whole - mean) < 0.1, "the mean is the whole");
            assert!(spread > 0.5, "something is dropped");
        }
    }

    #[test]
    fn dropout_is_drawn_by_place_in_both_forms() {
        let mut update = update(0.3);
        let x = Tensor::randn([6, 7], DOUBLE);
        let weight = Tensor::zeros([11, 7], DOUBLE);
        let places = Tensor::from_slice(&[5i64, -9, 1 << 40, 0, i64::MIN, 5]);
        seed_everything(8);
        let whole = frozen_linear(&x, &weight, None, Some(&update), Some(&places));
        let plain = composed(&x, &weight, None, Some(&update), Some(&places));
        assert!(largest(&whole - plain) < 1e-12);
        // A row is the same wherever it lies, and what was drawn before does not matter.
        for row in 0..6 {
            let _ = Tensor::randn([3], DOUBLE);
            let (x, place) = (x.narrow(0, row, 1), places.narrow(0, row, 1));
            let alone = frozen_linear(&x, &weight, None, Some(&update), Some(&place));
            assert!(
                largest(whole.narrow(0, row, 1) - alone) < 1e-12,
                "row {row}"
            );
        }
        // Another seed, another layer and other places draw otherwise.
        let drawn = |update: &LowRank, places| {
            let ones = Tensor::ones([400, 7], DOUBLE);
            kept(&ones, update, 0, places).to_kind(Kind::Double)
        };
        let one = drawn(&update, None);
        let later = Tensor::arange_start(400, 800, (Kind::Int64, Device::Cpu));
        let elsewhere = drawn(&update, Some(&later));
        seed_everything(9);
        let reseeded = drawn(&update, None);
        seed_everything(8);
        update.layer += 1;
        for other in [elsewhere, reseeded, drawn(&update, None)] {
            let both = f64::try_from((&one * other).mean(Kind::Double)).expect("a number");
            assert!((both - 0.49).abs() < 0.03, "independent: {both}");
        }
    }

    #[test]
    fn dropout_s_gradients_are_those_of_the_same_draw() {
        // With x of ones and no weight the output is linear in A and in B, so that value and gradient tell
        // of the same draw: f = Σ B ∂f/∂B = Σ A ∂f/∂A.
        let update = update(0.5);
        let x = Tensor::randn([50, 7], DOUBLE).set_requires_grad(true);
        let y = frozen_linear(
            &x,
            &Tensor::zeros([11, 7], DOUBLE),
            None,
            Some(&update),
            None,
        );
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
