//! JSON files: a list or a map of records, streamed; and trees whose leaves are records.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::exact::{Exact, Met, Numbers, parse};
use super::{Record, Sink, check_encoding};
use crate::clean::cut_at_word;
use crate::error::DataError;
use crate::manifest::Read;
use crate::template::walk;

/// A serde_json message without the position that the caller states itself.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => format!("{} at column {}", &text[..at], error.column()),
        None => text,
    }
}

/// The value of a line of a file that has one object a line.
pub(super) fn line_value(path: &Path, line: u64, text: &str) -> Result<Value, DataError> {
    let met = Met::default();
    parse(text.as_bytes(), &met).map_err(|error| {
        let twice = met.repeated_key(path, line);
        twice.unwrap_or_else(|| invalid_line(path, line, &error))
    })
}

fn invalid_line(path: &Path, line: u64, error: &serde_json::Error) -> DataError {
    let text = message(error);
    let unfinished = text.strip_prefix("EOF while parsing ").unwrap_or(&text);
    let (what, remedy) = match unfinished.rsplit_once(" at column ") {
        Some((inside, _)) if error.is_eof() => (
            format!("the line ends inside {inside}"),
            "finish or delete the line; each line is one whole JSON object, and a line break in a text is written \\n",
        ),
        _ => (
            text,
            "correct or delete the line; each line is one JSON object",
        ),
    };
    DataError::at_line(path, line, format!("not valid JSON: {what}"), remedy)
}

fn invalid(path: &Path, error: &serde_json::Error) -> DataError {
    let line = error.line() as u64;
    let remedy = match error.to_string().starts_with("trailing characters") {
        true => "if it has one object a line, call it .jsonl; else correct the file",
        false => "correct the file",
    };
    DataError::at_line(
        path,
        line,
        format!("not valid JSON: {}", message(error)),
        remedy,
    )
}

/// The records of a JSON file: the items of a list, the values of a map of objects, or the one
/// object. `inside` is the dotted path to them.
pub(super) fn records(path: &Path, inside: &str, sink: &mut Sink<'_>) -> Result<bool, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    check_encoding(path, &bytes)?;
    let (mut outcome, met) = (Ok(true), Met::default());
    let mut each = Each {
        sink,
        outcome: &mut outcome,
        index: 0,
        met: &met,
        numbers: Numbers::of(&bytes),
        single: Map::new(),
    };
    let invalid = |error: &serde_json::Error| {
        let twice = met.repeated_key(path, error.line() as u64);
        twice.unwrap_or_else(|| invalid(path, error))
    };
    let parsed = if inside.is_empty() {
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        each.deserialize(&mut reader).and_then(|()| {
            if outcome.as_ref().is_ok_and(|&more| more) {
                reader.end()
            } else {
                Ok(())
            }
        })
    } else {
        let root = parse(&bytes, &met).map_err(|error| invalid(&error))?;
        let found = walk(&root, inside).ok_or_else(|| {
            DataError::in_file(
                path,
                format!("there is nothing at `{inside}`"),
                "correct `read.records` in the manifest",
            )
        })?;
        each.all_of(found)
    };
    match (outcome, parsed) {
        // The parser was stopped on purpose.
        (Err(error), _) => Err(error),
        (Ok(false), _) => Ok(false),
        (Ok(true), Err(error)) => Err(invalid(&error)),
        (Ok(true), Ok(())) => Ok(true),
    }
}

/// Hands each record to the sink as it is parsed, so that the file's tree is never held whole.
struct Each<'a, 'b> {
    sink: &'a mut Sink<'b>,
    outcome: &'a mut Result<bool, DataError>,
    index: u64,
    met: &'a Met,
    numbers: Numbers<'a>,
    /// Fields of a file that is one record.
    single: Map<String, Value>,
}

impl Each<'_, '_> {
    /// Sends a record; an error stops the parser, its reason is in `outcome`.
    fn send<E: serde::de::Error>(&mut self, key: Option<String>, value: Value) -> Result<(), E> {
        self.index += 1;
        if !value.is_object() {
            return Err(E::custom(format!("record {} is not an object", self.index)));
        }
        *self.outcome = (self.sink)(Record {
            value,
            root: None,
            key,
            index: self.index,
            line: self.index,
        });
        match self.outcome {
            Ok(true) => Ok(()),
            _ => Err(E::custom("stopped")),
        }
    }

    /// Takes an entry of a map: the first value tells a map of records from a record.
    fn entry<E: serde::de::Error>(&mut self, key: String, value: Value) -> Result<(), E> {
        if value.is_object() && self.single.is_empty() {
            return self.send(Some(key), value);
        }
        self.single.insert(key, value);
        Ok(())
    }

    /// Ends a map.
    fn ended<E: serde::de::Error>(&mut self) -> Result<(), E> {
        let single = std::mem::take(&mut self.single);
        match (single.is_empty(), self.index) {
            (true, _) => Ok(()),
            (false, 0) => self.send(None, Value::Object(single)),
            _ => Err(E::custom(
                "a map of records holds something that is not an object",
            )),
        }
    }

    /// The records of a value that is there already.
    fn all_of(&mut self, value: Value) -> Result<(), serde_json::Error> {
        match value {
            Value::Array(items) => items.into_iter().try_for_each(|item| self.send(None, item)),
            Value::Object(map) => {
                let mut entries = map.into_iter();
                entries.try_for_each(|(key, value)| self.entry(key, value))?;
                self.ended()
            }
            _ => Err(serde::de::Error::custom(
                "expected a list or a map of records",
            )),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Each<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Each<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or a map of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(mut value) = items.next_element_seed(Exact(self.met))? {
            self.numbers.restore(&mut value, self.met);
            self.send(None, value)?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !keys.insert(key.clone()) {
                return Err(self.met.stop_at(&key));
            }
            let mut value = entries.next_value_seed(Exact(self.met))?;
            self.numbers.restore(&mut value, self.met);
            self.entry(key, value)?;
        }
        self.ended()
    }
}

/// How much of a neighbour's value a passage shows, in characters.
const NEIGHBOUR_CHARS: usize = 200;

struct Leaf {
    section: String,
    name: String,
    value: String,
}

/// The leaves called `text` of a tree, each with its section (the top-level name), its name (the
/// names below that), its value, and a passage of its neighbours in the same section.
pub(super) fn leaves(path: &Path, read: &Read, sink: &mut Sink<'_>) -> Result<bool, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    check_encoding(path, &bytes)?;
    let met = Met::default();
    let root = parse(&bytes, &met).map_err(|error| {
        let twice = met.repeated_key(path, error.line() as u64);
        twice.unwrap_or_else(|| invalid(path, &error))
    })?;
    let mut found = Vec::new();
    collect(&root, &mut Vec::new(), read, &mut found);
    let root = Arc::new(root);
    for (at, leaf) in found.iter().enumerate() {
        let from = at.saturating_sub(read.context);
        let to = (at + read.context + 1).min(found.len());
        let passage: Vec<String> = found[from..to]
            .iter()
            .filter(|other| other.section == leaf.section)
            .map(|other| {
                format!(
                    "{}: {}",
                    other.name,
                    cut_at_word(&other.value, NEIGHBOUR_CHARS)
                )
            })
            .collect();
        let fields = [
            ("section", leaf.section.clone()),
            ("name", leaf.name.clone()),
            ("value", leaf.value.clone()),
            ("passage", passage.join("\n")),
        ];
        let value = fields
            .into_iter()
            .map(|(name, text)| (name.to_string(), Value::from(text)))
            .collect();
        let index = at as u64 + 1;
        let record = Record {
            value: Value::Object(value),
            root: Some(root.clone()),
            key: None,
            index,
            line: index,
        };
        if !sink(record)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect<'a>(value: &'a Value, path: &mut Vec<&'a str>, read: &Read, found: &mut Vec<Leaf>) {
    let Value::Object(map) = value else { return };
    for (key, inner) in map {
        match (key.as_str(), inner) {
            ("text", Value::String(text)) if path.len() >= 2 => {
                let mut names: Vec<&str> = path[1..].iter().map(|name| name.trim()).collect();
                names.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
                let value = read
                    .clean
                    .iter()
                    .fold(text.clone(), |text, step| step.apply(&text));
                let value = value.trim().to_string();
                found.push(Leaf {
                    section: path[0].trim().to_string(),
                    name: names.join(": "),
                    value,
                });
            }
            _ => {
                path.push(key);
                collect(inner, path, read, found);
                path.pop();
            }
        }
    }
}
