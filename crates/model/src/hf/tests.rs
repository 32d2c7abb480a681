//! Settings that are left out, or mean nothing, and weights that are none: read as Transformers reads them, or refused
//! by name.

use std::fs;
use std::path::{Path, PathBuf};

use etude_tensor::safetensors::{self, SafetensorsFile};
use etude_tensor::{Device, Kind, Tensor};
use serde_json::{Value, json};

use super::{demand_finite, load, load_config};
use crate::config::{Family, ModelConfig, Position, RotaryScaling, Sizes};

fn golden(name: &str) -> PathBuf {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    goldens.join(name)
}

/// What is read of settings with these sizes for three layers, and `fields`.
fn read(family: &str, fields: &Value) -> Result<ModelConfig, String> {
    let mut settings = match family {
        "gpt2" => json!({"n_embd": 48, "n_layer": 3}),
        _ => json!({
            "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 128,
        }),
    };
    settings["vocab_size"] = json!(320);
    settings["model_type"] = json!(family);
    let object = settings.as_object_mut().expect("an object");
    for (name, value) in fields.as_object().expect("an object") {
        match value.as_str() {
            Some("absent") => drop(object.remove(name)),
            _ => drop(object.insert(name.clone(), value.clone())),
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("config.json"), settings.to_string()).expect("writes");
    let read = load_config(folder.path());
    read.map(|(config, _)| config)
        .map_err(|error| error.to_string())
}

fn refused(family: &str, fields: &Value, words: &[&str]) {
    let error = read(family, fields).expect_err("refused");
    for word in [&["config.json"], words].concat() {
        assert!(error.contains(word), "{fields}: no `{word}` in: {error}");
    }
}

#[test]
fn a_mistral_whose_layers_are_listed_is_read_or_refused() {
    let (full, sliding) = ("full_attention", "sliding_attention");
    let window = |types: Value, window: Value| {
        let fields = json!({"layer_types": types, "sliding_window": window});
        let read = read("mistral", &fields).unwrap_or_else(|error| panic!("{error}"));
        read.sliding_window
    };
    assert_eq!(window(json!([full, full, full]), json!(5)), None);
    assert_eq!(window(json!([full, full, full]), Value::Null), None);
    assert_eq!(
        window(json!([sliding, sliding, sliding]), json!(5)),
        Some(5)
    );
    assert_eq!(window(Value::Null, json!(5)), Some(5));
    // A window as long as the context hides nothing.
    assert_eq!(window(json!([full, sliding, full]), json!(128)), None);
    for (types, window, words) in [
        (
            json!([full, sliding, full]),
            json!(5),
            ["layer_types", "Transformers"],
        ),
        (json!([full, full]), json!(5), ["layer_types", "3 layers"]),
        (
            json!("full_attention"),
            json!(5),
            ["layer_types", "3 layers"],
        ),
        (
            json!([full, "chunked_attention", full]),
            json!(5),
            ["layer_types", "`chunked_attention`"],
        ),
        (
            json!([sliding, sliding, sliding]),
            Value::Null,
            ["sliding_window", "null"],
        ),
    ] {
        let fields = json!({"layer_types": types, "sliding_window": window});
        refused("mistral", &fields, &words);
    }
}

#[test]
fn sizes_that_are_left_out_are_transformers_own() {
    let absent = json!("absent");
    let heads = |family: &str, kv: &Value| {
        let fields =
            json!({"hidden_size": 1024, "num_attention_heads": 32, "num_key_value_heads": kv});
        let config = read(family, &fields).expect("reads");
        config.n_kv_head
    };
    for (family, usual) in [
        ("mistral", 8),
        ("qwen2", 32),
        ("qwen3", 32),
        ("llama", 32),
        ("olmo2", 32),
    ] {
        assert_eq!(heads(family, &absent), usual, "{family}");
        assert_eq!(heads(family, &Value::Null), 32, "{family}");
    }
    let words = [
        "num_key_value_heads",
        "8 for mistral",
        "num_attention_heads = 4",
    ];
    refused("mistral", &json!({"num_key_value_heads": absent}), &words);

    let fields = json!({"hidden_size": 1536, "num_attention_heads": absent, "num_key_value_heads": null, "max_position_embeddings": absent});
    for (family, n_head, context) in [
        ("llama", 32, 2048),
        ("mistral", 32, 131_072),
        ("qwen2", 32, 32_768),
        ("qwen3", 32, 32_768),
        ("olmo2", 32, 2048),
        ("nanochat", 6, 2048),
    ] {
        let config = read(family, &fields).expect("reads");
        assert_eq!(
            (config.n_head, config.context),
            (n_head, context),
            "{family}"
        );
    }
    let config = read("gpt2", &json!({})).expect("reads");
    assert_eq!((config.n_head, config.context), (12, 1024));
    assert!(config.tied);
}

#[test]
fn gpt2_s_sizes_go_by_transformers_other_names_too() {
    let named = json!({
        "n_embd": "absent", "n_layer": "absent", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 64,
    });
    let usual = json!({"n_head": 4, "n_positions": 64});
    assert_eq!(read("gpt2", &named), read("gpt2", &usual));
    assert_eq!(read("gpt2", &named).expect("reads").n_layer, 3);
}

#[test]
fn a_width_need_not_be_a_multiple_of_the_heads_where_transformers_asks_for_none() {
    let fields = json!({"hidden_size": 50, "head_dim": 12});
    for family in ["mistral", "qwen2", "qwen3", "olmo2"] {
        let config = read(family, &fields).expect("reads");
        assert_eq!((config.n_embd, config.head_dim), (50, 12), "{family}");
    }
    refused(
        "llama",
        &json!({"hidden_size": 50}),
        &["n_embd", "multiple"],
    );
    refused(
        "gpt2",
        &json!({"n_embd": 50, "n_head": 4}),
        &["n_embd", "multiple"],
    );
    let sizes = Sizes {
        vocab_size: 8,
        n_layer: 1,
        n_head: 4,
        n_kv_head: 2,
        n_embd: 50,
        n_inner: 8,
        context: 8,
        tied: true,
    };
    let config = ModelConfig::new(Family::Mistral, sizes);
    assert!(config.validate().is_ok());
}

#[test]
fn settings_that_mean_nothing_are_refused_by_name() {
    for (fields, words) in [
        (
            json!({"rms_norm_eps": -1e-6}),
            ["rms_norm_eps", "at least 0"],
        ),
        (json!({"is_causal": false}), ["is_causal", "is false"]),
        (json!({"rope_theta": null}), ["rope_theta", "null"]),
        (json!({"rope_theta": 0}), ["rope_theta", "above 0"]),
        (
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": null}}),
            ["rope_theta", "null"],
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            ["factor", "missing"],
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            ["factor", "above 0"],
        ),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}),
            ["high_freq_factor", "missing"],
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}),
            ["partial_rotary_factor", "not 1"],
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.5}),
            ["partial_rotary_factor", "not 1"],
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}),
            ["rope_parameters", "`full_attention`"],
        ),
    ] {
        refused("llama", &fields, &words);
    }
    refused(
        "gpt2",
        &json!({"layer_norm_epsilon": -1.0}),
        &["layer_norm_epsilon", "at least 0"],
    );
    // Nothing is scaled, so Transformers turns the whole width.
    let fields = json!({"rms_norm_eps": 0.0, "partial_rotary_factor": 0.5, "rope_theta": 5e5});
    let config = read("llama", &fields).expect("reads");
    assert_eq!(config.norm_eps, 0.0);
    let whole = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 1.0, "rope_theta": 5e5}, "rope_theta": null});
    let config = read("llama", &whole).expect("reads");
    let expected = Position::Rotary {
        theta: 5e5,
        flipped: false,
        scaling: Some(RotaryScaling::Linear { factor: 2.0 }),
    };
    assert_eq!(config.position, expected);
}

#[test]
fn a_pickle_is_named_and_not_read() {
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let folder = tempfile::tempdir().expect("a folder");
        let config = golden("llama").join("config.json");
        fs::copy(config, folder.path().join("config.json")).expect("copies");
        fs::write(folder.path().join(name), "").expect("writes");
        let error = load(folder.path(), Kind::Float, Device::Cpu)
            .expect_err("refused")
            .to_string();
        for word in [name, "pickle", "save_pretrained"] {
            assert!(error.contains(word), "no `{word}` in: {error}");
        }
    }
}

/// A copy of a golden folder in which one number of a tensor is none.
fn spoilt(name: &str, weights: &str, tensor: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(golden(name)).expect("is there").flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copies");
    }
    let path = folder.path().join(weights);
    let file = SafetensorsFile::open(&path).expect("opens");
    let shapes = file.shapes().expect("reads");
    let read = |(name, _): (String, Vec<i64>)| {
        let values = file.tensor(&name).expect("reads");
        if name == tensor {
            let _ = values.flatten(0, -1).narrow(0, 1, 1).fill_(f64::NAN);
        }
        (name, values)
    };
    let tensors: Vec<(String, Tensor)> = shapes.into_iter().map(read).collect();
    assert!(tensors.iter().any(|(name, _)| name == tensor));
    safetensors::write(&path, &tensors, &[]).expect("writes");
    folder
}

#[test]
fn weights_that_are_no_numbers_are_named_by_file_and_tensor() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let folder = spoilt("llama", "model.safetensors", name);
    let model = load(folder.path(), Kind::Float, Device::Cpu).expect("loads, to be looked at");
    let error = demand_finite(&model.decoder, folder.path()).expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains("model.safetensors") && error.contains(&format!("`{name}`")),
        "{error}"
    );
    let sound = load(&golden("llama"), Kind::Float, Device::Cpu).expect("loads");
    demand_finite(&sound.decoder, &golden("llama")).expect("sound");
    let error = load(folder.path(), Kind::BFloat16, Device::Cpu).expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains(&format!("`{name}` ")) && error.contains("bfloat16"),
        "{error}"
    );
}

#[test]
fn an_adapter_that_is_no_numbers_is_not_merged() {
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    let folder = spoilt("lora_llama", "adapter_model.safetensors", name);
    let mut base = load(&golden("llama"), Kind::Float, Device::Cpu).expect("loads");
    let adapter = [(folder.path().to_owned(), 1.0)];
    let error = super::peft::merge(&mut base.decoder, &adapter).expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains("adapter_model.safetensors") && error.contains(name),
        "{error}"
    );
}

/// An adapter without one module's update, and with these fields in its settings.
fn without_a_module(fields: &Value) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let source = golden("lora_llama");
    let file = SafetensorsFile::open(&source.join("adapter_model.safetensors")).expect("opens");
    let shapes = file.shapes().expect("reads").into_iter();
    let left = shapes.filter(|(name, _)| !name.contains("layers.0.self_attn.q_proj"));
    let tensors: Vec<(String, Tensor)> = left
        .map(|(name, _)| (name.clone(), file.tensor(&name).expect("reads")))
        .collect();
    safetensors::write(
        &folder.path().join("adapter_model.safetensors"),
        &tensors,
        &[],
    )
    .expect("writes");
    let text = fs::read(source.join("adapter_config.json")).expect("reads");
    let mut settings: Value = serde_json::from_slice(&text).expect("JSON");
    for (name, value) in fields.as_object().expect("an object") {
        settings[name] = value.clone();
    }
    fs::write(
        folder.path().join("adapter_config.json"),
        settings.to_string(),
    )
    .expect("writes");
    let mut base = load(&golden("llama"), Kind::Float, Device::Cpu).expect("loads");
    let adapter = [(folder.path().to_owned(), 1.0)];
    super::peft::merge(&mut base.decoder, &adapter).map_err(|error| error.to_string())
}

#[test]
fn an_adapter_lacks_no_module_that_its_settings_select() {
    let name = "layers.0.self_attn.q_proj.lora_A.weight";
    for fields in [
        json!({}),
        json!({"target_modules": ".*_proj"}),
        json!({"target_modules": ["q_proj", "k_proj"], "layers_to_transform": [0, 1]}),
        json!({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}}),
        json!({"exclude_modules": ["lm_head"]}),
    ] {
        let error = without_a_module(&fields).expect_err("refused");
        assert!(error.contains(name) && error.contains("missing"), "{error}");
    }
    let q_proj = json!({"exclude_modules": r".*layers\.0.*q_proj"});
    without_a_module(&q_proj).expect("is not selected");
    for (field, value) in [
        ("use_bdlora", json!({"nblocks": 2})),
        ("kasa_config", json!({"beta": 1e-4})),
    ] {
        let error = without_a_module(&json!({field: value})).expect_err("refused");
        assert!(
            error.contains(field) && error.contains("not supported"),
            "{error}"
        );
    }
}
