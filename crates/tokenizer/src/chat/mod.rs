//! Conversations as typed segments: who wrote which text, and which of it is learnt.
//!
//! * `slots` renders the template with a slot in place of each message's content, so that the
//!   contents stay apart from the template's own text;
//! * `turns` finds what is supervised;
//! * `segments` cuts the rendering into [`Segment`]s and encodes them.

mod segments;
mod slots;
mod turns;

use serde::{Deserialize, Serialize};

pub(crate) use segments::{
    approximate_prompt_tokens, encode_segments, render_conversation, render_prompt,
};
pub(crate) use turns::end_of_turn;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that stand above the conversation.
    System,
    /// The person.
    User,
    /// The model; its turns are what is learnt.
    Assistant,
    /// The result of a tool that the model called.
    Tool,
}

impl Role {
    /// The name that templates know: `system`, `user`, `assistant` or `tool`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Untrusted: special tokens spelt in it stay text.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// A stretch of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Whose message the text belongs to, or introduces.
    pub role: Role,
    /// The text.
    pub text: String,
    /// Whether the model learns to write this text.
    pub supervised: bool,
    /// Whether the text is the template's own, in which special tokens are recognised. The text
    /// of messages is not trusted.
    pub trusted: bool,
}

impl Segment {
    /// Untrusted text, such as a message's content.
    pub fn content(role: Role, text: impl Into<String>, supervised: bool) -> Self {
        Self {
            role,
            text: text.into(),
            supervised,
            trusted: false,
        }
    }

    /// Trusted text, in which special tokens are recognised.
    pub fn trusted(role: Role, text: impl Into<String>, supervised: bool) -> Self {
        Self {
            role,
            text: text.into(),
            supervised,
            trusted: true,
        }
    }
}

/// Encoded segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// The ids of all segments.
    pub ids: Vec<u32>,
    /// For each id, whether the model learns to write it.
    pub supervised: Vec<bool>,
    /// For each id, the index of its segment.
    pub segment: Vec<u32>,
}
