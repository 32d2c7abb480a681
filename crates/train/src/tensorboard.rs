//! The run's figures as a TensorBoard event file: records of a small protobuf message, each with its length
//! and checksums. What the figures are is `log.rs`'s business.
//!
//! Formats: `tensorflow/core/lib/io/record_writer.h` (a record) and `tensorboard/compat/proto/event.proto`,
//! `summary.proto` (the messages; the numbers below are their fields').

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// An event file of one session of a run.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a session's file in `folder`. TensorBoard then forgets what earlier sessions told of steps
    /// after `step`, which will be made again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn begin(folder: &Path, step: u64) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!(
            "events.out.tfevents.{:.3}.{}.etude",
            now(),
            std::process::id()
        );
        let path = folder.join(name);
        let file = File::create(&path)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        let mut events = Self { path, file };
        events.event(0, 3, b"brain.Event:2")?; // Event.file_version
        events.event(step + 1, 7, &varint_field(1, 1))?; // Event.session_log, SessionLog.status = START
        Ok(events)
    }

    /// Writes every number of `figures` as the scalar `kind/name`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn scalars(
        &mut self,
        kind: &str,
        step: u64,
        figures: &Map<String, Value>,
    ) -> Result<()> {
        let mut summary = Vec::new();
        for (name, value) in figures {
            match value {
                Value::Number(number) if name != "step" => {
                    let mut scalar = bytes_field(1, format!("{kind}/{name}").as_bytes()); // Value.tag
                    scalar.push(tag(2, 5)); // Value.simple_value, 32 bits
                    let number = number.as_f64().unwrap_or(f64::NAN) as f32;
                    scalar.extend(number.to_le_bytes());
                    summary.extend(bytes_field(1, &scalar)); // Summary.value
                }
                _ => {}
            }
        }
        if summary.is_empty() {
            return Ok(());
        }
        self.event(step, 5, &summary) // Event.summary
    }

    /// Appends an event with one field besides time and step.
    fn event(&mut self, step: u64, field: u8, contents: &[u8]) -> Result<()> {
        let mut event = vec![tag(1, 1)]; // Event.wall_time, 64 bits
        event.extend(now().to_le_bytes());
        event.extend(varint_field(2, step)); // Event.step
        event.extend(bytes_field(field, contents));

        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc(&event).to_le_bytes());
        self.file
            .write_all(&record)
            .with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// A record's checksum: CRC-32C, turned so that checksums of data that holds checksums stay good ones.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// The byte before a field: its number (below 16) and how it is written.
fn tag(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

fn bytes_field(field: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag(field, 2)];
    push_varint(&mut out, contents.len() as u64);
    out.extend(contents);
    out
}

fn varint_field(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![tag(field, 0)];
    push_varint(&mut out, value);
    out
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record's contents, its checksums compared.
    fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_at(8);
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert_eq!(rest[..4], masked_crc(length).to_le_bytes());
            let (contents, rest) = rest[4..].split_at(size);
            assert_eq!(rest[..4], masked_crc(contents).to_le_bytes());
            found.push(contents);
            bytes = &rest[4..];
        }
        found
    }

    #[test]
    fn checksums_are_those_of_the_format() {
        // CRC-32C of 32 zero bytes, from RFC 3720, B.4.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        // The first record of any event file begins with its length and this.
        assert_eq!(
            masked_crc(&24u64.to_le_bytes()).to_le_bytes(),
            [0xa3, 0x7f, 0x4b, 0x22]
        );
    }

    #[test]
    fn every_number_of_a_line_is_a_scalar() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::begin(folder.path(), 299).unwrap();
        let line = serde_json::json!({
            "kind": "train", "step": 300, "loss": 0.5, "skipped": false, "lr": 0.25,
        });
        events
            .scalars("train", 300, line.as_object().unwrap())
            .unwrap();
        let bytes = fs::read(&events.path).unwrap();
        let records = records(&bytes);
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        // Step 300 as a varint, then a session log with status 1.
        assert!(records[1].ends_with(&[0x10, 0xac, 0x02, 0x3a, 2, 8, 1]));
        let figure =
            |name: &str, value: f32| [name.as_bytes(), b"\x15", &value.to_le_bytes()].concat();
        let loss = figure("train/loss", 0.5);
        let rate = figure("train/lr", 0.25);
        assert!(records[2].windows(loss.len()).any(|part| part == loss));
        assert!(records[2].windows(rate.len()).any(|part| part == rate));
    }
}
