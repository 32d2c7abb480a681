//! What the data of a run was: sources with licences and sizes, tokens, and what was left out.

use serde::Serialize;
use serde_json::Value;

use crate::facts::Fact;
use crate::format;
use crate::ledger::{self, Books};
use crate::run::{Run, text};
use crate::sections::tokens;

/// What the data was.
#[derive(Debug, Serialize)]
pub(crate) struct Data {
    pub(crate) sources: Vec<Source>,
    pub(crate) total: Option<Source>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) dropped: Vec<Fact>,
    pub(crate) passes: Option<String>,
    pub(crate) books: Option<Books>,
}

/// One source of text.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Source {
    pub(crate) name: String,
    /// Only `https:` and `http:` addresses become links.
    pub(crate) link: Option<String>,
    pub(crate) licence: String,
    pub(crate) documents: String,
    pub(crate) bytes: String,
}

pub(crate) fn data(run: &Run) -> Option<Data> {
    if !run.data.is_object() {
        return None;
    }
    let entries = run
        .data
        .get("sources")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let sum = |field: &str| {
        let values: Option<Vec<f64>> = entries
            .iter()
            .map(|entry| entry.get(field)?.as_f64())
            .collect();
        values.map(|values| values.iter().sum::<f64>())
    };
    let total = (entries.len() > 1).then(|| Source {
        name: "Together".into(),
        documents: sum("documents").map(format::count).unwrap_or_default(),
        bytes: sum("bytes").map(format::bytes).unwrap_or_default(),
        ..Source::default()
    });
    let passes = tokens(run)
        .zip(run.data_number("/train_tokens"))
        .filter(|(_, size)| *size > 0.0);
    Some(Data {
        sources: entries.iter().map(source).collect(),
        total,
        facts: data_facts(run),
        dropped: dropped(&run.data),
        passes: passes.map(|(seen, size)| format!("{:.1}", seen / size)),
        books: run.data.get("ledger").and_then(ledger::books),
    })
}

fn source(entry: &Value) -> Source {
    let words = |field: &str| {
        text(entry, field)
            .map(|found| format::clip(found, 200).0)
            .unwrap_or_default()
    };
    let amount = |field: &str| entry.get(field).and_then(Value::as_f64);
    let safe = |link: &&str| link.starts_with("https://") || link.starts_with("http://");
    Source {
        name: match amount("repeat") {
            Some(times) if times > 1.0 => format!("{} × {times}", words("/name")),
            _ => words("/name"),
        },
        link: text(entry, "/url").filter(safe).map(str::to_owned),
        licence: words("/licence"),
        documents: amount("documents").map(format::count).unwrap_or_default(),
        bytes: amount("bytes").map(format::bytes).unwrap_or_default(),
    }
}

fn data_facts(run: &Run) -> Vec<Fact> {
    let get = |pointer: &str| run.data_number(pointer);
    let (bytes, tokens) = (get("/validation_bytes"), get("/validation_tokens"));
    let per_token = bytes
        .zip(tokens)
        .filter(|(_, tokens)| *tokens > 0.0)
        .map(|(bytes, tokens)| bytes / tokens);
    let rows = [
        ("Training tokens", get("/train_tokens").map(format::count)),
        ("Validation tokens", tokens.map(format::count)),
        ("Validation text", bytes.map(format::bytes)),
        ("Vocabulary, tokens", get("/vocab_size").map(format::count)),
        (
            "Bytes per token",
            per_token.map(|ratio| format!("{ratio:.2}")),
        ),
        (
            "Training examples",
            get("/examples/train").map(format::count),
        ),
        (
            "Validation examples",
            get("/examples/validation").map(format::count),
        ),
        (
            "Test examples, held out",
            get("/examples/test").map(format::count),
        ),
    ];
    rows.into_iter()
        .filter_map(|(name, value)| {
            Some(Fact {
                name: name.into(),
                value: value?,
            })
        })
        .collect()
}

fn dropped(data: &Value) -> Vec<Fact> {
    let Some(found) = data.get("dropped").and_then(Value::as_object) else {
        return Vec::new();
    };
    let row = |(reason, amount): (&String, &Value)| {
        Some(Fact {
            name: format::clip(&reason.replace('_', " "), 200).0,
            value: format::count(amount.as_f64()?),
        })
    };
    found.iter().filter_map(row).collect()
}
