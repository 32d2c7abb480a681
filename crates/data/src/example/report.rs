//! What became of a set of examples: the counts that are printed and logged.

use std::collections::BTreeMap;
use std::fmt;

use super::{Cut, DropReason, RenderedExample};
use crate::ledger::Amount;
use crate::task::SourceRef;

/// Places that are kept of each reason.
const PLACES: usize = 3;

/// Counts over a rendered set of examples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderReport {
    /// Examples in use.
    pub kept: u64,
    /// Examples left out, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Examples in use of which something was cut, by the truncation policy in force.
    pub truncated: u64,
    /// Tokens of the examples in use.
    pub tokens: u64,
    /// Those of them that are learnt.
    pub supervised: u64,
    /// Characters of prompts and answers of the examples in use, before any cut.
    pub characters: u64,
    /// The longest example in use, in tokens.
    pub longest: u64,
    /// Examples whose ids do not begin with those of their evaluation prompt: the chat template
    /// renders a finished answer otherwise than a begun one. Never so in the plain format.
    pub prompt_differs: u64,
    /// Earlier answers of conversations that are context and not learnt, since the chat template
    /// writes them otherwise once the conversation goes on. Each would be learnt in an example that
    /// ends with it.
    pub answers_as_context: u64,
    /// Answers that stand before the first question of a conversation and are context, since the chat
    /// template leaves them out there, writes them otherwise or has no prompt for them.
    pub answers_unasked: u64,
    /// Bytes of prompts and answers of the examples in use, before any cut.
    pub bytes: u64,
    /// Tokens that the examples in use would have without any cut.
    pub whole_tokens: u64,
    /// Tokens cut from them.
    pub cut: Cut,
    /// Text of the examples left out.
    pub dropped_text: BTreeMap<DropReason, Amount>,
    /// The first places of each reason.
    pub dropped_places: BTreeMap<DropReason, Vec<String>>,
}

impl RenderReport {
    /// Counts an example in use.
    pub(super) fn keep(
        &mut self,
        example: &RenderedExample,
        text: Amount,
        cut: Cut,
        prompt_differs: bool,
    ) {
        self.kept += 1;
        self.truncated += u64::from(example.truncated);
        self.tokens += example.ids.len() as u64;
        self.supervised += example.targets() as u64;
        self.characters += text.characters;
        self.bytes += text.bytes;
        self.whole_tokens += example.ids.len() as u64 + cut.prompt + cut.answer;
        self.cut.prompt += cut.prompt;
        self.cut.answer += cut.answer;
        self.longest = self.longest.max(example.ids.len() as u64);
        self.prompt_differs += u64::from(prompt_differs);
    }

    /// Counts an example left out.
    pub(super) fn drop(&mut self, reason: DropReason, text: Amount, source: &SourceRef) {
        *self.dropped.entry(reason).or_default() += 1;
        *self.dropped_text.entry(reason).or_default() += text;
        let places = self.dropped_places.entry(reason).or_default();
        if places.len() < PLACES {
            places.push(source.to_string());
        }
    }

    /// All examples left out.
    pub fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }
}

impl fmt::Display for RenderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} examples, {} tokens ({} learnt), {} characters, longest {} tokens",
            self.kept, self.tokens, self.supervised, self.characters, self.longest
        )?;
        if self.truncated > 0 {
            write!(f, "; {} truncated", self.truncated)?;
        }
        for (reason, count) in &self.dropped {
            write!(f, "; {count} left out ({reason})")?;
        }
        if self.prompt_differs > 0 {
            write!(
                f,
                "; {} whose chat template gives evaluation another prompt",
                self.prompt_differs
            )?;
        }
        if self.answers_as_context > 0 {
            write!(
                f,
                "; earlier answers that are context alone, as the chat template rewrites them later: {}",
                self.answers_as_context
            )?;
        }
        if self.answers_unasked > 0 {
            write!(
                f,
                "; answers before the first question that are context alone, as the chat template drops or changes them there: {}",
                self.answers_unasked
            )?;
        }
        Ok(())
    }
}
