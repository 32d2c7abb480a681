//! Writing an adapter folder.

use std::path::Path;

use etude_tensor::{Tensor, safetensors};

use super::super::error::FolderError;
use super::super::folder::write_json;
use super::super::names;
use super::{CONFIG, MAGNITUDE, PREFIX, WEIGHTS, config};
use crate::decoder::Decoder;

/// Writes a decoder's adapter into `folder`, which exists.
///
/// # Errors
/// When a file cannot be written.
///
/// # Panics
/// When the decoder has no adapter.
pub fn save(decoder: &Decoder, folder: &Path) -> Result<(), FolderError> {
    let adapter = decoder.adapter().expect("an adapter was attached");
    let json = config::to_json(decoder, adapter);
    write_json(folder.join(CONFIG), &json)?;
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for layer in &adapter.layers {
        for (path, (a, part)) in layer.modules.iter().zip(layer.update.pairs()) {
            tensors.push((format!("{PREFIX}{path}.lora_A.weight"), a.detach()));
            tensors.push((format!("{PREFIX}{path}.lora_B.weight"), part.b.detach()));
            if let Some(magnitude) = &part.magnitude {
                tensors.push((format!("{PREFIX}{path}.{MAGNITUDE}"), magnitude.detach()));
            }
        }
    }
    for param in decoder.params().entries() {
        if !adapter.whole.contains(&param.name) {
            continue;
        }
        for tensor in names::hf_tensors(decoder.config(), param, &param.tensor) {
            tensors.push((format!("{PREFIX}{}", tensor.name), tensor.tensor.detach()));
        }
        if param.name == "embedding.weight" && decoder.config().tied {
            tensors.push((format!("{PREFIX}lm_head.weight"), param.tensor.detach()));
        }
    }
    Ok(safetensors::write(&folder.join(WEIGHTS), &tensors, &[])?)
}
