//! Finding what of a rendered conversation is supervised.
//!
//! Each assistant turn is learnt from the end of its generation prompt, so that training begins
//! where serving does, up to and including its end-of-turn token, so that the model learns to stop.
//! A turn that the template writes otherwise once the conversation goes on (a thinking block is
//! taken out of it, or instructions move to a later turn) is not what a model would be asked for
//! there, so it is context and not learnt; the last turn must be learnt, if need be from the prompt
//! and the answer put together.
//! A template may mark the assistant's text itself with `{% generation %}`; then only the end of
//! the turn is looked for.

use std::ops::Range;

use super::slots::{Renderer, Slot, Slotted};
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
    let assistants: Vec<usize> = (renderer.messages().iter().enumerate())
        .filter(|(_, message)| message.role == Role::Assistant)
        .map(|(turn, _)| turn)
        .collect();
    for &turn in &assistants {
        let start = prompt_end(renderer, full, turn);
        turns.prompt_ends.extend(start.as_ref().ok().copied());
        if renderer.marks_generation() {
            continue;
        }
        let learnt = start.and_then(|start| {
            let end = turn_end(tokenizer, renderer, full, turn, start)?;
            written_so(renderer, full, turn, end)?;
            Ok(start..end)
        });
        match learnt {
            Ok(range) => turns.learnt.push(range),
            Err(TokenizerError::NotPrefixStable { .. }) if Some(&turn) != assistants.last() => {}
            Err(error) => return Err(error),
        }
    }
    if renderer.marks_generation() {
        turns.learnt = marked_turns(tokenizer, full)?;
    }
    Ok(turns)
}

/// The prompt for the last turn, and after it the answer as the template writes it: for a template that
/// puts the instructions into the last turn of the user, and so leaves them out when an answer follows.
/// None where the two do not fit together after the last message before the answer.
pub(crate) fn asked_and_answered(
    tokenizer: &Tokenizer,
    renderer: &Renderer<'_>,
    full: &Slotted,
) -> Option<(Slotted, Turns)> {
    let turn = renderer.messages().len().checked_sub(1)?;
    let asked = &renderer.messages()[..turn];
    let is_answer = renderer.messages()[turn].role == Role::Assistant;
    if !is_answer || !renderer.knows_contents() || renderer.marks_generation() {
        return None;
    }
    let asking = Renderer::new(tokenizer, asked, true).ok()?;
    let mut joined = asking.render(turn, true).ok()?;
    let mut turns = find(tokenizer, &asking, &joined).unwrap_or_default();
    turns.learnt.clear();

    let rest = |slotted: &Slotted| {
        let of_last = slotted.slots.iter().filter(|slot| slot.message + 1 == turn);
        of_last.map(|slot| slot.range.end).next_back()
    };
    let prompt = &joined.text[rest(&joined)?..];
    let answer = full.text[rest(full)?..].strip_prefix(prompt)?;
    let (start, cut) = (joined.text.len(), full.text.len() - answer.len());
    joined.text.push_str(answer);
    let of_answer = full.slots.iter().filter(|slot| slot.range.start >= cut);
    joined.slots.extend(of_answer.map(|slot| Slot {
        range: slot.range.start - cut + start..slot.range.end - cut + start,
        ..slot.clone()
    }));
    let end = turn_end(tokenizer, renderer, &joined, turn, start).ok()?;
    turns.prompt_ends.push(start);
    turns.learnt.push(start..end);
    Some((joined, turns))
}

/// Where the generation prompt for a turn ends, if the conversation goes on from it.
fn prompt_end(
    renderer: &Renderer<'_>,
    full: &Slotted,
    turn: usize,
) -> Result<usize, TokenizerError> {
    // Many templates look at the first message, so nothing can be asked before it.
    let prompt = match renderer.render_alike(turn, true) {
        Err(_) if turn == 0 => None,
        prompt => prompt?,
    };
    match prompt {
        Some(prompt) if full.text.starts_with(&prompt.text) => Ok(prompt.text.len()),
        prompt => {
            let prompt = prompt.map_or(String::new(), |prompt| prompt.text);
            let near = first_difference(&prompt, &full.text);
            Err(TokenizerError::NotPrefixStable { turn, near })
        }
    }
}

/// Refuses a turn, up to `end`, that reads otherwise when no message follows it.
fn written_so(
    renderer: &Renderer<'_>,
    full: &Slotted,
    turn: usize,
    end: usize,
) -> Result<(), TokenizerError> {
    if turn + 1 == renderer.messages().len() {
        return Ok(());
    }
    let through = renderer.render_alike(turn + 1, false)?;
    match through {
        Some(through) if through.text.starts_with(&full.text[..end]) => Ok(()),
        through => {
            let through = through.map_or(String::new(), |through| through.text);
            let near = first_difference(&through, &full.text);
            Err(TokenizerError::NotPrefixStable { turn, near })
        }
    }
}

/// Where an assistant's turn ends, its end-of-turn token included. That the token belongs to this
/// turn and does not open the next one is for `written_so` to see.
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
    let Some((found, _)) = tokenizer.encoder().first_special(tail) else {
        // Some templates end a turn with words.
        let words = tail.trim_end().len();
        let is_the_turns = turn_limit.is_some() && words > 0;
        return if is_the_turns {
            Ok(content_end + words)
        } else {
            Err(no_end())
        };
    };
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
    let of_turn = full.slots.iter().filter(|slot| slot.message == turn);
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
