//! `etude tokenizer show`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use etude_tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::{model, output};

const EXAMPLES: &str = "\
Examples:
  etude tokenizer show my-tokenizer
  etude tokenizer show runs/pretrain-shakespeare --template";

/// Which tokenizer.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ShowArgs {
    /// A tokenizer.json, or a folder that holds one
    #[arg(value_name = "PATH")]
    tokenizer: PathBuf,
    /// Print the chat template and nothing else
    #[arg(long, conflicts_with = "json")]
    template: bool,
    /// Print {"vocab_size", "special_tokens", "bos_id", "eos_id", "pad_id", "fingerprint", …}
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ShowArgs) -> Result<()> {
    let tokenizer = model::tokenizer(&args.tokenizer)?;
    let template = tokenizer
        .chat_template()
        .map(etude_tokenizer::ChatTemplate::source);
    if args.template {
        return match template {
            Some(source) => output::line(source),
            None => Err(etude_tokenizer::TokenizerError::NoTemplate.into()),
        };
    }
    let special = special_tokens(&tokenizer);
    if args.json {
        let tokens: Vec<Value> = special
            .iter()
            .map(|(id, token)| json!({"id": id, "token": token}))
            .collect();
        return output::json(&json!({
            "vocab_size": tokenizer.vocab_size(),
            "special_tokens": tokens,
            "bos_id": tokenizer.bos_id(),
            "eos_id": tokenizer.eos_id(),
            "pad_id": tokenizer.pad_id(),
            "stop_ids": tokenizer.stop_ids(),
            "fingerprint": tokenizer.fingerprint(),
            "chat_template": template,
        }));
    }
    output::text(&output::columns(&rows(
        &tokenizer,
        &special,
        template.is_some(),
    )))
}

fn rows(tokenizer: &Tokenizer, special: &[(u32, String)], has_template: bool) -> Vec<Vec<String>> {
    let name = |id: Option<u32>| {
        let token = id.and_then(|id| Some(format!("{} ({id})", tokenizer.id_to_token(id)?)));
        token.unwrap_or_else(|| "none".to_owned())
    };
    let special: Vec<String> = special
        .iter()
        .map(|(id, token)| format!("{token} ({id})"))
        .collect();
    let longest: Vec<String> = longest(tokenizer, 8)
        .iter()
        .map(|text| format!("{text:?}"))
        .collect();
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    vec![
        row("tokens", output::count(tokenizer.vocab_size() as u64)),
        row("special tokens", special.join(" ")),
        row("begins a text", name(tokenizer.bos_id())),
        row("ends a text", name(tokenizer.eos_id())),
        row("fills a batch", name(tokenizer.pad_id())),
        row("longest tokens", longest.join(" ")),
        row(
            "chat template",
            if has_template {
                "yes (--template prints it)"
            } else {
                "none"
            }
            .to_owned(),
        ),
        row("fingerprint", tokenizer.fingerprint()),
    ]
}

fn special_tokens(tokenizer: &Tokenizer) -> Vec<(u32, String)> {
    let ids = 0..tokenizer.vocab_size() as u32;
    ids.filter(|&id| tokenizer.is_special(id))
        .filter_map(|id| Some((id, tokenizer.id_to_token(id)?)))
        .collect()
}

/// The texts of the longest tokens: what the training text was full of.
fn longest(tokenizer: &Tokenizer, count: usize) -> Vec<String> {
    let ids = (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_special(id));
    let mut texts: Vec<String> = ids
        .filter_map(|id| tokenizer.decode(&[id], false).ok())
        .collect();
    texts.sort_by_key(|text| std::cmp::Reverse(text.chars().count()));
    texts.truncate(count);
    texts
}
