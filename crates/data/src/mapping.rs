//! Turns records into documents and task examples as a manifest's `map` and `filter` say. What is
//! left out is left out for a reason that is counted; what is wrong is an error that names the line.

mod answers;
mod chat;
mod unused;

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clean::{Clean, cut_at_word};
use crate::documents::Document;
use crate::error::DataError;
use crate::manifest::{Boundary, Format, Manifest, Pair};
use crate::records::Record;
use crate::settings::nearest;
use crate::task::{SourceRef, TaskBody, TaskExample};
use crate::template::{Template, object_in, value_text, walk};

pub(crate) use chat::not_turns;

/// By how many characters a translation may be longer or shorter whatever the ratio: one word may need
/// several in the other language.
const LENGTH_SLACK: usize = 20;

/// What became of a record.
pub(crate) enum Mapped<T> {
    /// It is used: the item, and the key its split is decided by.
    Kept(T, String),
    /// It is left out, and why.
    Dropped(String),
}

/// A manifest's `map` and `filter`, made ready.
pub(crate) struct Mapping<'m> {
    manifest: &'m Manifest,
    text: Template,
    prompt: Option<Template>,
    completion: Option<Template>,
    content: Option<Template>,
    key: Option<Template>,
    id: Option<Template>,
    /// What a guessed mapping reads.
    used: Vec<String>,
    /// Of the records kept so far, the hashes of the fields that must be unique.
    seen: RefCell<HashSet<[u8; 32]>>,
}

/// A record with where it stands.
struct Row<'a> {
    record: &'a Record,
    value: &'a Value,
    file: &'a str,
    source: &'a SourceRef,
}

impl<'m> Mapping<'m> {
    /// Prepares the templates of a checked manifest.
    pub(crate) fn new(manifest: &'m Manifest) -> Result<Self, DataError> {
        let parse = |template: &str| {
            Template::parse(template)
                .map_err(|what| DataError::in_file(&manifest.origin, what, "correct the template"))
        };
        let optional =
            |template: Option<&String>| template.map(|template| parse(template)).transpose();
        let map = &manifest.map;
        let whole_file =
            manifest.read.format == Format::Text && manifest.read.documents == Boundary::File;
        let key = match &map.key {
            None if whole_file => Some(parse("{@file}")?),
            key => optional(key.as_ref())?,
        };
        let text = optional(map.text.as_ref())?;
        let prompt = optional(map.prompt.as_ref())?;
        let completion = optional(map.completion.as_ref())?;
        let read = [&text, &prompt, &completion, &key].map(Option::as_ref);
        Ok(Self {
            manifest,
            used: unused::used(manifest, &read),
            text: text.map_or_else(|| parse("{text}"), Ok)?,
            prompt,
            completion,
            content: optional(map.chat.as_ref().map(|chat| &chat.content))?,
            key,
            id: optional(map.id.as_ref())?,
            seen: RefCell::default(),
        })
    }

    /// A record as a document.
    pub(crate) fn document(
        &self,
        record: &Record,
        file: &str,
        source: SourceRef,
    ) -> Result<Mapped<Document>, DataError> {
        let value = self.cleaned(record);
        let row = Row {
            record,
            value: &value,
            file,
            source: &source,
        };
        if let Some(reason) = self.lacking(&row) {
            return Ok(Mapped::Dropped(reason));
        }
        let text = self.render(&self.text, &row)?;
        if let Some(reason) = self.size(&text, "text") {
            return Ok(Mapped::Dropped(reason));
        }
        let key = self.key(&row, Some(&self.text), &text)?;
        if let Some(reason) = self.repeated(&row) {
            return Ok(Mapped::Dropped(reason));
        }
        Ok(Mapped::Kept(
            Document {
                key: key.clone(),
                text,
                source,
            },
            key,
        ))
    }

    /// A record as a task example.
    pub(crate) fn example(
        &self,
        record: &Record,
        file: &str,
        source: SourceRef,
    ) -> Result<Mapped<TaskExample>, DataError> {
        let value = self.cleaned(record);
        let row = Row {
            record,
            value: &value,
            file,
            source: &source,
        };
        if let Some(reason) = self.lacking(&row) {
            return Ok(Mapped::Dropped(reason));
        }
        let found = match (&self.manifest.map.chat, &self.prompt) {
            (Some(chat), _) => {
                let found = self.chat(chat, &row)?;
                found.map(|(body, unlearnt)| (body, Vec::new(), unlearnt))
            }
            (None, Some(prompt)) => {
                let found = self.completion(prompt, &row)?;
                found.map(|(body, also)| (body, also, Vec::new()))
            }
            _ => unreachable!("a checked task manifest maps a conversation or a prompt"),
        };
        let (body, also, unlearnt) = match found {
            Ok(found) => found,
            Err(reason) => return Ok(Mapped::Dropped(reason)),
        };
        let id = match &self.id {
            Some(id) => self.render(id, &row)?,
            None => format!("{file}:{}", source.line),
        };
        let mut example = TaskExample {
            id,
            body,
            also,
            unlearnt,
            source: source.clone(),
        };
        let key = self.key(&row, self.prompt.as_ref(), &example.prompt_text())?;
        if example.id.is_empty() {
            example.id = key.clone();
        }
        if let Some(reason) = self.repeated(&row) {
            return Ok(Mapped::Dropped(reason));
        }
        Ok(Mapped::Kept(example, key))
    }

    /// The record's value after the clean-up steps. Leaves are cleaned as they are collected.
    fn cleaned(&self, record: &Record) -> Value {
        let mut value = record.value.clone();
        let read = &self.manifest.read;
        if read.format != Format::Leaves && !read.clean.is_empty() {
            clean(&mut value, &read.clean);
        }
        value
    }

    /// Why the record's fields are not fit for use, if they are not.
    fn lacking(&self, row: &Row<'_>) -> Option<String> {
        let filter = &self.manifest.filter;
        for name in &filter.require {
            let Some(value) = self.raw(name, row).filter(|value| !self.is_empty(value)) else {
                return Some(format!("no `{name}`"));
            };
            if !filter.without.is_empty() {
                let text = value_text(&value);
                if let Some(piece) = filter.without.iter().find(|piece| text.contains(*piece)) {
                    return Some(format!("`{piece}` in `{name}`"));
                }
            }
        }
        let pair = filter.pair.as_ref()?;
        let text = |name: &str| self.raw(name, row).map(|value| value_text(&value));
        mismatch(pair, &text(&pair.text)?, &text(&pair.translation)?)
    }

    /// Why the record is one too many, if it is. The last question to ask: a record that was left out
    /// for another reason does not stand in the way of a later one.
    fn repeated(&self, row: &Row<'_>) -> Option<String> {
        let fields = &self.manifest.filter.unique;
        if fields.is_empty() {
            return None;
        }
        let mut hasher = Sha256::new();
        for name in fields {
            let text = self.raw(name, row).map(|value| value_text(&value));
            let text = text.unwrap_or_default();
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        let fresh = self.seen.borrow_mut().insert(hasher.finalize().into());
        (!fresh).then(|| format!("`{}` seen before", fields.join("`, `")))
    }

    fn is_empty(&self, value: &Value) -> bool {
        let text = value_text(value);
        let text = text.trim();
        text.is_empty() || self.manifest.filter.empty.iter().any(|word| word == text)
    }

    /// A field before words are put for values.
    fn raw(&self, name: &str, row: &Row<'_>) -> Option<Value> {
        match name {
            "@file" => return Some(Value::from(row.file)),
            "@folder" => return Some(Value::from(row.file.rsplit('/').nth(1).unwrap_or(""))),
            "@index" => return Some(Value::from(row.record.index)),
            "@key" => return row.record.key.clone().map(Value::from),
            _ => {}
        }
        if let Some(paths) = self.manifest.map.fields.get(name) {
            let found = paths.iter().filter_map(|path| self.raw(path, row));
            return found.into_iter().find(|value| !self.is_empty(value));
        }
        match name.strip_prefix('^') {
            Some(path) => {
                let mut value = walk(row.record.root.as_deref()?, path)?;
                clean(&mut value, &self.manifest.read.clean);
                Some(value)
            }
            None => walk(row.value, name),
        }
    }

    fn render(&self, template: &Template, row: &Row<'_>) -> Result<String, DataError> {
        self.fill(template, row, &|name| self.raw(name, row))
    }

    /// A template with the values that `raw` gives for its fields.
    fn fill(
        &self,
        template: &Template,
        row: &Row<'_>,
        raw: &dyn Fn(&str) -> Option<Value>,
    ) -> Result<String, DataError> {
        let map = &self.manifest.map;
        for name in template.fields() {
            let Some(words) = map.values.get(name) else {
                continue;
            };
            let value = raw(name)
                .map(|value| value_text(&value))
                .unwrap_or_default();
            if !words.contains_key(&value) {
                let known = words
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join("`, `");
                return Err(DataError::at(
                    row.source,
                    format!(
                        "`{name}` is `{}`, which `map.values.{name}` does not list",
                        cut_at_word(&value, 80)
                    ),
                    format!("known are `{known}`"),
                ));
            }
        }
        let mut odd = None;
        let filled = template.render(|name| {
            let value = raw(name)?;
            let object = object_in(&value).map(|found| (name.to_owned(), found));
            odd = odd.take().or(object);
            if let Some(words) = map.values.get(name) {
                return words.get(&value_text(&value)).cloned().map(Value::from);
            }
            match map.cut.get(name) {
                Some(&limit) => Some(Value::from(shortened(&value_text(&value), limit))),
                None => Some(value),
            }
        });
        if let Some((name, found)) = odd {
            return Err(DataError::at(
                row.source,
                format!("`{name}` holds {found}, which is no text"),
                format!(
                    "write it as a text, or name a field inside it, such as `{name}.text`; a conversation stands as `messages`, a list of turns with `role` and `content`"
                ),
            ));
        }
        filled.map_err(|name| missing_field(name, row))
    }

    /// The key, from the fields as they were read: words for values and cuts differ between data sets and recipes
    /// that must agree on their splits. Without a template for it, that is `content`, which came out of `template`.
    fn key(
        &self,
        row: &Row<'_>,
        template: Option<&Template>,
        content: &str,
    ) -> Result<String, DataError> {
        let map = &self.manifest.map;
        // Where nothing is cut or worded, `content` is what the template gives.
        let as_read = map.values.is_empty() && map.cut.is_empty() && map.prompt_chars.is_none();
        match self.key.as_ref().or(template.filter(|_| !as_read)) {
            Some(key) => key
                .render(|name| self.raw(name, row))
                .map_err(|name| missing_field(name, row)),
            None => Ok(content.to_string()),
        }
    }

    /// Why a text is of the wrong size, if it is.
    fn size(&self, text: &str, what: &str) -> Option<String> {
        let filter = &self.manifest.filter;
        if text.trim().is_empty() {
            return Some(format!("empty {what}"));
        }
        if filter.min_chars.is_none() && filter.max_chars.is_none() {
            return None;
        }
        let chars = text.chars().count();
        if let Some(min) = filter.min_chars.filter(|&min| chars < min) {
            return Some(format!("{what} below {min} characters"));
        }
        filter
            .max_chars
            .filter(|&max| chars > max)
            .map(|max| format!("{what} above {max} characters"))
    }

    fn completion(
        &self,
        prompt: &Template,
        row: &Row<'_>,
    ) -> Result<Result<(TaskBody, Vec<String>), String>, DataError> {
        let mut prompt = self.render(prompt, row)?;
        let mut also = self.answers(row)?;
        let completion = match &self.completion {
            Some(completion) => self.render(completion, row)?,
            None => also.first().cloned().unwrap_or_default(),
        };
        also.retain(|answer| *answer != completion);
        if let Some(reason) = self.size(&prompt, "prompt") {
            return Ok(Err(reason));
        }
        if completion.trim().is_empty() {
            return Ok(Err("empty completion".to_string()));
        }
        let max = self.manifest.filter.max_completion_chars;
        if let Some(max) = max.filter(|&max| completion.chars().nth(max).is_some()) {
            return Ok(Err(format!("completion above {max} characters")));
        }
        if let Some(limit) = self.manifest.map.prompt_chars {
            prompt.truncate(shortened(&prompt, limit).len());
        }
        Ok(Ok((TaskBody::Completion { prompt, completion }, also)))
    }
}

/// A text cut to `limit` characters at the end of a word; 0 keeps all of it, as in a recipe.
fn shortened(text: &str, limit: usize) -> &str {
    match limit {
        0 => text,
        limit => cut_at_word(text, limit),
    }
}

/// Why a text and its translation are no good pair, if they are not.
fn mismatch(pair: &Pair, text: &str, translation: &str) -> Option<String> {
    let (name, other, ratio) = (&pair.translation, &pair.text, pair.max_ratio);
    if text.trim() == translation.trim() {
        return Some(format!("`{name}` repeats `{other}`"));
    }
    let (a, b) = (text.chars().count(), translation.chars().count());
    let most = a.min(b).saturating_mul(ratio).saturating_add(LENGTH_SLACK);
    (a.max(b) > most).then(|| format!("`{name}` and `{other}` differ too much in length"))
}

fn missing_field(name: &str, row: &Row<'_>) -> DataError {
    let known: Vec<&str> = row
        .value
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys().map(String::as_str))
        .collect();
    // A file's records are read as its first one is.
    let answered = |name: &str| matches!(name, "completion" | "answers");
    let other = known.iter().find(|known| answered(known));
    let remedy = match nearest(name, known.iter().copied()) {
        _ if answered(name) && other.is_some() => format!(
            "the records of this file are read by their `{name}`: give this one a `{name}` in place of `{}`, or keep the two kinds in two files",
            other.unwrap_or(&"")
        ),
        Some(close) => format!("did you mean `{close}`?"),
        None if known.is_empty() => "the record is empty; fill or delete it".to_string(),
        None => format!(
            "add it or delete the line, or map another field in its place (the record has `{}`)",
            known.join("`, `")
        ),
    };
    DataError::at(row.source, format!("no field `{name}`"), remedy)
}

/// Applies clean-up steps to every string of a value.
fn clean(value: &mut Value, steps: &[Clean]) {
    match value {
        Value::String(text) => {
            *text = steps
                .iter()
                .fold(std::mem::take(text), |text, step| step.apply(&text))
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, steps)),
        Value::Object(map) => map.values_mut().for_each(|item| clean(item, steps)),
        _ => {}
    }
}
