//! One file from the hub, going on where an earlier attempt stopped.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ureq::Agent;

use super::{Hub, Wanted, failure};
use crate::cache::file_sha256;
use crate::error::DataError;
use crate::progress::{Progress, Task};

/// A connection that breaks is made anew this often, if nothing at all came through it.
const ATTEMPTS: u32 = 4;

/// How one connection ended.
enum Outcome {
    /// Everything is here.
    Whole,
    /// It broke, with this word.
    Broken(String),
}

impl Hub {
    /// Brings `url` to `blob`, by way of a file beside it that grows.
    pub(super) fn download(
        &self,
        agent: &Agent,
        model: &str,
        url: &str,
        wanted: &Wanted,
        blob: &Path,
        progress: Progress,
    ) -> Result<(), DataError> {
        let partial = blob.with_extension("incomplete");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&partial)
            .map_err(DataError::io("open", &partial))?;
        // Another process may be fetching the same: it does the work, this one looks at the result.
        file.lock().map_err(DataError::io("lock", &partial))?;
        if fs::metadata(blob).is_ok_and(|found| found.len() == wanted.size) {
            return Ok(());
        }
        let what = format!(
            "fetching {model} {} ({:.1} MB)",
            wanted.name,
            wanted.size as f64 / 1e6
        );
        let task = progress.bytes(&what, wanted.size);
        let mut failures = 0;
        loop {
            let start = file
                .seek(SeekFrom::End(0))
                .map_err(DataError::io("read", &partial))?;
            match self.go_on(agent, model, url, wanted, &mut file, &partial, &task)? {
                Outcome::Whole => break,
                Outcome::Broken(error) => {
                    let end = file.metadata().map_or(start, |found| found.len());
                    failures = if end > start { 1 } else { failures + 1 };
                    if failures == ATTEMPTS {
                        return Err(self.unreachable(model, &error));
                    }
                    std::thread::sleep(Duration::from_millis(200 << (2 * failures)));
                }
            }
        }
        file.sync_all().map_err(DataError::io("write", &partial))?;
        if wanted.is_sha256 && !file_sha256(&partial)?.eq_ignore_ascii_case(&wanted.hash) {
            let _ = fs::remove_file(&partial);
            let what = format!("`{}` has another SHA-256 than was listed", wanted.name);
            return Err(failure(model, what, "try again; nothing of it was kept"));
        }
        fs::rename(&partial, blob).map_err(DataError::io("rename", &partial))
    }

    /// One connection: from the end of what is there to the end of the file, if all goes well.
    #[allow(clippy::too_many_arguments)] // what the loop above holds
    fn go_on(
        &self,
        agent: &Agent,
        model: &str,
        url: &str,
        wanted: &Wanted,
        file: &mut File,
        partial: &Path,
        task: &Task,
    ) -> Result<Outcome, DataError> {
        let mut have = file
            .seek(SeekFrom::End(0))
            .map_err(DataError::io("read", partial))?;
        if have > wanted.size {
            // Not a beginning of this file.
            have = restart(file, partial)?;
        }
        if have == wanted.size {
            return Ok(Outcome::Whole);
        }
        let request = self.get(agent, url);
        let request = match have {
            0 => request,
            _ => request.header("Range", format!("bytes={have}-")),
        };
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Outcome::Broken(error.to_string())),
        };
        match response.status().as_u16() {
            206 => {}
            // The whole file, whatever was asked for.
            200 => have = restart(file, partial)?,
            status @ 500..=599 => return Ok(Outcome::Broken(format!("status {status}"))),
            status => return Err(self.refused(model, status)),
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        while have < wanted.size {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(Outcome::Broken("the connection ended early".to_owned())),
                Ok(count) => count,
                Err(error) => return Ok(Outcome::Broken(error.to_string())),
            };
            // Never more than was listed.
            let count = count.min((wanted.size - have) as usize);
            file.write_all(&buffer[..count])
                .map_err(DataError::io("write", partial))?;
            have += count as u64;
            task.set(have);
        }
        Ok(Outcome::Whole)
    }
}

fn restart(file: &mut File, partial: &Path) -> Result<u64, DataError> {
    file.set_len(0).map_err(DataError::io("write", partial))?;
    file.rewind().map_err(DataError::io("write", partial))?;
    Ok(0)
}
