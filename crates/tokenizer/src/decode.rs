//! Ids to text, whole or one id at a time.

use std::sync::Arc;

use tokenizers::DecoderWrapper;

use crate::{Tokenizer, TokenizerError, bytes};

/// See [`Tokenizer::decode`].
pub(crate) fn whole(
    tokenizer: &Tokenizer,
    ids: &[u32],
    skip_special: bool,
) -> Result<String, TokenizerError> {
    if let Some(table) = tokenizer.byte_table() {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        for id in ids {
            table.push(tokenizer, *id, skip_special, &mut bytes)?;
        }
        // One pass when the bytes are sound, which they nearly always are.
        return Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()));
    }
    for id in ids {
        check(tokenizer, *id)?;
    }
    tokenizer
        .engine()
        .decode(ids, skip_special)
        .map_err(TokenizerError::engine)
}

fn check(tokenizer: &Tokenizer, id: u32) -> Result<(), TokenizerError> {
    match tokenizer.engine().id_to_token(id) {
        Some(_) => Ok(()),
        None => Err(TokenizerError::UnknownId {
            id,
            vocab_size: tokenizer.vocab_size(),
        }),
    }
}

/// The bytes of every token of a byte-level tokenizer, one after the other.
pub(crate) struct ByteTable {
    bytes: Vec<u8>,
    /// Where the bytes of each id end, and what kind of id it is.
    entries: Vec<(u32, Kind)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Special,
    /// A hole in the vocabulary.
    Missing,
}

impl ByteTable {
    /// The table, where the decoder is the byte-level one.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let engine = tokenizer.engine();
        if !matches!(engine.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return None;
        }
        let mut table = Self {
            bytes: Vec::new(),
            entries: Vec::new(),
        };
        for id in 0..tokenizer.vocab_size() as u32 {
            let kind = match engine.id_to_token(id) {
                Some(token) => {
                    bytes::push_token_bytes(&token, &mut table.bytes);
                    if engine.get_added_vocabulary().is_special_token(&token) {
                        Kind::Special
                    } else {
                        Kind::Ordinary
                    }
                }
                None => Kind::Missing,
            };
            let end = u32::try_from(table.bytes.len()).ok()?;
            table.entries.push((end, kind));
        }
        Some(table)
    }

    /// Appends the bytes of `id`.
    fn push(
        &self,
        tokenizer: &Tokenizer,
        id: u32,
        skip_special: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), TokenizerError> {
        let index = id as usize;
        let (end, kind) = self
            .entries
            .get(index)
            .copied()
            .unwrap_or((0, Kind::Missing));
        if kind == Kind::Missing {
            return Err(TokenizerError::UnknownId {
                id,
                vocab_size: tokenizer.vocab_size(),
            });
        }
        if !(skip_special && kind == Kind::Special) {
            let start = index
                .checked_sub(1)
                .map_or(0, |before| self.entries[before].0);
            out.extend_from_slice(&self.bytes[start as usize..end as usize]);
        }
        Ok(())
    }
}

/// Decodes a stream of ids. All that [`push`](Self::push) and [`finish`](Self::finish) return,
/// joined, is what [`Tokenizer::decode`] makes of the same ids at once; no piece ends inside a
/// character.
pub struct IncrementalDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    state: State,
}

enum State {
    /// Byte-level: bytes that may be the beginning of a character.
    Bytes(Arc<ByteTable>, Vec<u8>),
    /// Any other decoder is asked again for the last ids, since it may strip the space that
    /// begins a text or join tokens that together are one character.
    Window {
        /// `context` of these are already returned; they stand before the rest so that the rest
        /// does not begin a text.
        ids: Vec<u32>,
        context: usize,
        /// What the context alone decodes to.
        returned: String,
    },
}

impl IncrementalDecoder {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let state = match tokenizer.byte_table() {
            Some(table) => State::Bytes(Arc::clone(table), Vec::new()),
            None => State::Window {
                ids: Vec::new(),
                context: 0,
                returned: String::new(),
            },
        };
        Self {
            tokenizer,
            skip_special,
            state,
        }
    }

    /// Takes the next id and returns the text that is now certain, if there is any.
    ///
    /// # Errors
    /// An id that stands for no token; the decoder is then as it was before.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        let text = match &mut self.state {
            State::Bytes(table, pending) => {
                table.push(&self.tokenizer, id, self.skip_special, pending)?;
                take_certain(pending)
            }
            State::Window {
                ids,
                context,
                returned,
            } => {
                check(&self.tokenizer, id)?;
                if self.skip_special && self.tokenizer.is_special(id) {
                    return Ok(None);
                }
                ids.push(id);
                if is_byte(&self.tokenizer, id) {
                    // The decoder judges a run of byte tokens as one.
                    return Ok(None);
                }
                step_window(&self.tokenizer, ids, context, returned)?
            }
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// Ends the stream and returns what was held back; an unfinished character becomes U+FFFD.
    pub fn finish(self) -> String {
        match self.state {
            State::Bytes(_, pending) => String::from_utf8_lossy(&pending).into_owned(),
            State::Window { ids, returned, .. } => {
                // These ids were checked as they came, so decoding them cannot fail.
                let all = decode_window(&self.tokenizer, &ids).unwrap_or_default();
                all.strip_prefix(&returned).unwrap_or_default().to_owned()
            }
        }
    }
}

/// Takes the text from the front of `pending` that no later byte can change, in the manner of
/// [`String::from_utf8_lossy`].
fn take_certain(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    loop {
        match std::str::from_utf8(&pending[taken..]) {
            Ok(rest) => {
                text.push_str(rest);
                taken = pending.len();
                break;
            }
            Err(error) => {
                let sound = taken + error.valid_up_to();
                text.push_str(std::str::from_utf8(&pending[taken..sound]).expect("checked above"));
                taken = sound;
                // Without a length the bytes may yet become a character.
                let Some(length) = error.error_len() else {
                    break;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                taken += length;
            }
        }
    }
    pending.drain(..taken);
    text
}

fn decode_window(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, TokenizerError> {
    // Special tokens that are to be skipped never got into the window.
    tokenizer
        .engine()
        .decode(ids, false)
        .map_err(TokenizerError::engine)
}

/// Returns what the ids behind the context add, and makes them the context.
fn step_window(
    tokenizer: &Tokenizer,
    ids: &mut Vec<u32>,
    context: &mut usize,
    returned: &mut String,
) -> Result<String, TokenizerError> {
    let all = decode_window(tokenizer, ids)?;
    let Some(added) = all.strip_prefix(returned.as_str()) else {
        // A decoder that takes back what it said: wait for the end.
        return Ok(String::new());
    };
    if added.is_empty() || added.ends_with(char::REPLACEMENT_CHARACTER) {
        return Ok(String::new());
    }
    let added = added.to_owned();
    ids.drain(..*context);
    *context = ids.len();
    *returned = decode_window(tokenizer, ids)?;
    Ok(added)
}

/// Whether the token stands for one byte (`<0xE2>`) to a decoder with byte fallback.
fn is_byte(tokenizer: &Tokenizer, id: u32) -> bool {
    let falls_back = match tokenizer.engine().get_decoder() {
        Some(DecoderWrapper::ByteFallback(_)) => true,
        Some(DecoderWrapper::Sequence(sequence)) => sequence
            .get_decoders()
            .iter()
            .any(|decoder| matches!(decoder, DecoderWrapper::ByteFallback(_))),
        _ => false,
    };
    falls_back
        && tokenizer.engine().id_to_token(id).is_some_and(|token| {
            token.len() == 6
                && token.starts_with("<0x")
                && token.ends_with('>')
                && token
                    .get(3..5)
                    .is_some_and(|hex| u8::from_str_radix(hex, 16).is_ok())
        })
}
