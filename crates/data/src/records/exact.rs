//! JSON values as the file has them: a number that is no whole one of 64 bits is kept as the text that stands there,
//! and a key that stands twice in one object is refused, as one of its values would be lost.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use crate::error::DataError;

/// What the values of one text had in them so far.
#[derive(Default)]
pub(super) struct Met {
    /// Numbers.
    numbers: Cell<u64>,
    /// Whether one of them, since this was last asked, is no exact whole number.
    inexact: Cell<bool>,
    /// The key that stood twice.
    twice: RefCell<Option<String>>,
}

impl Met {
    /// What is wrong at that line, if the parser was stopped by a repeated key.
    pub(super) fn repeated_key(&self, path: &Path, line: u64) -> Option<DataError> {
        let key = self.twice.borrow();
        let what = format!("the key `{}` stands twice in one object", key.as_ref()?);
        let remedy = "give each its own name, or take one of the two out";
        Some(DataError::at_line(path, line, what, remedy))
    }

    /// Stops the parser at a key that stands twice.
    pub(super) fn stop_at<E: Error>(&self, key: &str) -> E {
        *self.twice.borrow_mut() = Some(key.to_owned());
        E::custom("a key twice")
    }
}

/// Parses one value; numbers are put right by [`Numbers::restore`].
#[derive(Clone, Copy)]
pub(super) struct Exact<'m>(pub(super) &'m Met);

impl Exact<'_> {
    fn number<N>(self, number: N, inexact: bool) -> Value
    where
        Value: From<N>,
    {
        self.0.numbers.set(self.0.numbers.get() + 1);
        self.0.inexact.set(self.0.inexact.get() || inexact);
        Value::from(number)
    }
}

impl<'de> DeserializeSeed<'de> for Exact<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Exact<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.number(value, false))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.number(value, false))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(self.number(value, true))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            match all.entry(key) {
                Entry::Vacant(free) => drop(free.insert(entries.next_value_seed(self)?)),
                Entry::Occupied(taken) => return Err(self.0.stop_at(taken.key())),
            }
        }
        Ok(Value::Object(all))
    }
}

/// The numbers of a JSON text, as they are written there. It is read only as far as the parser has come, and only
/// where a number was met that would not come out as it is written.
pub(super) struct Numbers<'t> {
    text: &'t [u8],
    at: usize,
    /// How many were passed.
    passed: u64,
    /// How many the values before had.
    before: u64,
}

impl<'t> Numbers<'t> {
    pub(super) fn of(text: &'t [u8]) -> Self {
        Self {
            text,
            at: 0,
            passed: 0,
            before: 0,
        }
    }

    /// Puts the text of numbers that are not exact into the value that was just parsed. To be asked for each value.
    pub(super) fn restore(&mut self, value: &mut Value, met: &Met) {
        if met.inexact.take() {
            while self.passed < self.before && self.next_number().is_some() {}
            self.put(value);
        }
        self.before = met.numbers.get();
    }

    /// Fields keep their order (serde_json's `preserve_order`), so the numbers stand in the order of the text.
    fn put(&mut self, value: &mut Value) {
        match value {
            Value::Number(number) => {
                let written = self.next_number();
                if let Some(text) = written.filter(|_| number.is_f64()) {
                    *value = Value::from(String::from_utf8_lossy(text));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.put(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.put(field)),
            _ => {}
        }
    }

    fn next_number(&mut self) -> Option<&'t [u8]> {
        loop {
            let rest = &self.text[self.at..];
            let found = |byte: &u8| matches!(byte, b'"' | b'-' | b'0'..=b'9');
            let start = rest.iter().position(found)?;
            let rest = &rest[start..];
            let (length, is_number) = match rest[0] {
                b'"' => (string_length(rest), false),
                _ => (number_length(rest), true),
            };
            self.at += start + length;
            if is_number {
                self.passed += 1;
                return Some(&rest[..length]);
            }
        }
    }
}

/// The bytes of the string that a text begins with, quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

fn number_length(text: &[u8]) -> usize {
    let inside = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    let end = text.iter().position(|byte| !inside(byte));
    end.unwrap_or(text.len())
}

/// Parses a whole text.
///
/// # Errors
/// The parser's; a key that stands twice is then in `met`.
pub(super) fn parse(text: &[u8], met: &Met) -> Result<Value, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let mut value = Exact(met).deserialize(&mut parser)?;
    parser.end()?;
    Numbers::of(text).restore(&mut value, met);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Value {
        parse(text.as_bytes(), &Met::default()).unwrap()
    }

    #[test]
    fn numbers_stay_as_they_are_written() {
        let text = r#"{"a": 1, "b": -2, "t": "3.10 \" 4e1 \\", "c": [1e5, 7, {"d": 0.1000, "3.5": true}],
            "e": 100000000000000000000, "f": 12345678901234567890123, "g": -0, "h": 18446744073709551615, "i": 1.0E+2}"#;
        let expected = json!({"a": 1, "b": -2, "t": "3.10 \" 4e1 \\", "c": ["1e5", 7, {"d": "0.1000", "3.5": true}],
            "e": "100000000000000000000", "f": "12345678901234567890123", "g": "-0", "h": u64::MAX, "i": "1.0E+2"});
        assert_eq!(read(text), expected);
        assert_eq!(read("2.50"), json!("2.50"));
        assert_eq!(read("[]"), json!([]));
    }

    #[test]
    fn values_of_one_text_keep_theirs_apart() {
        let text = b"[[1, 2.0], \"5.0\", [3], [4, 5.50]]";
        let met = Met::default();
        let mut numbers = Numbers::of(text);
        let mut seen = Vec::new();
        for part in ["[1, 2.0]", "\"5.0\"", "[3]", "[4, 5.50]"] {
            let mut parser = serde_json::Deserializer::from_str(part);
            let mut value = Exact(&met).deserialize(&mut parser).unwrap();
            numbers.restore(&mut value, &met);
            seen.push(value);
        }
        let expected = json!([[1, "2.0"], "5.0", [3], [4, "5.50"]]);
        assert_eq!(Value::Array(seen), expected);
    }

    #[test]
    fn a_key_twice_is_named() {
        let met = Met::default();
        let text = "{\"a\": 1,\n \"b\": {\"c\": 2, \"c\": 3}}";
        let error = parse(text.as_bytes(), &met).unwrap_err();
        let told = met.repeated_key(Path::new("x.json"), error.line() as u64);
        let told = told.unwrap().to_string();
        assert!(
            told.starts_with("x.json:2: the key `c` stands twice in one object: "),
            "{told}"
        );
        read("{\"a\": {\"c\": 1}, \"b\": {\"c\": 2}}");
    }
}
