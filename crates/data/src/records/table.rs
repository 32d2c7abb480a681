//! CSV and TSV: a header, then rows whose cells go by the header's names.

mod quotes;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use self::quotes::{Quotes, Watched};
use super::{Record, SAVE_AS_UTF8, Sink, check_encoding};
use crate::error::DataError;
use crate::manifest::Read;

/// The rows of a file.
pub(super) fn rows(
    path: &Path,
    delimiter: u8,
    settings: &Read,
    sink: &mut Sink<'_>,
) -> Result<bool, DataError> {
    let skip_rows = settings.skip_rows;
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let mut file = BufReader::new(file);
    let start = file.fill_buf().map_err(DataError::io("read", path))?;
    check_encoding(path, start)?;
    if settings.unquoted {
        let mut builder = csv::ReaderBuilder::new();
        builder.delimiter(delimiter).quoting(false);
        return each_row(path, skip_rows, &mut builder.from_reader(file), sink);
    }
    let quotes = Quotes::new(delimiter, start);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(Watched::new(file, quotes));
    let read = each_row(path, skip_rows, &mut reader, sink);
    // A wrong quote makes one row of many, so it is the cause of whatever else is wrong with them.
    match reader.get_ref().quotes().fault() {
        Some(fault) => Err(fault.told(path)),
        None => read,
    }
}

fn each_row(
    path: &Path,
    skip_rows: usize,
    reader: &mut csv::Reader<impl io::Read>,
    sink: &mut Sink<'_>,
) -> Result<bool, DataError> {
    let header = reader
        .headers()
        .map_err(|error| csv_error(path, &error))?
        .clone();
    let names: Vec<String> = header
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').trim().to_string())
        .collect();
    check_header(
        path,
        &names,
        header.position().map_or(1, csv::Position::line),
    )?;
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(|error| csv_error(path, &error))?;
        if row < skip_rows {
            continue;
        }
        let line = record.position().map_or(0, csv::Position::line);
        let cells = record.iter().map(Value::from);
        let value = Value::Object(names.iter().cloned().zip(cells).collect());
        let index = (row - skip_rows) as u64 + 1;
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
    Ok(true)
}

fn check_header(path: &Path, names: &[String], line: u64) -> Result<(), DataError> {
    let again = |&at: &usize| !names[at].is_empty() && names[..at].contains(&names[at]);
    let Some(at) = (0..names.len()).find(again) else {
        return Ok(());
    };
    let first = names.iter().position(|name| *name == names[at]);
    let what = format!(
        "the columns {} and {} are both called `{}`",
        first.map_or(0, |first| first + 1),
        at + 1,
        names[at]
    );
    let remedy = "give every column a name of its own, or take one of the two out";
    Err(DataError::at_line(path, line, what, remedy))
}

fn csv_error(path: &Path, error: &csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::Io(source) => {
            DataError::io("read", path)(io::Error::new(source.kind(), source.to_string()))
        }
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => DataError::at_line(
            path,
            line,
            format!("this row has {len} cells and the header {expected_len}"),
            "give every row the header's cells; quote a cell that holds the separator",
        ),
        csv::ErrorKind::Utf8 { pos, err } => {
            let offset = pos.as_ref().map_or(0, csv::Position::byte);
            DataError::at_line(
                path,
                line,
                format!(
                    "cell {} of the row at offset {offset} is not UTF-8",
                    err.field() + 1
                ),
                SAVE_AS_UTF8,
            )
        }
        _ => DataError::at_line(path, line, error.to_string(), "correct the row"),
    }
}
