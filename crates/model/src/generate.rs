//! Generation over ids: prompts of different lengths are read at once and continued together, one
//! token a step, with a cache. What a row gets does not depend on the rows beside it. Text, templates
//! and stop strings are left to `text`.
//!
//! B rows in the batch, T positions read at once, V vocabulary.

mod choose;
mod error;
mod rows;

use std::ops::ControlFlow;
use std::time::Instant;

use etude_tensor::no_grad;
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::sample::{Sampler, Sampling};
pub use error::GenerateError;
use rows::Rows;

/// One prompt and how it is to be continued.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt, at least one token.
    pub ids: Vec<u32>,
    /// At most this many new tokens, at least 1.
    pub max_tokens: usize,
    /// Tokens at which the row ends.
    pub end: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model made an end token.
    Stop,
    /// The row has its most new tokens, or the model's context is full.
    Length,
    /// The text came to a stop string, or the caller ended the row.
    StopString,
}

impl FinishReason {
    /// `stop`, `length` or `stop_string`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::StopString => "stop_string",
        }
    }
}

/// What the model made of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// The new tokens, the end token included where there is one.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub finish_reason: FinishReason,
    /// Seconds from the start of the call to the row's last token.
    pub seconds: f64,
}

/// Continues prompts with one decoder.
#[derive(Debug, Clone, Copy)]
pub struct Generator<'a> {
    decoder: &'a Decoder,
    vocabulary: i64,
}

impl<'a> Generator<'a> {
    /// With all of the decoder's vocabulary.
    pub fn new(decoder: &'a Decoder) -> Self {
        let vocabulary = decoder.config().vocab_size;
        Self {
            decoder,
            vocabulary,
        }
    }

    /// Never chooses an id of `size` or more: embeddings are often larger than the vocabulary, and
    /// the rows that fill them up stand for nothing.
    #[must_use]
    pub fn with_vocabulary(mut self, size: usize) -> Self {
        let all = self.decoder.config().vocab_size;
        self.vocabulary = i64::try_from(size).map_or(all, |size| size.clamp(1, all));
        self
    }

    /// The decoder.
    pub fn decoder(&self) -> &'a Decoder {
        self.decoder
    }

    /// Continues all requests in one batch; memory grows with their number times the longest one. A
    /// row gets what it would get alone, up to rounding: where two tokens are equally likely to the
    /// last digit, products of another shape may decide between them in another way.
    ///
    /// `on_token` hears of each new token with the place of its request, in order for each row; end
    /// tokens are not told. Its `Break` ends that row, with that reason, after this token.
    ///
    /// Prompt and new tokens together are at most one more than the context: the last token is not
    /// read, so it takes no place.
    ///
    /// # Errors
    /// A request that cannot be, before anything is computed; logits that are not finite.
    pub fn generate(
        &self,
        requests: &[Request],
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<FinishReason>,
    ) -> Result<Vec<Continuation>, GenerateError> {
        for (prompt, request) in requests.iter().enumerate() {
            self.check(prompt, request)?;
        }
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        no_grad(|| self.run(requests, on_token))
    }

    fn check(&self, prompt: usize, request: &Request) -> Result<(), GenerateError> {
        let config = self.decoder.config();
        let (tokens, context) = (request.ids.len(), config.context);
        request.sampling.validate()?;
        if request.max_tokens == 0 {
            return Err(GenerateError::NoTokens);
        }
        if tokens == 0 {
            return Err(GenerateError::EmptyPrompt { prompt });
        }
        if tokens as i64 > context {
            return Err(GenerateError::PromptTooLong {
                prompt,
                tokens,
                context,
            });
        }
        let vocabulary = config.vocab_size;
        let unknown = |&id: &u32| i64::from(id) >= vocabulary;
        match request.ids.iter().position(unknown) {
            Some(place) => Err(GenerateError::UnknownId {
                prompt,
                place,
                id: request.ids[place],
                vocabulary,
            }),
            None => Ok(()),
        }
    }

    fn run(
        &self,
        requests: &[Request],
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<FinishReason>,
    ) -> Result<Vec<Continuation>, GenerateError> {
        let context = self.decoder.config().context;
        let mut running: Vec<Running<'_>> = (requests.iter().enumerate())
            .map(|(place, request)| Running::new(place, request, context))
            .collect();
        let mut done: Vec<Option<Continuation>> = vec![None; requests.len()];
        let started = Instant::now();
        let (mut rows, mut logits) = Rows::read(self.decoder, &running);
        loop {
            let offered = logits.narrow(-1, 0, self.vocabulary);
            let chosen = choose::choose(&offered, &mut running)?;
            for (row, id) in running.iter_mut().zip(chosen) {
                if let Some(finish_reason) = row.take(id, on_token) {
                    let seconds = started.elapsed().as_secs_f64();
                    done[row.place] = Some(Continuation {
                        ids: std::mem::take(&mut row.ids),
                        finish_reason,
                        seconds,
                    });
                }
            }
            if running.iter().all(|row| row.finished) {
                break;
            }
            rows.drop_finished(&mut running);
            logits = rows.step(&running);
        }
        let whole = "the loop ends when every row has";
        Ok(done.into_iter().map(|row| row.expect(whole)).collect())
    }
}

/// A request on its way.
struct Running<'a> {
    /// The request's place among all.
    place: usize,
    request: &'a Request,
    sampler: Sampler,
    ids: Vec<u32>,
    /// The most new tokens, by the request and by the context.
    most: usize,
    finished: bool,
}

impl<'a> Running<'a> {
    fn new(place: usize, request: &'a Request, context: i64) -> Self {
        let room = context as usize - request.ids.len() + 1;
        Self {
            place,
            request,
            sampler: Sampler::new(&request.sampling, &request.ids),
            ids: Vec::new(),
            most: request.max_tokens.min(room),
            finished: false,
        }
    }

    /// The positions that the row will have taken when it has its most tokens; the last is not read.
    fn places(&self) -> i64 {
        (self.request.ids.len() + self.most - 1) as i64
    }

    /// Adds a token, and says whether it was the last.
    fn take(
        &mut self,
        id: Option<u32>,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<FinishReason>,
    ) -> Option<FinishReason> {
        let id = id?;
        self.ids.push(id);
        let reason = if self.request.end.contains(&id) {
            Some(FinishReason::Stop)
        } else {
            let full = (self.ids.len() == self.most).then_some(FinishReason::Length);
            on_token(self.place, id).break_value().or(full)
        };
        self.finished = reason.is_some();
        reason
    }
}

#[cfg(test)]
mod tests;
