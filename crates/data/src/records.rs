//! Reads files into records: one JSON object each, whatever the format. A reader pushes records into
//! a sink and stops when the sink says so. What a record means is left to `mapping`.

mod exact;
mod json;
mod mo;
mod table;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::DataError;
use crate::manifest::{Boundary, Format, Read};

/// One record as read.
pub(crate) struct Record {
    /// An object of fields.
    pub(crate) value: Value,
    /// The whole file, for formats whose records refer to it.
    pub(crate) root: Option<Arc<Value>>,
    /// The record's name in a map of records.
    pub(crate) key: Option<String>,
    /// The record's number in its file, from 1.
    pub(crate) index: u64,
    /// The line it starts at, or its number where the format has no lines.
    pub(crate) line: u64,
}

/// Takes a record; false stops the reading.
pub(crate) type Sink<'a> = dyn FnMut(Record) -> Result<bool, DataError> + 'a;

/// Reads all records of a file. Answers false if the sink stopped it.
pub(crate) fn read_file(path: &Path, read: &Read, sink: &mut Sink<'_>) -> Result<bool, DataError> {
    match read.format {
        Format::Text => text(path, read, sink),
        Format::Jsonl => jsonl(path, sink),
        Format::Json => json::records(path, &read.records, sink),
        Format::Leaves => json::leaves(path, read, sink),
        Format::Mo => mo::messages(path, sink),
        Format::Csv => table::rows(path, b',', read, sink),
        Format::Tsv => table::rows(path, b'\t', read, sink),
    }
}

/// Reads a UTF-8 text file.
///
/// # Errors
/// Names the line and the byte offset of what is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    check_encoding(path, &bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + count_lines(&bytes[..at]);
        not_utf8(path, line, bytes[at], at as u64)
    })
}

const SAVE_AS_UTF8: &str =
    "save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`";

fn not_utf8(path: &Path, line: u64, byte: u8, offset: u64) -> DataError {
    let what = format!("byte 0x{byte:02X} at offset {offset} is not UTF-8");
    DataError::at_line(path, line, what, SAVE_AS_UTF8)
}

/// Refuses a file that begins with the mark of UTF-16.
fn check_encoding(path: &Path, start: &[u8]) -> Result<(), DataError> {
    if !start.starts_with(b"\xff\xfe") && !start.starts_with(b"\xfe\xff") {
        return Ok(());
    }
    let what = format!(
        "the file begins with the bytes 0x{:02X} 0x{:02X}, so it is UTF-16",
        start[0], start[1]
    );
    let remedy = "save the file as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`";
    Err(DataError::at_line(path, 1, what, remedy))
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
}

fn text(path: &Path, read: &Read, sink: &mut Sink<'_>) -> Result<bool, DataError> {
    let text = read_text(path)?;
    let mut index = 0;
    let mut send = |text: &str, line: u64| {
        index += 1;
        let value = Value::Object(Map::from_iter([("text".to_string(), Value::from(text))]));
        sink(Record {
            value,
            root: None,
            key: None,
            index,
            line,
        })
    };
    match read.documents {
        Boundary::File | Boundary::Joined => send(&text, 1),
        Boundary::Line => {
            for (number, line) in text.lines().enumerate() {
                if !line.trim().is_empty() && !send(line, number as u64 + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Boundary::BlankLines => {
            // The byte range and first line of the paragraph being read.
            let mut open: Option<(usize, usize, u64)> = None;
            let mut offset = 0;
            for (number, line) in text.split_inclusive('\n').enumerate() {
                if line.trim().is_empty() {
                    if let Some((start, end, first)) = open.take()
                        && !send(text[start..end].trim_end(), first)?
                    {
                        return Ok(false);
                    }
                } else {
                    let (start, _, first) = open.unwrap_or((offset, offset, number as u64 + 1));
                    open = Some((start, offset + line.len(), first));
                }
                offset += line.len();
            }
            open.map_or(Ok(true), |(start, end, first)| {
                send(text[start..end].trim_end(), first)
            })
        }
    }
}

fn jsonl(path: &Path, sink: &mut Sink<'_>) -> Result<bool, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut bytes = Vec::new();
    let (mut line, mut index, mut offset) = (0, 0, 0);
    loop {
        bytes.clear();
        let length = reader
            .read_until(b'\n', &mut bytes)
            .map_err(DataError::io("read", path))?;
        if length == 0 {
            return Ok(true);
        }
        line += 1;
        if line == 1 {
            check_encoding(path, &bytes)?;
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let at = error.valid_up_to();
            not_utf8(path, line, bytes[at], offset + at as u64)
        })?;
        offset += length as u64;
        let text = if line == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        if text.trim().is_empty() {
            continue;
        }
        index += 1;
        let value = json::line_value(path, line, text.trim_end_matches(['\n', '\r']))?;
        if !value.is_object() {
            let remedy = "write one object a line, such as {\"text\": \"…\"}";
            return Err(DataError::at_line(
                path,
                line,
                "the line is JSON but not an object",
                remedy,
            ));
        }
        if !sink(Record {
            value,
            root: None,
            key: None,
            index,
            line,
        })? {
            return Ok(false);
        }
    }
}
