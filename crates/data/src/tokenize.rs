//! Documents to token shards, kept in a cache folder.
//!
//! A shard's name holds a hash of everything its content depends on: the tokenizer, the separator and
//! the documents' text. So a second run finds the shard that the first one made, and a changed text
//! or tokenizer makes a new one beside it. Reading a shard is left to `shard` and `stream`.

use std::borrow::Borrow;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use etude_tokenizer::Tokenizer;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::documents::Document;
use crate::shard::{Shard, ShardError, ShardWriter, hex};

/// Text held in memory at once; enough for every core to have several documents.
const BATCH_BYTES: usize = 8 << 20;
/// Cached shards up to this size are read through and compared with their checksum at every run;
/// of larger ones only the header, the length and the document table are checked.
const VERIFY_BYTES: u64 = 1 << 30;

/// Where a shard is kept and how documents are ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizeSettings {
    /// The folder of the shards; made if missing.
    pub cache: PathBuf,
    /// The first part of the file's name, for people: the data set and the split.
    pub name: String,
    /// The token that ends every document.
    pub separator: u32,
}

/// How far tokenizing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenizeProgress {
    /// Documents done.
    pub documents: u64,
    /// Bytes of text done.
    pub bytes: u64,
    /// Tokens made, separators included.
    pub tokens: u64,
}

/// A shard and how it was come by.
#[derive(Debug)]
pub struct Tokenized {
    /// The shard.
    pub shard: Shard,
    /// Documents without any text, which were left out.
    pub empty: u64,
    /// Whether the shard of an earlier run was used.
    pub cached: bool,
}

/// Tokenizes documents into a shard, or finds the shard of an earlier run.
///
/// `documents` is called once to hash the text and, if there is no shard of it yet, once more to
/// encode it; so memory stays bounded however long the text is. Documents are encoded in parallel
/// and written in order, each followed by the separator. Several processes may do this at once: one
/// works, the others wait for its shard.
///
/// # Errors
/// When reading a document fails, there is no text at all, the separator is not in the vocabulary,
/// the cache folder cannot be written, or the cached shard is damaged (it is named, never replaced).
pub fn tokenize<I, D, E>(
    tokenizer: &Tokenizer,
    documents: impl Fn() -> Result<I>,
    settings: &TokenizeSettings,
    progress: &mut dyn FnMut(TokenizeProgress),
) -> Result<Tokenized>
where
    I: Iterator<Item = Result<D, E>>,
    D: Borrow<Document>,
    E: Into<anyhow::Error>,
{
    let vocab_size = tokenizer.vocab_size();
    ensure!(
        (settings.separator as usize) < vocab_size,
        "the separator {} is outside the tokenizer's vocabulary of {vocab_size}; give the id of its end token",
        settings.separator
    );
    let fingerprint = tokenizer.fingerprint();
    let (digest, empty) = hash(documents()?, &fingerprint, settings.separator)?;
    let path = settings.cache.join(format!(
        "{}-{}.tokens",
        file_name(&settings.name),
        &digest[..16]
    ));

    let _lock = lock(&path)?;
    if path
        .try_exists()
        .with_context(|| format!("cannot look for {}", path.display()))?
    {
        let shard = open_cached(&path, &fingerprint)?;
        return Ok(Tokenized {
            shard,
            empty,
            cached: true,
        });
    }
    let mut writer = ShardWriter::create(&path, &fingerprint, vocab_size)?;
    let mut done = TokenizeProgress::default();
    let mut batches = Batches {
        documents: documents()?,
        failed: false,
    };
    while let Some(batch) = batches.next().transpose()? {
        write_batch(
            tokenizer,
            settings.separator,
            &batch,
            &mut writer,
            &mut done,
        )?;
        progress(done);
    }
    Ok(Tokenized {
        shard: writer.finish()?,
        empty,
        cached: false,
    })
}

/// The bytes of text that each token id stands for, for tokenizers that spell bytes one character
/// each (all byte-level BPE, so every tokenizer trained here); the separator stands for none. For
/// other tokenizers the numbers are wrong, and [`ValidationWindows`](crate::ValidationWindows) finds
/// that out and does without.
pub fn token_byte_lengths(tokenizer: &Tokenizer, separator: u32) -> Vec<u32> {
    let length = |id: u32| {
        tokenizer
            .id_to_token(id)
            .map_or(0, |token| token.chars().count() as u32)
    };
    let ids = 0..tokenizer.vocab_size() as u32;
    ids.map(|id| if id == separator { 0 } else { length(id) })
        .collect()
}

/// Encodes a batch on all cores and appends it in order.
fn write_batch<D: Borrow<Document>>(
    tokenizer: &Tokenizer,
    separator: u32,
    batch: &[D],
    writer: &mut ShardWriter,
    done: &mut TokenizeProgress,
) -> Result<()> {
    let documents: Vec<&Document> = batch.iter().map(Borrow::borrow).collect();
    let encode = |document: &&Document| {
        let ids = tokenizer.encode(&document.text);
        let mut ids = ids.with_context(|| format!("cannot encode {}", document.source))?;
        ids.push(separator);
        Ok(ids)
    };
    let encoded: Vec<Vec<u32>> = documents.par_iter().map(encode).collect::<Result<_>>()?;
    for (document, ids) in documents.iter().zip(encoded) {
        writer.push(&ids, document.text.len() as u64)?;
        done.documents += 1;
        done.bytes += document.text.len() as u64;
        done.tokens += ids.len() as u64;
    }
    Ok(())
}

/// The hash of everything that a shard's content depends on, and the number of empty documents.
fn hash<D, E>(
    documents: impl Iterator<Item = Result<D, E>>,
    fingerprint: &str,
    separator: u32,
) -> Result<(String, u64)>
where
    D: Borrow<Document>,
    E: Into<anyhow::Error>,
{
    let mut hasher = Sha256::new();
    hasher.update(b"etude token shard 1\n");
    hasher.update(fingerprint.as_bytes());
    hasher.update(separator.to_le_bytes());
    let (mut empty, mut full) = (0, 0u64);
    for document in documents {
        let document = document.map_err(Into::into)?;
        let text = &document.borrow().text;
        if text.is_empty() {
            empty += 1;
            continue;
        }
        full += 1;
        // With its length, so that no two lists of documents give the same bytes.
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    if full == 0 {
        bail!(
            "there is no text to tokenize: {empty} documents, all of them empty; check the data's path and its field mapping"
        );
    }
    Ok((hex(&hasher.finalize()), empty))
}

/// Waits until no other process makes this shard. The lock goes with the file handle; the lock file
/// stays, since removing it would let two processes lock two files of one name.
fn lock(path: &Path) -> Result<File> {
    let lock = path.with_extension("lock");
    let action = || {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let file = File::options().create(true).append(true).open(&lock)?;
        file.lock().map(|()| file)
    };
    action().with_context(|| {
        format!(
            "cannot lock {}; give a cache folder that can be written",
            lock.display()
        )
    })
}

/// Opens a shard of the cache: of this tokenizer, and undamaged.
///
/// # Errors
/// When it is not; or cannot be read.
pub fn open_cached(path: &Path, fingerprint: &str) -> Result<Shard, ShardError> {
    let shard = Shard::open(path)?;
    shard.check_tokenizer(fingerprint)?;
    if shard.tokens() * shard.width().bytes() <= VERIFY_BYTES {
        shard.verify()?;
    }
    Ok(shard)
}

/// The name with everything that a file name should not hold turned into `-`.
fn file_name(name: &str) -> String {
    let safe = |c: char| {
        if c.is_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    name.chars().map(safe).collect()
}

/// Full documents, in batches of about [`BATCH_BYTES`]; ends after the first error.
struct Batches<I> {
    documents: I,
    failed: bool,
}

impl<I, D, E> Iterator for Batches<I>
where
    I: Iterator<Item = Result<D, E>>,
    D: Borrow<Document>,
    E: Into<anyhow::Error>,
{
    type Item = Result<Vec<D>>;

    fn next(&mut self) -> Option<Result<Vec<D>>> {
        if self.failed {
            return None;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            match self.documents.next() {
                Some(Ok(document)) => {
                    let length = document.borrow().text.len();
                    if length > 0 {
                        bytes += length;
                        batch.push(document);
                    }
                }
                Some(Err(error)) => {
                    self.failed = true;
                    return Some(Err(error.into()));
                }
                None => break,
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

#[cfg(test)]
mod tests;
