//! Conversations, in the tokenizer's chat template.

use anyhow::Result;

use super::learnt::{stretches, unlearnt_in};
use super::{Fitted, Renderer, Whole};
use crate::error::DataError;
use crate::example::fit::drop_oldest_exchange;
use crate::example::{ChatFormat, RenderedPrompt, Rendering, TokenPart};
use crate::message::{Message, Role};
use crate::task::{TaskBody, TaskExample};

/// By so many tokens a message is a rough count taken to be off at most.
const SLACK: usize = 4;

impl Renderer {
    pub(super) fn chat_example(
        &self,
        chat: &ChatFormat,
        example: &TaskExample,
    ) -> Result<Rendering<Whole>> {
        let answer = example
            .messages()
            .into_iter()
            .rfind(|m| m.role == Role::Assistant);
        let remedy = "leave the example out or give it an answer";
        let Some(answer) = answer else {
            return Err(DataError::input(
                "the conversation has no assistant turn, so no token of it is supervised",
                remedy,
            )
            .into());
        };
        if answer.content.trim().is_empty() {
            return Err(DataError::input(
                "the last assistant turn is empty, so nothing can be learnt from it",
                remedy,
            )
            .into());
        }
        let (mut messages, fitted) = match self.fit_chat_prompt(chat, example)? {
            Rendering::Kept(kept) => kept,
            Rendering::Dropped(reason) => return Ok(Rendering::Dropped(self.dropped(reason))),
        };
        messages.push(answer);
        let segments = self.segments(&messages, &unlearnt_in(&messages, example))?;
        let mut rendered = self.tokenizer.encode_segments(&segments)?;
        if self.shots.any_turns() {
            let own = self.segments(&example.messages(), &example.unlearnt)?;
            let own = self.tokenizer.encode_segments(&own)?.supervised;
            only_last(&mut rendered.supervised, stretches(&own));
        }
        let target_bytes = self.learnt_bytes(&rendered.ids, &rendered.supervised)?;
        let part = |&number: &u32| match &segments[number as usize] {
            segment if segment.trusted => TokenPart::Template,
            segment => TokenPart::Said(segment.role),
        };
        let parts = rendered.segment.iter().map(part).collect();
        Ok(Rendering::Kept(Whole {
            ids: rendered.ids,
            supervised: rendered.supervised,
            parts,
            prompt_truncated: fitted.prompt.truncated,
            prompt_cut: fitted.cut,
            target_bytes,
        }))
    }

    /// The conversation before its last answer, as messages and as ids. Where the policy allows it,
    /// the oldest exchanges go first (instructions stay), then the end of the last user turn.
    pub(super) fn fit_chat_prompt(
        &self,
        chat: &ChatFormat,
        example: &TaskExample,
    ) -> Result<Rendering<(Vec<Message>, Fitted)>> {
        let mut messages = self.shots.before(example.prompt_messages());
        let mut truncated = false;
        // What the whole prompt takes as one text, where exchanges are left out.
        let mut whole = 0;
        if self.cuts_prompts() {
            let tokens = self.approximate_tokens(&messages)?;
            let slack = SLACK * (1 + messages.len());
            if tokens + slack > self.settings.most_prompt_ids()
                && self.leave_out_exchanges(&mut messages)?
            {
                (truncated, whole) = (true, tokens);
            }
        }
        // Without a user turn there is no text to cut: the empty one stands for it.
        let last = messages.iter().rposition(|m| m.role == Role::User);
        let text = last.map_or(String::new(), |last| messages[last].content.clone());
        let fitted = self.fit_text(&text, |text| {
            if let Some(last) = last {
                messages[last].content = match example.body {
                    TaskBody::Completion { .. } => chat.prompt.replacen("{prompt}", text, 1),
                    TaskBody::Chat { .. } => text.to_string(),
                };
            }
            self.chat_prompt(&messages)
        })?;
        truncated |= matches!(&fitted, Rendering::Kept(kept) if kept.used < text.len());
        Ok(fitted.map(|kept| {
            let cut = (whole.max(kept.whole) - kept.ids.len()) as u64;
            let prompt = RenderedPrompt {
                ids: kept.ids,
                truncated,
            };
            (messages, Fitted { prompt, cut })
        }))
    }

    /// Leaves the oldest exchanges out of a conversation that is too long: as few as make it fit, or all but the last.
    /// Returns whether any were left out.
    fn leave_out_exchanges(&self, messages: &mut Vec<Message>) -> Result<bool> {
        let most = self.settings.most_prompt_ids();
        let mut shorter = vec![messages.clone()];
        let mut rest = messages.clone();
        while drop_oldest_exchange(&mut rest) {
            shorter.push(rest.clone());
        }
        // Each is shorter than the one before, so that half of them need not be looked at, and half of those; and to
        // find the place roughly is far cheaper.
        let (mut low, mut high) = (0, shorter.len() - 1);
        while low < high {
            let middle = (low + high) / 2;
            match self.approximate_tokens(&shorter[middle])? <= most {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        let fits =
            |place: usize| Ok::<_, anyhow::Error>(self.chat_prompt(&shorter[place])?.len() <= most);
        while low + 1 < shorter.len() && !fits(low)? {
            low += 1;
        }
        while low > 0 && fits(low - 1)? {
            low -= 1;
        }
        *messages = shorter.swap_remove(low);
        Ok(low > 0)
    }

    fn approximate_tokens(&self, messages: &[Message]) -> Result<usize> {
        Ok(self.tokenizer.approximate_prompt_tokens(&turns(messages))?)
    }

    pub(super) fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let segments = self.tokenizer.render_prompt(&turns(messages))?;
        Ok(self.tokenizer.encode_segments(&segments)?.ids)
    }
}

/// Leaves only the last `count` stretches of a mask. Where an example loses turns to fit, solved ones go first.
fn only_last(mask: &mut [bool], count: usize) {
    let mut others = stretches(mask).saturating_sub(count);
    let mut before = false;
    for supervised in mask {
        let ends = before && !*supervised;
        before = *supervised;
        others -= usize::from(ends && others > 0);
        *supervised &= others == 0;
    }
}

/// The messages as the tokenizer's template takes them.
pub(super) fn turns(messages: &[Message]) -> Vec<etude_tokenizer::Message> {
    let role = |role| match role {
        Role::System => etude_tokenizer::Role::System,
        Role::User => etude_tokenizer::Role::User,
        Role::Assistant => etude_tokenizer::Role::Assistant,
        Role::Tool => etude_tokenizer::Role::Tool,
    };
    messages
        .iter()
        .map(|m| etude_tokenizer::Message::new(role(m.role), m.content.clone()))
        .collect()
}
