//! What should be looked at in the examples of a task before anybody learns from them.

use std::collections::BTreeMap;

use etude_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use super::similar::{Similar, Texts};
use super::unused::unused_fields;
use crate::dataset::ReadAccount;
use crate::example::{RenderReport, RenderedExample};
use crate::split::Split;
use crate::task::TaskExample;

/// Places that a finding names.
const PLACES: usize = 3;

/// Something that should be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A short name that stays the same.
    pub kind: String,
    /// What was found, in a sentence.
    pub text: String,
    /// In how many examples or records.
    pub count: u64,
    /// The first of them, by file and line.
    pub places: Vec<String>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)?;
        if !self.places.is_empty() {
            write!(f, " ({}", short(&self.places))?;
            if self.count > self.places.len() as u64 {
                f.write_str("; …")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Places one after the other, `FILE:3; :7 and :9`: a file is not named again while the next place is in it too.
fn short(places: &[String]) -> String {
    let mut named = None;
    let mut one = |place: &str| match place.rsplit_once(':') {
        Some((file, number)) if named.as_deref() == Some(file) => format!(":{number}"),
        before => {
            named = before.map(|(file, _)| file.to_owned());
            place.to_owned()
        }
    };
    let mut texts = places.iter().map(|place| {
        let parts: Vec<String> = place.split(" and ").map(&mut one).collect();
        parts.join(" and ")
    });
    let first = texts.next().unwrap_or_default();
    texts.fold(first, |all, text| all + "; " + &text)
}

/// A count with the words for one, or those for more or none.
pub fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// Gathers the examples of a finding.
#[derive(Default)]
struct Found {
    count: u64,
    places: Vec<String>,
}

impl Found {
    fn add(&mut self, place: impl FnOnce() -> String) {
        self.count += 1;
        if self.places.len() < PLACES {
            self.places.push(place());
        }
    }

    fn tell(self, kind: &str, text: impl FnOnce(u64) -> String, out: &mut Vec<Finding>) {
        if self.count > 0 {
            out.push(Finding {
                kind: kind.to_owned(),
                text: text(self.count),
                count: self.count,
                places: self.places,
            });
        }
    }
}

/// Looks through a task: the training examples in use (`examples`, and `rendered`, what the model sees of those
/// that are kept), and those held out.
pub fn findings(
    tokenizer: &Tokenizer,
    examples: &[TaskExample],
    rendered: &[RenderedExample],
    report: &RenderReport,
    read: &ReadAccount,
    held_out: &[(Split, &[TaskExample])],
) -> Vec<Finding> {
    let mut out = Vec::new();
    masks(tokenizer, rendered, &mut out);
    lengths(rendered, report, &mut out);
    left_empty(read, &mut out);
    out.extend(unused_fields(read));
    as_context(report, &mut out);
    repetitions(examples, &mut out);
    let prompts: Vec<String> = examples.iter().map(TaskExample::prompt_text).collect();
    let known = Texts::new(&prompts);
    for (split, held_out) in held_out {
        overlaps(&known, examples, *split, held_out, &mut out);
    }
    out
}

fn masks(tokenizer: &Tokenizer, rendered: &[RenderedExample], out: &mut Vec<Finding>) {
    let stops = tokenizer.stop_ids();
    let begin = tokenizer.bos_id();
    let (mut endless, mut empty, mut twice) =
        (Found::default(), Found::default(), Found::default());
    for example in rendered {
        let learnt = || {
            let both = example.ids.iter().zip(&example.supervised).skip(1);
            both.filter(|&(_, &supervised)| supervised)
                .map(|(&id, _)| id)
        };
        let place = || example.source.to_string();
        if !learnt().any(|id| stops.contains(&id)) {
            endless.add(place);
        }
        if learnt().all(|id| tokenizer.is_special(id)) {
            empty.add(place);
        }
        if begin.is_some_and(|begin| example.ids.starts_with(&[begin, begin])) {
            twice.add(place);
        }
    }
    endless.tell(
        "no-end",
        |count| format!("{} no end token, so the model is not taught to stop after such answers; shorten them or raise the context", counted(count, "example teaches", "examples teach")),
        out,
    );
    empty.tell(
        "empty-answer",
        |count| {
            format!(
                "{} no text in the supervised part",
                counted(count, "example has", "examples have")
            )
        },
        out,
    );
    twice.tell(
        "begin-twice",
        |count| {
            format!(
                "{} with the beginning token twice: the chat template writes it once more",
                counted(count, "example begins", "examples begin")
            )
        },
        out,
    );
}

fn lengths(rendered: &[RenderedExample], report: &RenderReport, out: &mut Vec<Finding>) {
    let all = report.kept + report.dropped();
    let share = |count: u64| format!("{:.1}%", 100.0 * count as f64 / all.max(1) as f64);
    let mut cut = Found::default();
    for example in rendered.iter().filter(|example| example.truncated) {
        cut.add(|| example.source.to_string());
    }
    if report.truncated * 100 > all {
        cut.tell(
            "truncated",
            |count| format!("truncated: {count} of {all} examples ({})", share(count)),
            out,
        );
    }
    if report.dropped() * 100 > all {
        let places = report.dropped_places.values().flatten().take(PLACES);
        let left_out = Found {
            count: report.dropped(),
            places: places.cloned().collect(),
        };
        left_out.tell(
            "left-out",
            |count| {
                format!(
                    "left out, as they are too long for the context or the row: {count} of {all} examples ({})",
                    share(count)
                )
            },
            out,
        );
    }
}

/// Answers that nobody learns, for the template's reasons.
fn as_context(report: &RenderReport, out: &mut Vec<Finding>) {
    let mut tell = |kind: &str, count: u64, why: &str| {
        let found = Found {
            count,
            places: Vec::new(),
        };
        found.tell(
            kind,
            |count| format!("{}{why}", counted(count, "answer is", "answers are")),
            out,
        );
    };
    tell(
        "answers-as-context",
        report.answers_as_context,
        " context alone, as the chat template rewrites earlier answers; make an example that ends with each that should be learnt",
    );
    tell(
        "answers-unasked",
        report.answers_unasked,
        " context alone, as the chat template drops or changes answers before the first question; put a question before them",
    );
}

fn left_empty(read: &ReadAccount, out: &mut Vec<Finding>) {
    for (reason, left_out) in &read.left_out {
        if reason.starts_with("empty") {
            let found = Found {
                count: left_out.amount.items,
                places: left_out.places.clone(),
            };
            found.tell(
                "empty-record",
                |count| {
                    format!(
                        "{} left out: {reason}",
                        counted(count, "record is", "records are")
                    )
                },
                out,
            );
        }
    }
}

fn repetitions(examples: &[TaskExample], out: &mut Vec<Finding>) {
    let whole = |example: &TaskExample| {
        let turns = example
            .messages()
            .into_iter()
            .map(|message| message.content);
        turns.collect::<Vec<_>>().join("\n\n")
    };
    let texts: Vec<String> = examples.iter().map(whole).collect();
    let (mut same, mut near) = (Found::default(), Found::default());
    for (number, like) in Texts::new(&texts).repeated().into_iter().enumerate() {
        pair(like, &examples[number], examples, &mut same, &mut near);
    }
    same.tell(
        "duplicate",
        |count| {
            format!(
                "{} an earlier one",
                counted(
                    count,
                    "training example repeats",
                    "training examples repeat"
                )
            )
        },
        out,
    );
    near.tell(
        "near-duplicate",
        |count| {
            format!(
                "{} nearly an earlier one",
                counted(count, "training example is", "training examples are")
            )
        },
        out,
    );
    // The same question, another answer.
    let mut answers: BTreeMap<String, &TaskExample> = BTreeMap::new();
    let mut other = Found::default();
    for example in examples {
        match answers.get(&example.prompt_text()) {
            Some(first) if first.reference_text() != example.reference_text() => {
                other.add(|| format!("{} and {}", first.source, example.source));
            }
            Some(_) => {}
            None => {
                answers.insert(example.prompt_text(), example);
            }
        }
    }
    other.tell(
        "two-answers",
        |count| {
            counted(
                count,
                "training example asks what an earlier one asks, and answers otherwise",
                "training examples ask what an earlier one asks, and answer otherwise",
            )
        },
        out,
    );
}

fn overlaps(
    known: &Texts,
    train: &[TaskExample],
    split: Split,
    held_out: &[TaskExample],
    out: &mut Vec<Finding>,
) {
    let prompts: Vec<String> = held_out.iter().map(TaskExample::prompt_text).collect();
    let (mut same, mut near) = (Found::default(), Found::default());
    for (example, like) in held_out.iter().zip(known.like(&prompts)) {
        pair(like, example, train, &mut same, &mut near);
    }
    let (name, of) = (split.name(), held_out.len());
    let asks = |count| if count == 1 { "asks" } else { "ask" };
    same.tell(
        "overlap",
        |count| format!("{count} of {of} {name} examples {} what a training example asks, so scores on them are too good", asks(count)),
        out,
    );
    near.tell(
        "near-overlap",
        |count| {
            format!(
                "{count} of {of} {name} examples {} nearly what a training example asks",
                asks(count)
            )
        },
        out,
    );
}

fn pair(
    like: Option<Similar>,
    example: &TaskExample,
    others: &[TaskExample],
    same: &mut Found,
    near: &mut Found,
) {
    let place = |other: usize| format!("{} and {}", example.source, others[other].source);
    match like {
        Some(Similar::Same(other)) => same.add(|| place(other)),
        Some(Similar::Near(other)) => near.add(|| place(other)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_nobody_learns_are_told_by_their_reason() {
        let mut found = Vec::new();
        as_context(&RenderReport::default(), &mut found);
        assert_eq!(found, []);
        let report = RenderReport {
            answers_as_context: 2,
            answers_unasked: 1,
            ..RenderReport::default()
        };
        as_context(&report, &mut found);
        let told: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert!(
            told[0].starts_with("2 answers are context alone, as the chat template rewrites"),
            "{told:?}"
        );
        assert!(
            told[1].starts_with("1 answer is context alone, as the chat template drops or changes"),
            "{told:?}"
        );
    }

    #[test]
    fn a_file_that_places_share_is_named_once() {
        let told = |places: &[&str], count| {
            let finding = Finding {
                kind: "k".into(),
                text: "found".into(),
                count,
                places: places.iter().map(|&place| place.to_owned()).collect(),
            };
            finding.to_string()
        };
        assert_eq!(told(&[], 2), "found");
        assert_eq!(told(&["a/b.jsonl:3"], 1), "found (a/b.jsonl:3)");
        assert_eq!(
            told(
                &["a/b.jsonl:3 and a/b.jsonl:9", "a/b.jsonl:4 and a/c.jsonl:1"],
                5
            ),
            "found (a/b.jsonl:3 and :9; :4 and a/c.jsonl:1; …)"
        );
        assert_eq!(
            told(&["b.jsonl:3 and a/b.jsonl:9", "old-b.jsonl:4"], 2),
            "found (b.jsonl:3 and a/b.jsonl:9; old-b.jsonl:4)"
        );
        assert_eq!(told(&["a:3", "b:5", "a:9"], 3), "found (a:3; b:5; a:9)");
        assert_eq!(told(&["a", "a"], 2), "found (a; a)");
    }
}
