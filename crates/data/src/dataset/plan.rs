//! The plan of a split: how to tell a document's split while reading. Percentages need nothing but
//! the key; a tail needs the total size, so one pass over the files comes first; the user's own
//! small data sets get at least one document in each split that was asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::Dataset;
use crate::documents::Document;
use crate::error::DataError;
use crate::manifest::{Kind, Registry};
use crate::mapping::{Mapped, Mapping};
use crate::split::{Split, key_hash, split_of};

#[derive(Debug)]
pub(super) enum Plan {
    /// Everything is for training.
    All,
    /// By the hash of the key; `moved` are keys' hashes that were moved to fill an empty split.
    Hash {
        salt: String,
        validation: u8,
        test: u8,
        moved: BTreeMap<u64, Split>,
    },
    /// The bytes from `cut` on are for validation.
    Tail { cut: u64, exact: bool },
    /// By the file's name; `rest` shares out what the names leave for training.
    ByFile { rest: Box<Plan> },
}

impl Plan {
    pub(super) fn make(dataset: &Dataset) -> Result<Self, DataError> {
        let rule = &dataset.manifest().split;
        if rule.by_file {
            let rest = Box::new(Self::by_hash(dataset)?);
            return Ok(Self::ByFile { rest });
        }
        if rule.tail_bytes.is_some() || rule.tail_percent.is_some() {
            return tail(dataset);
        }
        Self::by_hash(dataset)
    }

    fn by_hash(dataset: &Dataset) -> Result<Self, DataError> {
        let rule = &dataset.manifest().split;
        if rule.validation == 0 && rule.test == 0 {
            return Ok(Self::All);
        }
        // Shipped sets are large, and sets that share a salt must agree: no exceptions there.
        let moved = match dataset.manifest().source.registry {
            Registry::Local => fill(dataset)?,
            _ => BTreeMap::new(),
        };
        Ok(Self::Hash {
            salt: rule.salt.clone(),
            validation: rule.validation,
            test: rule.test,
            moved,
        })
    }

    /// The split of a document or example; a tail split needs `split_at`.
    pub(super) fn split(&self, file: &str, key: &str) -> Split {
        match self {
            Self::All | Self::Tail { .. } => Split::Train,
            Self::ByFile { rest } => match file_split(file) {
                Split::Train => rest.split(file, key),
                held_out => held_out,
            },
            Self::Hash {
                salt,
                validation,
                test,
                moved,
            } => {
                let hash = key_hash(salt, key);
                moved
                    .get(&hash)
                    .copied()
                    .unwrap_or_else(|| split_of(hash, *validation, *test))
            }
        }
    }

    /// The split of a document that starts at byte `start` of all documents joined.
    pub(super) fn split_at(&self, file: &str, key: &str, start: u64) -> Split {
        match self {
            Self::Tail { cut, .. } if start >= *cut => Split::Validation,
            _ => self.split(file, key),
        }
    }

    /// Where a document that starts at `start` is cut in two, if it is.
    pub(super) fn cut_within(
        &self,
        start: u64,
        document: &Document,
    ) -> Result<Option<usize>, DataError> {
        let Self::Tail { cut, exact } = *self else {
            return Ok(None);
        };
        let Some(at) = cut
            .checked_sub(start)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return Ok(None);
        };
        let text = &document.text;
        if at == 0 || at >= text.len() {
            return Ok(None);
        }
        if exact {
            if !text.is_char_boundary(at) {
                let what = format!("`split.tail_bytes` cuts a character in two at byte {at}");
                return Err(DataError::at(
                    &document.source,
                    what,
                    "make it a few bytes more or less",
                ));
            }
            return Ok(Some(at));
        }
        // At the start of a line, or of a character where the text has no lines.
        let line = text.as_bytes()[..at]
            .iter()
            .rposition(|&b| b == b'\n')
            .map(|newline| newline + 1);
        let character = (0..=at).rev().find(|&at| text.is_char_boundary(at));
        Ok(line.or(character).filter(|&at| at > 0))
    }
}

fn tail(dataset: &Dataset) -> Result<Plan, DataError> {
    let mut total: u64 = 0;
    dataset.each_whole_document(
        &mut |_, document| {
            total += document.text.len() as u64;
            Ok(true)
        },
        &mut |_| {},
    )?;
    let rule = &dataset.manifest().split;
    let (held_out, exact) = match (rule.tail_bytes, rule.tail_percent) {
        (Some(bytes), _) => (bytes, true),
        (None, percent) => (total / 100 * u64::from(percent.unwrap_or(0)), false),
    };
    if held_out >= total && total > 0 {
        let what = format!("the text has {total} bytes and `split` holds {held_out} of them out");
        return Err(DataError::in_file(
            &dataset.manifest().origin,
            what,
            "hold less out, or add text",
        ));
    }
    Ok(Plan::Tail {
        cut: total - held_out,
        exact,
    })
}

/// The keys to move so that no split that was asked for stays empty: those that hash lowest.
fn fill(dataset: &Dataset) -> Result<BTreeMap<u64, Split>, DataError> {
    let rule = &dataset.manifest().split;
    let mut hashes = BTreeSet::new();
    let mapping = Mapping::new(dataset.manifest())?;
    let kind = dataset.manifest().kind;
    dataset.each_record(&mut |record, file, source| {
        if rule.by_file && file_split(file) != Split::Train {
            return Ok(true);
        }
        let key = match kind {
            Kind::Text => match mapping.document(&record, file, source)? {
                Mapped::Kept(_, key) => Some(key),
                Mapped::Dropped(_) => None,
            },
            Kind::Task => match mapping.example(&record, file, source)? {
                Mapped::Kept(_, key) => Some(key),
                Mapped::Dropped(_) => None,
            },
        };
        hashes.extend(key.map(|key| key_hash(&rule.salt, &key)));
        Ok(true)
    })?;
    let mut moved = BTreeMap::new();
    for (split, percent) in [
        (Split::Test, rule.test),
        (Split::Validation, rule.validation),
    ] {
        let now = |hash: &u64| split_of(*hash, rule.validation, rule.test);
        let wanted = percent > 0 && !hashes.iter().any(|hash| now(hash) == split);
        let mut spare = hashes
            .iter()
            .filter(|hash| now(hash) == Split::Train && !moved.contains_key(*hash));
        if wanted
            && let Some(&hash) = spare.next()
            // The last training document stays one.
            && spare.next().is_some()
        {
            moved.insert(hash, split);
        }
    }
    Ok(moved)
}

/// The split that a file's name speaks of; what it does not speak of is for training.
fn file_split(file: &str) -> Split {
    named_split(file).unwrap_or(Split::Train)
}

/// The split that the first word of a file's name says, if it says one.
pub(crate) fn named_split(file: &str) -> Option<Split> {
    const WORDS: [(&str, Split); 12] = [
        ("training", Split::Train),
        ("train", Split::Train),
        ("testing", Split::Test),
        ("test", Split::Test),
        ("evaluation", Split::Test),
        ("eval", Split::Test),
        ("validation", Split::Validation),
        ("valid", Split::Validation),
        ("val", Split::Validation),
        ("devel", Split::Validation),
        ("devtest", Split::Validation),
        ("dev", Split::Validation),
    ];
    // `testdata`, `devset`, `tests`, `testA` are the same words; `testimony` is another.
    const ENDINGS: [&str; 8] = ["", "s", "set", "sets", "data", "file", "files", "split"];
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let word = name.split(|c: char| !c.is_ascii_alphabetic()).next()?;
    let says = |start: &str| {
        let rest = word.strip_prefix(start);
        rest.is_some_and(|rest| rest.len() == 1 || ENDINGS.contains(&rest))
    };
    let found = WORDS.into_iter().find(|(start, _)| says(start));
    found.map(|(_, split)| split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_first_word_says_its_split() {
        let cases = [
            ("train.jsonl", Some(Split::Train)),
            (
                "data/validation-00000-of-00002.jsonl",
                Some(Split::Validation),
            ),
            ("dev_v2.json", Some(Split::Validation)),
            ("Test.csv", Some(Split::Test)),
            ("eval2.tsv", Some(Split::Test)),
            ("development.md", None),
            ("testimony.txt", None),
            ("testdata.jsonl", Some(Split::Test)),
            ("testA.txt", Some(Split::Test)),
            ("devel.txt", Some(Split::Validation)),
            ("validations.csv", Some(Split::Validation)),
            ("trainees.txt", None),
            ("values.txt", None),
            ("test/notes.md", None),
        ];
        for (name, split) in cases {
            assert_eq!(named_split(name), split, "{name}");
        }
    }
}
