//! The supervision ledger, of a run or of a recipe's inspection, as tables.

use serde::Serialize;
use serde_json::Value;

use crate::format;
use crate::run::text;

/// The books as the page shows them.
#[derive(Debug, Serialize)]
pub(crate) struct Books {
    accounts: Vec<Table>,
    warnings: Vec<String>,
    rests: Vec<String>,
}

/// One account.
#[derive(Debug, Serialize)]
struct Table {
    title: String,
    units: Vec<String>,
    rows: Vec<Row>,
}

/// One of its lines.
#[derive(Debug, Serialize)]
struct Row {
    /// `in` or `out` on the first line of a side, and nothing on the others.
    side: &'static str,
    name: String,
    amounts: Vec<String>,
    places: String,
}

/// The books in a JSON value, if it holds any.
pub(crate) fn books(ledger: &Value) -> Option<Books> {
    let accounts = list(ledger, "accounts");
    (!accounts.is_empty()).then(|| Books {
        accounts: accounts.iter().map(table).collect(),
        warnings: list(ledger, "warnings").iter().map(warning).collect(),
        rests: list(ledger, "rests").iter().map(rest).collect(),
    })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn words(value: &Value, pointer: &str) -> String {
    format::clip(text(value, pointer).unwrap_or_default(), 400).0
}

fn places(value: &Value) -> String {
    let places = list(value, "places").iter().filter_map(Value::as_str);
    format::clip(&places.collect::<Vec<_>>().join(", "), 400).0
}

fn number(value: &Value, key: &str) -> String {
    value
        .get(key)
        .and_then(Value::as_f64)
        .map(format::count)
        .unwrap_or_default()
}

fn table(account: &Value) -> Table {
    let units = list(account, "units").iter().filter_map(Value::as_str);
    let units: Vec<String> = units.map(|unit| format::clip(unit, 40).0).collect();
    let mut rows = Vec::new();
    for side in ["in", "out"] {
        for (index, line) in list(account, side).iter().enumerate() {
            rows.push(Row {
                side: if index == 0 { side } else { "" },
                name: words(line, "/name"),
                amounts: units.iter().map(|unit| number(line, unit)).collect(),
                places: places(line),
            });
        }
    }
    Table {
        title: words(account, "/title"),
        units,
        rows,
    }
}

fn warning(finding: &Value) -> String {
    match places(finding) {
        places if places.is_empty() => words(finding, "/text"),
        places => format!("{} ({places})", words(finding, "/text")),
    }
}

fn rest(rest: &Value) -> String {
    format!(
        "{}: {} {} came in, {} are accounted for",
        words(rest, "/place"),
        number(rest, "incoming"),
        words(rest, "/unit"),
        number(rest, "outgoing")
    )
}
