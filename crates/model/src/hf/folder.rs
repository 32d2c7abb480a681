//! Loading and saving model folders. Saving writes plain files into a folder that the caller made; the
//! checkpoint code makes that atomic.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, Kind, Params, Tensor};
use serde_json::{Value, json};

use super::config::{self, TokenIds};
use super::error::FolderError;
use super::formats::{self, Formats};
use super::names::{self, HfTensor};
use super::peft;
use super::shards::{INDEX, WEIGHTS, bytes, shards, weight_files, write_shard};
use crate::config::ModelConfig;
use crate::decoder::Decoder;

/// Above this, weights are written in shards.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

const CONFIG: &str = "config.json";
pub(super) const GENERATION: &str = "generation_config.json";

/// A model folder, read.
#[derive(Debug)]
pub struct LoadedModel {
    /// The decoder with the folder's weights.
    pub decoder: Decoder,
    /// Its special tokens, `generation_config.json`'s end tokens included.
    pub ids: TokenIds,
}

/// Reads `config.json` and `generation_config.json`, and of the weights whether the output layer is tied; of its base
/// for an adapter folder.
///
/// # Errors
/// The file and field that is missing or unusable.
pub fn load_config(folder: &Path) -> Result<(ModelConfig, TokenIds), FolderError> {
    if peft::is_adapter(folder) {
        return load_config(&peft::base(folder)?);
    }
    let (mut config, ids) = settings(folder)?;
    if config.tied
        && [WEIGHTS, INDEX]
            .iter()
            .any(|name| folder.join(name).is_file())
    {
        let files = weight_files(folder)?;
        config.tied = !has_own_head(&config, &files, &index(&files)?)?;
    }
    Ok((config, ids))
}

/// What the JSON files say.
fn settings(folder: &Path) -> Result<(ModelConfig, TokenIds), FolderError> {
    let path = folder.join(CONFIG);
    if !path.is_file() {
        return Err(FolderError::NotAModel {
            path: folder.to_owned(),
            missing: CONFIG.to_owned(),
        });
    }
    let (config, mut ids) = config::parse(&path, &read_json(&path)?)?;
    let generation = folder.join(GENERATION);
    if generation.is_file() {
        for id in config::generation_eos(&generation, &read_json(&generation)?)? {
            if !ids.eos.contains(&id) {
                ids.eos.push(id);
            }
        }
    }
    Ok((config, ids))
}

/// Reads a model folder onto `device` in `kind`; an adapter folder as its base with the adapter merged.
///
/// # Errors
/// The file, tensor and what is wrong with it.
pub fn load(folder: &Path, kind: Kind, device: Device) -> Result<LoadedModel, FolderError> {
    load_merged(folder, &[], Formats::one(kind), device)
}

/// The same in `formats`, with adapters merged, each so many times over; where `folder` is one, beside it. Where the
/// formats are several, the model is for writing out.
///
/// # Errors
/// As [`load`]; numbers that the formats do not hold, adapters that cannot be merged.
pub fn load_merged(
    folder: &Path,
    adapters: &[(PathBuf, f64)],
    formats: Formats,
    device: Device,
) -> Result<LoadedModel, FolderError> {
    let mut loaded;
    if peft::is_adapter(folder) {
        loaded = read(&peft::base(folder)?, |_, _| formats, device)?;
        let all = [&[(folder.to_owned(), 1.0)], adapters].concat();
        peft::merge(&mut loaded.decoder, &all)?;
    } else {
        loaded = read(folder, |_, _| formats, device)?;
        peft::merge(&mut loaded.decoder, adapters)?;
    }
    formats::settle(&loaded.decoder, formats, folder)?;
    Ok(loaded)
}

/// Reads a model folder that is only asked, in float32; but on the CPU, where all matrices lie there in bfloat16, they
/// stay so, at half the memory. Each number is widened as it is used, so that what comes out is the same to the last
/// bit.
///
/// # Errors
/// As [`load`].
pub fn load_to_ask(folder: &Path, device: Device) -> Result<LoadedModel, FolderError> {
    if peft::is_adapter(folder) {
        return load(folder, Kind::Float, device);
    }
    let as_they_lie = |files: &[SafetensorsFile], index: &Index| {
        let narrow = |(name, (file, shape)): (&String, &(usize, Vec<i64>))| {
            shape.len() != 2 || files[*file].kind(name) == Some(Kind::BFloat16)
        };
        let matrices = match device == Device::Cpu && index.iter().all(narrow) {
            true => Kind::BFloat16,
            false => Kind::Float,
        };
        Formats {
            matrices,
            others: Kind::Float,
        }
    };
    read(folder, as_they_lie, device)
}

/// Matrices that are not in the format of the rest are frozen.
fn read(
    folder: &Path,
    formats: impl FnOnce(&[SafetensorsFile], &Index) -> Formats,
    device: Device,
) -> Result<LoadedModel, FolderError> {
    let (mut config, ids) = settings(folder)?;
    let files = weight_files(folder)?;
    let index = index(&files)?;
    config.tied = config.tied && !has_own_head(&config, &files, &index)?;
    check(folder, &config, &index)?;
    let Formats { matrices, others } = formats(&files, &index);
    let params = Params::blank(device, others).with_matrices(matrices);
    let decoder = Decoder::over(config, params).map_err(|source| FolderError::Config {
        path: folder.join(CONFIG),
        source,
    })?;
    for param in decoder.params().entries() {
        let place = names::place(decoder.config(), &param.name);
        let all = param.tensor.size();
        let parts = if place.names.len() == 1 {
            &all[..1]
        } else {
            &param.parts
        };
        let mut first = 0;
        for (name, &rows) in place.names.iter().zip(parts) {
            let target = param.tensor.detach().narrow(0, first, rows);
            let transposed = place.transposed && target.dim() == 2;
            read_into(
                folder,
                decoder.config(),
                &files,
                &index,
                name,
                &target,
                transposed,
            )?;
            first += rows;
        }
    }
    Ok(LoadedModel { decoder, ids })
}

/// Whether the files hold an output layer that is not the embedding. Transformers 5 takes it then, whatever
/// `tie_word_embeddings` says.
fn has_own_head(
    config: &ModelConfig,
    files: &[SafetensorsFile],
    index: &Index,
) -> Result<bool, FolderError> {
    let table = names::table(config);
    let (Some(head), Some(table)) = (index.get(names::HEAD), known_name(config, index, &table))
    else {
        return Ok(false);
    };
    let (file, shape) = &index[table];
    if head.1 != *shape {
        return Ok(true); // and of the wrong shape
    }
    let head = files[head.0].tensor(names::HEAD)?;
    let table = files[*file].tensor(table)?;
    if head.kind() == table.kind() {
        return Ok(!head.equal(&table));
    }
    Ok(!head.to_kind(Kind::Float).equal(&table.to_kind(Kind::Float)))
}

type Index = BTreeMap<String, (usize, Vec<i64>)>;

/// In which file each tensor lies, and its shape.
fn index(files: &[SafetensorsFile]) -> Result<Index, FolderError> {
    let mut index = Index::new();
    for (number, file) in files.iter().enumerate() {
        for (name, shape) in file.shapes()? {
            index.insert(name, (number, shape));
        }
    }
    Ok(index)
}

/// In which file of a folder, or of the base of an adapter folder, a tensor lies.
pub(super) fn file_of(folder: &Path, config: &ModelConfig, name: &str) -> Option<PathBuf> {
    let base = peft::is_adapter(folder).then(|| peft::base(folder).ok());
    let files = weight_files(&base.unwrap_or(Some(folder.to_owned()))?).ok()?;
    let index = index(&files).ok()?;
    let (file, _) = index[known_name(config, &index, name)?];
    Some(files[file].path().to_owned())
}

fn read_into(
    folder: &Path,
    config: &ModelConfig,
    files: &[SafetensorsFile],
    index: &Index,
    name: &str,
    target: &Tensor,
    transposed: bool,
) -> Result<(), FolderError> {
    let missing = || FolderError::Missing {
        path: folder.to_owned(),
        tensor: name.to_owned(),
    };
    let known = known_name(config, index, name).ok_or_else(missing)?;
    let (file, _) = index[known];
    Ok(files[file].copy_into(known, target, transposed)?)
}

/// Under which of its names a tensor lies in the files, if it does.
fn known_name<'a>(config: &ModelConfig, index: &Index, name: &'a str) -> Option<&'a str> {
    // Of two tensors that share their memory some programs write one: the output layer for the embedding.
    let twin = (config.tied && name == names::table(config)).then_some(names::HEAD);
    [Some(name), names::alias(name), twin]
        .into_iter()
        .flatten()
        .find(|known| index.contains_key(*known))
}

/// Compares what the configuration promises with what the files' headers say, before any memory is taken:
/// each tensor there and of the right shape, and none without a place, for it would be left out.
fn check(folder: &Path, config: &ModelConfig, index: &Index) -> Result<(), FolderError> {
    let missing = |tensor: String| FolderError::Missing {
        path: folder.to_owned(),
        tensor,
    };
    if config.n_layer > index.len() as i64 {
        let last = format!("layers.{}.attn.out.weight", config.n_layer - 1);
        return Err(missing(names::place(config, &last).names.remove(0)));
    }
    let outline = Decoder::outline(config).map_err(|source| FolderError::Config {
        path: folder.join(CONFIG),
        source,
    })?;
    let mut claimed = HashSet::new();
    for param in outline.entries() {
        for HfTensor { name, tensor } in names::hf_tensors(config, param, &param.tensor) {
            let known = known_name(config, index, &name).ok_or_else(|| missing(name.clone()))?;
            let (_, found) = &index[known];
            if *found != tensor.size() {
                return Err(FolderError::Shape {
                    path: folder.to_owned(),
                    tensor: known.to_owned(),
                    found: found.clone(),
                    expected: tensor.size(),
                });
            }
            claimed.insert(known.to_owned());
        }
    }
    let stranger = index
        .keys()
        .find(|name| !claimed.contains(*name) && !names::harmless(config, name));
    match stranger {
        Some(name) => Err(FolderError::Unexpected {
            path: folder.to_owned(),
            tensor: name.clone(),
            family: config.family.name(),
        }),
        None => Ok(()),
    }
}

/// Writes `config.json`, `generation_config.json` and the weights into `folder`, which exists. An adapter
/// is merged in what is written, not in the decoder.
///
/// # Errors
/// When a file cannot be written.
pub fn save(decoder: &Decoder, ids: &TokenIds, folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    save_sharded(decoder, ids, folder, MAX_SHARD_BYTES)
}

/// [`save`] with shards of at most `max_bytes` (a larger tensor has a shard of its own).
///
/// # Errors
/// As [`save`].
pub fn save_sharded(
    decoder: &Decoder,
    ids: &TokenIds,
    folder: &Path,
    max_bytes: u64,
) -> Result<Vec<PathBuf>, FolderError> {
    let config = decoder.config();
    let params = decoder.params();
    let tensors: Vec<HfTensor> = params
        .entries()
        .iter()
        .flat_map(|param| names::hf_tensors(config, param, &decoder.merged(param)))
        .collect();
    let matrix = tensors.iter().find(|tensor| tensor.tensor.dim() == 2);
    let dtype = match matrix.map_or(params.kind(), |matrix| matrix.tensor.kind()) {
        Kind::Double => "float64",
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    let mut written = vec![
        write_json(folder.join(CONFIG), &config::to_json(config, ids, dtype))?,
        write_json(folder.join(GENERATION), &config::generation_json(ids))?,
    ];
    let shards = shards(tensors, max_bytes);
    if let [only] = &shards[..] {
        written.push(write_shard(folder.join(WEIGHTS), only)?);
        return Ok(written);
    }
    let count = shards.len();
    let mut map = serde_json::Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        for tensor in shard {
            map.insert(tensor.name.clone(), json!(name));
        }
        written.push(write_shard(folder.join(name), shard)?);
    }
    let total: u64 = shards.iter().flatten().map(bytes).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    written.push(write_json(folder.join(INDEX), &index)?);
    Ok(written)
}

pub(super) fn read_json(path: &Path) -> Result<Value, FolderError> {
    let text = fs::read(path).map_err(|source| FolderError::Io {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|error| FolderError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

pub(crate) fn write_json(path: PathBuf, json: &Value) -> Result<PathBuf, FolderError> {
    let text = format!("{json:#}\n");
    fs::write(&path, text).map_err(|source| FolderError::Io {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}
