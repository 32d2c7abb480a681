//! Result files that appear whole or not at all, wherever a user's name for them leads.
//!
//! A file is written under another name beside its place, synced and renamed, so that a full disk or a kill leaves
//! what was there. A link stays, and the file that it leads to is replaced. What is neither file nor folder, a device
//! or a pipe, is written to as it stands: a rename would put a file in its place.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod folders;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub use folders::NewFolders;

/// How many links may lead to a file, as in the system's own limit.
const LINKS: usize = 40;

/// Writes the file `out`, which `fill` fills.
///
/// # Errors
/// What the system or `fill` refuses. A file that was there then is as it was, and a new one is not there.
pub fn write(out: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let before = found(out)?;
    let Some(place) = place(out, before.as_ref())? else {
        return through(out, false, fill);
    };
    let (mut file, partial) = match beside(&place) {
        Ok(opened) => opened,
        // Who may write a file, but no other into its folder, still may write it.
        Err(refused) if refused.kind() == ErrorKind::PermissionDenied && before.is_some() => {
            return through(&place, true, fill);
        }
        Err(refused) => return Err(refused),
    };
    if let Some(before) = before {
        file.set_permissions(before.permissions())?;
    }
    filled(&mut file, fill)?;
    file.sync_all()?;
    partial.rename(&place)
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
    let written = file.write_all(text.as_bytes());
    if let (Err(_), Some(place)) = (&written, place) {
        // The first error is the one to tell.
        let _ = match before {
            Some(before) => file.set_len(before.len()),
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

/// A new file in the folder of `place`, with the rights of any new file.
fn beside(place: &Path) -> io::Result<(File, Partial)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, as `place` may have the longest of names.
        let partial = place.with_file_name(format!(".etude-{}-{number}.tmp", std::process::id()));
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&partial)
        {
            Ok(file) => return Ok((file, Partial(partial))),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file that is removed unless it gets its name.
struct Partial(PathBuf);

impl Partial {
    fn rename(self, place: &Path) -> io::Result<()> {
        fs::rename(&self.0, place)?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // the failure before it is the one to tell
    }
}
