//! What a run saves of its model: whole model folders, or the adapter alone where only that is trained.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use etude_data::DataError;
use etude_model::Decoder;
use etude_model::certificate::{self, CERTIFICATE};
use etude_model::hf::{self, TokenIds, peft};
use etude_tensor::no_grad;

use crate::checkpoint::MANIFEST;
use crate::run::RunFolder;
use crate::stage::Stage;

/// Fills a checkpoint's folder: a model folder, or an adapter folder, in which the frozen base is only named.
pub(crate) fn save(
    stage: &dyn Stage,
    decoder: &Decoder,
    ids: &TokenIds,
    folder: &Path,
) -> Result<()> {
    if decoder.adapter().is_some() {
        peft::save(decoder, folder)?;
        return stage.save_tokenizer(folder);
    }
    save_whole(stage, decoder, ids, folder)
}

/// Writes the result: `model/`, with an adapter merged, and that adapter as `adapter/`. Each is read back
/// and gets its certificate.
pub(crate) fn save_result(
    stage: &dyn Stage,
    decoder: &Decoder,
    ids: &TokenIds,
    run: &RunFolder,
) -> Result<()> {
    if decoder.adapter().is_some() {
        run.replace_folder("adapter", |folder| {
            save(stage, decoder, ids, folder)?;
            certify(stage, folder)
        })?;
    }
    run.replace_folder("model", |folder| {
        save_whole(stage, decoder, ids, folder)?;
        certify(stage, folder)
    })?;
    Ok(())
}

fn certify(stage: &dyn Stage, folder: &Path) -> Result<()> {
    if peft::is_adapter(folder) && peft::base(folder).is_err() {
        return Ok(()); // the base was loaded from elsewhere
    }
    let certificate = certificate::certify(folder, &stage.prompts(), None)
        .context("what was written cannot be read back")?;
    Ok(certificate.write(&folder.join(CERTIFICATE))?)
}

fn save_whole(stage: &dyn Stage, decoder: &Decoder, ids: &TokenIds, folder: &Path) -> Result<()> {
    hf::save(decoder, ids, folder)?;
    stage.save_tokenizer(folder)
}

/// Copies a checkpoint's values, as [`save`] wrote them, into the decoder.
pub(crate) fn restore(decoder: &Decoder, folder: &Path) -> Result<()> {
    if decoder.adapter().is_some() {
        return Ok(peft::restore(decoder, folder)?);
    }
    let saved = hf::load(folder, decoder.params().kind(), decoder.device())?;
    let shapes = |decoder: &Decoder| -> Vec<(String, Vec<i64>)> {
        let params = decoder.params().entries().iter();
        params
            .map(|param| (param.name.clone(), param.tensor.size()))
            .collect()
    };
    let (here, there) = (shapes(decoder), shapes(&saved.decoder));
    if let Some(other) = here
        .iter()
        .find(|param| !there.contains(param))
        .or_else(|| there.iter().find(|param| !here.contains(param)))
    {
        let what = format!(
            "is of another model than [model] in recipe.toml describes: {} differs",
            other.0
        );
        return Err(DataError::in_file(
            folder,
            what,
            "bring back the recipe that the run was made with",
        )
        .into());
    }
    for (param, from) in decoder
        .params()
        .tensors()
        .zip(saved.decoder.params().tensors())
    {
        no_grad(|| param.shallow_clone().copy_(from));
    }
    Ok(())
}

/// Whether the files of the result have the sizes of those in a checkpoint. Of an adapter, that is `adapter/`, with the
/// merged model beside it.
pub(crate) fn result_is_that_of(checkpoint: &Path, run: &RunFolder) -> bool {
    let folder = match peft::is_adapter(checkpoint) {
        true => "adapter",
        false => "model",
    };
    if !run.file("model").join(CERTIFICATE).is_file() {
        return false;
    }
    let Ok(entries) = fs::read_dir(checkpoint) else {
        return false;
    };
    let bytes = |path: &Path| fs::metadata(path).map(|found| found.len()).ok();
    entries
        .flatten()
        .filter(|entry| entry.path().is_file() && entry.file_name() != MANIFEST)
        .all(|entry| {
            let copy = run.file(folder).join(entry.file_name());
            bytes(&copy) == bytes(&entry.path())
        })
}
