//! Progress on stderr: bars where it is a terminal, one line per event where it is not, or nothing.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bars on a terminal, lines elsewhere.
    Shown,
    /// Nothing.
    Silent,
}

impl Progress {
    /// Starts a task measured in bytes; `total` 0 means unknown.
    pub(crate) fn bytes(self, what: &str, total: u64) -> Task {
        let terminal = std::io::stderr().is_terminal();
        if self == Self::Silent || !terminal {
            if self == Self::Shown {
                line(what);
            }
            return Task(ProgressBar::hidden());
        }
        let (bar, template) = if total == 0 {
            (
                ProgressBar::new_spinner(),
                "{spinner} {msg} {bytes} {elapsed}",
            )
        } else {
            let template = "{spinner} {msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            (ProgressBar::new(total), template)
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(120));
        Task(bar)
    }

    /// Says one thing.
    pub(crate) fn say(self, what: &str) {
        if self == Self::Shown {
            line(what);
        }
    }
}

/// A running task; dropping it takes its bar away.
pub(crate) struct Task(ProgressBar);

impl Task {
    /// Sets how many bytes are done.
    pub(crate) fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Writes a line to stderr. A closed stderr is no reason to fail.
fn line(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
