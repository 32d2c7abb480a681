//! The one place where a failure becomes text and an exit status.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use etude_data::{DataError, ShardError};
use etude_model::gguf::GgufError;
use etude_model::hf::FolderError;
use etude_model::lora::LoraError;
use etude_model::{ConfigError, GenerateError};
use etude_tensor::DeviceError;
use etude_tensor::memory::OutOfMemory;
use etude_tensor::safetensors::SafetensorsError;
use etude_tokenizer::TokenizerError;

use crate::output::{self, OutputError};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Done,
    /// Something failed that is not the user's doing, or a check did not pass.
    Failed,
    /// Wrong use or bad input.
    Wrong,
    /// Ctrl-C; what there was is saved.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Wrong => 2,
            Exit::Interrupted => 130,
        })
    }
}

/// Wrong use that this crate finds itself: what is wrong and what to do.
#[derive(Debug)]
pub(crate) struct Misuse {
    what: String,
    remedy: String,
}

impl Misuse {
    /// As an error for `?`.
    pub(crate) fn error(what: impl Into<String>, remedy: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self {
            what: what.into(),
            remedy: remedy.into(),
        })
    }
}

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Misuse {}

/// Another crate's failure that is the user's to mend, though its type does not say so: what a recipe
/// says, for one.
#[derive(Debug)]
struct BadInput(anyhow::Error);

/// Marks a failure as the user's to mend.
pub(crate) fn bad_input(failure: anyhow::Error) -> anyhow::Error {
    anyhow::Error::new(BadInput(failure))
}

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl Error for BadInput {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The inner error itself, so that its type still counts; printing leaves out repetitions.
        Some(self.0.as_ref())
    }
}

/// Prints a failure to stderr and says how to end. A reader that closed stdout is told nothing.
pub(crate) fn report(failure: &anyhow::Error) -> Exit {
    if failure.chain().any(|cause| {
        cause
            .downcast_ref::<OutputError>()
            .is_some_and(OutputError::is_closed)
    }) {
        return Exit::Done;
    }
    output::note(rendered(failure).trim_end());
    classify(failure)
}

/// A panic is a fault of the program's own, except where memory did not suffice: that is reported as a
/// failure, and libtorch's page of addresses with it helps nobody.
pub(crate) fn say_faults_in_one_line() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if OutOfMemory::in_panic(panic.payload()).is_none() {
            usual(panic);
        }
    }));
}

/// Bad input when any error of the chain says so.
fn classify(failure: &anyhow::Error) -> Exit {
    if failure.chain().any(is_input) {
        Exit::Wrong
    } else {
        Exit::Failed
    }
}

/// Whether one error means that the user gave something wrong, as opposed to a machine that failed.
fn is_input(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<DataError>() {
        return error.is_input();
    }
    if let Some(error) = error.downcast_ref::<TokenizerError>() {
        return match error {
            TokenizerError::Read { source, .. } => is_missing(source),
            TokenizerError::Write { .. } | TokenizerError::Engine { .. } => false,
            _ => true,
        };
    }
    if let Some(error) = error.downcast_ref::<FolderError>() {
        return match error {
            FolderError::Io { source, .. } => is_missing(source),
            FolderError::Weights(SafetensorsError::Io { source, .. }) => is_missing(source),
            _ => true,
        };
    }
    if let Some(error) = error.downcast_ref::<GgufError>() {
        return match error {
            GgufError::Io { source, .. } => is_missing(source),
            GgufError::Folder(error) => is_input(error),
            _ => true,
        };
    }
    if let Some(error) = error.downcast_ref::<GenerateError>() {
        return match error {
            GenerateError::Tokenizer(error) => is_input(error),
            GenerateError::NotFinite { .. } => false,
            _ => true,
        };
    }
    error.is::<Misuse>()
        || error.is::<BadInput>()
        || error.is::<DeviceError>()
        || error.is::<ConfigError>()
        || error.is::<LoraError>()
        || error.is::<ShardError>()
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// `error:` what and where; `caused by:` for each cause that says something new; `try:` the remedy where
/// it is known apart from the message.
pub(crate) fn rendered(failure: &anyhow::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut remedies: Vec<String> = Vec::new();
    // The mark says nothing of its own: what it marks comes next.
    for cause in failure.chain().filter(|cause| !cause.is::<BadInput>()) {
        let (what, remedy) = parts(cause);
        let known = |text: &str| told.iter().any(|before| before.contains(text));
        if !known(what.trim()) {
            told.push(what.trim().to_owned());
        }
        if let Some(remedy) = remedy
            && !remedies.contains(&remedy)
        {
            remedies.push(remedy);
        }
    }
    if remedies.is_empty() && !told.iter().any(|what| what.contains("make room")) {
        remedies.extend(failure.chain().find_map(remedy_for_refusal));
    }
    let mut text = String::new();
    for (index, what) in told.iter().enumerate() {
        let label = if index == 0 {
            "error: "
        } else {
            "  caused by: "
        };
        text.push_str(&format!("{label}{}\n", what.replace('\n', "\n    ")));
    }
    for remedy in remedies {
        text.push_str(&format!("  try: {remedy}\n"));
    }
    text
}

/// What can be done about a system's refusal whose message names no remedy.
fn remedy_for_refusal(cause: &(dyn Error + 'static)) -> Option<String> {
    let remedy = match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on the disk, or name another place"
        }
        io::ErrorKind::PermissionDenied => "look at its permissions, or name another place",
        io::ErrorKind::ReadOnlyFilesystem => "name a place that can be written to",
        _ => return None,
    };
    Some(remedy.to_owned())
}

/// What one error says, and its remedy where that stands apart.
fn parts(error: &(dyn Error + 'static)) -> (String, Option<String>) {
    if let Some(misuse) = error.downcast_ref::<Misuse>() {
        return (misuse.what.clone(), Some(misuse.remedy.clone()));
    }
    if let Some(out) = error.downcast_ref::<OutOfMemory>() {
        return (out.to_string(), Some(out.remedy.to_owned()));
    }
    match error.downcast_ref::<DataError>() {
        Some(DataError::Input {
            place,
            what,
            remedy,
        }) => {
            let place = place.as_ref().map_or_else(String::new, |place| {
                let line = place
                    .line
                    .map_or_else(String::new, |line| format!(":{line}"));
                format!("{}{line}: ", place.file.display())
            });
            (format!("{place}{what}"), Some(remedy.clone()))
        }
        Some(DataError::Fetch {
            dataset,
            what,
            remedy,
        }) => (
            format!("cannot fetch {dataset}: {what}"),
            Some(remedy.clone()),
        ),
        _ => (error.to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::Context;

    use super::*;

    #[test]
    fn the_users_mistakes_end_with_2_and_other_failures_with_1() {
        let wrong: Vec<anyhow::Error> = vec![
            Misuse::error("no", "yes"),
            DataError::input("no", "yes").into(),
            bad_input(anyhow::anyhow!("train.steps = 0: it must be at least 1")),
            DeviceError::Unknown("gpu".into()).into(),
            FolderError::NotAModel {
                path: "x".into(),
                missing: "config.json".into(),
            }
            .into(),
            TokenizerError::NoTemplate.into(),
            DataError::io("read", Path::new("x"))(io::Error::from(io::ErrorKind::NotFound)).into(),
        ];
        for failure in wrong {
            let failure = Err::<(), _>(failure)
                .context("while doing something")
                .unwrap_err();
            assert_eq!(classify(&failure), Exit::Wrong, "{failure:#}");
        }
        let failed: Vec<anyhow::Error> = vec![
            anyhow::anyhow!("the disk is full"),
            DataError::io("read", Path::new("x"))(io::Error::from(io::ErrorKind::StorageFull))
                .into(),
            TokenizerError::Write {
                path: "x".into(),
                source: io::Error::from(io::ErrorKind::StorageFull),
            }
            .into(),
        ];
        for failure in failed {
            assert_eq!(classify(&failure), Exit::Failed, "{failure:#}");
        }
    }

    #[test]
    fn a_full_disk_has_a_remedy_said_once() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for (failure, rooms) in [
            (
                anyhow::Error::new(full()).context("a: cannot be written"),
                1,
            ),
            (anyhow::Error::new(full()).context("a: make room there"), 1),
            (DataError::io("write", Path::new("x"))(full()).into(), 1),
            (anyhow::anyhow!("no disk has to do with it"), 0),
        ] {
            let told = rendered(&failure);
            assert_eq!(told.matches("make room").count(), rooms, "{told}");
        }
    }

    #[test]
    fn a_message_says_each_thing_once() {
        let failure = DataError::at_line(Path::new("a.jsonl"), 17, "not JSON", "correct the line");
        let failure = bad_input(
            Err::<(), _>(failure)
                .context("reading the examples")
                .unwrap_err(),
        );
        let expected = "error: reading the examples\n  caused by: a.jsonl:17: not JSON\n  try: correct the line\n";
        assert_eq!(rendered(&failure), expected);
        let marked = bad_input(DataError::input("unknown key", "use another").into());
        assert_eq!(
            rendered(&marked),
            "error: unknown key\n  try: use another\n"
        );
        let io = DataError::io("read", Path::new("x"))(io::Error::other("cable cut"));
        assert_eq!(
            rendered(&io.into()),
            "error: cannot read x: cable cut: see the system's message\n"
        );
    }
}
