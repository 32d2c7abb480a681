//! Reads a TOML file into a settings struct and turns serde's refusals into messages that name the
//! file, the line and the nearest known key. Manifests use it; recipes can too.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::error::DataError;

/// Parses `text`, read from `file`, into `T`.
///
/// # Errors
/// `DataError::Input` with file and line; an unknown key or value is named together with the
/// nearest known one (where `T` denies unknown fields).
pub fn parse_toml<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, DataError> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let line = line_of(text, span.start);
        let (what, remedy) = match missing(error.message()) {
            // Of the file itself it is told at the beginning, of a table at that table's header.
            Some(name) if span == (0..0) => (
                format!("missing field `{name}`"),
                format!("add `{name}`; a key stands above the first table, a table anywhere"),
            ),
            Some(name) => (
                format!("missing field `{name}`"),
                format!("add `{name} = …` to this table"),
            ),
            None => explain(error.message()),
        };
        DataError::at_line(file, line, what, remedy)
    })
}

/// The known name closest to `name`, if one is close enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 2).max(2);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The line, from 1, in which the TOML `text` sets `key`, such as `train.steps` or `data.sources[0].repeat`; of a
/// key that it does not set, that of the innermost table or list around it, and none where that is missing too.
pub fn line_of_key(text: &str, key: &str) -> Option<u64> {
    let document = DeTable::parse(text).ok()?.into_inner();
    let mut parts = key.split(['.', '[', ']']).filter(|part| !part.is_empty());
    let (name, mut here) = document.get_key_value(parts.next()?)?;
    let mut at = name.span().start;
    for part in parts {
        let found = match here.get_ref() {
            DeValue::Table(table) => table
                .get_key_value(part)
                .map(|(name, value)| (name.span(), value)),
            DeValue::Array(list) => part
                .parse::<usize>()
                .ok()
                .and_then(|index| list.get(index))
                .map(|value| (value.span(), value)),
            _ => None,
        };
        let Some((span, value)) = found else { break };
        (at, here) = (span.start, value);
    }
    Some(line_of(text, at))
}

/// The line, from 1, that holds byte `offset` of `text`.
fn line_of(text: &str, offset: usize) -> u64 {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|&&b| b == b'\n').count() as u64
}

/// The field that one of serde's messages misses.
fn missing(message: &str) -> Option<&str> {
    let name = message.trim().strip_prefix("missing field `")?;
    name.strip_suffix('`')
}

/// Splits one of serde's messages into what is wrong and what to do.
fn explain(message: &str) -> (String, String) {
    let message = message.trim().replace('\n', " ");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = [("unknown field", "key"), ("unknown variant", "value")]
        .into_iter()
        .find(|(start, _)| message.starts_with(start));
    match (unknown, quoted.split_first()) {
        (Some((_, noun)), Some((name, known))) => {
            let what = format!("unknown {noun} `{name}`");
            let list = known.join("`, `");
            let remedy = match nearest(name, known.iter().copied()) {
                Some(close) => format!("did you mean `{close}`? (known here: `{list}`)"),
                None => format!("known here are `{list}`"),
            };
            (what, remedy)
        }
        _ => {
            let remedy = if message.starts_with("invalid ") && message.contains(", expected ") {
                "correct the value"
            } else {
                "correct the line"
            };
            (in_plain_words(&message), remedy.to_string())
        }
    }
}

/// A message about a value of the wrong kind, with what is expected in words instead of a Rust type.
fn in_plain_words(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return message.to_string();
    };
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text in quotes",
        "a sequence" => "a list, such as [\"a\", \"b\"]",
        table if table.starts_with("struct ") => "a table of settings",
        other => other,
    };
    format!("{found}, expected {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_where_it_is_set() {
        let text = "top = 1\n[data]\nsources = [\n  \"a\",\n  { name = \"b\", repeat = 0 },\n]\n\n[train]\n# steps = 1\nsteps = 2\nlr.peak = 3\n";
        for (key, line) in [
            ("top", Some(1)),
            ("data.sources", Some(3)),
            ("data.sources[0].repeat", Some(4)),
            ("data.sources[1].repeat", Some(5)),
            ("data.sources[7]", Some(3)),
            ("[train]", Some(8)),
            ("train.steps", Some(10)),
            ("train.lr.peak", Some(11)),
            ("train.seed", Some(8)),
            ("train.steps.deeper", Some(10)),
            ("eval.metrics", None),
            ("", None),
        ] {
            assert_eq!(line_of_key(text, key), line, "{key}");
        }
        assert_eq!(line_of_key("not = = toml", "not"), None);
    }

    #[test]
    fn expectations_are_told_in_words_and_not_in_types() {
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)]
        struct Settings {
            steps: Option<u64>,
            names: Option<Vec<String>>,
            inner: Option<Inner>,
        }
        for (text, expected) in [
            ("steps = -3", "expected a whole number of 0 or more"),
            ("steps = 1e3", "expected a whole number of 0 or more"),
            ("names = \"a\"", "expected a list, such as"),
            ("inner = 3", "expected a table of settings"),
        ] {
            let error = parse_toml::<Settings>(text, Path::new("r.toml")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code)]
        inner: Inner,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        steps: u32,
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line_and_the_nearest_one() {
        let error =
            parse_toml::<Outer>("# first\n[inner]\nstesp = 3\n", Path::new("r.toml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "r.toml:3: unknown key `stesp`: did you mean `steps`? (known here: `steps`)"
        );
        assert!(error.is_input());
    }

    #[test]
    fn a_missing_key_is_named_with_where_it_belongs() {
        #[derive(Debug, serde::Deserialize)]
        struct Whole {
            #[allow(dead_code)]
            name: String,
            #[allow(dead_code)]
            inner: Inner,
        }
        for (text, expected) in [
            (
                "[inner]\nsteps = 1\n",
                "r.toml:1: missing field `name`: add `name`; a key stands above the first table, a table anywhere",
            ),
            (
                "name = \"a\"\n[inner]\n",
                "r.toml:2: missing field `steps`: add `steps = …` to this table",
            ),
        ] {
            let error = parse_toml::<Whole>(text, Path::new("r.toml")).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let error =
            parse_toml::<Outer>("[inner]\n\nsteps = \"x\"\n", Path::new("r.toml")).unwrap_err();
        assert!(
            error.to_string().starts_with("r.toml:3: invalid type"),
            "{error}"
        );
    }

    #[test]
    fn far_names_are_not_suggested() {
        assert_eq!(nearest("zzzzzz", ["steps", "seed"]), None);
        assert_eq!(nearest("sede", ["steps", "seed"]), Some("seed"));
    }
}
