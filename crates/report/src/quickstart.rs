//! The quickstart's page: three run folders (`base/`, `task/`, `scratch/`) told as one story.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::compare;
use crate::figures::Figure;
use crate::format;
use crate::metric::metric;
use crate::read;
use crate::run::{Example, Note, Run, number, text};
use crate::scores::{self, Gain, Group};
use crate::sections::{self, Section, Tile};

/// Held-out examples shown openly, and all that the page holds.
const SHOWN_EXAMPLES: usize = 6;
const KEPT_EXAMPLES: usize = 40;

/// Characters of a prompt and of an answer that the page shows.
const PROMPT_CHARS: usize = 600;
const ANSWER_CHARS: usize = 400;

/// Colour letters of the three models, in charts and tables.
const TUNED_INK: char = 'a';
const SCRATCH_INK: char = 'b';
const BASE_INK: char = 'c';

/// The whole story.
#[derive(Debug, Serialize)]
pub(crate) struct Story {
    pub(crate) name: String,
    pub(crate) finished: bool,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) base: Option<Section>,
    pub(crate) task: Option<Section>,
    pub(crate) scratch: Option<Section>,
    /// Both fine-tuned arms in one chart each.
    pub(crate) comparison: Vec<Figure>,
    pub(crate) task_name: String,
    /// How many held-out examples the scores are over.
    pub(crate) held_out: String,
    pub(crate) scores: Vec<Group>,
    pub(crate) gains: Vec<Gain>,
    pub(crate) conclusion: Vec<String>,
    pub(crate) examples: Vec<Card>,
    pub(crate) folded: Vec<Card>,
    pub(crate) examples_total: String,
    pub(crate) notes: Vec<Note>,
}

/// One held-out example with its answers.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    pub(crate) id: String,
    pub(crate) prompt: String,
    pub(crate) prompt_more: usize,
    pub(crate) reference: String,
    pub(crate) answers: Vec<Answer>,
}

/// One model's answer.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) name: &'static str,
    pub(crate) ink: char,
    pub(crate) text: String,
    pub(crate) more: usize,
}

/// Whether the folder holds a quickstart's runs rather than being a run itself.
pub(crate) fn is_quickstart(dir: &Path) -> bool {
    !dir.join("metrics.jsonl").is_file()
        && ["base", "task", "scratch"]
            .iter()
            .any(|arm| read::is_run(&dir.join(arm)))
}

/// Reads a quickstart folder and prepares its page.
pub(crate) fn story(dir: &Path) -> Result<Story> {
    let mut notes = Vec::new();
    let base = arm(dir, "base", &mut notes)?;
    let task = arm(dir, "task", &mut notes)?;
    let scratch = arm(dir, "scratch", &mut notes)?;
    if base.is_none() && task.is_none() && scratch.is_none() {
        bail!("{} holds none of base/, task/ and scratch/", dir.display());
    }
    let summary = read::json(dir, "summary.json", &mut notes)?;
    if !summary.is_object() {
        notes.push(read::note(
            "summary.json",
            None,
            "is not there yet: the quickstart is still running, or was stopped",
        ));
    }
    let examples = read::examples(dir, &mut notes)?;
    let results = summary.get("task").unwrap_or(&Value::Null);
    let main = text(results, "/metric");
    let arms = [
        (
            "Fine-tuned",
            TUNED_INK,
            results.get("finetuned").unwrap_or(&Value::Null),
        ),
        (
            "From scratch",
            SCRATCH_INK,
            results.get("scratch").unwrap_or(&Value::Null),
        ),
        (
            "Base",
            BASE_INK,
            results.get("base").unwrap_or(&Value::Null),
        ),
    ];
    let mut gains = scores::gains(results, "gains_over_base", "base", "the base model");
    gains.extend(scores::gains(
        results,
        "gains_over_scratch",
        "scratch",
        "the model from scratch",
    ));
    let total = examples.len();
    let mut cards: Vec<Card> = examples.into_iter().take(KEPT_EXAMPLES).map(card).collect();
    let folded = cards.split_off(cards.len().min(SHOWN_EXAMPLES));
    let section = |run: &Option<Run>, id: &str| {
        run.as_ref()
            .map(|run| sections::section(run, id))
            .transpose()
    };
    Ok(Story {
        name: read::folder_name(dir),
        finished: summary.is_object(),
        tiles: tiles(&summary, base.as_ref(), main),
        comparison: comparison(task.as_ref(), scratch.as_ref())?,
        base: section(&base, "base")?,
        task: section(&task, "task")?,
        scratch: section(&scratch, "scratch")?.map(from_scratch),
        task_name: text(results, "/name").unwrap_or("the task").to_owned(),
        held_out: number(results, "/n").map(format::count).unwrap_or_default(),
        scores: scores::groups(&arms, main),
        conclusion: conclusion(results, &gains, main),
        gains,
        examples_total: if total > KEPT_EXAMPLES {
            format::count(total as f64)
        } else {
            String::new()
        },
        examples: cards,
        folded,
        notes,
    })
}

/// The scratch arm is fine-tuned by its recipe, but no earlier training stands behind it.
fn from_scratch(section: Section) -> Section {
    let lede = section.lede.replace(
        "fine-tuned on examples of one task",
        "trained from random weights on the examples of the task alone",
    );
    Section { lede, ..section }
}

/// One of the three runs; its notes get the arm's name in front.
fn arm(dir: &Path, name: &str, notes: &mut Vec<Note>) -> Result<Option<Run>> {
    let folder = dir.join(name);
    if !read::is_run(&folder) {
        notes.push(read::note(
            &format!("{name}/"),
            None,
            "holds no run yet; its part of the page is missing",
        ));
        return Ok(None);
    }
    let mut run = read::run(&folder)?;
    if !run.finished() {
        run.notes.push(read::note(
            "summary.json",
            None,
            "is not there: this run is still going, or was stopped",
        ));
    }
    notes.extend(run.notes.drain(..).map(|note| Note {
        place: format!("{name}/{}", note.place),
        ..note
    }));
    Ok(Some(run))
}

fn tiles(summary: &Value, base: Option<&Run>, main: Option<&str>) -> Vec<Tile> {
    let mut out = Vec::new();
    let bits = number(summary, "/base/bits_per_byte").or_else(|| base.and_then(Run::bits_per_byte));
    out.extend(bits.map(|bits| Tile {
        value: format::score(bits),
        label: "bits per byte".into(),
        remark: "the base model on unseen text; guessing is 8".into(),
    }));
    if let Some(key) = main {
        for (arm, label) in [
            ("finetuned", "fine-tuned"),
            ("scratch", "from scratch"),
            ("base", "base model"),
        ] {
            let found = summary
                .pointer("/task")
                .and_then(|task| scores::score(task.get(arm)?.get(key)?));
            out.extend(found.map(|score| Tile {
                value: format::score(score.value),
                label: format!("{}, {label}", metric(key).label),
                remark: scores::interval(&score),
            }));
        }
    }
    let total = number(summary, "/seconds/total").map(format::duration);
    let training = number(summary, "/seconds/training").map(format::duration);
    let size = base.and_then(|run| run.summary_number("/parameters"));
    out.extend(size.map(|size| Tile {
        value: format::short(size),
        label: "parameters".into(),
        remark: "in each of the three models".into(),
    }));
    out.extend(total.map(|total| {
        Tile {
            value: total,
            label: "from start to end".into(),
            remark: training
                .map(|training| format!("{training} of it training"))
                .unwrap_or_default(),
        }
    }));
    out
}

/// The fine-tuned and the scratch arm over the same steps.
fn comparison(task: Option<&Run>, scratch: Option<&Run>) -> Result<Vec<Figure>> {
    let names = ["fine-tuned from the base model", "from scratch"];
    let arms = names.into_iter().zip([task, scratch]);
    let runs: Vec<(String, &Run)> = arms
        .filter_map(|(name, run)| Some((name.to_owned(), run?)))
        .collect();
    if task.is_none() || scratch.is_none() {
        return Ok(Vec::new());
    }
    let gap = |run: Option<&Run>| run.and_then(Run::validation_loss);
    let steps = |run: Option<&Run>| run.and_then(Run::last_step);
    let mut caption = vec![if steps(task) == steps(scratch) {
        "Both models see the same examples in the same number of steps; what differs is where they start. The distance \
         between the lines is what pre-training bought."
            .to_owned()
    } else {
        "The two runs have not taken the same number of steps: compare them where both lines have points.".to_owned()
    }];
    if let (Some(tuned), Some(other)) = (gap(task), gap(scratch)) {
        caption.push(format!(
            "At the end: {} against {} nats per token.",
            format::score(tuned),
            format::score(other)
        ));
    }
    let training =
        "How fast each of them takes to the examples it practises on; lower is better.".to_owned();
    let mut out: Vec<Figure> = compare::validation(&runs, false, caption)?
        .into_iter()
        .collect();
    out.extend(compare::training(&runs, vec![training])?);
    Ok(out)
}

/// What the gains in the main metric say, in sentences.
fn conclusion(results: &Value, gains: &[Gain], main: Option<&str>) -> Vec<String> {
    let Some(main) = main else { return Vec::new() };
    let label = metric(main).label;
    let value = |arm: &str| {
        scores::score(results.get(arm)?.get(main)?).map(|score| format::score(score.value))
    };
    let sentence = |gain: &Gain| {
        let (arm, what) = if gain.against == "the base model" {
            ("base", "Fine-tuning")
        } else {
            ("scratch", "Pre-training")
        };
        let (Some(tuned), Some(other)) = (value("finetuned"), value(arm)) else {
            return None;
        };
        let verdict = match gain.kind {
            "better" => format!("{what} paid: the difference is larger than chance explains."),
            "worse" => {
                format!("{what} did harm here: the difference is larger than chance explains.")
            }
            _ => format!(
                "On this many examples that could be chance, so this run does not show that {} helps.",
                what.to_lowercase()
            ),
        };
        Some(format!(
            "In {label} the fine-tuned model stands at {tuned}, {} at {other}. {verdict}",
            gain.against
        ))
    };
    gains
        .iter()
        .filter(|gain| gain.label == label)
        .filter_map(sentence)
        .collect()
}

fn card(example: Example) -> Card {
    let (prompt, prompt_more) = format::clip(&example.prompt, PROMPT_CHARS);
    let arms = [
        ("Fine-tuned", TUNED_INK, example.finetuned),
        ("From scratch", SCRATCH_INK, example.scratch),
        ("Base", BASE_INK, example.base),
    ];
    let answers = arms.into_iter().map(|(name, ink, text)| {
        let (text, more) = format::clip(text.trim(), ANSWER_CHARS);
        Answer {
            name,
            ink,
            text,
            more,
        }
    });
    Card {
        id: format::clip(&example.id, 80).0,
        prompt,
        prompt_more,
        reference: format::clip(&example.reference, ANSWER_CHARS).0,
        answers: answers.collect(),
    }
}
