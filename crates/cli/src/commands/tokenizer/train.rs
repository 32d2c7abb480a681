//! `etude tokenizer train`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use etude_data::{Boundary, Cache, DataError, Document, LocalOptions, Progress, Registry, Split};
use etude_tokenizer::{Tokenizer, TrainSettings};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::commands::data::CatalogArgs;
use crate::error::Misuse;
use crate::{output, target};

const ABOUT: &str = "\
Train a byte-level BPE tokenizer on text.

Reads text files, folders, JSONL or CSV with a `text` field, or data sets by name (of these the training \
split alone). Writes tokenizer.json and tokenizer_config.json, which Python's transformers loads too. \
The special tokens and the chat template are those that Etude trains models with.";

const EXAMPLES: &str = "\
Examples:
  etude tokenizer train book.txt --vocab 4096 --out my-tokenizer
  etude tokenizer train shakespeare wiki-leads --vocab 8192 --out tok --split digits";

/// What to train on and how.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct TrainArgs {
    /// Files, folders, manifests, or names of data sets
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// Tokens in all, the 256 bytes and the special tokens included
    #[arg(long, value_name = "N")]
    vocab: usize,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// For text files: what one document is
    #[arg(long, value_enum, default_value_t = DocumentsArg::File)]
    documents: DocumentsArg,
    /// How text is cut into words, across which no token reaches
    #[arg(long, value_enum, default_value_t = SplitArg::Words)]
    split: SplitArg,
    /// Use at most this many bytes, sampled evenly over the documents
    #[arg(long, value_name = "BYTES", default_value_t = TrainSettings::default().byte_budget)]
    byte_budget: u64,
    /// Do not merge a pair that is seen less often than this
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().min_frequency)]
    min_frequency: u64,
    /// Replace a tokenizer that is already in the folder
    #[arg(long)]
    force: bool,
    /// Print {"folder", "vocab_size", "fingerprint", "report"}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DocumentsArg {
    /// The whole file
    File,
    /// A run of lines between empty lines
    BlankLines,
    /// Each line
    Line,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitArg {
    /// Runs of letters, of digits, of punctuation, each with the space before it
    Words,
    /// The same, and each digit is a token of its own
    Digits,
}

impl TrainArgs {
    fn settings(&self) -> TrainSettings {
        TrainSettings {
            vocab_size: self.vocab,
            byte_budget: self.byte_budget,
            min_frequency: self.min_frequency,
            split: match self.split {
                SplitArg::Words => etude_tokenizer::Split::Words,
                SplitArg::Digits => etude_tokenizer::Split::Digits,
            },
            ..TrainSettings::default()
        }
    }

    /// How files without a manifest are read: all of them is for training.
    fn local(&self) -> LocalOptions {
        LocalOptions {
            documents: match self.documents {
                DocumentsArg::File => Boundary::File,
                DocumentsArg::BlankLines => Boundary::BlankLines,
                DocumentsArg::Line => Boundary::Line,
            },
            validation: Some(0),
            test: Some(0),
            ..LocalOptions::default()
        }
    }

    /// The documents of all files, one after another.
    fn documents(&self) -> Result<Vec<etude_data::Documents>> {
        let (catalog, cache, options) = (self.catalog.catalog()?, Cache::user()?, self.local());
        let open = |name: &String| {
            let manifest = catalog.get_with(name, &options)?;
            let splits: &[Split] = if manifest.source.registry == Registry::Local {
                &Split::ALL
            } else {
                &[Split::Train]
            };
            Ok(manifest
                .fetch(&cache, &Progress::Shown)?
                .documents(splits)?)
        };
        self.files.iter().map(open).collect()
    }
}

pub(super) fn run(args: &TrainArgs) -> Result<()> {
    let settings = args.settings();
    settings.validate()?;
    if args.out.join("tokenizer.json").exists() && !args.force {
        let what = format!("{}: already holds a tokenizer", args.out.display());
        return Err(Misuse::error(
            what,
            "choose another --out, or replace it with --force",
        ));
    }
    let mut failure = None;
    let bar = spinner();
    let documents = Reading {
        sources: args.documents()?.into_iter(),
        now: None,
        failure: &mut failure,
        bar: &bar,
    };
    let trained = Tokenizer::train(documents, &settings);
    bar.finish_and_clear();
    // A text that ended early must not pass for the whole text.
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let (tokenizer, report) = trained?;
    if target::check_folder(&args.out).is_ok() {
        target::write_folder(&args.out, |folder| Ok(tokenizer.save(folder)?))?;
    } else {
        tokenizer.save(&args.out)?; // beside what else is there
    }
    if report.vocab_size < args.vocab {
        let (found, asked) = (report.vocab_size, args.vocab);
        output::note(&format!(
            "note: the text has pairs for {found} tokens only, {asked} were asked for"
        ));
    }
    if args.json {
        return output::json(&json!({
            "folder": args.out,
            "vocab_size": report.vocab_size,
            "fingerprint": tokenizer.fingerprint(),
            "report": report,
        }));
    }
    output::line(&format!("{}: {report}", args.out.display()))
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} reading and counting  {bytes}  {elapsed}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// The texts of several data sets. The first error ends the stream and is kept.
struct Reading<'a> {
    sources: std::vec::IntoIter<etude_data::Documents>,
    now: Option<etude_data::Documents>,
    failure: &'a mut Option<DataError>,
    bar: &'a ProgressBar,
}

impl Iterator for Reading<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.failure.is_some() {
            return None;
        }
        loop {
            if self.now.is_none() {
                self.now = Some(self.sources.next()?);
            }
            match self.now.as_mut().and_then(Iterator::next) {
                Some(Ok(Document { text, .. })) => {
                    self.bar.inc(text.len() as u64);
                    return Some(text);
                }
                Some(Err(error)) => {
                    *self.failure = Some(error);
                    return None;
                }
                None => self.now = None,
            }
        }
    }
}
