//! Where `import` and `export` write: a folder or file that appears whole or not at all, and the options
//! that both have.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use etude_tensor::Kind;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};

use crate::error::Misuse;
use crate::output;

/// The number format of weights in a model folder.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DtypeArg {
    Float32,
    Bfloat16,
    Float16,
}

impl DtypeArg {
    pub(crate) fn kind(self) -> Kind {
        match self {
            DtypeArg::Float32 => Kind::Float,
            DtypeArg::Bfloat16 => Kind::BFloat16,
            DtypeArg::Float16 => Kind::Half,
        }
    }
}

/// Refuses a folder to write that is there already with something in it.
pub(crate) fn check_folder(out: &Path) -> Result<()> {
    let shown = out.display();
    // It is put in place by a rename, which neither a link nor `.` lets itself be replaced by.
    if out.file_name().is_none() || out.is_symlink() {
        return Err(Misuse::error(
            format!("{shown}: cannot be replaced by a new folder"),
            "name a new folder, neither a link nor `.`",
        ));
    }
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Misuse::error(
                format!("{shown}: is there already and not empty"),
                "name a new folder",
            )),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Err(Misuse::error(
            format!("{shown}: is a file"),
            "name a new folder",
        )),
        Err(error) => Err(error).with_context(|| format!("{shown}: cannot be looked into")),
    }
}

/// Makes the folder `out`, which [`check_folder`] let pass. `write` fills one under another name first, so
/// that a full disk leaves no half folder where a whole one is expected.
pub(crate) fn write_folder(out: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    forget_abandoned(out);
    let unfinished = beside(out);
    remove(&unfinished)?;
    let written = (|| {
        fs::create_dir_all(&unfinished)
            .with_context(|| format!("{}: cannot be made", unfinished.display()))?;
        write(&unfinished)?;
        if out.exists() {
            fs::remove_dir(out)
                .with_context(|| format!("{}: cannot be replaced", out.display()))?;
        }
        fs::rename(&unfinished, out)
            .with_context(|| format!("{}: cannot be put in place", out.display()))
    })();
    if written.is_err() {
        // What is half-written is of no use.
        let _ = remove(&unfinished);
    }
    written
}

/// Makes the file `out`, which must not be there, in the same way.
pub(crate) fn write_file(out: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    forget_abandoned(out);
    let unfinished = beside(out);
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    let written = write(&unfinished).and_then(|()| {
        fs::rename(&unfinished, out)
            .with_context(|| format!("{}: cannot be put in place", out.display()))
    });
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// The hidden name in the same folder under which this process makes `out`.
fn beside(out: &Path) -> PathBuf {
    out.with_file_name(format!("{}{}", unfinished(out), std::process::id()))
}

fn unfinished(out: &Path) -> String {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.unfinished-")
}

/// Removes what processes left that were killed while they made `out`.
fn forget_abandoned(out: &Path) {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let beside = fs::read_dir(parent.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten();
    let prefix = unfinished(out);
    for entry in beside.flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        let maker = maker.and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        if maker.is_some_and(|maker| test_kill_process(maker) == Err(Errno::SRCH)) {
            // What cannot be removed is in nobody's way.
            let path = entry.path();
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Says what was written into a folder.
pub(crate) fn tell_folder(folder: &Path, as_json: bool) -> Result<()> {
    let (files, bytes) = contents(folder)?;
    if as_json {
        return output::json(&folder_facts(folder)?);
    }
    output::line(&format!(
        "{}: {} ({})",
        folder.display(),
        files.join(" "),
        output::size(bytes)
    ))
}

/// What was written into a folder, as `{"folder", "files", "bytes"}`.
pub(crate) fn folder_facts(folder: &Path) -> Result<Value> {
    let (files, bytes) = contents(folder)?;
    Ok(json!({"folder": folder, "files": files, "bytes": bytes}))
}

/// The names of a folder's files, sorted, and the bytes in them.
fn contents(folder: &Path) -> Result<(Vec<String>, u64)> {
    let mut files = Vec::new();
    let mut bytes = 0;
    let unreadable = || format!("{}: cannot be read", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        bytes += entry.metadata().map_or(0, |found| found.len());
        files.push(entry.file_name().to_string_lossy().into_owned());
    }
    files.sort();
    Ok((files, bytes))
}

/// `500MB`, `5GB`, `300kB`, or plain bytes; decimal units, as Hugging Face counts.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let units = [
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1000),
        ("KB", 1000),
        ("B", 1),
    ];
    let found = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (number, unit) = found.unwrap_or((text, 1_u64));
    let number: u64 = number
        .trim()
        .parse()
        .map_err(|_| "give a whole number and a unit, such as 500MB".to_owned())?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("give more than 0 and less than 18 million TB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_a_living_one_makes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        let parent = std::os::unix::process::parent_id();
        let of = |pid: u32| out.with_file_name(format!(".model.unfinished-{pid}"));
        for pid in [gone, parent] {
            std::fs::create_dir_all(of(pid).join("inside")).unwrap();
        }
        super::write_folder(&out, |folder| Ok(std::fs::write(folder.join("a"), "a")?)).unwrap();
        assert!(out.join("a").is_file() && !of(gone).exists() && of(parent).exists());
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("300 kB"), Ok(300_000));
        assert_eq!(parse_size("77"), Ok(77));
        for wrong in ["0", "-1MB", "MB", "5 apples", "99999999999TB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
