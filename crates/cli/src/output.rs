//! What goes to stdout: results, as text or as one JSON object. A reader that has gone (`| head`) is no
//! failure; a full disk is.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;

/// Standard output could not be written.
#[derive(Debug)]
pub(crate) struct OutputError(io::Error);

impl OutputError {
    /// Whether the reader has closed its end, which is its good right.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "standard output cannot be written: {}", self.0)
    }
}

impl std::error::Error for OutputError {}

/// Writes bytes as they are, at once.
pub(crate) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| OutputError(error).into())
}

/// Prints the help or the version that the command line asks for.
pub(crate) fn help(asked: &clap::Error) -> Result<()> {
    asked
        .print()
        .and_then(|()| io::stdout().flush())
        .map_err(|error| OutputError(error).into())
}

/// Writes text as it is, at once: a streamed token must not wait for a line's end.
pub(crate) fn text(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Writes text and ends its line.
pub(crate) fn line(line: &str) -> Result<()> {
    text(&format!("{}\n", line.trim_end_matches('\n')))
}

/// Writes one JSON object on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value).context("results are plain data")?)
}

/// Says something that is not the result, on stderr. A closed stderr is no reason to fail.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Rows in columns, two spaces apart; the last column is as long as it likes.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{:<width$}  ", plain(cell)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A text out of somebody's file, for the terminal: what would move the cursor or colour the line is shown as a
/// replacement character.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A number of bytes for people: `5.1 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// A count for people: `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [size(999), size(5_057_198), size(999_960)],
            ["999 B", "5.1 MB", "1.0 MB"]
        );
        assert_eq!(
            [count(7), count(1000), count(1234567)],
            ["7", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn columns_line_up() {
        let rows =
            [["a", "bb", "c"], ["aaa", "b", "cc"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "a    bb  c\naaa  b   cc\n");
        let forged = [vec!["a\n\u{1b}[2J".to_owned()]];
        assert_eq!(columns(&forged), "a\u{fffd}\u{fffd}[2J\n");
    }
}
