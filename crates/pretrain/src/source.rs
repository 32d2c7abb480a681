//! A source of a recipe: a name, or a name and how often one pass over the data reads it.

use std::fmt;

use anyhow::{Result, ensure};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A source of text: `"sotu"`, or `{ name = "sotu", repeat = 2 }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A data set by name, or the path of a text file, a folder, JSONL, CSV or a manifest.
    pub name: String,
    /// How often one pass over the data reads it, from 1 (default) to 100.
    pub repeat: i64,
}

impl Source {
    /// Refuses a repeat that no pass can have; `index` is the source's place in the list.
    pub(crate) fn validate(&self, index: usize) -> Result<()> {
        let Self { name, repeat } = self;
        ensure!(
            (1..=100).contains(repeat),
            "data.sources[{index}].repeat = {repeat}, of `{name}`: it must be from 1 to 100"
        );
        Ok(())
    }
}

/// The form with more than a name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "Source")]
struct Table {
    name: String,
    #[serde(default = "once")]
    repeat: i64,
}

fn once() -> i64 {
    1
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.repeat == 1 {
            return serializer.serialize_str(&self.name);
        }
        let Self { name, repeat } = self.clone();
        Table { name, repeat }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherForm)
    }
}

struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = Source;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a name in quotes, or { name = \"…\", repeat = 2 }")
    }

    fn visit_str<E>(self, name: &str) -> Result<Source, E> {
        Ok(Source {
            name: name.to_owned(),
            repeat: 1,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
        let Table { name, repeat } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Source { name, repeat })
    }
}
