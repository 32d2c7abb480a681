//! The run's log: `metrics.jsonl` and `samples.jsonl`, a JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::durable;

/// A file of JSON lines that is appended to.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens `path` to continue after `step`: lines of later steps, which will be made again, and a torn
    /// last line are dropped. Without a step the log begins anew.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn resume(path: &Path, step: Option<u64>) -> Result<Self> {
        let before = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            found => Some(found.with_context(|| format!("{}: cannot be read", path.display()))?),
        };
        if let Some(bytes) = before {
            // A line may be torn in the midst of a letter.
            let text = String::from_utf8_lossy(&bytes);
            let keep: Vec<&str> = text
                .lines()
                .filter(|line| step.is_some_and(|step| belongs(line, step)))
                .collect();
            if keep.len() != text.lines().count() || !(text.is_empty() || text.ends_with('\n')) {
                let mut kept = keep.join("\n");
                if !kept.is_empty() {
                    kept.push('\n');
                }
                durable::write(path, kept.as_bytes())?;
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, line: &impl Serialize) -> Result<()> {
        self.write_all(std::slice::from_ref(line))
    }

    /// Appends lines that belong together: all of them or none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_all(&mut self, lines: &[impl Serialize]) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text += &serde_json::to_string(line).context("a log line is plain data")?;
            text.push('\n');
        }
        let place = || format!("{}: cannot be written", self.path.display());
        let before = self.file.metadata().with_context(place)?.len();
        self.file
            .write_all(text.as_bytes())
            .inspect_err(|_| drop(self.file.set_len(before))) // the first error is the one to tell
            .with_context(place)
    }

    /// Whether there is a line of `step`.
    pub(crate) fn has(&self, step: u64) -> bool {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().any(|line| step_of(line) == Some(step))
    }

    /// Makes sure that what was written is on the disk.
    ///
    /// # Errors
    /// When the system says that it is not.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .with_context(|| format!("{}: cannot be synced", self.path.display()))
    }
}

fn belongs(line: &str, step: u64) -> bool {
    step_of(line).is_some_and(|at| at <= step)
}

fn step_of(line: &str) -> Option<u64> {
    let value: Value = serde_json::from_str(line).ok()?;
    value.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_what_will_be_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"ste").expect("written");
        let mut lines = JsonLines::resume(&path, Some(2)).expect("opens");
        lines
            .write(&serde_json::json!({"step": 3, "again": true}))
            .expect("written");
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(
            text,
            "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"again\":true}\n"
        );
    }
}
