//! A model out of a file: as a decoder, or as a model folder.

use std::path::Path;

use etude_tensor::{Device, Kind, Params, Tensor, no_grad};
use etude_tokenizer::Tokenizer;

use super::config;
use super::dequantize::dequantize;
use super::error::GgufError;
use super::file::{GgufFile, TensorInfo};
use super::format::TensorFormat;
use super::names::{self, ROPE_FACTORS};
use super::tokenizer;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::hf::{self, Formats, LoadedModel};

/// Reads the model in a file onto `device` in `kind`; quantized weights become ordinary numbers.
///
/// # Errors
/// The key or tensor and what is wrong with it.
pub fn load(path: &Path, kind: Kind, device: Device) -> Result<LoadedModel, GgufError> {
    from_file(&GgufFile::open(path)?, Formats::one(kind), device)
}

/// Rebuilds the tokenizer in a file, with its chat template.
///
/// # Errors
/// A tokenizer that is not understood, or no room for its files in the system's temporary folder.
pub fn load_tokenizer(path: &Path) -> Result<Tokenizer, GgufError> {
    let file = GgufFile::open(path)?;
    let config = config::read(&file)?;
    let folder = tempfile::tempdir().map_err(GgufError::io(&std::env::temp_dir()))?;
    tokenizer::read(&file, &config)?.write(folder.path())?;
    Tokenizer::load(folder.path()).map_err(|source| GgufError::Tokenizer {
        path: path.to_owned(),
        source,
    })
}

/// The narrowest formats that hold a file's weights, float32 for what is quantized.
///
/// # Errors
/// A file that is none.
pub fn stored_formats(path: &Path) -> Result<Formats, GgufError> {
    let file = GgufFile::open(path)?;
    let kind = |format: TensorFormat| match format {
        TensorFormat::F16 => Kind::Half,
        TensorFormat::Bf16 => Kind::BFloat16,
        _ => Kind::Float,
    };
    let tensors = file
        .tensors()
        .iter()
        .filter(|(name, _)| *name != ROPE_FACTORS);
    let tensors = tensors.map(|(_, tensor)| (&tensor.shape[..], kind(tensor.format)));
    Ok(Formats::holding(tensors).unwrap_or(Formats::one(Kind::Float)))
}

/// Turns a file into an ordinary model folder: the weights in `formats`, and the tokenizer with its chat
/// template. `folder` exists; what is in it under the same names is written over.
///
/// # Errors
/// As [`load`]; a tokenizer that is not understood; a folder that cannot be written.
pub fn import(path: &Path, folder: &Path, formats: Formats) -> Result<(), GgufError> {
    let file = GgufFile::open(path)?;
    let config = config::read(&file)?;
    // First what is cheap to refuse.
    let recommended = config::recommended(file.metadata())?;
    tokenizer::read(&file, &config)?.write(folder)?;
    let wrong = |source| GgufError::Tokenizer {
        path: path.to_owned(),
        source,
    };
    Tokenizer::load(folder).map_err(wrong)?;
    let model = from_file(&file, formats, Device::Cpu)?;
    hf::settle(&model.decoder, formats, path)?;
    hf::save(&model.decoder, &model.ids, folder)?;
    hf::save_generation(&recommended, folder)?;
    Ok(())
}

fn from_file(file: &GgufFile, formats: Formats, device: Device) -> Result<LoadedModel, GgufError> {
    let config = config::read(file)?;
    let ids = config::token_ids(file.metadata())?;
    check(file, &config)?;
    let invalid = |source| GgufError::Config {
        path: file.path().to_owned(),
        source,
    };
    let params = Params::blank(device, formats.others).with_matrices(formats.matrices);
    let decoder = Decoder::over(config, params).map_err(invalid)?;
    for param in decoder.params().entries() {
        let place = names::place(decoder.config(), &param.name);
        let parts: Vec<Tensor> = place
            .names
            .iter()
            .enumerate()
            .map(|(part, name)| {
                let tensor = values(file, &file.tensors()[name]);
                match place.permuted.and_then(|heads| heads.get(part).copied()) {
                    Some(heads) => names::from_neighbours(&tensor, heads),
                    None => tensor,
                }
            })
            .collect();
        let mut rows = 0;
        for part in parts {
            let count = part.size()[0];
            no_grad(|| param.tensor.narrow(0, rows, count).copy_(&part));
            rows += count;
        }
    }
    Ok(LoadedModel { decoder, ids })
}

/// A tensor's values in float32, on the CPU.
fn values(file: &GgufFile, tensor: &TensorInfo) -> Tensor {
    let count: i64 = tensor.shape.iter().product();
    let mut values = vec![0f32; count as usize];
    dequantize(tensor.format, file.bytes(tensor), &mut values);
    Tensor::from_slice(&values).view(&tensor.shape[..])
}

/// Compares what the settings promise with the tensors in the header, before any memory is taken.
fn check(file: &GgufFile, config: &ModelConfig) -> Result<(), GgufError> {
    let path = file.path();
    let tensors = file.tensors();
    if config.n_layer > tensors.len() as i64 {
        let last = format!("layers.{}.attn.out.weight", config.n_layer - 1);
        let name = names::place(config, &last).names.remove(0);
        return Err(GgufError::field(path, &name, "is missing"));
    }
    let outline = Decoder::outline(config).map_err(|source| GgufError::Config {
        path: path.to_owned(),
        source,
    })?;
    let mut claimed = std::collections::HashSet::from([ROPE_FACTORS.to_owned()]);
    for param in outline.entries() {
        let place = names::place(config, &param.name);
        let parts = if place.names.len() == 1 {
            vec![param.tensor.size()[0]]
        } else {
            param.parts.clone()
        };
        for (name, rows) in place.names.into_iter().zip(parts) {
            let mut expected = param.tensor.size();
            expected[0] = rows;
            match tensors.get(&name) {
                None => return Err(GgufError::field(path, &name, "is missing")),
                Some(found) if found.shape != expected => {
                    let reason =
                        format!("has shape {:?}, the settings say {expected:?}", found.shape);
                    return Err(GgufError::field(path, &name, reason));
                }
                Some(_) => {}
            }
            claimed.insert(name);
        }
    }
    match tensors.keys().find(|name| !claimed.contains(*name)) {
        Some(name) => {
            let family = config.family.name();
            let reason = format!("has no place in a {family} decoder");
            Err(GgufError::field(path, name, reason))
        }
        None => Ok(()),
    }
}
