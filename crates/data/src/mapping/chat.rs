//! Records that hold a conversation: turns, roles under their usual names, and what is wrong with them.

use std::path::Path;

use serde_json::Value;

use super::{Mapping, Row, missing_field};
use crate::clean::cut_at_word;
use crate::error::DataError;
use crate::manifest::ChatMap;
use crate::message::{Message, Role};
use crate::task::TaskBody;
use crate::template::{object_in, value_text, walk};

impl Mapping<'_> {
    /// A record as a conversation, with the places of answers that are not learnt; the inner error is why it is left
    /// out. Behind the last answer that is learnt there is nothing to learn, so what follows it goes.
    pub(super) fn chat(
        &self,
        chat: &ChatMap,
        row: &Row<'_>,
    ) -> Result<Result<(TaskBody, Vec<usize>), String>, DataError> {
        let mut turns = self.turns(&chat.turns, row)?;
        if let Some(path) = &chat.then {
            turns.extend(self.turns(path, row)?);
        }
        let fewest = self.manifest.filter.min_turns.unwrap_or(0);
        if turns.len() < fewest {
            return Ok(Err(format!("fewer than {fewest} turns")));
        }
        let content = self
            .content
            .as_ref()
            .expect("prepared together with `map.chat`");
        let (mut messages, mut unlearnt) = (Vec::with_capacity(turns.len()), Vec::new());
        for (number, turn) in turns.iter().enumerate() {
            let role = match &chat.role {
                None if number % 2 == 0 => Role::User,
                None => Role::Assistant,
                Some(path) => role(walk(turn, path), number, row)?,
            };
            if role == Role::Assistant && calls_tools(turn) {
                return Ok(Err("a turn that calls tools".to_owned()));
            }
            if role == Role::Assistant && !is_learnt(turn, number, row)? {
                unlearnt.push(number);
            }
            // A turn may be a list of messages: then every path goes through its items.
            let mut odd = None;
            let text = content.render(|name| {
                let value = joined(walk(turn, name)?);
                odd = odd.take().or_else(|| object_in(&value));
                Some(value)
            });
            let text = text.map_err(|name| {
                let what = format!("turn {} has no `{name}`", number + 1);
                DataError::at(row.source, what, "give every turn its text")
            })?;
            if let Some(odd) = odd {
                let what = format!("turn {} holds {odd}, which is no text", number + 1);
                let remedy = "give every turn its text, or parts that are all of the type `text`";
                return Err(DataError::at(row.source, what, remedy));
            }
            messages.push(Message {
                role,
                content: text,
            });
        }
        let empty = messages
            .iter()
            .any(|message| message.content.trim().is_empty());
        if self.manifest.filter.filled_turns && empty {
            return Ok(Err("a turn without text".to_owned()));
        }
        if !messages.iter().any(|turn| turn.role == Role::Assistant) {
            let what = "no assistant turn, so nothing to learn";
            return Err(DataError::at(
                row.source,
                what,
                "add the answer, or delete the record",
            ));
        }
        let learnt = |(place, message): (usize, &Message)| {
            message.role == Role::Assistant && !unlearnt.contains(&place)
        };
        let Some(last) = messages.iter().enumerate().rposition(learnt) else {
            return Ok(Err("no answer to learn (`weight` 0)".to_owned()));
        };
        if !unlearnt.is_empty() {
            messages.truncate(last + 1);
            unlearnt.retain(|&place| place < last);
        }
        // It would teach the model to say nothing.
        let silent = |message: &Message| {
            message.role == Role::Assistant && message.content.trim().is_empty()
        };
        if messages.iter().any(silent) {
            return Ok(Err("an assistant turn without text".to_owned()));
        }
        Ok(Ok((TaskBody::Chat { messages }, unlearnt)))
    }

    fn turns(&self, path: &str, row: &Row<'_>) -> Result<Vec<Value>, DataError> {
        match self.raw(path, row) {
            Some(Value::Array(turns)) => Ok(turns),
            Some(_) => Err(not_turns(&row.source.file, row.source.line, path)),
            None => Err(missing_field(path, row)),
        }
    }
}

/// Something else where the turns of a conversation should be.
pub(crate) fn not_turns(file: &Path, line: u64, name: &str) -> DataError {
    let what = format!("`{name}` is not a list of turns");
    let remedy = "write [{\"role\": \"user\", \"content\": \"…\"}, …]";
    DataError::at_line(file, line, what, remedy)
}

/// Whether the assistant's turn is learnt: OpenAI's `weight` says so, 0 or 1.
fn is_learnt(turn: &Value, number: usize, row: &Row<'_>) -> Result<bool, DataError> {
    let Some(weight) = turn.get("weight").filter(|weight| !weight.is_null()) else {
        return Ok(true);
    };
    let text = value_text(weight);
    let number_of = text.parse::<f64>().ok().filter(|_| !weight.is_boolean());
    match number_of {
        Some(0.0) => Ok(false),
        Some(1.0) => Ok(true),
        _ => {
            let shown = cut_at_word(&text, 60);
            let what = format!("turn {} has the `weight` `{shown}`", number + 1);
            let remedy = "write 1 for an answer that is learnt, 0 for one that is context alone";
            Err(DataError::at(row.source, what, remedy))
        }
    }
}

/// Whether a turn, or a message of it, asks for tools, in either of OpenAI's fields for it.
fn calls_tools(turn: &Value) -> bool {
    if let Value::Array(messages) = turn {
        return messages.iter().any(calls_tools);
    }
    let said = |name: &str| turn.get(name).filter(|calls| !calls.is_null());
    let calls = said("tool_calls").is_some_and(|calls| *calls != Value::Array(Vec::new()));
    calls || said("function_call").is_some()
}

/// A content in parts of the type `text` as one text; any other as it is.
fn joined(value: Value) -> Value {
    let part = |part: &Value| {
        let typed = part.get("type").is_none_or(|one| one == "text");
        let text = part.get("text").filter(|_| typed)?;
        text.as_str().map(str::to_owned)
    };
    let text: Option<String> = match &value {
        Value::Array(parts) if parts.iter().any(Value::is_object) => {
            parts.iter().map(part).collect()
        }
        _ => None,
    };
    match (text, value) {
        (Some(text), _) => Value::from(text),
        // The contents of a turn's messages.
        (None, Value::Array(all)) => all.into_iter().map(joined).collect(),
        (None, value) => value,
    }
}

/// The role of a turn, under its usual names.
fn role(value: Option<Value>, number: usize, row: &Row<'_>) -> Result<Role, DataError> {
    let name = value.as_ref().map(value_text);
    match name.as_deref() {
        Some("system" | "developer") => Ok(Role::System),
        Some("user" | "human" | "prompter") => Ok(Role::User),
        Some("assistant" | "gpt" | "bot" | "model" | "chatgpt") => Ok(Role::Assistant),
        Some("tool" | "function") => Ok(Role::Tool),
        Some(other) => {
            let what = format!("turn {} has the role `{other}`", number + 1);
            Err(DataError::at(
                row.source,
                what,
                "use system, user, assistant or tool",
            ))
        }
        None => {
            let what = format!("turn {} has no role", number + 1);
            Err(DataError::at(
                row.source,
                what,
                "give every turn its role: system, user, assistant or tool",
            ))
        }
    }
}
