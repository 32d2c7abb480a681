//! Files that are either whole or not there: written beside their place, synced, renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// What the names of temporary files begin with.
const UNFINISHED: &str = ".tmp-";

/// Removes what [`write`] left in a folder when it was killed. Nobody may be writing there.
pub(crate) fn forget_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_file(entry.path()); // it is in nobody's way
        }
    }
}

/// Writes `bytes` to `path` by way of a temporary file in the same folder.
///
/// # Errors
/// When the folder cannot be written to; `path` then is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file lies in a folder")?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    // Readable for whom the umask says, like any other file; a temporary one is the owner's alone.
    #[cfg(unix)]
    let shared = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(shared);
    let mut file = builder
        .tempfile_in(folder)
        .with_context(|| format!("{}: cannot write here", folder.display()))?;
    let place = || format!("{}: cannot be written", path.display());
    file.write_all(bytes).with_context(place)?;
    file.as_file().sync_all().with_context(place)?;
    let written = file.into_temp_path();
    fs::rename(&written, path).with_context(place)?;
    written.keep().with_context(place)?; // it has another name now: nothing is left to remove
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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_a_kill_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".tmp-a1B2c3", "metrics.jsonl", "tmp-mine"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        forget_unfinished(folder.path());
        let left = |name: &str| folder.path().join(name).exists();
        assert!(!left(".tmp-a1B2c3") && left("metrics.jsonl") && left("tmp-mine"));
    }

    #[test]
    fn files_are_as_readable_as_others() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write(&ours, b"x").unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
