//! Task evaluation: a model's answers to examples, scored against the reference answers, and the
//! likelihood it gives to those.

mod answers;
mod choices;
mod likelihood;
mod metric;
mod pace;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use etude_data::{RenderedExample, RenderedPrompt, Renderer, Rendering, TaskExample};
use etude_model::{Beams, Decoder, FinishReason, Sampling, TextSettings};
use etude_scores::{Bootstrap, Score};
use etude_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use self::choices::Candidates;
use crate::progress::Listener;
pub use choices::choices;
pub use metric::{TaskMetric, score_items};
pub use pace::{TaskPace, task_pace};

/// How a task is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskSettings {
    /// What is scored. Default `rouge_1`, `rouge_2`, `rouge_l`, `bleu`, `chrf`, `exact_match`,
    /// `token_f1`, `bits_per_byte`.
    pub metrics: Vec<TaskMetric>,
    /// At most this many tokens in an answer; default 128.
    pub max_tokens: usize,
    /// Texts that end an answer, besides the end tokens. Default none.
    pub stop: Vec<String>,
    /// What `choice_accuracy` and `choice_macro_f1` choose from, 2 to 64 answers; default all different right ones of
    /// the examples.
    pub choices: Vec<String>,
    /// Rows that are generated at a time, at most; default 32. Each beam takes one.
    pub rows: usize,
    /// Whether answers are searched for by beams; by default they are greedy.
    pub beams: Beams,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            metrics: TaskMetric::usual(),
            max_tokens: 128,
            stop: Vec::new(),
            choices: Vec::new(),
            rows: 32,
            beams: Beams::default(),
            bootstrap: Bootstrap::default(),
        }
    }
}

impl TaskSettings {
    /// How answers are generated.
    fn text(&self) -> TextSettings {
        TextSettings {
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            sampling: Sampling::greedy(),
            beams: self.beams,
        }
    }

    /// Refuses values that mean nothing.
    ///
    /// # Errors
    /// The field, and what it must be.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            !self.metrics.is_empty(),
            "metrics is empty; name at least one, such as `rouge_l`"
        );
        ensure!(
            self.choices.is_empty() || self.metrics.iter().any(TaskMetric::is_choice),
            "choices is given, and none of the metrics chooses; name `choice_accuracy` or `choice_macro_f1`, or leave choices out"
        );
        ensure!(
            self.max_tokens > 0,
            "max_tokens = 0 leaves no room for an answer; give at least 1"
        );
        ensure!(self.rows > 0, "rows = 0 answers nothing; give at least 1");
        ensure!(
            !self.stop.iter().any(String::is_empty),
            "stop holds an empty text; leave it out"
        );
        self.beams.validate(&Sampling::greedy())?;
        Ok(self.bootstrap.validate()?)
    }
}

/// One item: what was asked, what the answer should be, and what the model made of it. A line of a
/// predictions file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskItem {
    /// The example's name.
    pub id: String,
    /// What the model was given, before any template.
    pub prompt: String,
    /// The right answer, the one that is taught.
    pub reference: String,
    /// Others that are as right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The model's; of a classification that asks for nothing else, the likeliest answer.
    pub prediction: String,
    /// Why the model's ends.
    pub finish_reason: FinishReason,
    /// Its tokens, the end token included.
    pub tokens: u64,
    /// The nats that the model gives the right answer, with the token that ends it. In a
    /// conversation all of the assistant's turns count, as in training.
    pub nats: f64,
    /// The bytes of the right answer that `nats` is for; the end token stands for none.
    pub bytes: u64,
    /// The likeliest of a classification's answers, where they were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
}

impl TaskItem {
    /// The choice, where any right one stands for the one that is taught: the item's class is that one's.
    fn judged_choice(&self) -> Option<&String> {
        let chosen = self.chosen.as_ref()?;
        let right = self.also.contains(chosen);
        Some(if right { &self.reference } else { chosen })
    }
}

/// How many answers were cut for their length.
pub fn answers_cut(items: &[TaskItem]) -> usize {
    let cut = |item: &&TaskItem| item.finish_reason == FinishReason::Length;
    items.iter().filter(cut).count()
}

/// A model's result on a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The items, in the order of the examples.
    pub items: Vec<TaskItem>,
    /// Each metric's score with its interval.
    pub scores: BTreeMap<String, Score>,
    /// Examples that were left out because they do not fit the model's context, by reason. Scores say
    /// nothing about them.
    pub left_out: BTreeMap<String, u64>,
    /// Items whose prompt was cut to fit.
    pub truncated_prompts: u64,
    /// Seconds that generating took.
    pub seconds: f64,
    /// Generated tokens per second, over all rows of a batch.
    pub tokens_per_second: f64,
}

/// An example that can be evaluated.
struct Item<'a> {
    example: &'a TaskExample,
    prompt: RenderedPrompt,
    whole: RenderedExample,
}

/// Evaluates a model on examples: greedy answers to their prompts (or the likeliest by beams), rendered exactly as for
/// training, scored against the reference answers.
///
/// An example is left out, and counted in [`TaskResult::left_out`], when training would leave it out:
/// `renderer`'s context and truncation decide. `on_progress` hears of items.
///
/// # Errors
/// Settings that mean nothing, an example without an answer, none that fits, or a tokenizer of another
/// model.
pub fn evaluate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    renderer: &Renderer,
    examples: &[TaskExample],
    settings: &TaskSettings,
    on_progress: &mut Listener<'_>,
) -> Result<TaskResult> {
    check_context(decoder, renderer)?;
    let Asked {
        items,
        left_out,
        candidates,
    } = asked(renderer, examples, settings)?;
    let wholes: Vec<_> = items
        .iter()
        .map(|item| (&item.whole, &item.example.source))
        .collect();
    let nats = likelihood::nats(decoder, &wholes, on_progress)?;
    let chosen = candidates
        .map(|candidates| candidates.chosen(decoder, &items, on_progress))
        .transpose()?;
    let answers = match &chosen {
        // A classification alone needs no text of the model's own.
        Some(chosen) if !settings.metrics.iter().any(TaskMetric::needs_answers) => {
            answers::Answers::given(chosen)
        }
        _ => answers::answers(decoder, tokenizer, renderer, &items, settings, on_progress)?,
    };
    let chosen = match chosen {
        Some(chosen) => chosen.into_iter().map(Some).collect(),
        None => vec![None; items.len()],
    };
    let truncated_prompts = items.iter().filter(|item| item.prompt.truncated).count() as u64;
    let tokens: u64 = answers.rows.iter().map(|answer| answer.tokens).sum();
    let items: Vec<TaskItem> = (items.iter().zip(answers.rows).zip(nats).zip(chosen))
        .map(|(((item, answer), nats), chosen)| TaskItem {
            id: item.example.id.clone(),
            prompt: item.example.prompt_text(),
            reference: item.example.reference_text().to_owned(),
            also: item.example.also.clone(),
            prediction: answer.text,
            finish_reason: answer.finish_reason,
            tokens: answer.tokens,
            nats,
            bytes: item.whole.target_bytes,
            chosen,
        })
        .collect();
    Ok(TaskResult {
        scores: score_items(&items, &settings.metrics, &settings.bootstrap)?,
        items,
        left_out,
        truncated_prompts,
        seconds: answers.seconds,
        tokens_per_second: tokens as f64 / answers.seconds.max(f64::MIN_POSITIVE),
    })
}

/// Whether [`evaluate`] can be asked for these examples, by all that needs no model.
///
/// # Errors
/// As there.
pub fn check_examples(
    renderer: &Renderer,
    examples: &[TaskExample],
    settings: &TaskSettings,
) -> Result<()> {
    asked(renderer, examples, settings).map(drop)
}

/// What an evaluation puts to a model.
struct Asked<'a> {
    items: Vec<Item<'a>>,
    /// Examples that do not fit, by reason.
    left_out: BTreeMap<String, u64>,
    /// Of a classification.
    candidates: Option<Candidates>,
}

fn asked<'a>(
    renderer: &Renderer,
    examples: &'a [TaskExample],
    settings: &TaskSettings,
) -> Result<Asked<'a>> {
    settings.validate()?;
    let (mut items, mut left_out) = render(renderer, examples)?;
    let mut candidates = None;
    if settings.metrics.iter().any(TaskMetric::is_choice) {
        let answers = choices(items.iter().map(|item| item.example), settings)?;
        let rendered = Candidates::render(renderer, answers, &mut items, &mut left_out)?;
        some_fit(&items, &left_out, renderer)?;
        candidates = Some(rendered);
    }
    Ok(Asked {
        items,
        left_out,
        candidates,
    })
}

fn check_context(decoder: &Decoder, renderer: &Renderer) -> Result<()> {
    let (given, model) = (renderer.settings().context, decoder.config().context);
    ensure!(
        given as i64 <= model,
        "examples are rendered for a context of {given} tokens, and the model's is {model}; lower the context to it"
    );
    Ok(())
}

/// The examples that fit, and the number of those that do not, by reason.
fn render<'a>(
    renderer: &Renderer,
    examples: &'a [TaskExample],
) -> Result<(Vec<Item<'a>>, BTreeMap<String, u64>)> {
    ensure!(
        !examples.is_empty(),
        "there is no example to evaluate on; give at least one"
    );
    let mut items = Vec::with_capacity(examples.len());
    let mut left_out = BTreeMap::new();
    for example in examples {
        match (renderer.render_prompt(example)?, renderer.render(example)?) {
            (Rendering::Kept(prompt), Rendering::Kept(whole)) => {
                items.push(Item {
                    example,
                    prompt,
                    whole,
                });
            }
            (_, Rendering::Dropped(reason)) | (Rendering::Dropped(reason), _) => {
                *left_out.entry(reason.to_string()).or_insert(0) += 1;
            }
        }
    }
    some_fit(&items, &left_out, renderer)?;
    Ok((items, left_out))
}

fn some_fit(
    items: &[Item<'_>],
    left_out: &BTreeMap<String, u64>,
    renderer: &Renderer,
) -> Result<()> {
    let reasons: Vec<String> = left_out
        .iter()
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    ensure!(
        !items.is_empty(),
        "none of the {} examples fits a context of {} tokens ({}); raise it, or let prompts be truncated: no example can be evaluated",
        left_out.values().sum::<u64>(),
        renderer.settings().context,
        reasons.join(", ")
    );
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
