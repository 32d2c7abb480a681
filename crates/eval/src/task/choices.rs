//! Classification: which of a few answers the model finds likeliest, without writing any.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use etude_data::{RenderedExample, Renderer, Rendering, Role, TaskBody, TaskExample};
use etude_model::Decoder;

use super::likelihood::nats;
use super::{Item, TaskSettings};
use crate::progress::Listener;

/// The most answers to choose from, as many as macro-F1 takes.
const MOST: usize = 64;

/// The answers to choose from: those of the settings, or all different right ones of the items.
pub(super) fn candidates(items: &[Item<'_>], settings: &TaskSettings) -> Result<Vec<String>> {
    let references = items.iter().map(|item| item.example.reference_text());
    if !settings.choices.is_empty() {
        for (item, reference) in items.iter().zip(references) {
            ensure!(
                settings.choices.iter().any(|choice| choice == reference),
                "{}: the right answer `{reference}` is none of the choices `{}`; add it to them",
                item.example.source,
                settings.choices.join("`, `")
            );
        }
        return Ok(settings.choices.clone());
    }
    let found: BTreeSet<&str> = references.collect();
    ensure!(
        (2..=MOST).contains(&found.len()),
        "the examples have {} different answers, and a classification takes 2 to {MOST}; name them as choices, or score by another metric",
        found.len()
    );
    Ok(found.into_iter().map(str::to_owned).collect())
}

/// The likeliest candidate for each item, each written as the right answer would be, with the token that ends
/// it; the first of equals.
pub(super) fn chosen<'c>(
    decoder: &Decoder,
    renderer: &Renderer,
    items: &[Item<'_>],
    candidates: &'c [String],
    on_progress: &mut Listener<'_>,
) -> Result<Vec<&'c str>> {
    let mut rendered: Vec<RenderedExample> = Vec::with_capacity(items.len() * candidates.len());
    for item in items {
        for candidate in candidates {
            let example = with_answer(item.example, candidate);
            match renderer.render(&example)? {
                Rendering::Kept(whole) => rendered.push(whole),
                Rendering::Dropped(reason) => bail!(
                    "{}: with the answer `{candidate}` it does not fit ({reason}); raise the context, or let prompts be truncated",
                    example.source
                ),
            }
        }
    }
    let sources = items
        .iter()
        .flat_map(|item| candidates.iter().map(|_| &item.example.source));
    let rows: Vec<_> = rendered.iter().zip(sources).collect();
    let nats = nats(decoder, &rows, on_progress)?;
    let likeliest = |nats: &[f64]| {
        let better = |best: usize, place: usize| {
            if nats[place] < nats[best] {
                place
            } else {
                best
            }
        };
        candidates[(1..nats.len()).fold(0, better)].as_str()
    };
    Ok(nats.chunks(candidates.len()).map(likeliest).collect())
}

/// The example with another last answer.
fn with_answer(example: &TaskExample, answer: &str) -> TaskExample {
    let mut example = example.clone();
    match &mut example.body {
        TaskBody::Completion { completion, .. } => answer.clone_into(completion),
        TaskBody::Chat { messages } => {
            let last = messages
                .iter_mut()
                .rev()
                .find(|turn| turn.role == Role::Assistant);
            if let Some(last) = last {
                answer.clone_into(&mut last.content);
            }
        }
    }
    example
}
