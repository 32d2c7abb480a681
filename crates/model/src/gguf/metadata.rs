//! A file's metadata: typed values by key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cursor::Cursor;
use super::error::GgufError;

/// The most elements of all arrays of a file together: more than any vocabulary with its merges has, and
/// little enough to hold.
const MAX_ELEMENTS: u64 = 1 << 24;

/// A value. GGUF's numbers come in ten widths; here they are as wide as they can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number without sign.
    Unsigned(u64),
    /// A whole number with sign.
    Signed(i64),
    /// A number with a fraction. One that was stored in float32 is the shortest decimal that gives it.
    Float(f64),
    /// True or false.
    Flag(bool),
    /// A text.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of whole numbers.
    Integers(Vec<i64>),
    /// An array of numbers with fractions.
    Floats(Vec<f64>),
    /// An array of true and false.
    Flags(Vec<bool>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Flag(_) => "true or false",
            Value::Text(_) => "a text",
            Value::Texts(_) => "an array of texts",
            Value::Integers(_) => "an array of whole numbers",
            Value::Floats(_) => "an array of numbers",
            Value::Flags(_) => "an array of true and false",
        }
    }
}

/// GGUF's numbers for the types of values.
pub(super) mod types {
    pub(crate) const U8: u32 = 0;
    pub(crate) const I8: u32 = 1;
    pub(crate) const U16: u32 = 2;
    pub(crate) const I16: u32 = 3;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const F32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const TEXT: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
    pub(crate) const U64: u32 = 10;
    pub(crate) const I64: u32 = 11;
    pub(crate) const F64: u32 = 12;
}

/// All values of a file.
#[derive(Debug, Clone)]
pub struct Metadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `count` keys with their values.
    pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Self, GgufError> {
        let mut values = BTreeMap::new();
        let mut elements = 0;
        for _ in 0..count {
            let key = cursor.name("metadata key")?.to_owned();
            let kind = cursor.u32(&key)?;
            let value = if kind == types::ARRAY {
                read_array(cursor, &key, &mut elements)?
            } else {
                read_single(cursor, &key, kind)?
            };
            if values.contains_key(&key) {
                return Err(GgufError::field(cursor.path, &key, "stands there twice"));
            }
            values.insert(key, value);
        }
        Ok(Self {
            path: cursor.path.to_owned(),
            values,
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    pub(super) fn error(&self, key: &str, reason: impl Into<String>) -> GgufError {
        GgufError::field(&self.path, key, reason)
    }

    fn wrong(&self, key: &str, found: &Value, wanted: &str) -> GgufError {
        self.error(key, format!("is {}, not {wanted}", found.kind()))
    }

    pub(super) fn missing(&self, key: &str) -> GgufError {
        self.error(key, "is missing")
    }

    /// A size; not above 2^62, so that it can be reckoned with.
    pub(super) fn int(&self, key: &str) -> Result<Option<i64>, GgufError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(number)) => i64::try_from(*number).unwrap_or(i64::MAX),
            Some(Value::Signed(number)) => *number,
            Some(other) => return Err(self.wrong(key, other, "a whole number")),
        };
        if !(0..=1 << 62).contains(&number) {
            return Err(self.error(key, format!("is {number}, which is no size")));
        }
        Ok(Some(number))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Float(number)) => Err(self.error(key, format!("is {number}"))),
            Some(other) => Err(self.wrong(key, other, "a number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a text")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<&[String], GgufError> {
        match self.get(key) {
            None => Err(self.missing(key)),
            Some(Value::Texts(texts)) => Ok(texts),
            Some(other) => Err(self.wrong(key, other, "an array of texts")),
        }
    }

    pub(super) fn floats(&self, key: &str) -> Result<&[f64], GgufError> {
        match self.get(key) {
            None => Err(self.missing(key)),
            Some(Value::Floats(numbers)) => Ok(numbers),
            Some(other) => Err(self.wrong(key, other, "an array of numbers")),
        }
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integers(numbers)) => Ok(Some(numbers)),
            Some(other) => Err(self.wrong(key, other, "an array of whole numbers")),
        }
    }
}

fn read_single(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Value, GgufError> {
    Ok(match kind {
        types::U8 => Value::Unsigned(cursor.u8(key)?.into()),
        types::U16 => Value::Unsigned(cursor.u16(key)?.into()),
        types::U32 => Value::Unsigned(cursor.u32(key)?.into()),
        types::U64 => Value::Unsigned(cursor.u64(key)?),
        types::I8 | types::I16 | types::I32 | types::I64 => {
            Value::Signed(signed(cursor, key, kind)?)
        }
        types::F32 | types::F64 => Value::Float(float(cursor, key, kind)?),
        types::BOOL => Value::Flag(flag(cursor, key)?),
        types::TEXT => Value::Text(cursor.text(key)?.to_owned()),
        other => {
            let reason = format!("has the value type {other}, which GGUF does not know");
            return Err(GgufError::field(cursor.path, key, reason));
        }
    })
}

fn signed(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<i64, GgufError> {
    Ok(match kind {
        types::I8 => i64::from(cursor.u8(key)? as i8),
        types::I16 => i64::from(cursor.u16(key)? as i16),
        types::I32 => i64::from(cursor.u32(key)? as i32),
        _ => cursor.u64(key)? as i64,
    })
}

/// The shortest decimal of a float32: 1e-5 is meant, not 0.00000999999974737875.
fn float(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<f64, GgufError> {
    if kind == types::F64 {
        return Ok(f64::from_bits(cursor.u64(key)?));
    }
    let narrow = f32::from_bits(cursor.u32(key)?);
    let shortest = narrow.to_string().parse();
    Ok(shortest.unwrap_or(f64::from(narrow)))
}

fn flag(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, GgufError> {
    match cursor.u8(key)? {
        0 => Ok(false),
        1 => Ok(true),
        other => {
            let reason = format!("is {other}, where 0 or 1 means false or true");
            Err(GgufError::field(cursor.path, key, reason))
        }
    }
}

fn read_array(cursor: &mut Cursor<'_>, key: &str, elements: &mut u64) -> Result<Value, GgufError> {
    let kind = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    let smallest = match kind {
        types::U8 | types::I8 | types::BOOL => 1,
        types::U16 | types::I16 => 2,
        types::U32 | types::I32 | types::F32 => 4,
        types::U64 | types::I64 | types::F64 | types::TEXT => 8,
        types::ARRAY => {
            let reason = "is an array of arrays, which no model needs";
            return Err(GgufError::field(cursor.path, key, reason));
        }
        other => {
            let reason = format!("has elements of type {other}, which GGUF does not know");
            return Err(GgufError::field(cursor.path, key, reason));
        }
    };
    if count > cursor.left() / smallest {
        let reason = format!(
            "promises {count} elements and the file has {} more bytes: it is cut or damaged",
            cursor.left()
        );
        return Err(GgufError::field(cursor.path, key, reason));
    }
    *elements += count;
    if *elements > MAX_ELEMENTS {
        let reason = format!("brings the arrays over {MAX_ELEMENTS} elements");
        return Err(GgufError::field(cursor.path, key, reason));
    }
    let mut each = 0..count;
    Ok(match kind {
        types::TEXT => Value::Texts(
            each.map(|_| cursor.text(key).map(str::to_owned))
                .collect::<Result<_, _>>()?,
        ),
        types::F32 | types::F64 => Value::Floats(
            each.map(|_| float(cursor, key, kind))
                .collect::<Result<_, _>>()?,
        ),
        types::BOOL => Value::Flags(each.map(|_| flag(cursor, key)).collect::<Result<_, _>>()?),
        _ => Value::Integers(each.try_fold(Vec::new(), |mut numbers, _| {
            numbers.push(match read_single(cursor, key, kind)? {
                Value::Signed(number) => number,
                Value::Unsigned(number) => i64::try_from(number).unwrap_or(i64::MAX),
                _ => unreachable!("the other types have arms of their own"),
            });
            Ok::<_, GgufError>(numbers)
        })?),
    })
}
