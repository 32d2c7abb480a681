//! What a pre-training run will take, by a rehearsal of it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use etude_data::{Progress, Shard};
use etude_tensor::{device, parse_device};
use etude_train::forecast::{Forecast, Rehearsed, cached_bytes, rehearse};
use etude_train::{RunContext, Validate, recipe as text};

use crate::prepare::{Prepared, prepare};
use crate::recipe::Recipe;
use crate::{decoder, stage, trainer_settings};

/// Fetches the recipe's data, trains its tokenizer and makes its token shards, as far as the cache has them not.
///
/// # Errors
/// As [`run`](crate::run).
pub fn make_ready(recipe: &Recipe, context: &RunContext) -> Result<()> {
    recipe.validate()?;
    prepare(recipe, context).map(drop)
}

/// Forecasts the run of a recipe in `context.folder`, of which nothing is made. None when someone asked to stop.
///
/// # Errors
/// As [`run`](crate::run).
pub fn plan(recipe: &Recipe, context: &RunContext) -> Result<Option<Forecast>> {
    recipe.validate()?;
    device::set_threads(recipe.train.threads);
    let on = parse_device(&recipe.train.device)?;
    let prepared = prepare(recipe, context)?;
    let decoder = decoder(recipe, &prepared, on)?;
    rehearse(&Rehearsed {
        stage: &stage::Pretraining::new(recipe, &prepared)?,
        decoder: &decoder,
        settings: &trainer_settings(recipe, &prepared),
        context,
        recipe: &text::to_toml(recipe)?,
        cache_bytes: cache_bytes(recipe, &prepared, context)?,
    })
}

/// What fetched data and token shards take in the cache.
fn cache_bytes(recipe: &Recipe, prepared: &Prepared, context: &RunContext) -> Result<u64> {
    let shards = prepared.train.shards().iter();
    let shards = shards.chain(prepared.validation.shards()).map(Shard::path);
    let shards: BTreeSet<&Path> = shards.collect();
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let mut sum = shards.into_iter().map(bytes).sum();
    let mut names: Vec<&String> = recipe
        .data
        .sources
        .iter()
        .map(|source| &source.name)
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        let manifest = context.catalog.get_with(name, &recipe.data.local)?;
        let dataset = manifest.fetch(&context.cache, &Progress::Silent)?;
        sum += cached_bytes(context.cache.root(), dataset.root());
    }
    Ok(sum)
}
