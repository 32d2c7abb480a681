//! What a model says to a few prompts, and whether it still does.

use std::ops::ControlFlow;

use anyhow::Result;
use etude_tokenizer::{Message, Role};
use serde::{Deserialize, Serialize};

use super::TRANSCRIPTS;
use super::check::{Check, Outcome};
use super::reading::{self, Reading};
use super::subject::Subject;
use crate::generate::GenerateError;
use crate::text::{Prompt, TextGenerator, TextSettings};

/// At most so many transcripts.
const MOST: usize = 4;
/// Of at most so many new tokens.
const NEW_TOKENS: usize = 24;
/// A prompt is not longer than this.
const PROMPT_TOKENS: usize = 1024;
/// Two sums in float32 in another order, on another processor, differ by less: in a log-probability (nats), and
/// in the difference of two logits.
const LOGPROB_TOLERANCE: f64 = 1e-3;
const NEAR_TIE: f64 = 1e-3;

/// A prompt and its greedy continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// What the model was given.
    pub prompt: Prompt,
    /// The same as tokens, through the template.
    pub prompt_ids: Vec<u32>,
    /// The tokens that it made, an end token included.
    pub ids: Vec<u32>,
    /// The same as text, without special tokens.
    pub text: String,
    /// The natural logarithm of each token's probability.
    pub logprobs: Vec<f64>,
}

/// Prompts that suit any model.
fn usual_prompts(subject: &Subject) -> Vec<Prompt> {
    let asked = |text: &str| Prompt::Messages(vec![Message::new(Role::User, text)]);
    let begun = |text: &str| Prompt::Document(text.to_owned());
    let tokenizer = subject.tokenizer.as_ref();
    if tokenizer.is_some_and(|tokenizer| tokenizer.chat_template().is_some()) {
        return vec![
            asked("What is the capital of France?"),
            asked("Write one sentence about the sea."),
            begun("Once upon a time"),
        ];
    }
    vec![begun("The "), begun("Once upon a time"), begun("1, 2, 3,")]
}

/// Takes transcripts of those `prompts` that fit into the context, or of the usual ones. None without a
/// tokenizer.
pub(super) fn take(subject: &Subject, prompts: &[Prompt]) -> Result<Vec<Transcript>> {
    let Some(tokenizer) = &subject.tokenizer else {
        return Ok(Vec::new());
    };
    let generator = generator(subject)?;
    let config = subject.decoder.config();
    let room = 1..=PROMPT_TOKENS.min(config.context as usize);
    // A template may refuse a prompt; whether it renders at all is another check.
    let prepare = |prompt: &Prompt| {
        let ids = generator.encode(prompt).ok()?;
        room.contains(&ids.len()).then(|| (prompt.clone(), ids))
    };
    let mut prepared: Vec<_> = prompts.iter().filter_map(prepare).take(MOST).collect();
    if prepared.is_empty() {
        prepared = usual_prompts(subject).iter().filter_map(prepare).collect();
    }
    let given: Vec<&[u32]> = prepared.iter().map(|(_, ids)| &ids[..]).collect();
    let made = generate(&generator, &given)?;
    let mut transcripts = Vec::with_capacity(made.len());
    for ((prompt, prompt_ids), ids) in prepared.into_iter().zip(made) {
        let reading = read(subject, &prompt_ids, &ids).map_err(anyhow::Error::msg)?;
        let logprobs = reading.logprobs(prompt_ids.len(), &ids);
        transcripts.push(Transcript {
            text: tokenizer.decode(&ids, true)?,
            logprobs: logprobs
                .into_iter()
                .map(|value| (value * 1e6).round() / 1e6)
                .collect(),
            prompt,
            prompt_ids,
            ids,
        });
    }
    Ok(transcripts)
}

fn generator(subject: &Subject) -> Result<TextGenerator<'_>, GenerateError> {
    let tokenizer = subject.tokenizer.as_ref().expect("the caller saw it");
    Ok(TextGenerator::new(&subject.decoder, tokenizer)?.with_end(subject.end()))
}

/// Continues all prompts at once, greedily.
fn generate(
    generator: &TextGenerator<'_>,
    prompts: &[&[u32]],
) -> Result<Vec<Vec<u32>>, GenerateError> {
    let settings = TextSettings {
        max_tokens: NEW_TOKENS,
        ..TextSettings::default()
    };
    let prompts: Vec<Prompt> = prompts
        .iter()
        .map(|ids| Prompt::Ids(ids.to_vec()))
        .collect();
    let requests: Vec<_> = prompts.iter().map(|prompt| (prompt, &settings)).collect();
    let made = generator.generate(&requests, &mut |_, _| ControlFlow::Continue(()))?;
    Ok(made.into_iter().map(|each| each.ids).collect())
}

/// Reads a prompt and what was made of it, but for the last token, after which nothing comes.
fn read(subject: &Subject, prompt: &[u32], made: &[u32]) -> Result<Reading, String> {
    let mut ids = [prompt, made].concat();
    let last = ids
        .pop()
        .filter(|&id| i64::from(id) < subject.decoder.config().vocab_size);
    last.ok_or("the model has no such token")?;
    Reading::of(&subject.decoder, &ids, prompt.len() - 1)
}

/// Whether the model still says what it said.
pub(super) fn recheck(subject: &Subject, transcripts: &[Transcript]) -> Vec<Check> {
    if transcripts.is_empty() {
        return vec![Check::noted(TRANSCRIPTS, "none were taken")];
    }
    if subject.tokenizer.is_none() {
        return vec![Check::failed(
            TRANSCRIPTS,
            "the tokenizer with which they were taken is gone",
        )];
    }
    let prompts = check_prompts(subject, transcripts);
    vec![prompts, check_answers(subject, transcripts)]
}

/// Whether tokenizer and template make the same tokens of each prompt and the same text of each answer.
fn check_prompts(subject: &Subject, transcripts: &[Transcript]) -> Check {
    let what = "tokens of the transcripts";
    let tokenizer = subject.tokenizer.as_ref().expect("the caller saw it");
    let generator = match generator(subject) {
        Ok(generator) => generator,
        Err(error) => return Check::failed(what, error.to_string()),
    };
    let mut wrong = Vec::new();
    for (number, each) in transcripts.iter().enumerate() {
        let number = number + 1;
        let through = match each.prompt {
            Prompt::Messages(_) => "chat template and tokenizer",
            _ => "tokenizer",
        };
        match generator.encode(&each.prompt) {
            Err(error) => wrong.push(format!("prompt {number}: {error}")),
            Ok(ids) if ids != each.prompt_ids => {
                wrong.push(format!(
                    "prompt {number}: {through} make other tokens of it"
                ));
            }
            Ok(_) => {}
        }
        if tokenizer.decode(&each.ids, true).ok().as_ref() != Some(&each.text) {
            wrong.push(format!(
                "answer {number}: the tokenizer makes another text of its tokens"
            ));
        }
    }
    let count = transcripts.len();
    let same = format!("{count} prompts and answers, the same tokens and texts");
    Check::unless((!wrong.is_empty()).then(|| wrong.join("; ")), what, same)
}

/// Whether the model gives the same answers with the same probabilities.
fn check_answers(subject: &Subject, transcripts: &[Transcript]) -> Check {
    let mut readings = Vec::with_capacity(transcripts.len());
    for (number, each) in transcripts.iter().enumerate() {
        let readable = each.logprobs.len() == each.ids.len()
            && !each.ids.is_empty()
            && !each.prompt_ids.is_empty();
        let reading = match readable && number < MOST {
            true => read(subject, &each.prompt_ids, &each.ids),
            false => Err("is damaged".to_owned()),
        };
        match reading {
            Ok(reading) => readings.push(reading),
            Err(fault) => {
                return Check::failed(TRANSCRIPTS, format!("transcript {}: {fault}", number + 1));
            }
        }
    }
    let prompts: Vec<&[u32]> = transcripts
        .iter()
        .map(|each| &each.prompt_ids[..])
        .collect();
    let made = generator(subject).and_then(|generator| generate(&generator, &prompts));
    let made = match made {
        Ok(made) => made,
        Err(error) => return Check::failed(TRANSCRIPTS, error.to_string()),
    };
    let mut found = Found::default();
    for (number, (each, made)) in transcripts.iter().zip(made).enumerate() {
        found.compare(number + 1, each, &made, &readings[number]);
    }
    found.check(transcripts.len())
}

/// What came of comparing answers.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    ties: Vec<String>,
    largest: f64,
}

impl Found {
    /// `read` is what the model makes of the recorded answer.
    fn compare(&mut self, number: usize, told: &Transcript, made: &[u32], read: &Reading) {
        let start = told.prompt_ids.len();
        let logprobs = read.logprobs(start, &told.ids);
        let apart = logprobs.iter().zip(&told.logprobs);
        let apart = apart
            .map(|(&now, &then)| reading::apart(now, then))
            .fold(0.0, f64::max);
        let near = apart <= LOGPROB_TOLERANCE;
        self.largest = self.largest.max(apart);
        if let Some(at) = first_difference(&told.ids, made) {
            let chosen = [told.ids.get(at), made.get(at)].map(|id| id.copied());
            let margin = match chosen {
                [Some(told), Some(made)] => {
                    let (values, _) = read.logits(start - 1 + at, &[told, made]);
                    (values[0] - values[1]).abs()
                }
                _ => f64::INFINITY, // one of them ended
            };
            let what = format!("transcript {number} differs from token {} on", at + 1);
            if near && margin <= NEAR_TIE {
                self.ties
                    .push(format!("{what} by a near-tie (logits {margin:.1e} apart)"));
            } else {
                self.wrong
                    .push(format!("{what} (logits {margin:.1e} apart)"));
            }
        } else if !near {
            self.wrong
                .push(format!("transcript {number} has other probabilities"));
        }
    }

    fn check(self, count: usize) -> Check {
        let equal = count - self.ties.len();
        let check = if !self.wrong.is_empty() {
            let most = format!("log-probabilities differ by {:.1e} at most", self.largest);
            Check::failed(TRANSCRIPTS, format!("{}; {most}", self.wrong.join("; ")))
        } else if !self.ties.is_empty() {
            let detail = format!("{equal} of {count} the same; {}", self.ties.join("; "));
            Check::new(TRANSCRIPTS, Outcome::NearTie, detail)
        } else {
            let most = format!("log-probabilities within {:.1e}", self.largest);
            Check::passed(TRANSCRIPTS, format!("{count} the same, {most}"))
        };
        check.with_largest(self.largest)
    }
}

fn first_difference(told: &[u32], made: &[u32]) -> Option<usize> {
    let common = told
        .iter()
        .zip(made)
        .take_while(|(told, made)| told == made)
        .count();
    (common < told.len().max(made.len())).then_some(common)
}

/// How much of what a model said is the same in another number format.
pub(super) fn fidelity(before: &[Transcript], after: &[Transcript]) -> Check {
    let same = |each: &&Transcript| {
        after
            .iter()
            .any(|now| now.prompt == each.prompt && now.ids == each.ids)
    };
    let equal = before.iter().filter(same).count();
    let detail = format!(
        "{equal} of {} transcripts are those of the model that was exported",
        before.len()
    );
    Check::noted("number format", detail)
}
