//! A linear layer over a few rows on the CPU with nothing kept for a way back, as it is when text is made token by
//! token: with what comes before it and what its output is added to, since there each small operation by itself costs
//! as much as some rows of a matrix.

use tch::{Device, Kind, Tensor};

use crate::native;

/// So many rows are few: with more, the products of whole layers catch up.
pub(crate) const FEW_ROWS: i64 = 32;

/// What is done with a row before it is multiplied.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Before<'a> {
    /// Nothing.
    Nothing,
    /// [`crate::ops::rms_norm`].
    RmsNorm {
        weight: Option<&'a Tensor>,
        eps: f64,
    },
    /// [`crate::ops::swiglu`]: the row is twice as wide as the layer's input.
    SwiGlu,
}

/// `before(x) W^T + bias + added`, `(…, O)`; none where it is not made for the input. A weight in bfloat16 is read as
/// it is, and its product is that of the same numbers in float32. The numbers are those of the operations one by one.
pub(crate) fn few_rows_linear(
    x: &Tensor,
    before: Before<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    added: Option<&Tensor>,
) -> Option<Tensor> {
    let size = x.size();
    let rows: i64 = size[..size.len() - 1].iter().product();
    let norm_weight = match before {
        Before::RmsNorm { weight, .. } => weight,
        Before::Nothing | Before::SwiGlu => None,
    };
    let made_for = (1..=FEW_ROWS).contains(&rows)
        && x.device() == Device::Cpu
        && matches!(
            (x.kind(), weight.kind()),
            (Kind::Float, Kind::Float | Kind::BFloat16) | (Kind::Double, Kind::Double)
        )
        && [bias, added, norm_weight]
            .into_iter()
            .flatten()
            .all(|other| other.kind() == x.kind())
        && weight.is_contiguous();
    (made_for && inference()).then(|| {
        native::linear_rows(x, before, weight, bias, added)
            .expect("shapes and dtypes are the layer's own")
    })
}

/// Whether neither gradients nor casts are to be thought of.
pub(crate) fn inference() -> bool {
    !native::records_gradients() && !native::autocasts_cpu()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lora, no_grad, ops};

    fn plain(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<Tensor> {
        no_grad(|| few_rows_linear(x, Before::Nothing, weight, bias, None))
    }

    #[test]
    fn few_rows_are_multiplied_like_many() {
        tch::manual_seed(3);
        for kind in [Kind::Double, Kind::Float] {
            let tolerance = if kind == Kind::Double { 1e-12 } else { 1e-4 };
            for inputs in [1, 7, 16, 100] {
                for outputs in [1, 2, 5, 64] {
                    let weight = Tensor::randn([outputs, inputs], (kind, Device::Cpu));
                    let bias = Tensor::randn([outputs], (kind, Device::Cpu));
                    for rows in [1, 2, 3, 4, 7, 32] {
                        let x = Tensor::randn([rows, 1, inputs], (kind, Device::Cpu));
                        for bias in [None, Some(&bias)] {
                            let few = plain(&x, &weight, bias).expect("few rows");
                            let many = x.linear(&weight, bias);
                            let apart = f64::try_from((few - many).abs().max()).expect("a number");
                            assert!(apart < tolerance, "{rows} x {inputs} x {outputs}: {apart}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_comes_before_and_after_is_as_by_itself() {
        tch::manual_seed(5);
        for kind in [Kind::Double, Kind::Float] {
            let draw = |shape: &[i64]| Tensor::randn(shape, (kind, Device::Cpu));
            for (inputs, outputs) in [(7, 5), (64, 200)] {
                let (weight, bias) = (draw(&[outputs, inputs]), draw(&[outputs]));
                let scale = draw(&[inputs]);
                for rows in [1, 3, 32] {
                    let (x, wide) = (draw(&[rows, 1, inputs]), draw(&[rows, 1, 2 * inputs]));
                    let stream = draw(&[rows, 1, outputs]);
                    let eps = 1e-5;
                    let norm = |weight| Before::RmsNorm { weight, eps };
                    let cases = [
                        (&x, Before::Nothing, x.shallow_clone()),
                        (&x, norm(None), ops::rms_norm(&x, None, eps)),
                        (&x, norm(Some(&scale)), ops::rms_norm(&x, Some(&scale), eps)),
                        (&wide, Before::SwiGlu, ops::swiglu(&wide)),
                    ];
                    for (input, before, prepared) in cases {
                        for bias in [None, Some(&bias)] {
                            for added in [None, Some(&stream)] {
                                let at_once = no_grad(|| {
                                    few_rows_linear(input, before, &weight, bias, added)
                                });
                                let product = plain(&prepared, &weight, bias).expect("few rows");
                                let apart = match added {
                                    Some(stream) => stream + product,
                                    None => product,
                                };
                                assert!(at_once.expect("few rows").equal(&apart), "{before:?}");
                            }
                        }
                    }
                    // What does not fit is refused, not read past its end.
                    for (input, before) in [(&wide, Before::Nothing), (&x, Before::SwiGlu)] {
                        assert!(native::linear_rows(input, before, &weight, None, None).is_err());
                    }
                    let short = stream.narrow(-1, 0, outputs - 1);
                    let too_short =
                        native::linear_rows(&x, Before::Nothing, &weight, None, Some(&short));
                    assert!(too_short.is_err());
                    let norm = norm(Some(&bias));
                    assert!(native::linear_rows(&x, norm, &weight, None, None).is_err());
                }
            }
        }
    }

    #[test]
    fn a_weight_in_bf16_is_multiplied_as_the_same_numbers_in_float32() {
        tch::manual_seed(4);
        let float = (Kind::Float, Device::Cpu);
        for (inputs, outputs) in [(1, 3), (31, 5), (64, 4), (200, 70)] {
            let narrow = Tensor::randn([outputs, inputs], float).to_kind(Kind::BFloat16);
            let wide = narrow.to_kind(Kind::Float);
            let bias = Tensor::randn([outputs], float);
            for rows in [1, 2, 3, 7, 32, 33] {
                let x = Tensor::randn([rows, inputs], float);
                for bias in [None, Some(&bias)] {
                    let ours = no_grad(|| lora::frozen_linear(&x, &narrow, bias, None, None));
                    let same = no_grad(|| ops::linear(&x, &wide, bias));
                    assert!(ours.equal(&same), "{rows} x {inputs} x {outputs}");
                    assert_eq!(plain(&x, &narrow, bias).is_some(), rows <= FEW_ROWS);
                }
            }
            let x = Tensor::randn([1, inputs], (Kind::Double, Device::Cpu));
            assert!(native::linear_rows(&x, Before::Nothing, &narrow, None, None).is_err());
            assert!(plain(&x, &narrow, None).is_none());
        }
    }
}
