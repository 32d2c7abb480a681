//! What an experiment's figures hang on besides its recipes: the data and weights that it began with, and what is
//! asked. Runs that were made under other circumstances cannot be set beside new ones.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use etude_data::{DataError, Progress, Split};
use etude_finetune::{TaskSettings, model_folder};
use etude_model::hf;
use etude_train::{FolderKind, RunContext, durable};
use serde::{Deserialize, Serialize};

use super::runs::{BASE, Record};
use super::{Transfer, TransferSettings};

const FILE: &str = "experiment.json";

/// Folders of transfer experiments.
pub(super) const EXPERIMENT: FolderKind = FolderKind {
    mark: ".transfer",
    name: "folder of a transfer experiment",
    otherwise: |folder| {
        let begun = fs::read(folder.join(FILE)).ok();
        begun.is_some_and(|text| serde_json::from_slice::<Circumstances>(&text).is_ok())
            || Record::is_in(&folder.join("runs").join(BASE))
    },
};

/// `experiment.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Circumstances {
    /// Fingerprint of the task's examples.
    examples: String,
    /// Fingerprint of the base model.
    base: String,
    /// How examples are written for the base model.
    task: TaskSettings,
    /// What a classification chooses from: `eval.choices`.
    #[serde(default)]
    choices: Vec<String>,
    /// `transfer.test`.
    test: usize,
    /// `transfer.general`, `transfer.general_bytes` and the text's fingerprint.
    general: Option<(String, usize, String)>,
}

impl Circumstances {
    pub(super) fn new(
        plan: &Transfer,
        examples: String,
        general: Option<&General>,
    ) -> Result<Self> {
        let settings = &plan.settings;
        Ok(Self {
            examples,
            base: hf::fingerprint(&model_folder(&plan.finetune.base.path))?,
            task: plan.finetune.task.clone(),
            choices: plan.finetune.eval.choices.clone(),
            test: settings.test,
            general: general.map(|general| {
                let (name, bytes) = (general.name.clone(), settings.general_bytes);
                (name, bytes, general.fingerprint.clone())
            }),
        })
    }

    /// Whether an experiment's folder says under which it was begun.
    pub(super) fn are_kept(folder: &Path) -> bool {
        folder.join(FILE).is_file()
    }

    /// Keeps them in the experiment's folder.
    pub(super) fn keep(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).context("plain data")?;
        durable::write(&folder.join(FILE), &json)
    }

    /// Refuses a folder in which an experiment was begun under others, or nobody knows under which.
    pub(super) fn check(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return none_was_run(folder),
            text => text.with_context(|| format!("{}: cannot be read", path.display()))?,
        };
        let begun: Self = serde_json::from_slice(&text).map_err(|error| {
            DataError::in_file(&path, error.to_string(), "choose another --run")
        })?;
        let name = |general: &Option<(String, usize, String)>| match general {
            Some((name, bytes, _)) => format!("{bytes} bytes of {name}"),
            None => "none".to_owned(),
        };
        let differences = [
            (self.examples != begun.examples)
                .then(|| format!("the examples of {} are others now", self.task.source)),
            (self.base != begun.base).then(|| "the base model is another one now".to_owned()),
            (self.task != begun.task)
                .then(|| "[task] of the fine-tuning recipe is another one now".to_owned()),
            (self.choices != begun.choices).then(|| {
                let (was, is) = (begun.choices.join(", "), self.choices.join(", "));
                format!("eval.choices was [{was}] and is [{is}]")
            }),
            (self.test != begun.test)
                .then(|| format!("transfer.test was {} and is {}", begun.test, self.test)),
            (self.general != begun.general).then(|| {
                let (was, is) = (name(&begun.general), name(&self.general));
                match was == is {
                    true => format!("the general text ({is}) is another one now"),
                    false => format!("transfer.general was {was} and is {is}"),
                }
            }),
        ];
        let differences: Vec<String> = differences.into_iter().flatten().collect();
        ensure!(
            differences.is_empty(),
            DataError::in_file(
                folder,
                format!(
                    "holds an experiment that was begun otherwise\n  {}",
                    differences.join("\n  ")
                ),
                "choose another --run, or remove the folder to start again"
            )
        );
        Ok(())
    }
}

/// Refuses a folder without the file that has runs: it is written before the first of them.
fn none_was_run(folder: &Path) -> Result<()> {
    let mut runs = fs::read_dir(folder.join("runs"))
        .into_iter()
        .flatten()
        .flatten();
    ensure!(
        runs.all(|run| run.file_name() == BASE),
        DataError::in_file(
            &folder.join(FILE),
            "is missing, so nobody knows what the runs that lie there hang on",
            "bring it back, or remove the experiment's folder to begin anew"
        )
    );
    Ok(())
}

/// The text on which forgetting is measured.
pub(super) struct General {
    name: String,
    pub(super) text: String,
    /// Of the data set that it is taken from.
    fingerprint: String,
}

impl General {
    /// The validation text of `transfer.general`, up to the limit; none where that is not set.
    pub(super) fn read(settings: &TransferSettings, context: &RunContext) -> Result<Option<Self>> {
        let Some(source) = &settings.general else {
            return Ok(None);
        };
        let dataset = context
            .catalog
            .get(source)?
            .fetch(&context.cache, &Progress::Silent)?;
        let mut text = String::new();
        for document in dataset.documents(&[Split::Validation])? {
            if text.len() >= settings.general_bytes {
                break;
            }
            text.push_str(&document?.text);
            text.push_str("\n\n");
        }
        ensure!(
            !text.is_empty(),
            "transfer.general = {source}: it holds out no validation text"
        );
        let cut = (0..=settings.general_bytes.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(cut.unwrap_or(0));
        Ok(Some(Self {
            name: source.clone(),
            text,
            fingerprint: dataset.fingerprint()?,
        }))
    }
}
