//! How a fine-tuned model expects its task: the `[task]` table of the run that made it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etude_data::parse_toml;
use etude_finetune::{Recipe, TaskSettings};

/// The run folder that a model folder lies in: `RUN/model` or `RUN/checkpoints/step-…`.
pub(crate) fn run_folder(model: &Path) -> Option<PathBuf> {
    let inside = |model: &Path| {
        let is_run = |run: &&Path| run.join("recipe.toml").is_file();
        model
            .ancestors()
            .skip(1)
            .take(2)
            .find(is_run)
            .map(Path::to_owned)
    };
    // As the user wrote it where that leads there, since the path is shown again.
    inside(model).or_else(|| inside(&model.canonicalize().ok()?))
}

/// Which stage made a model.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// It lies in no run folder: an export, or someone else's model.
    Unknown,
    /// Pre-training.
    Pretrained,
    /// Fine-tuning, with examples written like this.
    Finetuned(Box<TaskSettings>),
}

/// Which stage made the model in this folder, as its run's recipe says.
///
/// # Errors
/// When the recipe is damaged.
pub(crate) fn origin(model: &Path) -> Result<Origin> {
    let Some(run) = run_folder(model) else {
        return Ok(Origin::Unknown);
    };
    let path = run.join("recipe.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    let table: toml::Table = parse_toml(&text, &path)?;
    if !table.contains_key("task") {
        return Ok(Origin::Pretrained);
    }
    Ok(Origin::Finetuned(Box::new(
        parse_toml::<Recipe>(&text, &path)?.task,
    )))
}

/// The fingerprint of the examples that a run was made from: of their files and how they were split.
pub(crate) fn fingerprint(run: &Path) -> Option<String> {
    let text = std::fs::read(run.join("data.json")).ok()?;
    let data: serde_json::Value = serde_json::from_slice(&text).ok()?;
    data["sources"][0]["sha256"].as_str().map(str::to_owned)
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
