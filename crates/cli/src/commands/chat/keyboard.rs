//! Where turns come from: lines of standard input, commands among them, and Ctrl-C.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::SIGINT;

use crate::error::Misuse;
use crate::output;

/// One line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Turn(String),
    Help,
    Reset,
    System(String),
    Save(PathBuf),
    Quit,
    Unknown(String),
}

/// Standard input and the interrupt key.
pub(super) struct Keyboard {
    terminal: bool,
    /// Whether a line is awaited: then Ctrl-C ends the program.
    waiting: Arc<AtomicBool>,
    /// Whether Ctrl-C came while an answer was made: then it ends the answer.
    stop: Arc<AtomicBool>,
}

impl Keyboard {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses the signal handlers.
    pub(super) fn open() -> Result<Self> {
        let keyboard = Self {
            terminal: std::io::stdin().is_terminal(),
            waiting: Arc::new(AtomicBool::new(true)),
            stop: Arc::new(AtomicBool::new(false)),
        };
        signal_hook::flag::register_conditional_shutdown(
            SIGINT,
            130,
            Arc::clone(&keyboard.waiting),
        )
        .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&keyboard.stop)))
        .context("Ctrl-C cannot be listened to")?;
        Ok(keyboard)
    }

    /// Whether a person writes, as opposed to a file or a pipe.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Tells the person something; a pipe is not interested.
    pub(super) fn tell(&self, text: &str) {
        if self.terminal {
            output::note(text);
        }
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// When standard input cannot be read or is not UTF-8.
    pub(super) fn listen(&self) -> Result<Said> {
        if self.terminal {
            let mut errors = std::io::stderr().lock();
            // Without a place to show it, the mark is not missed.
            let _ = write!(errors, "> ").and_then(|()| errors.flush());
        }
        let mut line = Vec::new();
        let read = std::io::stdin().lock().read_until(b'\n', &mut line);
        if read.context("standard input cannot be read")? == 0 {
            return Ok(Said::Quit);
        }
        match String::from_utf8(line) {
            Ok(line) => Ok(understand(&line)),
            Err(_) => Err(Misuse::error(
                "standard input: a line is not UTF-8",
                "convert the text to UTF-8",
            )),
        }
    }

    /// Runs `body` with Ctrl-C ending what it does instead of the program; it asks whether to go on.
    pub(super) fn while_answering<T>(&self, body: impl FnOnce(&dyn Fn() -> bool) -> T) -> T {
        self.stop.store(false, Ordering::Relaxed);
        self.waiting.store(false, Ordering::Relaxed);
        let done = body(&|| !self.stop.load(Ordering::Relaxed));
        self.waiting.store(true, Ordering::Relaxed);
        done
    }
}

fn understand(line: &str) -> Said {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match word {
        "" => Said::Nothing,
        "/help" => Said::Help,
        "/reset" => Said::Reset,
        "/system" => Said::System(rest.to_owned()),
        "/save" if !rest.is_empty() => Said::Save(rest.into()),
        "/save" => Said::Unknown("/save without a file's name".to_owned()),
        "/quit" | "/exit" => Said::Quit,
        command if command.starts_with('/') => Said::Unknown(command.to_owned()),
        _ => Said::Turn(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_turns_or_commands() {
        let cases = [
            ("  \n", Said::Nothing),
            ("Hello there\r\n", Said::Turn("Hello there".into())),
            ("/quit", Said::Quit),
            ("/system  Be brief. \n", Said::System("Be brief.".into())),
            ("/system\n", Said::System(String::new())),
            ("/save talk.jsonl\n", Said::Save("talk.jsonl".into())),
            ("/sav x\n", Said::Unknown("/sav".into())),
        ];
        for (line, expected) in cases {
            assert_eq!(understand(line), expected, "{line:?}");
        }
        assert!(matches!(understand("/save\n"), Said::Unknown(_)));
    }
}
