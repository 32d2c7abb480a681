//! What other programs write otherwise than Transformers and llama.cpp do today: older GGUF files, and settings that are
//! left out or say "none" in their own way.

use std::fs;
use std::path::{Path, PathBuf};

use etude_model::gguf::{self, ExportFormat};
use etude_model::hf::{self, TokenIds};
use etude_model::{Decoder, Family, ModelConfig, Position, RotaryScaling, Sizes};
use etude_tensor::safetensors::{self, SafetensorsFile};
use etude_tensor::{Device, Kind, Tensor};
use serde_json::{Value, json};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// Puts a text in place of another that stands in the file once with its length before it.
fn set(bytes: &mut Vec<u8>, old: &str, new: &str) {
    let with_length =
        |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let old = with_length(old);
    let at = bytes.windows(old.len()).position(|window| window == old);
    let at = at.expect("the file holds it");
    bytes.splice(at..at + old.len(), with_length(new));
}

#[test]
fn an_old_file_s_scaling_of_positions_is_read() {
    let sizes = Sizes {
        vocab_size: 300,
        n_layer: 1,
        n_head: 2,
        n_kv_head: 2,
        n_embd: 16,
        n_inner: 16,
        context: 64,
        tied: true,
    };
    let config = ModelConfig {
        position: Position::Rotary {
            theta: 10_000.0,
            flipped: false,
            scaling: Some(RotaryScaling::Linear { factor: 4.0 }),
        },
        ..ModelConfig::new(Family::Llama, sizes)
    };
    let tokenizer = gguf::load_tokenizer(&goldens().join("gguf/llama.gguf")).expect("loads");
    let decoder = Decoder::new(config, Kind::Float, Device::Cpu).expect("possible");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("named.gguf");
    let ids = TokenIds::default();
    gguf::export(&decoder, &ids, &tokenizer, &path, ExportFormat::F32).expect("exports");
    let new = fs::read(&path).expect("reads");
    let (kind, factor) = ("llama.rope.scaling.type", "llama.rope.scaling.factor");
    // Without a type; and as the oldest files have it, two letters shorter.
    for old in [factor, "llama.rope.scale_linear"] {
        let mut bytes = new.clone();
        set(&mut bytes, kind, "llama.rope.scaling.tipe");
        set(&mut bytes, factor, old);
        set(
            &mut bytes,
            "named",
            &format!("named{}", &"xx"[..factor.len() - old.len()]),
        );
        fs::write(&path, bytes).expect("writes");
        let read = gguf::load(&path, Kind::Float, Device::Cpu).expect("loads");
        assert_eq!(read.decoder.config(), decoder.config(), "{old}");
    }
}

/// The stages before the vocabulary of a file's tokenizer, or what is said of it.
fn stages(bytes: &[u8]) -> Result<[Value; 2], String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("old.gguf");
    fs::write(&path, bytes).expect("writes");
    let tokenizer = gguf::load_tokenizer(&path).map_err(|error| error.to_string())?;
    tokenizer.save(folder.path()).expect("saves");
    let json = fs::read(folder.path().join("tokenizer.json")).expect("reads");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    Ok(["normalizer", "pre_tokenizer"].map(|stage| json[stage].clone()))
}

#[test]
fn an_old_file_s_words_are_cut_as_its_architecture_does_or_not_at_all() {
    let golden = fs::read(goldens().join("gguf/llama.gguf")).expect("reads");
    // The file's length stays: what a change takes, a token that only fills up gives.
    let changed = |architecture: &str, pre: Option<&str>, begin: &str| {
        let mut bytes = golden.clone();
        set(&mut bytes, "llama", architecture);
        for at in 0..bytes.len() - 6 {
            if &bytes[at..at + 6] == b"llama." {
                bytes[at..at + 5].copy_from_slice(architecture.as_bytes());
            }
        }
        let mut longer = begin.len() as i64 - 13;
        set(&mut bytes, "<|endoftext|>", begin);
        match pre {
            Some(name) => {
                set(&mut bytes, "smollm", name);
                longer += name.len() as i64 - 6;
            }
            None => set(&mut bytes, "tokenizer.ggml.pre", "tokenizer.ggml.prx"),
        }
        set(&mut bytes, "[PAD51]", &"[PAD51]x"[..(7 - longer) as usize]);
        stages(&bytes)
    };
    let (usual, llama_3) = ("<|endoftext|>", "<|begin_of_text|>");
    let qwen2 = changed("qwen2", None, usual).expect("reads");
    assert_eq!(
        qwen2,
        changed("llama", Some("qwen2"), usual).expect("reads")
    );
    assert_eq!(qwen2, changed("qwen3", None, usual).expect("reads"));
    let llama = changed("llama", None, llama_3).expect("reads");
    assert_eq!(
        llama,
        changed("llama", Some("llama3"), llama_3).expect("reads")
    );
    assert_ne!(llama, qwen2);
    // Nothing in the file tells one way of many.
    let error = changed("llama", None, usual).expect_err("refused");
    for part in ["old.gguf", "tokenizer.ggml.pre", "is not there", "`llama`"] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
}

/// A copy of a golden folder whose config.json has these fields; null takes one out.
fn with(golden: &str, file: &str, fields: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(goldens().join(golden)).expect("is there") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copies");
    }
    let path = folder.path().join(file);
    let text = fs::read(&path).expect("reads");
    let mut settings: Value = serde_json::from_slice(&text).expect("JSON");
    let object = settings.as_object_mut().expect("an object");
    for (name, value) in fields.as_object().expect("an object") {
        match value {
            Value::Null => drop(object.remove(name)),
            value => drop(object.insert(name.clone(), value.clone())),
        }
    }
    fs::write(&path, settings.to_string()).expect("writes");
    folder
}

#[test]
fn a_mistral_that_says_nothing_of_its_window_has_transformers_default() {
    let read = |fields: Value| {
        let folder = with("mistral", "config.json", &fields);
        let (config, _) = hf::load_config(folder.path()).expect("reads");
        config.sliding_window
    };
    assert_eq!(read(json!({"sliding_window": null})), Some(4096));
    assert_eq!(read(json!({"sliding_window": 7})), Some(7));
}

#[test]
fn a_window_that_hides_nothing_is_none() {
    let read = |golden: &str, fields: Value| {
        let folder = with(golden, "config.json", &fields);
        let (config, _) = hf::load_config(folder.path()).map_err(|error| error.to_string())?;
        assert_eq!(config.sliding_window, None);
        Ok::<_, String>(config)
    };
    for fields in [
        json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 2, "layer_types": null}),
        json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 0, "layer_types": null}),
        // Transformers' own default of 28 layers before the first that slides.
        json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": null, "layer_types": null}),
        json!({"hidden_act": "swish"}),
    ] {
        read("qwen2", fields).expect("reads");
    }
    for fields in [
        json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1, "layer_types": null}),
        json!({"use_sliding_window": true, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}),
    ] {
        let refused = read("qwen2", fields).expect_err("refused");
        assert!(refused.contains("use_sliding_window"), "{refused}");
    }
}

/// As `safetensors.torch.save_model` writes them: of two names for the same memory, one.
#[test]
fn a_tied_model_may_hold_its_output_layer_alone() {
    let folder = with("llama_tied", "config.json", &json!({}));
    let path = folder.path().join("model.safetensors");
    let file = SafetensorsFile::open(&path).expect("opens");
    let names = file
        .shapes()
        .expect("reads")
        .into_iter()
        .map(|(name, _)| name);
    let tensors: Vec<(String, Tensor)> = names
        .map(|name| {
            (
                name.replace("model.embed_tokens", "lm_head"),
                file.tensor(&name).expect("reads"),
            )
        })
        .collect();
    assert!(tensors.iter().any(|(name, _)| name == "lm_head.weight"));
    safetensors::write(&path, &tensors, &[]).expect("writes");
    let read = |folder: &Path| {
        hf::load(folder, Kind::Float, Device::Cpu)
            .expect("loads")
            .decoder
    };
    let (whole, alone) = (read(&goldens().join("llama_tied")), read(folder.path()));
    assert!(alone.config().tied);
    for (one, other) in whole.params().tensors().zip(alone.params().tensors()) {
        assert!(one.equal(other));
    }
}

#[test]
fn a_missing_shard_is_named() {
    let folder = with("llama_sharded", "config.json", &json!({}));
    let shard = fs::read_dir(folder.path())
        .expect("reads")
        .flatten()
        .map(|entry| entry.path());
    let shard = shard.filter(|path| {
        path.extension()
            .is_some_and(|ending| ending == "safetensors")
    });
    let shard = shard
        .into_iter()
        .find(|path| path.to_string_lossy().contains("-of-"))
        .expect("is there");
    fs::remove_file(&shard).expect("removes");
    let error = hf::load(folder.path(), Kind::Float, Device::Cpu)
        .expect_err("refused")
        .to_string();
    let name = shard.file_name().expect("a name").to_string_lossy();
    assert!(
        error.contains(&*name) && error.contains("missing"),
        "{error}"
    );
}

#[test]
fn an_export_keeps_every_end_and_its_own_name() {
    let tokenizer = gguf::load_tokenizer(&goldens().join("gguf/llama.gguf")).expect("loads");
    let mut model = hf::load(&goldens().join("llama"), Kind::Float, Device::Cpu).expect("loads");
    model.ids.eos = vec![5, 2, 7];
    let folder = tempfile::tempdir().expect("a folder");
    // As while it is written.
    let path = folder.path().join(".mine.v2.gguf.unfinished-7");
    gguf::export(
        &model.decoder,
        &model.ids,
        &tokenizer,
        &path,
        ExportFormat::F32,
    )
    .expect("exports");
    let again = gguf::load(&path, Kind::Float, Device::Cpu).expect("loads");
    let mut ends = again.ids.eos.clone();
    assert_eq!(ends[0], 5);
    ends.sort_unstable();
    assert_eq!(ends, [2, 5, 7]);
    let bytes = fs::read(&path).expect("reads");
    let name = [&7u64.to_le_bytes()[..], b"mine.v2"].concat();
    assert!(bytes.windows(name.len()).any(|window| window == name));
}

#[test]
fn a_field_that_is_null_does_not_hide_its_other_name() {
    let linear = json!({"rope_type": "linear", "factor": 2.0});
    let folder = with(
        "llama",
        "config.json",
        &json!({"rope_parameters": null, "rope_scaling": linear}),
    );
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).expect("reads");
    let with_null = text.replacen('{', "{\"rope_parameters\": null, ", 1);
    for text in [text, with_null] {
        fs::write(&path, text).expect("writes");
        let (config, _) = hf::load_config(folder.path()).expect("reads");
        let Position::Rotary { scaling, .. } = config.position else {
            panic!("llama's positions are rotary");
        };
        assert_eq!(scaling, Some(RotaryScaling::Linear { factor: 2.0 }));
    }
}

/// The frequencies' scaling that a golden Llama has with these fields.
fn scaling(fields: &Value) -> Option<RotaryScaling> {
    let folder = with("llama", "config.json", fields);
    let (config, _) = hf::load_config(folder.path()).expect("reads");
    match config.position {
        Position::Rotary { scaling, .. } => scaling,
        Position::Learned => panic!("llama's positions are rotary"),
    }
}

#[test]
fn of_two_rotary_settings_the_old_one_counts_as_in_transformers() {
    let plain = json!({"rope_type": "default", "rope_theta": 10000.0});
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    let expected = Some(RotaryScaling::Linear { factor: 4.0 });
    let both = json!({"rope_parameters": plain, "rope_scaling": linear});
    assert_eq!(scaling(&both), expected);
    let empty = json!({"rope_parameters": linear, "rope_scaling": {}});
    assert_eq!(scaling(&empty), expected);
}

#[test]
fn the_context_before_stretching_is_found_where_transformers_finds_it() {
    let stretched = |original: Option<i64>| {
        let mut rope = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
        if let Some(original) = original {
            rope["original_max_position_embeddings"] = json!(original);
        }
        rope
    };
    let found = |fields: Value| match scaling(&fields) {
        Some(RotaryScaling::Llama3 {
            original_context, ..
        }) => original_context,
        other => panic!("{other:?}"),
    };
    let context = json!(96);
    let nowhere = json!({"rope_parameters": stretched(None), "max_position_embeddings": context});
    assert_eq!(found(nowhere), 96.0);
    let inside =
        json!({"rope_parameters": stretched(Some(32)), "max_position_embeddings": context});
    assert_eq!(found(inside), 32.0);
    let outside =
        json!({"rope_parameters": stretched(Some(32)), "original_max_position_embeddings": 64});
    assert_eq!(found(outside), 64.0);
}

#[test]
fn a_nanochat_that_says_nothing_of_its_cap_has_transformers_default() {
    let unnamed = json!({"final_logit_softcapping": null});
    let folder = with("nanochat", "config.json", &unnamed);
    let path = folder.path().join("config.json");
    let read = || hf::load_config(folder.path()).expect("reads").0.logit_cap;
    assert_eq!(read(), Some(15.0));
    let text = fs::read_to_string(&path).expect("reads");
    let none = text.replacen('{', "{\"final_logit_softcapping\": null, ", 1);
    fs::write(&path, none).expect("writes");
    assert_eq!(read(), None);
}

#[test]
fn an_output_layer_of_its_own_is_read_whatever_the_settings_say() {
    for golden in ["llama", "gpt2"] {
        let folder = with(golden, "config.json", &json!({"tie_word_embeddings": true}));
        let file = folder.path().join("model.safetensors");
        let held = SafetensorsFile::open(&file).expect("opens");
        let names = held.shapes().expect("shapes");
        let tensors = names
            .iter()
            .map(|(name, _)| (name.clone(), held.tensor(name).expect("reads").copy()))
            .filter(|(name, _)| name != "lm_head.weight");
        let tensors: Vec<_> = tensors.collect();
        drop(held);
        let table = tensors.iter().find(|(name, _)| {
            name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight")
        });
        let table = table.expect("an embedding").1.copy();
        for (head, tied) in [(&table * 1.0, true), (&table * 1.5, false)] {
            let mut all: Vec<_> = tensors
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
                .collect();
            all.push(("lm_head.weight".to_owned(), head.shallow_clone()));
            safetensors::write(&file, &all, &[]).expect("writes");
            let loaded = hf::load(folder.path(), Kind::Float, Device::Cpu).expect("reads");
            assert_eq!(loaded.decoder.config().tied, tied, "{golden}");
            let read = loaded.decoder.params().get("head.weight");
            match read {
                Some(param) => assert!(param.equal(&head) && !tied, "{golden}"),
                None => assert!(tied, "{golden}"),
            }
        }
    }
}

#[test]
fn biases_are_those_that_transformers_gives_the_family_whatever_the_flag_says() {
    for (family, on_qkv) in [("qwen2", true), ("mistral", false)] {
        let folder = with(family, "config.json", &json!({"attention_bias": true}));
        let (config, _) = hf::load_config(folder.path()).expect("reads");
        assert_eq!(
            (config.qkv_bias, config.out_bias),
            (on_qkv, false),
            "{family}"
        );
        hf::load(folder.path(), Kind::Float, Device::Cpu).expect("finds its weights");
    }
}

#[test]
fn quantized_weights_in_a_folder_are_refused_by_their_method() {
    let quantized = json!({"quantization_config": {"quant_method": "gptq", "bits": 4}});
    let folder = with("llama", "config.json", &quantized);
    let error = hf::load_config(folder.path())
        .expect_err("refused")
        .to_string();
    for part in ["config.json", "quantization_config", "gptq", "GGUF"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_token_id_of_minus_one_is_none() {
    let read = |fields: Value| {
        let folder = with("llama", "config.json", &fields);
        let _ = fs::remove_file(folder.path().join("generation_config.json"));
        hf::load_config(folder.path()).map(|(_, ids)| ids)
    };
    let ids = read(json!({"bos_token_id": -1, "eos_token_id": [-1, 2], "pad_token_id": -1}));
    let expected = TokenIds {
        bos: None,
        eos: vec![2],
        pad: None,
    };
    assert_eq!(ids.expect("reads"), expected);
    let ids = read(json!({"eos_token_id": -1})).expect("reads");
    assert_eq!(ids.eos, [0; 0]);
    let error = read(json!({"eos_token_id": "two"})).expect_err("refused");
    assert!(error.to_string().contains("eos_token_id"), "{error}");
}
