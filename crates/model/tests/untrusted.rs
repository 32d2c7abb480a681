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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn a_damaged_gguf_is_read_or_refused(damage in damage()) {
        let whole = fs::read(goldens().join("gguf/llama.gguf")).expect("is there");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.gguf");
        fs::write(&path, damaged(&whole, 6000, &damage)).expect("written");
        if let Err(error) = gguf::import(&path, folder.path(), hf::Formats::one(Kind::Float)) {
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
