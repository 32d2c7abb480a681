//! Ctrl-C and a scheduler's SIGTERM: the run saves a checkpoint and ends; a second Ctrl-C ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Tells whether the run was asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens for Ctrl-C and SIGTERM from now on.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag down and raises it, the second ends the process.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&asked))
                .context("the signal cannot be listened to")?;
            signal_hook::flag::register(signal, Arc::clone(&asked))
                .context("the signal cannot be listened to")?;
        }
        Ok(Self { asked })
    }

    /// Asks the run to stop as a signal would: after the step under way, with a checkpoint.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether a signal came, or someone asked.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}
