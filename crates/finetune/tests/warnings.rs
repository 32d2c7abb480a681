//! What should be looked at in a task is told: each warning on data made for it, and none where nothing is wrong.

mod support;

use std::fs;

use etude_data::Split;
use etude_data::ledger::{Asked, Finding};
use etude_finetune::inspect;
use serde_json::{Value, json};
use support::Place;

/// The warnings about `tasks`.
fn warnings(place: &Place, tasks: &[Value], settings: &[&str]) -> Vec<Finding> {
    place.write_tasks(tasks.iter().cloned());
    let asked = Asked {
        split: Split::Train,
        first: 0,
        example: None,
        batch: None,
        seen: None,
    };
    let recipe = place.recipe(settings).expect("parses");
    let found = inspect(&recipe, &place.context("unused"), &asked).expect("inspects");
    assert_eq!(found.ledger.rests, [], "the books balance all the same");
    found.ledger.warnings
}

fn finding<'a>(found: &'a [Finding], kind: &str) -> &'a Finding {
    let of_kind = found.iter().find(|one| one.kind == kind);
    of_kind.unwrap_or_else(|| panic!("no {kind} in {found:?}"))
}

fn kinds(found: &[Finding]) -> Vec<&str> {
    found.iter().map(|one| one.kind.as_str()).collect()
}

/// So many examples with nothing wrong with them.
fn good(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| json!({"prompt": format!("count {n}"), "completion": format!("ab {n}")}))
        .collect()
}

/// A prompt of twelve words that no other group has.
fn words(group: usize) -> String {
    let letters = "abcdefghijkl".chars();
    letters.map(|letter| format!("{letter}{group} ")).collect()
}

#[test]
fn nothing_is_told_of_good_data() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    assert_eq!(warnings(&place, &good(60), &[]), []);
}

#[test]
fn answers_without_an_end_and_more_than_a_percent_cut_are_told() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let long = |n: usize| json!({"prompt": format!("long {n}"), "completion": "xyz ".repeat(60)});
    let cut = ["task.truncation=truncate"];

    let mut many = good(60);
    many.extend((0..6).map(long));
    let found = warnings(&place, &many, &cut);
    assert_eq!(kinds(&found), ["no-end", "truncated"]);
    let (endless, truncated) = (finding(&found, "no-end"), finding(&found, "truncated"));
    assert!(
        endless.count > 1 && endless.count == truncated.count,
        "{found:?}"
    );
    assert!(
        endless.text.contains("examples teach no end token"),
        "{endless}"
    );
    assert!(endless.places[0].contains("task.jsonl:6"), "{endless}");

    // One among hundreds is less than a percent, and yet it teaches no end.
    let mut few = good(400);
    few.push(long(1));
    let found = warnings(&place, &few, &cut);
    assert_eq!(kinds(&found), ["no-end"]);
    assert!(
        found[0].text.starts_with("1 example teaches"),
        "{}",
        found[0]
    );

    // Left out instead, they are told as such.
    let found = warnings(&place, &many, &["task.truncation=drop"]);
    assert_eq!(kinds(&found), ["left-out"]);
}

#[test]
fn examples_that_are_there_twice_or_nearly_are_told() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let mut tasks = good(60);
    tasks.extend(good(10));
    let found = warnings(&place, &tasks, &[]);
    assert_eq!(kinds(&found), ["duplicate"], "{found:?}");
    assert!(found[0].places[0].contains(" and "), "{}", found[0]);

    // The same question, answered otherwise.
    let mut tasks = good(60);
    tasks.extend((0..10).map(|n| json!({"prompt": format!("count {n}"), "completion": "no"})));
    assert_eq!(kinds(&warnings(&place, &tasks, &[])), ["two-answers"]);

    // A word more. Which of a pair is held out falls as it falls.
    let twelve = |group, more: &str| json!({"prompt": format!("{more}{}", words(group)), "completion": format!("ab {group}")});
    let mut tasks = good(20);
    tasks.extend((0..24).flat_map(|group| [twelve(group, ""), twelve(group, "please ")]));
    let found = warnings(
        &place,
        &tasks,
        &["task.context=64", "task.truncation=truncate-prompt"],
    );
    let near = finding(&found, "near-duplicate");
    let across = finding(&found, "near-overlap");
    assert!(near.count > 0 && across.count > 0, "{found:?}");
    assert!(
        found
            .iter()
            .all(|one| one.kind != "duplicate" && one.kind != "overlap")
    );
}

#[test]
fn held_out_examples_that_ask_what_training_asks_are_told() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    // Another letter case puts the same question into another split.
    let mut tasks = good(60);
    tasks.extend(
        (0..60).map(|n| json!({"prompt": format!("Count {n}"), "completion": format!("ab {n}")})),
    );
    let found = warnings(&place, &tasks, &[]);
    let overlap = finding(&found, "overlap");
    assert!(
        overlap.text.contains("validation examples ask what"),
        "{overlap}"
    );
    assert!(overlap.places[0].contains("task.jsonl:"), "{overlap}");
}

#[test]
fn a_template_that_repeats_the_beginning_token_is_told() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    // The tokenizer's beginning token and its end token are one.
    let once = "{{ bos_token }}{% for message in messages %}{{ message.role + ': ' + message.content + eos_token }}\
                {% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    let told_of = |template: &str| {
        let file = place.folder("base").join("chat_template.jinja");
        fs::write(file, template).expect("writes");
        warnings(&place, &good(60), &["task.format=chat"])
    };
    assert_eq!(told_of(once), []);
    let found = told_of(&format!("{{{{ bos_token }}}}{once}"));
    assert_eq!(kinds(&found), ["begin-twice"]);
    assert!(found[0].places[0].contains("task.jsonl:1"), "{}", found[0]);
}

#[test]
fn records_and_answers_without_text_are_told() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let mut tasks = good(60);
    tasks.insert(7, json!({"prompt": "nothing", "completion": ""}));
    let found = warnings(&place, &tasks, &[]);
    assert_eq!(kinds(&found), ["empty-record"]);
    assert!(found[0].places[0].ends_with("task.jsonl:8"), "{}", found[0]);
}
