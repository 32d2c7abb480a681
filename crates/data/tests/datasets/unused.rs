//! Fields that nothing reads are told where nobody wrote the mapping.

use etude_data::LocalOptions;
use etude_data::ledger::{Finding, unused_fields};

use super::Home;

fn told(home: &Home, options: &LocalOptions) -> Vec<String> {
    let account = home.open("u.jsonl", options).unwrap().account().unwrap();
    let found = unused_fields(&account);
    let path = format!("{}/", home.path("").display());
    let path = path.replace("//", "/");
    found
        .iter()
        .map(|finding: &Finding| finding.to_string().replace(&path, ""))
        .collect()
}

#[test]
fn a_field_that_is_dropped_is_named() {
    let home = Home::new();
    let line = |n: u32, more: &str| {
        format!("{{\"prompt\": \"p{n}\", \"completion\": \"c\", \"id\": {n}{more}}}\n")
    };
    let lines = [
        line(1, ", \"system\": \"Be brief.\""),
        line(
            2,
            ", \"system\": \"Be long.\", \"tools\": [], \"note\": null",
        ),
        line(
            3,
            ", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]",
        ),
        line(4, ", \"system\": \"\", \"source\": {\"x\": 1.5}"),
    ];
    home.write("u.jsonl", lines.concat());
    assert_eq!(
        told(&home, &LocalOptions::default()),
        [
            "field `messages`: not used (1 record); other fields beside it are what is learnt; keep one of the two (u.jsonl:3)",
            "field `system`: not used (2 records); put it into `messages` as a turn of the system, or map it: prompt = \"{system}\\n\\n{prompt}\" (u.jsonl:1; :2)",
            "fields `id` (4 records), `source` (1 record): not used",
        ]
    );
    // Whoever maps fields chose them.
    let mapped = LocalOptions {
        prompt: Some("{system}{prompt}".to_owned()),
        ..LocalOptions::default()
    };
    let lines = [
        line(1, ", \"system\": \"a\""),
        line(2, ", \"system\": \"b\""),
    ];
    home.write("u.jsonl", lines.concat());
    assert_eq!(told(&home, &mapped), [] as [&str; 0]);
    let keyed = LocalOptions {
        key: Some("{system}".to_owned()),
        ..LocalOptions::default()
    };
    assert_eq!(told(&home, &keyed), ["field `id` (2 records): not used"]);
}

#[test]
fn a_conversation_and_a_text_leave_theirs_too() {
    let home = Home::new();
    let turns =
        "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]";
    home.write(
        "u.jsonl",
        format!("{{\"messages\": {turns}, \"tools\": [{{\"name\": \"f\"}}]}}\n").repeat(2),
    );
    let found = told(&home, &LocalOptions::default());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("field `tools`: not used (2 records); tools are not taught; "),
        "{found:?}"
    );
    home.write("u.jsonl", "{\"text\": \"one text\", \"id\": 7}\n".repeat(2));
    assert_eq!(
        told(&home, &LocalOptions::default()),
        ["field `id` (2 records): not used"]
    );
}
