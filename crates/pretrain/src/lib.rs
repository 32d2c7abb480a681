//! The first stage: general text to a base model.
//!
//! A [`Recipe`] names the text, the tokenizer, the decoder and how it is trained; [`run`] prepares the
//! data (fetched, split, tokenized into shards, all cached), and gives the training loop next-token
//! prediction over windows of it. The result is a run folder whose `model/` is a Hugging Face folder.

mod inspect;
mod origins;
mod overlaps;
mod plan;
mod prepare;
mod ready;
mod recipe;
mod source;
mod stage;

use anyhow::{Context, Result};
use etude_model::Decoder;
use etude_model::hf::TokenIds;
use etude_tensor::{Device, device, parse_device, with_seed};
use etude_train::{
    Ended, RunContext, RunFolder, Stage, Trainer, TrainerSettings, Validate, recipe as text,
};

pub use inspect::inspect;
pub use plan::{make_ready, plan};
pub use prepare::Prepared;
pub use ready::ready;
pub use recipe::{DataSettings, EvalSettings, Recipe, TokenizerSettings};
pub use source::Source;

/// Runs a recipe in `context.folder`, or goes on where an earlier run of it stopped.
///
/// # Errors
/// When a setting is impossible, the data cannot be had, the folder holds another run, or training fails.
pub fn run(recipe: &Recipe, context: &RunContext) -> Result<Ended> {
    recipe.validate()?;
    let folder = RunFolder::open(&context.folder, &text::to_toml(recipe)?)?;
    context.interrupt.nothing_to_save();
    device::set_threads(recipe.train.threads);
    let on = parse_device(&recipe.train.device)?;
    let mut prepared = prepare::prepare(recipe, context)?;
    let windows = stage::windows(recipe, &prepared)?;
    prepared.description.ledger = inspect::ledger(&prepared, &windows, recipe.train.batch_rows);
    folder.record_data(&prepared.description, &prepared.fingerprint)?;
    etude_train::progress::tell(context, &prepared.description.ledger);

    let decoder = decoder(recipe, &prepared, on)?;
    let stage = stage::Pretraining::new(recipe, &prepared)?;
    let settings = trainer_settings(recipe, &prepared);
    let stage: &dyn Stage = &stage;
    Trainer::new(stage, &decoder, &settings, context, &folder)?
        .run()
        .with_context(|| {
            format!(
                "{}: the run did not finish; what is saved there is whole",
                context.folder.display()
            )
        })
}

/// The decoder as it starts.
fn decoder(recipe: &Recipe, prepared: &Prepared, on: Device) -> Result<Decoder> {
    let config = recipe.model.config(prepared.tokenizer.vocab_size())?;
    let kind = recipe.train.precision.kind();
    Ok(with_seed(recipe.train.seed, || {
        Decoder::new(config, kind, on)
    })?)
}

/// What the loop is told.
fn trainer_settings(recipe: &Recipe, prepared: &Prepared) -> TrainerSettings {
    let tokenizer = &prepared.tokenizer;
    TrainerSettings {
        train: recipe.train.clone(),
        optimizer: recipe.optimizer.clone(),
        schedule: recipe.schedule.clone(),
        ids: TokenIds {
            bos: tokenizer.bos_id(),
            eos: tokenizer.eos_id().into_iter().collect(),
            pad: tokenizer.pad_id(),
        },
        length: recipe.model.context as usize,
        data_fingerprint: prepared.fingerprint.clone(),
    }
}
