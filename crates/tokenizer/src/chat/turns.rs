//! Finding what of a rendered conversation is supervised.
//!
//! Each assistant turn is learnt from the end of its generation prompt, so that training begins
//! where serving does, up to and including its end-of-turn token, so that the model learns to stop.
//! A template may mark the assistant's text itself with `{% generation %}`; then only the end of
//! the turn is looked for.

use std::ops::Range;

use super::slots::{Renderer, Slotted};
use super::{Message, Role, render_conversation};
use crate::{Tokenizer, TokenizerError};

/// Positions in a [`Slotted`] text.
#[derive(Default)]
pub(crate) struct Turns {
    /// What the assistant's turns say, with their end-of-turn tokens; ordered, apart.
    pub(crate) learnt: Vec<Range<usize>>,
    /// Ends of the prompts that serving would have stopped at.
    pub(crate) prompt_ends: Vec<usize>,
}

/// Finds the assistant's turns in `full`, the rendering of all messages.
pub(crate) fn find(
    tokenizer: &Tokenizer,
    renderer: &Renderer<'_>,
    full: &Slotted,
) -> Result<Turns, TokenizerError> {
    let mut turns = Turns::default();
    let messages = renderer.messages();
    for (turn, _) in messages
        .iter()
        .enumerate()
        .filter(|(_, m)| m.role == Role::Assistant)
    {
        let prompt = renderer.render_alike(turn, true);
        let start = prompt.and_then(|prompt| match prompt {
            Some(prompt) if full.text.starts_with(&prompt.text) => Ok(prompt.text.len()),
            prompt => {
                let prompt = prompt.map_or(String::new(), |prompt| prompt.text);
                let near = first_difference(&prompt, &full.text);
                Err(TokenizerError::NotPrefixStable { turn, near })
            }
        });
        if renderer.marks_generation() {
            turns.prompt_ends.extend(start.ok());
            continue;
        }
        let start = start?;
        let end = turn_end(tokenizer, renderer, full, turn, start)?;
        turns.prompt_ends.push(start);
        turns.learnt.push(start..end);
    }
    if renderer.marks_generation() {
        turns.learnt = marked_turns(tokenizer, full)?;
    }
    Ok(turns)
}

/// Where an assistant's turn ends, its end-of-turn token included.
fn turn_end(
    tokenizer: &Tokenizer,
    renderer: &Renderer<'_>,
    full: &Slotted,
    turn: usize,
    start: usize,
) -> Result<usize, TokenizerError> {
    let no_end = || TokenizerError::NoEndOfTurn { turn };
    let through = renderer.render(turn + 1, false)?;
    let turn_limit = full
        .text
        .starts_with(&through.text)
        .then_some(through.text.len());
    if !renderer.knows_contents() {
        // The content may hold anything but special tokens, so the last one ends the turn.
        let limit = turn_limit.filter(|limit| *limit >= start).ok_or_else(|| {
            let near = first_difference(&through.text, &full.text);
            TokenizerError::NotPrefixStable { turn, near }
        })?;
        let found = tokenizer
            .encoder()
            .last_special(&full.text[start..limit])
            .ok_or_else(no_end)?;
        return Ok(start + found.end);
    }

    let content_end = content_end(renderer, full, turn, start).ok_or_else(|| {
        let reason = format!("the chat template does not print assistant turn {turn}");
        TokenizerError::NothingSupervised { reason }
    })?;
    let limit = turn_limit.unwrap_or_else(|| {
        let next = full
            .slots
            .iter()
            .find(|slot| slot.range.start >= content_end);
        next.map_or(full.text.len(), |slot| slot.range.start)
    });
    if limit < content_end {
        return Err(no_end());
    }
    let tail = &full.text[content_end..limit];
    let Some((found, token)) = tokenizer.encoder().first_special(tail) else {
        // Some templates end a turn with words.
        let words = tail.trim_end().len();
        let is_the_turns = turn_limit.is_some() && words > 0;
        return if is_the_turns {
            Ok(content_end + words)
        } else {
            Err(no_end())
        };
    };
    if turn_limit.is_none() {
        // What follows is written otherwise when the turn is the last one. It must end alike:
        // else this token opens the next turn.
        let start = content_end_in(&through, turn, 0).ok_or_else(no_end)?;
        let alone = tokenizer.encoder().first_special(&through.text[start..]);
        if alone.is_none_or(|(_, alone)| alone != token) {
            return Err(no_end());
        }
    }
    Ok(content_end + found.end)
}

fn content_end(
    renderer: &Renderer<'_>,
    full: &Slotted,
    turn: usize,
    start: usize,
) -> Option<usize> {
    // An empty content has no slot.
    if renderer.messages()[turn].content.is_empty() {
        return Some(start);
    }
    content_end_in(full, turn, start)
}

fn content_end_in(slotted: &Slotted, turn: usize, start: usize) -> Option<usize> {
    let of_turn = slotted.slots.iter().filter(|slot| slot.message == turn);
    of_turn
        .filter(|slot| slot.range.start >= start)
        .map(|slot| slot.range.end)
        .next_back()
}

/// The marked text, each stretch with the end-of-turn token that follows it.
fn marked_turns(
    tokenizer: &Tokenizer,
    full: &Slotted,
) -> Result<Vec<Range<usize>>, TokenizerError> {
    let mut learnt: Vec<Range<usize>> = Vec::new();
    for (index, marked) in full
        .marked
        .iter()
        .enumerate()
        .filter(|(_, marked)| !marked.is_empty())
    {
        let text = &full.text[marked.clone()];
        let ends = tokenizer
            .encoder()
            .last_special(text)
            .is_some_and(|last| text[last.end..].trim().is_empty());
        let mut end = marked.end;
        if !ends {
            let next = full
                .marked
                .get(index + 1)
                .map_or(full.text.len(), |next| next.start);
            let tail = &full.text[marked.end..next];
            let found = tokenizer.encoder().first_special(tail);
            match found {
                Some((found, _)) if tail[..found.start].trim().is_empty() => end += found.end,
                _ => {
                    return Err(TokenizerError::NoEndOfTurn {
                        turn: turn_of(full, marked),
                    });
                }
            }
        }
        learnt.push(marked.start..end);
    }
    Ok(learnt)
}

/// The message that a stretch of text belongs to, for a message to the user.
fn turn_of(full: &Slotted, range: &Range<usize>) -> usize {
    let inside = full
        .slots
        .iter()
        .find(|slot| range.contains(&slot.range.start));
    inside.map_or(0, |slot| slot.message)
}

/// A little of `text` from where `prompt` stops being its beginning.
fn first_difference(prompt: &str, text: &str) -> String {
    let same = prompt
        .chars()
        .zip(text.chars())
        .take_while(|(a, b)| a == b)
        .count();
    text.chars()
        .skip(same.saturating_sub(10))
        .take(40)
        .collect()
}

/// The special token that closes an assistant's turn in the tokenizer's template.
pub(crate) fn end_of_turn(tokenizer: &Tokenizer) -> Option<u32> {
    let talk = [
        Message::new(Role::User, "a"),
        Message::new(Role::Assistant, "b"),
    ];
    let segments = render_conversation(tokenizer, &talk).ok()?;
    let last = segments.iter().rfind(|segment| segment.supervised)?;
    let (_, token) = tokenizer.encoder().first_special(&last.text)?;
    tokenizer.token_id(&token)
}
