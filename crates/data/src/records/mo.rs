//! Gettext catalogues (`.mo`): a header of five numbers, two tables of lengths and offsets, and texts
//! that end in a zero byte (GNU gettext manual, "The Format of GNU MO Files"). The file is not trusted:
//! every number is compared with its size first.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Record, Sink};
use crate::error::DataError;

const MAGIC: u32 = 0x9504_12de;
const REMEDY: &str = "the catalogue is damaged or none; fetch it again";

/// Pushes every message but the header: `source`, `translation` and, where there is one, `context`.
/// Of a message with plural forms the singular is taken.
pub(super) fn messages(path: &Path, sink: &mut Sink<'_>) -> Result<bool, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    let catalogue =
        Catalogue::open(&bytes).map_err(|what| DataError::in_file(path, what, REMEDY))?;
    let mut sent = 0;
    for index in 0..catalogue.count {
        let number = index as u64 + 1;
        let (source, translation) = catalogue
            .message(index)
            .map_err(|what| DataError::at_line(path, number, what, REMEDY))?;
        let (context, source) = match source.split_once('\u{4}') {
            Some((context, source)) => (context, source),
            None => ("", source),
        };
        // The message without a text is the catalogue's header.
        if source.is_empty() {
            continue;
        }
        sent += 1;
        let fields = [
            ("context", context),
            ("source", source),
            ("translation", translation),
        ];
        let value: Map<String, Value> = fields
            .into_iter()
            .map(|(name, text)| (name.to_string(), Value::from(text)))
            .collect();
        if !sink(Record {
            value: Value::Object(value),
            root: None,
            key: None,
            index: sent,
            line: number,
        })? {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Catalogue<'a> {
    bytes: &'a [u8],
    swapped: bool,
    count: usize,
    sources: usize,
    translations: usize,
}

impl<'a> Catalogue<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut catalogue = Self {
            bytes,
            swapped: false,
            count: 0,
            sources: 0,
            translations: 0,
        };
        match catalogue.number(0)? {
            MAGIC => {}
            other if other.swap_bytes() == MAGIC => catalogue.swapped = true,
            _ => return Err("not a gettext catalogue".to_string()),
        }
        let revision = catalogue.number(4)?;
        if revision >> 16 > 1 {
            return Err(format!(
                "revision {} of the format is unknown",
                revision >> 16
            ));
        }
        catalogue.count = catalogue.size(8)?;
        catalogue.sources = catalogue.size(12)?;
        catalogue.translations = catalogue.size(16)?;
        for table in [catalogue.sources, catalogue.translations] {
            let end = catalogue
                .count
                .checked_mul(8)
                .and_then(|n| n.checked_add(table));
            if end.is_none_or(|end| end > bytes.len()) {
                return Err(format!(
                    "its {} messages do not fit into the file",
                    catalogue.count
                ));
            }
        }
        Ok(catalogue)
    }

    /// The four bytes at `at` as a number.
    fn number(&self, at: usize) -> Result<u32, String> {
        let four = at
            .checked_add(4)
            .and_then(|end| self.bytes.get(at..end))
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| format!("the file ends before byte {}", at.saturating_add(4)))?;
        let number = u32::from_le_bytes(four);
        Ok(if self.swapped {
            number.swap_bytes()
        } else {
            number
        })
    }

    fn size(&self, at: usize) -> Result<usize, String> {
        let number = self.number(at)?;
        usize::try_from(number).map_err(|_| format!("{number} is too large"))
    }

    /// A message's text and translation.
    fn message(&self, index: usize) -> Result<(&'a str, &'a str), String> {
        Ok((
            self.text(self.sources + index * 8)?,
            self.text(self.translations + index * 8)?,
        ))
    }

    /// The text whose length and offset stand at `entry`: its first form, if it has several.
    fn text(&self, entry: usize) -> Result<&'a str, String> {
        let (length, offset) = (self.size(entry)?, self.size(entry + 4)?);
        let bytes = offset
            .checked_add(length)
            .and_then(|end| self.bytes.get(offset..end))
            .ok_or_else(|| format!("{length} bytes at {offset} lie outside of the file"))?;
        let first = bytes.split(|&b| b == 0).next().unwrap_or_default();
        std::str::from_utf8(first).map_err(|_| format!("the text at {offset} is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A catalogue as msgfmt lays it out.
    fn mo(messages: &[(&str, &str)], number: fn(u32) -> [u8; 4]) -> Vec<u8> {
        let count = messages.len() as u32;
        let (sources, translations) = (28, 28 + 8 * count);
        let mut bytes = Vec::new();
        for value in [MAGIC, 0, count, sources, translations, 0, 0] {
            bytes.extend(number(value));
        }
        let mut at = 28 + 16 * count;
        let mut texts = Vec::new();
        for side in [0, 1] {
            for message in messages {
                let text = if side == 0 { message.0 } else { message.1 };
                bytes.extend(number(text.len() as u32));
                bytes.extend(number(at));
                texts.extend(text.bytes().chain([0]));
                at += text.len() as u32 + 1;
            }
        }
        bytes.extend(texts);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Value>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let mut all = Vec::new();
        let outcome = messages(file.path(), &mut |record| {
            all.push(record.value);
            Ok(true)
        });
        outcome.map(|_| all).map_err(|error| error.to_string())
    }

    const MESSAGES: &[(&str, &str)] = &[
        ("", "Content-Type: text/plain; charset=UTF-8\n"),
        ("menu\u{4}Open", "Öffnen"),
        ("one orc\0%d orcs", "ein Ork\0%d Orks"),
    ];

    #[test]
    fn catalogues_of_both_byte_orders_are_read() {
        for number in [u32::to_le_bytes as fn(u32) -> [u8; 4], u32::to_be_bytes] {
            let all = read(&mo(MESSAGES, number)).unwrap();
            assert_eq!(all.len(), 2);
            assert_eq!(
                (
                    &all[0]["context"],
                    &all[0]["source"],
                    &all[0]["translation"]
                ),
                (&"menu".into(), &"Open".into(), &"Öffnen".into())
            );
            assert_eq!(all[1]["source"], "one orc");
            assert_eq!(all[1]["translation"], "ein Ork");
        }
    }

    #[test]
    fn lies_are_refused() {
        let good = mo(MESSAGES, u32::to_le_bytes);
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            read(&bytes).unwrap_err()
        };
        assert!(read(b"").unwrap_err().contains("ends before byte 4"));
        assert!(with(0, 7).contains("not a gettext catalogue"));
        assert!(with(4, 2 << 16).contains("revision 2"));
        assert!(with(8, u32::MAX).contains("do not fit"));
        assert!(with(12, u32::MAX).contains("do not fit"));
        assert!(with(36, 1 << 30).contains("outside of the file"));
        assert!(with(40, u32::MAX).contains("outside of the file"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            changes in proptest::collection::vec((0usize..200, any::<u8>()), 1..6),
        ) {
            let _ = read(&bytes);
            let mut damaged = mo(MESSAGES, u32::to_le_bytes);
            for (at, byte) in changes {
                let at = at % damaged.len();
                damaged[at] = byte;
            }
            let _ = read(&damaged);
        }
    }
}
