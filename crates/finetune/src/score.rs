//! What a run bought: the task's test examples, answered by the model as it was and as it is, scored and compared.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use etude_data::{RenderedExample, Renderer, TaskExample, spread};
use etude_eval::{
    Listener, TaskItem, TaskMetric, TaskPace, TaskResult, TaskSettings, answers_cut,
    check_examples, choices, compare, evaluate, task_pace, write_predictions,
};
use etude_model::hf::peft;
use etude_model::{Decoder, hf};
use etude_scores::{Difference, Score};
use etude_tensor::memory;
use etude_tokenizer::Tokenizer;
use etude_train::interrupt::Interrupt;
use etude_train::{RunContext, RunFolder, Summary};
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
    /// Test examples that were answered.
    pub n: usize,
    /// Test examples that were to be answered; those that do not fit the context were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<usize>,
    /// What a classification chose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
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
    (decoder, tokenizer): (&Decoder, &Tokenizer),
    folder: &RunFolder,
    summary: &mut Summary,
    context: &RunContext,
) -> Result<()> {
    if recipe.eval.metrics.is_empty() {
        return Ok(());
    }
    let asking = Asking::new(recipe, task, &context.interrupt)?;
    let say = |line: &str| {
        use std::io::Write;
        if context.progress {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    };
    let scores = match read(&folder.file(SCORES))? {
        Some(scores) if covers(&scores, &asking) => scores,
        _ => {
            memory::give_back(); // what training used
            say(&format!("answering {} test examples", asking.test.len()));
            let after = asking.ask(decoder, tokenizer)?;
            write_predictions(&folder.file("answers.jsonl"), &after.items)?;
            let (cut, most) = (answers_cut(&after.items), asking.settings.max_tokens);
            if cut > 0 {
                let all = after.items.len();
                say(&format!(
                    "{cut} of {all} answers were cut for their length; task.answer_tokens is {most}"
                ));
            }
            let mut scores = Scores {
                task: task.name.clone(),
                n: after.items.len(),
                asked: Some(asking.test.len()),
                choices: asking.settings.choices.clone(),
                after: after.scores,
                before: BTreeMap::new(),
                gains: BTreeMap::new(),
            };
            if !recipe.base.from_scratch {
                say("answering the same with the model before fine-tuning");
                let before = before(recipe, decoder, |base, tokenizer| {
                    asking.ask(base, tokenizer)
                })?;
                write_predictions(&folder.file("answers-before.jsonl"), &before.items)?;
                scores.gains = gains(&after.items, &before.items, &asking.settings)?;
                scores.before = before.scores;
            }
            folder.write_json(SCORES, &scores)?;
            // Two models lay in memory, and the answers' keys and values.
            let held = memory::peak_rss().max(summary.peak_memory);
            summary.peak_memory = held;
            let forecast = summary.forecast.as_mut();
            if let (Some(held), Some(beside)) =
                (held, forecast.and_then(|it| it.peak_memory.as_mut()))
            {
                beside.fact = held as f64;
            }
            scores
        }
    };
    let values = scores.after.iter();
    summary.scores = values
        .map(|(name, score)| (name.clone(), score.value))
        .collect();
    folder.write_json("summary.json", summary)
}

/// Refuses, before anything is learnt, scores that the test examples do not allow.
///
/// # Errors
/// No test examples, or none that fits; a classification without answers to choose from.
pub(crate) fn check(recipe: &Recipe, task: &Task) -> Result<()> {
    ensure!(
        recipe.eval.metrics.is_empty() || !task.test.is_empty(),
        "eval.metrics = {:?}: {} holds out no example for the test, on which they are measured; set task.local.test to a percentage, give it a file for the test, or leave eval.metrics out",
        recipe
            .eval
            .metrics
            .iter()
            .map(TaskMetric::name)
            .collect::<Vec<_>>(),
        task.name
    );
    let settings = settings(recipe, task)?;
    if recipe.eval.metrics.is_empty() {
        return Ok(());
    }
    let test = spread(task.test.clone(), recipe.eval.test);
    check_examples(&task.renderer, &test, &settings).with_context(|| cannot_be_scored(task))
}

fn cannot_be_scored(task: &Task) -> String {
    format!("{}: its test split cannot be scored", task.name)
}

fn settings(recipe: &Recipe, task: &Task) -> Result<TaskSettings> {
    let mut settings = TaskSettings {
        metrics: recipe.eval.metrics.clone(),
        choices: recipe.eval.choices.clone(),
        max_tokens: recipe.task.answer_tokens,
        ..TaskSettings::default()
    };
    // Of the whole split: a rare answer may be missing among those that are asked.
    if settings.metrics.iter().any(TaskMetric::is_choice) && !task.test.is_empty() {
        let examples = match settings.choices.is_empty() {
            true => task.test.clone(),
            false => spread(task.test.clone(), recipe.eval.test),
        };
        settings.choices = choices(&examples, &settings)
            .with_context(|| format!("eval.choices for {}", task.name))?;
    }
    Ok(settings)
}

/// How many seconds [`score`] will take, from the heaviest batches of the test examples with answers that break off
/// after a few tokens. The base model is taken to write on until it must stop, the fine-tuned one to write as much as
/// the longest right answer of a batch. The process holds as much as in the run then: where the run will ask the base
/// model as well, it is asked here, beside `decoder`.
pub(crate) fn rehearse(
    recipe: &Recipe,
    task: &Task,
    (decoder, tokenizer): (&Decoder, &Tokenizer),
    interrupt: &Interrupt,
) -> Result<f64> {
    if recipe.eval.metrics.is_empty() || task.test.is_empty() {
        return Ok(0.0);
    }
    memory::give_back(); // as before the run's answers
    let asking = Asking::new(recipe, task, interrupt)?;
    let mut longest = 0;
    for example in &spread(asking.test.clone(), asking.settings.rows) {
        let rendered = task.renderer.render(example)?;
        longest = longest.max(rendered.as_kept().map_or(0, RenderedExample::targets));
    }
    let most = asking.settings.max_tokens;
    let after = longest.min(most);
    if recipe.base.from_scratch {
        return Ok(asking.pace(decoder, tokenizer)?.seconds(after));
    }
    let (base, tuned) = before(recipe, decoder, |base, base_tokenizer| {
        let pace = asking.pace(base, base_tokenizer)?;
        // An adapter's products come on top; all weights trained, the two are alike.
        let tuned = match recipe.adapter() {
            Some(_) => asking.pace(decoder, tokenizer)?,
            None => pace,
        };
        Ok((pace, tuned))
    })?;
    Ok(base.seconds(most) + tuned.seconds(after))
}

/// What a model is asked.
struct Asking<'a> {
    task: &'a Task,
    test: Vec<TaskExample>,
    settings: TaskSettings,
    interrupt: &'a Interrupt,
}

impl<'a> Asking<'a> {
    fn new(recipe: &Recipe, task: &'a Task, interrupt: &'a Interrupt) -> Result<Self> {
        Ok(Self {
            task,
            test: spread(task.test.clone(), recipe.eval.test),
            settings: settings(recipe, task)?,
            interrupt,
        })
    }

    fn ask(&self, decoder: &Decoder, tokenizer: &Tokenizer) -> Result<TaskResult> {
        self.put(evaluate, decoder, tokenizer)
    }

    fn pace(&self, decoder: &Decoder, tokenizer: &Tokenizer) -> Result<TaskPace> {
        self.put(task_pace, decoder, tokenizer)
    }

    /// Puts the questions to a model, by `how`.
    fn put<T>(
        &self,
        how: impl Fn(
            &Decoder,
            &Tokenizer,
            &Renderer,
            &[TaskExample],
            &TaskSettings,
            &mut Listener<'_>,
        ) -> Result<T>,
        decoder: &Decoder,
        tokenizer: &Tokenizer,
    ) -> Result<T> {
        let (task, listen) = (self.task, &mut |_| self.interrupt.check());
        let (test, settings) = (&self.test, &self.settings);
        how(decoder, tokenizer, &task.renderer, test, settings, listen)
            .with_context(|| cannot_be_scored(task))
    }
}

/// What the model that the run started from says when it is asked.
fn before<T>(
    recipe: &Recipe,
    result: &Decoder,
    ask: impl Fn(&Decoder, &Tokenizer) -> Result<T>,
) -> Result<T> {
    let folder = base::model_folder(&recipe.base.path);
    let mut loaded = hf::load(&folder, recipe.train.precision.kind(), result.device())?;
    // A run that goes on with an adapter was as good as that makes the base.
    if let Some(start) = recipe.adapter().and_then(|lora| lora.start.clone()) {
        peft::merge(&mut loaded.decoder, &[(start, 1.0)])?;
    }
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
fn covers(scores: &Scores, asking: &Asking<'_>) -> bool {
    let metrics = &asking.settings.metrics;
    let same = |asked: usize| asked == asking.test.len();
    scores.asked.is_none_or(same)
        && scores.choices == asking.settings.choices
        && scores.after.len() == metrics.len()
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
