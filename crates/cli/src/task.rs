//! How a fine-tuned model expects its task: the `[task]` table of the run that made it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etude_data::{ExampleSettings, Renderer, parse_toml};
use etude_finetune::{Recipe, TaskSettings};
use etude_tokenizer::Tokenizer;

/// The run folder that a model folder lies in: `RUN/model` or `RUN/checkpoints/step-…`.
pub(crate) fn run_folder(model: &Path) -> Option<PathBuf> {
    let model = model.canonicalize().ok()?;
    let inside = |run: &&Path| run.join("recipe.toml").is_file();
    model
        .ancestors()
        .skip(1)
        .take(2)
        .find(inside)
        .map(Path::to_owned)
}

/// The task settings that a model was fine-tuned with; none for a model that was not, or not here.
///
/// # Errors
/// When the run's recipe is damaged.
pub(crate) fn of_model(model: &Path) -> Result<Option<TaskSettings>> {
    let Some(run) = run_folder(model) else {
        return Ok(None);
    };
    let path = run.join("recipe.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    let table: toml::Table = parse_toml(&text, &path)?;
    if !table.contains_key("task") {
        return Ok(None);
    }
    Ok(Some(parse_toml::<Recipe>(&text, &path)?.task))
}

/// The settings of a model that tells none: the recipe's defaults for this source.
///
/// # Errors
/// Only if the defaults were broken.
pub(crate) fn default_settings(source: &str) -> Result<TaskSettings> {
    let table = toml::Table::from_iter([("source".to_owned(), toml::Value::from(source))]);
    table
        .try_into()
        .context("a task's source is all that has no default")
}

/// Renders prompts and examples exactly as fine-tuning does, for a model of this context.
///
/// # Errors
/// A format that is unknown, or that the tokenizer has no template for.
pub(crate) fn renderer(
    settings: &TaskSettings,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Renderer> {
    let context = if settings.context == 0 {
        context
    } else {
        settings.context.min(context)
    };
    let example = ExampleSettings {
        format: settings.format()?,
        context,
        answer_tokens: settings.answer_tokens.min(context),
        truncation: settings.truncation,
    };
    Renderer::new(tokenizer, example)
}
