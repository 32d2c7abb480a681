//! Token shards: a text corpus as token ids in one file, read through a memory map.
//!
//! A shard says by itself which tokenizer made it, how many tokens, documents and bytes of text it
//! holds, and carries checksums, so that a torn, foreign or mismatched file is refused by name and
//! never trained on in silence. The format is described in `docs/data-shards.md`. Making shards from
//! documents is left to `tokenize`, cutting them into rows to `windows`.

mod header;
mod writer;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use header::{DOCUMENT_BYTES, HEADER_BYTES, Header, HeaderError, field};

pub use header::TokenWidth;
pub use writer::ShardWriter;

/// What can be wrong with a token shard.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The file is something else.
    #[error(
        "{path} is not a token shard; give the shard that tokenizing made, or delete the file if it lies in the cache"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is of another version of the format.
    #[error(
        "{path} is a token shard of version {found}, and this program reads version {}; delete it, and the next run makes it again from the text",
        header::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file is cut off or changed.
    #[error(
        "the token shard {path} is damaged: {what}; delete it, and the next run makes it again from the text"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The ids are of another tokenizer.
    #[error(
        "the token shard {path} was made with the tokenizer {found}, not with {expected}; use that tokenizer, or tokenize the text again"
    )]
    OtherTokenizer {
        /// The file.
        path: PathBuf,
        /// The fingerprint in the shard.
        found: String,
        /// The fingerprint asked for.
        expected: String,
    },
    /// An id lies outside the vocabulary it was said to be of.
    #[error(
        "token id {id} for the shard {path} is outside the vocabulary of {vocab_size}; the tokenizer's vocabulary size is wrong"
    )]
    Id {
        /// The file being written.
        path: PathBuf,
        /// The id.
        id: u32,
        /// The vocabulary size given.
        vocab_size: usize,
    },
    /// A tokenizer fingerprint is no hexadecimal SHA-256.
    #[error("the tokenizer fingerprint {0:?} is not 64 hexadecimal digits")]
    Fingerprint(String),
    /// The system refused.
    #[error("{action} the token shard {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ShardError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> ShardError {
        ShardError::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// One document of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDocument {
    /// Where its tokens stand in the shard, with the separator that ends it.
    pub tokens: Range<u64>,
    /// The length of its text in bytes.
    pub text_bytes: u64,
}

/// An open token shard. The file must not be changed while it is open; the tools here never change
/// one, they only put whole new files in place. Clones share the map.
#[derive(Clone, Debug)]
pub struct Shard {
    path: PathBuf,
    map: Arc<Mmap>,
    header: Header,
    table_at: usize,
}

impl Shard {
    /// Opens a shard and checks its header, its length and its document table. The tokens
    /// themselves are checked by [`verify`](Shard::verify).
    ///
    /// # Errors
    /// When the file is missing, foreign, of another version, cut off, or its header was changed.
    pub fn open(path: &Path) -> Result<Shard, ShardError> {
        let file = File::open(path).map_err(|e| ShardError::io("cannot open", path, e))?;
        let map = map_file(&file).map_err(|e| ShardError::io("cannot read", path, e))?;
        let damaged = |what| ShardError::Damaged {
            path: path.to_path_buf(),
            what,
        };
        let header = Header::from_bytes(&map).map_err(|error| match error {
            HeaderError::Foreign => ShardError::Foreign {
                path: path.to_path_buf(),
            },
            HeaderError::Version(found) => ShardError::Version {
                path: path.to_path_buf(),
                found,
            },
            HeaderError::Torn(what) => damaged(what),
        })?;
        if header.file_bytes() != Some(map.len() as u64) {
            return Err(damaged(format!(
                "it is {} bytes long where its header asks for {}",
                map.len(),
                header
                    .file_bytes()
                    .map_or("more than any file holds".into(), |n| n.to_string())
            )));
        }
        let table_at = header
            .table_at()
            .expect("the file length was computed from it") as usize;
        let shard = Shard {
            path: path.to_path_buf(),
            map: Arc::new(map),
            header,
            table_at,
        };
        shard.check_table().map_err(damaged)?;
        Ok(shard)
    }

    /// The document table must start at 0, never go back, and add up to the header's counts.
    fn check_table(&self) -> Result<(), String> {
        let (mut previous, mut text_bytes) = (0, 0u64);
        for index in 0..self.documents() {
            let (start, bytes) = self.row(index);
            let in_order = if index == 0 {
                start == 0
            } else {
                start >= previous
            };
            if !in_order || start > self.tokens() {
                return Err(format!(
                    "document {index} starts at token {start}, out of order"
                ));
            }
            previous = start;
            text_bytes = text_bytes.saturating_add(bytes);
        }
        if text_bytes != self.header.text_bytes {
            return Err("the documents' lengths do not add up to the text's".into());
        }
        if self.documents() == 0 && self.tokens() > 0 {
            return Err("it has tokens but no document".into());
        }
        Ok(())
    }

    /// Reads the whole file and compares it with its checksum (0.36 s for 268 MB when this was
    /// written, on one core).
    ///
    /// # Errors
    /// When they differ.
    pub fn verify(&self) -> Result<(), ShardError> {
        if Sha256::digest(&self.map[HEADER_BYTES..])[..] == self.header.payload {
            return Ok(());
        }
        let what = "its tokens do not match its checksum".into();
        Err(ShardError::Damaged {
            path: self.path.clone(),
            what,
        })
    }

    /// Checks that the ids are of the tokenizer with this fingerprint.
    ///
    /// # Errors
    /// When they are of another one, or the fingerprint is not 64 hexadecimal digits.
    pub fn check_tokenizer(&self, fingerprint: &str) -> Result<(), ShardError> {
        if fingerprint_bytes(fingerprint)? == self.header.tokenizer {
            return Ok(());
        }
        Err(ShardError::OtherTokenizer {
            path: self.path.clone(),
            found: self.fingerprint(),
            expected: fingerprint.to_string(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens, separators included.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// The number of documents.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// The length of the original text in bytes.
    pub fn text_bytes(&self) -> u64 {
        self.header.text_bytes
    }

    /// One more than the largest id in the shard: the smallest vocabulary it fits.
    pub fn id_bound(&self) -> u64 {
        self.header.id_bound
    }

    /// How an id is stored.
    pub fn width(&self) -> TokenWidth {
        self.header.width
    }

    /// The fingerprint of the tokenizer, 64 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        hex(&self.header.tokenizer)
    }

    /// The document with this number.
    ///
    /// # Panics
    /// When `index` is not below [`documents`](Shard::documents).
    pub fn document(&self, index: u64) -> ShardDocument {
        assert!(
            index < self.documents(),
            "document {index} of {}",
            self.documents()
        );
        let (start, text_bytes) = self.row(index);
        let next = index + 1;
        let end = if next < self.documents() {
            self.row(next).0
        } else {
            self.tokens()
        };
        ShardDocument {
            tokens: start..end,
            text_bytes,
        }
    }

    /// The number of the document that holds token `token`.
    ///
    /// # Panics
    /// When `token` is not below [`tokens`](Shard::tokens).
    pub fn document_of(&self, token: u64) -> u64 {
        assert!(token < self.tokens(), "token {token} of {}", self.tokens());
        // The last document that starts at or before the token.
        let (mut low, mut high) = (0, self.documents());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.row(middle).0 <= token {
                low = middle
            } else {
                high = middle
            }
        }
        low
    }

    /// Appends the ids of `range` to `ids`.
    ///
    /// # Panics
    /// When the range ends past the last token.
    pub fn read(&self, range: Range<u64>, ids: &mut Vec<u32>) {
        assert!(
            range.start <= range.end && range.end <= self.tokens(),
            "tokens {range:?}"
        );
        let width = self.header.width.bytes() as usize;
        let first = HEADER_BYTES + range.start as usize * width;
        let last = HEADER_BYTES + range.end as usize * width;
        let bytes = &self.map[first..last];
        match self.header.width {
            TokenWidth::U16 => ids.extend(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| u32::from(u16::from_le_bytes(*b))),
            ),
            TokenWidth::U32 => ids.extend(
                bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| u32::from_le_bytes(*b)),
            ),
        }
    }

    /// Row `index` of the document table: its first token and its text's length in bytes.
    fn row(&self, index: u64) -> (u64, u64) {
        let at = self.table_at + (index * DOCUMENT_BYTES) as usize;
        (
            u64::from_le_bytes(field(&self.map, at)),
            u64::from_le_bytes(field(&self.map, at + 8)),
        )
    }
}

#[allow(unsafe_code)]
fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: a map is unsound to read only while its file is changed in place. Shards are written
    // to a temporary file and renamed when whole, and nothing here ever writes to one again.
    unsafe { Mmap::map(file) }
}

/// The 32 bytes of a fingerprint of 64 hexadecimal digits.
fn fingerprint_bytes(fingerprint: &str) -> Result<[u8; 32], ShardError> {
    let wrong = || ShardError::Fingerprint(fingerprint.to_string());
    if fingerprint.len() != 64 || !fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&fingerprint[2 * i..2 * i + 2], 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
