//! LoRA against PEFT: logits and gradients with adapters that PEFT made (tests/goldens/lora_*, made by
//! scripts/goldens/lora.py), adapter folders there and back, and merging. What is refused is in `refusals`.

mod refusals;

use std::path::{Path, PathBuf};

use etude_model::hf::{self, TokenIds, peft};
use etude_model::lora::{Frozen, LoraConfig, Targets, attach};
use etude_model::{Decoder, Input, supervised_places};
use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, Kind, Tensor, no_grad, seed_everything};

const ADAPTERS: [&str; 14] = [
    "llama",
    "gpt2",
    "qwen2",
    "llama_bias_scaled",
    "qwen2_dora",
    "gpt2_dora",
    "llama_head",
    "llama_whole",
    "llama_tied_head",
    "llama_tied_table",
    "llama_tied_kept",
    "llama_embedding",
    "gpt2_embedding",
    "llama_tied_embedding",
];
/// Of these, what Etude merges and cannot go on training.
const MERGED_ALONE: [&str; 9] = [
    "qwen2",
    "llama_head",
    "llama_whole",
    "llama_tied_head",
    "llama_tied_table",
    "llama_tied_kept",
    "llama_embedding",
    "gpt2_embedding",
    "llama_tied_embedding",
];

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

/// The base of an adapter.
fn base_of(name: &str) -> &str {
    let kinds = ["_dora", "_head", "_whole", "_table", "_kept", "_embedding"];
    kinds
        .iter()
        .find_map(|kind| name.strip_suffix(kind))
        .unwrap_or(name)
}

fn adapter(name: &str) -> PathBuf {
    goldens(&format!("lora_{name}"))
}

fn golden(folder: &Path) -> SafetensorsFile {
    SafetensorsFile::open(&folder.join("golden.safetensors")).expect("the golden opens")
}

fn config(rank: i64, alpha: f64, targets: &[&str]) -> LoraConfig {
    LoraConfig {
        rank,
        alpha,
        rslora: false,
        dora: false,
        dropout: 0.0,
        targets: match targets {
            [] => Targets::AllLinear,
            names => Targets::Named(names.iter().map(|&name| name.to_owned()).collect()),
        },
        modules_to_save: Vec::new(),
    }
}

/// The settings of a golden adapter whose modules have one rank.
fn settings(name: &str) -> LoraConfig {
    match name {
        "llama" => config(4, 8.0, &[]),
        "gpt2" => LoraConfig {
            rslora: true,
            ..config(3, 5.0, &["c_attn", "mlp.c_proj"])
        },
        "llama_bias_scaled" => LoraConfig {
            modules_to_save: vec!["embed_tokens".to_owned()],
            ..config(2, 4.0, &["k_proj", "o_proj", "gate_proj"])
        },
        "qwen2_dora" => LoraConfig {
            dora: true,
            ..config(
                4,
                6.0,
                &["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
            )
        },
        "gpt2_dora" => LoraConfig {
            dora: true,
            ..config(3, 5.0, &["c_attn", "c_fc"])
        },
        other => panic!("{other} has several ranks"),
    }
}

fn base(name: &str) -> Decoder {
    base_as(name, Kind::Float)
}

fn base_as(name: &str, kind: Kind) -> Decoder {
    let loaded = hf::load(&goldens(base_of(name)), kind, Device::Cpu).expect("the base loads");
    loaded.decoder
}

fn frozen(name: &str) -> Frozen {
    Frozen {
        base: goldens(base_of(name)),
        kind: None,
    }
}

/// The base with the golden's adapter attached, as for training.
fn attached(name: &str) -> Decoder {
    attached_as(name, Kind::Float)
}

fn attached_as(name: &str, kind: Kind) -> Decoder {
    let mut decoder = base_as(name, kind);
    attach(&mut decoder, settings(name), frozen(name)).expect("attaches");
    peft::restore(&decoder, &adapter(name)).expect("restores");
    decoder
}

fn logits(decoder: &Decoder, ids: &Tensor) -> Tensor {
    no_grad(|| decoder.logits(&decoder.hidden(Input::plain(ids), None)))
}

fn largest(tensor: Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

fn input(name: &str) -> Tensor {
    golden(&goldens(base_of(name)))
        .tensor("input_ids")
        .expect("int64")
}

#[test]
fn logits_equal_peft_s() {
    for name in ADAPTERS {
        let expected = golden(&adapter(name)).tensor("logits").expect("is there");
        // PEFT's own in float32 are 9e-5 from those in float64 where they reach 15, and another processor rounds
        // otherwise: in float64 the difference is PEFT's rounding alone, in float32 it is both.
        let rounding = 1e-4_f64.max(2e-5 * largest(expected.shallow_clone()));
        for (kind, most) in [(Kind::Double, 1e-4), (Kind::Float, rounding)] {
            let merged = hf::load(&adapter(name), kind, Device::Cpu).expect("loads");
            let difference = largest(logits(&merged.decoder, &input(name)) - &expected);
            assert!(difference < most, "{name}, merged, {kind:?}: {difference}");
            if !MERGED_ALONE.contains(&name) {
                let apart = attached_as(name, kind);
                let difference = largest(logits(&apart, &input(name)) - &expected);
                assert!(difference < most, "{name}, apart, {kind:?}: {difference}");
            }
        }
        assert!(
            largest(logits(&base(name), &input(name)) - &expected) > 0.1,
            "{name}: the adapter does something"
        );
    }
}

#[test]
fn gradients_equal_peft_s() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ADAPTERS {
        if MERGED_ALONE.contains(&name) {
            continue;
        }
        let decoder = attached(name);
        let targets = golden(&goldens(base_of(name)))
            .tensor("targets")
            .expect("int64");
        let flat: Vec<i64> = Vec::try_from(targets.reshape([-1])).expect("int64");
        let places = supervised_places(&flat);
        let loss =
            decoder.loss_sum(Input::plain(&input(name)), &targets, &places) / places.len() as f64;
        let expected = golden(&adapter(name));
        let difference = (&loss - expected.tensor("loss").expect("is there")).double_value(&[]);
        assert!(difference.abs() < 1e-4, "{name}: {difference}");
        loss.backward();

        // Written in place of the values, the gradients come out under PEFT's names and layouts.
        for param in decoder.trainable() {
            no_grad(|| param.tensor.shallow_clone().copy_(&param.tensor.grad()));
        }
        peft::save(&decoder, folder.path()).expect("saves");
        let file =
            SafetensorsFile::open(&folder.path().join("adapter_model.safetensors")).expect("opens");
        let written = file.shapes().expect("reads");
        let known = expected.shapes().expect("reads");
        let grads = known.iter().filter(|(key, _)| key.starts_with("grad."));
        assert_eq!(grads.count(), written.len(), "{name}");
        for (key, _) in written {
            let theirs = expected.tensor(&format!("grad.{key}")).expect(&key);
            let scale = largest(theirs.shallow_clone());
            let difference = largest(file.tensor(&key).expect("reads") - theirs) / scale;
            assert!(difference < 1e-4, "{name}: {key} is off by {difference}");
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_freezes_the_base() {
    for (name, dora) in [
        ("llama", false),
        ("gpt2", false),
        ("qwen3", false),
        ("nanochat", false),
        ("gpt2", true),
        ("qwen2", true),
    ] {
        let mut decoder = base(name);
        let before = logits(&decoder, &input(name));
        let weights = decoder.params().numel();
        seed_everything(1);
        let fresh = LoraConfig {
            dora,
            ..config(2, 4.0, &[])
        };
        attach(&mut decoder, fresh, frozen(name)).expect("attaches");
        let difference = largest(logits(&decoder, &input(name)) - &before);
        let most = if dora { 1e-5 } else { 0.0 }; // a length divided by itself, but for rounding
        assert!(difference <= most, "{name}: {difference}");
        assert!(
            decoder
                .params()
                .tensors()
                .all(|tensor| !tensor.requires_grad())
        );
        let trained: usize = decoder.trainable().map(|param| param.tensor.numel()).sum();
        assert!(
            trained > 0 && (trained as u64) < weights,
            "{name}: {trained}"
        );
        for param in decoder.trainable() {
            let largest = largest(param.tensor.detach());
            if param.name.ends_with("lora_a") {
                let bound = 1.0 / (param.tensor.size()[1] as f64).sqrt();
                assert!(largest <= bound && largest > 0.8 * bound, "{}", param.name);
            } else if param.name.contains("lora_magnitude") {
                assert!(largest > 0.0, "{}", param.name);
            } else {
                assert_eq!(largest, 0.0, "{}", param.name);
            }
        }
    }
}

#[test]
fn a_saved_adapter_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    // Tied, so that the embedding stands for the output layer, too.
    let mut one = base("llama_tied");
    let config = LoraConfig {
        dora: true,
        modules_to_save: vec!["embed_tokens".to_owned(), "input_layernorm".to_owned()],
        ..config(2, 4.0, &["q_proj", "v_proj", "down_proj"])
    };
    attach(&mut one, config.clone(), frozen("llama_tied")).expect("attaches");
    seed_everything(3);
    for param in one.trainable() {
        no_grad(|| {
            let noise = param.tensor.randn_like() * 0.1;
            param.tensor.shallow_clone().copy_(&(&param.tensor + noise))
        });
    }
    peft::save(&one, folder.path()).expect("saves");

    let mut other = base("llama_tied");
    attach(&mut other, config, frozen("llama_tied")).expect("attaches");
    peft::restore(&other, folder.path()).expect("restores");
    for (one, other) in one.trainable().zip(other.trainable()) {
        assert!(one.name == other.name && one.tensor.equal(&other.tensor));
    }

    // The folder alone stands for the merged model, and so does the model folder that is written.
    let ids = input("llama_tied");
    let expected = logits(&one, &ids);
    let merged = hf::load(folder.path(), Kind::Float, Device::Cpu).expect("loads");
    assert!(largest(logits(&merged.decoder, &ids) - &expected) < 1e-4);
    let whole = tempfile::tempdir().expect("a folder");
    hf::save(&one, &TokenIds::default(), whole.path()).expect("saves");
    let written = hf::load(whole.path(), Kind::Float, Device::Cpu).expect("loads");
    assert!(largest(logits(&written.decoder, &ids) - &expected) < 1e-4);
    assert!(
        largest(logits(&one, &ids) - &expected) == 0.0,
        "saving changes nothing"
    );
}

#[test]
fn several_adapters_merge_by_weight() {
    let folder = tempfile::tempdir().expect("a folder");
    let ids = input("llama");
    let mut other = base("llama");
    seed_everything(4);
    attach(&mut other, config(2, 3.0, &["k_proj"]), frozen("llama")).expect("attaches");
    for param in other.trainable() {
        no_grad(|| {
            param
                .tensor
                .shallow_clone()
                .copy_(&param.tensor.randn_like())
        });
    }
    peft::save(&other, folder.path()).expect("saves");
    let second = folder.path().to_owned();
    let merged = |adapters: &[(PathBuf, f64)]| {
        let mut decoder = base("llama");
        peft::merge(&mut decoder, adapters).expect("merges");
        logits(&decoder, &ids)
    };
    let first = adapter("llama");
    let halves = merged(&[
        (first.clone(), 0.25),
        (second.clone(), 1.0),
        (first.clone(), 0.75),
    ]);
    let both = merged(&[(first.clone(), 1.0), (second.clone(), 1.0)]);
    let scale = largest(both.shallow_clone()).max(1.0);
    assert!(largest(&halves - &both) < 1e-4 * scale);
    assert!(largest(merged(&[(second.clone(), 1.0)]) - logits(&other, &ids)) < 1e-4);
    assert!(largest(merged(&[(second, 0.0)]) - logits(&base("llama"), &ids)) < 1e-6);
    // PEFT puts a copy of the base's output layer beside its updates of it, which is no longer what the first has made.
    let head = adapter("llama_head");
    let halves = merged(&[(head.clone(), 0.5), (head.clone(), 0.5)]);
    assert!(largest(halves - merged(&[(head, 1.0)])) < 1e-4 * scale);
}

#[test]
fn a_base_in_bf16_stays_close_and_trains_in_float32() {
    for name in ["llama_tied", "gpt2"] {
        let mut decoder = base(name);
        let before = logits(&decoder, &input(name));
        let half = Frozen {
            kind: Some(Kind::BFloat16),
            ..frozen(name)
        };
        let target = if name == "gpt2" { "c_attn" } else { "q_proj" };
        attach(&mut decoder, config(2, 4.0, &[target]), half).expect("attaches");
        assert!(
            decoder
                .params()
                .tensors()
                .any(|tensor| tensor.kind() == Kind::BFloat16)
        );
        let after = logits(&decoder, &input(name));
        assert_eq!(after.kind(), Kind::Float);
        let spread = largest(before.shallow_clone());
        assert!(largest(after - before) < 0.05 * spread, "{name}");
        let ids = input(name);
        let places: Vec<i64> = (0..ids.numel() as i64).collect();
        decoder
            .loss_sum(Input::plain(&ids), &ids, &places)
            .backward();
        for param in decoder.trainable() {
            assert!(param.tensor.kind() == Kind::Float && param.tensor.grad().defined());
        }
    }
}

#[test]
fn what_is_dropped_does_not_depend_on_which_places_are_wanted() {
    let mut decoder = base("llama");
    let dropped = LoraConfig {
        dropout: 0.5,
        ..config(4, 8.0, &[])
    };
    attach(&mut decoder, dropped, frozen("llama")).expect("attaches");
    for param in decoder.trainable() {
        no_grad(|| {
            param
                .tensor
                .shallow_clone()
                .copy_(&param.tensor.randn_like())
        });
    }
    let ids = input("llama");
    let named = Tensor::arange(ids.numel() as i64, (Kind::Int64, Device::Cpu)) * 7 + 100;
    let named = named.view(&ids.size()[..]);
    let index = Tensor::from_slice(&[2, 3, 5, ids.numel() as i64 - 1]);
    let mut drawn = Vec::new();
    for places in [None, Some(&named)] {
        let input = Input {
            places,
            ..Input::plain(&ids)
        };
        seed_everything(6);
        let all = decoder.hidden(input, None).flatten(0, 1);
        let some = decoder.hidden_at(input, &index);
        let expected = all.index_select(0, &index);
        assert!(largest(&some - &expected) < 1e-4 * largest(expected));
        drawn.push(some);
    }
    assert!(
        largest(&drawn[0] - &drawn[1]) > 1e-2,
        "dropout is at work in training"
    );
}
