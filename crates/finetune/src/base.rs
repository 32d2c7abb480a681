//! The model that fine-tuning starts from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use etude_data::DataError;
use etude_model::hf::peft;
use etude_model::lora::{self, Frozen};
use etude_model::{Decoder, hf};
use etude_tensor::{Device, with_seed};
use etude_tokenizer::Tokenizer;
use sha2::{Digest, Sha256};

use crate::recipe::{LoraSettings, Recipe};

pub(crate) struct Base {
    pub(crate) decoder: Decoder,
    pub(crate) tokenizer: Tokenizer,
    /// Of the starting weights: a run resumes only from the same ones.
    pub(crate) fingerprint: String,
}

pub(crate) fn load(recipe: &Recipe, device: Device) -> Result<Base> {
    let folder = model_folder(&recipe.base.path);
    let kind = recipe.train.precision.kind();
    let tokenizer = Tokenizer::load(&tokenizer_folder(&folder)?).with_context(|| {
        format!(
            "base.path = {}: its tokenizer cannot be loaded",
            recipe.base.path.display()
        )
    })?;
    let (mut decoder, mut fingerprint) = if recipe.base.from_scratch {
        let (config, _) = hf::load_config(&folder)?;
        let decoder = with_seed(recipe.train.seed, || Decoder::new(config, kind, device))?;
        (
            decoder,
            settings_fingerprint(&sizes_folder(&folder)?, "config.json")?,
        )
    } else {
        let loaded = hf::load(&folder, kind, device)?;
        (loaded.decoder, base_fingerprint(&folder)?)
    };
    let rows = decoder.config().vocab_size;
    if tokenizer.vocab_size() as i64 > rows {
        let what = format!(
            "its tokenizer has {} tokens, its model knows {rows}: the two are of different models",
            tokenizer.vocab_size()
        );
        let remedy = "put the tokenizer that the model was trained with into the folder";
        return Err(DataError::in_file(&folder, what, remedy).into());
    }
    if let Some(settings) = recipe.adapter() {
        ensure!(
            !peft::is_adapter(&folder),
            "base.path = {}: is an adapter, and an adapter's base must be a model; write the merged model with `etude export` first",
            recipe.base.path.display()
        );
        let start = with_seed(recipe.train.seed, || adapt(&mut decoder, settings, folder))?;
        fingerprint = hex(Sha256::digest(fingerprint + &start));
    }
    Ok(Base {
        decoder,
        tokenizer,
        fingerprint,
    })
}

/// The tokenizer of the base model and the most positions it has, without its weights.
///
/// # Errors
/// When the folder holds no model, or no tokenizer.
pub(crate) fn outline(recipe: &Recipe) -> Result<(Tokenizer, usize)> {
    let folder = model_folder(&recipe.base.path);
    let (config, _) = hf::load_config(&sizes_folder(&folder)?)?;
    let tokenizer = Tokenizer::load(&tokenizer_folder(&folder)?).with_context(|| {
        format!(
            "base.path = {}: its tokenizer cannot be loaded",
            recipe.base.path.display()
        )
    })?;
    Ok((tokenizer, config.context as usize))
}

/// Freezes the decoder and gives it the adapter that is to be trained. Returns the fingerprint of where that
/// starts.
fn adapt(decoder: &mut Decoder, settings: &LoraSettings, base: PathBuf) -> Result<String> {
    let frozen = Frozen {
        base,
        kind: settings.frozen_kind(),
    };
    lora::attach(decoder, settings.config(), frozen)?;
    let Some(start) = &settings.start else {
        return Ok(String::new());
    };
    peft::restore(decoder, start)
        .with_context(|| format!("lora.start = {}: cannot be gone on from", start.display()))?;
    weights_fingerprint(start)
}

/// An adapter folder has its base's sizes.
fn sizes_folder(folder: &Path) -> Result<PathBuf> {
    Ok(match peft::is_adapter(folder) {
        true => peft::base(folder)?,
        false => folder.to_owned(),
    })
}

/// An adapter folder without a tokenizer has its base's.
pub(crate) fn tokenizer_folder(folder: &Path) -> Result<PathBuf> {
    if peft::is_adapter(folder) && !folder.join("tokenizer.json").is_file() {
        return Ok(peft::base(folder)?);
    }
    Ok(folder.to_owned())
}

/// The model folder that a base path means: a run folder stands for its result.
pub fn model_folder(path: &Path) -> PathBuf {
    let inside = path.join("model");
    if !path.join("config.json").is_file() && inside.is_dir() {
        inside
    } else {
        path.to_owned()
    }
}

/// Hash of a base model: its weights and its settings.
///
/// # Errors
/// When a file cannot be read.
pub fn base_fingerprint(folder: &Path) -> Result<String> {
    let weights = weights_fingerprint(folder)?;
    let parts = match peft::is_adapter(folder) {
        // An adapter is what it is at its scale, and on its base, wherever that lies.
        true => {
            let scale = settings_fingerprint(folder, "adapter_config.json")?;
            weights + &scale + &base_fingerprint(&peft::base(folder)?)?
        }
        false => weights + &settings_fingerprint(folder, "config.json")?,
    };
    Ok(hex(Sha256::digest(parts)))
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
fn settings_fingerprint(folder: &Path, name: &str) -> Result<String> {
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
fn weights_fingerprint(folder: &Path) -> Result<String> {
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
        let first = base_fingerprint(root.path())?;
        std::fs::write(&config, r#"{"dtype":"bfloat16","rope_theta":1.0}"#)?;
        assert_eq!(base_fingerprint(root.path())?, first, "how it is written");
        std::fs::write(&config, r#"{"rope_theta": 2.0}"#)?;
        assert_ne!(base_fingerprint(root.path())?, first, "a setting");
        std::fs::write(&config, r#"{"rope_theta": 1.0}"#)?;
        bytes[1 << 19] ^= 1;
        std::fs::write(&weights, &bytes)?;
        assert_ne!(base_fingerprint(root.path())?, first, "the middle");
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
            base_fingerprint(&folder("adapter"))
        };
        let first = with("base", 16, "0.20")?;
        assert_eq!(with("moved", 16, "0.21")?, first);
        assert_ne!(with("base", 8, "0.20")?, first, "its scale");
        std::fs::write(folder("base/model.safetensors"), [8; 100])?;
        assert_ne!(with("base", 16, "0.20")?, first, "its base");
        Ok(())
    }
}
