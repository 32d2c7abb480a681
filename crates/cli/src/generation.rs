//! What `generate` and `chat` share: the options of sampling, and text that appears while it is made.

use std::ops::ControlFlow;

use anyhow::Result;
use clap::Args;
use etude_model::{Generation, Prompt, Sampling, TextGenerator, TextSettings};

use crate::model::Loaded;
use crate::output;

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Most new tokens; the model's context may end the text before
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// 0 always takes the most likely token; higher values are more varied
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f64,
    /// Keep only this many most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Keep the fewest most likely tokens that together have this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Keep tokens at least this likely, as a share of the most likely one; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f64,
    /// Make tokens that were there before less likely; 1 does nothing
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// The same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    /// The settings, checked.
    ///
    /// # Errors
    /// A value that means nothing.
    pub(crate) fn settings(&self) -> Result<TextSettings> {
        let settings = TextSettings {
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
            },
        };
        settings.validate()?;
        Ok(settings)
    }
}

/// A generator that ends at the tokens that the model's settings or its tokenizer name.
///
/// # Errors
/// When model and tokenizer do not belong together.
pub(crate) fn generator(loaded: &Loaded) -> Result<TextGenerator<'_>> {
    let generator = TextGenerator::new(&loaded.decoder, &loaded.tokenizer)?;
    let mut end = generator.end().to_vec();
    end.extend(
        loaded
            .ids
            .eos
            .iter()
            .filter(|id| !generator.end().contains(id)),
    );
    Ok(generator.with_end(end))
}

/// Generates, writing the text to stdout as it comes, for as long as `go_on` says so.
///
/// # Errors
/// What generation or stdout refuses.
pub(crate) fn stream(
    generator: &TextGenerator<'_>,
    prompt: &Prompt,
    settings: &TextSettings,
    go_on: &dyn Fn() -> bool,
) -> Result<Generation> {
    let mut failure = None;
    let made = generator.generate(&[(prompt, settings)], &mut |_, text| {
        failure = output::text(text).err();
        if failure.is_some() || !go_on() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(made.into_iter().next().expect("one prompt, one generation")),
    }
}
