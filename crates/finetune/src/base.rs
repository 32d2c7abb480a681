//! The model that fine-tuning starts from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use etude_data::DataError;
use etude_model::hf::peft;
use etude_model::lora::{self, Frozen};
use etude_model::{Decoder, hf};
use etude_tensor::{Device, with_seed};
use etude_tokenizer::Tokenizer;
use etude_train::checkpoint::Checkpoints;

use crate::recipe::{LoraSettings, Recipe};

pub(crate) struct Base {
    pub(crate) decoder: Decoder,
    pub(crate) tokenizer: Tokenizer,
    /// Of the starting weights: a run resumes only from the same ones.
    pub(crate) fingerprint: String,
}

pub(crate) fn load(recipe: &Recipe, device: Device) -> Result<Base> {
    let folder = finished(&recipe.base.path)?;
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
            hf::settings_fingerprint(&sizes_folder(&folder)?, "config.json")?,
        )
    } else {
        let loaded = hf::load(&folder, kind, device)?;
        (loaded.decoder, hf::fingerprint(&folder)?)
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
        fingerprint = hf::combined(&[&fingerprint, &start]);
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
    let folder = finished(&recipe.base.path)?;
    let (config, _) = hf::load_config(&sizes_folder(&folder)?)?;
    let tokenizer = Tokenizer::load(&tokenizer_folder(&folder)?).with_context(|| {
        format!(
            "base.path = {}: its tokenizer cannot be loaded",
            recipe.base.path.display()
        )
    })?;
    Ok((tokenizer, config.context as usize))
}

/// The model folder that a base path means. Refuses a run that has none yet.
fn finished(path: &Path) -> Result<PathBuf> {
    let folder = model_folder(path);
    let without = !path.join("config.json").is_file() && !peft::is_adapter(path);
    if path.is_dir() && folder == path && without {
        let checkpoints = Checkpoints::new(path);
        if let Some(&step) = checkpoints.steps()?.last() {
            let newest = checkpoints.place(step);
            let remedy = format!(
                "give its command again, and it goes on; or begin from its newest checkpoint, base.path = {:?}",
                newest.display().to_string()
            );
            return Err(DataError::in_file(path, "the run has not finished", remedy).into());
        }
    }
    Ok(folder)
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
    peft::start_from(decoder, start)
        .with_context(|| format!("lora.start = {}: cannot be gone on from", start.display()))?;
    hf::weights_fingerprint(start)
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
