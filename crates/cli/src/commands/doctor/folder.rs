//! `etude doctor MODEL`: whether a model folder is whole, and what is in it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use etude_model::Input;
use etude_model::hf;
use etude_tensor::{Device, Kind, Tensor, no_grad};
use etude_tokenizer::Tokenizer;
use serde::Serialize;

use crate::error::{Exit, Misuse};
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
}

/// Loads everything, runs a few tokens, and says what there is; what is broken is an error.
pub(super) fn check(given: &Path, as_json: bool) -> Result<Exit> {
    let folder = model::folder(given)?;
    let (config, _) = hf::load_config(&folder)?;
    let tokenizer = model::tokenizer(&folder)?;
    model::check_fit(&folder, &tokenizer, config.vocab_size)?;
    let hf::LoadedModel { decoder, ids } = hf::load(&folder, Kind::Float, Device::Cpu)?;
    check_weights(&folder, &decoder)?;
    check_pass(&folder, &decoder)?;

    let parameters = decoder
        .params()
        .entries()
        .iter()
        .map(|param| param.tensor.numel() as i64)
        .sum();
    let mut stops = ids.eos.clone();
    stops.extend(tokenizer.stop_ids());
    stops.sort_unstable();
    stops.dedup();
    let facts = Facts {
        family: config.family.name(),
        parameters,
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
        notes: notes(&tokenizer, config.vocab_size, &stops),
        folder,
    };
    if as_json {
        output::json(&facts)?
    } else {
        output::text(&facts.text())?
    }
    Ok(Exit::Done)
}

fn check_weights(folder: &Path, decoder: &etude_model::Decoder) -> Result<()> {
    for param in decoder.params().entries() {
        let finite = no_grad(|| i64::try_from(param.tensor.isfinite().all()).unwrap_or(0)) == 1;
        if !finite {
            return Err(Misuse::error(
                format!(
                    "{}: the weights `{}` hold values that are not finite",
                    folder.display(),
                    param.name
                ),
                "take an earlier checkpoint of the run, or fetch the model again",
            ));
        }
    }
    Ok(())
}

/// One pass over the first token ids: logits must be finite.
fn check_pass(folder: &Path, decoder: &etude_model::Decoder) -> Result<()> {
    let length = decoder.config().context.min(4);
    let vocab_size = decoder.config().vocab_size;
    let ids: Vec<i64> = (0..length).map(|position| position % vocab_size).collect();
    let ids = Tensor::from_slice(&ids).reshape([1, length]); // (1, T)
    let logits = no_grad(|| decoder.logits(&decoder.hidden(Input::plain(&ids), None)));
    if i64::try_from(logits.isfinite().all()).unwrap_or(0) == 1 {
        return Ok(());
    }
    Err(Misuse::error(
        format!(
            "{}: a pass through the model gives logits that are not finite",
            folder.display()
        ),
        "take an earlier checkpoint of the run, or fetch the model again",
    ))
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
        output::columns(&rows)
            + "\nThe folder is whole: settings, weights, tokenizer, and a pass through the model.\n"
    }
}
