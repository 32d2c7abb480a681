//! What a fine-tuning run will take, by a rehearsal of it.

use anyhow::Result;
use etude_tensor::{device, memory, parse_device};
use etude_train::forecast::{Forecast, Rehearsed, cached_bytes, rehearse};
use etude_train::interrupt::unless_stopped;
use etude_train::{RunContext, Validate, recipe as text};

use crate::inspect::ledger;
use crate::recipe::Recipe;
use crate::task::dataset;
use crate::{base, prepare, score, stage, trainer_settings};

/// What a whole run holds beside a rehearsal of some seconds: blocks of ever other sizes, as batches of unlike lengths
/// need them, leave gaps. Measured 1.02 to 1.12 over the tasks of `docs/benchmarks.md`.
const GAPS: f64 = 1.06;

/// Fetches the recipe's examples, unless the cache has them.
///
/// # Errors
/// As [`run`](crate::run).
pub fn make_ready(recipe: &Recipe, context: &RunContext) -> Result<()> {
    recipe.validate()?;
    dataset(&recipe.task, context).map(drop)
}

/// Forecasts the run of a recipe in `context.folder`, of which nothing is made. None when someone asked to stop.
///
/// # Errors
/// As [`run`](crate::run).
pub fn plan(recipe: &Recipe, context: &RunContext) -> Result<Option<Forecast>> {
    recipe.validate()?;
    device::set_threads(recipe.train.threads);
    let base = base::load(recipe, parse_device(&recipe.train.device)?)?;
    let positions = base.decoder.config().context as usize;
    let task = prepare(&recipe.task, positions, &base.tokenizer, context)?;
    score::check(recipe, &task)?;
    let stage = stage::Finetuning::new(recipe, &task, &base.tokenizer, positions)?;
    drop(ledger(&task, stage.rows())); // the run makes it here, which takes time and memory
    let dataset = dataset(&recipe.task, context)?;
    let forecast = rehearse(&Rehearsed {
        decoder: &base.decoder,
        settings: &trainer_settings(recipe, &base, &task, &stage),
        stage: &stage,
        context,
        recipe: &text::to_toml(recipe)?,
        cache_bytes: cached_bytes(context.cache.root(), dataset.root()),
    })?;
    let Some(mut forecast) = forecast else {
        return Ok(None);
    };
    let model = (&base.decoder, &base.tokenizer);
    let answers = score::rehearse(recipe, &task, model, &context.interrupt);
    let Some(answers) = unless_stopped(answers)? else {
        return Ok(None);
    };
    forecast.seconds.add_answers(answers);
    let peak = memory::peak_rss().unwrap_or(0);
    let peak = forecast.memory.peak.max(peak);
    forecast.memory.peak = (peak as f64 * GAPS) as u64;
    Ok(Some(forecast))
}
