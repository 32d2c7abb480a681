//! Where `import`, `export` and `tokenizer train` write: a folder or file that appears whole or not at all, and the
//! options that the first two have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use etude_files::NewFolders;
use etude_model::certificate::{self, Certificate};
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
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(Misuse::error(
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
    let _above = NewFolders::above(out).with_context(|| unwritten(out))?;
    let written = (|| {
        fs::create_dir(&unfinished).with_context(|| unwritten(&unfinished))?;
        write(&unfinished)?;
        // An empty folder may be there, and is replaced.
        match fs::rename(&unfinished, out) {
            Err(error) if is_taken(&error) => Err(taken(out)),
            placed => placed.with_context(|| unwritten(&unfinished)),
        }
    })();
    if written.is_err() {
        // What is half-written is of no use.
        let _ = remove(&unfinished);
    }
    written.map_err(|failure| of_asked(out, &[unfinished], failure))
}

/// Makes the file `out`, which must not be there, in the same way, and beside it the certificate that `write` gives.
pub(crate) fn write_file(
    out: &Path,
    write: impl FnOnce(&Path) -> Result<Certificate>,
) -> Result<()> {
    let certified = certificate::beside(out);
    let unfinished = [out, &certified].map(|place| {
        forget_abandoned(place);
        beside(place)
    });
    let _above = NewFolders::above(out).with_context(|| unwritten(out))?;
    let [file, beside_it] = &unfinished;
    let written = (|| {
        write(file)?.write(beside_it)?;
        if out.symlink_metadata().is_ok() {
            return Err(taken(out));
        }
        fs::rename(beside_it, &certified).with_context(|| unwritten(&certified))?;
        fs::rename(file, out)
            .inspect_err(|_| drop(fs::remove_file(&certified)))
            .with_context(|| unwritten(file))
    })();
    if written.is_err() {
        for path in &unfinished {
            let _ = fs::remove_file(path);
        }
    }
    written.map_err(|failure| of_asked(out, &unfinished, failure))
}

/// Whether a system says so of writing alone.
fn is_refusal(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        FileTooLarge, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    matches!(
        kind,
        FileTooLarge
            | NotADirectory
            | PermissionDenied
            | QuotaExceeded
            | ReadOnlyFilesystem
            | StorageFull
    )
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

/// What [`check_folder`] or the like did not find is there now.
fn taken(out: &Path) -> anyhow::Error {
    Misuse::error(
        format!(
            "{}: another process made it meanwhile; it stays as it is",
            out.display()
        ),
        "use what is there, or name another place",
    )
}

fn unwritten(out: &Path) -> String {
    format!("{}: cannot be written", out.display())
}

/// A refusal to write at one of the hidden names, told of `out`, which the user knows.
fn of_asked(out: &Path, unfinished: &[PathBuf], failure: anyhow::Error) -> anyhow::Error {
    let told = format!("{failure:#}");
    let is_hidden = |path: &PathBuf| told.contains(&*path.to_string_lossy());
    let mut causes = failure.chain();
    let code = causes.find_map(|cause| {
        let error = cause.downcast_ref::<io::Error>()?;
        error.raw_os_error().filter(|_| is_refusal(error.kind()))
    });
    match code {
        Some(code) if unfinished.iter().any(is_hidden) => {
            anyhow::Error::new(io::Error::from_raw_os_error(code)).context(unwritten(out))
        }
        _ => failure,
    }
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
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
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
    use std::path::Path;

    use super::{parse_size, write_folder};
    use crate::error::rendered;

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
        write_folder(&out, |folder| Ok(std::fs::write(folder.join("a"), "a")?)).unwrap();
        assert!(out.join("a").is_file() && !of(gone).exists() && of(parent).exists());
    }

    #[test]
    fn a_refusal_is_told_of_what_was_asked_for_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new/model");
        let full = |path: &Path| -> anyhow::Result<()> {
            std::fs::write(path.join("half"), "x").unwrap();
            let error = std::io::Error::from_raw_os_error(28);
            Err(anyhow::Error::new(error).context(format!("{}/half", path.display())))
        };
        let told = rendered(&write_folder(&out, full).unwrap_err());
        let first = format!("error: {}: cannot be written\n", out.display());
        assert!(
            told.starts_with(&first) && !told.contains("unfinished"),
            "{told}"
        );
        assert!(told.contains("try: make room on the disk"), "{told}");
        assert!(!out.parent().unwrap().exists());

        // A failure elsewhere is told as it is.
        let elsewhere = |_: &Path| -> anyhow::Result<()> {
            let error = std::io::Error::from_raw_os_error(13);
            Err(anyhow::Error::new(error).context("source/weights"))
        };
        let told = rendered(&write_folder(&out, elsewhere).unwrap_err());
        assert!(told.starts_with("error: source/weights\n"), "{told}");
    }

    #[test]
    fn what_another_process_made_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        let failure = write_folder(&out, |unfinished| {
            std::fs::write(unfinished.join("a"), "ours")?;
            std::fs::create_dir(&out)?;
            Ok(std::fs::write(out.join("a"), "theirs")?)
        });
        let told = rendered(&failure.unwrap_err());
        assert!(
            told.contains("another process") && told.contains("try: "),
            "{told}"
        );
        assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
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
