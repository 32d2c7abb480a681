//! Which model a folder holds: a hash of its weights and of the settings that matter, wherever it lies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::peft;

/// Hash of a model or adapter: its weights and its settings, and those of the base that an adapter is on.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let weights = weights_fingerprint(folder)?;
    Ok(match peft::is_adapter(folder) {
        // An adapter is what it is at its scale, and on its base, wherever that lies.
        true => {
            let scale = settings_fingerprint(folder, "adapter_config.json")?;
            combined(&[&weights, &scale, &fingerprint(&peft::base(folder)?)?])
        }
        false => combined(&[&weights, &settings_fingerprint(folder, "config.json")?]),
    })
}

/// Keys of `config.json` and `adapter_config.json` that say nothing about what is computed.
const BOOKKEEPING: [&str; 9] = [
    "_name_or_path",
    "base_model_name_or_path",
    "transformers_version",
    "peft_version",
    "torch_dtype",
    "dtype",
    "inference_mode",
    "revision",
    "auto_mapping",
];

/// Hash of what a model's or an adapter's settings say: the same weights with another rotation, epsilon or scale are
/// another model. How they are written, by which program, and where a base lies, does not matter.
///
/// # Errors
/// When the file cannot be read, or is no JSON.
pub fn settings_fingerprint(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    let text =
        std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let settings: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).with_context(|| format!("{}: is no JSON", path.display()))?;
    let mut hasher = Sha256::new();
    for (key, value) in settings {
        if !BOOKKEEPING.contains(&&*key) {
            hasher.update(format!("{key}={value}\n"));
        }
    }
    Ok(hex(hasher.finalize()))
}

/// Hash over the weight files' names, sizes and checksums: of all that is in them, and made as fast as they can be read.
///
/// # Errors
/// When a file cannot be read.
pub fn weights_fingerprint(folder: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("{}: cannot be read", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "safetensors")
        })
        .collect();
    files.sort();
    let mut hasher = Sha256::new();
    for path in files {
        hash_file(&path, &mut hasher)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
    }
    Ok(hex(hasher.finalize()))
}

fn hash_file(path: &Path, hasher: &mut Sha256) -> std::io::Result<()> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    hasher.update(file.metadata()?.len().to_le_bytes());
    let (mut part, mut checksum) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut part)? {
            0 => break,
            read => checksum = crc32c::crc32c_append(checksum, &part[..read]),
        }
    }
    hasher.update(checksum.to_le_bytes());
    Ok(())
}

/// Hash of what several parts come to together.
pub fn combined(parts: &[&str]) -> String {
    hex(Sha256::digest(parts.concat()))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A merge may move the middle of a file alone, and a setting no weight at all.
    #[test]
    fn whatever_makes_another_model_makes_another_fingerprint() -> Result<()> {
        let root = tempfile::tempdir()?;
        let [weights, config] =
            ["model.safetensors", "config.json"].map(|name| root.path().join(name));
        let mut bytes = vec![7u8; 1 << 20];
        std::fs::write(&weights, &bytes)?;
        std::fs::write(&config, r#"{"rope_theta": 1.0, "dtype": "float32"}"#)?;
        let first = fingerprint(root.path())?;
        std::fs::write(&config, r#"{"dtype":"bfloat16","rope_theta":1.0}"#)?;
        assert_eq!(fingerprint(root.path())?, first, "how it is written");
        std::fs::write(&config, r#"{"rope_theta": 2.0}"#)?;
        assert_ne!(fingerprint(root.path())?, first, "a setting");
        std::fs::write(&config, r#"{"rope_theta": 1.0}"#)?;
        bytes[1 << 19] ^= 1;
        std::fs::write(&weights, &bytes)?;
        assert_ne!(fingerprint(root.path())?, first, "the middle");
        Ok(())
    }

    #[test]
    fn an_adapter_is_known_by_its_scale_and_its_base_wherever_that_lies() -> Result<()> {
        let root = tempfile::tempdir()?;
        let folder = |name: &str| root.path().join(name);
        for base in ["base", "moved"] {
            std::fs::create_dir(folder(base))?;
            std::fs::write(folder(base).join("model.safetensors"), [7; 100])?;
            std::fs::write(folder(base).join("config.json"), r#"{"rope_theta": 1.0}"#)?;
        }
        std::fs::create_dir(folder("adapter"))?;
        std::fs::write(folder("adapter/adapter_model.safetensors"), [5; 100])?;
        let with = |base: &str, alpha: u32, version: &str| {
            let settings = serde_json::json!({
                "base_model_name_or_path": folder(base),
                "lora_alpha": alpha,
                "peft_version": version,
            });
            std::fs::write(folder("adapter/adapter_config.json"), settings.to_string())?;
            fingerprint(&folder("adapter"))
        };
        let first = with("base", 16, "0.20")?;
        assert_eq!(with("moved", 16, "0.21")?, first);
        assert_ne!(with("base", 8, "0.20")?, first, "its scale");
        std::fs::write(folder("base/model.safetensors"), [8; 100])?;
        assert_ne!(with("base", 16, "0.20")?, first, "its base");
        Ok(())
    }
}
