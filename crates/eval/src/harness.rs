//! Standard benchmarks, scored as lm-evaluation-harness scores them: multiple choice by likelihood, cloze,
//! perplexity of whole texts, generated answers. A [`HarnessTask`] is a TOML file with templates and a JSONL
//! file of records, or built in; [`evaluate_harness`] runs a model on one.
//!
//! Likelihoods, windows, normalizations and standard errors are lm-evaluation-harness 0.4's, and
//! `scripts/check_lm_eval.py` compares the two. Each score has a bootstrap interval besides.

mod encode;
mod grammar;
mod metric;
mod next;
mod prompt;
mod report;
mod request;
mod sample;
mod score;
mod spec;
mod task;

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use etude_data::spread;
use etude_model::{Decoder, TextSettings};
use etude_scores::Bootstrap;
use etude_tokenizer::Tokenizer;

pub use metric::HarnessMetric;
pub use next::{NextToken, next_tokens};
pub use report::{results_json, sample_json};
pub use sample::{Likelihood, Outcome, Record, Sample};
pub use score::{HarnessResult, HarnessScore, Scored};
pub use spec::{Choices, Fewshot, GenerationSpec, Sampler, TaskKind, TaskSpec};
pub use task::HarnessTask;

use crate::greedy::{Batches, answers};
use crate::progress::Listener;
use encode::Encoder;
use prompt::{Prompts, Question};
use request::{Request, likelihoods};

/// How a task is run. What is asked is the task's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HarnessSettings {
    /// At most this many records, spread evenly; 0, the default, takes all.
    pub limit: usize,
    /// The most tokens that the model reads at a time; 0, the default, is its context.
    pub context: usize,
    /// Rows that go through the model at a time, at most; default 32. Scores do not depend on it.
    pub rows: usize,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

impl Default for HarnessSettings {
    fn default() -> Self {
        Self {
            limit: 0,
            context: 0,
            rows: 32,
            bootstrap: Bootstrap::default(),
        }
    }
}

/// A record with what it asks of the model.
struct Asked<'t> {
    doc_id: usize,
    record: &'t Record,
    question: Question,
    context: String,
    by: String,
    /// Its requests among all.
    requests: Range<usize>,
}

/// Runs a model on a task. Training may call it at its validations: it keeps no gradient.
///
/// `on_progress` hears of requests.
///
/// # Errors
/// Settings that mean nothing, a template that does not fit a record (both named, with line), a
/// continuation that the model cannot read, a tokenizer of another model, or a loss that is not finite.
pub fn evaluate_harness(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    task: &HarnessTask,
    settings: &HarnessSettings,
    on_progress: &mut Listener<'_>,
) -> Result<HarnessResult> {
    let started = Instant::now();
    let longest = longest(decoder, tokenizer, settings)?;
    let encoder = Encoder::new(tokenizer, longest);
    let (mut asked, requests) = ask(task, &encoder, settings)?;
    let outcomes = match task.spec.kind {
        TaskKind::Generation => {
            let made = generate(
                decoder,
                tokenizer,
                task,
                &asked,
                &encoder,
                (longest, settings.rows),
                on_progress,
            )?;
            let outcome = |(asked, made): (&mut Asked<'_>, String)| Outcome::Text {
                made,
                references: std::mem::take(&mut asked.question.answers),
            };
            asked.iter_mut().zip(made).map(outcome).collect()
        }
        kind => {
            let found = likelihoods(decoder, &requests, (longest, settings.rows), on_progress)?;
            asked
                .iter()
                .map(|asked| outcome(kind, asked, &found[asked.requests.clone()]))
                .collect::<Result<Vec<Outcome>>>()?
        }
    };
    let samples = asked.into_iter().zip(outcomes);
    let samples = samples
        .map(|(asked, outcome)| sample(task, asked, outcome))
        .collect();
    score::score(task, samples, settings, started.elapsed().as_secs_f64())
}

/// The most tokens that the model reads at a time.
fn longest(decoder: &Decoder, tokenizer: &Tokenizer, settings: &HarnessSettings) -> Result<usize> {
    settings.bootstrap.validate()?;
    ensure!(settings.rows > 0, "rows = 0 reads nothing; give at least 1");
    let (context, vocabulary) = (decoder.config().context, decoder.config().vocab_size);
    ensure!(
        tokenizer.vocab_size() as i64 <= vocabulary,
        "the tokenizer has token ids up to {}, and the model's vocabulary is {vocabulary}: they do not belong together",
        tokenizer.vocab_size() - 1
    );
    let context = usize::try_from(context).unwrap_or(usize::MAX);
    ensure!(
        settings.context <= context && settings.context != 1,
        "context = {}: the model reads 2 to {context} tokens at a time",
        settings.context
    );
    Ok(if settings.context == 0 {
        context
    } else {
        settings.context
    })
}

/// What each record asks, and all requests for likelihoods.
fn ask<'t>(
    task: &'t HarnessTask,
    encoder: &Encoder<'_>,
    settings: &HarnessSettings,
) -> Result<(Vec<Asked<'t>>, Vec<Request>)> {
    let prompts = Prompts::new(task)?;
    let numbered: Vec<(usize, &Record)> = task.records.iter().enumerate().collect();
    let (mut all, mut requests) = (Vec::new(), Vec::new());
    for (doc_id, record) in spread(numbered, settings.limit) {
        let question = prompts.question(record)?;
        let context = match task.spec.kind {
            TaskKind::Perplexity => String::new(),
            _ => prompts.context(doc_id, record, &question)?,
        };
        let first = requests.len();
        let pair = |continuation: &String| {
            let continuation = format!("{}{continuation}", task.spec.delimiter);
            encoder.pair(&context, &continuation)
        };
        let own = match task.spec.kind {
            TaskKind::MultipleChoice => question.choices.iter().map(pair).collect(),
            TaskKind::Cloze => question.answers.iter().map(pair).collect(),
            TaskKind::Perplexity => encoder.windows(&question.answers[0]),
            TaskKind::Generation => Ok(Vec::new()),
        };
        let own: Vec<Request> = own.with_context(|| record.source.to_string())?;
        requests.extend(own);
        all.push(Asked {
            doc_id,
            record,
            by: prompts.by(record)?,
            question,
            context,
            requests: first..requests.len(),
        });
    }
    Ok((all, requests))
}

/// Greedy answers. A context that is too long is cut on the left.
fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    task: &HarnessTask,
    asked: &[Asked<'_>],
    encoder: &Encoder<'_>,
    (longest, rows): (usize, usize),
    on_progress: &mut Listener<'_>,
) -> Result<Vec<String>> {
    let generation = &task.spec.generation;
    let room = longest.saturating_sub(generation.max_tokens);
    ensure!(
        room > 0,
        "generation.max_tokens = {} leaves no room for a question: the model reads {longest} tokens, question and answer together; lower it in the task file",
        generation.max_tokens
    );
    let prompts: Vec<Vec<u32>> = asked
        .iter()
        .map(|asked| {
            let mut ids = encoder.prompt(&asked.context)?;
            ids.drain(..ids.len().saturating_sub(room));
            Ok(ids)
        })
        .collect::<Result<_>>()?;
    let text = TextSettings {
        max_tokens: generation.max_tokens,
        stop: generation.stop.clone(),
        ..TextSettings::default()
    };
    let place = |number: usize| asked[number].record.source.to_string();
    let made = answers(
        (decoder, tokenizer),
        &prompts,
        &text,
        Batches::of(rows),
        &place,
        on_progress,
    )?;
    Ok(made.rows.into_iter().map(|made| made.text).collect())
}

fn outcome(kind: TaskKind, asked: &Asked<'_>, found: &[Likelihood]) -> Result<Outcome> {
    let log_likelihood: f64 = found.iter().map(|one| one.log_likelihood).sum();
    ensure!(
        log_likelihood.is_finite(),
        "{}: the model's loss is {}: its weights are damaged, or too large for their number format",
        asked.record.source,
        -log_likelihood
    );
    Ok(match kind {
        TaskKind::MultipleChoice => Outcome::Choice {
            gold: asked.question.gold,
            choices: asked.question.choices.clone(),
            found: found.to_vec(),
        },
        TaskKind::Cloze => Outcome::Cloze(found[0]),
        TaskKind::Perplexity | TaskKind::Generation => {
            let text = &asked.question.answers[0];
            Outcome::Rolling {
                log_likelihood,
                words: sample::count_words(text),
                bytes: text.len() as u64,
            }
        }
    })
}

fn sample(task: &HarnessTask, asked: Asked<'_>, outcome: Outcome) -> Sample {
    let Asked {
        question, context, ..
    } = asked;
    let delimiter = &task.spec.delimiter;
    let pair = |continuation: &String| (context.clone(), format!("{delimiter}{continuation}"));
    let (requests, target) = match &outcome {
        Outcome::Choice { gold, choices, .. } => {
            (choices.iter().map(pair).collect(), gold.to_string())
        }
        Outcome::Cloze(_) => (
            vec![pair(&question.answers[0])],
            question.answers[0].clone(),
        ),
        Outcome::Rolling { .. } => {
            let text = question.answers[0].clone();
            (vec![(text.clone(), String::new())], text)
        }
        Outcome::Text { references, .. } => {
            let stop = task.spec.generation.stop.join("\n");
            (
                vec![(context, stop)],
                references.first().cloned().unwrap_or_default(),
            )
        }
    };
    Sample {
        doc_id: asked.doc_id,
        record: asked.record.clone(),
        by: asked.by,
        target,
        requests,
        outcome,
    }
}

#[cfg(test)]
mod tests;
