//! Damaged weight files: whatever is cut or flipped, the readers answer with a model or an error, never a
//! panic, and never by taking memory that the file could not fill.
//!
//! `scripts/fuzz_readers.sh` does the same for as long as one likes (examples/fuzz_readers.rs).

use std::fs;
use std::path::{Path, PathBuf};

use etude_model::{gguf, hf};
use etude_tensor::{Device, Kind};
use proptest::prelude::*;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// What is done to a file: bytes at places (shares of its length, or of its header's) get new values, and
/// a share of it is left.
fn damage() -> impl Strategy<Value = (Vec<(f64, bool, u8)>, Option<f64>)> {
    let place = (0.0..1.0f64, any::<bool>(), any::<u8>());
    let cut = prop_oneof![3 => Just(None), 1 => (0.0..1.0f64).prop_map(Some)];
    (proptest::collection::vec(place, 0..6), cut)
}

fn damaged(
    whole: &[u8],
    header: usize,
    (flips, cut): &(Vec<(f64, bool, u8)>, Option<f64>),
) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for (share, in_header, value) in flips {
        let span = if *in_header { header } else { bytes.len() };
        bytes[(share * span as f64) as usize] = *value;
    }
    if let Some(share) = cut {
        bytes.truncate((share * whole.len() as f64) as usize);
    }
    bytes
}

fn import(path: &Path, folder: &Path) -> Result<(), gguf::GgufError> {
    gguf::import(path, folder, hf::Formats::one(Kind::Float)).map(|_| ())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn a_damaged_gguf_is_read_or_refused(damage in damage()) {
        let whole = fs::read(goldens().join("gguf/llama.gguf")).expect("is there");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.gguf");
        fs::write(&path, damaged(&whole, 6000, &damage)).expect("written");
        if let Err(error) = import(&path, folder.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_damaged_safetensors_is_read_or_refused(damage in damage()) {
        let source = goldens().join("llama_tied");
        let whole = fs::read(source.join("model.safetensors")).expect("is there");
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(source.join("config.json"), folder.path().join("config.json")).expect("copied");
        let path = folder.path().join("model.safetensors");
        fs::write(&path, damaged(&whole, 2400, &damage)).expect("written");
        if let Err(error) = hf::load(folder.path(), Kind::Float, Device::Cpu) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_damaged_config_is_read_or_refused(damage in damage()) {
        let source = goldens().join("llama_bias_scaled");
        let whole = fs::read(source.join("config.json")).expect("is there");
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copied");
        fs::write(folder.path().join("config.json"), damaged(&whole, whole.len(), &damage)).expect("written");
        if let Err(error) = hf::load(folder.path(), Kind::Float, Device::Cpu) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn what_would_make_it_another_model_is_refused_by_its_key() {
    let whole = fs::read(goldens().join("gguf/llama.gguf")).expect("is there");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("more.gguf");
    // A key, the number of its type, and its value; and one more that fills up to where tensors stay aligned.
    let with = |key: &str, kind: u32, value: &[u8]| {
        let pair = |key: &str, kind: u32, value: &[u8]| {
            let length = (key.len() as u64).to_le_bytes();
            [&length, key.as_bytes(), &kind.to_le_bytes(), value].concat()
        };
        let mut more = pair(key, kind, value);
        let filler = "x".repeat(32 + 19 - more.len() % 32);
        more.extend(pair(&filler, 7, &[1]));
        assert_eq!(more.len() % 32, 0);
        let count = u64::from_le_bytes(whole[16..24].try_into().expect("eight bytes")) + 2;
        let bytes = [&whole[..16], &count.to_le_bytes(), &more, &whole[24..]].concat();
        fs::write(&path, bytes).expect("written");
        import(&path, folder.path()).map_err(|error| error.to_string())
    };
    let float = |value: f32| value.to_le_bytes();
    for (key, kind, value) in [
        ("llama.attention.causal", 7, &[0][..]),
        ("llama.attention.scale", 6, &float(0.5)),
        ("llama.final_logit_softcapping", 6, &float(30.0)),
        ("llama.embedding_scale", 6, &float(12.0)),
    ] {
        let told = with(key, kind, value).expect_err(key);
        assert!(told.contains("more.gguf") && told.contains(key), "{told}");
    }
    with("llama.attention.causal", 7, &[1]).expect("is what it would be");
    with("llama.logit_scale", 6, &float(1.0)).expect("changes nothing");
}

/// A file cut, changed or replaced at places that are found by their text, and what is said about it.
#[test]
fn a_lying_file_is_named_with_the_field_that_lies() {
    let whole = fs::read(goldens().join("gguf/llama.gguf")).expect("is there");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lie.gguf");
    let check = |bytes: &[u8], expected: &[&str]| {
        fs::write(&path, bytes).expect("written");
        let error = import(&path, folder.path()).expect_err("refused");
        let message = error.to_string();
        for part in ["lie.gguf"].iter().chain(expected) {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
    };
    let after = |text: &str| {
        let found = whole
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        found.expect("the file holds it") + text.len()
    };
    let changed = |at: usize, bytes: &[u8]| {
        let mut copy = whole.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        copy
    };
    let huge = (1u64 << 61).to_le_bytes();

    check(b"", &["magic", "cut"]);
    check(b"GGML and more", &["magic", "no GGUF file"]);
    check(&changed(4, &1u32.to_le_bytes()), &["version", "is 1"]);
    check(&changed(4, &3u32.to_be_bytes()), &["version", "big-endian"]);
    check(&changed(8, &huge), &["tensor_count"]);
    check(&changed(16, &huge), &["metadata_kv_count"]);
    check(&whole[..100], &["cut"]);
    check(&whole[..whole.len() - 5000], &["past the end", "cut"]);

    // A key is followed by its type, an array by that of its elements and their number.
    let tokens = after("tokenizer.ggml.tokens");
    check(
        &changed(tokens + 8, &huge),
        &["tokenizer.ggml.tokens", "elements"],
    );
    check(
        &changed(tokens + 16, &huge),
        &["tokenizer.ggml.tokens", "cut"],
    );
    check(
        &changed(tokens, &77u32.to_le_bytes()),
        &["tokenizer.ggml.tokens", "type 77"],
    );
    check(
        &changed(after("llama.block_count") + 4, &9u32.to_le_bytes()),
        &["blk.", "missing"],
    );
    check(
        &changed(after("llama.block_count") + 4, &u32::MAX.to_le_bytes()),
        &["n_layer = 4294967295", "1024"],
    );
    check(
        &changed(after("llama.embedding_length") + 4, &48u32.to_le_bytes()),
        &["token_embd.weight", "shape [96, 24]", "48"],
    );
    check(
        &changed(after("llama.attention.head_count") + 4, &0u32.to_le_bytes()),
        &["n_head = 0"],
    );
    check(
        &changed(after("general.architecture") + 12, b"mamba"),
        &["`mamba`", "llama, qwen2, qwen3, gpt2"],
    );
    check(
        &changed(after("tokenizer.ggml.model") + 12, b"rwkv"),
        &["tokenizer.ggml.model", "`rwkv`"],
    );
    check(
        &changed(after("tokenizer.ggml.pre") + 12, b"smallm"),
        &["`smallm`", "smollm"],
    );
    check(
        &changed(
            after("tokenizer.ggml.eos_token_id") + 4,
            &95u32.to_le_bytes(),
        ),
        &["tokenizer.ggml.eos_token_id", "is 95"],
    );

    // A name is followed by its dimensions, their number first, then the format, then the offset.
    let norm = after("output_norm.weight");
    check(
        &changed(norm, &9u32.to_le_bytes()),
        &["output_norm.weight", "9 dimensions"],
    );
    check(&changed(norm + 4, &huge), &["output_norm.weight"]);
    check(
        &changed(norm + 4, &0u64.to_le_bytes()),
        &["output_norm.weight", "dimension of 0"],
    );
    check(
        &changed(norm + 12, &16u32.to_le_bytes()),
        &["output_norm.weight", "IQ2_XXS", "Q4_K"],
    );
    check(
        &changed(norm + 12, &12u32.to_le_bytes()),
        &["output_norm.weight", "blocks of 256"],
    );
    check(
        &changed(norm + 16, &7u64.to_le_bytes()),
        &["output_norm.weight", "alignment"],
    );
    check(
        &changed(norm + 16, &huge),
        &["output_norm.weight", "past the end"],
    );
    check(&changed(norm + 16, &0u64.to_le_bytes()), &["shares bytes"]);
    check(
        &changed(norm - "output_norm.weight".len(), b"stranger"),
        &["output_norm.weight", "missing"],
    );
    // Untouched, it is fine.
    fs::write(&path, &whole).expect("written");
    assert_eq!(
        gguf::GgufFile::open(&path).expect("opens").tensors().len(),
        21
    );
}
