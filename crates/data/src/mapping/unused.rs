//! Fields that nothing reads, where the mapping was made of what the first record looks like.

use serde_json::Value;

use super::Mapping;
use crate::manifest::{Kind, Manifest};
use crate::records::Record;
use crate::template::Template;

impl Mapping<'_> {
    /// The fields of a record that hold something and go nowhere; none where a person wrote the mapping.
    pub(crate) fn unused<'r>(&self, record: &'r Record) -> Vec<(&'r str, &'r Value)> {
        let fields = record.value.as_object().filter(|_| self.manifest.guessed);
        let fields = fields.into_iter().flatten();
        fields
            .map(|(name, value)| (name.as_str(), value))
            .filter(|(name, value)| !name.is_empty() && holds(value) && !self.uses(name))
            .collect()
    }

    fn uses(&self, name: &str) -> bool {
        self.used.iter().any(|path| {
            let rest = path.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// The paths that a guessed mapping reads.
pub(super) fn used(manifest: &Manifest, templates: &[Option<&Template>]) -> Vec<String> {
    if !manifest.guessed {
        return Vec::new();
    }
    let map = &manifest.map;
    let templates = templates.iter().flatten();
    let mut paths: Vec<String> = templates
        .flat_map(|template| template.fields())
        .map(str::to_owned)
        .collect();
    paths.extend(map.answers.clone());
    if let Some(chat) = &map.chat {
        paths.push(chat.turns.clone());
        paths.extend(chat.then.clone());
    }
    if manifest.kind == Kind::Text && map.text.is_none() {
        paths.push("text".to_owned());
    }
    paths
}

fn holds(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}
