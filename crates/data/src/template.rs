//! Field paths and the small template language of manifests: `"{title}\n{extract}"`.
//!
//! `{a.b}` walks into objects; on a list it visits every item. A list is joined by new lines, or by
//! what follows a bar: `{steps|, }`; lists within lists take one separator each, outermost first:
//! `{messages.text|\n| }`. `{^a.b}` starts at the file's root instead of the record. `{@file}`,
//! `{@folder}`, `{@index}` and `{@key}` describe the record itself. `{{` and `}}` are braces.

use serde_json::Value;

use crate::clean::cut_at_word;

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field {
        name: String,
        separators: Vec<String>,
    },
}

impl Template {
    /// The template that is one field.
    pub(crate) fn field(name: &str) -> Self {
        Self {
            parts: vec![Part::Field {
                name: name.to_owned(),
                separators: Vec::new(),
            }],
        }
    }

    /// Parses a template; the error says what is wrong with it.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut chars = source.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.peek() == Some(&c) => {
                    chars.next();
                    text.push(c);
                }
                '{' => {
                    let mut inside = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) => inside.push(c),
                            None => {
                                return Err(format!("`{source}` has a `{{` that is never closed"));
                            }
                        }
                    }
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(
                        field(&inside).ok_or_else(|| format!("`{source}` has an empty `{{}}`"))?,
                    );
                }
                '}' => return Err(format!("`{source}` has a `}}` without its `{{`")),
                c => text.push(c),
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { parts })
    }

    /// The names of the fields in it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Fills the template; `lookup` answers a field with its value and the error is the missing field.
    pub(crate) fn render<'a>(
        &'a self,
        mut lookup: impl FnMut(&'a str) -> Option<Value>,
    ) -> Result<String, &'a str> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field { name, separators } => {
                    let value = lookup(name).ok_or(name.as_str())?;
                    flatten(&value, separators, &mut out);
                }
            }
        }
        Ok(out)
    }
}

fn field(inside: &str) -> Option<Part> {
    let mut pieces = inside.split('|');
    let name = pieces.next().filter(|name| !name.is_empty())?.to_string();
    Some(Part::Field {
        name,
        separators: pieces.map(str::to_string).collect(),
    })
}

/// Writes a value as text: strings as they are, null as nothing, lists joined.
fn flatten(value: &Value, separators: &[String], out: &mut String) {
    match value {
        Value::Null => {}
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            let separator = separators.first().map_or("\n", String::as_str);
            let deeper = separators.get(1..).unwrap_or(&[]);
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(separator);
                }
                flatten(item, deeper, out);
            }
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The first object in a value, cut short, where text is wanted.
pub(crate) fn object_in(value: &Value) -> Option<String> {
    match value {
        Value::Object(_) => Some(format!("`{}`", cut_at_word(&value.to_string(), 60))),
        Value::Array(items) => items.iter().find_map(object_in),
        _ => None,
    }
}

/// A value as text, lists joined by new lines.
pub(crate) fn value_text(value: &Value) -> String {
    let mut out = String::new();
    flatten(value, &[], &mut out);
    out
}

/// Walks a dotted path into a value. A key that holds the whole rest of the path wins over walking,
/// so that keys with dots in them can be named.
pub(crate) fn walk(value: &Value, path: &str) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if let Some(found) = map.get(path) {
                return Some(found.clone());
            }
            let (head, rest) = path.split_once('.')?;
            walk(map.get(head)?, rest)
        }
        Value::Array(items) => items
            .iter()
            .map(|item| walk(item, path))
            .collect::<Option<Vec<_>>>()
            .map(Value::Array),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fill(template: &str, record: Value) -> Result<String, String> {
        let template = Template::parse(template)?;
        template
            .render(|name| walk(&record, name))
            .map_err(str::to_string)
    }

    #[test]
    fn fields_lists_and_braces() {
        assert_eq!(
            fill("{a}: {{{b}}}", json!({"a": "x", "b": 3})).unwrap(),
            "x: {3}"
        );
        assert_eq!(fill("{a|, }", json!({"a": ["x", "y"]})).unwrap(), "x, y");
        let turns = json!({"m": [[{"t": "a"}, {"t": "b"}], [{"t": "c"}]]});
        assert_eq!(fill("{m.t|\n| }", turns).unwrap(), "a b\nc");
        assert_eq!(fill("{a}", json!({"a": null})).unwrap(), "");
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(fill("{b}", json!({"a": 1})).unwrap_err(), "b");
        assert!(fill("{b", json!({})).unwrap_err().contains("never closed"));
        assert!(fill("b}", json!({})).unwrap_err().contains("without its"));
        assert!(fill("{}", json!({})).unwrap_err().contains("empty"));
    }

    #[test]
    fn a_key_with_dots_can_be_named() {
        assert_eq!(fill("{U.S.}", json!({"U.S.": "yes"})).unwrap(), "yes");
    }
}
