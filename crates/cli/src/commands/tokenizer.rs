//! `etude tokenizer`: the tokenizer alone.

mod decode;
mod encode;
mod show;
mod train;

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use etude_data::DataError;

use crate::error::{Exit, Misuse};

const ABOUT: &str = "\
Train a tokenizer, encode and decode with one, look at one.

A tokenizer is a folder with a tokenizer.json, as Hugging Face writes them. Wherever one is asked for, \
the file itself, a model folder or a run folder will do.";

/// Which of the four.
#[derive(Debug, Args)]
#[command(long_about = ABOUT)]
pub(crate) struct TokenizerArgs {
    #[command(subcommand)]
    command: TokenizerCommand,
}

#[derive(Debug, Subcommand)]
enum TokenizerCommand {
    #[command(about = "Train a byte-level BPE on text")]
    Train(train::TrainArgs),
    #[command(about = "Turn text into token ids")]
    Encode(encode::EncodeArgs),
    #[command(about = "Turn token ids into text")]
    Decode(decode::DecodeArgs),
    #[command(about = "Say what is in a tokenizer")]
    Show(show::ShowArgs),
}

pub(crate) fn run(args: &TokenizerArgs) -> Result<Exit> {
    match &args.command {
        TokenizerCommand::Train(args) => train::run(args)?,
        TokenizerCommand::Encode(args) => encode::run(args)?,
        TokenizerCommand::Decode(args) => decode::run(args)?,
        TokenizerCommand::Show(args) => show::run(args)?,
    }
    Ok(Exit::Done)
}

/// A file's text, or standard input's for `-`, exactly as it is.
///
/// # Errors
/// A file that is not there, and bytes that are no UTF-8, with their line.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("standard input cannot be read")?;
        bytes
    } else {
        std::fs::read(path).map_err(DataError::io("read", path))?
    };
    String::from_utf8(bytes).map_err(|error| {
        let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + sound.iter().filter(|&&byte| byte == b'\n').count();
        let name = if path == Path::new("-") {
            "standard input".to_owned()
        } else {
            path.display().to_string()
        };
        Misuse::error(
            format!(
                "{name}:{line}: not UTF-8 (byte {} of the file)",
                sound.len() + 1
            ),
            "convert the text to UTF-8, for example with `iconv -f latin1 -t utf8`",
        )
    })
}
