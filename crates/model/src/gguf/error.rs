//! What can be wrong with a GGUF file, each with file and field.

use std::path::{Path, PathBuf};

use etude_tokenizer::TokenizerError;

use super::config::ARCHITECTURES;
use crate::config::ConfigError;
use crate::hf::FolderError;

/// What is wrong with a GGUF file, or why a model cannot become one.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A part of the file that is missing, cut, or holds what Etude cannot use.
    #[error("{path}: `{field}` {reason}")]
    Field {
        /// The file.
        path: PathBuf,
        /// A metadata key, a tensor, or a part of the header.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An architecture that the decoder does not cover.
    #[error(
        "{path}: architecture `{found}` is not supported; Etude reads {known}",
        known = ARCHITECTURES.join(", ")
    )]
    Architecture {
        /// The file.
        path: PathBuf,
        /// Its `general.architecture`.
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
    /// A model that GGUF's programs could not run as it is.
    #[error("this model cannot be written as GGUF: {reason}")]
    Unexportable {
        /// What stands in the way, and what to do.
        reason: String,
    },
    /// The tokenizer rebuilt from a file, or the one to be written, is unusable.
    #[error("{path}: its tokenizer: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// The folder that a file is imported into.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl GgufError {
    /// An unusable field, for `map_err` and `Err`.
    pub(super) fn field(path: &Path, field: &str, reason: impl Into<String>) -> Self {
        Self::Field {
            path: path.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    /// The file system's refusal, for `map_err`.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(super) fn unexportable(reason: impl Into<String>) -> Self {
        Self::Unexportable {
            reason: reason.into(),
        }
    }
}
