//! What can be wrong with a model folder.

use std::path::PathBuf;

use etude_tensor::safetensors::SafetensorsError;

use crate::config::{ConfigError, Family};

/// What is wrong with a model folder, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The folder is not a model folder.
    #[error(
        "{path}: not a model folder, `{missing}` is not in it; give the folder that holds config.json and model.safetensors"
    )]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        missing: String,
    },
    /// A JSON file that does not parse.
    #[error("{path}: not valid JSON: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's word.
        reason: String,
    },
    /// A field that is missing, or holds what Etude cannot use.
    #[error("{path}: `{field}` {reason}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An architecture that the decoder does not cover.
    #[error("{path}: model_type `{found}` is not supported; Etude reads {known}", known = known_families())]
    Family {
        /// The file.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
    },
    /// Sizes that no decoder can have.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The field and why.
        source: ConfigError,
    },
    /// A weight file's own trouble.
    #[error(transparent)]
    Weights(#[from] SafetensorsError),
    /// A tensor that config.json promises and no file holds.
    #[error(
        "{path}: tensor `{tensor}` is missing; the folder's weights are incomplete or of another model"
    )]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Numbers that a format does not hold.
    #[error(
        "{path}: `{tensor}` holds a number that {format} does not, or that is none; keep it in float32, or look at the tensor"
    )]
    Infinite {
        /// The folder or file.
        path: PathBuf,
        /// The tensor, or those that lie in one parameter.
        tensor: String,
        /// What it was to be stored in.
        format: &'static str,
    },
    /// Numbers that are none, or no finite ones.
    #[error(
        "{path}: tensor `{tensor}` holds what is no finite number; the file is damaged, or its training diverged: fetch it again, or take an earlier checkpoint"
    )]
    NotFinite {
        /// The file, or the folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Weights that lie in a pickle alone.
    #[error(
        "{path}: pickles can run code and are not read; save the model again as safetensors (`model.save_pretrained(FOLDER)` of Transformers), or fetch model.safetensors"
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A shard that the index names and that is not there.
    #[error("{path}: the shard `{shard}` is missing; fetch it, or the whole folder, again")]
    Shard {
        /// The folder.
        path: PathBuf,
        /// The file.
        shard: String,
    },
    /// A tensor of another shape than config.json says.
    #[error("{path}: tensor `{tensor}` has shape {found:?}, config.json says {expected:?}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<i64>,
        /// The shape that the configuration implies.
        expected: Vec<i64>,
    },
    /// An adapter folder that cannot be used with this base, or at all.
    #[error("{path}: {reason}")]
    Adapter {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Tensors that the architecture has no place for.
    #[error(
        "{path}: tensor `{tensor}` has no place in a {family} decoder; the folder is of another architecture than its config.json says"
    )]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The family.
        family: &'static str,
    },
}

fn known_families() -> String {
    Family::ALL.map(Family::name).join(", ")
}
