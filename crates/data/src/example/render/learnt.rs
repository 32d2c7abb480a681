//! Which answers of a conversation are learnt: what the template leaves of them, and what the example says.

use anyhow::Result;
use etude_tokenizer::{Segment, TokenizerError};

use super::Renderer;
use super::chat::turns;
use crate::error::DataError;
use crate::message::{Message, Role};
use crate::task::TaskExample;

impl Renderer {
    /// A conversation in the chat template, the answers at the places `unlearnt` as context alone.
    pub(super) fn segments(
        &self,
        messages: &[Message],
        unlearnt: &[usize],
    ) -> Result<Vec<Segment>> {
        let mut segments = self.tokenizer.render_conversation(&turns(messages))?;
        if unlearnt.is_empty() {
            return Ok(segments);
        }
        let is_other = |(place, message): &(usize, &Message)| {
            message.role == Role::Assistant && !unlearnt.contains(place)
        };
        let others = messages.iter().enumerate().filter(is_other);
        let others: Vec<usize> = others.map(|(place, _)| place).collect();
        let theirs = self.learnt_stretches(messages, unlearnt)?;
        let of_others = self.learnt_stretches(messages, &others)?;
        let mixed = theirs.iter().zip(&of_others).any(|(&a, &b)| a && b);
        let stretches = segments.chunk_by_mut(|a, b| a.supervised == b.supervised);
        let stretches: Vec<&mut [Segment]> = stretches.filter(|run| run[0].supervised).collect();
        if mixed || stretches.len() != theirs.len() {
            let what =
                "the chat template does not keep its answers apart, so `weight` 0 cannot be obeyed";
            let remedy = "take `weight` out, or end the conversation before that answer";
            return Err(DataError::input(what, remedy).into());
        }
        for (stretch, is_theirs) in stretches.into_iter().zip(theirs) {
            if is_theirs {
                let segments = stretch.iter_mut();
                segments.for_each(|segment| segment.supervised = false);
            }
        }
        Ok(segments)
    }

    /// Of each supervised stretch of a conversation, whether it is of an answer at one of those places. They are told
    /// by a character that stands nowhere else.
    fn learnt_stretches(&self, messages: &[Message], places: &[usize]) -> Result<Vec<bool>> {
        let everything = || messages.iter().map(|message| &message.content);
        let free = |mark: &char| !everything().any(|content| content.contains(*mark));
        let mark = ('\u{e000}'..='\u{f8ff}').find(free);
        let Some(mark) = mark else {
            let what = "the conversation uses all of Unicode's private characters";
            return Err(DataError::input(what, "leave it out").into());
        };
        let mut marked = messages.to_vec();
        for &place in places {
            marked[place].content.push(mark);
        }
        let segments = self.tokenizer.render_conversation(&turns(&marked))?;
        let stretches = segments
            .chunk_by(|a, b| a.supervised == b.supervised)
            .filter(|run| run[0].supervised);
        Ok(stretches
            .map(|run| run.iter().any(|segment| segment.text.contains(mark)))
            .collect())
    }

    /// How many answers stand before the first question and are context alone. Nothing asks for them there: many
    /// templates leave them out, or write them otherwise.
    pub(super) fn unasked(&self, example: &TaskExample) -> Result<usize> {
        let messages = upto_answer(example);
        let opening = messages.iter().take_while(|m| m.role != Role::User);
        let opening: Vec<usize> = opening
            .enumerate()
            .filter(|(place, m)| m.role == Role::Assistant && !example.unlearnt.contains(place))
            .map(|(place, _)| place)
            .collect();
        if opening.is_empty() {
            return Ok(0);
        }
        let learnt = self.learnt_stretches(&messages, &opening)?;
        let learnt = learnt.into_iter().filter(|&is_theirs| is_theirs).count();
        Ok(opening.len().saturating_sub(learnt))
    }
}

/// The turns up to the last answer.
pub(super) fn upto_answer(example: &TaskExample) -> Vec<Message> {
    let mut messages = example.messages();
    let last = messages.iter().rposition(|m| m.role == Role::Assistant);
    messages.truncate(last.map_or(0, |last| last + 1));
    messages
}

/// Where the answers that are context alone stand in `messages`, which end as the example's do. Their beginning may
/// be left out, or others stand before.
pub(super) fn unlearnt_in(messages: &[Message], example: &TaskExample) -> Vec<usize> {
    let own = match example.unlearnt.is_empty() {
        true => return Vec::new(),
        false => upto_answer(example).len(),
    };
    let place = |&place: &usize| (messages.len() + place).checked_sub(own);
    let answer = |&place: &usize| messages[place].role == Role::Assistant;
    let places = example.unlearnt.iter().filter_map(place);
    places.filter(answer).collect()
}

/// The answers that an example means to teach, those right behind each other as one: a template may write nothing
/// between them.
pub(super) fn answers(messages: &[Message], unlearnt: &[usize]) -> usize {
    let is_learnt = |(place, message): (usize, &Message)| {
        message.role == Role::Assistant && !unlearnt.contains(&place)
    };
    let learnt: Vec<bool> = messages.iter().enumerate().map(is_learnt).collect();
    stretches(&learnt)
}

/// The supervised stretches of a mask.
pub(super) fn stretches(supervised: &[bool]) -> usize {
    supervised
        .chunk_by(|a, b| a == b)
        .filter(|run| run[0])
        .count()
}

/// An error with the example's place, and with what to do where the template refuses its turns.
pub(super) fn located(error: anyhow::Error, example: &TaskExample) -> anyhow::Error {
    let Some(TokenizerError::Template { .. }) = error.downcast_ref() else {
        return error.context(example.source.to_string());
    };
    let tools = example.messages().iter().any(|m| m.role == Role::Tool);
    let remedy = match tools {
        true => {
            "leave conversations with tool turns out, or use a model whose chat template has them"
        }
        false => "write the turns as the template takes them, or use a model with another template",
    };
    DataError::at(&example.source, error.to_string(), remedy).into()
}
