//! Classification: which of a few answers the model finds likeliest, without writing any.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use etude_data::{RenderedExample, Renderer, Rendering, Role, TaskBody, TaskExample, Truncation};
use etude_model::Decoder;

use super::likelihood::nats;
use super::{Item, TaskSettings};
use crate::progress::Listener;

/// The most answers to choose from, as many as macro-F1 takes.
const MOST: usize = 64;

/// What a classification of examples chooses from: the answers of the settings, or all different right ones of the
/// examples.
///
/// # Errors
/// Fewer than two answers or more than 64, an empty one, and a right one that is none of those of the settings.
pub fn choices<'a>(
    examples: impl IntoIterator<Item = &'a TaskExample>,
    settings: &TaskSettings,
) -> Result<Vec<String>> {
    let given: BTreeSet<&str> = settings.choices.iter().map(String::as_str).collect();
    ensure!(
        given.iter().all(|choice| !choice.trim().is_empty()),
        "one of the choices `{}` is empty, and an empty answer has no likelihood; name it by a word, or leave it out",
        settings.choices.join("`, `")
    );
    let mut found = BTreeSet::new();
    for example in examples {
        let right = example.reference_text();
        let mut all = [right]
            .into_iter()
            .chain(example.also.iter().map(String::as_str));
        ensure!(
            given.is_empty() || all.any(|right| given.contains(right)),
            "{}: the right answer `{right}` is none of the choices `{}`; add it to them",
            example.source,
            settings.choices.join("`, `")
        );
        found.insert(right);
    }
    let all = if given.is_empty() { found } else { given };
    ensure!(
        (2..=MOST).contains(&all.len()),
        "there are {} different answers, and a classification takes 2 to {MOST}; name them as choices, or score by another metric",
        all.len()
    );
    Ok(match settings.choices.is_empty() {
        true => all.into_iter().map(str::to_owned).collect(),
        false => settings.choices.clone(),
    })
}

/// What is chosen from, written as the right answer of each item would be, with the token that ends it.
pub(super) struct Candidates {
    answers: Vec<String>,
    /// Item by item.
    rendered: Vec<RenderedExample>,
}

impl Candidates {
    /// Leaves out, and counts, the items whose context has no room for one of the answers.
    pub(super) fn render(
        renderer: &Renderer,
        answers: Vec<String>,
        items: &mut Vec<Item<'_>>,
        left_out: &mut BTreeMap<String, u64>,
    ) -> Result<Self> {
        let (mut rendered, mut fitting) = (Vec::new(), Vec::with_capacity(items.len()));
        let cuts_answers = renderer.settings().truncation == Truncation::Truncate;
        for item in items.drain(..) {
            let start = rendered.len();
            for answer in &answers {
                match renderer.render(&with_answer(item.example, answer))? {
                    // Cut at its end, an answer would be judged by its beginning.
                    Rendering::Kept(whole) if !(whole.truncated && cuts_answers) => {
                        rendered.push(whole);
                    }
                    Rendering::Kept(_) | Rendering::Dropped(_) => break,
                }
            }
            if rendered.len() == start + answers.len() {
                fitting.push(item);
            } else {
                rendered.truncate(start);
                let reason = "an answer to choose from does not fit".to_owned();
                *left_out.entry(reason).or_insert(0) += 1;
            }
        }
        *items = fitting;
        Ok(Self { answers, rendered })
    }

    /// The likeliest answer for each of the items; the first of equals.
    pub(super) fn chosen(
        &self,
        decoder: &Decoder,
        items: &[Item<'_>],
        on_progress: &mut Listener<'_>,
    ) -> Result<Vec<String>> {
        let sources = items
            .iter()
            .flat_map(|item| self.answers.iter().map(|_| &item.example.source));
        let rows: Vec<_> = self.rendered.iter().zip(sources).collect();
        let nats = nats(decoder, &rows, on_progress)?;
        let likeliest = |nats: &[f64]| {
            let better = |best: usize, place: usize| {
                if nats[place] < nats[best] {
                    place
                } else {
                    best
                }
            };
            self.answers[(1..nats.len()).fold(0, better)].clone()
        };
        Ok(nats.chunks(self.answers.len()).map(likeliest).collect())
    }
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
