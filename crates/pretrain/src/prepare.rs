//! From the recipe's sources to a tokenizer and token shards, everything cached.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use etude_data::ledger::{Finding, Ledger};
use etude_data::{
    DataError, Dataset, Progress, ReadAccount, Shard, Split, TokenStream, TokenizeSettings,
    open_cached, tokenize,
};
use etude_tokenizer::Tokenizer;
use etude_train::RunContext;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::overlaps::overlaps;
use crate::recipe::Recipe;

/// Data that is ready to be trained on.
#[derive(Debug)]
pub struct Prepared {
    /// The tokenizer, loaded or trained.
    pub tokenizer: Tokenizer,
    /// The training text.
    pub train: TokenStream,
    /// The held-out text.
    pub validation: TokenStream,
    /// Each source with what was read of it, in the order of the recipe.
    pub(crate) sources: Vec<Read>,
    /// What should be looked at in them.
    pub(crate) warnings: Vec<Finding>,
    /// `data.json`.
    pub description: Description,
    /// Hash of everything above: a run resumes only on the same.
    pub fingerprint: String,
}

/// `data.json`.
#[derive(Debug, Serialize)]
pub struct Description {
    sources: Vec<SourceDescription>,
    /// Of one pass, repeats counted.
    train_tokens: u64,
    train_bytes: u64,
    validation_tokens: u64,
    validation_bytes: u64,
    vocab_size: usize,
    /// The tokenizer's fingerprint.
    tokenizer: String,
    /// Records that were left out, by reason.
    dropped: BTreeMap<String, u64>,
    /// The books; closed when the windows are known.
    pub(crate) ledger: Ledger,
}

/// A source, read and tokenized.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) dataset: Dataset,
    pub(crate) repeat: usize,
    pub(crate) read: ReadAccount,
    /// Of the training split.
    pub(crate) shard: Shard,
    held_out: Option<Shard>,
}

impl Read {
    /// Whether a shard was made of this source.
    pub(crate) fn made(&self, shard: &Shard) -> bool {
        let held_out = self.held_out.as_ref().map(Shard::path);
        self.shard.path() == shard.path() || held_out == Some(shard.path())
    }
}

#[derive(Debug, Serialize)]
struct SourceDescription {
    name: String,
    title: String,
    licence: String,
    documents: u64,
    bytes: u64,
    /// Of the files and how they are read: the source's fingerprint.
    sha256: String,
    /// How often one pass over the data reads it.
    repeat: usize,
}

/// A source, fetched.
struct Source {
    dataset: Dataset,
    fingerprint: String,
    /// How often one pass over the data reads it; its validation text is scored once all the same.
    repeat: usize,
}

/// The sources in the order of one pass over the data, each as often as it is read.
fn one_pass(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources
        .iter()
        .flat_map(|source| std::iter::repeat_n(source, source.repeat))
}

/// Fetches, trains and tokenizes, or finds what an earlier run left in the cache.
pub(crate) fn prepare(recipe: &Recipe, context: &RunContext) -> Result<Prepared> {
    let progress = if context.progress {
        Progress::Shown
    } else {
        Progress::Silent
    };
    let mut sources: Vec<Source> = Vec::new();
    for named in &recipe.data.sources {
        let manifest = context.catalog.get_with(&named.name, &recipe.data.local)?;
        let dataset = manifest.fetch(&context.cache, &progress)?;
        let fingerprint = dataset.fingerprint()?;
        let repeat = named.repeat as usize;
        match sources
            .iter_mut()
            .find(|source| source.fingerprint == fingerprint)
        {
            Some(known) => known.repeat += repeat,
            None => sources.push(Source {
                dataset,
                fingerprint,
                repeat,
            }),
        }
    }
    let mut dropped = BTreeMap::new();
    let mut accounts = Vec::with_capacity(sources.len());
    for source in &sources {
        let account = account(source, context)?;
        for (reason, count) in account.dropped() {
            *dropped.entry(reason).or_default() += count;
        }
        accounts.push(account);
    }
    let tokenizer = tokenizer(recipe, context, &sources)?;
    let separator = tokenizer.eos_id().context(
        "the tokenizer names no end-of-text token, which separates documents; choose another tokenizer.path",
    )?;

    let (mut train, mut validation, mut described) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = Vec::new();
    for (source, account) in sources.iter().zip(accounts) {
        let shard = |split| shard(source, split, &tokenizer, separator, context);
        let of_source = shard(Split::Train)?;
        let (Some(shard_train), held_out) = (of_source, shard(Split::Validation)?) else {
            let what = format!(
                "{}: has no text to train on",
                source.dataset.manifest().name
            );
            return Err(DataError::input(what, "give more text, or hold less of it out").into());
        };
        let manifest = source.dataset.manifest();
        described.push(SourceDescription {
            name: manifest.name.clone(),
            title: manifest.title.clone(),
            licence: manifest.licence.clone(),
            documents: shard_train.documents(),
            bytes: shard_train.text_bytes(),
            sha256: source.fingerprint.clone(),
            repeat: source.repeat,
        });
        read.push(Read {
            dataset: source.dataset.clone(),
            repeat: source.repeat,
            read: account,
            shard: shard_train.clone(),
            held_out: held_out.clone(),
        });
        train.extend(std::iter::repeat_n(shard_train, source.repeat));
        validation.extend(held_out);
    }
    if validation.is_empty() {
        let bytes: u64 = train.iter().map(Shard::text_bytes).sum();
        return Err(DataError::input(
            format!("data.sources: of {bytes} bytes of text none is held out for validation"),
            "give more text, or set data.local.validation to a higher percentage; a folder with a file `train.txt` needs one called `validation.txt`",
        )
        .into());
    }
    let (train, validation) = (TokenStream::new(train)?, TokenStream::new(validation)?);
    let mut hasher = Sha256::new();
    for source in one_pass(&sources) {
        hasher.update(source.fingerprint.as_bytes());
    }
    hasher.update(tokenizer.fingerprint().as_bytes());
    let description = Description {
        sources: described,
        train_tokens: train.tokens(),
        train_bytes: train.text_bytes(),
        validation_tokens: validation.tokens(),
        validation_bytes: validation.text_bytes(),
        vocab_size: tokenizer.vocab_size(),
        tokenizer: tokenizer.fingerprint(),
        dropped,
        ledger: Ledger::default(),
    };
    Ok(Prepared {
        tokenizer,
        train,
        validation,
        warnings: overlaps(&read)?,
        sources: read,
        description,
        fingerprint: hex(&hasher.finalize()),
    })
}

/// The recipe's tokenizer: loaded, or trained on the training text and kept in the cache under a hash of
/// the text and the settings.
fn tokenizer(recipe: &Recipe, context: &RunContext, sources: &[Source]) -> Result<Tokenizer> {
    if let Some(path) = &recipe.tokenizer.path {
        return Ok(Tokenizer::load(path)?);
    }
    let settings = recipe.tokenizer.bpe();
    let mut hasher = Sha256::new();
    hasher.update(serde_json::to_vec(&settings).context("settings are plain data")?);
    for source in one_pass(sources) {
        hasher.update(source.fingerprint.as_bytes());
    }
    let key = hex(&hasher.finalize());
    let folder = context.cache.root().join("tokenizers").join(&key[..24]);
    if folder.join("tokenizer.json").is_file() {
        return Tokenizer::load(&folder).with_context(|| {
            format!(
                "{}: this tokenizer of the cache cannot be loaded; if it is damaged, remove the folder, and it is trained again",
                folder.display()
            )
        });
    }
    say(
        context,
        &format!("training a tokenizer of {} tokens", settings.vocab_size),
    );
    let mut failure = None;
    let mut documents = Vec::new();
    for source in one_pass(sources) {
        documents.push(source.dataset.documents(&[Split::Train])?);
    }
    let texts = documents
        .into_iter()
        .flatten()
        .map_while(|document| match document {
            Ok(document) => Some(document.text),
            Err(error) => {
                failure = Some(error);
                None
            }
        });
    let (tokenizer, report) = Tokenizer::train(texts, &settings)?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    say(
        context,
        &format!(
            "trained on {:.1} of {:.1} MB in {:.1} s",
            report.bytes_used as f64 / 1e6,
            report.bytes_seen as f64 / 1e6,
            report.seconds
        ),
    );
    keep(&tokenizer, &folder)?;
    Ok(tokenizer)
}

/// Puts a tokenizer's folder in its place in the cache, whole; another process may have been faster.
fn keep(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("below the cache")?;
    fs::create_dir_all(parent).map_err(DataError::io("make", parent))?;
    let fresh = parent.join(format!(".unfinished-{}", std::process::id()));
    fs::create_dir_all(&fresh).with_context(|| format!("{}: cannot be made", fresh.display()))?;
    let saved = tokenizer.save(&fresh).map_err(anyhow::Error::from);
    if let Err(error) = saved.and_then(|()| etude_train::durable::sync_tree(&fresh)) {
        let _ = fs::remove_dir_all(&fresh); // what is half-written is of no use
        let what = "the tokenizer that was trained cannot be kept in the cache (ETUDE_CACHE names another)";
        return Err(error.context(format!("{}: {what}", folder.display())));
    }
    if fs::rename(&fresh, folder).is_err() {
        fs::remove_dir_all(&fresh)
            .with_context(|| format!("{}: cannot be removed", fresh.display()))?;
        ensure!(
            folder.join("tokenizer.json").is_file(),
            "{}: cannot be written",
            folder.display()
        );
    }
    Ok(())
}

/// The token shard of one split of a source; none when the split is empty.
///
/// What a source's split became is noted in the cache under the source's and the tokenizer's fingerprints,
/// so that a prepared recipe starts without reading the text again.
fn shard(
    source: &Source,
    split: Split,
    tokenizer: &Tokenizer,
    separator: u32,
    context: &RunContext,
) -> Result<Option<Shard>> {
    let Source {
        dataset,
        fingerprint,
        ..
    } = source;
    let cache = context.cache.root().join("shards");
    let mut hasher = Sha256::new();
    for part in [fingerprint, split.name(), &tokenizer.fingerprint()] {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let note = cache.join(format!("{}.source", &hex(&hasher.finalize())[..32]));
    if let Ok(name) = fs::read_to_string(&note) {
        if name.is_empty() {
            return Ok(None);
        }
        let path = cache.join(&name);
        if path.is_file() {
            return Ok(Some(open_cached(&path, &tokenizer.fingerprint())?));
        }
    }
    if dataset.documents(&[split])?.next().transpose()?.is_none() {
        return write_note(&note, "").map(|()| None);
    }
    let name = format!("{}-{}", dataset.manifest().name, split.name());
    say(context, &format!("tokenizing {name}"));
    let settings = TokenizeSettings {
        cache,
        name,
        separator,
    };
    let made = tokenize(
        tokenizer,
        || Ok(dataset.documents(&[split])?),
        &settings,
        &mut |_| {},
    )?;
    let file = made
        .shard
        .path()
        .file_name()
        .context("a shard is a file")?
        .to_string_lossy()
        .into_owned();
    write_note(&note, &file)?;
    Ok(Some(made.shard))
}

/// What was read of a source and what became of it; noted in the cache like its shards.
fn account(source: &Source, context: &RunContext) -> Result<ReadAccount> {
    let folder = context.cache.root().join("shards");
    let note = folder.join(format!("{}.account", &source.fingerprint[..32]));
    let noted = fs::read(&note).ok();
    if let Some(account) = noted.and_then(|text| serde_json::from_slice(&text).ok()) {
        return Ok(account);
    }
    let account = source.dataset.account()?;
    write_note(&note, &serde_json::to_string(&account).context("counts")?)?;
    Ok(account)
}

fn write_note(path: &Path, name: &str) -> Result<()> {
    let folder = path.parent().context("below the cache")?;
    fs::create_dir_all(folder).map_err(DataError::io("make", folder))?;
    etude_train::durable::write(path, name.as_bytes())
}

fn say(context: &RunContext, line: &str) {
    use std::io::Write;
    if context.progress {
        // A closed stderr must not end a run.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
