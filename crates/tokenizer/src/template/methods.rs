//! Methods and filters of texts where Python's meaning is not Rust's. `minijinja_contrib` has the others.

use minijinja::value::from_args;
use minijinja::{Error, ErrorKind, Value};

use super::python;

/// Whether `str.isspace` holds: what Unicode calls white space, and four separators of ASCII.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// A method of a text; none where Python's is what others make of it.
pub(super) fn of_text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let made = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<Value>,) = from_args(args)?;
            let kept = stripped(text, method, characters.as_ref())?;
            Value::from(kept)
        }
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(is_space))
        }
        "split" | "rsplit" => {
            let (separator, most): (Option<Value>, Option<i64>) = from_args(args)?;
            let most = usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX);
            let separator = separator.filter(|separator| !separator.is_none());
            let from_the_right = method == "rsplit";
            let parts = match &separator {
                Some(separator) => {
                    split_at(text, as_text(separator, method)?, most, from_the_right)?
                }
                None => split_at_space(text, most, from_the_right),
            };
            list(parts)
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            list(lines(text, keep_ends.unwrap_or(false)))
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
            let most = usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX);
            Value::from(replaced(text, old, new, most)?)
        }
        "join" => {
            let (items,): (Value,) = from_args(args)?;
            Value::from(joined(&items, text)?)
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = match method {
                "removeprefix" => text.strip_prefix(part),
                _ => text.strip_suffix(part),
            };
            Value::from(rest.unwrap_or(text))
        }
        _ => return Ok(None),
    };
    Ok(Some(made))
}

fn list(texts: Vec<&str>) -> Value {
    texts.into_iter().map(Value::from).collect()
}

/// Jinja's `trim`: the text of any value, stripped.
pub(super) fn trim(value: &Value, characters: Option<Value>) -> Result<String, Error> {
    Ok(stripped(&python::text(value)?, "strip", characters.as_ref())?.to_owned())
}

/// Jinja's `join`: the texts of a list's items with `between` between them.
pub(super) fn join(value: &Value, between: Option<Value>) -> Result<String, Error> {
    let between = between.map_or(Ok(String::new()), |value| python::text(&value))?;
    joined(value, &between)
}

fn joined(items: &Value, between: &str) -> Result<String, Error> {
    let mut out = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            python::check_length(out.len() + between.len())?;
            out.push_str(between);
        }
        out.push_str(&python::text(&item)?);
        python::check_length(out.len())?;
    }
    Ok(out)
}

fn replaced(text: &str, old: &str, new: &str, most: usize) -> Result<String, Error> {
    let count = text.matches(old).take(most).count();
    python::check_length(text.len().saturating_add(count.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, count))
}

/// Jinja's `iterable`: what Python can go through, which `None` and numbers are not.
pub(super) fn is_iterable(value: &Value) -> bool {
    use minijinja::value::ValueKind;
    match value.kind() {
        // An undefined value is an empty list to Jinja.
        ValueKind::Undefined => true,
        ValueKind::None | ValueKind::Bool | ValueKind::Number => false,
        _ => value.try_iter().is_ok(),
    }
}

fn as_text<'v>(value: &'v Value, method: &str) -> Result<&'v str, Error> {
    value.as_str().ok_or_else(|| {
        let message = format!("{method} takes a text, not {}", value.kind());
        Error::new(ErrorKind::InvalidOperation, message)
    })
}

fn stripped<'t>(text: &'t str, method: &str, characters: Option<&Value>) -> Result<&'t str, Error> {
    let set: Option<Vec<char>> = match characters.filter(|value| !value.is_none()) {
        Some(characters) => Some(as_text(characters, method)?.chars().collect()),
        None => None,
    };
    let goes = |character: char| match &set {
        Some(set) => set.contains(&character),
        None => is_space(character),
    };
    Ok(match method {
        "lstrip" => text.trim_start_matches(goes),
        "rstrip" => text.trim_end_matches(goes),
        _ => text.trim_matches(goes),
    })
}

fn split_at<'t>(
    text: &'t str,
    separator: &str,
    most: usize,
    from_the_right: bool,
) -> Result<Vec<&'t str>, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let most = most.saturating_add(1);
    if !from_the_right {
        return Ok(text.splitn(most, separator).collect());
    }
    let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
    parts.reverse();
    Ok(parts)
}

/// At runs of white space, with none around the parts but inside an uncut rest and at its far end.
fn split_at_space(text: &str, most: usize, from_the_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    // Python skips white space only where it cuts next, so an uncut rest keeps that at its far end.
    let mut rest = match from_the_right {
        true => text.trim_end_matches(is_space),
        false => text.trim_start_matches(is_space),
    };
    while !rest.is_empty() {
        let found = match from_the_right {
            _ if parts.len() == most => None,
            true => rest.rsplit_once(is_space),
            false => rest.split_once(is_space),
        };
        let (part, left) = match found {
            Some((left, part)) if from_the_right => (part, left),
            Some((part, left)) => (part, left),
            None => (rest, ""),
        };
        parts.push(part);
        rest = match from_the_right {
            true => left.trim_end_matches(is_space),
            false => left.trim_start_matches(is_space),
        };
    }
    if from_the_right {
        parts.reverse();
    }
    parts
}

/// Lines in Python's sense: after `\r\n` and each character that ends one in Unicode or ASCII.
fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let tail = &rest[at..];
        let width = match tail.starts_with("\r\n") {
            true => 2,
            false => tail.chars().next().map_or(0, char::len_utf8),
        };
        found.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &tail[width..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(text: &str, name: &str, args: &[Value]) -> String {
        let made = of_text(text, name, args).expect("it is called rightly");
        python::repr(&made.expect("the method is here")).expect("it is small")
    }

    #[test]
    fn texts_are_split_as_python_splits_them() {
        let (none, one) = (Value::from(()), Value::from(1));
        let cases = [
            (" a  b\tc ", "split", vec![], "['a', 'b', 'c']"),
            (
                " a  b  c ",
                "split",
                vec![none.clone(), one.clone()],
                "['a', 'b  c ']",
            ),
            (
                " a  b  c ",
                "rsplit",
                vec![none.clone(), one.clone()],
                "[' a  b', 'c']",
            ),
            (
                " a b ",
                "split",
                vec![none.clone(), Value::from(0)],
                "['a b ']",
            ),
            (" \u{1f}", "split", vec![], "[]"),
            ("a--b--c", "split", vec!["--".into()], "['a', 'b', 'c']"),
            (
                "a--b--c",
                "rsplit",
                vec!["--".into(), one.clone()],
                "['a--b', 'c']",
            ),
            ("", "split", vec!["x".into()], "['']"),
            (
                "a\r\nb\u{2028}\nc",
                "splitlines",
                vec![],
                "['a', 'b', '', 'c']",
            ),
            (
                "a\r\nb\n",
                "splitlines",
                vec![true.into()],
                "['a\\r\\n', 'b\\n']",
            ),
        ];
        for (text, name, args, expected) in cases {
            assert_eq!(method(text, name, &args), expected, "{text:?}.{name}");
        }
    }

    #[test]
    fn texts_are_stripped_as_python_strips_them() {
        let cases = [
            ("\u{1c} a \u{85}\u{3000}", "strip", vec![], "'a'"),
            ("\u{200b} a\n", "rstrip", vec![], "'\u{200b} a'"),
            ("xyaxy", "lstrip", vec!["yx".into()], "'axy'"),
            ("  a", "strip", vec![Value::from(())], "'a'"),
            ("abc", "removeprefix", vec!["ab".into()], "'c'"),
            ("abc", "removesuffix", vec!["ab".into()], "'abc'"),
            ("abab", "replace", vec!["a".into(), "xy".into()], "'xybxyb'"),
            ("ab", "replace", vec!["".into(), "-".into()], "'-a-b-'"),
            (
                "aaa",
                "replace",
                vec!["a".into(), "b".into(), Value::from(2)],
                "'bba'",
            ),
            (", ", "join", vec![Value::from(vec!["a", "b"])], "'a, b'"),
        ];
        for (text, name, args, expected) in cases {
            assert_eq!(method(text, name, &args), expected, "{text:?}.{name}");
        }
        assert!(of_text("a", "strip", &[Value::from(1)]).is_err());
    }
}
