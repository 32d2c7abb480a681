//! A place in the file's bytes that moves on as numbers and texts are read, and never past the end.

use std::path::Path;

use super::error::GgufError;

/// The longest key or name; the format's own limit.
const MAX_NAME: u64 = 65_535;

/// Reads a file's header from front to back.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    /// How far it has read, in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The bytes that are left.
    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `length` bytes, which belong to `field`.
    pub(super) fn take(&mut self, length: u64, field: &str) -> Result<&'a [u8], GgufError> {
        let left = self.left();
        if length > left {
            let reason = format!(
                "at byte {} needs {length} bytes and the file has {left} more: it is cut or damaged",
                self.at
            );
            return Err(GgufError::field(self.path, field, reason));
        }
        let start = self.at;
        self.at += length as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], GgufError> {
        let bytes = self.take(N as u64, field)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    pub(super) fn u8(&mut self, field: &str) -> Result<u8, GgufError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(super) fn u16(&mut self, field: &str) -> Result<u16, GgufError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A text: its length, then UTF-8.
    pub(super) fn text(&mut self, field: &str) -> Result<&'a str, GgufError> {
        let length = self.u64(field)?;
        let bytes = self.take(length, field)?;
        std::str::from_utf8(bytes)
            .map_err(|_| GgufError::field(self.path, field, "holds text that is not UTF-8"))
    }

    /// A key or a tensor's name.
    pub(super) fn name(&mut self, field: &str) -> Result<&'a str, GgufError> {
        let text = self.text(field)?;
        if text.is_empty() || text.len() as u64 > MAX_NAME {
            let reason = format!("is {} bytes long; 1 to {MAX_NAME} are allowed", text.len());
            return Err(GgufError::field(self.path, field, reason));
        }
        Ok(text)
    }
}
