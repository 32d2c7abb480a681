//! `etude tokenizer encode`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::read_text;
use crate::{model, output};

const ABOUT: &str = "\
Turn text into token ids.

The text is taken exactly as it is, its last line break included. The spelling of a special token in it \
is ordinary text, unless you say --special. `etude tokenizer decode` is the inverse.";

const EXAMPLES: &str = "\
Examples:
  etude tokenizer encode my-tokenizer --text 'Shall I compare thee'
  etude tokenizer encode my-tokenizer --text 'Shall I compare thee' --tokens
  etude tokenizer encode runs/pretrain-shakespeare --file sonnet.txt --json > ids.json";

/// What to encode.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct EncodeArgs {
    /// A tokenizer.json, or a folder that holds one
    #[arg(value_name = "PATH")]
    tokenizer: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Recognise special tokens in the text, as in a prompt that you rendered yourself
    #[arg(long)]
    special: bool,
    /// Print one token a line, its id and its text
    #[arg(long, conflicts_with = "json")]
    tokens: bool,
    /// Print {"ids": […]}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A file with the text; `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The text itself
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

pub(super) fn run(args: &EncodeArgs) -> Result<()> {
    let tokenizer = model::tokenizer(&args.tokenizer)?;
    let text = match (&args.source.text, &args.source.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => unreachable!("clap demands one of the two"),
    };
    let ids = if args.special {
        tokenizer.encode_with_special(&text)?
    } else {
        tokenizer.encode(&text)?
    };
    if args.json {
        return output::json(&json!({"ids": ids}));
    }
    if args.tokens {
        let mut rows = Vec::with_capacity(ids.len());
        for &id in &ids {
            rows.push(vec![
                id.to_string(),
                format!("{:?}", tokenizer.decode(&[id], false)?),
            ]);
        }
        return output::text(&output::columns(&rows));
    }
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    output::line(&ids.join(" "))
}
