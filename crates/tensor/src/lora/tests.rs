//! Fused and composed forms against dense updates; dropout; magnitudes.

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
        magnitude: None,
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
    type Form = fn(&Tensor, &Tensor, Option<&Tensor>, Option<&LowRank>, Option<&Tensor>) -> Tensor;
    let run = |form: Form| {
        let x = x0.copy().set_requires_grad(true);
        let part = |place: usize, start, scale| LowRankPart {
            start,
            b: b0[place].copy().set_requires_grad(true),
            scale,
            magnitude: None,
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

/// The first part alone has magnitudes.
fn decomposed() -> LowRank {
    let mut update = update(0.0);
    let magnitude = Tensor::from_slice(&[0.5, 2.0, 3.0, 0.1]).set_requires_grad(true);
    update.parts[0].magnitude = Some(magnitude);
    update
}

#[test]
fn rows_with_magnitudes_get_their_lengths() {
    let update = decomposed();
    let (x, weight) = (
        Tensor::randn([6, 7], DOUBLE),
        Tensor::randn([11, 7], DOUBLE),
    );
    let bias = Tensor::randn([11], DOUBLE);
    let apart = frozen_linear(&x, &weight, Some(&bias), Some(&update), None);
    let merged = weight.copy();
    update.merge_into(&merged, 1.0);
    assert!(largest(&apart - x.linear(&merged, Some(&bias))) < 1e-12);
    let lengths = row_lengths(&merged);
    let magnitude = update.parts[0].magnitude.as_ref().expect("just set");
    assert!(largest(lengths.narrow(0, 0, 4) - magnitude) < 1e-12);
    let half = weight.copy();
    update.merge_into(&half, 0.5);
    assert!(largest(half - (merged + &weight) / 2.0) < 1e-12);

    // Lengths are exact under autocast.
    let float = |tensor: &Tensor| tensor.detach().to_kind(Kind::Float);
    let mut narrow = update.shallow_clone();
    narrow.a = float(&update.a);
    for part in &mut narrow.parts {
        part.b = float(&part.b);
        part.magnitude = part.magnitude.as_ref().map(float);
    }
    let gains = update.gains(&weight).expect("there are magnitudes");
    let inside = crate::Precision::Bfloat16.autocast(Device::Cpu, || {
        let gains = narrow.gains(&float(&weight)).expect("as before");
        assert!(native::autocasts_cpu(), "it is on again");
        gains
    });
    assert!(largest(inside - gains) < 1e-5);
}

#[test]
fn a_gain_near_one_is_seen_in_bf16() {
    let float = (Kind::Float, Device::Cpu);
    let weight = Tensor::eye(4, float);
    let update = LowRank {
        a: Tensor::zeros([1, 4], float),
        parts: vec![LowRankPart {
            start: 0,
            b: Tensor::zeros([4, 1], float),
            scale: 1.0,
            magnitude: Some(Tensor::full([4], 1.003, float).set_requires_grad(true)),
        }],
        dropout: 0.0,
        layer: 0,
    };
    // In bf16 the numbers from 1 to 2 are 2^-7 apart, and 1.003 is nearer to 1; 1.5 by it is nearer to 1.5078.
    let x = Tensor::full([1, 4], 1.496_093_75, float).to_kind(Kind::BFloat16);
    let y = frozen_linear(&x, &weight, None, Some(&update), None);
    assert_eq!(y.kind(), Kind::BFloat16);
    let exact = x.to_kind(Kind::Float) * 1.003;
    assert!(y.equal(&exact.to_kind(Kind::BFloat16)));
    assert!(!y.equal(&x), "{y}");
}

#[test]
fn a_row_of_zeros_with_a_magnitude_is_no_nan() {
    let update = decomposed();
    let _ = no_grad(|| update.parts[0].b.shallow_clone().zero_());
    let x = Tensor::randn([6, 7], DOUBLE);
    let y = frozen_linear(
        &x,
        &Tensor::zeros([11, 7], DOUBLE),
        None,
        Some(&update),
        None,
    );
    y.sum(Kind::Double).backward();
    let magnitude = update.parts[0].magnitude.as_ref().expect("set");
    for tensor in [&y, &magnitude.grad(), &update.parts[0].b.grad()] {
        assert!(tensor.isfinite().all().int64_value(&[]) == 1);
    }
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
