//! AdamW, clipping and Muon against numbers of PyTorch's (tests/goldens, made by scripts/goldens/optim.py):
//! on given gradients, and over whole steps of models that Transformers can read.

use std::path::{Path, PathBuf};

use etude_data::Batch;
use etude_model::{Decoder, Family, hf};
use etude_tensor::optim::{AdamWGroup, AdamWSettings, GradScale};
use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, IndexOp, Kind, Precision, Tensor, no_grad, with_seed};
use etude_train::muon::{self, MuonParam, MuonStep};
use etude_train::step::{StepSettings, train_step};
use etude_train::{ModelSettings, Optimizer, OptimizerKind, OptimizerSettings};
use serde_json::Value;

/// How far a number may be from PyTorch's.
const CLOSE: f64 = 5e-5;

fn golden(name: &str) -> (SafetensorsFile, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name);
    let file = SafetensorsFile::open(&path).expect("the golden opens");
    let about: Value = serde_json::from_str(&file.metadata()["about"]).expect("JSON");
    (file, about["settings"].clone())
}

fn number(settings: &Value, key: &str) -> f64 {
    settings[key]
        .as_f64()
        .unwrap_or_else(|| panic!("the golden names `{key}`"))
}

fn tensor(file: &SafetensorsFile, name: &str) -> Tensor {
    file.tensor(name).expect("the golden holds it")
}

fn largest(difference: Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

/// A parameter with these values, and a way to give it a gradient: the loss is their product.
fn parameter(values: &Tensor) -> Tensor {
    values.copy().set_requires_grad(true)
}

fn give_gradient(parameter: &Tensor, gradient: &Tensor) {
    let mut old = parameter.grad();
    if old.defined() {
        let _ = no_grad(|| old.zero_());
    }
    (parameter * gradient).sum(gradient.kind()).backward();
}

#[test]
fn adamw_and_clipping_equal_pytorch() {
    let (file, about) = golden("adamw.safetensors");
    let names = ["matrix", "vector", "cube"];
    let params = names.map(|name| parameter(&tensor(&file, &format!("plain/start.{name}"))));
    let decayed = AdamWGroup::new(vec![params[0].shallow_clone(), params[2].shallow_clone()]);
    let others = AdamWGroup::new(vec![params[1].shallow_clone()]);
    let settings = AdamWSettings {
        beta1: number(&about, "beta1"),
        beta2: number(&about, "beta2"),
        eps: number(&about, "eps_plain"),
    };
    let (lr, decay) = (number(&about, "lr"), number(&about, "weight_decay"));
    let norms = tensor(&file, "plain/grad_norm");
    let (mut clipped, mut whole) = (0, 0);
    for step in 0..about["steps"].as_i64().expect("steps") {
        for (name, param) in names.iter().zip(&params) {
            give_gradient(param, &tensor(&file, &format!("plain/grad.{name}")).i(step));
        }
        let grads = params.each_ref().map(Tensor::grad);
        let scale = GradScale::measure(&grads, Some(number(&about, "clip"))).expect("measures");
        assert!(
            (scale.norm.double_value(&[]) - norms.double_value(&[step])).abs() < 1e-5,
            "norm of step {step}"
        );
        if scale.divisor.double_value(&[]) > 1.0 {
            clipped += 1
        } else {
            whole += 1
        }
        let count = Tensor::from((step + 1) as f32);
        no_grad(|| {
            decayed
                .step(&count, lr, decay, &settings, &scale)
                .expect("steps");
            others
                .step(&count, lr, 0.0, &settings, &scale)
                .expect("steps");
        });
        for (name, param) in names.iter().zip(&params) {
            let after = tensor(&file, &format!("plain/after.{name}")).i(step);
            let difference = largest(param.detach() - after);
            assert!(
                difference < 1e-6,
                "step {step}, {name}: off by {difference}"
            );
        }
    }
    assert!(
        clipped > 0 && whole > 0,
        "the golden lies on both sides of the limit"
    );
}

#[test]
fn whole_training_steps_equal_pytorch() {
    for name in ["gpt2", "nanochat"] {
        let (file, about) = golden("adamw.safetensors");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../model/tests/goldens")
            .join(name);
        let decoder = hf::load(&folder, Kind::Float, Device::Cpu)
            .expect("the model folder loads")
            .decoder;
        let settings = OptimizerSettings {
            lr: number(&about, "lr"),
            beta1: number(&about, "beta1"),
            beta2: number(&about, "beta2"),
            eps: number(&about, "eps_model"),
            weight_decay: number(&about, "weight_decay"),
            clip: number(&about, "clip"),
            ..OptimizerSettings::default()
        };
        let mut optimizer = Optimizer::new(&decoder, &settings);
        let (ids, targets) = (
            tensor(&file, &format!("{name}/input_ids")),
            tensor(&file, &format!("{name}/targets")),
        );
        let (losses, norms) = (
            tensor(&file, &format!("{name}/loss")),
            tensor(&file, &format!("{name}/grad_norm")),
        );
        for step in 0..about["steps"].as_i64().expect("steps") {
            let batch = batch_of(&ids.i(step), &targets.i(step));
            let run = StepSettings {
                rows: 2,
                precision: Precision::Float32,
                max_norm: Some(settings.clip),
                seed: 1,
            };
            let report = train_step(&decoder, &mut optimizer, &batch, step as u64, 1.0, &run)
                .expect("steps");
            let (loss, norm) = (
                report.loss.double_value(&[]),
                report.grad_norm.double_value(&[]),
            );
            assert!(
                (loss - losses.double_value(&[step])).abs() < CLOSE,
                "{name}, step {step}: loss {loss}"
            );
            assert!(
                (norm - norms.double_value(&[step])).abs() < CLOSE,
                "{name}, step {step}: norm {norm}"
            );
            assert_eq!(report.skipped.double_value(&[]), 0.0);
            assert_eq!(report.supervised, batch.supervised());
        }
        let finals = file
            .shapes()
            .expect("shapes")
            .into_iter()
            .filter(|(key, _)| key.starts_with(&format!("{name}/final.")));
        let (mut expected, mut compared) = (finals.count(), 0);
        for param in decoder.params().entries() {
            for ours in hf::hf_tensors(decoder.config(), param, &param.tensor.detach()) {
                let theirs = tensor(&file, &format!("{name}/final.{}", ours.name));
                let difference = largest(ours.tensor - theirs);
                assert!(
                    difference < CLOSE,
                    "{name}: {} is off by {difference}",
                    ours.name
                );
                compared += 1;
            }
        }
        expected -= compared;
        assert_eq!(
            expected, 0,
            "{name}: every parameter of the golden is compared"
        );
    }
}

fn batch_of(ids: &Tensor, targets: &Tensor) -> Batch {
    let [rows, cols] = ids.size()[..] else {
        panic!("(B, T)")
    };
    let plain = |tensor: &Tensor| Vec::<i64>::try_from(tensor.reshape([-1])).expect("int64");
    Batch {
        rows: rows as usize,
        cols: cols as usize,
        input_ids: plain(ids),
        targets: plain(targets),
        position_ids: (0..rows).flat_map(|_| 0..cols).collect(),
        doc_ids: None,
    }
}

fn muon_settings(about: &Value) -> MuonStep {
    MuonStep {
        lr: number(about, "lr"),
        momentum: number(about, "momentum"),
        weight_decay: number(about, "weight_decay"),
        iterations: number(about, "newton_schulz_steps") as u32,
        work: Kind::Float,
    }
}

fn unclipped(gradient: &Tensor) -> GradScale {
    GradScale::measure(&[gradient.shallow_clone()], None).expect("one device")
}

#[test]
fn muon_equals_its_reference() {
    let (file, about) = golden("muon.safetensors");
    let settings = muon_settings(&about);
    let names: Vec<String> = file
        .shapes()
        .expect("shapes")
        .iter()
        .filter_map(|(key, _)| key.strip_prefix("start.").map(str::to_owned))
        .collect();
    assert!(
        names.len() >= 4,
        "square, wide, tall and a single row: {names:?}"
    );
    for name in names {
        let param = parameter(&tensor(&file, &format!("start.{name}")));
        let momentum = muon::fresh_momentum(&param);
        let mut buffer = momentum.copy();
        for step in 0..about["steps"].as_i64().expect("steps") {
            let gradient = tensor(&file, &format!("grad.{name}")).i(step);
            buffer = &buffer * settings.momentum + &gradient * (1.0 - settings.momentum);
            let nesterov = &buffer * settings.momentum + &gradient * (1.0 - settings.momentum);
            let direction =
                muon::orthogonalize(&nesterov.unsqueeze(0), settings.iterations, settings.work)
                    .squeeze_dim(0);
            let difference =
                largest(direction - tensor(&file, &format!("direction.{name}")).i(step));
            assert!(
                difference < CLOSE,
                "{name}, step {step}: direction off by {difference}"
            );
            no_grad(|| {
                let matrix = MuonParam {
                    param: &param,
                    gradient: &gradient,
                    momentum: &momentum,
                    parts: &[param.size()[0]],
                };
                muon::step(&[matrix], &settings, &unclipped(&gradient))
            });
            let difference =
                largest(param.detach() - tensor(&file, &format!("after.{name}")).i(step));
            assert!(
                difference < CLOSE,
                "{name}, step {step}: parameter off by {difference}"
            );
            assert!(
                largest(&momentum - &buffer) < 1e-6,
                "{name}, step {step}: momentum"
            );
        }
    }
}

#[test]
fn stacked_matrices_step_as_if_they_were_apart() {
    let (_, about) = golden("muon.safetensors");
    let settings = muon_settings(&about);
    for parts in [vec![8, 8, 8], vec![16, 4, 4], vec![24]] {
        let random = || Tensor::randn([24, 10], (Kind::Float, Device::Cpu));
        // The other tests of this process draw their models meanwhile.
        let (start, gradient) = with_seed(3, || (random(), random()));
        let (whole, momentum) = (parameter(&start), muon::fresh_momentum(&start));
        no_grad(|| {
            let matrix = MuonParam {
                param: &whole,
                gradient: &gradient,
                momentum: &momentum,
                parts: &parts,
            };
            muon::step(&[matrix], &settings, &unclipped(&gradient))
        });
        let mut from = 0;
        for &rows in &parts {
            let part = parameter(&start.narrow(0, from, rows));
            let momentum = muon::fresh_momentum(&part);
            no_grad(|| {
                let matrix = MuonParam {
                    param: &part,
                    gradient: &gradient.narrow(0, from, rows),
                    momentum: &momentum,
                    parts: &[rows],
                };
                muon::step(&[matrix], &settings, &unclipped(&gradient))
            });
            let difference = largest(part.detach() - whole.detach().narrow(0, from, rows));
            assert!(
                difference < 1e-5,
                "{parts:?}: rows from {from} are off by {difference}"
            );
            from += rows;
        }
    }
}

#[test]
fn a_bad_gradient_changes_nothing_and_the_next_one_counts_as_the_first() {
    for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        for bad in [f64::NAN, f64::INFINITY] {
            let (with, mut with_optimizer, folder) = tiny(kind, Kind::Float);
            let (without, mut without_optimizer, _other) = tiny(kind, Kind::Float);
            let before = bits(&with);
            let path = folder.path().join("state");
            with_optimizer.save(&path).expect("saves");
            let state = std::fs::read(&path).expect("reads");
            step_on(&with, &mut with_optimizer, Some(bad));
            assert_eq!(bits(&with), before, "{kind:?}, {bad}: weights");
            with_optimizer.save(&path).expect("saves");
            assert_eq!(
                std::fs::read(&path).expect("reads"),
                state,
                "{kind:?}, {bad}: the optimizer's state"
            );
            step_on(&with, &mut with_optimizer, None);
            step_on(&without, &mut without_optimizer, None);
            assert_ne!(
                bits(&with),
                before,
                "{kind:?}: a good step moves the weights"
            );
            assert_eq!(
                bits(&with),
                bits(&without),
                "{kind:?}, {bad}: as if the bad step had not been"
            );
        }
    }
}

#[test]
fn state_comes_back_and_that_of_another_recipe_is_refused() {
    for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        for precision in [Kind::Float, Kind::Double] {
            let (decoder, mut optimizer, folder) = tiny(kind, precision);
            step_on(&decoder, &mut optimizer, None);
            let path: PathBuf = folder.path().join("state.safetensors");
            optimizer.save(&path).expect("saves");
            let (_, mut fresh, _other) = tiny(kind, precision);
            fresh.load(&path).expect("loads");
            let again = folder.path().join("again.safetensors");
            fresh.save(&again).expect("saves");
            assert_eq!(
                std::fs::read(&path).expect("reads"),
                std::fs::read(&again).expect("reads")
            );
            let names = SafetensorsFile::open(&path)
                .expect("opens")
                .shapes()
                .expect("shapes");
            let momenta: Vec<&str> = names
                .iter()
                .filter_map(|(name, _)| name.strip_prefix("momentum."))
                .collect();
            assert_eq!(momenta.is_empty(), kind == OptimizerKind::Adamw);
            assert!(
                momenta.iter().all(|name| name.starts_with("layers.")),
                "Muon is for the layers: {momenta:?}"
            );
            let other = if kind == OptimizerKind::Muon {
                OptimizerKind::Adamw
            } else {
                OptimizerKind::Muon
            };
            let error = format!(
                "{:#}",
                tiny(other, precision).1.load(&path).expect_err("refused")
            );
            assert!(
                error.contains("another recipe") && error.contains("state.safetensors"),
                "{error}"
            );
        }
    }
}

fn tiny(kind: OptimizerKind, precision: Kind) -> (Decoder, Optimizer, tempfile::TempDir) {
    let model = ModelSettings {
        family: Family::NanoChat,
        n_layer: 2,
        n_head: 2,
        n_embd: 8,
        context: 8,
        ..ModelSettings::default()
    };
    let config = model.config(16).expect("possible");
    // Tests run side by side and share libtorch's generator.
    let decoder = with_seed(7, || Decoder::new(config, precision, Device::Cpu)).expect("possible");
    let settings = OptimizerSettings {
        kind,
        weight_decay: 0.1,
        ..OptimizerSettings::default()
    };
    let optimizer = Optimizer::new(&decoder, &settings);
    (decoder, optimizer, tempfile::tempdir().expect("a folder"))
}

/// A step on gradients of ones, one of them `bad` in one place.
fn step_on(decoder: &Decoder, optimizer: &mut Optimizer, bad: Option<f64>) {
    decoder.params().drop_grads();
    for param in decoder.params().tensors() {
        give_gradient(param, &param.ones_like());
    }
    if let Some(bad) = bad {
        let mut place = decoder
            .params()
            .get("layers.1.mlp.up.weight")
            .expect("there")
            .grad()
            .view([-1])
            .narrow(0, 3, 1);
        let _ = no_grad(|| place.fill_(bad));
    }
    let grads: Vec<Tensor> = decoder.params().tensors().map(Tensor::grad).collect();
    let scale = GradScale::measure(&grads, Some(1.0)).expect("measures");
    assert_eq!(scale.found_inf.double_value(&[]) != 0.0, bad.is_some());
    optimizer.step(1.0, &scale).expect("steps");
}

fn bits(decoder: &Decoder) -> Vec<Vec<u8>> {
    let bytes = |tensor: &Tensor| {
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor
            .detach()
            .contiguous()
            .copy_data_u8(&mut bytes, tensor.numel());
        bytes
    };
    decoder.params().tensors().map(bytes).collect()
}
