//! One example of a task, before any tokenizer has seen it: where it came from, and either a prompt
//! with its completion or a conversation. Rendering and masks are left to the tokenizer crate.

use std::fmt;
use std::path::PathBuf;

use crate::message::{Message, Role};

/// Where a document or an example was read: a file and a line (from 1) in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceRef {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1. For formats without lines (a JSON list), the record's number from 1.
    pub line: u64,
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One example of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskExample {
    /// Stable name of the example: the key its split was drawn by, or file and line.
    pub id: String,
    /// The text.
    pub body: TaskBody,
    /// Right answers besides the one to learn: an answer is scored by the one that it is nearest to.
    pub also: Vec<String>,
    /// Assistant turns of a conversation that are context alone and not learnt, by their places. Never its last one.
    pub unlearnt: Vec<usize>,
    /// Where it came from, for messages.
    pub source: SourceRef,
}

/// The two shapes a task example comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskBody {
    /// A prompt and the one completion to learn.
    Completion {
        /// What the model is given.
        prompt: String,
        /// What it should answer.
        completion: String,
    },
    /// A conversation; every assistant turn is learnt that [`TaskExample::unlearnt`] does not name.
    Chat {
        /// The turns in order.
        messages: Vec<Message>,
    },
}

impl TaskExample {
    /// An example with one right answer.
    pub fn new(id: impl Into<String>, body: TaskBody, source: SourceRef) -> Self {
        Self {
            id: id.into(),
            body,
            also: Vec::new(),
            unlearnt: Vec::new(),
            source,
        }
    }

    /// The example as a conversation: a completion becomes one user and one assistant turn.
    pub fn messages(&self) -> Vec<Message> {
        match &self.body {
            TaskBody::Completion { prompt, completion } => vec![
                Message {
                    role: Role::User,
                    content: prompt.clone(),
                },
                Message {
                    role: Role::Assistant,
                    content: completion.clone(),
                },
            ],
            TaskBody::Chat { messages } => messages.clone(),
        }
    }

    /// The conversation up to, and without, its last assistant turn: what evaluation gives the model.
    pub fn prompt_messages(&self) -> Vec<Message> {
        let mut messages = self.messages();
        if let Some(last) = messages.iter().rposition(|m| m.role == Role::Assistant) {
            messages.truncate(last);
        }
        messages
    }

    /// What the model is given, as text: the prompt, or the turns before the last answer, one a paragraph.
    pub fn prompt_text(&self) -> String {
        match &self.body {
            TaskBody::Completion { prompt, .. } => prompt.clone(),
            TaskBody::Chat { .. } => {
                let turns: Vec<String> = self
                    .prompt_messages()
                    .into_iter()
                    .map(|m| m.content)
                    .collect();
                turns.join("\n\n")
            }
        }
    }

    /// The reference answer: the completion, or the last assistant turn (empty if there is none).
    pub fn reference_text(&self) -> &str {
        match &self.body {
            TaskBody::Completion { completion, .. } => completion,
            TaskBody::Chat { messages } => messages
                .iter()
                .rev()
                .find(|m| m.role == Role::Assistant)
                .map_or("", |m| m.content.as_str()),
        }
    }
}

/// `limit` items at even distances, in their order; all for 0. Files are often sorted by subject: the first so many
/// would speak for one of them.
pub fn spread<T>(items: Vec<T>, limit: usize) -> Vec<T> {
    let count = items.len();
    if limit == 0 || limit >= count {
        return items;
    }
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    (0..limit)
        .filter_map(|index| items[index * count / limit].take())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_limit_takes_examples_from_everywhere() {
        let items = || (0..10).collect::<Vec<_>>();
        assert_eq!(spread(items(), 4), [0, 2, 5, 7]);
        assert_eq!(spread(items(), 0).len(), 10);
        assert_eq!(spread(items(), 99).len(), 10);
        assert_eq!(spread(items(), 1), [0]);
    }
}
