//! A file mapped into memory, read only: weights are read from it without a copy of the whole.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

/// A mapped file.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps the file.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read only; a file that another process cuts while we read it would end
        // this process, as for every program that maps its weights.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self {
            path: path.to_owned(),
            map,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the system take back the memory of some of the bytes; they are read again when they are looked at again.
    pub fn forget(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the map is read only and backed by a file, so that its pages hold nothing of our own.
            // It is a hint: when the system does not take it, the memory stays in use and all is well.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len())
            };
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}
