//! Writing a shard: documents are appended one by one to a temporary file, which takes the shard's
//! name only when it is whole and on the disk.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::header::{HEADER_BYTES, Header, TokenWidth};
use super::{Shard, ShardError, fingerprint_bytes};

/// Appends documents to a new shard. Dropped before [`finish`](ShardWriter::finish), it leaves
/// nothing behind.
#[derive(Debug)]
pub struct ShardWriter {
    path: PathBuf,
    folder: PathBuf,
    file: BufWriter<NamedTempFile>,
    vocab_size: usize,
    header: Header,
    /// The first token and the bytes of text of each document, as they will stand in the file.
    table: Vec<u8>,
    payload: Sha256,
    scratch: Vec<u8>,
}

impl ShardWriter {
    /// Begins the shard `path` for ids of the tokenizer with this fingerprint and vocabulary size.
    /// Missing folders are made.
    ///
    /// # Errors
    /// When the fingerprint is not 64 hexadecimal digits or the folder cannot be written.
    pub fn create(
        path: &Path,
        fingerprint: &str,
        vocab_size: usize,
    ) -> Result<ShardWriter, ShardError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let tokenizer = fingerprint_bytes(fingerprint)?;
        let file = std::fs::create_dir_all(&folder)
            .and_then(|()| temporary().tempfile_in(&folder))
            .and_then(|mut file| file.write_all(&[0; HEADER_BYTES]).map(|()| file))
            .map_err(|e| ShardError::io("cannot create", path, e))?;
        let header = Header {
            width: TokenWidth::for_vocab(vocab_size),
            tokens: 0,
            documents: 0,
            text_bytes: 0,
            id_bound: 0,
            tokenizer,
            payload: [0; 32],
        };
        Ok(ShardWriter {
            path: path.to_path_buf(),
            folder,
            file: BufWriter::with_capacity(1 << 20, file),
            vocab_size,
            header,
            table: Vec::new(),
            payload: Sha256::new(),
            scratch: Vec::new(),
        })
    }

    /// Appends one document: its ids, with the separator that ends it, and the length of its text.
    ///
    /// # Errors
    /// When an id is not below the vocabulary size, or the disk is full.
    pub fn push(&mut self, ids: &[u32], text_bytes: u64) -> Result<(), ShardError> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(ShardError::Id {
                path: self.path.clone(),
                id,
                vocab_size: self.vocab_size,
            });
        }
        self.scratch.clear();
        match self.header.width {
            TokenWidth::U16 => {
                self.scratch
                    .extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes()));
            }
            TokenWidth::U32 => self
                .scratch
                .extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
        self.payload.update(&self.scratch);
        self.file
            .write_all(&self.scratch)
            .map_err(|e| ShardError::io("cannot write", &self.path, e))?;
        self.table.extend(self.header.tokens.to_le_bytes());
        self.table.extend(text_bytes.to_le_bytes());
        let bound = ids.iter().max().map_or(0, |&id| u64::from(id) + 1);
        self.header.id_bound = self.header.id_bound.max(bound);
        self.header.tokens += ids.len() as u64;
        self.header.documents += 1;
        self.header.text_bytes += text_bytes;
        Ok(())
    }

    /// Tokens written so far.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Puts the shard on the disk under its name, in one step, and opens it.
    ///
    /// # Errors
    /// When the disk is full or the folder cannot be written; then no file of that name appears.
    pub fn finish(mut self) -> Result<Shard, ShardError> {
        self.complete()
            .map_err(|e| ShardError::io("cannot write", &self.path, e))?;
        let (path, folder) = (self.path, self.folder);
        let failed = |e| ShardError::io("cannot write", &path, e);
        let file = self.file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        sync_folder(&folder).map_err(failed)?;
        Shard::open(&path)
    }

    /// Writes the padding, the document table and, last, the header.
    fn complete(&mut self) -> io::Result<()> {
        let table_at = self.header.table_at().ok_or(io::ErrorKind::FileTooLarge)?;
        let written = HEADER_BYTES as u64 + self.header.tokens * self.header.width.bytes();
        let padding = [0; 8];
        let padding = &padding[..(table_at - written) as usize];
        self.payload.update(padding);
        self.payload.update(&self.table);
        self.file.write_all(padding)?;
        self.file.write_all(&self.table)?;
        self.header.payload = std::mem::take(&mut self.payload).finalize().into();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.header.to_bytes())?;
        self.file.flush()
    }
}

/// A file that becomes readable for whom the umask says, like any other; by default a temporary one is its
/// owner's alone.
fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".shard-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// Makes a rename last through a power cut. Systems that cannot open folders keep it anyway.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}
