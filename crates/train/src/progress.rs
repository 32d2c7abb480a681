//! What a person sees while a run goes on: one bar on stderr, with lines above it for what happened.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etude_data::ledger::Ledger;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::RunContext;

/// A run's progress on stderr. Without a terminal, a plain line now and then.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    terminal: bool,
    silent: bool,
}

impl Bar {
    /// A bar over `steps` that starts at `done`.
    pub fn new(label: &str, steps: u64, done: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {msg}  {eta} left")
            .expect("the template is valid")
            .progress_chars("━━─");
        bar.set_style(style);
        bar.set_prefix(label.to_owned());
        bar.set_position(done);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        let terminal = !bar.is_hidden();
        Self {
            bar,
            terminal,
            silent: false,
        }
    }

    /// A bar that shows nothing.
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            terminal: true,
            silent: true,
        }
    }

    /// Whether the bar is drawn (or hidden altogether), so that messages cost nothing to others.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Moves to `step`.
    pub fn advance(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Says how it goes; `line` is for those who have no terminal.
    pub fn status(&self, message: String, line: impl FnOnce() -> String) {
        if self.terminal {
            self.bar.set_message(message);
        } else {
            self.say(&line());
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        if !self.silent {
            self.warn(line);
        }
    }

    /// A line that is told even where no bar is shown.
    pub fn warn(&self, line: &str) {
        if self.terminal && !self.silent {
            self.bar.println(line);
        } else {
            use std::io::Write;
            // A closed stderr must not end a run.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What this process has told of data: an experiment makes many runs over the same.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Says on stderr what was found in a run's data, if it was not said before, and what of its books does not add up.
pub fn tell(context: &RunContext, ledger: &Ledger) {
    use std::io::Write;
    if !context.progress {
        return;
    }
    let mut err = std::io::stderr();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    for finding in &ledger.warnings {
        if !told.insert(finding.to_string()) {
            continue;
        }
        // A closed stderr must not end a run.
        let _ = writeln!(err, "warning: {finding}");
    }
    for rest in &ledger.rests {
        let (place, unit) = (&rest.place, rest.unit.name());
        let (incoming, outgoing) = (rest.incoming, rest.outgoing);
        let _ = writeln!(
            err,
            "warning: {place}: {incoming} {unit} came in and {outgoing} are accounted for; this is a bug"
        );
    }
}
