//! Files that are either whole or not there: written beside their place, synced, renamed.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes `bytes` to `path` by way of a temporary file in the same folder.
///
/// # Errors
/// When the folder cannot be written to; `path` then is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    etude_files::replace(path, |file| file.write_all(bytes))
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    sync_folder(folder)
}

/// Makes sure that the names in a folder are on the disk.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("{}: cannot be synced", folder.display()))
}

/// Syncs every file below `folder`, and every folder.
///
/// # Errors
/// When one of them cannot be synced.
pub fn sync_tree(folder: &Path) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("{}: cannot be read", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .with_context(|| format!("{}: cannot be synced", path.display()))?;
        }
    }
    sync_folder(folder)
}
