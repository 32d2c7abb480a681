//! From a task's name or file to rendered examples.

use std::collections::BTreeMap;

use anyhow::Result;
use etude_data::ledger::{Amount, Ledger};
use etude_data::{
    DataError, Dataset, ExampleSettings, Order, Progress, ReadAccount, RenderReport,
    RenderedExample, Renderer, Split, TaskExample,
};
use etude_tokenizer::Tokenizer;
use etude_train::RunContext;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::inspect::text_of;
use crate::mix;
use crate::recipe::{Layout, TaskSettings};

/// A task, ready: training examples rendered, validation and test examples as they are.
#[derive(Debug)]
pub struct Task {
    /// The task's name.
    pub name: String,
    /// Rendered training examples.
    pub train: Vec<RenderedExample>,
    /// The training examples they are made of, with those that are left out.
    pub examples: Vec<TaskExample>,
    /// Training examples that `task.examples` leaves aside.
    pub not_chosen: Amount,
    /// What was read from the files.
    pub read: ReadAccount,
    /// What became of the training examples.
    pub report: RenderReport,
    /// Validation examples.
    pub validation: Vec<TaskExample>,
    /// Test examples.
    pub test: Vec<TaskExample>,
    /// Renders examples and prompts to validate with and to ask.
    pub renderer: Renderer,
    /// Renders training examples, which in packed rows have to fit into one.
    pub learnt: Renderer,
    /// `data.json`.
    pub description: Description,
    /// Hash of the files, the splits and the rendering.
    pub fingerprint: String,
}

/// `data.json`.
#[derive(Debug, Serialize)]
pub struct Description {
    sources: Vec<SourceDescription>,
    examples: Examples,
    train_tokens: u64,
    supervised_tokens: u64,
    truncated: u64,
    dropped: BTreeMap<String, u64>,
    /// The tokenizer's fingerprint.
    tokenizer: String,
    /// The fingerprint of the weights that training starts from; filled in when they are known.
    pub(crate) base: String,
    /// The books; closed when the batches are known.
    pub(crate) ledger: Ledger,
}

#[derive(Debug, Serialize)]
pub(crate) struct SourceDescription {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) licence: String,
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
    /// Of the files and how they are read: the data set's fingerprint.
    pub(crate) sha256: String,
}

#[derive(Debug, Serialize)]
struct Examples {
    train: u64,
    validation: u64,
    test: u64,
}

/// Fetches, splits and renders a task for a model with `context` positions and this tokenizer.
///
/// # Errors
/// When the data cannot be had, or no example has anything to learn.
pub fn prepare(
    settings: &TaskSettings,
    context: usize,
    tokenizer: &Tokenizer,
    run: &RunContext,
) -> Result<Task> {
    let dataset = dataset(settings, run)?;
    let name = dataset.manifest().name.clone();
    let read = |split| read(&dataset, split);
    let train = read(Split::Train)?;
    let all = text_of(&train);
    let train = chosen(train, settings);
    let used = text_of(&train);
    let not_chosen = Amount {
        items: all.items - used.items,
        characters: all.characters - used.characters,
        bytes: all.bytes - used.bytes,
        tokens: 0,
    };
    let (validation, test) = (read(Split::Validation)?, read(Split::Test)?);
    // Counts what was left out, and says why when nothing is left to learn from.
    let account = dataset.account()?;
    let left_out = account.dropped();
    if validation.is_empty() {
        return Err(DataError::input(
            format!("{}: holds out no example for validation", settings.source),
            to_hold_out(&dataset),
        )
        .into());
    }
    let mut row = positions(settings, context);
    if let Some(tokens) = row_tokens(settings) {
        fits("task.row_tokens", tokens, context)?;
        row = row.min(tokens);
    }
    let learnt = rendering(settings, row, tokenizer)?;
    let bytes = train
        .iter()
        .map(|example| (example.prompt_text().len() + example.reference_text().len()) as u64)
        .sum();
    let (mut rendered, report) = learnt.render_all(&train)?;
    if run.progress {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{name}: {report}");
    }
    let mut hasher = Sha256::new();
    let fingerprint = dataset.fingerprint()?;
    hasher.update(&fingerprint);
    hasher.update(tokenizer.fingerprint());
    let mut sources = vec![SourceDescription {
        name: name.clone(),
        title: dataset.manifest().title.clone(),
        licence: dataset.manifest().licence.clone(),
        documents: train.len() as u64,
        bytes,
        sha256: fingerprint,
    }];
    if let Some(mix) = &settings.mix {
        let general = mix::stretches(mix, report.supervised, row, tokenizer, run)?;
        rendered.extend(general.stretches);
        sources.push(general.description);
        hasher.update(general.fingerprint);
    }
    for example in &rendered {
        example
            .ids
            .iter()
            .for_each(|id| hasher.update(id.to_le_bytes()));
        hasher.update([0xff; 4]);
    }
    let examples = Examples {
        train: report.kept,
        validation: validation.len() as u64,
        test: test.len() as u64,
    };
    let description = describe(
        sources,
        examples,
        &report,
        tokenizer.fingerprint(),
        left_out,
    );
    let fingerprint = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Task {
        name,
        train: rendered,
        examples: train,
        not_chosen,
        read: account,
        report,
        validation,
        test,
        renderer: renderer(settings, tokenizer, context)?,
        learnt,
        description,
        fingerprint,
    })
}

/// What a model is asked about a task: its test split, and how it is asked.
#[derive(Debug)]
pub struct Questions {
    /// The task's name.
    pub name: String,
    /// Test examples.
    pub test: Vec<TaskExample>,
    /// Renders prompts as in training.
    pub renderer: Renderer,
}

/// The questions of a task for a model with `context` positions and this tokenizer: [`prepare`] without what is
/// learnt from.
///
/// # Errors
/// When the data cannot be had, or the task's format is not one.
pub fn questions(
    settings: &TaskSettings,
    context: usize,
    tokenizer: &Tokenizer,
    run: &RunContext,
) -> Result<Questions> {
    let dataset = dataset(settings, run)?;
    Ok(Questions {
        name: dataset.manifest().name.clone(),
        test: read(&dataset, Split::Test)?,
        renderer: renderer(settings, tokenizer, context)?,
    })
}

/// Fetches a task's examples, unless the cache has them.
pub(crate) fn dataset(settings: &TaskSettings, run: &RunContext) -> Result<Dataset> {
    let mut manifest = run.catalog.get_with(&settings.source, &settings.local)?;
    if settings.prompt_chars > 0 {
        manifest.map.prompt_chars = Some(settings.prompt_chars as _);
    }
    let progress = if run.progress {
        Progress::Shown
    } else {
        Progress::Silent
    };
    Ok(manifest.fetch(&run.cache, &progress)?)
}

fn read(dataset: &Dataset, split: Split) -> Result<Vec<TaskExample>, DataError> {
    dataset.examples(&[split])?.collect()
}

/// What to do about a data set that holds out no example for validation.
fn to_hold_out(dataset: &Dataset) -> String {
    let manifest = dataset.manifest();
    let split = &manifest.split;
    if split.validation > 0 {
        // Each split that is asked for gets an example as long as another is left to learn from.
        let (count, tested) = match split.test {
            0 => (2, ""),
            _ => (3, ", one to test with"),
        };
        return format!(
            "give at least {count} examples with different prompts: one to learn from, one to validate with{tested}"
        );
    }
    if manifest
        .origin
        .extension()
        .is_some_and(|ending| ending == "toml")
    {
        return "set split.validation of the manifest to a percentage".to_owned();
    }
    if split.by_file {
        return "give its file for validation an example, or take it out and set task.local.validation to a percentage".to_owned();
    }
    "set task.local.validation to a percentage".to_owned()
}

/// Refuses more positions than the model has.
fn fits(key: &str, asked: usize, context: usize) -> Result<(), DataError> {
    if asked <= context {
        return Ok(());
    }
    let what = format!("{key} = {asked}: the model has {context} positions");
    Err(DataError::input(what, "give as many at most"))
}

/// The positions that an example may take of the model's.
pub(crate) fn positions(settings: &TaskSettings, context: usize) -> usize {
    match settings.context {
        0 => context,
        asked => asked.min(context),
    }
}

/// The positions of a packed row, where that is said.
pub(crate) fn row_tokens(settings: &TaskSettings) -> Option<usize> {
    let said = settings.layout == Layout::Packed && settings.row_tokens > 0;
    said.then_some(settings.row_tokens)
}

/// Renders prompts and examples of a task for a model with `context` positions, however training lays them out.
///
/// # Errors
/// A format that is unknown, or that the tokenizer has no template for.
pub fn renderer(
    settings: &TaskSettings,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Renderer> {
    rendering(settings, positions(settings, context), tokenizer)
}

fn rendering(settings: &TaskSettings, context: usize, tokenizer: &Tokenizer) -> Result<Renderer> {
    let example = ExampleSettings {
        format: settings.format()?,
        context,
        answer_tokens: settings.answer_tokens.min(context),
        truncation: settings.truncation,
    };
    Renderer::new(tokenizer, example)
}

/// The first `settings.examples` by a fixed shuffle, so that a smaller set of a draw is part of its larger ones.
fn chosen(examples: Vec<TaskExample>, settings: &TaskSettings) -> Vec<TaskExample> {
    let limit = settings.examples;
    if limit == 0 || limit >= examples.len() {
        return examples;
    }
    let order = Order::new(examples.len() as u64, 0x0e70_de5e_ed00 ^ settings.draw);
    let mut places: Vec<usize> = (0..limit as u64)
        .map(|index| order.at(index).item as usize)
        .collect();
    places.sort_unstable();
    places
        .into_iter()
        .map(|place| examples[place].clone())
        .collect()
}

fn describe(
    sources: Vec<SourceDescription>,
    examples: Examples,
    report: &RenderReport,
    tokenizer: String,
    mut dropped: BTreeMap<String, u64>,
) -> Description {
    for (reason, count) in &report.dropped {
        *dropped.entry(reason.to_string()).or_default() += count;
    }
    Description {
        sources,
        examples,
        train_tokens: report.tokens,
        supervised_tokens: report.supervised,
        truncated: report.truncated,
        dropped,
        tokenizer,
        base: String::new(),
        ledger: Ledger::default(),
    }
}
