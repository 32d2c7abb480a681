//! Folders that Etude makes and later writes over, told from those of a user, which are left alone.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use etude_data::DataError;

/// A kind of folder that is known by a mark: an empty file that is written before anything else, so that whatever a
/// crash leaves of such a folder is either empty or marked.
#[derive(Debug, Clone, Copy)]
pub struct FolderKind {
    /// The mark's name.
    pub mark: &'static str,
    /// What such a folder is called after "is no", as in `run folder`.
    pub name: &'static str,
    /// Whether a folder without the mark is one all the same: it was made before there were marks, or copied without
    /// its hidden files.
    pub otherwise: fn(&Path) -> bool,
}

impl FolderKind {
    /// Whether the folder is one of this kind. One that is empty or not there is none.
    pub fn is(&self, folder: &Path) -> bool {
        let marked = fs::metadata(folder.join(self.mark));
        marked.is_ok_and(|mark| mark.is_file() && mark.len() == 0) || (self.otherwise)(folder)
    }

    /// Refuses a folder in which something lies already, and that is none of this kind. Nothing is written.
    ///
    /// # Errors
    /// The folder and what to do; and when it cannot be looked into.
    pub fn check(&self, folder: &Path) -> Result<()> {
        let free = holds_only(folder, is_beside)
            .with_context(|| format!("{}: cannot be looked into", folder.display()))?;
        if free || self.is(folder) {
            return Ok(());
        }
        Err(DataError::in_file(
            folder,
            format!(
                "is there already and not empty, and is no {}, so nothing is written there",
                self.name
            ),
            "choose another --run: a new folder",
        )
        .into())
    }

    /// Makes a folder of this kind, with those that it lies in, or takes one that is there; and opens its mark.
    ///
    /// # Errors
    /// As [`FolderKind::check`]; and when the folder cannot be written to.
    pub fn claim(&self, folder: &Path) -> Result<File> {
        self.check(folder)?;
        make(folder, self.name)?;
        let mut mark = File::options();
        mark.create(true).truncate(false).write(true);
        mark.open(folder.join(self.mark)).with_context(|| {
            format!(
                "{}: the {} cannot be written; choose another --run",
                folder.display(),
                self.name
            )
        })
    }
}

/// Whether a file or folder is what people and systems put beside a run, and no run writes: an empty file, a log (the
/// shell makes it before the program starts), a recipe of theirs, what a fresh volume holds.
fn is_beside(path: &Path) -> bool {
    let is_empty = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0);
    let name = path.file_name().unwrap_or_default();
    let ending = path.extension().unwrap_or_default();
    let is_log = ["log", "out", "err"].iter().any(|log| ending == *log);
    let is_recipe = ending == "toml" && name != "recipe.toml";
    is_empty || name == "lost+found" || path.is_file() && (is_log || is_recipe)
}

/// Whether neither the folder nor those in it hold a file, so that nothing is lost with it.
///
/// # Errors
/// When one of them cannot be read.
pub fn holds_no_file(folder: &Path) -> std::io::Result<bool> {
    holds_only(folder, |_| false)
}

/// The same without regard to what is `spared`.
fn holds_only(folder: &Path, spared: fn(&Path) -> bool) -> std::io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        // Of a file that is in the way, making the folder tells.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(true);
        }
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if spared(&path) {
            continue;
        }
        // Of a link what it leads to.
        if !path.is_dir() || !holds_only(&path, spared)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a folder, with those that it lies in.
fn make(folder: &Path, name: &str) -> Result<()> {
    match fs::create_dir_all(folder) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory
            ) =>
        {
            Err(DataError::in_file(
                folder,
                format!("the {name} cannot be made: a file of that name is in the way"),
                "choose another --run",
            )
            .into())
        }
        made => made.with_context(|| {
            format!(
                "{}: the {name} cannot be made; choose another --run",
                folder.display()
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: FolderKind = FolderKind {
        mark: ".mark",
        name: "folder of ours",
        otherwise: |folder| folder.join("old").is_file(),
    };

    #[test]
    fn a_folder_is_ours_from_its_first_file_on() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("deep/inside");
        assert!(!KIND.is(&folder));
        fs::create_dir_all(folder.join("empty")).unwrap();
        drop(KIND.claim(&folder).unwrap());
        fs::write(folder.join("more"), "ours").unwrap();
        assert!(KIND.is(&folder));
        KIND.check(&folder).unwrap();
        let logged = parent.path().join("logged");
        fs::create_dir_all(logged.join("lost+found")).unwrap();
        fs::create_dir(parent.path().join("disk")).unwrap();
        std::os::unix::fs::symlink(parent.path().join("disk"), logged.join("checkpoints")).unwrap();
        for (file, text) in [
            ("run.log", "a line"),
            ("my.toml", "[train]"),
            (".DS_Store", ""),
        ] {
            fs::write(logged.join(file), text).unwrap();
        }
        KIND.check(&logged).unwrap();
        assert!(!holds_no_file(&logged).unwrap(), "it is not to be removed");
        let old = parent.path().join("before");
        fs::create_dir(&old).unwrap();
        fs::write(old.join("old"), "").unwrap();
        KIND.check(&old).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_left_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        for file in [
            "thesis.txt",
            ".hidden",
            "below/thesis.txt",
            ".mark",
            "recipe.toml",
            "data.json",
        ] {
            let folder = parent.path().join(file.replace(['/', '.'], "-"));
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "years of work").unwrap();
            let error = KIND.claim(&folder).unwrap_err();
            let told = error.to_string();
            assert!(told.contains("is no folder of ours"), "{file}: {told}");
            let error = error.downcast::<DataError>().expect("bad input");
            assert!(error.is_input(), "{file}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "years of work");
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "{file}");
        }
    }
}
