//! The first 192 bytes of a token shard, to and from bytes. The format is described in
//! `docs/data-shards.md`; a change of meaning needs a new [`VERSION`].

use sha2::{Digest, Sha256};

/// The first bytes of every shard. The last two catch a file that went through a text-mode copy.
pub(super) const MAGIC: [u8; 8] = *b"ETUSHD\r\n";
/// The version of the format.
pub(super) const VERSION: u32 = 1;
/// The length of the header in bytes.
pub(super) const HEADER_BYTES: usize = 192;
/// The length of one row of the document table: the first token and the bytes of text.
pub(super) const DOCUMENT_BYTES: u64 = 16;
/// Where the header's own checksum begins; it covers everything before it.
const CHECKSUM_AT: usize = 160;

/// How a token id is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWidth {
    /// Two bytes, for vocabularies of at most 65,536.
    U16,
    /// Four bytes.
    U32,
}

impl TokenWidth {
    /// The narrowest width that holds every id of a vocabulary.
    pub fn for_vocab(vocab_size: usize) -> TokenWidth {
        if vocab_size <= 1 << 16 {
            TokenWidth::U16
        } else {
            TokenWidth::U32
        }
    }

    /// Bytes per token.
    pub fn bytes(self) -> u64 {
        match self {
            TokenWidth::U16 => 2,
            TokenWidth::U32 => 4,
        }
    }
}

/// Everything a shard says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: TokenWidth,
    pub(super) tokens: u64,
    pub(super) documents: u64,
    pub(super) text_bytes: u64,
    /// One more than the largest id in the shard; 0 when there are no tokens.
    pub(super) id_bound: u64,
    pub(super) tokenizer: [u8; 32],
    pub(super) payload: [u8; 32],
}

/// Why some bytes are no header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Foreign,
    Version(u32),
    Torn(String),
}

impl Header {
    pub(super) fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.width.bytes() as u32).to_le_bytes());
        for number in [self.tokens, self.documents, self.text_bytes, self.id_bound] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.tokenizer);
        bytes.extend(self.payload);
        bytes.resize(CHECKSUM_AT, 0);
        let checksum = Sha256::digest(&bytes);
        bytes.extend(checksum);
        bytes
            .try_into()
            .expect("the fields and the checksum fill the header")
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Header, HeaderError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(HeaderError::Foreign);
        }
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            let text = format!("it ends after {} bytes, inside its header", bytes.len());
            return Err(HeaderError::Torn(text));
        };
        let version = u32::from_le_bytes(field(bytes, 8));
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if Sha256::digest(&bytes[..CHECKSUM_AT])[..] != bytes[CHECKSUM_AT..] {
            return Err(HeaderError::Torn(
                "the header's checksum does not match".into(),
            ));
        }
        let width = match u32::from_le_bytes(field(bytes, 12)) {
            2 => TokenWidth::U16,
            4 => TokenWidth::U32,
            other => {
                return Err(HeaderError::Torn(format!(
                    "tokens of {other} bytes do not exist"
                )));
            }
        };
        Ok(Header {
            width,
            tokens: u64::from_le_bytes(field(bytes, 16)),
            documents: u64::from_le_bytes(field(bytes, 24)),
            text_bytes: u64::from_le_bytes(field(bytes, 32)),
            id_bound: u64::from_le_bytes(field(bytes, 40)),
            tokenizer: field(bytes, 48),
            payload: field(bytes, 80),
        })
    }

    /// Where the document table begins: after the tokens, at a multiple of 8.
    pub(super) fn table_at(&self) -> Option<u64> {
        let tokens = self.tokens.checked_mul(self.width.bytes())?;
        tokens
            .checked_add(HEADER_BYTES as u64)?
            .checked_next_multiple_of(8)
    }

    /// The length that the whole file must have.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        self.table_at()?
            .checked_add(self.documents.checked_mul(DOCUMENT_BYTES)?)
    }
}

/// The `N` bytes at `at`.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            width: TokenWidth::U32,
            tokens: 3,
            documents: 2,
            text_bytes: 11,
            id_bound: 70_000,
            tokenizer: [7; 32],
            payload: [9; 32],
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        assert_eq!(Header::from_bytes(&header().to_bytes()), Ok(header()));
        assert_eq!(header().table_at(), Some(208));
        assert_eq!(header().file_bytes(), Some(240));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let good = header().to_bytes();
        for at in 0..HEADER_BYTES {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = good;
                bytes[at] ^= change;
                assert!(Header::from_bytes(&bytes).is_err(), "byte {at}");
            }
        }
        for length in 0..HEADER_BYTES {
            assert!(
                Header::from_bytes(&good[..length]).is_err(),
                "length {length}"
            );
        }
    }

    #[test]
    fn sizes_that_overflow_are_no_size() {
        let huge = Header {
            tokens: u64::MAX / 2,
            ..header()
        };
        assert_eq!(huge.file_bytes(), None);
        let huge = Header {
            documents: u64::MAX / 2,
            ..header()
        };
        assert_eq!(huge.file_bytes(), None);
    }
}
