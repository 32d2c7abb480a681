//! How long an evaluation will take, and what it needs: its heaviest batches, with answers that break off.

use std::cmp::Reverse;
use std::time::Instant;

use anyhow::Result;
use etude_data::{Renderer, TaskExample};
use etude_model::Decoder;
use etude_tokenizer::Tokenizer;

use super::choices::{Candidates, choices};
use super::{Item, TaskMetric, TaskSettings, check_context, likelihood, render, some_fit};
use crate::greedy::{self, Batches};
use crate::progress::Listener;

/// Tokens of an answer that are measured.
const FEW: usize = 9;

/// How long [`evaluate`](super::evaluate) takes on examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskPace {
    /// Seconds for the likelihoods of right answers, and for all prompts with a first token each.
    pub reading: f64,
    /// Seconds for another token of every answer.
    pub token: f64,
}

impl TaskPace {
    /// Seconds when the longest answer of each batch has so many tokens.
    pub fn seconds(&self, tokens: usize) -> f64 {
        self.reading + self.token * tokens.saturating_sub(1) as f64
    }
}

/// Measures it on the longest of the examples, as many as the largest batches of an evaluation hold. Memory is taken
/// as an evaluation of all of them takes it: the answers have the room of whole ones, though they break off after a
/// few tokens.
///
/// # Errors
/// As [`evaluate`](super::evaluate).
pub fn task_pace(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    renderer: &Renderer,
    examples: &[TaskExample],
    settings: &TaskSettings,
    on_progress: &mut Listener<'_>,
) -> Result<TaskPace> {
    settings.validate()?;
    check_context(decoder, renderer)?;
    let (items, _) = render(renderer, examples)?;
    let tokens = |items: &[Item<'_>]| items.iter().map(|item| item.whole.ids.len()).sum::<usize>();
    let prompts = |items: &[Item<'_>]| -> Vec<Vec<u32>> {
        items.iter().map(|item| item.prompt.ids.clone()).collect()
    };
    let lengths = |items: &[Item<'_>]| {
        items
            .iter()
            .map(|item| item.prompt.ids.len())
            .collect::<Vec<_>>()
    };
    let few = longest(&items, settings.rows);
    let (mut few, mut left_out) = render(renderer, &few)?;

    let started = Instant::now();
    let wholes: Vec<_> = few
        .iter()
        .map(|item| (&item.whole, &item.example.source))
        .collect();
    likelihood::nats(decoder, &wholes, on_progress)?;
    let chooses = settings.metrics.iter().any(TaskMetric::is_choice);
    if chooses {
        let answers = choices(items.iter().map(|item| item.example), settings)?;
        let candidates = Candidates::render(renderer, answers, &mut few, &mut left_out)?;
        some_fit(&few, &left_out, renderer)?;
        candidates.chosen(decoder, &few, on_progress)?;
    }
    let share = tokens(&few) as f64 / tokens(&items) as f64;
    let scoring = started.elapsed().as_secs_f64() / share;
    if chooses && !settings.metrics.iter().any(TaskMetric::needs_answers) {
        return Ok(TaskPace {
            reading: scoring,
            token: 0.0,
        });
    }
    let batches = Batches::of(settings.rows).broken_off(FEW);
    let place = |number: usize| few[number].example.source.to_string();
    let model = (decoder, tokenizer);
    let made = greedy::answers(
        model,
        &prompts(&few),
        &settings.text(),
        batches,
        &place,
        on_progress,
    )?;
    let step = (made.seconds - made.reading).max(0.0) / made.steps.max(1) as f64;
    Ok(TaskPace {
        reading: scoring + made.reading / share,
        token: step * batches.count(lengths(&items)) as f64,
    })
}

/// The longest examples: as many as are answered at a time, and as fill a batch of likelihoods.
pub(super) fn longest(items: &[Item<'_>], rows: usize) -> Vec<TaskExample> {
    let mut order: Vec<&Item<'_>> = items.iter().collect();
    order.sort_by_key(|item| Reverse(item.whole.ids.len()));
    let mut tokens = 0;
    let count = order.iter().enumerate().take_while(|(number, item)| {
        let wanted = *number < rows || tokens < likelihood::BATCH_TOKENS;
        tokens += item.whole.ids.len();
        wanted
    });
    let count = count.count();
    order[..count]
        .iter()
        .map(|item| item.example.clone())
        .collect()
}
