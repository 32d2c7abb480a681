//! A page about a recipe's data: its ledger, and examples or a batch, token by token.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use crate::format;
use crate::ledger::{self, Books};
use crate::page;
use crate::run::text;
use crate::write::replace;

#[derive(Serialize)]
struct Page {
    name: String,
    stage: String,
    books: Option<Books>,
    batch: Option<String>,
    texts: Vec<Text>,
}

/// An example, or a document's part of a row.
#[derive(Serialize)]
struct Text {
    heading: String,
    remark: String,
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    text: String,
    class: &'static str,
    title: String,
}

/// Writes a page about an inspection, the JSON that `etude data inspect --json` prints, to the file `out`.
///
/// # Errors
/// When the page cannot be written.
pub fn write_inspection(inspection: &Value, out: &Path) -> Result<PathBuf> {
    let words = |key: &str| text(inspection, key).unwrap_or_default().to_owned();
    let mut texts: Vec<Text> = list(inspection, "/examples").iter().map(example).collect();
    let batch = inspection.get("batch").filter(|batch| batch.is_object());
    for (number, row) in batch
        .map_or(&[][..], |batch| list(batch, "/rows"))
        .iter()
        .enumerate()
    {
        let padding = row["padding"].as_u64().unwrap_or(0);
        texts.extend(list(row, "/segments").iter().map(|segment| Text {
            heading: format!(
                "Row {}, {}",
                number + 1,
                text(segment, "/source").unwrap_or_default()
            ),
            remark: match padding {
                0 => String::new(),
                padding => format!("{padding} places of the row are padding"),
            },
            tokens: list(segment, "/tokens").iter().map(token).collect(),
        }));
    }
    let count = |batch: &Value, key: &str| format::count(batch[key].as_f64().unwrap_or(0.0));
    let page = Page {
        name: words("/recipe"),
        stage: words("/stage"),
        books: inspection.get("ledger").and_then(ledger::books),
        batch: batch.map(|batch| {
            format!(
                "The batch of step {}: {} places, {} of them padding, {} supervised.",
                count(batch, "step"),
                count(batch, "places"),
                count(batch, "padding"),
                count(batch, "supervised")
            )
        }),
        texts,
    };
    replace(out, &page::render("inspect.html", &page)?)?;
    Ok(out.to_owned())
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn example(example: &Value) -> Text {
    let cut = |index: usize| example["cut"][index].as_u64().unwrap_or(0);
    let remark = match (text(example, "/left_out"), cut(0), cut(1)) {
        (Some(reason), ..) => format!("left out: {reason}"),
        (None, 0, 0) => String::new(),
        (None, prompt, answer) => {
            format!("cut: {prompt} tokens of the prompt, {answer} of the answer")
        }
    };
    Text {
        heading: format!(
            "Example {}, {}",
            example["number"],
            text(example, "/source").unwrap_or_default()
        ),
        remark,
        tokens: list(example, "/tokens").iter().map(token).collect(),
    }
}

fn token(token: &Value) -> Token {
    let role = text(token, "/role").unwrap_or_default();
    let supervised = token["supervised"] == true;
    Token {
        text: format::clip(text(token, "/text").unwrap_or_default(), 10_000).0,
        class: match (supervised, role) {
            (true, _) => "learnt",
            (false, "template") => "template",
            _ => "context",
        },
        title: format!(
            "id {} · position {} · {role}{}",
            token["id"],
            token["position"],
            if supervised { " · supervised" } else { "" }
        ),
    }
}
