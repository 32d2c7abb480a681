//! Data sets from end to end, on small files that the tests write: fetching from archives, splits,
//! the user's own data, and every kind of bad input.

#![allow(clippy::unwrap_used)]

mod answers;
mod archives;
#[cfg(unix)]
mod debian;
mod exact;
mod folders;
mod keys;
mod refusals;
mod turns;
mod unused;

use std::fs;
use std::path::{Path, PathBuf};

use etude_data::{
    Boundary, Cache, Catalog, DataError, Dataset, Document, Kind, LocalOptions, Manifest, Progress,
    Split, TaskBody, TaskExample,
};
use tempfile::TempDir;

struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
        path
    }

    fn cache(&self) -> Cache {
        Cache::at(self.path("cache"))
    }

    fn open(&self, name: &str, options: &LocalOptions) -> Result<Dataset, DataError> {
        let path = self.path(name);
        let catalog = Catalog::load(&[] as &[&Path])?;
        catalog
            .get_with(path.to_str().expect("UTF-8"), options)?
            .fetch(&self.cache(), &Progress::Silent)
    }

    /// Opens and reads everything; the error of whichever fails first.
    fn error(&self, name: &str) -> String {
        let outcome = self
            .open(name, &LocalOptions::default())
            .and_then(|dataset| dataset.scan());
        let error = outcome.expect_err("bad input is refused");
        assert!(error.is_input(), "{error}");
        error
            .to_string()
            .replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn documents(dataset: &Dataset, splits: &[Split]) -> Vec<Document> {
    dataset
        .documents(splits)
        .expect("text")
        .collect::<Result<_, _>>()
        .expect("good documents")
}

fn examples(dataset: &Dataset, splits: &[Split]) -> Vec<TaskExample> {
    dataset
        .examples(splits)
        .expect("a task")
        .collect::<Result<_, _>>()
        .expect("good examples")
}

fn texts(dataset: &Dataset, split: Split) -> Vec<String> {
    documents(dataset, &[split])
        .into_iter()
        .map(|document| document.text)
        .collect()
}

/// A manifest for `source`, with more tables after it.
fn manifest(kind: &str, source: &str, rest: &str) -> String {
    format!(
        "name = \"mine\"\ntitle = \"Mine\"\ndescription = \"d\"\nkind = \"{kind}\"\nlicence = \"MIT\"\n[source]\n{source}\n{rest}\n"
    )
}

#[test]
fn a_text_file_is_split_at_a_line_near_its_end() {
    let home = Home::new();
    let lines: Vec<String> = (0..100).map(|i| format!("line {i:03}\n")).collect();
    home.write("mine.txt", lines.concat());
    let dataset = home.open("mine.txt", &LocalOptions::default()).unwrap();
    let (train, validation) = (
        texts(&dataset, Split::Train),
        texts(&dataset, Split::Validation),
    );
    assert_eq!((train.len(), validation.len()), (1, 1));
    assert_eq!(train.concat() + &validation.concat(), lines.concat());
    assert_eq!(validation[0].lines().count(), 5);
    let tail = &documents(&dataset, &[Split::Validation])[0];
    assert_eq!(tail.source.line, 96);
    let none = LocalOptions {
        validation: Some(0),
        ..LocalOptions::default()
    };
    assert!(texts(&home.open("mine.txt", &none).unwrap(), Split::Validation).is_empty());
}

#[test]
fn a_folder_is_read_in_order_and_each_file_is_a_document() {
    let home = Home::new();
    for (name, text) in [
        ("f/b.md", "B\n"),
        ("f/a/z.txt", "Z\n"),
        ("f/.hidden.txt", "no"),
        ("f/c.log", "no"),
    ] {
        home.write(name, text.repeat(30));
    }
    let options = LocalOptions {
        validation: Some(0),
        ..LocalOptions::default()
    };
    let dataset = home.open("f", &options).unwrap();
    let keys: Vec<String> = documents(&dataset, &Split::ALL)
        .into_iter()
        .map(|d| d.key)
        .collect();
    assert_eq!(keys, ["a/z.txt", "b.md"]);
}

#[test]
fn paragraphs_and_lines_can_be_documents() {
    let home = Home::new();
    home.write("mine.txt", "one\ntwo\n\n \nthree\n\nfour");
    for (boundary, expected) in [
        (
            Boundary::BlankLines,
            vec![("one\ntwo", 1), ("three", 5), ("four", 7)],
        ),
        (
            Boundary::Line,
            vec![("one", 1), ("two", 2), ("three", 5), ("four", 7)],
        ),
    ] {
        let options = LocalOptions {
            documents: boundary,
            validation: Some(0),
            ..LocalOptions::default()
        };
        let found = documents(&home.open("mine.txt", &options).unwrap(), &Split::ALL);
        let found: Vec<_> = found
            .iter()
            .map(|d| (d.text.as_str(), d.source.line))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn records_are_recognised_by_their_fields() {
    let home = Home::new();
    home.write("t.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n");
    assert_eq!(
        home.open("t.jsonl", &LocalOptions::default())
            .unwrap()
            .manifest()
            .kind,
        Kind::Text
    );
    home.write("c.csv", "prompt,completion\n\"a, b\",c\nd,e\nf,g\n");
    let dataset = home.open("c.csv", &LocalOptions::default()).unwrap();
    let all = examples(&dataset, &Split::ALL);
    assert_eq!(
        (
            all.len(),
            all[0].prompt_text().as_str(),
            all[0].reference_text(),
            all[1].source.line
        ),
        (3, "a, b", "c", 3)
    );
    home.write("s.jsonl", "{\"conversations\": [{\"from\": \"human\", \"value\": \"hi\"}, {\"from\": \"gpt\", \"value\": \"yes?\"}]}\n");
    let all = examples(
        &home.open("s.jsonl", &LocalOptions::default()).unwrap(),
        &Split::ALL,
    );
    let TaskBody::Chat { messages } = &all[0].body else {
        panic!("a conversation")
    };
    assert_eq!(
        (
            messages.len(),
            all[0].reference_text(),
            all[0].prompt_text().as_str()
        ),
        (2, "yes?", "hi")
    );
    home.write("q.tsv", "question\tanswer\n1+1\t2\n");
    let options = LocalOptions {
        prompt: Some("Q: {question}".into()),
        completion: Some("{answer}".into()),
        ..LocalOptions::default()
    };
    assert_eq!(
        examples(&home.open("q.tsv", &options).unwrap(), &Split::ALL)[0].prompt_text(),
        "Q: 1+1"
    );
    home.write("l.json", "[{\"text\": \"a\"}, {\"text\": \"b\"}]");
    assert_eq!(
        documents(
            &home.open("l.json", &LocalOptions::default()).unwrap(),
            &Split::ALL
        )
        .len(),
        2
    );
}

#[test]
fn a_handful_of_examples_still_gets_every_split() {
    let home = Home::new();
    let lines: String = (0..7)
        .map(|i| format!("{{\"prompt\": \"p{i}\", \"completion\": \"c{i}\"}}\n"))
        .collect();
    home.write("t.jsonl", lines);
    let dataset = home.open("t.jsonl", &LocalOptions::default()).unwrap();
    let scan = dataset.scan().unwrap();
    assert_eq!(
        (
            scan.total().documents,
            scan.validation.documents >= 1,
            scan.test.documents >= 1
        ),
        (7, true, true)
    );
    let again = home.open("t.jsonl", &LocalOptions::default()).unwrap();
    assert_eq!(
        examples(&dataset, &[Split::Test]),
        examples(&again, &[Split::Test])
    );
}

#[test]
fn files_named_for_splits_are_the_splits() {
    let home = Home::new();
    for (name, n) in [("train", 3), ("validation", 2), ("test", 1)] {
        let lines: String = (0..n)
            .map(|i| format!("{{\"prompt\": \"{name}{i}\", \"completion\": \"c\"}}\n"))
            .collect();
        home.write(&format!("d/{name}.jsonl"), lines);
    }
    let scan = home
        .open("d", &LocalOptions::default())
        .unwrap()
        .scan()
        .unwrap();
    assert_eq!(
        (
            scan.train.documents,
            scan.validation.documents,
            scan.test.documents
        ),
        (3, 2, 1)
    );
}

#[test]
fn filters_count_what_they_leave_out() {
    let home = Home::new();
    home.write("w.jsonl", "{\"a\": \"good enough\", \"b\": \"x\"}\n{\"a\": \"short\", \"b\": \"x\"}\n{\"a\": \"good enough too\", \"b\": \"none\"}\n{\"a\": \"good enough, long answer\", \"b\": \"12345\"}\n{\"b\": \"y\"}\n");
    let rest = "[read]\nformat = \"jsonl\"\n[map]\nprompt = \"{a}\"\ncompletion = \"{b}\"\nprompt_chars = 6\n\
                [filter]\nrequire = [\"a\", \"b\"]\nempty = [\"none\"]\nmin_chars = 8\nmax_completion_chars = 4";
    let path = home.write("mine.toml", manifest("task", "path = \"w.jsonl\"", rest));
    let dataset = Manifest::load(&path)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap();
    let dropped: Vec<(String, u64)> = dataset.scan().unwrap().dropped.into_iter().collect();
    let expected = [
        ("completion above 4 characters", 1),
        ("no `a`", 1),
        ("no `b`", 1),
        ("prompt below 8 characters", 1),
    ];
    assert_eq!(dropped, expected.map(|(reason, n)| (reason.to_string(), n)));
    assert_eq!(examples(&dataset, &Split::ALL)[0].prompt_text(), "good");
}

#[test]
fn conversations_are_left_out_for_few_turns_and_for_empty_ones() {
    let home = Home::new();
    let talks: [&[&str]; 4] = [&["a", "b"], &["a"], &["a", "b", "c", " "], &["", "b"]];
    let lines = talks.map(|turns| {
        let turns: Vec<String> = turns
            .iter()
            .map(|t| format!("{{\"t\": \"{t}\"}}"))
            .collect();
        format!("{{\"turns\": [{}]}}\n", turns.join(", "))
    });
    home.write("talk.jsonl", lines.concat());
    let rest = |filled: bool| {
        format!(
            "[read]\nformat = \"jsonl\"\n[map.chat]\nturns = \"turns\"\ncontent = \"{{t}}\"\n\
             [filter]\nmin_turns = 2\nfilled_turns = {filled}\n"
        )
    };
    let dropped = |filled: bool| {
        let text = manifest("task", "path = \"talk.jsonl\"", &rest(filled));
        let path = home.write("talk.toml", text);
        let dataset = Manifest::load(&path)
            .unwrap()
            .fetch(&home.cache(), &Progress::Silent)
            .unwrap();
        let dropped = dataset.scan().unwrap().dropped;
        dropped.into_iter().collect::<Vec<_>>()
    };
    let few = ("fewer than 2 turns".to_owned(), 1);
    let silent = ("an assistant turn without text".to_owned(), 1);
    assert_eq!(dropped(false), [silent, few.clone()]);
    assert_eq!(dropped(true), [("a turn without text".to_owned(), 2), few]);
}

#[test]
fn the_fingerprint_follows_the_text() {
    let home = Home::new();
    home.write("mine.txt", "some text\n".repeat(10));
    let before = home
        .open("mine.txt", &LocalOptions::default())
        .unwrap()
        .fingerprint()
        .unwrap();
    assert_eq!(
        before,
        home.open("mine.txt", &LocalOptions::default())
            .unwrap()
            .fingerprint()
            .unwrap()
    );
    home.write("mine.txt", "some test\n".repeat(10));
    assert_ne!(
        before,
        home.open("mine.txt", &LocalOptions::default())
            .unwrap()
            .fingerprint()
            .unwrap()
    );
}

#[test]
fn a_reader_that_is_dropped_early_stops() {
    let home = Home::new();
    home.write("t.jsonl", "{\"text\": \"a\"}\n".repeat(5000));
    let dataset = home
        .open(
            "t.jsonl",
            &LocalOptions {
                validation: Some(0),
                ..LocalOptions::default()
            },
        )
        .unwrap();
    assert_eq!(dataset.documents(&Split::ALL).unwrap().take(3).count(), 3);
}
