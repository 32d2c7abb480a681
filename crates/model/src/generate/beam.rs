//! Beam search: the most likely whole continuation, as far as a few of the best beginnings lead to it.
//!
//! The search is Transformers' (`num_beams`, `length_penalty`, `early_stopping = false`): in each step the best
//! continuations of a request's beams are looked at, those that end and are among the first `width` are kept with
//! their score, and the best others go on. It is over when `width` continuations have ended and the best beam, at its
//! present length, cannot beat the worst of these.
//!
//! B requests, W beams each, V vocabulary.

use std::time::Instant;

use etude_tensor::{Kind, Tensor};
use serde::{Deserialize, Serialize};

use super::choose::to_host;
use super::rows::{Prompt, Rows};
use super::{Continuation, FinishReason, GenerateError, Generator, Request};
use crate::sample::Sampling;

/// How many continuations are weighed against each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Beams {
    /// Beginnings that are followed at the same time; 1, the default, is no search.
    pub width: usize,
    /// A continuation's log-probability is divided by its number of tokens to this power before it is compared:
    /// 0 favours short ones, 1, the default, compares by the token, more favours long ones.
    pub length_penalty: f64,
}

impl Default for Beams {
    fn default() -> Self {
        Self {
            width: 1,
            length_penalty: 1.0,
        }
    }
}

impl Beams {
    /// The most beams; each takes the memory of a row.
    pub const MOST: usize = 256;

    /// Whether there is anything to search.
    pub fn is_search(&self) -> bool {
        self.width > 1
    }

    /// Refuses values that mean nothing, and a search where tokens are drawn by `sampling`.
    ///
    /// # Errors
    /// The field, its value, and what it must be.
    pub fn validate(&self, sampling: &Sampling) -> Result<(), GenerateError> {
        let refuse = |field, value: String, must| Err(GenerateError::Beams { field, value, must });
        if !(1..=Self::MOST).contains(&self.width) {
            let must = "1, which is no search, to 256; 4 to 10 is usual";
            return refuse("width", self.width.to_string(), must);
        }
        if !self.length_penalty.is_finite() {
            let must = "a finite number; 1 compares by the token, 0 by the whole";
            return refuse("length_penalty", self.length_penalty.to_string(), must);
        }
        if self.is_search() && !sampling.is_greedy() {
            return Err(GenerateError::SampledBeams);
        }
        Ok(())
    }
}

/// A beginning that is followed.
#[derive(Debug, Clone)]
struct Beam {
    ids: Vec<u32>,
    /// Its log-probability; with a repetition penalty the sum of what that leaves.
    score: f32,
}

/// A continuation that has ended.
#[derive(Debug, Clone)]
struct Ended {
    ids: Vec<u32>,
    /// With the length penalty.
    score: f32,
    reason: FinishReason,
}

/// A possible next beam.
struct Candidate {
    /// The place of the beam that it continues.
    beam: usize,
    id: u32,
    score: f32,
}

/// The search of one request.
struct Search<'a> {
    /// The request's place among all.
    place: usize,
    request: &'a Request,
    most: usize,
    /// The best first, at most W.
    beams: Vec<Beam>,
    /// The best first, at most W.
    ended: Vec<Ended>,
    done: bool,
}

impl<'a> Search<'a> {
    fn new(place: usize, request: &'a Request, most: usize) -> Self {
        let root = Beam {
            ids: Vec::new(),
            score: 0.0,
        };
        Self {
            place,
            request,
            most,
            beams: vec![root],
            ended: Vec::new(),
            done: false,
        }
    }

    fn width(&self) -> usize {
        self.request.beams.width
    }

    /// So many continuations that W of them do not end, even if every beam ends in every way.
    fn looked_at(&self) -> usize {
        (1 + self.request.end.len().max(1)) * self.width()
    }

    /// Goes on with the best candidates, given best first, and says which beam each new one continues.
    fn advance(
        &mut self,
        candidates: &[Candidate],
        ended: &dyn Fn(usize, &[u32]) -> bool,
    ) -> Vec<usize> {
        let (mut beams, mut sources) = (Vec::new(), Vec::new());
        for (rank, candidate) in candidates.iter().enumerate() {
            let old = &self.beams[candidate.beam];
            let ids = [&old.ids[..], &[candidate.id]].concat();
            let reason = self.reason(&ids, ended);
            let score = candidate.score;
            match reason {
                Some(reason) if rank < self.width() => {
                    let score = score / self.length(ids.len());
                    self.ended.push(Ended { ids, score, reason });
                }
                None if beams.len() < self.width() => {
                    beams.push(Beam { ids, score });
                    sources.push(candidate.beam);
                }
                _ => {}
            }
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score)); // stable: of equals the earlier first
        self.ended.truncate(self.width());
        self.beams = beams;
        self.done = self.is_over();
        sources
    }

    fn reason(&self, ids: &[u32], ended: &dyn Fn(usize, &[u32]) -> bool) -> Option<FinishReason> {
        let last = ids.last().expect("a candidate has a token");
        if self.request.end.contains(last) {
            Some(FinishReason::Stop)
        } else if ended(self.place, ids) {
            Some(FinishReason::StopString)
        } else {
            (ids.len() == self.most).then_some(FinishReason::Length)
        }
    }

    fn length(&self, tokens: usize) -> f32 {
        (tokens as f64).powf(self.request.beams.length_penalty) as f32
    }

    fn is_over(&self) -> bool {
        let Some(best) = self.beams.first() else {
            return true;
        };
        match self.ended.get(self.width() - 1) {
            Some(worst) => best.score / self.length(best.ids.len()) <= worst.score,
            None => false,
        }
    }

    fn best(&mut self, seconds: f64) -> Continuation {
        // Without one that ended, no candidate could be compared, and that was refused.
        let best = self.ended.swap_remove(0);
        Continuation {
            ids: best.ids,
            finish_reason: best.reason,
            seconds,
        }
    }
}

/// The best continuation of each request, in their order; all have the same number of beams. `ended` says whether a
/// request's new tokens come to an end by what they spell.
pub(super) fn search(
    generator: &Generator<'_>,
    requests: &[(usize, &Request)],
    ended: &dyn Fn(usize, &[u32]) -> bool,
) -> Result<Vec<(usize, Continuation)>, GenerateError> {
    let started = Instant::now();
    let width = requests[0].1.beams.width;
    let mut searches: Vec<Search<'_>> = requests
        .iter()
        .map(|&(place, request)| Search::new(place, request, generator.most(request)))
        .collect();
    let prompts: Vec<Prompt<'_>> = searches
        .iter()
        .map(|search| Prompt::new(&search.request.ids, search.most))
        .collect();
    let (mut rows, mut logits) = Rows::read(generator.decoder, &prompts);
    rows.repeat(width);
    let mut made = Vec::with_capacity(requests.len());
    loop {
        let candidates = candidates(&logits, generator.vocabulary, &searches)?;
        let (mut sources, mut newest) = (Vec::new(), Vec::new());
        for (number, (search, candidates)) in searches.iter_mut().zip(candidates).enumerate() {
            let before = match search.done {
                true => Vec::new(),
                false => search.advance(&candidates, ended),
            };
            // A row without a beam follows along, and what becomes of it is not looked at.
            for beam in 0..width {
                sources.push(number * width + before.get(beam).copied().unwrap_or(0));
                let ids = search.beams.get(beam).map(|beam| &beam.ids);
                newest.push(ids.and_then(|ids| ids.last()).copied().unwrap_or(0));
            }
            if search.done && !search.ended.is_empty() {
                made.push((search.place, search.best(started.elapsed().as_secs_f64())));
                search.ended.clear();
            }
        }
        if searches.iter().all(|search| search.done) {
            break;
        }
        rows.follow(&sources);
        let finished: Vec<bool> = searches
            .iter()
            .flat_map(|search| std::iter::repeat_n(search.done, width))
            .collect();
        if rows.drop_finished(&finished) {
            let mut live = finished.iter().map(|finished| !finished);
            newest.retain(|_| live.next().expect("one a row"));
            searches.retain(|search| !search.done);
        }
        logits = rows.step(&newest);
    }
    Ok(made)
}

/// The best continuations of each request's beams, best first, from `(B, V)` logits after the prompts or `(B W, V)`
/// after beams.
fn candidates(
    logits: &Tensor,
    vocabulary: i64,
    searches: &[Search<'_>],
) -> Result<Vec<Vec<Candidate>>, GenerateError> {
    let rows = logits.size()[0];
    let each = rows / searches.len() as i64; // 1 after the prompts, then W
    let device = logits.device();
    let mut logprobs = logits.log_softmax(-1, Kind::Float); // (B each, V)
    if let Some((seen, penalty)) = penalties(searches, each as usize) {
        let (seen, penalty) = (seen.to_device(device), penalty.to_device(device));
        let penalized = logprobs.gather(1, &seen, false) * penalty; // log-probabilities are not positive
        logprobs = logprobs.scatter(1, &seen, &penalized);
    }
    let scores: Vec<f32> = searches
        .iter()
        .flat_map(|search| {
            let score = |beam: usize| search.beams.get(beam).map(|beam| beam.score);
            (0..each as usize).map(move |beam| score(beam).unwrap_or(f32::NEG_INFINITY))
        })
        .collect();
    let scores = Tensor::from_slice(&scores).to_device(device).unsqueeze(1); // (B each, 1)
    let offered = (logprobs.narrow(1, 0, vocabulary) + scores).view([-1, each * vocabulary]);
    let count = searches.iter().map(Search::looked_at).max();
    let count = count.expect("there is a search") as i64;
    let (values, places) = offered.topk(count.min(each * vocabulary), -1, true, true); // (B, K) each
    let (values, places) = to_host(&values, &places);
    let count = values.len() / searches.len();
    let of = |(search, (values, places)): (&Search<'_>, (&[f32], &[i64]))| {
        if !search.done && !values[0].is_finite() {
            return Err(GenerateError::NotFinite {
                prompt: search.place,
                tokens: search.request.ids.len() + search.beams[0].ids.len(),
            });
        }
        let candidate = |(&score, &place): (&f32, &i64)| Candidate {
            beam: (place / vocabulary) as usize,
            id: (place % vocabulary) as u32,
            score,
        };
        let finite = |candidate: &Candidate| candidate.score.is_finite(); // the others continue no beam
        // As many as it would have by itself: beside others with more ends there are more.
        let own = search.looked_at();
        let all = values.iter().zip(places).map(candidate).take(own);
        Ok(all.filter(finite).collect())
    };
    searches
        .iter()
        .zip(values.chunks(count).zip(places.chunks(count)))
        .map(of)
        .collect()
}

/// Which tokens each row has had, `(rows, S)`, and its penalty, `(rows, 1)`; none where no request has one.
fn penalties(searches: &[Search<'_>], each: usize) -> Option<(Tensor, Tensor)> {
    let penalty = |search: &Search<'_>| search.request.sampling.repetition_penalty;
    if searches.iter().all(|search| penalty(search) == 1.0) {
        return None;
    }
    let tokens = |search: &Search<'_>| {
        search.request.ids.len() + search.beams.first().map_or(0, |beam| beam.ids.len())
    };
    let longest = searches.iter().map(tokens).max()?;
    let (mut seen, mut factors) = (Vec::new(), Vec::new());
    for search in searches {
        let prompt = &search.request.ids;
        for beam in 0..each {
            let new = search.beams.get(beam).map_or(&[][..], |beam| &beam.ids);
            let before = seen.len();
            seen.extend(prompt.iter().chain(new).map(|&id| i64::from(id)));
            seen.resize(before + longest, i64::from(prompt[0])); // once more changes nothing
            factors.push(penalty(search) as f32);
        }
    }
    let seen = Tensor::from_slice(&seen).view([-1, longest as i64]);
    Some((seen, Tensor::from_slice(&factors).unsqueeze(1)))
}

#[cfg(test)]
mod tests;
