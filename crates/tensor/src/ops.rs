//! Operations with a fused form on the CPU (float32, float64, and bfloat16 computed in float32) and a
//! composed form elsewhere. Both give the same numbers up to rounding; the tests hold them to each other.

use tch::{Device, Kind, Tensor};

use crate::few_rows::{Before, few_rows_linear};
use crate::native;

/// Why a libtorch failure in an operation is a bug here, as it is for tch's own plain operations.
const SHAPES: &str = "shapes and dtypes are the layer's own";

fn fused(x: &Tensor) -> bool {
    x.device() == Device::Cpu && matches!(x.kind(), Kind::Float | Kind::Double | Kind::BFloat16)
}

/// What a kernel over `x` computes in, and takes weights and angles in.
fn wide(x: &Tensor) -> Kind {
    if x.kind() == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}

/// `x W^T + bias`: `(…, I)` by `(O, I)` to `(…, O)`. A few rows on the CPU, as they are when text is made token by
/// token, go through a product of their own while no gradients are recorded.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    few_rows_linear(x, Before::Nothing, weight, bias, None)
        .unwrap_or_else(|| linear_of_many_rows(x, weight, bias))
}

/// In float32 on the CPU by the products of `native/product.h`, and as libtorch does it elsewhere.
pub(crate) fn linear_of_many_rows(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let float = |tensor: &Tensor| tensor.device() == Device::Cpu && tensor.kind() == Kind::Float;
    if [Some(x), Some(weight), bias]
        .into_iter()
        .flatten()
        .all(float)
        && !native::autocasts_cpu()
    {
        return native::linear(x, weight, bias).expect(SHAPES);
    }
    x.linear(weight, bias)
}

/// Root-mean-square norm over the last dimension (Zhang and Sennrich 2019): `x / rms(x) * weight`.
pub fn rms_norm(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Tensor {
    if fused(x) {
        let weight = weight.map(|weight| weight.to_kind(wide(x)));
        return native::rms_norm(x, weight.as_ref(), eps).expect(SHAPES);
    }
    composed_rms_norm(x, weight, eps)
}

fn composed_rms_norm(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Tensor {
    let wide = x.to_kind(wide(x));
    let mean_square = wide
        .square()
        .mean_dim([-1i64].as_slice(), true, wide.kind());
    let normed = (wide * (mean_square + eps).rsqrt()).to_kind(x.kind());
    match weight {
        Some(weight) => normed * weight.to_kind(x.kind()),
        None => normed,
    }
}

/// Which way rotary positions turn: Transformers' `nanochat` turns the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// `(a, b) -> (a cos - b sin, b cos + a sin)`, as in Llama.
    Forward,
    /// The same by the negative angle.
    Flipped,
}

impl Rotation {
    pub(crate) fn sign(self) -> f64 {
        match self {
            Rotation::Forward => 1.0,
            Rotation::Flipped => -1.0,
        }
    }
}

/// The cosines and sines of some positions, `(T, D/2)` or `(B * T, D/2)`, see [`rope`].
#[derive(Debug)]
pub struct Angles {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
    /// The direction.
    pub rotation: Rotation,
}

impl Angles {
    /// Cosines and sines.
    pub(crate) fn in_kind(&self, kind: Kind) -> [Tensor; 2] {
        [&self.cos, &self.sin].map(|part| part.to_kind(kind))
    }
}

/// Rotary positions (Su et al. 2021) on halves of each head, then, when `norm_eps` is given, the
/// weightless query-key norm. `x` is `(B, T, H, D)`, and so is the result.
pub fn rope(x: &Tensor, angles: &Angles, norm_eps: Option<f64>) -> Tensor {
    let sign = angles.rotation.sign();
    if fused(x) {
        let [cos, sin] = angles.in_kind(wide(x));
        return native::rope(x, &cos, &sin, sign, norm_eps.unwrap_or(-1.0)).expect(SHAPES);
    }
    composed_rope(x, angles, sign, norm_eps)
}

fn composed_rope(x: &Tensor, angles: &Angles, sign: f64, norm_eps: Option<f64>) -> Tensor {
    let [b, t, _, d] = x.size()[..] else {
        panic!("rope takes (B, T, H, D)")
    };
    let rows = angles.cos.size()[0];
    let shape = if rows == t {
        [1, t, 1, d / 2]
    } else {
        [b, t, 1, d / 2]
    };
    let cos = angles.cos.view(shape).to_kind(x.kind());
    let sin = angles.sin.view(shape).to_kind(x.kind()) * sign;
    let halves = x.chunk(2, -1);
    let (first, second) = (&halves[0], &halves[1]);
    let rotated = Tensor::cat(
        &[first * &cos - second * &sin, second * &cos + first * &sin],
        -1,
    ); // (B, T, H, D)
    match norm_eps {
        Some(eps) => composed_rms_norm(&rotated, None, eps),
        None => rotated,
    }
}

/// `max(x, 0)²` (So et al. 2021, Primer).
pub fn relu_squared(x: &Tensor) -> Tensor {
    if fused(x) {
        native::relu_squared(x).expect(SHAPES)
    } else {
        x.relu().square()
    }
}

/// GELU in its tanh form (Hendrycks and Gimpel 2016), GPT-2's `gelu_new`.
pub fn gelu_tanh(x: &Tensor) -> Tensor {
    if fused(x) {
        native::gelu(x).expect(SHAPES)
    } else {
        x.gelu("tanh")
    }
}

/// `silu(gate) * up` (Shazeer 2020) of `x` = `[gate | up]`: `(…, 2I)` to `(…, I)`.
pub fn swiglu(x: &Tensor) -> Tensor {
    if fused(x) {
        native::swiglu(x).expect(SHAPES)
    } else {
        composed_swiglu(x)
    }
}

fn composed_swiglu(x: &Tensor) -> Tensor {
    let halves = x.chunk(2, -1);
    halves[0].silu() * &halves[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value and gradient of a function of x by the fused and by the composed form, float64.
    fn agree(
        shape: &[i64],
        fused: impl Fn(&Tensor) -> Tensor,
        composed: impl Fn(&Tensor) -> Tensor,
    ) {
        tch::manual_seed(7);
        for kind in [Kind::Double, Kind::Float] {
            let tolerance = if kind == Kind::Double { 1e-12 } else { 2e-6 };
            let run = |f: &dyn Fn(&Tensor) -> Tensor, x: &Tensor, dy: &Tensor| {
                let x = x.copy().set_requires_grad(true);
                let y = f(&x);
                (&y * dy).sum(kind).backward();
                (y.detach(), x.grad())
            };
            let x = Tensor::randn(shape, (kind, Device::Cpu)) * 2.0;
            let dy = Tensor::randn(composed(&x).size(), (kind, Device::Cpu));
            let (y0, g0) = run(&composed, &x, &dy);
            let (y1, g1) = run(&fused, &x, &dy);
            for (a, b, what) in [(y0, y1, "value"), (g0, g1, "gradient")] {
                let scale = f64::try_from(a.abs().max()).expect("a number").max(1.0);
                let difference = f64::try_from((a - b).abs().max()).expect("a number") / scale;
                assert!(
                    difference < tolerance,
                    "{what} in {kind:?} differs by {difference}"
                );
            }
        }
    }

    fn angles(rows: i64, half: i64, kind: Kind, rotation: Rotation) -> Angles {
        let angle = Tensor::arange(rows * half, (kind, Device::Cpu)).view([rows, half]) * 0.37;
        Angles {
            cos: angle.cos(),
            sin: angle.sin(),
            rotation,
        }
    }

    #[test]
    fn many_rows_are_multiplied_and_differentiated_as_libtorch_does_it() {
        tch::manual_seed(5);
        let float = (Kind::Float, Device::Cpu);
        // Wide and narrow sides, one row and none; rows that lie apart, and columns before rows.
        let shapes = [
            (2, 64, 40, 96),
            (2, 50, 8, 40),
            (2, 33, 40, 8),
            (1, 1, 24, 24),
            (2, 0, 24, 24),
        ];
        for (batch, rows, inputs, outputs) in shapes {
            let dense = Tensor::randn([batch, rows, inputs], float);
            let apart = Tensor::randn([batch, rows, 2 * inputs], float).narrow(-1, 1, inputs);
            let turned = Tensor::randn([batch, inputs, rows], float).transpose(1, 2);
            let weight = Tensor::randn([outputs, inputs], float);
            let bias = Tensor::randn([outputs], float);
            let dy = Tensor::randn([batch, outputs, rows], float).transpose(1, 2);
            for x in [dense, apart, turned] {
                for (bias, frozen) in [(None, false), (Some(&bias), false), (Some(&bias), true)] {
                    let run = |linear: &dyn Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor| {
                        let x = x.detach().set_requires_grad(true);
                        let weight = weight.copy().set_requires_grad(!frozen);
                        let bias = bias.map(|bias| bias.copy().set_requires_grad(!frozen));
                        let y = linear(&x, &weight, bias.as_ref());
                        (&y * &dy).sum(Kind::Float).backward();
                        let mut all = vec![y.detach(), x.grad(), weight.detach()];
                        all.extend(bias.as_ref().map(Tensor::detach));
                        if !frozen {
                            all.push(weight.grad());
                            all.extend(bias.map(|bias| bias.grad()));
                        }
                        all
                    };
                    let (ours, theirs) =
                        (run(&linear_of_many_rows), run(&|x, w, b| x.linear(w, b)));
                    assert_eq!(ours.len(), theirs.len());
                    for (a, b) in ours.iter().zip(&theirs) {
                        assert_eq!(a.size(), b.size());
                        assert!(
                            a.allclose(b, 1e-4, 1e-4, false),
                            "{rows} x {inputs} x {outputs}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_environment_that_limits_onednn_changes_no_product() {
        for (name, value) in [
            ("ONEDNN_MAX_CPU_ISA", "AVX2"),
            ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
        ] {
            let this = std::env::current_exe().expect("this program");
            let test =
                "ops::tests::many_rows_are_multiplied_and_differentiated_as_libtorch_does_it";
            let mut alone = std::process::Command::new(this);
            let done = alone.args([test, "--exact"]).env(name, value).output();
            let done = done.expect("it runs");
            let told = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success(), "{name}={value}: {told}");
            assert!(told.contains("1 passed"), "{name}={value}: {told}");
        }
    }

    #[test]
    fn fused_forms_equal_composed_forms() {
        agree(
            &[3, 5, 33],
            |x| rms_norm(x, None, 1e-6),
            |x| composed_rms_norm(x, None, 1e-6),
        );
        agree(&[3, 5, 33], relu_squared, |x| x.relu().square());
        agree(&[3, 5, 33], gelu_tanh, |x| x.gelu("tanh"));
        agree(&[3, 5, 34], swiglu, composed_swiglu);
        for rotation in [Rotation::Forward, Rotation::Flipped] {
            for (norm, rows) in [(None, 5), (Some(1e-6), 5), (Some(1e-6), 15)] {
                let sign = rotation.sign();
                let f = |x: &Tensor| rope(x, &angles(rows, 4, x.kind(), rotation), norm);
                let c =
                    |x: &Tensor| composed_rope(x, &angles(rows, 4, x.kind(), rotation), sign, norm);
                agree(&[3, 5, 2, 8], f, c);
            }
        }
    }

    #[test]
    fn bf16_is_float32_rounded_at_the_ends() {
        tch::manual_seed(9);
        type Operation<'a> = (&'a str, &'a [i64], &'a dyn Fn(&Tensor) -> Tensor);
        let weight = Tensor::linspace(0.5, 2.0, 48, (Kind::Float, Device::Cpu));
        let normed = |x: &Tensor| rms_norm(x, Some(&weight), 1e-6);
        let turned = |x: &Tensor| {
            rope(
                x,
                &angles(5, 24, Kind::Float, Rotation::Forward),
                Some(1e-6),
            )
        };
        let operations: [Operation<'_>; 5] = [
            ("rms_norm", &[3, 5, 48], &normed),
            ("rope", &[3, 5, 2, 48], &turned),
            ("relu_squared", &[3, 5, 48], &relu_squared),
            ("gelu", &[3, 5, 48], &gelu_tanh),
            ("swiglu", &[3, 5, 48], &swiglu),
        ];
        for (name, shape, f) in operations {
            let x = Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
            let dy =
                Tensor::randn(f(&x).size(), (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
            let run = |kind: Kind| {
                let x = x.to_kind(kind).detach().set_requires_grad(true);
                let y = f(&x);
                assert_eq!(y.kind(), kind, "{name}");
                (&y * dy.to_kind(kind)).sum(Kind::Float).backward();
                [y.detach(), x.grad()].map(|tensor| tensor.to_kind(Kind::Float))
            };
            for (narrow, wide) in run(Kind::BFloat16).iter().zip(&run(Kind::Float)) {
                let scale = f64::try_from(wide.abs().max()).expect("a number");
                let off = f64::try_from((narrow - wide).abs().max()).expect("a number");
                // Eight bits of mantissa: half a unit is 1/512; gradients round twice.
                assert!(off < scale / 120.0, "{name} is off by {off} of {scale}");
            }
        }
    }

    #[test]
    fn the_norms_weight_has_its_gradient() {
        tch::manual_seed(3);
        let options = (Kind::Double, Device::Cpu);
        let x = Tensor::randn([40, 7], options);
        let weight = || Tensor::linspace(0.5, 2.0, 7, options).set_requires_grad(true);
        let (w0, w1) = (weight(), weight());
        rms_norm(&x, Some(&w0), 1e-5)
            .cos()
            .sum(Kind::Double)
            .backward();
        composed_rms_norm(&x, Some(&w1), 1e-5)
            .cos()
            .sum(Kind::Double)
            .backward();
        assert!(f64::try_from((w0.grad() - w1.grad()).abs().max()).expect("a number") < 1e-12);
    }

    #[test]
    fn nan_is_not_hidden() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = Tensor::from_slice(&[f32::NAN, 1.0, -2.0, f32::INFINITY]).to_kind(kind);
            for y in [
                relu_squared(&x),
                gelu_tanh(&x),
                swiglu(&Tensor::cat(&[&x, &x], 0)),
                rms_norm(&x, None, 1e-6),
            ] {
                assert!(y.double_value(&[0]).is_nan(), "{y:?}");
            }
        }
    }
}
