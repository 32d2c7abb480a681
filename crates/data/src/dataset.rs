//! A data set whose files are here: its documents or examples by split, its sizes, and a sample.
//! Everything is a pure function of the files and the manifest; nothing is kept in memory but the
//! plan of the split.

mod account;
mod plan;
mod scan;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cache::{file_sha256, hex};
use crate::documents::{Document, Documents, Examples, Items};
use crate::error::DataError;
use crate::manifest::{Boundary, Format, Kind, Manifest};
use crate::mapping::{Mapped, Mapping};
use crate::records::{Record, read_file, read_text};
use crate::split::Split;
use crate::task::{SourceRef, TaskExample};
use plan::Plan;

pub use account::{LeftOut, ReadAccount};
pub use scan::{Part, Scan};

pub(crate) use plan::named_split;

/// A data set that was fetched. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dataset(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    manifest: Manifest,
    root: PathBuf,
    names: Vec<String>,
    plan: OnceLock<Plan>,
}

/// Told of each record left out, and why.
type OnDrop<'a> = dyn FnMut(String) + 'a;

impl Dataset {
    /// A data set of files `names` below `root`.
    pub(crate) fn new(
        manifest: Manifest,
        root: PathBuf,
        names: Vec<String>,
    ) -> Result<Self, DataError> {
        if names.is_empty() {
            let remedy = "put text files (.txt, .md) or records (.jsonl, .json, .csv, .tsv) there";
            return Err(DataError::in_file(
                &root,
                "there is no file to read",
                remedy,
            ));
        }
        Ok(Self(Arc::new(Inner {
            manifest,
            root,
            names,
            plan: OnceLock::new(),
        })))
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Its files, in reading order.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.0.names.iter().map(|name| self.0.root.join(name))
    }

    /// The documents of the given splits, in the order of the files.
    ///
    /// # Errors
    /// When this is a task, or the files cannot be read; the iterator's items carry the errors of
    /// single records.
    pub fn documents(&self, splits: &[Split]) -> Result<Documents, DataError> {
        self.must_be(Kind::Text)?;
        self.plan()?;
        let (dataset, splits) = (self.clone(), splits.to_vec());
        Ok(Items::start(move |sink| {
            dataset.each_document(
                &mut |split, document| !splits.contains(&split) || sink(document),
                &mut |_| {},
            )
        }))
    }

    /// The examples of the given splits, in the order of the files.
    ///
    /// # Errors
    /// As `documents`, when this is text.
    pub fn examples(&self, splits: &[Split]) -> Result<Examples, DataError> {
        self.must_be(Kind::Task)?;
        self.plan()?;
        let (dataset, splits) = (self.clone(), splits.to_vec());
        Ok(Items::start(move |sink| {
            dataset.each_example(
                &mut |split, example| !splits.contains(&split) || sink(example),
                &mut |_| {},
            )
        }))
    }

    /// Hex SHA-256 over what decides the text: the files and how the manifest reads them.
    ///
    /// # Errors
    /// When a local file cannot be read.
    pub fn fingerprint(&self) -> Result<String, DataError> {
        self.fingerprint_of(&self.0.names)
    }

    /// Whether `fingerprint` is of these files, read and split as here. A single file may have been called `name` then.
    ///
    /// # Errors
    /// As [`Dataset::fingerprint`].
    pub fn is_same(&self, fingerprint: &str, name: &str) -> Result<bool, DataError> {
        let known = |names: &[String]| Ok(self.fingerprint_of(names)? == fingerprint);
        Ok(known(&self.0.names)? || self.0.names.len() == 1 && known(&[name.to_owned()])?)
    }

    /// The fingerprint, were the files called `names`.
    fn fingerprint_of(&self, names: &[String]) -> Result<String, DataError> {
        let manifest = &self.0.manifest;
        let mut hasher = Sha256::new();
        let rules = (
            manifest.kind,
            &manifest.read,
            &manifest.map,
            &manifest.filter,
            &manifest.split,
        );
        hasher.update(serde_json::to_vec(&rules).expect("a manifest is plain data"));
        hasher.update(&manifest.source.sha256);
        for archive in &manifest.source.more {
            hasher.update(&archive.sha256);
        }
        for (name, path) in names.iter().zip(self.files()) {
            hasher.update([0]);
            hasher.update(name);
            if manifest.source.sha256.is_empty() {
                hasher.update(file_sha256(&path)?);
            }
        }
        Ok(hex(&hasher.finalize()))
    }

    fn must_be(&self, kind: Kind) -> Result<(), DataError> {
        let manifest = &self.0.manifest;
        match (manifest.kind, kind) {
            (Kind::Task, Kind::Text) => Err(DataError::in_file(
                &manifest.origin,
                format!("`{}` is a task, and text was wanted", manifest.name),
                "use it for fine-tuning, or name a text set",
            )),
            (Kind::Text, Kind::Task) => Err(DataError::in_file(
                &manifest.origin,
                format!("`{}` is text, and a task was wanted", manifest.name),
                "use it for pre-training, or give records with prompt and completion, or messages",
            )),
            _ => Ok(()),
        }
    }

    /// Pushes every example with its split.
    fn each_example(
        &self,
        sink: &mut dyn FnMut(Split, TaskExample) -> bool,
        on_drop: &mut OnDrop<'_>,
    ) -> Result<(), DataError> {
        let plan = self.plan()?;
        let mapping = Mapping::new(&self.0.manifest)?;
        self.each_record(&mut |record, file, source| {
            Ok(match mapping.example(&record, file, source)? {
                Mapped::Kept(example, key) => sink(plan.split(file, &key), example),
                Mapped::Dropped(reason) => {
                    on_drop(reason);
                    true
                }
            })
        })
    }

    /// Pushes every document with its split. A tail split may cut one document in two.
    fn each_document(
        &self,
        sink: &mut dyn FnMut(Split, Document) -> bool,
        on_drop: &mut OnDrop<'_>,
    ) -> Result<(), DataError> {
        let plan = self.plan()?;
        let mut offset = 0;
        self.each_whole_document(
            &mut |file, document| {
                let start = offset;
                offset += document.text.len() as u64;
                let Some(cut) = plan.cut_within(start, &document)? else {
                    let split = plan.split_at(file, &document.key, start);
                    return Ok(sink(split, document));
                };
                let mut head = document;
                let tail_text = head.text.split_off(cut);
                let lines = head.text.bytes().filter(|&b| b == b'\n').count() as u64;
                let source = SourceRef {
                    file: head.source.file.clone(),
                    line: head.source.line + lines,
                };
                let tail = Document {
                    key: head.key.clone(),
                    text: tail_text,
                    source,
                };
                Ok(sink(Split::Train, head) && sink(Split::Validation, tail))
            },
            on_drop,
        )
    }

    /// Pushes every document as it stands in the files, with the file's name.
    fn each_whole_document(
        &self,
        sink: &mut dyn FnMut(&str, Document) -> Result<bool, DataError>,
        on_drop: &mut OnDrop<'_>,
    ) -> Result<(), DataError> {
        let mapping = Mapping::new(&self.0.manifest)?;
        self.each_record(&mut |record, file, source| match mapping
            .document(&record, file, source)?
        {
            Mapped::Kept(document, _) => sink(file, document),
            Mapped::Dropped(reason) => {
                on_drop(reason);
                Ok(true)
            }
        })
    }

    /// Pushes every record of every file.
    fn each_record(
        &self,
        sink: &mut dyn FnMut(Record, &str, SourceRef) -> Result<bool, DataError>,
    ) -> Result<(), DataError> {
        let read = &self.0.manifest.read;
        if read.format == Format::Text && read.documents == Boundary::Joined {
            return self.joined(sink);
        }
        for (name, path) in self.0.names.iter().zip(self.files()) {
            let more = read_file(&path, read, &mut |record| {
                let source = SourceRef {
                    file: path.clone(),
                    line: record.line,
                };
                sink(record, name, source)
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// All files as one record, byte for byte.
    fn joined(
        &self,
        sink: &mut dyn FnMut(Record, &str, SourceRef) -> Result<bool, DataError>,
    ) -> Result<(), DataError> {
        let mut text = String::new();
        for path in self.files() {
            text.push_str(&read_text(&path)?);
        }
        let value = Value::Object(serde_json::Map::from_iter([(
            "text".to_string(),
            Value::from(text),
        )]));
        let record = Record {
            value,
            root: None,
            key: None,
            index: 1,
            line: 1,
        };
        let source = SourceRef {
            file: self.0.root.clone(),
            line: 1,
        };
        sink(record, &self.0.manifest.name, source).map(|_| ())
    }

    fn plan(&self) -> Result<&Plan, DataError> {
        if let Some(plan) = self.0.plan.get() {
            return Ok(plan);
        }
        let plan = Plan::make(self)?;
        Ok(self.0.plan.get_or_init(|| plan))
    }

    /// The folder that the file names are relative to.
    pub fn root(&self) -> &Path {
        &self.0.root
    }
}
