//! This program in further processes: started, ended with what owns them, and heard when they fail.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

/// Kills and reaps its process when it goes out of scope, by an error or a panic as well.
pub(crate) struct Reaped(pub(crate) Child);

impl Reaped {
    /// Starts `command`, a program and its arguments. What it says goes to the end of the file `said`.
    ///
    /// # Errors
    /// When it cannot be started, or the file not be written.
    pub(crate) fn start(
        command: &[OsString],
        said: &Path,
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let (program, arguments) = command.split_first().context("a command has a program")?;
        let said = OpenOptions::new()
            .create(true)
            .append(true)
            .open(said)
            .with_context(|| format!("{}: cannot be written", said.display()))?;
        let process = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .context("this program cannot be started once more")?;
        Ok(Self(process))
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails when it has ended
        let _ = self.0.wait();
    }
}

/// A process that failed by itself.
#[derive(Debug)]
pub struct RunFailed {
    /// Its exit status, unless a signal ended it.
    pub status: Option<i32>,
    /// What it said.
    pub said: String,
}

impl std::fmt::Display for RunFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = self.said.trim();
        f.write_str(said.strip_prefix("error: ").unwrap_or(said))
    }
}

impl std::error::Error for RunFailed {}

impl RunFailed {
    /// Names the run, where it was one of many.
    pub(crate) fn of(mut self, run: &Path) -> Self {
        let said = self.to_string();
        self.said = format!("{}: {said}", run.display());
        self
    }

    /// Of what a process said last, in the file `said`.
    pub(crate) fn read(said: &Path, status: ExitStatus) -> Self {
        let said = fs::read(said).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        // Causes below it are indented, and may hold the word as well.
        let starts = said.match_indices("error: ").map(|(at, _)| at);
        let start = starts
            .filter(|&at| at == 0 || said[..at].ends_with('\n'))
            .last();
        let message = start.map_or(&said[..], |at| &said[at..]);
        let said = if message.trim().is_empty() {
            format!("the run ended with {status} and said nothing")
        } else {
            message.to_owned()
        };
        Self {
            status: status.code(),
            said,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_last_message_is_told_from_its_first_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("said.txt");
        let told = |text: &str| {
            fs::write(&file, text).expect("writes");
            RunFailed::read(&file, ExitStatus::from_raw(256)).to_string()
        };
        let message = "runs/a: cannot be read\n  caused by: Internal torch error: no such file";
        assert_eq!(told(&format!("a warning\nerror: {message}\n")), message);
        assert_eq!(told(&format!("error: one\nerror: {message}")), message);
        assert!(told("").contains("said nothing"));
        assert_eq!(told("killed"), "killed");
    }
}
