//! The model's answers to a task's examples.

use anyhow::Result;
use etude_data::{ExampleFormat, Renderer};
use etude_model::{Decoder, FinishReason};
use etude_tokenizer::Tokenizer;

use super::{Item, TaskSettings};
use crate::greedy::{self, Batches};
use crate::progress::Listener;

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

impl Answers {
    /// Answers that the model did not write.
    pub(super) fn given(texts: &[String]) -> Self {
        let answer = |text: &String| Answer {
            text: text.clone(),
            finish_reason: FinishReason::Stop,
            tokens: 0,
        };
        Self {
            rows: texts.iter().map(answer).collect(),
            seconds: 0.0,
        }
    }
}

pub(super) fn answers(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    renderer: &Renderer,
    items: &[Item<'_>],
    settings: &TaskSettings,
    on_progress: &mut Listener<'_>,
) -> Result<Answers> {
    let prompts: Vec<Vec<u32>> = items.iter().map(|item| item.prompt.ids.clone()).collect();
    let place = |number: usize| items[number].example.source.to_string();
    let model = (decoder, tokenizer);
    let batches = Batches::of(settings.rows);
    let made = greedy::answers(
        model,
        &prompts,
        &settings.text(),
        batches,
        &place,
        on_progress,
    )?;
    let answer = |made: etude_model::Generation| Answer {
        text: bare(renderer, made.text),
        finish_reason: made.finish_reason,
        tokens: made.ids.len() as u64,
    };
    Ok(Answers {
        rows: made.rows.into_iter().map(answer).collect(),
        seconds: made.seconds,
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
