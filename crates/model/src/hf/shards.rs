//! The weight files of a folder: one, or shards with an index.

use std::path::{Path, PathBuf};

use etude_tensor::Tensor;
use etude_tensor::safetensors::{self, SafetensorsFile};
use serde_json::Value;

use super::error::FolderError;
use super::folder::read_json;
use super::names::HfTensor;

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// What folders from before safetensors hold.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// All of a folder, opened.
pub(super) fn weight_files(folder: &Path) -> Result<Vec<SafetensorsFile>, FolderError> {
    let single = folder.join(WEIGHTS);
    if single.is_file() {
        return Ok(vec![SafetensorsFile::open(&single)?]);
    }
    let index = folder.join(INDEX);
    if !index.is_file() {
        let mut pickles = PICKLES.iter().map(|name| folder.join(name));
        if let Some(path) = pickles.find(|path| path.is_file()) {
            return Err(FolderError::Pickle { path });
        }
        return Err(FolderError::NotAModel {
            path: folder.to_owned(),
            missing: format!("{WEIGHTS} or {INDEX}"),
        });
    }
    let json = read_json(&index)?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| FolderError::Field {
            path: index.clone(),
            field: "weight_map".to_owned(),
            reason: "is missing".to_owned(),
        })?;
    let mut shards: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    let mut files = Vec::with_capacity(shards.len());
    for shard in shards {
        // A shard lies beside its index; anything else in the name could point outside the folder.
        if Path::new(shard).components().count() != 1 || shard == ".." {
            return Err(FolderError::Field {
                path: index,
                field: "weight_map".to_owned(),
                reason: format!("names `{shard}`, which is not a file of this folder"),
            });
        }
        let path = folder.join(shard);
        if !path.is_file() {
            return Err(FolderError::Shard {
                path: folder.to_owned(),
                shard: shard.to_owned(),
            });
        }
        files.push(SafetensorsFile::open(&path)?);
    }
    Ok(files)
}

pub(super) fn bytes(tensor: &HfTensor) -> u64 {
    (tensor.tensor.numel() * tensor.tensor.kind().elt_size_in_bytes()) as u64
}

pub(super) fn shards(tensors: Vec<HfTensor>, max_bytes: u64) -> Vec<Vec<HfTensor>> {
    let mut shards: Vec<Vec<HfTensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let size = bytes(&tensor);
        let last = shards.last().expect("there is always one");
        if !last.is_empty() && filled + size > max_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        shards.last_mut().expect("there is always one").push(tensor);
    }
    shards
}

pub(super) fn write_shard(path: PathBuf, tensors: &[HfTensor]) -> Result<PathBuf, FolderError> {
    let named: Vec<(String, Tensor)> = tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.tensor.detach()))
        .collect();
    safetensors::write(&path, &named, &[])?;
    Ok(path)
}
