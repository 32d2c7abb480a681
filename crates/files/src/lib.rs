//! Result files that appear whole or not at all, wherever a user's name for them leads.
//!
//! A file is written under another name beside its place, synced and renamed, so that a full disk or a kill leaves
//! what was there. A link stays, and the file that it leads to is replaced. What is neither file nor folder, a device
//! or a pipe, is written to as it stands: a rename would put a file in its place.

mod folders;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

pub use folders::NewFolders;

/// How many links may lead to a file, as in the system's own limit.
const LINKS: usize = 40;

/// What the names of files begin with that are not whole yet.
const UNFINISHED: &str = ".tmp-";

/// Writes the file `out`, which `fill` fills.
///
/// # Errors
/// What the system or `fill` refuses. A file that was there then is as it was, and a new one is not there.
pub fn write(out: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let before = found(out)?;
    let Some(place) = place(out, before.as_ref())? else {
        return through(out, false, fill);
    };
    match beside(&place) {
        Ok(fresh) => finish(fresh, &place, before, fill),
        // Who may write a file, but no other into its folder, still may write it.
        Err(refused) if refused.kind() == ErrorKind::PermissionDenied && before.is_some() => {
            through(&place, true, fill)
        }
        Err(refused) => Err(refused),
    }
}

/// Writes the file `place`, which `fill` fills, by way of another in its folder and by nothing else.
///
/// # Errors
/// What the system or `fill` refuses; `place` then is as it was.
pub fn replace(
    place: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    finish(beside(place)?, place, None, fill)
}

/// Removes what [`replace`] and [`write()`] left in a folder when they were killed. Nobody may be writing there.
pub fn forget_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_file(entry.path()); // it is in nobody's way
        }
    }
}

/// Adds `text` to the end of the file `out`. When it fails, no part of `text` stays.
///
/// # Errors
/// What the system refuses.
pub fn append(out: &Path, text: &str) -> io::Result<()> {
    let before = found(out)?;
    let place = place(out, before.as_ref())?;
    let mut file = OpenOptions::new()
        .append(true)
        .create(place.is_some())
        .open(out)?;
    let length = file.metadata()?.len();
    let written = file.write_all(text.as_bytes());
    if let (Err(_), Some(place)) = (&written, place) {
        // The first error is the one to tell.
        let _ = match before {
            Some(_) => file.set_len(length),
            None => fs::remove_file(place),
        };
    }
    written
}

/// Finds out before the work whether `out` can be written. What it holds stays; a device or a pipe is not opened,
/// since whoever reads a pipe would take that for its end.
///
/// # Errors
/// What the system refuses.
pub fn check(out: &Path) -> io::Result<()> {
    let before = found(out)?;
    let Some(place) = place(out, before.as_ref())? else {
        return Ok(());
    };
    OpenOptions::new().append(true).create(true).open(&place)?;
    match before {
        Some(_) => Ok(()),
        None => fs::remove_file(place),
    }
}

/// What `out` leads to, if anything is there.
fn found(out: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(out) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The place of the file itself, links followed; none for what is to be written to as it stands.
fn place(out: &Path, before: Option<&Metadata>) -> io::Result<Option<PathBuf>> {
    if before.is_some_and(Metadata::is_dir) {
        return Err(ErrorKind::IsADirectory.into());
    }
    if before.is_some_and(|before| !before.is_file()) {
        return Ok(None);
    }
    let mut place = out.to_owned();
    for _ in 0..LINKS {
        let Ok(next) = fs::read_link(&place) else {
            return Ok(Some(place));
        };
        place = place.parent().unwrap_or(Path::new("")).join(next);
    }
    Err(io::Error::other("too many links lead from one to another"))
}

/// Writes to what is there.
fn through(
    out: &Path,
    truncate: bool,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(truncate)
        .open(out)?;
    filled(&mut file, fill)
}

fn filled(file: &mut File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    fill(&mut file)?;
    file.flush()
}

/// A new file in the folder of `place`, with the rights of any new file, that goes again unless it gets its name.
fn beside(place: &Path) -> io::Result<NamedTempFile> {
    let folder = place
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    // Opened here: a temporary file of the library's own would be its owner's alone.
    builder.make_in(folder.unwrap_or(Path::new(".")), |path| {
        OpenOptions::new().write(true).create_new(true).open(path)
    })
}

/// Fills a new file and puts it in its place.
fn finish(
    mut fresh: NamedTempFile,
    place: &Path,
    before: Option<Metadata>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if let Some(before) = before {
        // Not every file system has them.
        let _ = fresh.as_file().set_permissions(before.permissions());
    }
    filled(fresh.as_file_mut(), fill)?;
    fresh.as_file().sync_all()?;
    fresh.persist(place).map_err(|failure| failure.error)?;
    Ok(())
}
