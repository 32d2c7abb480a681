//! Scaled dot-product attention. On the CPU causal attention and that of the newest position go through kernels of our
//! own, which take less than half of the time of libtorch's fused ones; everything else goes through libtorch's.

use tch::{Device, Kind, Tensor};

use crate::few_rows::inference;
use crate::native;
use crate::ops::Angles;

/// Which positions may be seen.
#[derive(Debug, Clone, Copy)]
pub enum AttentionMask<'a> {
    /// Each position sees itself and those before it; queries and keys have the same positions.
    Causal,
    /// Everything is seen: one new position against a cache.
    Full,
    /// `(B, 1, T, S)` or `(T, S)` booleans, true where the key is seen.
    Seen(&'a Tensor),
    /// Documents of these lengths, laid end to end through the rows: causal inside each, nothing across.
    Documents(&'a [i64]),
}

/// Queries `(B, H, T, D)`, keys and values `(B, G, S, D)` with G dividing H: query head h reads key
/// head h / (H / G) (Ainslie et al. 2023). Scores are divided by the root of D. Returns `(B, H, T, D)`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: AttentionMask<'_>) -> Tensor {
    let (heads, groups) = (q.size()[1], k.size()[1]);
    if let Some(y) = causal_by_hand([q, k, v], mask) {
        return y;
    }
    let (mask, causal) = match mask {
        AttentionMask::Causal => (None, true),
        AttentionMask::Full => (None, false),
        AttentionMask::Seen(seen) => (Some(seen), false),
        AttentionMask::Documents(lengths) => return each_document(q, k, v, lengths),
    };
    if !causal && made_for_one(q, k, v) && inference() {
        return native::attend_one(q, k, v, mask).expect("shapes and dtypes were looked at");
    }
    Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, heads != groups)
}

/// Causal attention by the native module, or none where that isn't made for it.
fn causal_by_hand(qkv: [&Tensor; 3], mask: AttentionMask<'_>) -> Option<Tensor> {
    let lengths = match mask {
        AttentionMask::Causal => None,
        AttentionMask::Documents(lengths) => Some(lengths),
        AttentionMask::Full | AttentionMask::Seen(_) => return None,
    };
    let [_, _, t, d] = qkv[0].size()[..] else {
        panic!("attention takes (B, H, T, D)")
    };
    let kind = qkv[0].kind();
    let made_for = matches!(kind, Kind::Float | Kind::Double | Kind::BFloat16)
        && d % native::HEAD_STEP == 0
        && qkv
            .iter()
            .all(|x| x.device() == Device::Cpu && x.kind() == kind && x.size()[2] == t);
    made_for
        .then(|| native::causal_attention(qkv, lengths).expect("shapes and dtypes were looked at"))
}

/// Whether this is one new position against a cache, on the CPU.
fn made_for_one(q: &Tensor, k: &Tensor, v: &Tensor) -> bool {
    let dense = |x: &Tensor| {
        let stride = x.stride();
        stride[3] == 1 && stride[2] == x.size()[3] && x.kind() == q.kind()
    };
    q.size()[2] == 1
        && q.device() == Device::Cpu
        && matches!(q.kind(), Kind::Float | Kind::Double)
        && dense(k)
        && dense(v)
}

/// One new position of each row, behind the layer's first product.
#[derive(Debug, Clone, Copy)]
pub struct NewPosition<'a> {
    /// Queries and keys side by side, `(B, 1, (H + G) D)`.
    pub qk: &'a Tensor,
    /// `(B, 1, G D)`.
    pub v: &'a Tensor,
    /// How queries and keys are to be turned, see [`crate::ops::rope`].
    pub angles: Option<&'a Angles>,
    /// The weightless query-key norm's; it comes with angles only.
    pub norm_eps: Option<f64>,
}

/// [`crate::ops::rope`], a place in the cache and [`attention`] in one go for the CPU, where twelve small operations a layer
/// take as long as a matrix. `keys` and `values`, `(B, G, capacity, D)`, hold `place` positions and get one more, and
/// all of them are attended to. Returns `(B, 1, H D)`, or none where it is not made for the input: nothing is written
/// then.
pub fn attend_newest(
    new: NewPosition<'_>,
    [keys, values]: [&Tensor; 2],
    place: i64,
    mask: AttentionMask<'_>,
) -> Option<Tensor> {
    let seen = match mask {
        AttentionMask::Full => None,
        AttentionMask::Seen(seen) => Some(seen),
        AttentionMask::Causal | AttentionMask::Documents(_) => return None,
    };
    let kind = new.qk.kind();
    let made_for = keys.device() == Device::Cpu
        && matches!(kind, Kind::Float | Kind::Double)
        && [new.v, keys, values].iter().all(|x| x.kind() == kind)
        && (new.angles.is_some() || new.norm_eps.is_none());
    if !made_for || !inference() {
        return None;
    }
    let angles = new.angles.map(|angles| angles.in_kind(kind));
    let sign = new.angles.map_or(1.0, |angles| angles.rotation.sign());
    let y = native::attend_newest(
        [new.qk, new.v],
        angles.as_ref().map(|[cos, sin]| [cos, sin]),
        (sign, new.norm_eps.unwrap_or(-1.0)),
        [keys, values],
        place,
        seen,
    );
    Some(y.expect("shapes are the layer's own"))
}

/// Attention document by document: a row of many short ones costs what they cost, not the row's square.
fn each_document(q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[i64]) -> Tensor {
    let [b, h, t, d] = q.size()[..] else {
        panic!("attention takes (B, H, T, D)")
    };
    assert_eq!(
        lengths.iter().sum::<i64>(),
        b * t,
        "documents fill the rows"
    );
    let pieces = |x: &Tensor| {
        let heads = x.size()[1];
        let flat = x.transpose(1, 2).reshape([1, b * t, heads, d]); // (1, B * T, H, D)
        flat.transpose(1, 2).split_with_sizes(lengths, 2) // (1, H, length, D) each
    };
    let (q, k, v) = (pieces(q), pieces(k), pieces(v));
    let outputs: Vec<Tensor> = (0..lengths.len())
        .map(|i| attention(&q[i], &k[i], &v[i], AttentionMask::Causal).transpose(1, 2))
        .collect();
    Tensor::cat(&outputs, 1).view([b, t, h, d]).transpose(1, 2) // (B, H, T, D)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;

    #[test]
    fn one_position_attends_like_many() {
        tch::manual_seed(4);
        for kind in [Kind::Double, Kind::Float] {
            let tolerance = if kind == Kind::Double { 1e-12 } else { 1e-5 };
            for (heads, groups, d, positions) in [(4, 2, 8, 1), (9, 3, 64, 37), (3, 3, 5, 700)] {
                let draw =
                    |heads: i64, t: i64| Tensor::randn([2, heads, t, d], (kind, Device::Cpu));
                let q = draw(heads, 1);
                // As a cache gives them: the first of more positions.
                let (k, v) = (draw(groups, positions + 3), draw(groups, positions + 3));
                let (k, v) = (k.narrow(2, 0, positions), v.narrow(2, 0, positions));
                let padded =
                    Tensor::arange(positions, (Kind::Int64, Device::Cpu)).ge(positions / 2);
                let every = Tensor::stack(
                    &[
                        padded.shallow_clone(),
                        padded.logical_or(&Tensor::from(true)),
                    ],
                    0,
                );
                for seen in [
                    None,
                    Some(padded.view([1, -1])),
                    Some(every.view([2, 1, 1, -1])),
                ] {
                    let one = native::attend_one(&q, &k, &v, seen.as_ref()).expect("shapes fit");
                    let many = Tensor::scaled_dot_product_attention(
                        &q,
                        &k,
                        &v,
                        seen.as_ref(),
                        0.0,
                        false,
                        None,
                        heads != groups,
                    );
                    let apart = f64::try_from((one - many).abs().max()).expect("a number");
                    assert!(
                        apart < tolerance,
                        "{heads} {groups} {d} {positions}: {apart}"
                    );
                }
            }
        }
    }

    /// What a layer does step by step with its new position.
    fn step_by_step(
        new: NewPosition<'_>,
        [keys, values]: [&Tensor; 2],
        place: i64,
        mask: AttentionMask<'_>,
    ) -> Tensor {
        let [b, g, _, d] = keys.size()[..] else {
            panic!("a cache is (B, G, capacity, D)")
        };
        let qk = new.qk.view([b, 1, -1, d]);
        let qk = match new.angles {
            Some(angles) => ops::rope(&qk, angles, new.norm_eps),
            None => qk,
        };
        let parts = qk.split_with_sizes([qk.size()[2] - g, g], 2);
        let keep = |room: &Tensor, new: &Tensor| room.narrow(2, place, 1).copy_(new);
        keep(keys, &parts[1].transpose(1, 2));
        keep(values, &new.v.view([b, 1, g, d]).transpose(1, 2));
        let seen = |room: &Tensor| room.narrow(2, 0, place + 1);
        attention(&parts[0].transpose(1, 2), &seen(keys), &seen(values), mask).reshape([b, 1, -1])
    }

    #[test]
    fn a_new_position_is_taken_in_at_once_as_step_by_step() {
        let _guard = tch::no_grad_guard();
        tch::manual_seed(6);
        let (b, capacity, place) = (2, 7, 4);
        for kind in [Kind::Double, Kind::Float] {
            let options = (kind, Device::Cpu);
            for (h, g, d) in [(4, 2, 6), (3, 3, 16), (3, 1, 2)] {
                let qkv = Tensor::randn([b, 1, (h + 2 * g) * d], options);
                let parts = qkv.split_with_sizes([(h + g) * d, g * d], -1);
                let angles = |rows: i64, rotation| {
                    let angle = Tensor::randn([rows, d / 2], options);
                    Angles {
                        cos: angle.cos(),
                        sin: angle.sin(),
                        rotation,
                    }
                };
                let turns = [
                    None,
                    Some(angles(1, ops::Rotation::Forward)),
                    Some(angles(b, ops::Rotation::Flipped)),
                ];
                let seen = Tensor::from_slice(&[
                    false, true, true, false, true, true, true, false, true, true,
                ]);
                let (each, shared) = (seen.view([b, 1, 1, 5]), seen.narrow(0, 0, 5).view([1, 5]));
                for angles in &turns {
                    for norm_eps in [None, Some(1e-5)] {
                        let new = NewPosition {
                            qk: &parts[0],
                            v: &parts[1],
                            angles: angles.as_ref(),
                            norm_eps,
                        };
                        for mask in [
                            AttentionMask::Full,
                            AttentionMask::Seen(&each),
                            AttentionMask::Seen(&shared),
                        ] {
                            let room = || Tensor::randn([b, g, capacity, d], options);
                            let at_once = [room(), room()];
                            let slowly = [at_once[0].copy(), at_once[1].copy()];
                            let y = attend_newest(new, at_once.each_ref(), place, mask);
                            if angles.is_none() && norm_eps.is_some() {
                                assert!(y.is_none() && at_once[0].equal(&slowly[0]));
                                continue;
                            }
                            let z = step_by_step(new, slowly.each_ref(), place, mask);
                            assert!(y.expect("made for the processor").equal(&z));
                            assert!(at_once[0].equal(&slowly[0]) && at_once[1].equal(&slowly[1]));
                        }
                    }
                }
            }
        }
    }

    /// The output and the gradients of queries, keys and values, for a loss that tells all of them apart.
    fn with_gradients(
        qkv: [&Tensor; 3],
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Tensor,
    ) -> Vec<Tensor> {
        let [q, k, v] = qkv.map(|x| x.detach().set_requires_grad(true));
        let y = attend(&q, &k, &v);
        let loss = y.cos().sum(y.kind());
        let mut all = Tensor::run_backward(&[loss], &[&q, &k, &v], false, false);
        all.push(y.detach());
        all
    }

    fn assert_near(all: &[Tensor], others: &[Tensor], tolerance: f64, what: &str) {
        for (one, other) in all.iter().zip(others) {
            let apart = f64::try_from((one - other).abs().max()).expect("a number");
            assert!(apart < tolerance, "{what}: {apart}");
        }
    }

    #[test]
    fn causal_attention_by_hand_is_libtorch_s() {
        tch::manual_seed(8);
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-5)] {
            // Lengths about a block of queries (48) and of keys (512), heads of one register and of several.
            for (b, t, heads, groups, d) in [
                (2, 1, 2, 2, 16),
                (1, 47, 4, 2, 64),
                (2, 49, 3, 1, 80),
                (1, 513, 3, 3, 48),
                (1, 1100, 2, 1, 32),
            ] {
                // As the layer gives them: positions before heads, keys beside queries.
                let qk = Tensor::randn([b, t, heads + groups, d], (kind, Device::Cpu));
                let parts = qk.split_with_sizes([heads, groups], 2);
                let (q, k) = (parts[0].transpose(1, 2), parts[1].transpose(1, 2));
                let v = Tensor::randn([b, groups, t, d], (kind, Device::Cpu));
                let ours = with_gradients([&q, &k, &v], |q, k, v| {
                    causal_by_hand([q, k, v], AttentionMask::Causal).expect("made for it")
                });
                let theirs = with_gradients([&q, &k, &v], |q, k, v| {
                    let none = None::<&Tensor>;
                    let shared = heads != groups;
                    Tensor::scaled_dot_product_attention(q, k, v, none, 0.0, true, None, shared)
                });
                assert_near(&ours, &theirs, tolerance, &format!("{kind:?} {t} {d}"));
            }
        }
    }

    #[test]
    fn bf16_is_computed_in_float32() {
        tch::manual_seed(10);
        let draw = || Tensor::randn([2, 2, 70, 32], (Kind::BFloat16, Device::Cpu));
        let (q, k, v) = (draw(), draw(), draw());
        let run = |kind: Kind| {
            let causal = |q: &Tensor, k: &Tensor, v: &Tensor| {
                let y = causal_by_hand([q, k, v], AttentionMask::Causal).expect("made for it");
                assert_eq!(y.kind(), kind);
                y.to_kind(Kind::Float)
            };
            let own = [&q, &k, &v].map(|x| x.to_kind(kind));
            with_gradients(own.each_ref(), causal)
        };
        for (narrow, wide) in run(Kind::BFloat16).iter().zip(&run(Kind::Float)) {
            let apart = f64::try_from((narrow - wide).abs().max()).expect("a number");
            // Eight bits of mantissa, of numbers up to 4; the gradient of the output was rounded too.
            assert!(apart < 0.05, "{apart}");
        }
    }

    #[test]
    fn nothing_behind_a_position_reaches_it() {
        tch::manual_seed(9);
        let x = Tensor::randn([1, 2, 130, 16], (Kind::Float, Device::Cpu));
        let whole = attention(&x, &x, &x, AttentionMask::Causal);
        for t in [1, 5, 6, 48, 64, 77] {
            let first = x.narrow(2, 0, t);
            let alone = attention(&first, &first, &first, AttentionMask::Causal);
            assert!(alone.equal(&whole.narrow(2, 0, t)), "{t}");
        }
        // Not even what is not finite.
        for bad in 0..60 {
            let place = |x: &Tensor| x.narrow(2, bad, 1);
            let spoilt = x.copy();
            let _ = place(&spoilt).fill_(f64::NAN);
            for [q, k, v] in [[&spoilt, &x, &x], [&x, &spoilt, &x], [&x, &x, &spoilt]] {
                let y = attention(q, k, v, AttentionMask::Causal);
                let before = y.narrow(2, 0, bad).isfinite().all();
                assert!(bool::try_from(before).expect("a boolean"), "{bad}");
                let there = place(&y).isfinite().any();
                assert!(!bool::try_from(there).expect("a boolean"), "{bad}");
            }
        }
        // Large scores neither overflow nor lose the others.
        let large = attention(&(&x * 1e4), &x, &x, AttentionMask::Causal);
        assert!(bool::try_from(large.isfinite().all()).expect("a boolean"));
    }

    #[test]
    fn what_the_kernels_are_not_made_for_is_left_to_libtorch() {
        let x = |d: i64, kind| Tensor::zeros([1, 1, 3, d], (kind, Device::Cpu));
        let takes = |x: &Tensor, mask| causal_by_hand([x, x, x], mask).is_some();
        assert!(takes(&x(16, Kind::Float), AttentionMask::Causal));
        assert!(takes(
            &x(32, Kind::Double),
            AttentionMask::Documents(&[1, 2])
        ));
        assert!(!takes(&x(24, Kind::Float), AttentionMask::Causal));
        assert!(!takes(&x(16, Kind::Half), AttentionMask::Causal));
        assert!(!takes(&x(16, Kind::Float), AttentionMask::Full));
    }

    #[test]
    fn documents_see_themselves_alone() {
        for d in [4, 16] {
            documents_of_heads(d);
        }
    }

    fn documents_of_heads(d: i64) {
        tch::manual_seed(2);
        let draw = |heads: i64| Tensor::randn([2, heads, 6, d], (Kind::Double, Device::Cpu));
        let (q, k, v) = (draw(4), draw(2), draw(2));
        let lengths = [2, 3, 0, 1, 6];
        let numbers = Tensor::from_slice(&[0i64, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3]).view([2, 6]);
        let same = numbers.unsqueeze(2).eq_tensor(&numbers.unsqueeze(1));
        let seen = same.tril(0).unsqueeze(1); // (B, 1, T, T)
        let run = |mask| with_gradients([&q, &k, &v], |q, k, v| attention(q, k, v, mask));
        let one = run(AttentionMask::Documents(&lengths));
        let other = run(AttentionMask::Seen(&seen));
        assert_near(&one, &other, 1e-12, "documents");
    }
}
