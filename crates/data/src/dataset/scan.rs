//! A full pass over a data set: its sizes, what was left out and why, and a fair sample.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Dataset;
use crate::error::DataError;
use crate::manifest::Kind;
use crate::split::{Split, key_hash};
use crate::task::SourceRef;

/// What a full pass over a data set found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scan {
    /// The training split.
    pub train: Part,
    /// The validation split.
    pub validation: Part,
    /// The test split.
    pub test: Part,
    /// How many records were left out, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// The size of one split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Documents or examples.
    pub documents: u64,
    /// Bytes of their text; of all turns, or of prompt and completion, for a task.
    pub bytes: u64,
    /// Characters of the same.
    pub characters: u64,
}

impl Scan {
    /// One split's size.
    pub fn part(&self, split: Split) -> Part {
        match split {
            Split::Train => self.train,
            Split::Validation => self.validation,
            Split::Test => self.test,
        }
    }

    /// All splits together.
    pub fn total(&self) -> Part {
        Split::ALL.iter().fold(Part::default(), |sum, &split| {
            let part = self.part(split);
            Part {
                documents: sum.documents + part.documents,
                bytes: sum.bytes + part.bytes,
                characters: sum.characters + part.characters,
            }
        })
    }

    fn add(&mut self, split: Split, text: &[&str]) {
        let part = match split {
            Split::Train => &mut self.train,
            Split::Validation => &mut self.validation,
            Split::Test => &mut self.test,
        };
        part.documents += 1;
        for text in text {
            part.bytes += text.len() as u64;
            part.characters += text.chars().count() as u64;
        }
    }
}

impl Dataset {
    /// Reads everything once and counts it; the way to find every bad line before training starts.
    ///
    /// # Errors
    /// The first bad record; or that nothing at all is left to learn from, and why.
    pub fn scan(&self) -> Result<Scan, DataError> {
        let scan = self.count()?;
        if scan.train.documents == 0 {
            return Err(self.nothing_left(&scan));
        }
        Ok(scan)
    }

    /// How many records are left out, by reason; whatever split they would be in.
    ///
    /// # Errors
    /// The first bad record; or that no record at all is left, and why.
    pub fn dropped(&self) -> Result<BTreeMap<String, u64>, DataError> {
        let scan = self.count()?;
        if scan.total().documents == 0 {
            return Err(self.nothing_left(&scan));
        }
        Ok(scan.dropped)
    }

    fn count(&self) -> Result<Scan, DataError> {
        let mut scan = Scan::default();
        let mut dropped = BTreeMap::new();
        let mut on_drop = |reason: String| *dropped.entry(reason).or_insert(0) += 1;
        match self.0.manifest.kind {
            Kind::Text => self.each_document(
                &mut |split, document| {
                    scan.add(split, &[&document.text]);
                    true
                },
                &mut on_drop,
            )?,
            Kind::Task => self.each_example(
                &mut |split, example| {
                    let messages = example.messages();
                    let texts: Vec<&str> = messages
                        .iter()
                        .map(|message| message.content.as_str())
                        .collect();
                    scan.add(split, &texts);
                    true
                },
                &mut on_drop,
            )?,
        }
        scan.dropped = dropped;
        Ok(scan)
    }

    /// The `n` documents or examples of the training split whose keys hash lowest, as text: a fair
    /// and repeatable sample.
    ///
    /// # Errors
    /// As `scan`.
    pub fn sample(&self, n: usize) -> Result<Vec<(SourceRef, Vec<String>)>, DataError> {
        let mut best: BTreeMap<(u64, u64), (SourceRef, Vec<String>)> = BTreeMap::new();
        let mut count = 0;
        let mut offer = |split: Split, key: &str, source: SourceRef, texts: Vec<String>| {
            count += 1;
            if split == Split::Train {
                best.insert((key_hash("sample", key), count), (source, texts));
                if best.len() > n {
                    best.pop_last();
                }
            }
            true
        };
        match self.0.manifest.kind {
            Kind::Text => self.each_document(
                &mut |split, document| {
                    offer(split, &document.key, document.source, vec![document.text])
                },
                &mut |_| {},
            )?,
            Kind::Task => self.each_example(
                &mut |split, example| {
                    let texts = example
                        .messages()
                        .into_iter()
                        .map(|message| message.content)
                        .collect();
                    offer(split, &example.id, example.source, texts)
                },
                &mut |_| {},
            )?,
        }
        Ok(best.into_values().collect())
    }

    pub(super) fn nothing_left(&self, scan: &Scan) -> DataError {
        let held_out = scan.validation.documents + scan.test.documents;
        let reasons: Vec<String> = scan
            .dropped
            .iter()
            .map(|(reason, n)| format!("{n} with {reason}"))
            .collect();
        let (what, remedy) = if held_out > 0 {
            (
                format!("all {held_out} documents fell into validation and test"),
                "add data, or hold less out in `split`".to_string(),
            )
        } else if reasons.is_empty() {
            (
                "there is nothing in it".to_string(),
                "name a file or folder with text".to_string(),
            )
        } else {
            (
                format!("nothing is left of it: {}", reasons.join(", ")),
                "change the data or `filter`".to_string(),
            )
        };
        let place = if self.0.names.len() == 1 {
            self.0.root.join(&self.0.names[0])
        } else {
            self.0.root.clone()
        };
        DataError::in_file(&place, what, remedy)
    }
}
