//! The one error of this crate. Two families matter to a caller: input that the user can correct
//! (a bad line, a misspelt key), and everything that happened around it (network, disk, tools).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::task::SourceRef;

/// What went wrong with data, always with what to do about it.
#[derive(Debug)]
#[non_exhaustive]
pub enum DataError {
    /// The user's input is wrong: a file, a line of it, a name, a setting.
    Input {
        /// The file, and its line if there is one; `None` for a name or a setting given by hand.
        place: Option<FilePlace>,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A data set could not be brought here.
    Fetch {
        /// The data set's name.
        dataset: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The operating system refused something.
    Io {
        /// What was tried, such as "read".
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// A file, and a line (from 1) where one is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlace {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: Option<u64>,
}

impl DataError {
    /// A mistake in a name or setting that stands in no file.
    pub fn input(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Input {
            place: None,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// A mistake in a file as a whole.
    pub fn in_file(file: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let place = Some(FilePlace {
            file: file.to_path_buf(),
            line: None,
        });
        Self::Input {
            place,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// A mistake at a line of a file.
    pub fn at_line(
        file: &Path,
        line: u64,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let place = Some(FilePlace {
            file: file.to_path_buf(),
            line: Some(line),
        });
        Self::Input {
            place,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// A mistake where a record was read.
    pub fn at(source: &SourceRef, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::at_line(&source.file, source.line, what, remedy)
    }

    /// The operating system's refusal, for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Whether the user's input is at fault, which a command line answers with status 2.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Input { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Fetch { .. } => false,
        }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input {
                place,
                what,
                remedy,
            } => {
                if let Some(place) = place {
                    write!(f, "{}", place.file.display())?;
                    if let Some(line) = place.line {
                        write!(f, ":{line}")?;
                    }
                    f.write_str(": ")?;
                }
                write!(f, "{what}: {remedy}")
            }
            Self::Fetch {
                dataset,
                what,
                remedy,
            } => write!(f, "cannot fetch {dataset}: {what}: {remedy}"),
            Self::Io {
                action,
                path,
                source,
            } => {
                write!(
                    f,
                    "cannot {action} {}: {source}: {}",
                    path.display(),
                    io_remedy(source)
                )
            }
        }
    }
}

impl std::error::Error for DataError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What a user can do about an operating system's refusal.
fn io_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check its permissions",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on that disk, or name another folder in ETUDE_CACHE"
        }
        io::ErrorKind::ReadOnlyFilesystem => "name a folder that can be written in ETUDE_CACHE",
        io::ErrorKind::UnexpectedEof => "the file ends too early; fetch or write it again",
        _ => "see the system's message",
    }
}
