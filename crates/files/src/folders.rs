//! Folders that go again when what was to lie in them does not come.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folders that were made for something to be written. Dropped, it removes those of them that are empty.
#[derive(Debug)]
pub struct NewFolders {
    /// The innermost first.
    made: Vec<PathBuf>,
}

impl NewFolders {
    /// Makes `folder`, and those above it.
    ///
    /// # Errors
    /// What the system refuses; nothing new is left then.
    pub fn make(folder: &Path) -> io::Result<Self> {
        let absent = folder
            .ancestors()
            .take_while(|above| !above.as_os_str().is_empty() && !above.exists());
        let new = Self {
            made: absent.map(Path::to_owned).collect(),
        };
        fs::create_dir_all(folder)?;
        Ok(new)
    }

    /// Makes the folder in which `file` is to lie.
    ///
    /// # Errors
    /// What the system refuses; nothing new is left then.
    pub fn above(file: &Path) -> io::Result<Self> {
        match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => Self::make(folder),
            _ => Ok(Self { made: Vec::new() }),
        }
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in &self.made {
            // One with something in it stays.
            let _ = fs::remove_dir(folder);
        }
    }
}
