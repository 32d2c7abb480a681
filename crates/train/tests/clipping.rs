//! Clipping holds for both optimizers: a step whose gradient is far larger than the others does not rule those after it.

use etude_tensor::optim::GradScale;
use etude_tensor::{Device, Kind, Tensor, no_grad, with_seed};
use etude_train::muon::{self, MuonParam, MuonStep};

/// A matrix after Muon steps with these gradients, clipped to a norm.
fn after(gradients: &[Tensor], clip: Option<f64>) -> Tensor {
    let param = Tensor::zeros([6, 4], (Kind::Double, Device::Cpu));
    let momentum = muon::fresh_momentum(&param);
    let settings = MuonStep {
        lr: 0.1,
        momentum: 0.9,
        weight_decay: 0.0,
        iterations: 5,
        work: Kind::Double,
    };
    for gradient in gradients {
        let grads = GradScale::measure(&[gradient.shallow_clone()], clip).expect("one device");
        let matrix = MuonParam {
            param: &param,
            gradient,
            momentum: &momentum,
            parts: &[6],
        };
        no_grad(|| muon::step(&[matrix], &settings, &grads));
    }
    param
}

#[test]
fn muon_takes_clipped_gradients() {
    let draw = || Tensor::randn([6, 4], (Kind::Double, Device::Cpu));
    let mut gradients: Vec<Tensor> = with_seed(8, || (0..5).map(|_| draw()).collect());
    gradients[1] = &gradients[1] * 1000.0;
    let clipped_before: Vec<Tensor> = gradients
        .iter()
        .map(|gradient| gradient / gradient.norm().clamp_min(1.0))
        .collect();
    let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
    let clipped = after(&gradients, Some(1.0));
    // The norm is measured in float32.
    assert!(apart(&clipped, &after(&clipped_before, None)) < 1e-6);
    assert!(apart(&clipped, &after(&gradients, None)) > 1e-2);
}

#[test]
fn a_bad_gradient_changes_nothing_whatever_it_is_divided_by() {
    let draw = || Tensor::randn([6, 4], (Kind::Double, Device::Cpu));
    let good: Vec<Tensor> = with_seed(9, || (0..2).map(|_| draw()).collect());
    let bad = &good[0] * f64::NAN;
    let with_bad = [&good[0], &bad, &good[1]].map(Tensor::shallow_clone);
    assert!(after(&with_bad, Some(1.0)).equal(&after(&good, Some(1.0))));
}
