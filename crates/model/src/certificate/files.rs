//! Sizes and hashes of a folder's files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::check::Check;
use super::{CERTIFICATE, REFERENCE};
use crate::hf::FolderError;

const WHAT: &str = "files";

/// Files that change what a folder is when they are added to it: they are read where they lie.
const READ_WHERE_THEY_LIE: [&str; 7] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// What a file is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl FileRecord {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(path: &Path) -> Result<Self, FolderError> {
        let read = || -> io::Result<Self> {
            let mut file = File::open(path)?;
            let (mut hasher, mut bytes) = (Sha256::new(), 0);
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                bytes += count as u64;
                hasher.update(&buffer[..count]);
            }
            let sha256 = hasher
                .finalize()
                .into_iter()
                .map(|byte| format!("{byte:02x}"));
            Ok(Self {
                bytes,
                sha256: sha256.collect(),
            })
        };
        read().map_err(|source| FolderError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

/// All files of a folder but the certificate itself and the reference, which is compared by what it says.
pub(super) fn record(folder: &Path) -> Result<BTreeMap<String, FileRecord>, FolderError> {
    let io = |source| FolderError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| ![CERTIFICATE, REFERENCE].contains(name)) else {
            continue;
        };
        if path.is_file() {
            files.insert(name.to_owned(), FileRecord::of(&path)?);
        }
    }
    Ok(files)
}

/// Whether the files of a folder are those that were recorded. Others may lie beside them, unless they would be
/// read with them.
pub(super) fn compare(folder: &Path, recorded: &BTreeMap<String, FileRecord>) -> Check {
    let mut wrong: Vec<String> = Vec::new();
    for (name, record) in recorded {
        let plain = matches!(
            Path::new(name).components().collect::<Vec<_>>()[..],
            [Component::Normal(_)]
        );
        let path = folder.join(name);
        if !plain || !path.is_file() {
            wrong.push(format!("{name} is missing"));
            continue;
        }
        match FileRecord::of(&path) {
            Ok(found) if found == *record => {}
            Ok(_) => wrong.push(format!("{name} is not the file that the certificate names")),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    // The folder of a GGUF file may hold anything.
    let is_folders = ["config.json", "adapter_config.json"]
        .iter()
        .any(|&name| recorded.contains_key(name));
    for name in READ_WHERE_THEY_LIE {
        if is_folders && !recorded.contains_key(name) && folder.join(name).exists() {
            wrong.push(format!("{name} was added since"));
        }
    }
    let count = recorded.len();
    let detail = format!("{count} with the size and SHA-256 that were recorded");
    Check::unless((!wrong.is_empty()).then(|| wrong.join("; ")), WHAT, detail)
}
