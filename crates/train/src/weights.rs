//! What a run saves of its model: whole model folders, or the adapter alone where only that is trained.

use std::path::Path;

use anyhow::Result;
use etude_model::Decoder;
use etude_model::hf::{self, TokenIds, peft};
use etude_tensor::no_grad;

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

/// Writes the result: `model/`, with an adapter merged, and that adapter as `adapter/`.
pub(crate) fn save_result(
    stage: &dyn Stage,
    decoder: &Decoder,
    ids: &TokenIds,
    run: &RunFolder,
) -> Result<()> {
    if decoder.adapter().is_some() {
        run.replace_folder("adapter", |folder| save(stage, decoder, ids, folder))?;
    }
    run.replace_folder("model", |folder| save_whole(stage, decoder, ids, folder))?;
    Ok(())
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
    for (param, from) in decoder
        .params()
        .tensors()
        .zip(saved.decoder.params().tensors())
    {
        no_grad(|| param.shallow_clone().copy_(from));
    }
    Ok(())
}
