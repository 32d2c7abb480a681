//! Generation over ids: prompts of different lengths are read at once and continued together, one
//! token a step, with a cache. What a row gets does not depend on the rows beside it. Text, templates
//! and stop strings are left to `text`.
//!
//! B rows in the batch, T positions read at once, V vocabulary.

mod beam;
mod choose;
mod error;
mod rows;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use etude_tensor::no_grad;
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::sample::{Sampler, Sampling};
pub use beam::Beams;
pub use error::GenerateError;
use rows::{Prompt, Rows};

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
    /// How many continuations are weighed against each other; more than one only of greedy sampling.
    pub beams: Beams,
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
    /// tokens are not told. Its `Break` ends that row, with that reason, after this token. Of a search by
    /// beams it hears when the search is over.
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
        self.generate_until(requests, &|_, _| false, on_token)
    }

    /// The same, where `ended` says whether a request's new tokens spell an end. It is asked in a search by beams
    /// alone, of which `on_token` hears too late.
    pub(crate) fn generate_until(
        &self,
        requests: &[Request],
        ended: &dyn Fn(usize, &[u32]) -> bool,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<FinishReason>,
    ) -> Result<Vec<Continuation>, GenerateError> {
        for (prompt, request) in requests.iter().enumerate() {
            self.check(prompt, request)?;
        }
        let mut by_width: BTreeMap<usize, Vec<(usize, &Request)>> = BTreeMap::new();
        for (place, request) in requests.iter().enumerate() {
            let alike = by_width.entry(request.beams.width).or_default();
            alike.push((place, request));
        }
        let mut done: Vec<Option<Continuation>> = vec![None; requests.len()];
        for alike in by_width.into_values() {
            let made = no_grad(|| match alike[0].1.beams.is_search() {
                true => beam::search(self, &alike, ended),
                false => self.run(&alike, on_token),
            })?;
            for (place, mut continuation) in made {
                if requests[place].beams.is_search() {
                    tell(place, &mut continuation, on_token);
                }
                done[place] = Some(continuation);
            }
        }
        let whole = "every request is in one group, and comes out of it";
        Ok(done.into_iter().map(|row| row.expect(whole)).collect())
    }

    fn check(&self, prompt: usize, request: &Request) -> Result<(), GenerateError> {
        let config = self.decoder.config();
        let (tokens, context) = (request.ids.len(), config.context);
        request.sampling.validate()?;
        request.beams.validate(&request.sampling)?;
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

    /// The most new tokens of a request, by what it says and by the context.
    fn most(&self, request: &Request) -> usize {
        let room = self.decoder.config().context as usize - request.ids.len() + 1;
        request.max_tokens.min(room)
    }

    /// The continuations of requests without beams, with their places.
    fn run(
        &self,
        requests: &[(usize, &Request)],
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<FinishReason>,
    ) -> Result<Vec<(usize, Continuation)>, GenerateError> {
        let mut running: Vec<Running<'_>> = requests
            .iter()
            .map(|&(place, request)| Running::new(place, request, self.most(request)))
            .collect();
        let mut done = Vec::with_capacity(requests.len());
        let started = Instant::now();
        let prompts: Vec<Prompt<'_>> = running
            .iter()
            .map(|row| Prompt::new(&row.request.ids, row.most))
            .collect();
        let (mut rows, mut logits) = Rows::read(self.decoder, &prompts);
        loop {
            let offered = logits.narrow(-1, 0, self.vocabulary);
            let chosen = choose::choose(&offered, &mut running)?;
            for (row, id) in running.iter_mut().zip(chosen) {
                if let Some(finish_reason) = row.take(id, on_token) {
                    let seconds = started.elapsed().as_secs_f64();
                    let ids = std::mem::take(&mut row.ids);
                    let continuation = Continuation {
                        ids,
                        finish_reason,
                        seconds,
                    };
                    done.push((row.place, continuation));
                }
            }
            let finished: Vec<bool> = running.iter().map(|row| row.finished).collect();
            if !finished.contains(&false) {
                return Ok(done);
            }
            if rows.drop_finished(&finished) {
                running.retain(|row| !row.finished);
            }
            let newest = |row: &Running<'_>| row.ids.last().copied().unwrap_or(0);
            logits = rows.step(&running.iter().map(newest).collect::<Vec<_>>());
        }
    }
}

/// Tells of a continuation's tokens when all are there, and ends it where the listener says so.
fn tell(
    place: usize,
    continuation: &mut Continuation,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<FinishReason>,
) {
    let ends = continuation.finish_reason == FinishReason::Stop;
    let told = continuation.ids.len() - usize::from(ends);
    for number in 0..told {
        if let Some(reason) = on_token(place, continuation.ids[number]).break_value() {
            continuation.ids.truncate(number + 1);
            continuation.finish_reason = reason;
            return;
        }
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
    fn new(place: usize, request: &'a Request, most: usize) -> Self {
        Self {
            place,
            request,
            sampler: Sampler::new(&request.sampling, &request.ids),
            ids: Vec::new(),
            most,
            finished: false,
        }
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
