//! The supervision ledger of fine-tuning recipes: its books balance whatever the layout, its counts are those of a
//! small file that can be counted by hand, and a batch that is looked at is the batch that is trained on.

mod support;

use std::fs;

use etude_data::Split;
use etude_data::ledger::{Asked, Inspection, Seen};
use etude_finetune::{batches, inspect, prepare};
use etude_tokenizer::Tokenizer;
use serde_json::{Value, json};
use support::{Place, metrics};

const NOTHING: Asked = Asked {
    split: Split::Train,
    first: 2,
    example: None,
    batch: None,
    seen: None,
};

fn inspected(place: &Place, settings: &[&str], asked: &Asked) -> Inspection {
    let recipe = place.recipe(settings).expect("parses");
    inspect(&recipe, &place.context("unused"), asked).expect("inspects")
}

fn line(found: &Inspection, account: &str, name: &str) -> u64 {
    let accounts = found.ledger.accounts.iter();
    let account = accounts
        .filter(|one| one.title.starts_with(account))
        .flat_map(|one| one.incoming.iter().chain(&one.outgoing));
    let line = account.clone().find(|line| line.name.starts_with(name));
    let line = line.unwrap_or_else(|| {
        panic!(
            "{account:?} has no {name}",
            account = account.collect::<Vec<_>>()
        )
    });
    line.amount.items.max(line.amount.tokens)
}

#[test]
fn the_books_balance_whatever_the_layout_and_the_truncation() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let text: String = (0..60).map(|n| format!("line {n} of a text.\n")).collect();
    fs::write(place.0.join("text.txt"), text).expect("writes");
    let mix = format!("task.mix={{source={:?}}}", place.0.join("text.txt"));
    for layout in ["padded", "grouped", "packed"] {
        for truncation in ["drop", "truncate-prompt", "truncate"] {
            for context in ["task.context=64", "task.context=14"] {
                for extra in ["task.examples=0", "task.examples=7", &mix] {
                    let (layout, truncation) = (
                        format!("task.layout={layout}"),
                        format!("task.truncation={truncation}"),
                    );
                    let settings = [layout.as_str(), &truncation, context, extra];
                    let found = inspected(&place, &settings, &NOTHING);
                    assert_eq!(found.ledger.rests, [], "{settings:?}");
                    let tokens = line(&found, "places of one epoch", "rows × columns");
                    assert!(tokens > 0, "{settings:?}");
                }
            }
        }
    }
}

#[test]
fn counts_are_those_of_a_file_that_can_be_counted_by_hand() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    place.write_base(5);
    // Ten good ones, all of them twice, and one without an answer.
    let mut tasks: Vec<Value> = (0..10)
        .map(|n| json!({"prompt": format!("count {n}"), "completion": "ab"}))
        .collect();
    tasks.extend(tasks.clone());
    tasks.push(json!({"prompt": "nothing", "completion": ""}));
    place.write_tasks(tasks);
    let found = inspected(&place, &[], &NOTHING);
    assert_eq!(found.ledger.rests, []);
    assert_eq!(line(&found, "read from", "records in the files"), 21);
    let splits: u64 = ["train", "validation", "test"]
        .map(|split| line(&found, "read from", split))
        .iter()
        .sum();
    assert_eq!(splits, 20, "{:#?}", found.ledger.accounts);
    // Each answer is "ab" and the token that ends it.
    let base = Tokenizer::load(&place.folder("base")).expect("loads");
    let answer = base.encode("ab").expect("encodes").len() as u64 + 1;
    let train = line(&found, "training examples", "in use");
    let supervised = line(&found, "tokens of the examples in use", "supervised");
    assert_eq!(supervised, train * answer);
    let twice = (found.ledger.warnings.iter()).find(|one| one.kind.starts_with("duplicate"));
    let twice = twice.expect("what is there twice is told");
    assert!(
        twice.count > 0 && twice.places[0].contains("task.jsonl:"),
        "{twice:?}"
    );
}

#[test]
fn a_batch_that_is_looked_at_is_the_batch_that_is_trained_on() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    for layout in [
        "task.layout=padded",
        "task.layout=grouped",
        "task.layout=packed",
    ] {
        let recipe = place.recipe(&[layout]).expect("parses");
        let tokenizer = Tokenizer::load(&place.folder("base")).expect("loads");
        let task =
            prepare(&recipe.task, 64, &tokenizer, &place.context("unused")).expect("prepares");
        let trained = batches(&recipe, &task, &tokenizer, 64).expect("batches");
        for step in [1, 2, 17] {
            let asked = Asked {
                batch: Some(step),
                ..NOTHING
            };
            let view = inspected(&place, &[layout], &asked).batch.expect("a batch");
            let batch = trained.finetune_batch(step - 1);
            assert_eq!(view.places, batch.tokens() as u64, "{layout} {step}");
            assert_eq!(
                view.supervised,
                batch.supervised() as u64,
                "{layout} {step}"
            );
            assert_eq!(view.rows.len(), batch.rows);
            for (row, view) in view.rows.iter().enumerate() {
                let read: Vec<i64> = (view.segments.iter())
                    .flat_map(|segment| &segment.tokens[..segment.tokens.len() - 1])
                    .map(|token| i64::from(token.id))
                    .collect();
                let start = row * batch.cols;
                assert_eq!(
                    read,
                    batch.input_ids[start..start + read.len()],
                    "{layout} {step}"
                );
                assert_eq!(read.len() as u64 + view.padding, batch.cols as u64);
                let source = &view.segments[0].source;
                assert!(source.contains("task.jsonl:"), "{source}");
            }
        }
    }
}

#[test]
fn a_run_keeps_its_books_and_what_it_has_seen_is_what_its_batches_hold() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    place.run("run", &["train.steps=9"]).expect("runs");
    let text = fs::read_to_string(place.folder("run").join("data.json")).expect("written");
    let data: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(data["ledger"]["rests"], json!([]));
    let mut lines = metrics(&place.folder("run"));
    lines.retain(|line| line["kind"] == "train");
    let last = lines.pop().expect("a step");
    let number = |key: &str| last[key].as_u64().expect("a number");
    let asked = Asked {
        seen: Some(Seen {
            step: number("step"),
            tokens: number("tokens"),
            supervised: number("supervised"),
        }),
        ..NOTHING
    };
    let found = inspected(&place, &["train.steps=9"], &asked);
    assert_eq!(found.ledger.rests, []);
    // A log that lies shows in the books.
    let lie = Asked {
        seen: asked.seen.map(|seen| Seen {
            supervised: seen.supervised + 1,
            ..seen
        }),
        ..NOTHING
    };
    assert_eq!(
        inspected(&place, &["train.steps=9"], &lie)
            .ledger
            .rests
            .len(),
        1
    );
}

#[test]
fn an_example_that_is_not_there_is_refused_with_how_many_there_are() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let recipe = place.recipe(&[]).expect("parses");
    let asked = Asked {
        example: Some(10_000),
        ..NOTHING
    };
    let error = inspect(&recipe, &place.context("unused"), &asked).expect_err("is refused");
    assert!(error.to_string().contains("give 1 to"), "{error}");
}
