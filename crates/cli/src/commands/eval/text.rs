//! `etude eval --text`.

use std::path::Path;

use anyhow::Result;
use etude_data::Clean;
use etude_eval::{TextWindows, text_loss};
use serde_json::json;

use super::EvalArgs;
use super::bar::Bar;
use crate::commands::tokenizer::read_text;
use crate::error::bad_input;
use crate::output;

pub(super) fn run(args: &EvalArgs, file: &Path) -> Result<()> {
    // As training reads text: what the model never saw would be held against it.
    let text = Clean::LineEnds.apply(&read_text(file)?);
    let loaded = args.device.load(&args.model)?;
    let windows = TextWindows {
        context: args.context,
        stride: args.stride,
    };
    let mut bar = Bar::new();
    let score = text_loss(
        &loaded.decoder,
        &loaded.tokenizer,
        &text,
        &windows,
        &mut |now| bar.follow(now),
    );
    drop(bar);
    let score = score.map_err(bad_input)?;
    if args.json {
        return output::json(&json!({
            "nll": score.nll,
            "tokens": score.tokens,
            "bits_per_byte": score.bits_per_byte,
            "perplexity": score.perplexity,
        }));
    }
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    output::text(&output::columns(&[
        row("bits per byte", format!("{:.4}", score.bits_per_byte)),
        row("loss", format!("{:.4} nats a token", score.nll)),
        row("perplexity", format!("{:.2}", score.perplexity)),
        row(
            "scored",
            format!(
                "{} tokens, {}",
                output::count(score.tokens),
                output::size(score.bytes)
            ),
        ),
    ]))
}
