//! The library that makes file-system calls go wrong (`inject.c`), and how it is told what to do.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the library writes the calls that it numbered.
pub(crate) const LOG: &str = "FAULT_LOG";

/// Compiles the library into `folder`.
pub(crate) fn build(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/inject.c");
    let library = folder.join("inject.so");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .status()
        .expect("a C compiler is there: libtorch's bindings were built with one");
    assert!(status.success(), "{} compiles", source.display());
    library
}

/// What goes wrong. Each is described in `inject.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Count,
    Kill,
    Crash,
    Torn,
    Short,
    Enospc,
    Eio,
    Full,
    Readonly,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Count => "count",
            Kind::Kill => "kill",
            Kind::Crash => "crash",
            Kind::Torn => "torn",
            Kind::Short => "short",
            Kind::Enospc => "enospc",
            Kind::Eio => "eio",
            Kind::Full => "full",
            Kind::Readonly => "readonly",
        }
    }
}

/// What is to go wrong at the `number`-th call, from 1, beneath `folder`.
pub(crate) fn plan(kind: Kind, number: usize, folder: &Path) -> String {
    format!("{}/{number}/{}", kind.name(), folder.display())
}

/// Tells this process's library.
pub(crate) fn tell(plan: &str) {
    let answer = File::open(format!("/fault-plan/{plan}"));
    assert!(answer.is_err(), "there is no such file");
}

/// Nothing goes wrong any more.
pub(crate) fn end() {
    tell("none");
}

/// A call that was numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) path: String,
}

impl Call {
    /// Whether it writes bytes, so that it can write half of them.
    pub(crate) fn writes(&self) -> bool {
        ["write", "pwrite", "pwrite64", "writev"].contains(&self.name.as_str())
    }

    /// Whether it may fail for want of room.
    pub(crate) fn needs_room(&self) -> bool {
        self.writes()
            || ["open", "mkdir", "rename", "ftruncate64", "fsync"].contains(&self.name.as_str())
    }
}

/// The calls since the last plan.
pub(crate) fn calls() -> Vec<Call> {
    let log = env::var_os(LOG).expect("the library has a log");
    let log = fs::read_to_string(log).expect("the library writes it");
    log.lines()
        .map(|line| {
            let (name, path) = line.split_once('\t').expect("two columns");
            Call {
                name: name.to_owned(),
                path: path.to_owned(),
            }
        })
        .collect()
}
