//! Ctrl-C, a scheduler's SIGTERM, a terminal that is gone (SIGHUP): the run saves a checkpoint and ends; answers
//! to test examples, which come after it, are left off. A second Ctrl-C ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Tells whether the run was asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    /// Whether there is nothing to save yet, so that a signal ends the process at once.
    nothing_to_save: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens for Ctrl-C, SIGTERM and SIGHUP from now on. `nohup` stays in force: a hang-up that was ignored when
    /// the process started is ignored.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let nothing_to_save = Arc::new(AtomicBool::new(true));
        // In this order: the first Ctrl-C finds the flag down and raises it, the second ends the process. Others may
        // well come twice (a closed terminal sends a hang-up by way of its shell and by itself) and mean the same.
        flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&asked))
            .context("the signal cannot be listened to")?;
        let hang_up = hang_up_is_ignored() == Some(false);
        for signal in [SIGINT, SIGTERM]
            .into_iter()
            .chain(hang_up.then_some(SIGHUP))
        {
            // What a shell says of a process that a signal ended.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&nothing_to_save))
                .context("the signal cannot be listened to")?;
            flag::register(signal, Arc::clone(&asked))
                .context("the signal cannot be listened to")?;
        }
        Ok(Self {
            asked,
            nothing_to_save,
        })
    }

    /// Data is being made ready, for the first run of this process or for a later one: a signal ends the process at
    /// once, until [`Self::work_begins`].
    pub fn nothing_to_save(&self) {
        self.nothing_to_save.store(true, Ordering::Relaxed);
    }

    /// From now on there is something to save, or to clean up: a signal asks, and no longer ends the process at once as
    /// while data is made ready.
    pub fn work_begins(&self) {
        self.nothing_to_save.store(false, Ordering::Relaxed);
    }

    /// Asks the run to stop as a signal would: after the step under way, with a checkpoint.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Ends, by an error, what has nothing to save. [`unless_stopped`] takes it up again.
    ///
    /// # Errors
    /// [`Stopped`], once someone asked.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.asked(), Stopped);
        Ok(())
    }

    /// Whether a signal came, or someone asked.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Someone asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped, as was asked")]
pub struct Stopped;

/// What came of some work; none when it was left because someone asked to stop.
///
/// # Errors
/// The work's own.
pub fn unless_stopped<T>(done: Result<T>) -> Result<Option<T>> {
    match done {
        Err(error) if error.is::<Stopped>() => Ok(None),
        done => done.map(Some),
    }
}

/// Whether this process ignores SIGHUP, where the system tells (Linux).
fn hang_up_is_ignored() -> Option<bool> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> (SIGHUP - 1) & 1 == 1)
}
