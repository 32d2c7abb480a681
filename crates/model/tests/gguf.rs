//! GGUF files against those that made them: blocks decoded by the `gguf` package, the goldens' own weights
//! in llama.cpp's layout (tests/goldens/gguf, made by scripts/goldens/gguf_files.py), and our own exports.

use std::fs;
use std::path::{Path, PathBuf};

use etude_model::gguf::{self, ExportFormat, GgufError, TensorFormat, dequantize, quantize};
use etude_model::hf::{self, LoadedModel, TokenIds};
use etude_model::{Decoder, Family, ModelConfig, Position, RotaryScaling, Sizes};
use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, Kind, Tensor};
use etude_tokenizer::{Message, Role, Tokenizer, TrainSettings};

const MODELS: [&str; 5] = ["gpt2", "llama", "llama_bias_scaled", "qwen2", "qwen3"];

/// Into a model folder in float32.
fn import(path: &Path, folder: &Path) -> Result<(), GgufError> {
    gguf::import(path, folder, hf::Formats::one(Kind::Float))
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn golden(name: &str) -> PathBuf {
    goldens().join("gguf").join(name)
}

fn from_folder(name: &str) -> LoadedModel {
    hf::load(&goldens().join(name), Kind::Float, Device::Cpu).expect("the golden folder loads")
}

fn from_gguf(path: &Path) -> LoadedModel {
    gguf::load(path, Kind::Float, Device::Cpu).expect("the file loads")
}

fn same_weights(ours: &Decoder, theirs: &Decoder) {
    assert_eq!(ours.params().len(), theirs.params().len());
    for (a, b) in ours.params().iter().zip(theirs.params().iter()) {
        assert_eq!(a.0, b.0);
        assert!(a.1.equal(b.1), "{}", a.0);
    }
}

/// A small vocabulary of the trained kind, with its chat template.
fn tokenizer() -> Tokenizer {
    let text = "A rose is a rose is a rose, 1234 times. ".repeat(50);
    let settings = TrainSettings {
        vocab_size: 290,
        ..TrainSettings::default()
    };
    let (tokenizer, _) = Tokenizer::train([text].into_iter(), &settings).expect("trains");
    tokenizer
}

#[test]
fn every_format_is_decoded_to_the_last_bit() {
    let file = SafetensorsFile::open(&golden("blocks.safetensors")).expect("opens");
    let read = |name: String| file.tensor(&name).expect("is there");
    for format in TensorFormat::all() {
        let bytes: Vec<u8> =
            Vec::try_from(read(format!("{}.bytes", format.name()))).expect("bytes");
        let expected: Vec<f32> =
            Vec::try_from(read(format!("{}.values", format.name()))).expect("float32");
        let mut values = vec![f32::NAN; expected.len()];
        dequantize(format, &bytes, &mut values);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(&expected), "{}", format.name());
    }
    let source: Vec<f32> = Vec::try_from(read("source".to_owned())).expect("float32");
    let expected: Vec<u8> = Vec::try_from(read("source.Q8_0".to_owned())).expect("bytes");
    assert_eq!(quantize(TensorFormat::Q8_0, &source), expected);
}

#[test]
fn weights_and_settings_are_those_of_the_folder() {
    for name in MODELS {
        let theirs = from_folder(name);
        let ours = from_gguf(&golden(&format!("{name}.gguf")));
        same_weights(&ours.decoder, &theirs.decoder);
        let (ours, theirs) = (ours.decoder.config(), theirs.decoder.config());
        if name == "llama_bias_scaled" {
            // The factors were stored, the settings found from them.
            let Position::Rotary { scaling, .. } = ours.position else {
                panic!("llama is rotary")
            };
            let expected = RotaryScaling::Llama3 {
                factor: 8.0,
                low: 1.0,
                high: 4.0,
                original_context: 32.0,
            };
            assert_eq!(scaling, Some(expected));
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn an_imported_folder_has_the_tokenizer_and_the_template() {
    let folder = tempfile::tempdir().expect("a folder");
    import(&golden("llama.gguf"), folder.path()).expect("imports");
    let model = hf::load(folder.path(), Kind::Float, Device::Cpu).expect("loads");
    same_weights(&model.decoder, &from_folder("llama").decoder);
    let expected = TokenIds {
        bos: Some(1),
        eos: vec![2],
        pad: Some(2),
    };
    assert_eq!(model.ids, expected);

    let tokenizer = Tokenizer::load(folder.path()).expect("loads");
    check_ids(&tokenizer, "llama");
    // 50 tokens and one of a user's own: what filled the embedding up is gone.
    assert_eq!(tokenizer.vocab_size(), 51);
    let own = tokenizer.token_id("<think>").expect("is a token");
    assert!(!tokenizer.is_special(own) && tokenizer.is_special(1));
    let prompt = tokenizer
        .render_prompt(&[Message::new(Role::User, "the rain")])
        .and_then(|segments| tokenizer.encode_segments(&segments))
        .expect("renders");
    assert_eq!(prompt.ids[0], 1);
    assert_eq!(tokenizer.end_of_turn_id(), Some(2));
}

/// The tokenizer gives the ids of the golden, and its text back.
fn check_ids(tokenizer: &Tokenizer, name: &str) {
    let golden = fs::read(golden("tokenizer.json")).expect("is there");
    let golden: serde_json::Value = serde_json::from_slice(&golden).expect("JSON");
    let text = golden[name]["text"].as_str().expect("a text");
    let ids = tokenizer.encode(text).expect("encodes");
    assert_eq!(serde_json::json!(ids), golden[name]["ids"]);
    assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), text);
}

#[test]
fn a_sentencepiece_tokenizer_is_imported() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = golden("sentencepiece.gguf");
    import(&file, folder.path()).expect("imports");
    let tokenizer = Tokenizer::load(folder.path()).expect("loads");
    check_ids(&tokenizer, "sentencepiece");
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
}

/// What is exported is imported as it was: pieces, bytes, special tokens, and in what order pieces are made.
#[test]
fn a_sentencepiece_tokenizer_is_exported() {
    let root = tempfile::tempdir().expect("a folder");
    let [first, again] = ["first", "again"].map(|name| root.path().join(name));
    for folder in [&first, &again] {
        fs::create_dir(folder).expect("is made");
    }
    import(&golden("sentencepiece.gguf"), &first).expect("imports");
    let tokenizer = Tokenizer::load(&first).expect("loads");
    let model = hf::load(&first, Kind::Float, Device::Cpu).expect("loads");
    let file = root.path().join("out.gguf");
    let LoadedModel { decoder, ids } = &model;
    gguf::export(decoder, ids, &tokenizer, &file, ExportFormat::F32).expect("exports");
    import(&file, &again).expect("imports");
    let read = |folder: &Path| -> serde_json::Value {
        let text = fs::read(folder.join("tokenizer.json")).expect("is there");
        serde_json::from_slice(&text).expect("JSON")
    };
    let (first, again) = (read(&first), read(&again));
    for part in ["model", "normalizer", "decoder", "added_tokens"] {
        assert!(first[part] == again[part], "{part}");
    }
    assert!(first["model"]["merges"].as_array().expect("merges").len() > 20);

    // A merge fewer: GGUF would have it all the same, since scores are all that it has.
    let mut fewer = first.clone();
    let merges = fewer["model"]["merges"].as_array_mut().expect("merges");
    let whole = |merge: &serde_json::Value| -> String {
        let parts = merge.as_array().expect("a pair").iter();
        parts.filter_map(|part| part.as_str()).collect()
    };
    let twice = |at: &usize| {
        merges
            .iter()
            .filter(|one| whole(one) == whole(&merges[*at]))
            .count()
            > 1
    };
    let doubled = (0..merges.len()).find(twice).expect("a piece of two pairs");
    merges.remove(doubled);
    let folder = root.path().join("fewer");
    fs::create_dir(&folder).expect("is made");
    fs::write(folder.join("tokenizer.json"), fewer.to_string()).expect("writes");
    let other = Tokenizer::load(&folder).expect("loads");
    let error = gguf::export(&model.decoder, &model.ids, &other, &file, ExportFormat::F32)
        .expect_err("refused");
    assert!(error.to_string().contains("do not follow"), "{error}");
}

#[test]
fn an_export_comes_back_bit_for_bit() {
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().expect("a folder");
    for (family, heads) in [
        (Family::Llama, 2),
        (Family::Mistral, 4),
        (Family::Qwen2, 2),
        (Family::Qwen3, 2),
        (Family::Gpt2, 4),
    ] {
        let sizes = Sizes {
            vocab_size: 300,
            n_layer: 2,
            n_head: 4,
            n_kv_head: heads,
            n_embd: 32,
            n_inner: 64,
            context: 128,
            tied: family == Family::Qwen3,
        };
        let config = ModelConfig::new(family, sizes);
        let decoder = Decoder::new(config, Kind::Float, Device::Cpu).expect("possible");
        let ids = TokenIds {
            bos: tokenizer.bos_id(),
            eos: tokenizer.eos_id().into_iter().collect(),
            pad: tokenizer.pad_id(),
        };
        let path = folder.path().join("x.gguf");
        gguf::export(&decoder, &ids, &tokenizer, &path, ExportFormat::F32).expect("exports");
        let again = from_gguf(&path);
        same_weights(&again.decoder, &decoder);
        let expected = ModelConfig {
            // llama.cpp knows Mistral as llama.
            family: match family {
                Family::Mistral => Family::Llama,
                other => other,
            },
            ..decoder.config().clone()
        };
        assert_eq!(*again.decoder.config(), expected);

        let imported = tempfile::tempdir().expect("a folder");
        import(&path, imported.path()).expect("imports");
        let again = Tokenizer::load(imported.path()).expect("loads");
        let text = "A rose is 1234 roses.\n\n  Twice!";
        assert_eq!(again.encode(text).ok(), tokenizer.encode(text).ok());
        assert_eq!(again.vocab_size(), tokenizer.vocab_size());
        assert_eq!(again.stop_ids(), tokenizer.stop_ids());
        let template = |tokenizer: &Tokenizer| {
            let template = tokenizer.chat_template().expect("has one");
            template.source().to_owned()
        };
        assert_eq!(template(&again), template(&tokenizer));

        for (format, most) in [(ExportFormat::F16, 1e-3), (ExportFormat::Q8_0, 1e-2)] {
            gguf::export(&decoder, &ids, &tokenizer, &path, format).expect("exports");
            let narrow = from_gguf(&path);
            let pairs = narrow.decoder.params().iter().zip(decoder.params().iter());
            for ((name, ours), (_, exact)) in pairs {
                let scale = largest(exact).max(1e-9);
                let off = largest(&(ours - exact)) / scale;
                assert!(off < most, "{family:?} {format:?} {name}: {off}");
            }
        }
    }
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[test]
fn llama_3s_scaling_survives_an_export() {
    let sizes = Sizes {
        vocab_size: 300,
        n_layer: 1,
        n_head: 2,
        n_kv_head: 1,
        n_embd: 16,
        n_inner: 16,
        context: 128,
        tied: true,
    };
    let tokenizer = tokenizer();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.gguf");
    for scaling in [
        RotaryScaling::Llama3 {
            factor: 32.0,
            low: 1.0,
            high: 4.0,
            original_context: 8192.0,
        },
        RotaryScaling::Linear { factor: 4.0 },
    ] {
        let config = ModelConfig {
            head_dim: 64,
            position: Position::Rotary {
                theta: 500_000.0,
                flipped: false,
                scaling: Some(scaling),
            },
            ..ModelConfig::new(Family::Llama, sizes)
        };
        let decoder = Decoder::new(config, Kind::Float, Device::Cpu).expect("possible");
        let ids = TokenIds::default();
        gguf::export(&decoder, &ids, &tokenizer, &path, ExportFormat::F32).expect("exports");
        assert_eq!(from_gguf(&path).decoder.config(), decoder.config());
    }
}

#[test]
fn what_llama_cpp_could_not_run_is_not_exported() {
    let model = from_folder("nanochat");
    let path = Path::new("never-written.gguf");
    let error = gguf::export(
        &model.decoder,
        &model.ids,
        &tokenizer(),
        path,
        ExportFormat::F16,
    )
    .expect_err("refused");
    assert!(error.to_string().contains("nanochat"), "{error}");
    assert!(!path.exists());
}
