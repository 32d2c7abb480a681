//! The files that `etude eval --tasks … --output DIR` writes, named and laid out as lm-evaluation-harness'.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use etude_eval::{HarnessResult, sample_json};
use etude_files::NewFolders;
use serde_json::Value;

use crate::error::Misuse;

/// Where results go.
pub(super) struct Output {
    folder: PathBuf,
    /// Those that were made for it go again where nothing comes to lie in them.
    _made: NewFolders,
}

impl Output {
    /// Finds out before the evaluation whether its results can be kept.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            let what = format!("{}: is a file", folder.display());
            return Err(Misuse::error(what, "name a folder with --output"));
        }
        let probe = folder.join(format!(".etude-{}", std::process::id()));
        let made = NewFolders::make(folder).and_then(|made| {
            File::create(&probe)?;
            fs::remove_file(&probe)?;
            Ok(made)
        });
        let made = made.with_context(|| {
            format!(
                "{}: results cannot be written there; choose another folder with --output",
                folder.display()
            )
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _made: made,
        })
    }

    /// Writes `results_DATE.json`, and `samples_TASK_DATE.jsonl` for each task; their paths.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(&self, all: &Value, results: &[HarnessResult]) -> Result<Vec<PathBuf>> {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let date = stamp(since.as_secs(), since.subsec_micros());
        let path = self.folder.join(format!("results_{date}.json"));
        let mut text = serde_json::to_string_pretty(all)?;
        text.push('\n');
        etude_files::write(&path, |file| file.write_all(text.as_bytes()))
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        let mut written = vec![path];
        for result in results {
            let name = format!("samples_{}_{date}.jsonl", result.spec.name);
            let path = self.folder.join(name);
            samples(&path, result)
                .with_context(|| format!("{}: cannot be written", path.display()))?;
            written.push(path);
        }
        Ok(written)
    }
}

fn samples(path: &Path, result: &HarnessResult) -> io::Result<()> {
    etude_files::write(path, |file| {
        for sample in &result.samples {
            serde_json::to_writer(&mut *file, &sample_json(result, sample))?;
            file.write_all(b"\n")?;
        }
        Ok(())
    })
}

/// Seconds since 1970 as `2026-11-26T00-12-34.123456` (UTC): a date whose colons a file name can bear.
fn stamp(seconds: u64, micros: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut left) = (1970, days);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let day = left + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{micros:06}")
}

#[cfg(test)]
mod tests {
    use super::stamp;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(stamp(0, 0), "1970-01-01T00-00-00.000000");
        assert_eq!(stamp(951_782_399, 5), "2000-02-28T23-59-59.000005");
        assert_eq!(stamp(951_868_799, 5), "2000-02-29T23-59-59.000005");
        assert_eq!(stamp(1_767_225_599, 0), "2025-12-31T23-59-59.000000");
    }
}
