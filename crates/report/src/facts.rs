//! Tables of names and values: the recipe and the environment, flattened for reading.

use serde::Serialize;
use serde_json::Value;

use crate::format;
use crate::run::Recipe;

/// One line of a table of facts.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A named table of facts.
#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) rows: Vec<Fact>,
}

/// The recipe as tables, or as text where it is not valid TOML.
pub(crate) fn recipe(recipe: &Recipe) -> (Vec<Facts>, Option<String>) {
    match recipe {
        Recipe::Missing => (Vec::new(), None),
        Recipe::Raw(source) => (Vec::new(), Some(format::clip(source, 20_000).0)),
        Recipe::Parsed(table) => {
            let value = serde_json::to_value(table).unwrap_or_default();
            (groups(&value, "general"), None)
        }
    }
}

/// An object as tables: each object in it becomes one, the plain values at the top a first one
/// called `top`. Deeper objects get dotted names.
pub(crate) fn groups(value: &Value, top: &str) -> Vec<Facts> {
    let Some(object) = value.as_object() else {
        return Vec::new();
    };
    let mut out = vec![Facts {
        name: top.into(),
        rows: Vec::new(),
    }];
    for (key, entry) in object {
        if entry.is_object() {
            let mut rows = Vec::new();
            flatten("", entry, &mut rows);
            out.push(Facts {
                name: key.clone(),
                rows,
            });
        } else {
            flatten(key, entry, &mut out[0].rows);
        }
    }
    out.retain(|facts| !facts.rows.is_empty());
    out
}

fn flatten(prefix: &str, value: &Value, rows: &mut Vec<Fact>) {
    let joined = |key: &str| {
        if prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{prefix}.{key}")
        }
    };
    match value {
        Value::Object(object) => object
            .iter()
            .for_each(|(key, entry)| flatten(&joined(key), entry, rows)),
        Value::Array(entries)
            if entries
                .iter()
                .any(|entry| entry.is_object() || entry.is_array()) =>
        {
            for (index, entry) in entries.iter().enumerate() {
                flatten(&joined(&(index + 1).to_string()), entry, rows);
            }
        }
        other => rows.push(Fact {
            name: prefix.to_owned(),
            value: format::clip(&plain(other), 400).0,
        }),
    }
}

/// A value as one reads it: no quotes, lists with commas.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Array(entries) => entries.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
