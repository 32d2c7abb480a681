//! What a full pass over a data set finds, as an account: each record with its characters, what was left out and
//! why, what the mapping leaves away or adds, and what each split got.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Dataset, Part, Scan};
use crate::error::DataError;
use crate::ledger::{Account, Amount, Line, NearDocuments, NearPair, Unit};
use crate::manifest::Kind;
use crate::mapping::{Mapped, Mapping};
use crate::split::Split;
use crate::task::SourceRef;

/// Places that are kept of each reason.
const PLACES: usize = 3;

/// Unused fields that are counted: a record may have any number.
const FIELDS: usize = 50;

/// What was read, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAccount {
    /// Files, and their bytes on disk.
    pub files: Amount,
    /// Records, and the text in their fields.
    pub read: Amount,
    /// Records left out, by reason.
    pub left_out: BTreeMap<String, LeftOut>,
    /// Fields that the mapping does not use, where it was made of what the first record looks like, with the records
    /// that have them; of the first so many fields.
    #[serde(default)]
    pub unused: BTreeMap<String, LeftOut>,
    /// Text of the other records that the mapping does not use, cleans away or cuts off.
    pub removed: Amount,
    /// Text that the mapping adds: the words of its templates, fields used twice.
    pub added: Amount,
    /// Documents of which a part is held out: one becomes two.
    pub cut_in_two: u64,
    /// The training split.
    pub train: Amount,
    /// The validation split.
    pub validation: Amount,
    /// The test split.
    pub test: Amount,
    /// Training documents that repeat an earlier one to the letter; of tasks see [`crate::ledger::findings`].
    pub repeated: LeftOut,
    /// Held-out documents that stand in the training split too.
    pub held_out_repeated: LeftOut,
    /// Training documents that are nearly an earlier one.
    pub nearly_repeated: Nearly,
    /// Held-out documents that are nearly a training document.
    pub held_out_nearly_repeated: Nearly,
    /// Documents that were not compared with the others, as there are too many.
    pub not_compared: u64,
}

/// Records left out or set apart for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many, and the text in their fields.
    pub amount: Amount,
    /// The first of them.
    pub places: Vec<String>,
}

/// Documents that are nearly another one, whose text nobody counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nearly {
    /// How many.
    pub documents: u64,
    /// The first of them, each with the one that it is like.
    pub places: Vec<String>,
}

impl ReadAccount {
    /// What one split got.
    pub fn split(&self, split: Split) -> Amount {
        match split {
            Split::Train => self.train,
            Split::Validation => self.validation,
            Split::Test => self.test,
        }
    }

    /// The two sides of it. `name` is the data set's; the lines of the splits are keyed `SPLIT:name`.
    pub fn account(&self, name: &str) -> Account {
        let mut incoming = vec![Line::new("records in the files", self.read)];
        if self.added.bytes > 0 {
            incoming.push(Line::new("text that the mapping adds", self.added));
        }
        if self.cut_in_two > 0 {
            let again = Amount {
                items: self.cut_in_two,
                ..Amount::default()
            };
            incoming.push(Line::new("documents divided between two splits", again));
        }
        let mut outgoing: Vec<Line> = self
            .left_out
            .iter()
            .map(|(reason, left_out)| {
                Line::new(format!("left out: {reason}"), left_out.amount)
                    .at(left_out.places.clone())
            })
            .collect();
        if self.removed.bytes > 0 {
            outgoing.push(Line::new("fields not used, clean-up, cuts", self.removed));
        }
        for split in Split::ALL {
            let amount = self.split(split);
            if amount.items > 0 || split == Split::Train {
                outgoing.push(
                    Line::new(split.name(), amount).keyed(format!("{}:{name}", split.name())),
                );
            }
        }
        Account {
            title: format!("read from {name}"),
            units: vec![Unit::Items, Unit::Characters, Unit::Bytes],
            incoming,
            outgoing,
        }
    }

    /// The counts of records left out.
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        let left_out = self.left_out.iter();
        left_out
            .map(|(reason, left_out)| (reason.clone(), left_out.amount.items))
            .collect()
    }

    fn keep(&mut self, read: Amount, mapped: Amount) {
        self.removed.characters += read.characters.saturating_sub(mapped.characters);
        self.removed.bytes += read.bytes.saturating_sub(mapped.bytes);
        self.added.characters += mapped.characters.saturating_sub(read.characters);
        self.added.bytes += mapped.bytes.saturating_sub(read.bytes);
    }

    fn leave(&mut self, name: &str, value: &Value, place: &SourceRef) {
        let known = self.unused.contains_key(name);
        if known || self.unused.len() < FIELDS {
            let mut amount = Amount::tokens(1, 0);
            count_text(value, &mut amount);
            let unused = self.unused.entry(name.to_owned()).or_default();
            unused.add(amount, place);
        }
    }

    fn give(&mut self, split: Split, amount: Amount) {
        *match split {
            Split::Train => &mut self.train,
            Split::Validation => &mut self.validation,
            Split::Test => &mut self.test,
        } += amount;
    }
}

impl LeftOut {
    fn add(&mut self, amount: Amount, place: &SourceRef) {
        self.amount += amount;
        if self.places.len() < PLACES {
            self.places.push(place.to_string());
        }
    }
}

impl Nearly {
    fn add(&mut self, pair: &NearPair) {
        self.documents += 1;
        if self.places.len() < PLACES {
            self.places
                .push(format!("{} and {}", pair.place, pair.like));
        }
    }
}

/// The documents met so far, by a hash of their text.
#[derive(Default)]
struct Met {
    train: HashSet<u64>,
    held_out: Vec<(u64, Amount, SourceRef)>,
    near: NearDocuments,
}

impl Met {
    fn add(&mut self, split: Split, text: &str, place: &SourceRef, account: &mut ReadAccount) {
        let mut hasher = DefaultHasher::new();
        text.trim().hash(&mut hasher);
        let (hash, amount) = (hasher.finish(), Amount::of([text]));
        if split != Split::Train {
            self.held_out.push((hash, amount, place.clone()));
        } else if !self.train.insert(hash) {
            return account.repeated.add(amount, place);
        }
        self.near.add(split, text, place);
    }

    fn finish(self, account: &mut ReadAccount) {
        let mut repeated = HashSet::new();
        for (hash, amount, place) in &self.held_out {
            if self.train.contains(hash) {
                account.held_out_repeated.add(*amount, place);
                repeated.insert(place);
            }
        }
        for pair in self.near.pairs() {
            if !pair.held_out {
                account.nearly_repeated.add(&pair);
            } else if !repeated.contains(&pair.place) {
                account.held_out_nearly_repeated.add(&pair);
            }
        }
        account.not_compared = self.near.not_compared();
    }
}

impl Dataset {
    /// Reads everything once and accounts for it; the way to find every bad line before training starts.
    ///
    /// # Errors
    /// As [`Dataset::scan`].
    pub fn account(&self) -> Result<ReadAccount, DataError> {
        let plan = self.plan()?;
        let manifest = self.manifest();
        let mapping = Mapping::new(manifest)?;
        let mut account = ReadAccount::default();
        for path in self.files() {
            let bytes = std::fs::metadata(&path)
                .map_err(DataError::io("read", &path))?
                .len();
            account.files += Amount {
                items: 1,
                bytes,
                ..Amount::default()
            };
        }
        let (mut offset, mut met) = (0, Met::default());
        self.each_record(&mut |record, file, source| {
            let mut read = Amount {
                items: 1,
                ..Amount::default()
            };
            count_text(&record.value, &mut read);
            account.read += read;
            let place = source.clone();
            for (name, value) in mapping.unused(&record) {
                account.leave(name, value, &place);
            }
            let reason = match manifest.kind {
                Kind::Task => match mapping.example(&record, file, source)? {
                    Mapped::Kept(example, key) => {
                        let messages = example.messages();
                        let amount =
                            Amount::of(messages.iter().map(|message| message.content.as_str()));
                        account.keep(read, amount);
                        account.give(plan.split(file, &key), amount);
                        return Ok(true);
                    }
                    Mapped::Dropped(reason) => reason,
                },
                Kind::Text => match mapping.document(&record, file, source)? {
                    Mapped::Kept(document, _) => {
                        let start = offset;
                        let text = document.text.as_str();
                        offset += text.len() as u64;
                        account.keep(read, Amount::of([text]));
                        let parts = match plan.cut_within(start, &document)? {
                            Some(cut) => {
                                account.cut_in_two += 1;
                                let (head, tail) = text.split_at(cut);
                                vec![(Split::Train, head), (Split::Validation, tail)]
                            }
                            None => vec![(plan.split_at(file, &document.key, start), text)],
                        };
                        for (split, text) in parts {
                            account.give(split, Amount::of([text]));
                            met.add(split, text, &place, &mut account);
                        }
                        return Ok(true);
                    }
                    Mapped::Dropped(reason) => reason,
                },
            };
            account
                .left_out
                .entry(reason)
                .or_default()
                .add(read, &place);
            Ok(true)
        })?;
        met.finish(&mut account);
        if account.train.items == 0 {
            return Err(self.nothing_left(&account.scan()));
        }
        Ok(account)
    }
}

impl ReadAccount {
    fn scan(&self) -> Scan {
        let part = |split| {
            let Amount {
                items,
                characters,
                bytes,
                ..
            } = self.split(split);
            Part {
                documents: items,
                bytes,
                characters,
            }
        };
        Scan {
            train: part(Split::Train),
            validation: part(Split::Validation),
            test: part(Split::Test),
            dropped: self.dropped(),
        }
    }
}

/// Adds the texts in the fields of a record; numbers and truth values count as they are written.
fn count_text(value: &Value, amount: &mut Amount) {
    let mut add = |text: &str| {
        amount.characters += text.chars().count() as u64;
        amount.bytes += text.len() as u64;
    };
    match value {
        Value::Null => {}
        Value::String(text) => add(text),
        Value::Bool(_) | Value::Number(_) => add(&value.to_string()),
        Value::Array(values) => values.iter().for_each(|value| count_text(value, amount)),
        Value::Object(fields) => fields.values().for_each(|value| count_text(value, amount)),
    }
}
