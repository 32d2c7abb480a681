//! The lesson's numbers: each stands in `docs/lesson.json`, which `scripts/lesson.py` writes, and that file was
//! made with the recipes as they are.

use std::fs;
use std::path::Path;

use regex::Regex;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What is wrong with the lesson, a line each.
pub(crate) fn faults(root: &Path) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("a file of the repository");
    let lesson = read("docs/lesson.md");
    let found: Value = serde_json::from_str(&read("docs/lesson.json")).expect("JSON");
    let mut faults = stale(root, &found["recipes"]);
    let mark = Regex::new(r"<!-- ([a-z0-9_.]+) -->(.*?)<!-- -->").expect("a pattern");
    for place in mark.captures_iter(&lesson) {
        faults.extend(disagrees(&place[1], &place[2], &found["numbers"]));
    }
    faults.extend(unmarked(&mark.replace_all(&lesson, "")));
    faults
}

/// Recipes that have changed since the numbers were made.
fn stale(root: &Path, recipes: &Value) -> Vec<String> {
    let recipes = recipes.as_object().expect("hashes by recipe");
    let changed = recipes.iter().filter(|(name, hash)| {
        let path = root.join("crates/cli/recipes").join(format!("{name}.toml"));
        let text = fs::read(path).unwrap_or_default();
        let now: String = Sha256::digest(text)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        hash.as_str() != Some(&now)
    });
    changed
        .map(|(name, _)| format!("recipe {name} has changed since; run scripts/lesson.py"))
        .collect()
}

/// A number of the text that is not the file's, rounded to as many decimals.
fn disagrees(key: &str, shown: &str, numbers: &Value) -> Option<String> {
    let plain = shown.replace(',', "");
    let decimals = plain
        .split_once('.')
        .map_or(0, |(_, decimals)| decimals.len());
    let sign = if plain.starts_with('+') { "+" } else { "" };
    let expected = match (numbers[key].as_f64(), sign) {
        (Some(value), "+") => format!("{value:+.decimals$}"),
        (Some(value), _) => format!("{value:.decimals$}"),
        (None, _) => return Some(format!("{key}: lesson.json has no such number")),
    };
    (plain != expected).then(|| format!("{key}: the text says {shown}, lesson.json {expected}"))
}

/// Numbers of the prose that no run stands behind: digits outside code, links and headings of levels.
fn unmarked(rest: &str) -> Vec<String> {
    let aside = Regex::new(r"(?s)```.*?```|`[^`]*`|\]\([^)]*\)|95%|ROUGE-L").expect("a pattern");
    let prose = aside.replace_all(rest, "");
    let numbers = prose
        .lines()
        .filter(|line| line.contains(|c: char| c.is_ascii_digit()));
    numbers
        .map(|line| format!("a number that no run stands behind: {line}"))
        .collect()
}

#[test]
fn a_wrong_a_missing_and_an_unmarked_number_are_faults() {
    let numbers = serde_json::json!({"a": 0.2214, "b": 1234.4, "c": 0.046});
    for (key, shown) in [
        ("a", "0.221"),
        ("a", "0.22"),
        ("b", "1,234"),
        ("c", "+0.046"),
    ] {
        assert_eq!(disagrees(key, shown, &numbers), None, "{key} {shown}");
    }
    for (key, shown) in [("a", "0.222"), ("b", "1,235"), ("d", "1"), ("c", "0.05x")] {
        assert!(disagrees(key, shown, &numbers).is_some(), "{key} {shown}");
    }
    assert_eq!(
        unmarked("in `x=5` and\n```\n7\n```\nat [x](y2.md)").len(),
        0
    );
    assert_eq!(unmarked("about 7 of them").len(), 1);
}
