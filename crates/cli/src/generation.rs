//! What `generate` and `chat` share: the options of sampling, and text that appears while it is made.

use std::ops::ControlFlow;

use anyhow::Result;
use clap::Args;
use etude_model::hf::{self, Recommended};
use etude_model::{Beams, Generation, Prompt, Sampling, TextGenerator, TextSettings};

use crate::error::Misuse;
use crate::model::Loaded;
use crate::output;

/// What is usual where neither the command line nor the model's folder says anything.
const TEMPERATURE: f64 = 0.7;
const TOP_P: f64 = 0.9;
const MAX_TOKENS: usize = 256;

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Most new tokens; the model's context may end the text before [default: 256]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// 0 always takes the most likely token; higher values are more varied [default: 0.7]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Keep only this many most likely tokens; 0 keeps all [default: 0]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keep the fewest most likely tokens that together have this probability; 1 keeps all [default: 0.9]
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Keep tokens at least this likely, as a share of the most likely one; 0 keeps all [default: 0]
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Make tokens that were there before less likely; 1 does nothing [default: 1]
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f64>,
    /// End before this text; may be given several times. \n in it is a line break, \t a tab, \\ a backslash
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// The same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// How many continuations are weighed against each other.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Search by beams")]
pub(crate) struct BeamArgs {
    /// Follow this many beginnings at a time and take the text that is likeliest as a whole; nothing is drawn at
    /// random, and the text appears when it is done [default: 1, no search]
    #[arg(long, value_name = "W")]
    beams: Option<usize>,
    /// Compare texts by their log-probability over their tokens to this power: 0 favours short ones, more than 1
    /// long ones [default: 1]
    #[arg(long, value_name = "P")]
    length_penalty: Option<f64>,
}

impl BeamArgs {
    /// Whether a search was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.beams.is_some() || self.length_penalty.is_some()
    }

    /// What was given, over what a folder recommends.
    ///
    /// # Errors
    /// A length penalty without a search.
    pub(crate) fn over(&self, recommended: &Recommended) -> Result<Beams> {
        let search = recommended.search(self.beams);
        if self.length_penalty.is_some() && search.width == 1 {
            return Err(Misuse::error(
                "--length-penalty: without a search by beams there is nothing to compare",
                "give --beams 4, say, or leave it out",
            ));
        }
        Ok(Beams {
            length_penalty: self.length_penalty.unwrap_or(search.length_penalty),
            ..search
        })
    }
}

/// A text in which a backslash and a letter stand for what is hard to type.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let meant = match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('\\') => '\\',
                other => {
                    plain.push('\\'); // it stands for itself
                    plain.extend(other);
                    continue;
                }
            },
            other => other,
        };
        plain.push(meant);
    }
    plain
}

impl SamplingArgs {
    /// Checks what was given, before a model is loaded.
    ///
    /// # Errors
    /// A value that means nothing.
    pub(crate) fn check(&self, beams: Option<&BeamArgs>) -> Result<()> {
        // A length penalty may be for the beams that the folder names.
        let beams = beams.filter(|beams| beams.beams.is_some());
        Ok(self.over(&Recommended::default(), beams)?.validate()?)
    }

    /// The settings for a model: what was given, else what its folder recommends, else the usual. Without `beams`
    /// there is no search.
    ///
    /// # Errors
    /// A `generation_config.json` that cannot be used.
    pub(crate) fn settings(
        &self,
        loaded: &Loaded,
        beams: Option<&BeamArgs>,
    ) -> Result<TextSettings> {
        let recommended = hf::load_generation(&loaded.base)?;
        let settings = self.over(&recommended, beams)?;
        settings.validate()?;
        let mut missed = recommended.missed(&settings.sampling, &settings.beams);
        if beams.is_some_and(|beams| beams.beams.is_some() || self.draws()) {
            missed.retain(|name| *name != "num_beams"); // the command line says what is wanted instead
        }
        if !missed.is_empty() {
            output::note(&format!(
                "warning: generation_config.json asks for {}, which are not looked at here: the model may write otherwise than in Transformers",
                missed.join(", ")
            ));
        }
        Ok(settings)
    }

    /// Whether any option says how to draw.
    fn draws(&self) -> bool {
        self.temperature.is_some() || self.narrows()
    }

    /// Whether any option says what is drawn from.
    fn narrows(&self) -> bool {
        self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some()
    }

    fn over(&self, recommended: &Recommended, beams: Option<&BeamArgs>) -> Result<TextSettings> {
        let usual = Sampling {
            temperature: TEMPERATURE,
            top_p: TOP_P,
            seed: self.seed,
            ..Sampling::default()
        };
        let beams = match beams {
            Some(given) if given.is_given() || !self.draws() => given.over(recommended)?,
            _ => Beams::default(),
        };
        if beams.is_search() && self.narrows() {
            return Err(Misuse::error(
                "--top-k, --top-p, --min-p: a search by beams draws nothing at random, so they would do nothing",
                "leave them out, or leave out --beams and --length-penalty",
            ));
        }
        let model = match beams.is_search() {
            // What is searched for is not drawn.
            true => Sampling {
                repetition_penalty: recommended.sampling(&usual).repetition_penalty,
                ..Sampling::greedy()
            },
            false => recommended.sampling(&usual),
        };
        Ok(TextSettings {
            max_tokens: (self.max_tokens)
                .or(recommended.max_tokens)
                .unwrap_or(MAX_TOKENS),
            stop: self.stop.iter().map(|text| unescaped(text)).collect(),
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(model.temperature),
                top_k: self.top_k.unwrap_or(model.top_k),
                top_p: self.top_p.unwrap_or(model.top_p),
                min_p: self.min_p.unwrap_or(model.min_p),
                repetition_penalty: (self.repetition_penalty).unwrap_or(model.repetition_penalty),
                seed: self.seed,
            },
            beams,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_may_have_line_breaks() {
        let meant = unescaped(r"a\n\\n\t");
        assert_eq!(meant, "a\n\\n\t");
        for text in [r"\section", "\\", "plain"] {
            assert_eq!(unescaped(text), text);
        }
    }
}
