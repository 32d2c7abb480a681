//! Training an adapter goes as PEFT's does: the first 20 losses from the same adapter on the same batches
//! (goldens of `etude-model`, made by scripts/goldens/lora.py).

use std::path::{Path, PathBuf};

use etude_data::Batch;
use etude_model::hf::{self, peft};
use etude_model::lora::{Frozen, LoraConfig, Targets, attach};
use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, Kind, Precision, Tensor};
use etude_train::step::{StepSettings, train_step};
use etude_train::{Optimizer, OptimizerKind, OptimizerSettings};

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../model/tests/goldens")
        .join(name)
}

/// Rows of ids, each column predicting the next.
fn batch(ids: &Tensor) -> Batch {
    let [rows, cols] = ids.size()[..] else {
        panic!("rows of ids")
    };
    let flat = |tensor: Tensor| Vec::<i64>::try_from(tensor.reshape([-1])).expect("int64");
    Batch {
        rows: rows as usize,
        cols: cols as usize - 1,
        input_ids: flat(ids.narrow(1, 0, cols - 1)),
        targets: flat(ids.narrow(1, 1, cols - 1)),
        position_ids: (0..rows).flat_map(|_| 0..cols - 1).collect(),
        doc_ids: None,
    }
}

#[test]
fn twenty_losses_equal_peft_s() {
    let named =
        |names: &[&str]| Targets::Named(names.iter().map(|&name| name.to_owned()).collect());
    let plain = LoraConfig {
        rank: 4,
        alpha: 8.0,
        rslora: false,
        dora: false,
        dropout: 0.0,
        targets: Targets::AllLinear,
        modules_to_save: Vec::new(),
    };
    let cases = [
        ("llama", plain.clone()),
        (
            "gpt2",
            LoraConfig {
                rank: 3,
                alpha: 5.0,
                rslora: true,
                targets: named(&["c_attn", "mlp.c_proj"]),
                ..plain.clone()
            },
        ),
        (
            "llama_bias_scaled",
            LoraConfig {
                rank: 2,
                alpha: 4.0,
                targets: named(&["k_proj", "o_proj", "gate_proj"]),
                modules_to_save: vec!["embed_tokens".to_owned()],
                ..plain.clone()
            },
        ),
        (
            "qwen2_dora",
            LoraConfig {
                alpha: 6.0,
                dora: true,
                targets: named(&["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
                ..plain.clone()
            },
        ),
        (
            "gpt2_dora",
            LoraConfig {
                rank: 3,
                alpha: 5.0,
                dora: true,
                targets: named(&["c_attn", "c_fc"]),
                ..plain
            },
        ),
    ];
    for (name, config) in cases {
        let folder = goldens(&format!("lora_{name}"));
        let base = goldens(name.strip_suffix("_dora").unwrap_or(name));
        let loaded = hf::load(&base, Kind::Float, Device::Cpu).expect("loads");
        let mut decoder = loaded.decoder;
        let frozen = Frozen { base, kind: None };
        attach(&mut decoder, config, frozen).expect("attaches");
        peft::restore(&decoder, &folder).expect("restores");

        let file = SafetensorsFile::open(&folder.join("golden.safetensors")).expect("opens");
        let ids = file.tensor("train_ids").expect("is there"); // (20, B, T + 1)
        let expected: Vec<f32> =
            Vec::try_from(file.tensor("train_losses").expect("is there")).expect("floats");
        let settings = OptimizerSettings {
            kind: OptimizerKind::Adamw,
            lr: 0.001,
            weight_decay: 0.01,
            ..OptimizerSettings::default()
        };
        let mut optimizer = Optimizer::new(&decoder, &settings);
        let settings = StepSettings {
            rows: 4,
            precision: Precision::Float32,
            max_norm: Some(1.0),
            seed: 1,
        };
        for (step, expected) in expected.iter().enumerate() {
            let batch = batch(&ids.get(step as i64));
            let report = train_step(
                &decoder,
                &mut optimizer,
                &batch,
                step as u64,
                1.0,
                &settings,
            )
            .expect("steps");
            let difference = report.loss.double_value(&[]) - f64::from(*expected);
            assert!(difference.abs() < 1e-4, "{name}, step {step}: {difference}");
        }
    }
}
