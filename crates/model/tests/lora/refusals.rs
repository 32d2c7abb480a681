//! Adapters that cannot be used, and settings that do not fit, are refused by file and field.

use std::fs;
use std::path::Path;

use etude_model::hf::{self, peft};
use etude_model::lora::{LoraConfig, attach};
use etude_tensor::safetensors::{self, SafetensorsFile};
use etude_tensor::{Device, Kind, Tensor};
use serde_json::{Value, json};

use super::{adapter, base, config, frozen, goldens};

type Tensors = Vec<(String, Tensor)>;

/// A copy of the llama adapter with its configuration and tensors changed.
fn changed(folder: &Path, edit: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Tensors)) {
    let from = adapter("llama");
    let text = fs::read(from.join("adapter_config.json")).expect("reads");
    let mut json: Value = serde_json::from_slice(&text).expect("JSON");
    json["base_model_name_or_path"] = json!(goldens("llama"));
    edit(&mut json);
    fs::write(folder.join("adapter_config.json"), json.to_string()).expect("writes");
    let file = SafetensorsFile::open(&from.join("adapter_model.safetensors")).expect("opens");
    let names = file.shapes().expect("reads");
    let mut all: Tensors = names
        .into_iter()
        .map(|(name, _)| (name.clone(), file.tensor(&name).expect("reads")))
        .collect();
    tensors(&mut all);
    safetensors::write(&folder.join("adapter_model.safetensors"), &all, &[]).expect("writes");
}

#[test]
fn folders_that_cannot_be_used_are_refused_by_file_and_field() {
    let says = |edit: &dyn Fn(&mut Value), tensors: &dyn Fn(&mut Tensors), words: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder");
        changed(folder.path(), edit, tensors);
        let error = hf::load(folder.path(), Kind::Float, Device::Cpu)
            .expect_err("refused")
            .to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    let set =
        |field: &'static str, value: Value| move |json: &mut Value| json[field] = value.clone();
    let as_is = |_: &mut Tensors| {};
    for (field, value, word) in [
        ("peft_type", json!("IA3"), "`IA3`"),
        ("r", json!(0), "at least 1"),
        ("r", json!("8"), "not a whole number"),
        ("use_dora", json!("yes"), "true or false"),
        ("init_lora_weights", json!("pissa"), "not supported"),
        ("layer_replication", json!([[0, 2]]), "not supported"),
        ("alpha_pattern", json!({"(?<=a)q": 2}), "(?<=a)q"),
        ("rank_pattern", json!({".*q_proj": 0}), "at least 1"),
        ("target_modules", json!(["q_proj", "c_attn"]), "`c_attn`"),
        (
            "base_model_name_or_path",
            json!("someone/model"),
            "--adapter",
        ),
        ("base_model_name_or_path", Value::Null, "--adapter"),
    ] {
        says(
            &set(field, value),
            &as_is,
            &["adapter_config.json", field, word],
        );
    }
    // Another base: wrong shapes, a name without a place, nothing at all.
    says(&set("r", json!(5)), &as_is, &["shape", "another base"]);
    says(
        &set(
            "base_model_name_or_path",
            json!(goldens("llama_bias_scaled")),
        ),
        &as_is,
        &["adapter_model.safetensors", "shape", "another base"],
    );
    says(
        &|_| {},
        &|all| all[0].0 = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight".to_owned(),
        &["layers.", "missing"],
    );
    says(
        &|_| {},
        &|all| {
            all.push((
                "base_model.model.model.layers.9.x.lora_A.weight".to_owned(),
                all[0].1.shallow_clone(),
            ))
        },
        &["layers.9.x", "no place"],
    );
    says(&|_| {}, &Vec::clear, &["lora_A", "missing"]);
    // An update that PEFT would not read.
    says(
        &set("target_modules", json!(["q_proj"])),
        &as_is,
        &["adapter_model.safetensors", "does not choose"],
    );
    // Biases are refused where there are some to train.
    let folder = tempfile::tempdir().expect("a folder");
    let biases = set("bias", json!("all"));
    changed(folder.path(), biases, |_| {});
    hf::load(folder.path(), Kind::Float, Device::Cpu).expect("this base has none");
    changed(
        folder.path(),
        |json| {
            json["bias"] = json!("lora_only");
            json["base_model_name_or_path"] = json!(goldens("llama_bias_scaled"));
        },
        |_| {},
    );
    let error = hf::load(folder.path(), Kind::Float, Device::Cpu).expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains("bias") && error.contains("\"lora_only\""),
        "{error}"
    );

    let folder = tempfile::tempdir().expect("a folder");
    changed(folder.path(), |_| {}, |_| {});
    let weights = folder.path().join("adapter_model.safetensors");
    let whole = fs::read(&weights).expect("reads");
    fs::write(&weights, &whole[..whole.len() - 1]).expect("writes");
    let error = |folder: &Path| {
        hf::load(folder, Kind::Float, Device::Cpu)
            .expect_err("refused")
            .to_string()
    };
    assert!(error(folder.path()).contains("whole safetensors"));
    fs::rename(&weights, folder.path().join("adapter_model.bin")).expect("renames");
    assert!(error(folder.path()).contains("pickle"));
}

/// PEFT trains two matrices where it is not told to keep them one.
#[test]
fn what_parts_a_tied_matrix_is_merged_and_not_gone_on_from() {
    let start = |name: &str, edit: &dyn Fn(&mut Value)| {
        let from = adapter(name);
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(from.join(file), folder.path().join(file)).expect("copies");
        }
        let place = folder.path().join("adapter_config.json");
        let text = fs::read(&place).expect("reads");
        let mut json: Value = serde_json::from_slice(&text).expect("JSON");
        edit(&mut json);
        fs::write(&place, json.to_string()).expect("writes");
        let mut decoder = base(name);
        let settings = LoraConfig {
            modules_to_save: vec!["embed_tokens".to_owned()],
            ..config(2, 4.0, &["q_proj"])
        };
        attach(&mut decoder, settings, frozen(name)).expect("attaches");
        peft::restore(&decoder, folder.path()).expect("as a run's own, it is one");
        peft::start_from(&decoder, folder.path()).map_err(|error| error.to_string())
    };
    start("llama_tied_kept", &|_| {}).expect("the two are one");
    let told = start("llama_tied_kept", &|json| {
        json["ensure_weight_tying"] = json!(false);
    });
    let told = told.expect_err("the two would go apart");
    assert!(told.contains("can be merged, not gone on from"), "{told}");
}

#[test]
fn settings_that_do_not_fit_are_refused_by_name() {
    let says = |settings: LoraConfig, words: &[&str]| {
        let error = attach(&mut base("llama"), settings, frozen("llama"))
            .expect_err("refused")
            .to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    says(config(0, 8.0, &[]), &["lora.rank = 0", "at least 1"]);
    says(config(2, 0.0, &[]), &["lora.alpha = 0", "above 0"]);
    says(
        LoraConfig {
            dropout: 1.0,
            ..config(2, 4.0, &[])
        },
        &["lora.dropout = 1", "below 1"],
    );
    says(
        config(2, 4.0, &["q_proj", "c_attn"]),
        &[
            "lora.targets",
            "`c_attn`",
            "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
        ],
    );
    says(config(2, 4.0, &["lm_head"]), &["lora.targets", "`lm_head`"]);
    says(
        LoraConfig {
            modules_to_save: vec!["wte".to_owned()],
            ..config(2, 4.0, &[])
        },
        &["lora.modules_to_save", "`wte`", "embed_tokens", "lm_head"],
    );
    says(
        LoraConfig {
            modules_to_save: vec!["o_proj".to_owned()],
            ..config(2, 4.0, &[])
        },
        &["`o_proj`", "lora.targets"],
    );
    let mut decoder = base("llama");
    attach(&mut decoder, config(2, 4.0, &[]), frozen("llama")).expect("attaches");
    let again = attach(&mut decoder, config(2, 4.0, &[]), frozen("llama"));
    assert!(
        again
            .expect_err("refused")
            .to_string()
            .contains("adapter already")
    );

    for (name, two, words) in [
        // Magnitudes scale what another adapter would add to.
        ("qwen2", ["qwen2_dora", "qwen2_dora"], &["use_dora"][..]),
        // Nor is there a sum of an update and of what was trained whole.
        ("llama", ["llama", "llama_whole"], &["one of them whole"]),
        // One that keeps a tied pair as one has trained both, also where another parts them.
        (
            "llama_tied",
            ["llama_tied_kept", "llama_tied_head"],
            &["`head.weight`", "one of them whole"],
        ),
    ] {
        let two = two.map(|name| (adapter(name), 0.5));
        let refused = peft::merge(&mut base(name), &two).expect_err("refused");
        let told = refused.to_string();
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    }

    // An adapter of other settings is not gone on from.
    for (settings, word) in [
        (config(2, 4.0, &[]), "rank"),
        (config(4, 9.0, &[]), "lora.alpha"),
        (config(4, 8.0, &["q_proj"]), "lora.targets"),
        (
            LoraConfig {
                dora: true,
                ..config(4, 8.0, &[])
            },
            "lora.dora is true",
        ),
        (
            LoraConfig {
                modules_to_save: vec!["lm_head".to_owned()],
                ..config(4, 8.0, &[])
            },
            "modules_to_save",
        ),
    ] {
        let mut decoder = base("llama");
        attach(&mut decoder, settings, frozen("llama")).expect("attaches");
        let error = peft::restore(&decoder, &adapter("llama"))
            .expect_err("refused")
            .to_string();
        assert!(error.contains(word), "{error:?} lacks {word:?}");
    }
}
