//! `etude doctor MODEL`: what is in a model folder or GGUF file, whether it is whole, and whether it still is
//! what its certificate says.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use etude_model::certificate::{self, Check, Subject};
use etude_model::hf;
use etude_tensor::{Device, Kind};
use etude_tokenizer::Tokenizer;
use serde::Serialize;

use crate::error::Exit;
use crate::{model, output};

/// What a whole model folder holds.
#[derive(Debug, Serialize)]
struct Facts {
    folder: PathBuf,
    family: &'static str,
    parameters: i64,
    layers: i64,
    width: i64,
    context: i64,
    vocab_size: i64,
    tokenizer_tokens: usize,
    /// The tokens that end a generation.
    stop_tokens: Vec<String>,
    chat_template: bool,
    /// What is odd but no fault.
    notes: Vec<String>,
    /// What was checked.
    checks: Vec<Check>,
    /// Whether no check failed.
    whole: bool,
}

/// Loads everything, compares it with its certificate, and says what there is; what cannot be loaded is an
/// error.
pub(super) fn check(given: &Path, as_json: bool) -> Result<Exit> {
    let is_gguf = given.is_file() && given.extension().is_some_and(|ending| ending == "gguf");
    let (place, (subject, checks)) = if is_gguf {
        (given.to_owned(), certificate::recheck_gguf(given)?)
    } else {
        let folder = model::folder(given)?;
        let found = certificate::recheck(&folder, || load(&folder))?;
        (folder, found)
    };
    let tokenizer = subject.tokenizer.as_ref().expect("it was demanded");
    let config = subject.decoder.config();
    let mut stops = subject.ids.eos.clone();
    stops.extend(tokenizer.stop_ids());
    stops.sort_unstable();
    stops.dedup();
    let facts = Facts {
        family: config.family.name(),
        parameters: subject.decoder.params().numel() as i64,
        layers: config.n_layer,
        width: config.n_embd,
        context: config.context,
        vocab_size: config.vocab_size,
        tokenizer_tokens: tokenizer.vocab_size(),
        stop_tokens: stops
            .iter()
            .filter_map(|&id| tokenizer.id_to_token(id))
            .collect(),
        chat_template: tokenizer.chat_template().is_some(),
        notes: notes(tokenizer, config.vocab_size, &stops),
        folder: place,
        whole: !checks.iter().any(Check::has_failed),
        checks,
    };
    if as_json {
        output::json(&facts)?
    } else {
        output::text(&facts.text())?
    }
    Ok(if facts.whole {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// The model of a folder, which must have a tokenizer that fits it.
fn load(folder: &Path) -> Result<Subject> {
    let (config, _) = hf::load_config(folder)?;
    let tokenizer = model::tokenizer(folder)?;
    model::check_fit(folder, &tokenizer, config.vocab_size)?;
    if let Some(lack) = Subject::lack_of_memory(folder)? {
        bail!(
            "{}: {lack}; free some, or check it on a larger machine",
            folder.display()
        );
    }
    let loaded = hf::load(folder, Kind::Float, Device::Cpu)?;
    Ok(Subject::new(loaded, Some(tokenizer)))
}

fn notes(tokenizer: &Tokenizer, vocab_size: i64, stops: &[u32]) -> Vec<String> {
    let mut notes = Vec::new();
    let spare = vocab_size - tokenizer.vocab_size() as i64;
    if spare > 0 {
        notes.push(format!(
            "{spare} rows of the embedding stand for no token; they are never generated"
        ));
    }
    if tokenizer.chat_template().is_none() {
        notes
            .push("no chat template: `etude chat` needs one, `etude generate` does not".to_owned());
    }
    if stops.is_empty() {
        notes.push("no end token: generation goes on to --max-tokens".to_owned());
    }
    notes
}

impl Facts {
    fn text(&self) -> String {
        let row = |key: &str, value: String| vec![key.to_owned(), value];
        let sizes = format!(
            "{} layers, {} wide, context {}",
            self.layers, self.width, self.context
        );
        let mut rows = vec![
            row("folder", self.folder.display().to_string()),
            row("family", self.family.to_owned()),
            row("parameters", output::count(self.parameters as u64)),
            row("sizes", sizes),
            row(
                "vocabulary",
                format!(
                    "{} tokens, {} in the tokenizer",
                    self.vocab_size, self.tokenizer_tokens
                ),
            ),
            row("stops at", self.stop_tokens.join(" ")),
            row(
                "chat template",
                if self.chat_template { "yes" } else { "no" }.to_owned(),
            ),
        ];
        rows.extend(self.notes.iter().map(|note| row("note", note.clone())));
        let checks: Vec<Vec<String>> = self.checks.iter().map(checked).collect();
        let verdict = if self.whole {
            let kind = if self.folder.is_dir() {
                "folder"
            } else {
                "file"
            };
            format!("The {kind} is whole: settings, weights, tokenizer, and what the model says.\n")
        } else {
            let failed = self.checks.iter().filter(|check| check.has_failed());
            format!(
                "{} of {} checks FAILED.\n   try:  fetch, import or export the model again; if the change was meant, \
                 `etude import` of this folder makes one with a certificate of its own\n",
                failed.count(),
                self.checks.len()
            )
        };
        format!(
            "{}\n{}\n{verdict}",
            output::columns(&rows),
            output::columns(&checks)
        )
    }
}

/// A row about a check.
fn checked(check: &Check) -> Vec<String> {
    vec![
        check.outcome.word().to_owned(),
        check.what.clone(),
        check.detail.clone(),
    ]
}
