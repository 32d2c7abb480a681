//! The arms of a comparison: one model each, all asked the same questions.

use std::path::Path;

use anyhow::{Context, Result};
use etude_data::{Split, spread};
use etude_eval::{TaskItem, TaskMetric, TaskResult, TaskSettings, choices, evaluate};
use etude_finetune::TaskSettings as TaskRecipe;
use etude_model::hf;
use etude_tensor::{Kind, parse_device};
use etude_tokenizer::Tokenizer;
use etude_train::RunContext;

/// What the arms are scored by; bits per byte of the reference answers, and of the answers themselves.
pub(crate) fn metrics() -> Result<Vec<TaskMetric>> {
    let names = ["rouge_l", "rouge_1", "chrf", "exact_match", "bits_per_byte"];
    names
        .into_iter()
        .map(|name| Ok(TaskMetric::parse(name)?))
        .collect()
}

/// What a model is asked.
#[derive(Debug, Clone)]
pub(crate) struct Questions {
    /// What its answers are scored by.
    pub(crate) metrics: Vec<TaskMetric>,
    /// What a classification chooses from; all answers of the test split when empty.
    pub(crate) choices: Vec<String>,
    /// Test examples, evenly from the test split; 0 means all.
    pub(crate) limit: usize,
}

/// The task's name, and one model's answers to its test split with their scores.
pub(crate) fn answers(
    model: &Path,
    recipe: &TaskRecipe,
    questions: &Questions,
    device: &str,
    context: &RunContext,
) -> Result<(String, TaskResult)> {
    let tokenizer = Tokenizer::load(model)?;
    let loaded = hf::load(model, Kind::Float, parse_device(device)?)?;
    let silent = RunContext {
        progress: false,
        ..context.for_folder(context.folder.clone())
    };
    let asked = etude_finetune::questions(
        recipe,
        loaded.decoder.config().context as usize,
        &tokenizer,
        &silent,
    )?;
    let mut settings = TaskSettings {
        metrics: questions.metrics.clone(),
        choices: questions.choices.clone(),
        max_tokens: recipe.answer_tokens,
        rows: 64,
        ..TaskSettings::default()
    };
    if settings.choices.is_empty() && settings.metrics.iter().any(TaskMetric::is_choice) {
        settings.choices = choices(&asked.test, &settings)
            .with_context(|| format!("eval.choices for {}", asked.name))?;
    }
    let test = spread(asked.test, questions.limit);
    let result = evaluate(
        &loaded.decoder,
        &tokenizer,
        &asked.renderer,
        &test,
        &settings,
        &mut |_| context.interrupt.check(),
    )
    .with_context(|| {
        format!(
            "{}: cannot be scored on the {} split",
            model.display(),
            Split::Test.name()
        )
    })?;
    Ok((asked.name, result))
}

/// The items by id, as the examples file lists them.
pub(crate) fn by_position(items: &[TaskItem], place: usize, id: &str) -> String {
    items
        .get(place)
        .filter(|item| item.id == id)
        .or_else(|| items.iter().find(|item| item.id == id))
        .map_or_else(String::new, |item| item.prediction.clone())
}
