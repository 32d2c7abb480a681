//! Whether the quotes of a table are closed. The parser takes what stands behind a closing quote as part of the cell,
//! and a quote that is never closed as the beginning of a very long one, so that rows would vanish in it without a
//! word. What is refused is what Python's `csv` refuses with `strict=True`: a quoted cell that does not end, and one
//! whose closing quote has something else than a separator or the end of the line behind it. A quote within a cell
//! that is not quoted is text.

use std::io::{self, Read};
use std::path::Path;

use crate::error::DataError;

const ALL_TEXT: &str = "where every quote of the file is text, set `unquoted = true` in [task.local], [data.local] or a manifest's [read]";

/// The byte-order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a cell.
    Start,
    /// In one without quotes.
    Plain,
    /// In a quoted one.
    Quoted,
    /// Behind a quote in a quoted one: its end, or the first of two.
    Closed,
}

/// Follows the quotes of a table, a piece at a time.
pub(super) struct Quotes {
    delimiter: u8,
    state: State,
    line: u64,
    /// Where the last quoted cell began.
    opened: u64,
    /// Bytes of a byte-order mark that are still to come; it opens no cell.
    mark: usize,
    fault: Option<Fault>,
}

/// A quote that is not closed as it should be.
#[derive(Clone, Copy)]
pub(super) struct Fault {
    opened: u64,
    /// The line of the quote that seems to close it, with the first byte behind it.
    closed: Option<(u64, u8)>,
}

impl Fault {
    pub(super) fn told(self, path: &Path) -> DataError {
        let Self { opened, closed } = self;
        let Some((line, byte)) = closed else {
            return DataError::at_line(
                path,
                opened,
                "the quote opened here is never closed",
                format!("close it, or double quotes that belong to the text; {ALL_TEXT}"),
            );
        };
        let behind = match byte {
            b' ' => "a blank".to_owned(),
            0x21..=0x7e => format!("`{}`", char::from(byte)),
            _ => "more text".to_owned(),
        };
        let remedy = match byte {
            b';' | b',' | b'\t' | b'|' => {
                "separate the cells by commas in .csv and by tabs in .tsv files; a quote closes at the end of its cell"
                    .to_owned()
            }
            _ => format!(
                "close it at the end of its cell, and double quotes that belong to the text; {ALL_TEXT}"
            ),
        };
        let place = match line == opened {
            true => String::new(),
            false => format!(" in line {line}"),
        };
        DataError::at_line(
            path,
            opened,
            format!("the quote opened here is closed{place} by one with {behind} behind it"),
            remedy,
        )
    }
}

impl Quotes {
    /// For a table that begins with `start`.
    pub(super) fn new(delimiter: u8, start: &[u8]) -> Self {
        Self {
            delimiter,
            state: State::Start,
            line: 1,
            opened: 0,
            mark: if start.starts_with(MARK) {
                MARK.len()
            } else {
                0
            },
            fault: None,
        }
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Goes on with a piece of the table; false at the first fault.
    fn follow(&mut self, piece: &[u8]) -> bool {
        let (mark, piece) = piece.split_at(self.mark.min(piece.len()));
        self.mark -= mark.len();
        for &byte in piece {
            self.state = match (self.state, byte) {
                (State::Quoted, b'"') => State::Closed,
                (State::Quoted, _) => State::Quoted,
                (State::Closed, b'"') => State::Quoted,
                (State::Start, b'"') => {
                    self.opened = self.line;
                    State::Quoted
                }
                (_, b'\n' | b'\r') => State::Start,
                (_, byte) if byte == self.delimiter => State::Start,
                (State::Closed, byte) => {
                    self.fault = Some(Fault {
                        opened: self.opened,
                        closed: Some((self.line, byte)),
                    });
                    return false;
                }
                _ => State::Plain,
            };
            self.line += u64::from(byte == b'\n');
        }
        true
    }

    /// Ends the table.
    fn end(&mut self) -> bool {
        if self.state == State::Quoted {
            self.fault = Some(Fault {
                opened: self.opened,
                closed: None,
            });
        }
        self.fault.is_none()
    }
}

/// A table whose quotes are followed as it is read. Reading ends with an error at the first fault.
pub(super) struct Watched<R> {
    inner: R,
    quotes: Quotes,
}

impl<R> Watched<R> {
    pub(super) fn new(inner: R, quotes: Quotes) -> Self {
        Self { inner, quotes }
    }

    pub(super) fn quotes(&self) -> &Quotes {
        &self.quotes
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        let fine = match length {
            0 if !buffer.is_empty() => self.quotes.end(),
            _ => self.quotes.follow(&buffer[..length]),
        };
        match fine {
            true => Ok(length),
            false => Err(io::Error::other("a quote is not closed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fault of a table, read in pieces of `size` bytes.
    fn fault(table: &str, size: usize) -> Option<String> {
        let mut quotes = Quotes::new(b',', table.as_bytes());
        let fine = table
            .as_bytes()
            .chunks(size)
            .all(|piece| quotes.follow(piece))
            && quotes.end();
        assert_eq!(fine, quotes.fault().is_none());
        let told = quotes.fault()?.told(Path::new("x.csv")).to_string();
        Some(told)
    }

    #[test]
    fn what_is_legal_is_not_refused() {
        for table in [
            "a,b\n\"x, y\",\"two\nlines and \"\"quotes\"\"\"\n",
            "a,b\r\n\"x\",\"\"\r\n\"\"\"\",y",
            "\u{feff}\"a\",b\nx,y\n",
            // A quote that opens no cell is text.
            "a,b\n5\" disk, \"said\" he\n",
            "a\rb\r\"c\"\r",
            "",
        ] {
            for size in [1, 2, 100] {
                assert_eq!(fault(table, size), None, "{table}");
            }
        }
    }

    #[test]
    fn what_is_not_closed_is_told_by_the_line_it_was_opened_in() {
        for (table, expected) in [
            (
                "a,b\n1,\"x\n2,y\n3,z\n",
                "x.csv:2: the quote opened here is never closed: ",
            ),
            ("\u{feff}\"a,b\n", "x.csv:1: the quote opened here is never"),
            (
                "a,b\n1,\"x\n2,y\n\"3\",z\n",
                "x.csv:2: the quote opened here is closed in line 4 by one with `3` behind it: ",
            ),
            (
                "a,b\n\"1\" 2,z\n",
                "x.csv:2: the quote opened here is closed by one with a blank behind it: ",
            ),
        ] {
            for size in [1, 3, 100] {
                let told = fault(table, size).unwrap();
                assert!(told.starts_with(expected), "{told}");
            }
        }
    }
}
