//! A task with its records: read from a task file, or built in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use etude_data::{
    Cache, Catalog, DataError, Document, Kind, Progress, SourceRef, Split, TaskExample, nearest,
};
use serde_json::{Value, json};

use super::grammar;
use super::sample::Record;
use super::spec::{TaskKind, TaskSpec};

/// A task with its records.
#[derive(Debug, Clone, PartialEq)]
pub struct HarnessTask {
    /// What its file says.
    pub spec: TaskSpec,
    /// The records to evaluate on.
    pub records: Vec<Record>,
    /// The records that solved examples are taken from, where they are others.
    shots: Option<Vec<Record>>,
    /// The task file; for a task that is built in, its name there.
    pub(super) origin: PathBuf,
}

/// The tasks that are built in: their names, and their files.
const BUILT_IN: &[(&str, &str)] = &[("grammar", include_str!("../../tasks/grammar.toml"))];

impl HarnessTask {
    /// The names of the tasks that are built in.
    pub fn built_in() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The task of that name, or of that task file (`.toml`), with its records read.
    ///
    /// # Errors
    /// Neither, a file that is wrong (with line or key), or records that cannot be read.
    pub fn load(name_or_file: &str, catalog: &Catalog) -> Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_file) {
            let origin = PathBuf::from(format!("{name}.toml"));
            return Ok(Self {
                spec: TaskSpec::parse(text, &origin)?,
                records: grammar::records(),
                shots: None,
                origin,
            });
        }
        let file = Path::new(name_or_file);
        if !file.exists() {
            let remedy = match nearest(name_or_file, Self::built_in()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => {
                    let names: Vec<&str> = Self::built_in().collect();
                    format!(
                        "give a task file (.toml), or one that is built in: {}",
                        names.join(", ")
                    )
                }
            };
            let what = format!("no task and no file is called `{name_or_file}`");
            return Err(DataError::input(what, remedy).into());
        }
        let text = fs::read_to_string(file).map_err(DataError::io("read", file))?;
        let spec = TaskSpec::parse(&text, file)?;
        let records = read(&spec.data, spec.split, file, catalog)?;
        let mut task = Self {
            spec,
            records,
            shots: None,
            origin: file.to_owned(),
        };
        task.read_shots(catalog)?;
        Ok(task)
    }

    /// With another number of solved examples before each question.
    ///
    /// # Errors
    /// As [`HarnessTask::load`], where the examples are read only now.
    pub fn with_fewshot(mut self, count: usize, catalog: &Catalog) -> Result<Self> {
        ensure!(
            count == 0 || self.spec.kind != TaskKind::Perplexity,
            "{}: solved examples mean nothing for perplexity, which asks no question; leave --num-fewshot out for it",
            self.spec.name
        );
        self.spec.fewshot.count = count;
        self.read_shots(catalog)?;
        Ok(self)
    }

    /// The records that solved examples are taken from.
    pub(super) fn shots(&self) -> &[Record] {
        self.shots.as_ref().unwrap_or(&self.records)
    }

    fn read_shots(&mut self, catalog: &Catalog) -> Result<()> {
        let fewshot = &self.spec.fewshot;
        let is_file = TaskSpec::file(&self.spec.data, &self.origin).is_some();
        let built_in = Self::built_in().any(|name| name == self.spec.data);
        let data = match fewshot.data.as_str() {
            "" if is_file || built_in => return Ok(()),
            "" => &self.spec.data,
            data => data,
        };
        if fewshot.count > 0 && self.shots.is_none() {
            self.shots = Some(read(data, fewshot.split, &self.origin, catalog)?);
        }
        Ok(())
    }
}

/// The records of a `.jsonl` file, or of a data set by name.
fn read(data: &str, split: Split, task_file: &Path, catalog: &Catalog) -> Result<Vec<Record>> {
    let records = match TaskSpec::file(data, task_file) {
        Some(file) => read_jsonl(&file)?,
        None => {
            let dataset = catalog
                .get(data)?
                .fetch(&Cache::user()?, &Progress::Shown)?;
            match dataset.manifest().kind {
                Kind::Task => {
                    let examples = dataset.examples(&[split])?;
                    let record = |example: Result<TaskExample, DataError>| {
                        example.map(|one| record_of(&one))
                    };
                    examples.map(record).collect::<Result<_, _>>()?
                }
                Kind::Text => {
                    let documents = dataset.documents(&[split])?;
                    let record = |document: Result<Document, DataError>| {
                        document.map(|one| Record {
                            value: json!({"text": one.text}),
                            source: one.source,
                        })
                    };
                    documents.map(record).collect::<Result<_, _>>()?
                }
            }
        }
    };
    if records.is_empty() {
        let what = format!("`{data}` has no record to evaluate on");
        let remedy = "give a file with a JSON object a line, or another `split`";
        return Err(DataError::in_file(task_file, what, remedy).into());
    }
    Ok(records)
}

/// An example of a data set, as a record.
fn record_of(example: &TaskExample) -> Record {
    let right = [example.reference_text()].into_iter();
    let answers: Vec<&str> = right
        .chain(example.also.iter().map(String::as_str))
        .collect();
    Record {
        value: json!({
            "id": example.id,
            "prompt": example.prompt_text(),
            "completion": example.reference_text(),
            "answers": answers,
        }),
        source: example.source.clone(),
    }
}

/// The objects of a file, one a line.
fn read_jsonl(file: &Path) -> Result<Vec<Record>, DataError> {
    let text = fs::read_to_string(file).map_err(DataError::io("read", file))?;
    let lines = (1..).zip(text.trim_start_matches('\u{feff}').lines());
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let refused = |what: String| {
                let remedy = "correct or delete the line; each line is one JSON object";
                DataError::at_line(file, number, what, remedy)
            };
            let value: Value = serde_json::from_str(line)
                .map_err(|error| refused(format!("not valid JSON (column {})", error.column())))?;
            if !value.is_object() {
                return Err(refused("the line is JSON but not an object".to_owned()));
            }
            let source = SourceRef {
                file: file.to_owned(),
                line: number,
            };
            Ok(Record { value, source })
        })
        .collect()
}
