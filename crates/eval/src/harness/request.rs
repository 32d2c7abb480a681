//! Log-likelihoods of continuations, in batches.
//!
//! B rows, T columns, C model width, N scored places, V vocabulary.

use std::collections::HashMap;

use anyhow::Result;
use etude_model::{Decoder, Input, KvCache};
use etude_tensor::{Kind, Tensor, no_grad};

use super::sample::Likelihood;
use crate::progress::{Listener, Progress, Stage};

/// Tokens that go through the model at a time.
const BATCH_TOKENS: usize = 8192;

/// Places whose logits exist at a time.
const PLACES: usize = 512;

/// From this many tokens on a context is read once for all of its continuations.
const SHARED: usize = 48;

/// A context and what follows it, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// At least one token.
    pub(super) context: Vec<u32>,
    /// At least one token, at most as many as the model's context.
    pub(super) continuation: Vec<u32>,
}

/// One row to read: several requests whose tokens are the same but for the last one share it.
struct Row {
    /// What the model reads.
    input: Vec<i64>,
    /// The tokens at its start that a cache may hold.
    context: usize,
    /// How many of its last places are scored, at most.
    scored: usize,
    /// The requests, by number.
    requests: Vec<usize>,
}

/// Rows that go through the model together.
enum Batch {
    /// Each by itself, from its first token.
    Plain(Vec<usize>),
    /// With one context, which is read once.
    Shared(Vec<usize>),
}

/// The likelihoods of requests, in their order. What does not fit the `longest` tokens that the model may
/// read is cut on the left, as lm-evaluation-harness cuts it. `rows` are read at a time at most.
pub(super) fn likelihoods(
    decoder: &Decoder,
    requests: &[Request],
    (longest, rows): (usize, usize),
    on_progress: &mut Listener<'_>,
) -> Result<Vec<Likelihood>> {
    let mut found = vec![
        Likelihood {
            log_likelihood: 0.0,
            is_greedy: true,
        };
        requests.len()
    ];
    let all = rows_of(requests, longest);
    let total = requests.len() as u64;
    let mut done = 0;
    for batch in batches(&all, rows) {
        on_progress(Progress {
            stage: Stage::Scoring,
            done,
            total,
        })?;
        let (numbers, shared) = match &batch {
            Batch::Plain(numbers) => (numbers, 0),
            // The context's last token is read with each row: its place is scored.
            Batch::Shared(numbers) => (numbers, all[numbers[0]].context - 1),
        };
        let rows: Vec<&Row> = numbers.iter().map(|&number| &all[number]).collect();
        no_grad(|| read(decoder, requests, &rows, shared, &mut found));
        done += rows
            .iter()
            .map(|row| row.requests.len() as u64)
            .sum::<u64>();
    }
    on_progress(Progress {
        stage: Stage::Scoring,
        done: total,
        total,
    })?;
    Ok(found)
}

/// The different rows of the requests, in the order of their first requests.
fn rows_of(requests: &[Request], longest: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut known: HashMap<Vec<i64>, usize> = HashMap::new();
    for (number, request) in requests.iter().enumerate() {
        let whole = request.context.iter().chain(&request.continuation);
        let mut input: Vec<i64> = whole.map(|&id| i64::from(id)).collect();
        input.pop();
        let cut = input.len().saturating_sub(longest);
        input.drain(..cut);
        // A context that is cut is a part of its own.
        let context = if cut == 0 { request.context.len() } else { 1 };
        let scored = request.continuation.len();
        match known.get(&input) {
            Some(&place) => {
                let row = &mut rows[place];
                row.requests.push(number);
                row.scored = row.scored.max(scored);
                row.context = row.context.min(context);
            }
            None => {
                known.insert(input.clone(), rows.len());
                rows.push(Row {
                    input,
                    context,
                    scored,
                    requests: vec![number],
                });
            }
        }
    }
    rows
}

/// What goes through the model together: first contexts that are worth sharing, then the rest by length, the
/// longest first, so that memory that does not suffice shows at once.
fn batches(all: &[Row], rows: usize) -> Vec<Batch> {
    let mut by_context: HashMap<&[i64], Vec<usize>> = HashMap::new();
    for (number, row) in all.iter().enumerate() {
        by_context
            .entry(&row.input[..row.context])
            .or_default()
            .push(number);
    }
    let (mut batches, mut plain) = (Vec::new(), Vec::new());
    for (context, numbers) in by_context {
        if context.len() < SHARED || numbers.len() < 2 {
            plain.extend(numbers);
            continue;
        }
        for numbers in numbers.chunks(rows) {
            batches.push(Batch::Shared(numbers.to_vec()));
        }
    }
    batches.sort_by_key(|batch| match batch {
        Batch::Plain(numbers) | Batch::Shared(numbers) => numbers[0],
    });
    plain.sort_by_key(|&number| (std::cmp::Reverse(all[number].input.len()), number));
    let mut left = &plain[..];
    while let Some(&first) = left.first() {
        let most = (BATCH_TOKENS / all[first].input.len()).clamp(1, rows);
        let (now, later) = left.split_at(most.min(left.len()));
        batches.push(Batch::Plain(now.to_vec()));
        left = later;
    }
    batches
}

/// Reads rows whose first `shared` tokens are the same, and writes what was found for their requests.
fn read(
    decoder: &Decoder,
    requests: &[Request],
    rows: &[&Row],
    shared: usize,
    found: &mut [Likelihood],
) {
    let cols = rows.iter().map(|row| row.input.len()).max().unwrap_or(0) - shared;
    let mut ids = Vec::with_capacity(rows.len() * cols);
    for (number, row) in rows.iter().enumerate() {
        ids.extend(&row.input[shared..]);
        // Padding on the right, where causal attention never looks.
        ids.resize((number + 1) * cols, 0);
    }
    let device = decoder.device();
    let tensor = |ids: &[i64], rows: usize| {
        Tensor::from_slice(ids)
            .view([rows as i64, (ids.len() / rows) as i64]) // (B, T)
            .to_device(device)
    };
    let mut cache = (shared > 0).then(|| {
        let kind = decoder.params().kind();
        let mut cache = KvCache::new(decoder.config(), 1, shared as i64, kind, device);
        let context = tensor(&rows[0].input[..shared], 1);
        let _ = decoder.newest_hidden(Input::plain(&context), &mut cache);
        cache.repeated(rows.len() as i64, cols as i64)
    });
    let ids = tensor(&ids, rows.len());
    let hidden = decoder.hidden(Input::plain(&ids), cache.as_mut()); // (B, T, C)
    let hidden = hidden.reshape([-1, decoder.config().n_embd]); // (B * T, C)
    // (place, request, token): what is asked, in the order of places.
    let mut asked: Vec<(i64, usize, u32)> = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let end = number * cols + row.input.len() - shared;
        for place in end - row.scored..end {
            for &request in &row.requests {
                let continuation = &requests[request].continuation;
                if let Some(&token) = (continuation.len() + place)
                    .checked_sub(end)
                    .and_then(|at| continuation.get(at))
                {
                    asked.push((place as i64, request, token));
                }
            }
        }
    }
    let mut left = &asked[..];
    while !left.is_empty() {
        let mut places: Vec<i64> = Vec::new();
        let mut targets: Vec<i64> = Vec::new();
        let vocabulary = decoder.config().vocab_size;
        let mut count = 0;
        for &(place, _, token) in left {
            if places.last() != Some(&place) {
                if places.len() == PLACES {
                    break;
                }
                places.push(place);
            }
            targets.push((places.len() as i64 - 1) * vocabulary + i64::from(token));
            count += 1;
        }
        let index = Tensor::from_slice(&places).to_device(device);
        let logits = decoder.logits(&hidden.index_select(0, &index)); // (N, V)
        let wide = match logits.kind() {
            Kind::Double => Kind::Double,
            _ => Kind::Float,
        };
        let log_probabilities = logits.log_softmax(-1, wide); // (N, V)
        let best = log_probabilities.argmax(-1, false); // (N)
        let best = Vec::<i64>::try_from(best).expect("indices"); // sync
        let index = Tensor::from_slice(&targets).to_device(device);
        let values = log_probabilities.reshape([-1]).index_select(0, &index);
        let values = Vec::<f64>::try_from(values.to_kind(Kind::Double)).expect("float64"); // sync
        for ((&(_, request, token), value), target) in left.iter().zip(values).zip(&targets) {
            let place = (target / vocabulary) as usize;
            found[request].log_likelihood += value;
            found[request].is_greedy &= best[place] == i64::from(token);
        }
        left = &left[count..];
    }
}
