//! What was said so far.

use etude_tokenizer::{Message, Role};
use serde_json::{Value, json};

/// A conversation: perhaps a system turn, then user and assistant in turns.
#[derive(Debug, Clone)]
pub(super) struct History {
    system: Option<String>,
    turns: Vec<Message>,
}

impl History {
    pub(super) fn new(system: Option<String>) -> Self {
        Self {
            system,
            turns: Vec::new(),
        }
    }

    /// Forgets all but the system turn.
    pub(super) fn reset(&mut self) {
        self.turns.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn ask(&mut self, text: String) {
        self.turns.push(Message::new(Role::User, text));
    }

    pub(super) fn answer(&mut self, text: String) {
        self.turns.push(Message::new(Role::Assistant, text));
    }

    /// Takes back the last turn.
    pub(super) fn take_back(&mut self) {
        self.turns.pop();
    }

    /// Forgets the oldest question with its answer, unless that is all there is.
    pub(super) fn forget_oldest(&mut self) -> bool {
        if self.turns.len() < 3 {
            return false;
        }
        self.turns.drain(..2);
        true
    }

    /// The turns as the chat template takes them.
    pub(super) fn messages(&self) -> Vec<Message> {
        let system = self
            .system
            .iter()
            .map(|text| Message::new(Role::System, text));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// The line that fine-tuning reads.
    pub(super) fn json(&self) -> Value {
        let turn =
            |message: &Message| json!({"role": message.role.as_str(), "content": message.content});
        json!({"messages": self.messages().iter().map(turn).collect::<Vec<_>>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_turns_go_and_the_system_turn_stays() {
        let mut history = History::new(Some("Be brief.".into()));
        history.ask("1".into());
        assert!(!history.forget_oldest(), "the only question stays");
        history.answer("one".into());
        history.ask("2".into());
        assert!(history.forget_oldest());
        let expected = r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"2"}]}"#;
        assert_eq!(history.json().to_string(), expected);
        history.reset();
        assert!(history.is_empty());
        assert_eq!(history.messages().len(), 1);
    }
}
