//! Generation over text: prompts go through the tokenizer (and its chat template), new tokens come
//! back as text while they are made, and stop strings end a row even when they straddle tokens.

mod stop;

use std::ops::ControlFlow;

use etude_tokenizer::{IncrementalDecoder, Message, Tokenizer, TokenizerError};
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::generate::{Beams, Continuation, FinishReason, GenerateError, Generator, Request};
use crate::sample::Sampling;
use stop::StopScanner;

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// Plain text as it stands. Special tokens spelt in it are ordinary text, and none is added.
    Text(String),
    /// Plain text that begins a document: the tokenizer's beginning token, if it has one, then the
    /// text, which may be empty.
    Document(String),
    /// A conversation, through the tokenizer's chat template with its generation prompt.
    Messages(Vec<Message>),
    /// Tokens.
    Ids(Vec<u32>),
}

/// How text is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSettings {
    /// At most this many new tokens; default 256. The model's context may end a text before.
    pub max_tokens: usize,
    /// Texts at which generation ends; the text is cut before them. One that is the spelling of a
    /// special token works as an end token. Default none.
    pub stop: Vec<String>,
    /// How tokens are chosen; default greedy.
    pub sampling: Sampling,
    /// How many continuations are weighed against each other; default one.
    pub beams: Beams,
}

impl Default for TextSettings {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            stop: Vec::new(),
            sampling: Sampling::greedy(),
            beams: Beams::default(),
        }
    }
}

impl TextSettings {
    /// Refuses values that mean nothing.
    ///
    /// # Errors
    /// The field, and what it must be.
    pub fn validate(&self) -> Result<(), GenerateError> {
        self.sampling.validate()?;
        self.beams.validate(&self.sampling)?;
        if self.max_tokens == 0 {
            return Err(GenerateError::NoTokens);
        }
        match self.stop.iter().position(String::is_empty) {
            Some(place) => Err(GenerateError::EmptyStop { place }),
            None => Ok(()),
        }
    }
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The new text, without special tokens, cut before a stop string.
    pub text: String,
    /// All tokens that the model made, the end token and those of a stop string included.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub finish_reason: FinishReason,
    /// New tokens of this row per second from the start of the call to its last token, so reading
    /// the prompt is included.
    pub tokens_per_second: f64,
    /// The tokens of the prompt.
    pub prompt_tokens: usize,
}

/// Continues text with a decoder and its tokenizer.
#[derive(Debug, Clone)]
pub struct TextGenerator<'a> {
    generator: Generator<'a>,
    tokenizer: &'a Tokenizer,
    end: Vec<u32>,
}

impl<'a> TextGenerator<'a> {
    /// Texts end at the tokenizer's end tokens ([`Tokenizer::stop_ids`]).
    ///
    /// # Errors
    /// When the tokenizer has ids that the decoder lacks.
    pub fn new(decoder: &'a Decoder, tokenizer: &'a Tokenizer) -> Result<Self, GenerateError> {
        let vocabulary = decoder.config().vocab_size;
        let size = tokenizer.vocab_size();
        if size as i64 > vocabulary {
            let largest = size - 1;
            return Err(GenerateError::Vocabulary {
                largest,
                vocabulary,
            });
        }
        Ok(Self {
            generator: Generator::new(decoder).with_vocabulary(size),
            tokenizer,
            end: tokenizer.stop_ids(),
        })
    }

    /// With these end tokens instead; with none, texts end at their length or a stop string alone.
    #[must_use]
    pub fn with_end(mut self, end: Vec<u32>) -> Self {
        self.end = end;
        self
    }

    /// The tokens at which texts end.
    pub fn end(&self) -> &[u32] {
        &self.end
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// A conversation without a chat template, or whatever the tokenizer refuses.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, TokenizerError> {
        match prompt {
            Prompt::Text(text) => self.tokenizer.encode(text),
            Prompt::Document(text) => {
                let mut ids: Vec<u32> = self.tokenizer.bos_id().into_iter().collect();
                ids.extend(self.tokenizer.encode(text)?);
                Ok(ids)
            }
            Prompt::Messages(messages) => {
                let segments = self.tokenizer.render_prompt(messages)?;
                Ok(self.tokenizer.encode_segments(&segments)?.ids)
            }
            Prompt::Ids(ids) => Ok(ids.clone()),
        }
    }

    /// Continues one prompt.
    ///
    /// # Errors
    /// As [`TextGenerator::generate`].
    pub fn complete(
        &self,
        prompt: &Prompt,
        settings: &TextSettings,
    ) -> Result<Generation, GenerateError> {
        let made = self.generate(&[(prompt, settings)], &mut |_, _| ControlFlow::Continue(()))?;
        Ok(made.into_iter().next().expect("one prompt, one generation"))
    }

    /// Continues all prompts in one batch, each with its own settings. What one gets does not depend
    /// on the others.
    ///
    /// `on_text` hears the text as it becomes certain, with the place of its prompt: whole
    /// characters, and nothing that may still turn out to begin a stop string. All that it hears for
    /// a prompt, joined, is [`Generation::text`]. Its `Break` ends that row. Of a search by beams it hears when the
    /// search is over.
    ///
    /// # Errors
    /// Settings or a prompt that cannot be, before anything is computed; logits that are not finite.
    pub fn generate(
        &self,
        requests: &[(&Prompt, &TextSettings)],
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>, GenerateError> {
        let mut prepared = Vec::with_capacity(requests.len());
        let mut rows = Vec::with_capacity(requests.len());
        for (prompt, settings) in requests {
            settings.validate()?;
            prepared.push(self.request(prompt, settings)?);
            rows.push(Row::new(self.tokenizer, settings));
        }
        let mut failure = None;
        let ended = |place: usize, ids: &[u32]| {
            let stop = &requests[place].1.stop;
            !stop.is_empty()
                && (self.tokenizer.decode(ids, true))
                    .is_ok_and(|text| stop.iter().any(|stop| text.contains(stop)))
        };
        let made = self
            .generator
            .generate_until(&prepared, &ended, &mut |place, id| {
                let row: &mut Row<'_> = &mut rows[place];
                row.push(id, &mut |text| on_text(place, text))
                    .unwrap_or_else(|error| {
                        failure = Some(error);
                        ControlFlow::Break(FinishReason::StopString)
                    })
            })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        let mut generations = Vec::with_capacity(rows.len());
        for (place, (mut row, made)) in rows.into_iter().zip(made).enumerate() {
            row.finish(&mut |text| on_text(place, text));
            generations.push(row.generation(made, &prepared[place]));
        }
        Ok(generations)
    }

    fn request(&self, prompt: &Prompt, settings: &TextSettings) -> Result<Request, TokenizerError> {
        let mut end = self.end.clone();
        for stop in &settings.stop {
            // Special tokens leave no text behind in which their spelling could be found.
            let id = self.tokenizer.token_id(stop);
            end.extend(id.filter(|&id| self.tokenizer.is_special(id)));
        }
        Ok(Request {
            ids: self.encode(prompt)?,
            max_tokens: settings.max_tokens,
            end,
            sampling: settings.sampling.clone(),
            beams: settings.beams,
        })
    }
}

/// The text of a row while it is made.
struct Row<'a> {
    /// None when the row is done.
    decoder: Option<IncrementalDecoder>,
    scanner: StopScanner<'a>,
    text: String,
    /// Whether the listener wants no more.
    unwanted: bool,
}

impl<'a> Row<'a> {
    fn new(tokenizer: &Tokenizer, settings: &'a TextSettings) -> Self {
        Self {
            decoder: Some(tokenizer.decoder(true)),
            scanner: StopScanner::new(&settings.stop),
            text: String::new(),
            unwanted: false,
        }
    }

    /// Takes a token.
    fn push(
        &mut self,
        id: u32,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ControlFlow<FinishReason>, TokenizerError> {
        let decoder = self.decoder.as_mut().expect("the row is not done");
        if let Some(piece) = decoder.push(id)? {
            let certain = self.scanner.push(&piece);
            self.say(&certain, on_text);
        }
        Ok(match self.scanner.stopped() || self.unwanted {
            true => ControlFlow::Break(FinishReason::StopString),
            false => ControlFlow::Continue(()),
        })
    }

    /// Gives out what was held back.
    fn finish(&mut self, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) {
        let decoder = self.decoder.take().expect("the row is not done");
        let mut last = self.scanner.push(&decoder.finish());
        last += &self.scanner.finish();
        self.say(&last, on_text);
    }

    fn say(&mut self, certain: &str, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) {
        if !certain.is_empty() && !self.unwanted {
            self.text.push_str(certain);
            self.unwanted = on_text(certain).is_break();
        }
    }

    fn generation(self, made: Continuation, request: &Request) -> Generation {
        let finish_reason = match self.scanner.stopped() {
            true => FinishReason::StopString,
            false => made.finish_reason,
        };
        Generation {
            text: self.text,
            tokens_per_second: made.ids.len() as f64 / made.seconds.max(f64::MIN_POSITIVE),
            ids: made.ids,
            finish_reason,
            prompt_tokens: request.ids.len(),
        }
    }
}

#[cfg(test)]
mod tests;
