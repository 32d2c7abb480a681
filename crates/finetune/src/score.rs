//! What a run bought: the task's test examples, answered by the model as it was and as it is, scored and compared.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use etude_data::{TaskExample, spread};
use etude_eval::{TaskItem, TaskResult, TaskSettings, compare, evaluate, write_predictions};
use etude_model::{Decoder, hf};
use etude_scores::{Difference, Score};
use etude_tokenizer::Tokenizer;
use etude_train::{RunFolder, Summary};
use serde::{Deserialize, Serialize};

use crate::base;
use crate::recipe::Recipe;
use crate::task::Task;

const SCORES: &str = "scores.json";

/// `scores.json`: by metric, the test split's scores after and before fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The task.
    pub task: String,
    /// Test examples.
    pub n: usize,
    /// Of the result.
    pub after: BTreeMap<String, Score>,
    /// Of the base model; empty from scratch, where there is none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub before: BTreeMap<String, Score>,
    /// After minus before on the same examples; where less is better, a gain is negative.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gains: BTreeMap<String, Difference>,
}

/// Scores a finished run where its recipe asks for that and it was not done yet: writes `scores.json` and the
/// answers, and puts the scores into the summary. `decoder` is the result.
pub(crate) fn score(
    recipe: &Recipe,
    task: &Task,
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    folder: &RunFolder,
    summary: &mut Summary,
    say: &dyn Fn(&str),
) -> Result<()> {
    let settings = TaskSettings {
        metrics: recipe.eval.metrics.clone(),
        max_tokens: recipe.task.answer_tokens,
        ..TaskSettings::default()
    };
    if settings.metrics.is_empty() {
        return Ok(());
    }
    let scores = match read(&folder.file(SCORES))? {
        Some(scores) if covers(&scores, recipe) => scores,
        _ => {
            let test = spread(task.test.clone(), recipe.eval.test);
            let ask = |decoder: &Decoder, tokenizer: &Tokenizer| {
                answers(decoder, tokenizer, task, &test, &settings)
            };
            say(&format!("answering {} test examples", test.len()));
            let after = ask(decoder, tokenizer)?;
            write_predictions(&folder.file("answers.jsonl"), &after.items)?;
            let mut scores = Scores {
                task: task.name.clone(),
                n: after.items.len(),
                after: after.scores,
                before: BTreeMap::new(),
                gains: BTreeMap::new(),
            };
            if !recipe.base.from_scratch {
                say("answering the same with the model before fine-tuning");
                let before = before(recipe, decoder, ask)?;
                write_predictions(&folder.file("answers-before.jsonl"), &before.items)?;
                scores.gains = gains(&after.items, &before.items, &settings)?;
                scores.before = before.scores;
            }
            folder.write_json(SCORES, &scores)?;
            scores
        }
    };
    let values = scores.after.iter();
    summary.scores = values
        .map(|(name, score)| (name.clone(), score.value))
        .collect();
    folder.write_json("summary.json", summary)
}

fn answers(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    task: &Task,
    test: &[TaskExample],
    settings: &TaskSettings,
) -> Result<TaskResult> {
    evaluate(
        decoder,
        tokenizer,
        &task.renderer,
        test,
        settings,
        &mut |_| {},
    )
    .with_context(|| format!("{}: its test split cannot be scored", task.name))
}

/// The base model's answers.
fn before(
    recipe: &Recipe,
    result: &Decoder,
    ask: impl Fn(&Decoder, &Tokenizer) -> Result<TaskResult>,
) -> Result<TaskResult> {
    let folder = base::model_folder(&recipe.base.path);
    let loaded = hf::load(&folder, recipe.train.precision.kind(), result.device())?;
    let tokenizer = Tokenizer::load(&base::tokenizer_folder(&folder)?)?;
    ask(&loaded.decoder, &tokenizer)
}

fn gains(
    after: &[TaskItem],
    before: &[TaskItem],
    settings: &TaskSettings,
) -> Result<BTreeMap<String, Difference>> {
    let compared = compare(after, before, &settings.metrics, &settings.bootstrap)?;
    Ok(compared.differences)
}

/// Whether saved scores are those that the recipe asks for.
fn covers(scores: &Scores, recipe: &Recipe) -> bool {
    let metrics = &recipe.eval.metrics;
    scores.after.len() == metrics.len()
        && (metrics.iter()).all(|metric| scores.after.contains_key(metric.name()))
}

fn read(path: &Path) -> Result<Option<Scores>> {
    let Ok(text) = std::fs::read(path) else {
        return Ok(None);
    };
    let scores = serde_json::from_slice(&text)
        .with_context(|| format!("{}: is damaged; remove it to score anew", path.display()))?;
    Ok(Some(scores))
}
