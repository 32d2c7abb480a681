//! `etude eval --task`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etude_data::{
    Cache, Dataset, LocalOptions, Progress, Renderer, Split, TaskExample, key_hash, spread,
};
use etude_eval::{TaskMetric, TaskResult, TaskSettings, choices, evaluate, write_predictions};
use etude_finetune::{Recipe, TaskSettings as Rendering};
use etude_model::hf::Recommended;
use serde_json::json;

use super::against::Against;
use super::bar::Bar;
use super::{EvalArgs, SplitArg};
use crate::adapter::AdapterArgs;
use crate::error::{Misuse, bad_input};
use crate::files;
use crate::model::{DeviceArgs, Loaded, folder};
use crate::output;
use crate::recipes::{self, Stage};
use crate::task::{self, Origin};

pub(super) fn run(args: &EvalArgs, name: &str) -> Result<()> {
    TaskMetric::check_distinct(&args.task.metrics).map_err(bad_input)?;
    let settings = settings(args)?;
    settings.validate().map_err(bad_input)?;
    if let Some(data) = &args.task.data {
        files::demand_files(data)?;
        files::utf8(data)?;
    }
    let path = predictions_path(args, name)?;
    files::spare_inputs(&path, "--predictions", inputs(args, name))?;
    check_writable(&path)?;
    if let Some(other) = &args.task.against {
        folder(other)?; // before the first model is asked anything
    }
    let first = Asked {
        device: &args.device,
        settings: &settings,
        predictions: &path,
        first: None,
    };
    let Answered {
        result,
        settings,
        names,
        local,
    } = answers(args, name, &args.model, &first)?;
    write_predictions(&path, &result.items)?;
    let against = match &args.task.against {
        Some(other) => {
            // Adapters lie on the first model.
            let device = DeviceArgs {
                adapters: AdapterArgs::default(),
                ..args.device.clone()
            };
            let asked = Asked {
                device: &device,
                settings: &settings,
                predictions: &path,
                first: Some(&local),
            };
            let its = answers(args, name, other, &asked)?;
            let model = other.display().to_string();
            let split = args.task.split.split().name();
            let other_split = (its.names != names).then_some(split);
            Some(Against::new(
                &result,
                its.result,
                model,
                &settings,
                other_split,
            )?)
        }
        None => None,
    };
    if args.json {
        let mut told = json!({
            "task": name,
            "n": result.items.len(),
            "num_fewshot": args.num_fewshot.unwrap_or(0),
            "beams": settings.beams,
            "left_out": result.left_out,
            "scores": result.scores,
            "predictions": path,
        });
        if let Some(against) = &against {
            told["against"] = json!(against);
        }
        return output::json(&told);
    }
    let scores = match &against {
        None => table(&result),
        Some(against) => against.table(&result),
    };
    output::text(&(scores + &tell(&result, &path.display().to_string())))
}

/// How a model is asked.
struct Asked<'a> {
    device: &'a DeviceArgs,
    settings: &'a TaskSettings,
    /// Where the answers go.
    predictions: &'a Path,
    /// How the first model's examples were read and split, where this is another: what is left open by the settings
    /// follows from the first, and one that tells of no split of its own is asked the same examples.
    first: Option<&'a LocalOptions>,
}

/// What a model answered.
struct Answered {
    result: TaskResult,
    /// How it was asked.
    settings: TaskSettings,
    /// All examples that it was asked, by name, those that do not fit too.
    names: Vec<String>,
    /// How they were read and split.
    local: LocalOptions,
}

/// A model's answers to the examples, written as that model was fine-tuned on them.
fn answers(args: &EvalArgs, name: &str, model: &Path, asked: &Asked<'_>) -> Result<Answered> {
    let loaded = asked.device.load(model)?;
    let (rendering, is_recipes) = rendering(args, name, &loaded, asked.first)?;
    let dataset = dataset(args, &rendering)?;
    files::spare_inputs(asked.predictions, "--predictions", dataset.files())?;
    let all = examples(args, &rendering, &dataset)?;
    let mut settings = asked.settings.clone();
    if asked.first.is_none() && args.task.max_tokens.is_none() && is_recipes {
        settings.max_tokens = rendering.answer_tokens;
    }
    if settings.choices.is_empty() && settings.metrics.iter().any(TaskMetric::is_choice) {
        // A rare answer may be missing among those that are asked.
        settings.choices = choices(&all, &settings).map_err(bad_input)?;
    }
    let examples = spread(all, args.limit);
    let context = usize::try_from(loaded.decoder.config().context).unwrap_or(usize::MAX);
    let renderer =
        etude_finetune::renderer(&rendering, &loaded.tokenizer, context).map_err(bad_input)?;
    let renderer = match args.num_fewshot.unwrap_or(0) {
        0 => renderer,
        count => with_shots(args, renderer, &dataset, &examples, count, context)?,
    };
    settings.stop = renderer.ends_of_answers();
    let mut bar = Bar::new();
    let result = evaluate(
        &loaded.decoder,
        &loaded.tokenizer,
        &renderer,
        &examples,
        &settings,
        &mut |now| bar.follow(now),
    );
    drop(bar);
    let mut result = result.map_err(bad_input)?;
    if args.task.data.is_some() {
        // All of the file is asked, so what is left out of it belongs to no other split.
        for (reason, count) in dataset.dropped()? {
            *result.left_out.entry(reason).or_default() += count;
        }
    }
    let names = examples.into_iter().map(|example| example.id).collect();
    Ok(Answered {
        result,
        settings,
        names,
        local: rendering.local,
    })
}

/// The files that the command line names as examples and as a recipe.
fn inputs<'a>(args: &'a EvalArgs, name: &'a str) -> impl Iterator<Item = &'a Path> {
    let like = args.task.like.as_deref().map(Path::new);
    let named = [Some(Path::new(name)), args.task.data.as_deref(), like];
    named.into_iter().flatten()
}

fn settings(args: &EvalArgs) -> Result<TaskSettings> {
    let mut settings = TaskSettings {
        choices: args.task.choices.clone(),
        beams: args.task.beams.over(&Recommended::default())?,
        ..TaskSettings::default()
    };
    if let Some(most) = args.task.max_tokens {
        settings.max_tokens = most;
    }
    if !args.task.metrics.is_empty() {
        settings.metrics.clone_from(&args.task.metrics);
    }
    Ok(settings)
}

/// How examples are written for this model: as it was fine-tuned, unless it was not or the user says else; and
/// whether a fine-tuning recipe says so.
fn rendering(
    args: &EvalArgs,
    name: &str,
    loaded: &Loaded,
    first: Option<&LocalOptions>,
) -> Result<(Rendering, bool)> {
    let usual = first.cloned().unwrap_or_default();
    let (mut rendering, is_recipes) = match (&args.task.like, task::origin(&loaded.folder)?) {
        (Some(recipe), _) => (like(recipe)?, true),
        (None, Origin::Finetuned(settings)) => (*settings, true),
        (None, Origin::Pretrained | Origin::Unknown) => {
            let mut settings = task::default_settings(name)?;
            settings.local.clone_from(&usual);
            (settings, false)
        }
    };
    if rendering.source != name {
        if !is_same_file(&rendering.source, name)
            && !was_learnt(args, &rendering, name, loaded, &usual)
        {
            if rendering.local != usual && args.task.data.is_none() && first.is_none() {
                output::note(&format!(
                    "note: {name} is read and split by the defaults; [task.local] of the recipe is for {}",
                    rendering.source
                ));
            }
            rendering.local = usual;
        }
        rendering.source = name.to_owned();
    }
    if let Some(file) = &args.task.data {
        rendering.source = file.display().to_string();
        // All of the user's file is for this evaluation.
        rendering.local = LocalOptions {
            validation: Some(0),
            test: Some(0),
            ..rendering.local
        };
    }
    if let Some(format) = args.task.format {
        rendering.format = format.name().to_owned();
    }
    Ok((rendering, is_recipes))
}

/// Whether two sources are paths of one file or folder.
fn is_same_file(a: &str, b: &str) -> bool {
    let [a, b] = [a, b].map(fs::canonicalize);
    a.is_ok_and(|a| b.is_ok_and(|b| a == b))
}

/// Whether `name` is what the run learnt from, seen from another folder or copied: the fingerprint of its files and
/// of the run's split of them stands in the run folder.
fn was_learnt(
    args: &EvalArgs,
    rendering: &Rendering,
    name: &str,
    loaded: &Loaded,
    usual: &LocalOptions,
) -> bool {
    // With what is usual it is read alike in any case.
    if rendering.local == *usual || !Path::new(name).exists() {
        return false;
    }
    let run = match &args.task.like {
        Some(recipe) => Some(PathBuf::from(recipe)),
        None => task::run_folder(&loaded.folder),
    };
    let Some(fingerprint) = run.and_then(|run| task::fingerprint(&run)) else {
        return false;
    };
    let called = Path::new(&rendering.source).file_name().unwrap_or_default();
    let found = Rendering {
        source: name.to_owned(),
        ..rendering.clone()
    };
    // What the run's settings cannot read is something else.
    dataset(args, &found).is_ok_and(|dataset| {
        let same = dataset.is_same(&fingerprint, &called.to_string_lossy());
        same.unwrap_or(false)
    })
}

/// The `[task]` table of a fine-tuning recipe, or of a run folder's.
fn like(recipe: &str) -> Result<Rendering> {
    let in_run = Path::new(recipe).join("recipe.toml");
    let text = match in_run.is_file() {
        true => recipes::for_stage(Stage::Finetune, &in_run.to_string_lossy())?,
        false => recipes::for_stage(Stage::Finetune, recipe)?,
    };
    let recipe: Recipe = text.parse(&[]).map_err(bad_input)?;
    Ok(recipe.task)
}

fn dataset(args: &EvalArgs, rendering: &Rendering) -> Result<Dataset> {
    let catalog = args.catalog.catalog()?;
    if let (Some(_), Some(name)) = (&args.task.data, &args.what.task)
        && !Path::new(name).exists()
    {
        // The name only labels the result then, but a misspelt one is still a mistake.
        catalog.get(name)?;
    }
    let mut manifest = catalog.get_with(&rendering.source, &rendering.local)?;
    if rendering.prompt_chars > 0 {
        manifest.map.prompt_chars = Some(rendering.prompt_chars);
    }
    Ok(manifest.fetch(&Cache::user()?, &Progress::Shown)?)
}

fn examples(args: &EvalArgs, rendering: &Rendering, dataset: &Dataset) -> Result<Vec<TaskExample>> {
    let chosen = [args.task.split.split()];
    let splits: &[Split] = if args.task.data.is_some() {
        &Split::ALL
    } else {
        &chosen
    };
    let all: Vec<TaskExample> = dataset.examples(splits)?.collect::<Result<_, _>>()?;
    if all.is_empty() {
        if args.task.data.is_some() {
            dataset.dropped()?; // which says why
        }
        let what = format!(
            "{}: has no example in the {} split",
            rendering.source,
            chosen[0].name()
        );
        return Err(Misuse::error(
            what,
            "choose another with --split, or give your own examples with --data",
        ));
    }
    Ok(all)
}

/// Solved examples of the training split before each question, the same before all.
fn with_shots(
    args: &EvalArgs,
    renderer: Renderer,
    dataset: &Dataset,
    questions: &[TaskExample],
    count: usize,
    context: usize,
) -> Result<Renderer> {
    if args.task.data.is_some() || matches!(args.task.split, SplitArg::Train) {
        return Err(Misuse::error(
            "--num-fewshot: solved examples are those of the training split, and here the questions may be the same",
            "ask a test or validation split without --data, or make your examples a data set with splits",
        ));
    }
    let mut candidates: Vec<TaskExample> = dataset
        .examples(&[Split::Train])?
        .collect::<Result<_, _>>()?;
    // A question that is asked must not stand there with its answer.
    let asked: HashSet<String> = questions.iter().map(TaskExample::prompt_text).collect();
    candidates.retain(|example| !asked.contains(&example.prompt_text()));
    // Files are often sorted by subject. What does not fit is passed over.
    candidates.sort_by_cached_key(|example| key_hash("few-shot", &example.id));
    renderer
        .with_shots(&candidates, count, context)
        .map_err(bad_input)
}

fn predictions_path(args: &EvalArgs, name: &str) -> Result<PathBuf> {
    if let Some(path) = &args.task.predictions {
        return Ok(path.clone());
    }
    let stem = Path::new(name)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let model = match args.device.adapters.folder() {
        Some(adapter) => adapter.to_owned(),
        None => folder(&args.model)?,
    };
    let split = match args.task.split {
        SplitArg::Test => String::new(),
        other => format!("-{}", other.split().name()),
    };
    Ok(match task::run_folder(&model) {
        Some(run) => run.join(format!("predictions-{stem}{split}.jsonl")),
        // Where the command runs, other models are asked as well.
        None => {
            let name = fs::canonicalize(&model).unwrap_or(model);
            let name = name.file_name().unwrap_or_default().to_string_lossy();
            PathBuf::from(format!("predictions-{stem}{split}-{name}.jsonl"))
        }
    })
}

/// Finds out before the scoring whether its answers can be kept.
fn check_writable(path: &Path) -> Result<()> {
    etude_files::check(path).with_context(|| {
        format!(
            "{}: the answers cannot be written; choose another place with --predictions",
            path.display()
        )
    })
}

fn table(result: &TaskResult) -> String {
    let mut rows = vec![
        ["SCORE", "VALUE", "95% INTERVAL"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (name, score) in &result.scores {
        let interval = format!("{:.4} to {:.4}", score.low, score.high);
        rows.push(vec![name.clone(), format!("{:.4}", score.value), interval]);
    }
    output::columns(&rows)
}

fn tell(result: &TaskResult, predictions: &str) -> String {
    let count = output::count(result.items.len() as u64);
    let mut text = format!("\n{count} examples");
    if result.tokens_per_second > 0.0 {
        text.push_str(&format!(
            ", {:.0} tokens a second",
            result.tokens_per_second
        ));
    }
    text.push('\n');
    for (reason, count) in &result.left_out {
        text.push_str(&format!("left out: {count} ({reason})\n"));
    }
    if result.truncated_prompts > 0 {
        text.push_str(&format!(
            "prompts cut to fit: {}\n",
            result.truncated_prompts
        ));
    }
    let cut = etude_eval::answers_cut(&result.items);
    if cut > 0 {
        text.push_str(&format!("answers cut for their length: {cut}\n"));
    }
    text.push_str(&format!("answers: {predictions}\n"));
    text
}
