//! Debian's package descriptions as records: reads apt's lists, joins two languages where there are
//! two, and writes one JSON object a line. Fetching the lists is left to `fetch`, choosing among the
//! records to the manifests.
//!
//! English alone gives a record a description:
//!
//! ```json
//! {"package": "0ad", "family": "0ad", "shape": "…", "synopsis": "real-time strategy …", "description": "0 A.D. is …"}
//! ```
//!
//! English and another language give a record for the synopsis and one for each paragraph or item of a
//! list, where both sides have the same ones:
//!
//! ```json
//! {"package": "0ad", "family": "0ad", "part": "synopsis", "shape": "real time …", "en": "…", "de": "…"}
//! ```
//!
//! What could not be paired is a record without the translation, so that it is counted.

mod body;
mod family;
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::DataError;
use body::{Block, Kind, chunks};
use family::{Families, shape};
use list::Description;

/// The form of the records; another number when what is written changes, so that no cache keeps the old.
pub(crate) const FORM: &str = "debian-descriptions-1";

/// A list of descriptions that apt has fetched.
#[derive(Clone, Debug)]
pub(crate) struct ListFile {
    /// Its language.
    pub(crate) language: String,
    /// Where it lies.
    pub(crate) path: PathBuf,
}

/// The descriptions of one language by the hash of the English text.
type Descriptions = BTreeMap<String, Description>;

/// Writes the records of `lists` into `folder`; answers the file's name. `languages` is English, and
/// another one or none.
///
/// # Errors
/// A list that is not as Debian writes it: file, line and what is wrong.
pub(crate) fn write_records(
    lists: &[ListFile],
    languages: &[String],
    folder: &Path,
) -> Result<String, DataError> {
    let of = |language: &str| -> Result<Descriptions, DataError> {
        let mut all = Descriptions::new();
        for list in lists.iter().filter(|list| list.language == language) {
            list::read(&list.path, language, &mut |description| {
                // Several suites list the same text.
                all.entry(description.md5.clone()).or_insert(description);
            })?;
        }
        Ok(all)
    };
    let english = of("en")?;
    // From the English alone, so that sets of other languages have the same families.
    let families = Families::of(english.values().flat_map(|description| {
        let paragraphs = chunks(&description.body).into_iter();
        paragraphs.map(|chunk| (description.package.as_str(), text(&chunk)))
    }));
    let name = "descriptions.jsonl".to_string();
    let path = folder.join(&name);
    let file = File::create(&path).map_err(DataError::io("create", &path))?;
    let mut out = BufWriter::new(file);
    let mut write = |record: Map<String, Value>| {
        writeln!(out, "{}", Value::Object(record)).map_err(DataError::io("write", &path))
    };
    // By package, so that the order does not depend on the hashes.
    let order: BTreeSet<(&str, &str)> = english
        .iter()
        .map(|(md5, description)| (description.package.as_str(), md5.as_str()))
        .collect();
    match languages.get(1) {
        None => {
            for (_, md5) in order {
                write(whole(&english[md5], &families))?;
            }
        }
        Some(language) => {
            let translated = of(language)?;
            for (_, md5) in order {
                if let Some(translation) = translated.get(md5) {
                    for record in pairs(&english[md5], translation, language, &families) {
                        write(record)?;
                    }
                }
            }
        }
    }
    let file = out
        .into_inner()
        .map_err(|error| DataError::io("write", &path)(error.into_error()))?;
    file.sync_all().map_err(DataError::io("write", &path))?;
    Ok(name)
}

fn record(fields: &[(&str, &str)]) -> Map<String, Value> {
    fields
        .iter()
        .map(|&(name, value)| (name.to_string(), Value::from(value)))
        .collect()
}

/// The text between two empty lines.
fn text(chunk: &[Block]) -> String {
    let lines: Vec<String> = chunk
        .iter()
        .map(|block| match block.kind {
            Kind::Item => format!("* {}", block.text),
            Kind::Flow | Kind::Verbatim => block.text.clone(),
        })
        .collect();
    lines.join("\n")
}

/// A description as one record.
fn whole(description: &Description, families: &Families) -> Map<String, Value> {
    let paragraphs: Vec<String> = chunks(&description.body).iter().map(|c| text(c)).collect();
    let text = paragraphs.join("\n\n");
    record(&[
        ("package", &description.package),
        ("family", &families.key(&description.package)),
        ("shape", &shape(&text, &description.package)),
        ("synopsis", &description.synopsis),
        ("description", &text),
    ])
}

/// A description and its translation as records: the synopsis, then the blocks that face each other.
fn pairs(
    english: &Description,
    translation: &Description,
    language: &str,
    families: &Families,
) -> Vec<Map<String, Value>> {
    let package = &english.package;
    let (family, mut records) = (families.key(package), Vec::new());
    let mut push = |part: &str, text: &str, other: Option<&str>| {
        let mut fields = record(&[
            ("package", package),
            ("family", &family),
            ("part", part),
            ("shape", &shape(text, package)),
            ("en", text),
        ]);
        if let Some(other) = other {
            fields.insert(language.to_string(), Value::from(other));
        }
        records.push(fields);
    };
    push("synopsis", &english.synopsis, Some(&translation.synopsis));
    let (left, right) = (chunks(&english.body), chunks(&translation.body));
    for (at, chunk) in left.iter().enumerate() {
        // Paragraph by paragraph only where there are as many on both sides, and a paragraph's lines
        // and items only where they are of the same kinds.
        let facing = right.get(at).filter(|other| {
            left.len() == right.len()
                && chunk.len() == other.len()
                && chunk.iter().zip(*other).all(|(a, b)| a.kind == b.kind)
        });
        for (number, block) in chunk.iter().enumerate() {
            let part = match block.kind {
                Kind::Flow => "paragraph",
                Kind::Item => "item",
                // Tables, commands and names: nothing to translate.
                Kind::Verbatim => continue,
            };
            let other = facing.map(|other| other[number].text.as_str());
            push(part, &block.text, other);
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = "Package: libfoo1\nDescription-md5: 00000000000000000000000000000001\n\
        Description-en: shared library\n A library\n for foo.\n .\n It does:\n  * one thing,\n    slowly\n  * another\n\n\
        Package: bar\nDescription-md5: 00000000000000000000000000000002\n\
        Description-en: a bar\n First.\n .\n Second.\n";
    const GERMAN: &str = "Package: bar\nDescription-md5: 00000000000000000000000000000002\n\
        Description-de: eine Bar\n Nur eines.\n\n\
        Package: libfoo1\nDescription-md5: 00000000000000000000000000000001\n\
        Description-de: Laufzeitbibliothek\n Eine Bibliothek für foo.\n .\n Sie kann:\n  * das eine,\n    langsam\n  * das andere\n";

    fn written(lists: &[(&str, &str)], languages: &[&str]) -> Vec<Value> {
        let dir = tempfile::tempdir().unwrap();
        let lists: Vec<ListFile> = lists
            .iter()
            .map(|(language, text)| {
                let path = dir.path().join(format!("list-{language}"));
                std::fs::write(&path, text).unwrap();
                ListFile {
                    language: language.to_string(),
                    path,
                }
            })
            .collect();
        let languages: Vec<String> = languages.iter().map(|l| l.to_string()).collect();
        let name = write_records(&lists, &languages, dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn english_alone_is_a_record_a_description_in_the_order_of_the_packages() {
        let records = written(&[("en", ENGLISH)], &["en"]);
        assert_eq!(records[0]["package"], "bar");
        assert_eq!(records[0]["description"], "First.\n\nSecond.");
        assert_eq!(records[1]["family"], "foo");
        assert_eq!(
            records[1]["description"],
            "A library for foo.\n\nIt does:\n* one thing, slowly\n* another"
        );
    }

    #[test]
    fn two_languages_are_joined_where_their_paragraphs_face_each_other() {
        let records = written(&[("en", ENGLISH), ("de", GERMAN)], &["en", "de"]);
        let found: Vec<(&str, &str, Option<&str>)> = records
            .iter()
            .map(|r| {
                let text = |name: &str| r.get(name).and_then(Value::as_str);
                (text("part").unwrap(), text("en").unwrap(), text("de"))
            })
            .collect();
        assert_eq!(
            found,
            [
                ("synopsis", "a bar", Some("eine Bar")),
                ("paragraph", "First.", None),
                ("paragraph", "Second.", None),
                ("synopsis", "shared library", Some("Laufzeitbibliothek")),
                (
                    "paragraph",
                    "A library for foo.",
                    Some("Eine Bibliothek für foo.")
                ),
                ("paragraph", "It does:", Some("Sie kann:")),
                ("item", "one thing, slowly", Some("das eine, langsam")),
                ("item", "another", Some("das andere")),
            ]
        );
    }
}
