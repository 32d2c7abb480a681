//! What another program makes of the same model: `reference.json`, as `scripts/make_reference.py` writes it
//! with Transformers.

use std::path::Path;

use etude_tokenizer::Message;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::check::{Check, Outcome};
use super::reading::{Greedy, Reading, apart};
use super::subject::Subject;
use super::{from_text, text_of};
use crate::decoder::Decoder;
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
    /// When, by the clock of that machine, for templates that tell the date: `2026-11-28T12:00:00`.
    #[serde(default)]
    made_on: Option<String>,
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

/// Logits that are further apart are of another model.
const MOST_TOLERANCE: f64 = 0.1;
/// A token that is so much likelier is no tie.
const MOST_NEAR_TIE: f64 = 1.0;

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
        let wrong = |field: &str, reason: String| {
            Err(FolderError::Field {
                path: path.to_owned(),
                field: field.to_owned(),
                reason,
            })
        };
        // A reference that no model could fail is none.
        let mut places = read
            .logits
            .iter()
            .flat_map(|each| &each.positions)
            .peekable();
        if places.peek().is_none() || places.any(|place| place.top.is_empty()) {
            let reason = "is empty, so nothing would be compared".to_owned();
            return wrong("logits", reason);
        }
        let tolerances = [
            ("tolerance.logits", read.tolerance.logits, MOST_TOLERANCE),
            ("tolerance.near_tie", read.tolerance.near_tie, MOST_NEAR_TIE),
        ];
        for (field, tolerance, most) in tolerances {
            if !(0.0..=most).contains(&tolerance) {
                let reason = format!("is {tolerance}; it must be from 0 to {most}");
                return wrong(field, reason);
            }
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
        let [logits, greedy] = self.check_model(subject);
        vec![
            sizes,
            self.check_tokenizer(subject),
            self.check_template(subject),
            logits,
            greedy,
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
        let template = match template.at(self.made_on.as_deref()) {
            Ok(template) => template,
            Err(error) => return Check::failed(what, format!("made_on: {error}")),
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

    /// Logits and greedy continuations. A prompt that has both is read once.
    fn check_model(&self, subject: &Subject) -> [Check; 2] {
        let decoder = &subject.decoder;
        let (mut logits, mut greedy) = (LogitsFound::default(), GreedyFound::default());
        let mut open: Vec<(usize, &Logits)> = self.logits.iter().enumerate().collect();
        for (number, each) in self.greedy.iter().enumerate() {
            let ids = [&each.prompt[..], &each.ids[..]].concat();
            match Reading::of(decoder, &ids, 0) {
                Ok(_) if each.prompt.is_empty() => greedy.fail(number, "is empty".to_owned()),
                Err(error) => greedy.fail(number, error),
                Ok(reading) => {
                    let start = each.prompt.len();
                    let tie = self.tolerance.near_tie;
                    let found = reading.is_greedy(start, &each.ids, subject.tokens(), tie);
                    greedy.take(number, found);
                    open.retain(|(number, inside)| {
                        let covered = ids.starts_with(&inside.ids);
                        if covered {
                            logits.compare(*number, inside, &reading, decoder);
                        }
                        !covered
                    });
                }
            }
        }
        for (number, each) in open {
            match Reading::of(decoder, &each.ids, 0) {
                Ok(reading) => logits.compare(number, each, &reading, decoder),
                Err(error) => logits.fail(number, error),
            }
        }
        let tokens: usize = self.greedy.iter().map(|each| each.ids.len()).sum();
        let continued = format!(
            "{} continuations, the same {tokens} tokens",
            self.greedy.len()
        );
        let prompts = self.logits.len();
        [
            logits.check(prompts, self.tolerance.logits),
            greedy.check(continued),
        ]
    }
}

/// What came of comparing logits.
#[derive(Default)]
struct LogitsFound {
    places: usize,
    largest: f64,
    /// The prompt and position of the largest difference.
    worst: (usize, usize),
    fault: Option<String>,
}

impl LogitsFound {
    fn fail(&mut self, number: usize, fault: impl std::fmt::Display) {
        let fault = format!("prompt {}: {fault}", number + 1);
        self.fault.get_or_insert(fault);
    }

    fn compare(&mut self, number: usize, told: &Logits, reading: &Reading, decoder: &Decoder) {
        for place in &told.positions {
            let ids: Vec<u32> = place.top.iter().map(|&(id, _)| id).collect();
            let known = |&id: &u32| i64::from(id) < decoder.config().vocab_size;
            if place.position >= told.ids.len() || !ids.iter().all(known) {
                return self.fail(number, "names a token or position that is not there");
            }
            let (values, sum) = reading.logits(place.position, &ids);
            let pairs = values
                .into_iter()
                .zip(place.top.iter().map(|&(_, value)| value));
            for (found, wanted) in pairs.chain([(sum, place.logsumexp)]) {
                let apart = apart(found, wanted);
                if apart > self.largest {
                    (self.largest, self.worst) = (apart, (number + 1, place.position));
                }
            }
            self.places += 1;
        }
    }

    fn check(self, prompts: usize, allowed: f64) -> Check {
        let what = "reference: logits";
        let (largest, (prompt, position)) = (self.largest, self.worst);
        let within = largest <= allowed;
        let far = (!within).then(|| {
            format!(
                "differ by {largest:.1e} (prompt {prompt}, position {position}), {allowed:.0e} is allowed"
            )
        });
        let same = format!(
            "{} positions of {prompts} prompts, within {largest:.1e}",
            self.places
        );
        Check::unless(self.fault.or(far), what, same).with_largest(largest)
    }
}

/// What came of comparing continuations.
#[derive(Default)]
struct GreedyFound {
    ties: Vec<String>,
    fault: Option<String>,
}

impl GreedyFound {
    fn fail(&mut self, number: usize, fault: String) {
        let fault = format!("prompt {}: {fault}", number + 1);
        self.fault.get_or_insert(fault);
    }

    fn take(&mut self, number: usize, found: Greedy) {
        match found {
            Greedy::Yes => {}
            Greedy::NearTie(by) => {
                let tie = format!("prompt {} (logits {by:.1e} apart)", number + 1);
                self.ties.push(tie);
            }
            Greedy::No(at, by) => {
                let fault = format!(
                    "token {} is another one, likelier by {by:.1e} (logits)",
                    at + 1
                );
                self.fail(number, fault);
            }
        }
    }

    fn check(self, same: String) -> Check {
        let what = "reference: greedy";
        match (self.fault, self.ties.is_empty()) {
            (Some(fault), _) => Check::failed(what, fault),
            (None, true) => Check::passed(what, same),
            (None, false) => {
                let ties = self.ties.join(", ");
                Check::new(
                    what,
                    Outcome::NearTie,
                    format!("{same} but for near-ties: {ties}"),
                )
            }
        }
    }
}
