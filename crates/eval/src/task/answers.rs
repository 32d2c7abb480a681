//! The model's answers: greedy, in batches of prompts of similar length.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result};
use etude_data::{ExampleFormat, Renderer};
use etude_model::{Decoder, FinishReason, Prompt, Sampling, TextGenerator, TextSettings};
use etude_tokenizer::Tokenizer;

use super::{Item, TaskSettings};
use crate::progress::{Progress, Stage};

/// Prompt tokens that go through the model at a time.
const BATCH_TOKENS: usize = 16_384;

/// An item's answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) finish_reason: FinishReason,
    pub(super) tokens: u64,
}

/// All answers, in the order of the items.
pub(super) struct Answers {
    pub(super) rows: Vec<Answer>,
    pub(super) seconds: f64,
}

pub(super) fn answers(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    renderer: &Renderer,
    items: &[Item<'_>],
    settings: &TaskSettings,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Answers> {
    let generator = TextGenerator::new(decoder, tokenizer)?;
    let text = TextSettings {
        max_tokens: settings.max_tokens,
        stop: settings.stop.clone(),
        sampling: Sampling::greedy(),
    };
    let total = items.len() as u64;
    let started = Instant::now();
    // The longest come first, so that memory that does not suffice shows at once.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(items[number].prompt.ids.len()));
    let mut rows: Vec<Option<Answer>> = vec![None; items.len()];
    let mut done = 0;
    while done < order.len() {
        on_progress(Progress {
            stage: Stage::Generating,
            done: done as u64,
            total,
        });
        let most =
            (BATCH_TOKENS / items[order[done]].prompt.ids.len().max(1)).clamp(1, settings.rows);
        let here = &order[done..order.len().min(done + most)];
        let prompts: Vec<Prompt> = here
            .iter()
            .map(|&number| Prompt::Ids(items[number].prompt.ids.clone()))
            .collect();
        let requests: Vec<_> = prompts.iter().map(|prompt| (prompt, &text)).collect();
        let made = generator
            .generate(&requests, &mut |_, _| ControlFlow::Continue(()))
            .with_context(|| {
                format!(
                    "cannot answer {} and those with it",
                    items[here[0]].example.source
                )
            })?;
        for (&number, made) in here.iter().zip(made) {
            rows[number] = Some(Answer {
                text: bare(renderer, made.text),
                finish_reason: made.finish_reason,
                tokens: made.ids.len() as u64,
            });
        }
        done += here.len();
    }
    on_progress(Progress {
        stage: Stage::Generating,
        done: total,
        total,
    });
    let whole = "the order holds every item";
    Ok(Answers {
        rows: rows.into_iter().map(|row| row.expect(whole)).collect(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The answer without what the plain format's template puts around one.
fn bare(renderer: &Renderer, text: String) -> String {
    let ExampleFormat::Plain(plain) = &renderer.settings().format else {
        return text;
    };
    let (before, after) = plain
        .completion
        .split_once("{completion}")
        .unwrap_or_default();
    let text = text.strip_prefix(before).unwrap_or(&text);
    text.strip_suffix(after).unwrap_or(text).to_owned()
}
