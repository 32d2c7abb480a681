//! `etude tokenizer decode`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::read_text;
use crate::error::Misuse;
use crate::{model, output};

const ABOUT: &str = "\
Turn token ids into text, exactly: to a file or a pipe no line break is added.

Takes what `etude tokenizer encode` prints, with --json or without: {\"ids\": […]}, a JSON list, or \
numbers with spaces or commas between.";

const EXAMPLES: &str = "\
Examples:
  etude tokenizer decode my-tokenizer --ids '318 262 4131'
  etude tokenizer decode my-tokenizer --file ids.json > text.txt
  etude tokenizer encode tok --file a.txt | etude tokenizer decode tok --file -";

/// What to decode.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct DecodeArgs {
    /// A tokenizer.json, or a folder that holds one
    #[arg(value_name = "PATH")]
    tokenizer: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Leave special tokens out of the text
    #[arg(long)]
    skip_special: bool,
    /// Print {"text"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The ids themselves
    #[arg(long, value_name = "IDS")]
    ids: Option<String>,
    /// A file with the ids; `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) fn run(args: &DecodeArgs) -> Result<()> {
    let tokenizer = model::tokenizer(&args.tokenizer)?;
    let ids = match (&args.source.ids, &args.source.file) {
        (Some(ids), _) => parse("--ids", ids)?,
        (None, Some(file)) => parse(&name(file), &read_text(file)?)?,
        (None, None) => unreachable!("clap demands one of the two"),
    };
    let text = tokenizer.decode(&ids, args.skip_special)?;
    if args.json {
        return output::json(&json!({"text": text}));
    }
    output::text(&text)?;
    if std::io::stdout().is_terminal() && !text.ends_with('\n') {
        output::text("\n")?;
    }
    Ok(())
}

fn name(file: &Path) -> String {
    if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    }
}

/// The two JSON shapes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    Object { ids: Vec<u32> },
    List(Vec<u32>),
}

/// Reads ids in any of their spellings; `place` is where they are from.
fn parse(place: &str, text: &str) -> Result<Vec<u32>> {
    let wrong = |what: String| {
        Misuse::error(
            format!("{place}: {what}"),
            "give whole numbers with spaces or commas between, a JSON list, or {\"ids\": […]}",
        )
    };
    if text.trim_start().starts_with(['{', '[']) {
        return match serde_json::from_str(text) {
            Ok(Ids::Object { ids } | Ids::List(ids)) => Ok(ids),
            Err(error) => Err(wrong(format!("not JSON with token ids ({error})"))),
        };
    }
    let mut ids = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in line
            .split([' ', ',', '\t', '\r'])
            .filter(|word| !word.is_empty())
        {
            let id = word
                .parse()
                .map_err(|_| wrong(format!("line {}: `{word}` is not a token id", index + 1)))?;
            ids.push(id);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_ids_is_read() {
        for text in [
            "1 2 3",
            "1,2, 3\n",
            "[1, 2, 3]",
            " {\"ids\": [1,2,3]}\n",
            "1\n2\n3\n",
        ] {
            assert_eq!(parse("here", text).unwrap(), [1, 2, 3], "{text:?}");
        }
        assert!(parse("here", "").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_id_is_named_with_its_line() {
        let message = parse("ids.txt", "1 2\n3 four").unwrap_err().to_string();
        assert_eq!(message, "ids.txt: line 2: `four` is not a token id");
        for text in ["{\"id\": [1]}", "[1, -2]", "[1", "4294967296"] {
            assert!(parse("here", text).is_err(), "{text}");
        }
    }
}
