//! import, and export to GGUF: what goes out comes back and says the same.

use std::fs;
use std::path::{Path, PathBuf};

use etude_tensor::Kind;
use etude_tensor::safetensors::{self, SafetensorsFile};

use crate::support::{good, json, keys, model, scratch, text, write, wrong};

/// The ids of a greedy continuation.
fn ids(folder: &str) -> serde_json::Value {
    let prompt = ["--prompt", "A rose", "--temperature", "0", "--json"];
    let told = json(&[&["generate", folder, "--max-tokens", "12"], &prompt[..]].concat());
    told["ids"].clone()
}

#[test]
fn a_gguf_export_comes_back_as_the_same_model() {
    let file = scratch("tiny.gguf");
    let told = json(&["export", model(), text(&file), "--format", "f32", "--json"]);
    assert_eq!(keys(&told), ["bytes", "file"]);
    assert_eq!(told["bytes"], file.metadata().unwrap().len());

    let folder = scratch("from-gguf");
    let told = json(&["import", text(&file), text(&folder), "--json"]);
    let told_keys = ["bytes", "checks", "files", "folder", "reference"];
    assert_eq!(keys(&told), told_keys);
    let files = [
        "certificate.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(told["files"], serde_json::json!(files));
    assert_eq!(ids(text(&folder)), ids(model()));
    assert!(good(&["doctor", text(&folder)]).contains("The folder is whole"));

    // Half the bytes, and a folder with nothing else in it is enough.
    let small = scratch("small/q8.gguf");
    good(&["export", model(), text(&small), "--format", "q8_0"]);
    assert!(small.metadata().unwrap().len() < file.metadata().unwrap().len());
    let half = scratch("from-small");
    let source = text(small.parent().unwrap());
    good(&["import", source, text(&half), "--dtype", "bfloat16"]);
    let weights = |folder: &Path| folder.join("model.safetensors").metadata().unwrap().len();
    assert!(weights(&half) < weights(&folder) * 2 / 3);

    wrong(
        &["export", model(), text(&file)],
        &["tiny.gguf", "there already"],
    );
    wrong(
        &["export", model(), text(&scratch("x")), "--format", "f16"],
        &["--format", ".gguf"],
    );
    wrong(
        &[
            "export",
            model(),
            text(&scratch("x.gguf")),
            "--dtype",
            "float16",
        ],
        &["--dtype", "--format"],
    );
    wrong(
        &["import", text(&file), text(&folder)],
        &["from-gguf", "not empty"],
    );
}

/// A copy of the model in float32 in which a tensor that is `chosen` by name and dimensions has that number at its
/// fourth place; its folder, and the tensor's name.
fn with_number(to: &str, number: f64, chosen: impl Fn(&str, usize) -> bool) -> (PathBuf, String) {
    let folder = scratch(to);
    good(&["export", model(), text(&folder)]);
    let path = folder.join("model.safetensors");
    let file = SafetensorsFile::open(&path).unwrap();
    let names = file.shapes().unwrap().into_iter().map(|(name, _)| name);
    let tensors: Vec<_> = names
        .map(|name| (name.clone(), file.tensor(&name).unwrap()))
        .collect();
    let found = tensors
        .iter()
        .find(|(name, tensor)| chosen(name, tensor.dim()));
    let (name, tensor) = found.unwrap();
    let _ = tensor.view([-1]).narrow(0, 3, 1).fill_(number);
    drop(file);
    safetensors::write(&path, &tensors, &[]).unwrap();
    (folder, name.clone())
}

/// The dtypes of a folder's weights.
fn dtypes(folder: &Path) -> Vec<Kind> {
    let file = SafetensorsFile::open(&folder.join("model.safetensors")).unwrap();
    let mut kinds: Vec<Kind> = file.kinds().into_iter().map(|(kind, _)| kind).collect();
    kinds.sort_by_key(|kind| format!("{kind:?}"));
    kinds.dedup();
    kinds
}

#[test]
fn an_import_keeps_the_number_format_of_the_weights() {
    let stored = |name: &str, source: &str, more: &[&str]| {
        let folder = scratch(&format!("formats/{name}"));
        good(&[&["import", source, text(&folder)], more].concat());
        folder
    };
    let half = stored("half", model(), &["--dtype", "bfloat16"]);
    assert_eq!(dtypes(&half), [Kind::BFloat16]);
    assert_eq!(dtypes(&stored("same", text(&half), &[])), [Kind::BFloat16]);
    // Whatever config.json says of it.
    let config = half.join("config.json");
    let told = fs::read_to_string(&config).unwrap();
    fs::write(&config, told.replace("bfloat16", "float32")).unwrap();
    assert_eq!(dtypes(&stored("told", text(&half), &[])), [Kind::BFloat16]);
    let wide = stored("wide", text(&half), &["--dtype", "float32"]);
    assert_eq!(dtypes(&wide), [Kind::Float]);
    // As it is asked, kept narrow or made wide, it is one model.
    assert_eq!(ids(text(&half)), ids(text(&wide)));

    // A quantized GGUF is read in float32; of one in float16 the vectors stay in the float32 that they are in, and only
    // where that changes nothing they are in float16, too.
    let file = scratch("formats/q8_0.gguf");
    good(&["export", model(), text(&file), "--format", "q8_0"]);
    assert_eq!(dtypes(&stored("q8_0", text(&file), &[])), [Kind::Float]);
    let (odd, _) = with_number("formats/odd", 1.0001, |_, dims| dims == 1);
    for (name, source, kinds) in [
        ("f16", text(&odd), &[Kind::Half, Kind::Float][..]),
        (
            "exact",
            text(&stored("narrow", model(), &["--dtype", "float16"])),
            &[Kind::Half],
        ),
    ] {
        let file = scratch(&format!("formats/{name}.gguf"));
        good(&["export", source, text(&file), "--format", "f16"]);
        let kept = stored(name, text(&file), &[]);
        let found = dtypes(&kept);
        assert!(
            kinds.iter().all(|kind| found.contains(kind)),
            "{name}: {found:?}"
        );
        assert_eq!(
            found.contains(&Kind::Float),
            kinds.contains(&Kind::Float),
            "{name}"
        );
        let wide = stored(
            &format!("{name}-wide"),
            text(&file),
            &["--dtype", "float32"],
        );
        let values = |folder: &Path| {
            let file = SafetensorsFile::open(&folder.join("model.safetensors")).unwrap();
            let names = file.shapes().unwrap().into_iter().map(|(name, _)| name);
            let mut all: Vec<_> = names
                .map(|name| (file.tensor(&name).unwrap(), name))
                .collect();
            all.sort_by(|one, other| one.1.cmp(&other.1));
            all
        };
        for ((kept, name), (wide, _)) in values(&kept).iter().zip(&values(&wide)) {
            assert!(kept.to_kind(Kind::Float).equal(wide), "{name}");
        }
        // What comes of it as a folder again is that folder.
        let again = scratch(&format!("formats/{name}-again"));
        good(&["export", text(&kept), text(&again)]);
        assert_eq!(dtypes(&again), found);
    }
}

#[test]
fn a_number_that_float16_does_not_hold_is_refused() {
    let (folder, name) = with_number("large", 1e5, |name, _| name.contains("mlp"));
    let out = scratch("large.gguf");
    wrong(
        &["export", text(&folder), text(&out)],
        &["100000", "F16", "f32"],
    );
    let slash = format!("{}/", text(&out));
    wrong(&["export", text(&folder), &slash], &["names a folder"]);
    assert!(!out.exists());
    for command in ["export", "import"] {
        let out = scratch("large-half");
        wrong(
            &[command, text(&folder), text(&out), "--dtype", "float16"],
            &[&name, "float16"],
        );
        assert!(!out.exists());
    }
    good(&["export", text(&folder), text(&out), "--format", "f32"]);
}

#[test]
fn a_hugging_face_folder_is_imported_in_shards_or_whole() {
    let sharded = scratch("sharded");
    good(&["export", model(), text(&sharded), "--max-shard", "20kB"]);
    let folder = scratch("from-shards");
    good(&["import", text(&sharded), text(&folder)]);
    assert!(folder.join("model.safetensors").is_file());
    assert_eq!(ids(text(&folder)), ids(model()));

    fs::write(sharded.join("config.json"), "{\"model_type\": \"mamba\"}").unwrap();
    let out = scratch("from-mamba");
    wrong(
        &["import", text(&sharded), text(&out)],
        &["config.json", "`mamba`", "llama", "qwen3"],
    );
    assert!(!out.exists());
}

/// As after `add_tokens` without `resize_token_embeddings`, which many published models were left in.
#[test]
fn a_token_that_was_added_beyond_the_vocabulary_is_left_out() {
    let folder = scratch("added");
    good(&["export", model(), text(&folder)]);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
    };
    let mut tokenizer = read("tokenizer.json");
    let vocab_size = read("config.json")["vocab_size"].clone();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let mut token = added[0].clone();
    token["id"] = vocab_size.clone();
    token["content"] = "<pad-2>".into();
    added.push(token);
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut config = read("tokenizer_config.json");
    config["pad_token"] = "<pad-2>".into();
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();

    let beyond = format!("its model knows {vocab_size}, not `<pad-2>` ({vocab_size})");
    wrong(&["doctor", text(&folder)], &[&beyond, "etude import"]);
    let out = scratch("without-added");
    good(&["import", text(&folder), text(&out)]);
    assert!(good(&["doctor", text(&out)]).contains("The folder is whole"));
    assert_eq!(ids(text(&out)), ids(model()));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert!(
            !fs::read_to_string(out.join(name))
                .unwrap()
                .contains("pad-2")
        );
    }

    // One that the chat template writes is not left out: what the model reads would not be what its publisher meant.
    config["chat_template"] = "<pad-2>{{ messages[0].content }}{{ eos_token }}".into();
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    let _ = fs::remove_file(folder.join("chat_template.jinja"));
    let out = scratch("with-added");
    wrong(
        &["import", text(&folder), text(&out)],
        &[&beyond, "the model was trained with"],
    );
}

#[test]
fn what_cannot_be_imported_is_named() {
    let out = scratch("nothing");
    let out = text(&out);
    wrong(
        &["import", "no-such-model", out],
        &["no-such-model", "smollm2"],
    );
    wrong(&["import", "smolm2", out], &["did you mean `smollm2`?"]);
    let notes = write("notes.txt", "no model at all");
    wrong(&["import", &notes, out], &["notes.txt", "no GGUF file"]);
    let empty = scratch("empty-source");
    fs::create_dir_all(&empty).unwrap();
    wrong(
        &["import", text(&empty), out],
        &["empty-source", "config.json"],
    );
    let file = scratch("whole.gguf");
    good(&["export", model(), text(&file)]);
    let whole = fs::read(&file).unwrap();
    let cut = write("cut.gguf", &whole[..whole.len() / 2]);
    wrong(&["import", &cut, out], &["cut.gguf", "past the end"]);
    assert!(!Path::new(out).exists());
}
