//! What another program makes of the same model: `reference.json`, as `scripts/make_reference.py` writes it
//! with Transformers.

use std::path::Path;

use etude_tokenizer::Message;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::check::{Check, Outcome};
use super::reading::{Greedy, Reading};
use super::subject::Subject;
use super::{from_text, text_of};
use crate::hf::FolderError;

/// What is to come out of a model, by another program's word.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// 1.
    format: u32,
    /// The program, its version and the number format in which it computed.
    made_by: String,
    /// The name of the file or folder that it read.
    made_from: String,
    /// Fields of `config.json` that tell models apart.
    config: Map<String, Value>,
    /// What is close enough.
    tolerance: Tolerance,
    /// Texts and their tokens.
    tokenizer: Vec<Encoding>,
    /// Conversations and what the chat template makes of them.
    template: Vec<Rendering>,
    /// Prompts and logits.
    logits: Vec<Logits>,
    /// Prompts and their greedy continuations.
    greedy: Vec<Continuation>,
    /// All of that as it was read.
    #[serde(skip)]
    text: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tolerance {
    /// By how much a logit may differ.
    logits: f64,
    /// How much likelier (in logits) another token may be than the one that was chosen.
    near_tie: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoding {
    text: String,
    /// Without special tokens.
    ids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rendering {
    messages: Vec<Message>,
    /// Whether the assistant's next turn is opened.
    generation_prompt: bool,
    text: String,
    /// Of the text, special tokens recognised.
    ids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Logits {
    ids: Vec<u32>,
    positions: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// The token after which the logits are, from 0.
    position: usize,
    /// Over the whole vocabulary.
    logsumexp: f64,
    /// The likeliest tokens and their logits.
    top: Vec<(u32, f64)>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Continuation {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    /// By how much the closest choice was won.
    #[serde(default)]
    margin: Option<f64>,
}

impl Reference {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read or is no reference, with the field.
    pub fn load(path: &Path) -> Result<Self, FolderError> {
        Self::from_text(&text_of(path)?, path)
    }

    /// Reads the text of a reference; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`Reference::load`].
    pub fn from_text(text: &str, path: &Path) -> Result<Self, FolderError> {
        let read: Self = from_text(text, path)?;
        if read.logits.iter().all(|each| each.positions.is_empty()) {
            return Err(FolderError::Field {
                path: path.to_owned(),
                field: "logits".to_owned(),
                reason: "is empty, so nothing would be compared".to_owned(),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            ..read
        })
    }

    /// Writes it to `path`, as it was read.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FolderError> {
        std::fs::write(path, &self.text).map_err(|source| FolderError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// The program that it is from.
    pub fn made_by(&self) -> &str {
        &self.made_by
    }

    /// Compares a model with it. Of a model of other sizes nothing but that is said.
    pub fn check(&self, subject: &Subject) -> Vec<Check> {
        let sizes = self.check_sizes(subject);
        if sizes.has_failed() {
            return vec![sizes];
        }
        vec![
            sizes,
            self.check_tokenizer(subject),
            self.check_template(subject),
            self.check_logits(subject),
            self.check_greedy(subject),
        ]
    }

    fn check_sizes(&self, subject: &Subject) -> Check {
        let differs = |(key, wanted): (&String, &Value)| {
            let found = subject.config.get(key)?;
            (found != wanted).then(|| format!("{key} is {wanted} there and {found} here"))
        };
        let wrong = self.config.iter().find_map(differs);
        let wrong =
            wrong.map(|wrong| format!("it is of another model, {}: {wrong}", self.made_from));
        Check::unless(
            wrong,
            "reference: sizes",
            format!("those of {}", self.made_from),
        )
    }

    fn check_tokenizer(&self, subject: &Subject) -> Check {
        let what = "reference: tokenizer";
        let Some(tokenizer) = &subject.tokenizer else {
            return Check::failed(what, "the model has no tokenizer");
        };
        let differs =
            |each: &&Encoding| tokenizer.encode(&each.text).ok().as_ref() != Some(&each.ids);
        let wrong = self.tokenizer.iter().find(differs);
        let wrong = wrong.map(|each| format!("makes other tokens of {:?}", each.text));
        Check::unless(
            wrong,
            what,
            format!("{} texts, the same tokens", self.tokenizer.len()),
        )
    }

    fn check_template(&self, subject: &Subject) -> Check {
        let what = "reference: template";
        let template = subject
            .tokenizer
            .as_ref()
            .and_then(|tokenizer| tokenizer.chat_template());
        let (Some(tokenizer), Some(template)) = (&subject.tokenizer, template) else {
            let wrong =
                (!self.template.is_empty()).then(|| "the model has no chat template".to_owned());
            return Check::unless(wrong, what, "none, here and there");
        };
        let fault = |(number, each): (usize, &Rendering)| {
            let said = match template.render(&each.messages, each.generation_prompt) {
                Err(error) => error.to_string(),
                Ok(text) if text != each.text => "is rendered otherwise".to_owned(),
                Ok(text) => match tokenizer.encode_with_special(&text) {
                    Ok(ids) if ids == each.ids => return None,
                    _ => "has other tokens".to_owned(),
                },
            };
            Some(format!("conversation {}: {said}", number + 1))
        };
        let wrong = self.template.iter().enumerate().find_map(fault);
        let same = format!(
            "{} conversations, the same texts and tokens",
            self.template.len()
        );
        Check::unless(wrong, what, same)
    }

    fn check_logits(&self, subject: &Subject) -> Check {
        let what = "reference: logits";
        let (mut largest, mut places): (f64, usize) = (0.0, 0);
        let mut worst = None;
        for (number, each) in self.logits.iter().enumerate() {
            let reading = match Reading::of(&subject.decoder, &each.ids) {
                Ok(reading) => reading,
                Err(error) => {
                    return Check::failed(what, format!("prompt {}: {error}", number + 1));
                }
            };
            for place in &each.positions {
                let ids: Vec<u32> = place.top.iter().map(|&(id, _)| id).collect();
                let known = |&id: &u32| i64::from(id) < subject.decoder.config().vocab_size;
                if place.position >= each.ids.len() || !ids.iter().all(known) {
                    let detail = format!(
                        "prompt {}: names a token or position that is not there",
                        number + 1
                    );
                    return Check::failed(what, detail);
                }
                let (values, sum) = reading.logits(place.position, &ids);
                let pairs = values
                    .into_iter()
                    .zip(place.top.iter().map(|&(_, value)| value));
                for (found, wanted) in pairs.chain([(sum, place.logsumexp)]) {
                    let apart = (found - wanted).abs();
                    let apart = if apart.is_nan() { f64::INFINITY } else { apart };
                    if apart > largest {
                        (largest, worst) = (apart, Some((number + 1, place.position)));
                    }
                }
                places += 1;
            }
        }
        let allowed = self.tolerance.logits;
        let within = largest <= allowed;
        let (prompt, position) = worst.unwrap_or((1, 0));
        let wrong = (!within).then(|| {
            format!("differ by {largest:.1e} (prompt {prompt}, position {position}), {allowed:.0e} is allowed")
        });
        let same = format!(
            "{places} positions of {} prompts, within {largest:.1e}",
            self.logits.len()
        );
        Check::unless(wrong, what, same).with_largest(largest)
    }

    fn check_greedy(&self, subject: &Subject) -> Check {
        let what = "reference: greedy";
        let mut ties = Vec::new();
        for (number, each) in self.greedy.iter().enumerate() {
            let number = number + 1;
            let ids = [&each.prompt[..], &each.ids[..]].concat();
            let reading = match Reading::of(&subject.decoder, &ids) {
                Ok(reading) if !each.prompt.is_empty() => reading,
                Ok(_) => return Check::failed(what, format!("prompt {number} is empty")),
                Err(error) => return Check::failed(what, format!("prompt {number}: {error}")),
            };
            let tie = self.tolerance.near_tie;
            match reading.is_greedy(each.prompt.len(), &each.ids, subject.tokens(), tie) {
                Greedy::Yes => {}
                Greedy::NearTie(by) => {
                    ties.push(format!("prompt {number} (logits {by:.1e} apart)"))
                }
                Greedy::No(at, by) => {
                    let detail = format!(
                        "prompt {number}: token {} is another one, likelier by {by:.1e} (logits)",
                        at + 1
                    );
                    return Check::failed(what, detail);
                }
            }
        }
        let tokens: usize = self.greedy.iter().map(|each| each.ids.len()).sum();
        let same = format!(
            "{} continuations, the same {tokens} tokens",
            self.greedy.len()
        );
        match ties.is_empty() {
            true => Check::passed(what, same),
            false => Check::new(
                what,
                Outcome::NearTie,
                format!("{same} but for near-ties: {}", ties.join(", ")),
            ),
        }
    }
}
