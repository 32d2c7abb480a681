//! Fields of a person's own records that nothing reads.

use super::warn::{Finding, counted};
use crate::dataset::ReadAccount;

/// Fields that are meant to be learnt from or asked with, and what to do about them.
const MEANT: [(&[&str], &str); 4] = [
    (
        &["system", "instruction", "instructions", "developer"],
        "put it into `messages` as a turn of the system, or map it: prompt = \"{FIELD}\\n\\n{prompt}\"",
    ),
    (
        &["tools", "functions"],
        "tools are not taught; describe them in a turn of the system, or take the field out",
    ),
    (
        &["messages", "conversations"],
        "other fields beside it are what is learnt; keep one of the two",
    ),
    (
        &["prompt", "completion", "answers", "input", "context"],
        "other fields beside it are what is learnt; put it into one of them, or map it",
    ),
];

/// What is told of the fields that a guessed mapping does not use: each that a person plainly meant by itself, and the
/// others together.
pub fn unused_fields(read: &ReadAccount) -> Vec<Finding> {
    let (mut out, mut others) = (Vec::new(), Vec::new());
    for (name, left) in &read.unused {
        let records = counted(left.amount.items, "record", "records");
        let known = MEANT
            .iter()
            .find(|(names, _)| names.contains(&name.as_str()));
        let Some((_, remedy)) = known else {
            others.push((format!("`{name}` ({records})"), left));
            continue;
        };
        let remedy = remedy.replace("FIELD", name);
        out.push(Finding {
            kind: "unused-field".to_owned(),
            text: format!("field `{name}`: not used ({records}); {remedy}"),
            count: left.amount.items,
            places: left.places.clone(),
        });
    }
    let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
    let most = others.iter().max_by_key(|(_, left)| left.amount.items);
    if let Some((_, left)) = most {
        let fields = if names.len() == 1 { "field" } else { "fields" };
        out.push(Finding {
            kind: "unused-fields".to_owned(),
            text: format!("{fields} {}: not used", names.join(", ")),
            count: left.amount.items,
            places: Vec::new(),
        });
    }
    out
}
