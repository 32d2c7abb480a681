//! Records with several right answers.

use serde_json::Value;

use super::{Mapping, Row, missing_field};
use crate::error::DataError;
use crate::template::Template;

impl Mapping<'_> {
    /// The right answers of `map.answers`, without those that are empty.
    pub(super) fn answers(&self, row: &Row<'_>) -> Result<Vec<String>, DataError> {
        let Some(path) = &self.manifest.map.answers else {
            return Ok(Vec::new());
        };
        let answers = match self
            .raw(path, row)
            .ok_or_else(|| missing_field(path, row))?
        {
            Value::Array(answers) => answers,
            answer => vec![answer],
        };
        if answers
            .iter()
            .any(|answer| answer.is_array() || answer.is_object())
        {
            return Err(DataError::at(
                row.source,
                format!("`{path}` is no list of texts"),
                format!(
                    "give the path of one: `answers.text`, say, or `{path}` without lists in it"
                ),
            ));
        }
        // As a template's field would be written: with the words for values, and cut.
        let written = Template::field(path);
        let mut texts: Vec<String> = Vec::with_capacity(answers.len());
        for answer in &answers {
            if self.is_empty(answer) {
                continue;
            }
            let text = self.fill(&written, row, &|_| Some(answer.clone()))?;
            if !text.trim().is_empty() && !texts.contains(&text) {
                texts.push(text);
            }
        }
        Ok(texts)
    }
}
