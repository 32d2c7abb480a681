//! From a rendering with slots to segments, and from segments to ids.

use std::collections::BTreeSet;

use super::slots::{Renderer, Slotted};
use super::turns::{self, Turns};
use super::{Message, Rendered, Role, Segment};
use crate::stages::Place;
use crate::template::with_room;
use crate::{Tokenizer, TokenizerError};

/// See [`Tokenizer::render_conversation`].
pub(crate) fn render_conversation(
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<Vec<Segment>, TokenizerError> {
    with_room(|| conversation(tokenizer, messages))
}

/// See [`Tokenizer::render_prompt`].
pub(crate) fn render_prompt(
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<Vec<Segment>, TokenizerError> {
    with_room(|| prompt(tokenizer, messages))
}

fn conversation(
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<Vec<Segment>, TokenizerError> {
    let nothing = |reason: &str| TokenizerError::NothingSupervised {
        reason: reason.to_owned(),
    };
    if tokenizer.chat_template().is_none() {
        return Err(TokenizerError::NoTemplate);
    }
    if !messages
        .iter()
        .any(|message| message.role == Role::Assistant)
    {
        return Err(nothing("it has no assistant turn"));
    }
    let renderer = Renderer::new(tokenizer, messages, false)?;
    let full = renderer.render(messages.len(), false)?;
    let (full, turns) = match turns::find(tokenizer, &renderer, &full) {
        Ok(turns) => (full, turns),
        Err(apart @ TokenizerError::NotPrefixStable { .. }) => {
            turns::asked_and_answered(tokenizer, &renderer, &full).ok_or(apart)?
        }
        Err(error) => return Err(error),
    };
    if turns.learnt.is_empty() {
        return Err(nothing(
            "the chat template marks no text with {% generation %}",
        ));
    }
    Ok(cut(tokenizer, &full, &turns, messages))
}

/// See [`Tokenizer::approximate_prompt_tokens`].
pub(crate) fn approximate_prompt_tokens(
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<usize, TokenizerError> {
    let segments = with_room(|| {
        let renderer = Renderer::new(tokenizer, messages, true)?;
        let full = renderer.render(messages.len(), true)?;
        Ok(cut(tokenizer, &full, &Turns::default(), messages))
    })?;
    Ok(encode_segments(tokenizer, &segments)?.ids.len())
}

fn prompt(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<Segment>, TokenizerError> {
    let renderer = Renderer::new(tokenizer, messages, true)?;
    let full = renderer.render(messages.len(), true)?;
    // Earlier turns are cut as they are for training, so that the ids agree. Where that cannot
    // be, the conversation cannot be trained on either.
    let turns = turns::find(tokenizer, &renderer, &full).unwrap_or_default();
    let mut segments = cut(tokenizer, &full, &turns, messages);
    segments
        .iter_mut()
        .for_each(|segment| segment.supervised = false);
    Ok(segments)
}

/// Cuts the rendering at slots, at the ends of prompts, and where supervision begins and ends.
fn cut(tokenizer: &Tokenizer, full: &Slotted, turns: &Turns, messages: &[Message]) -> Vec<Segment> {
    let learnt_starts = turns.learnt.iter().map(|range| range.start);
    let prompt_ends: BTreeSet<usize> = learnt_starts
        .chain(turns.prompt_ends.iter().copied())
        .collect();
    let mut cuts = prompt_ends.clone();
    cuts.extend([0, full.text.len()]);
    cuts.extend(turns.learnt.iter().map(|range| range.end));
    cuts.extend(
        full.slots
            .iter()
            .flat_map(|slot| [slot.range.start, slot.range.end]),
    );

    let mut segments: Vec<Segment> = Vec::new();
    let mut slots = full.slots.iter().peekable();
    let cuts: Vec<usize> = cuts.into_iter().collect();
    for (start, end) in cuts
        .iter()
        .zip(&cuts[1..])
        .map(|(start, end)| (*start, *end))
    {
        let supervised = turns.learnt.iter().any(|range| range.contains(&start));
        let next = slots.peek();
        if let Some(slot) = next.filter(|slot| slot.range.start == start) {
            let role = messages[slot.message].role;
            let mut segment = Segment::content(role, slot.value.clone(), supervised);
            if !prompt_ends.contains(&start) {
                take_white_space(tokenizer, &mut segments, &mut segment);
            }
            segments.push(segment);
            slots.next();
            continue;
        }
        let role = match next {
            _ if supervised => Role::Assistant,
            Some(slot) => messages[slot.message].role,
            // After the last content: the rest of its turn, or a generation prompt.
            None if turns.learnt.iter().any(|range| range.end == start) => Role::Assistant,
            None => last_role(full, messages, end),
        };
        segments.push(Segment::trusted(role, &full.text[start..end], supervised));
    }
    segments.retain(|segment| !segment.text.is_empty());
    segments
}

/// The role of text that no content follows.
fn last_role(full: &Slotted, messages: &[Message], end: usize) -> Role {
    let is_prompt = end == full.text.len()
        && messages
            .last()
            .is_none_or(|message| message.role != Role::Assistant);
    if is_prompt {
        return Role::Assistant;
    }
    messages
        .last()
        .map_or(Role::Assistant, |message| message.role)
}

/// Moves the white space that ends the template's text to the content behind it: in nearly every
/// vocabulary it belongs to what follows, as in ` word`, so this gives the ids of the whole text.
fn take_white_space(tokenizer: &Tokenizer, segments: &mut [Segment], content: &mut Segment) {
    let Some(before) = segments.last_mut() else {
        return;
    };
    if !before.trusted || before.supervised != content.supervised {
        return;
    }
    // A special token may take in the white space after it; that stays.
    let specials_end = tokenizer
        .encoder()
        .last_special(&before.text)
        .map_or(0, |last| last.end);
    let words_end = before.text.trim_end().len().max(specials_end);
    let white_space = before.text.split_off(words_end);
    content.text.insert_str(0, &white_space);
}

/// See [`Tokenizer::encode_segments`].
pub(crate) fn encode_segments(
    tokenizer: &Tokenizer,
    segments: &[Segment],
) -> Result<Rendered, TokenizerError> {
    let (engine, encoder) = (tokenizer.engine(), tokenizer.encoder());
    let mut rendered = Rendered::default();
    let mut place = Place::Start;
    for (index, segment) in segments.iter().enumerate() {
        let ids = if segment.trusted {
            encoder.trusted_at(engine, &segment.text, place)?
        } else {
            encoder.plain_at(engine, &segment.text, place)?
        };
        place = encoder.place_after(&segment.text, segment.trusted, place);
        let index = u32::try_from(index).map_err(TokenizerError::engine)?;
        rendered
            .supervised
            .extend(ids.iter().map(|_| segment.supervised));
        rendered.segment.extend(ids.iter().map(|_| index));
        rendered.ids.extend(ids);
    }
    Ok(rendered)
}
