//! A run in a process of its own, and its end: by itself, or by SIGKILL at a chosen moment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use etude_train::interrupt::Interrupt;

use crate::process::Reaped;

/// How often the process and its folder are looked at, at most and at least.
const GLANCES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(5));

/// When a process is to be killed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Moment {
    /// Never.
    Never,
    /// So long after its start.
    After(Duration),
    /// So long after it began to write its n-th checkpoint, counted from 1.
    Saving(u64, Duration),
}

/// How a process ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed.
    Killed,
    /// Someone asked this program to stop; the process was killed for it.
    Stopped,
}

/// What was seen while a process ran.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// From its start to its end.
    pub(super) whole: Duration,
    /// From its start to the first line of its log.
    pub(super) setup: Duration,
    /// The longest time that a checkpoint was being written.
    pub(super) saving: Duration,
}

impl Seen {
    /// How often to look at the next process: often enough to meet a checkpoint while it is written.
    fn glance(&self) -> Duration {
        (self.saving / 20).clamp(GLANCES.0, GLANCES.1)
    }
}

/// Runs `command`, which works in the run folder `run`, until it ends or until `moment`. What it says goes to the
/// file `said`; `pace` is what was seen of an earlier one.
///
/// # Errors
/// When it cannot be started.
pub(super) fn live(
    command: &[OsString],
    run: &Path,
    said: &Path,
    moment: Moment,
    pace: &Seen,
    interrupt: &Interrupt,
) -> Result<(End, Seen)> {
    let mut process = Reaped::start(command, said, &[])?;
    let begun = Instant::now();
    let mut seen = Seen::default();
    let mut saves = Saves::new(run);
    let end = loop {
        if interrupt.asked() {
            break End::Stopped;
        }
        if let Some(status) = process
            .0
            .try_wait()
            .context("a process cannot be waited for")?
        {
            break End::Exited(status);
        }
        if seen.setup.is_zero() && has_begun(run) {
            seen.setup = begun.elapsed();
        }
        seen.saving = seen.saving.max(saves.glance(run));
        let due = match moment {
            Moment::Never => false,
            Moment::After(time) => begun.elapsed() >= time,
            Moment::Saving(which, time) => {
                saves.count > which
                    || (saves.count == which
                        && saves.since.is_none_or(|since| since.elapsed() >= time))
            }
        };
        if due {
            break End::Killed;
        }
        std::thread::sleep(pace.glance());
    };
    drop(process); // killed, unless it has ended
    seen.whole = begun.elapsed();
    Ok((end, seen))
}

fn has_begun(run: &Path) -> bool {
    fs::metadata(run.join("metrics.jsonl")).is_ok_and(|found| found.len() > 0)
}

/// The checkpoints that a process is seen writing.
struct Saves {
    /// What an earlier process left half-written.
    known: BTreeSet<Unfinished>,
    count: u64,
    since: Option<Instant>,
}

impl Saves {
    fn new(run: &Path) -> Self {
        Self {
            known: unfinished(&run.join("checkpoints")),
            count: 0,
            since: None,
        }
    }

    /// Looks once; how long the present checkpoint has been in the making.
    fn glance(&mut self, run: &Path) -> Duration {
        let now = unfinished(&run.join("checkpoints"));
        let fresh: Vec<_> = now.difference(&self.known).cloned().collect();
        let before = self.since;
        if !fresh.is_empty() {
            self.known.extend(fresh);
            self.count += 1;
            self.since = Some(Instant::now());
        } else if now.is_empty() {
            self.since = None;
        }
        before.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Something that lies unfinished in a folder. Its birth tells it from another of its name: the system gives the same
/// inode out again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unfinished {
    name: OsString,
    inode: u64,
    birth: Option<SystemTime>,
}

/// What lies unfinished in a folder: folders whose names begin with a dot.
pub(super) fn unfinished(folder: &Path) -> BTreeSet<Unfinished> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let begun = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."));
    begun
        .filter_map(|entry| {
            let found = entry.metadata().ok().filter(|found| found.is_dir())?;
            Some(Unfinished {
                name: entry.file_name(),
                inode: found.ino(),
                birth: found.created().ok(),
            })
        })
        .collect()
}
