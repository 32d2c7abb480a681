//! Low-rank updates of frozen linear layers: LoRA (Hu et al. 2021), `x W^T + s · (x A^T) B^T`, and DoRA (Liu et al.
//! 2024), in which each row of the updated weight has a length that is learnt apart from its direction.
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
    /// DoRA's magnitudes, `(outputs)`: how long each row of the updated weight is. With none it is as long as it comes.
    pub magnitude: Option<Tensor>,
}

impl LowRank {
    /// The same tensors under another handle.
    pub fn shallow_clone(&self) -> Self {
        let part = |part: &LowRankPart| LowRankPart {
            b: part.b.shallow_clone(),
            magnitude: part.magnitude.as_ref().map(Tensor::shallow_clone),
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

    /// Adds the update, `weight` times over, to a layer's weight `(O, I)`, in float32 at least. Of a part with
    /// magnitudes that is so much of the way to what becomes of the weight.
    pub fn merge_into(&self, target: &Tensor, weight: f64) {
        no_grad(|| {
            for (a, part) in self.pairs() {
                let whole = part.b.matmul(&a) * part.scale; // (outputs, I)
                let mut rows = target.narrow(0, part.start, whole.size()[0]);
                let own = rows.to_kind(whole.kind());
                let delta = match &part.magnitude {
                    None => whole,
                    Some(magnitude) => {
                        let gain = magnitude / &part.lengths(&own, &a);
                        (&own + whole) * gain.unsqueeze(1) - &own
                    }
                };
                rows.copy_(&(own + delta * weight));
            }
        });
    }

    /// What each output is multiplied with, `(O)`, in float32 at least: by it a row of the updated weight gets the
    /// length of its magnitude. None where no part has magnitudes. The length before it counts as a constant for the
    /// gradients (section 4.3 of the paper).
    fn gains(&self, weight: &Tensor) -> Option<Tensor> {
        self.parts.iter().find(|part| part.magnitude.is_some())?;
        let _exact = native::NoAutocast::enter(weight.device());
        let (mut pieces, mut filled) = (Vec::new(), 0);
        let ones = |count: i64| Tensor::ones([count], (self.a.kind(), self.a.device()));
        for (a, part) in self.pairs() {
            let outputs = part.b.size()[0];
            pieces.push(ones(part.start - filled));
            pieces.push(match &part.magnitude {
                None => ones(outputs),
                Some(magnitude) => {
                    let rows = weight.narrow(0, part.start, outputs);
                    magnitude / no_grad(|| part.lengths(&rows.to_kind(a.kind()), &a))
                }
            });
            filled = part.start + outputs;
        }
        pieces.push(ones(weight.size()[0] - filled));
        Some(Tensor::cat(&pieces, 0))
    }
}

impl LowRankPart {
    /// How long each row of `W + s B A` is, `(outputs)`, for `weight` `(outputs, I)`, without making that matrix:
    /// `‖w‖² + 2 s b · (A w) + s² b (A Aᵀ) bᵀ`.
    fn lengths(&self, weight: &Tensor, a: &Tensor) -> Tensor {
        let along = |product: Tensor| {
            (product * &self.b).sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)
        };
        let own = row_lengths(weight).square();
        let cross = along(weight.matmul(&a.tr())) * (2.0 * self.scale);
        let update = along(self.b.matmul(&a.matmul(&a.tr()))) * (self.scale * self.scale);
        // A row of zeros stays one.
        (own + cross + update)
            .clamp_min(f64::from(f32::MIN_POSITIVE))
            .sqrt()
    }
}

/// How long each row of a matrix is, `(O, I)` to `(O)`.
pub fn row_lengths(matrix: &Tensor) -> Tensor {
    matrix.linalg_norm(2, [1i64].as_slice(), false, None::<Kind>)
}

fn rank(part: &LowRankPart) -> i64 {
    part.b.size()[1]
}

/// A frozen layer's output for `x` `(…, I)`: `x W^T + bias`, and the update where there is one. A weight
/// that is kept in another dtype than `x` is converted for the product and not kept so. `places`: what dropout draws
/// by, an int64 for each row of `x`; with none, that is the row's number. With magnitudes the update's dropout leaves
/// `x W^T` whole; PEFT's takes a part of that from the dropped input.
pub fn frozen_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    update: Option<&LowRank>,
    places: Option<&Tensor>,
) -> Tensor {
    if let Some(gains) = update.and_then(|update| update.gains(weight)) {
        let y = updated(x, weight, None, update, places);
        let y = (&y * gains).to_kind(y.kind()); // the product in the wider dtype: gains are near 1
        return match bias {
            None => y,
            Some(bias) => &y + bias.to_kind(y.kind()),
        };
    }
    updated(x, weight, bias, update, places)
}

/// The same without regard to magnitudes.
fn updated(
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
mod tests;
