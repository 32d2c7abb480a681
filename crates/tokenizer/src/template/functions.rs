//! The environment of a chat template: the filters and functions that Hugging Face gives one, and
//! Python's ways where Jinja lets Python shine through.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};

use super::{GENERATION, MARKS, NOW, methods, python};

/// A deeper indent of JSON means harm.
const MOST_INDENT: usize = 64;

/// An environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(method);
    write_like_python(&mut environment);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    environment.add_filter("trim", methods::trim);
    environment.add_filter("string", python::text);
    environment.add_filter("join", methods::join);
    // Writes any value without a bound.
    environment.remove_filter("pprint");
    environment.add_test("iterable", methods::is_iterable);
    environment.add_filter(GENERATION, mark_generation);
    environment
}

/// Has an environment write values as Python's Jinja does: `True`, `None`, the texts of a list in quotes.
pub fn write_like_python(environment: &mut Environment<'_>) {
    environment.set_formatter(|out, _, value| {
        let written = match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::text(value)?),
        };
        written.map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
}

/// A method of a value, as Python has it.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(made) = methods::of_text(text, name, args)?
    {
        return Ok(made);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local date and time, or the one that was set, in the manner of C's `strftime`.
fn strftime_now(state: &State, format: String) -> Result<String, Error> {
    let set = state.lookup(NOW);
    let set = set.as_ref().and_then(Value::as_str);
    let mut text = String::new();
    let written = match set.map(str::parse::<chrono::NaiveDateTime>) {
        Some(Ok(set)) => write!(text, "{}", set.and_utc().format(&format)),
        _ => write!(text, "{}", chrono::Local::now().format(&format)),
    };
    match written {
        Ok(()) => Ok(text),
        Err(_) => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now does not know the format {format:?}"),
        )),
    }
}

/// `json.dumps` with `ensure_ascii=False`, which Hugging Face puts in place of Jinja's own filter.
fn to_json(value: &Value, positional: Option<Value>, options: Kwargs) -> Result<String, Error> {
    // The parameters of theirs, in order: ensure_ascii, indent, separators, sort_keys.
    let ascii: Option<Value> = options.get("ensure_ascii")?;
    let ensure_ascii = ascii.or(positional).is_some_and(|value| value.is_true());
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let indent = indent.filter(|indent| !indent.is_none());
    let indent = indent.map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_usize().unwrap_or(0).min(MOST_INDENT + 1)),
    });
    if indent.as_ref().is_some_and(|text| text.len() > MOST_INDENT) {
        let message = format!("tojson: an indent of more than {MOST_INDENT}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let style = python::JsonStyle {
        indent,
        item,
        key,
        sort_keys: sort_keys.unwrap_or(false),
        ensure_ascii,
    };
    python::to_json(value, &style)
}

/// Puts the two marks of the rendering, if it has any, around the text of the block.
fn mark_generation(state: &State, text: String) -> String {
    let marks = state.lookup(MARKS);
    let mut marks = marks
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or_default()
        .chars();
    match (marks.next(), marks.next()) {
        (Some(open), Some(close)) => format!("{open}{text}{close}"),
        _ => text,
    }
}
