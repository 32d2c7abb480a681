//! The examples of a replayed batch: their text, where they are from, and the loss of each token.

use std::ops::Range;

use anyhow::Result;
use etude_data::{Batch, IGNORE, Stretch};
use etude_eval::token_nats;
use etude_model::Decoder;
use etude_tensor::{seed_everything, step_seed};
use serde::Serialize;

use crate::stage::{Origin, Stage};
use crate::step::StepSettings;

/// A stretch of the batch: an example, a packed document, or a whole row of text. A number that is not finite is
/// null in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// Its number in the batch, from 1.
    pub number: usize,
    /// Its row, from 0.
    pub row: usize,
    /// Its columns.
    pub cols: Range<usize>,
    /// What it was made of, as far as is known.
    pub origins: Vec<Origin>,
    /// Its text, special tokens included.
    pub text: String,
    /// How many of its tokens are supervised.
    pub supervised: usize,
    /// Mean loss of those, in nats; null when there are none.
    pub loss: f64,
    /// What the loss of the step would be if it were not there; none when nothing would be left.
    pub loss_without: Option<f64>,
    /// The supervised tokens, in order.
    pub tokens: Vec<TokenLoss>,
}

/// A supervised token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLoss {
    /// The column that it is predicted from.
    pub column: usize,
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Its loss in nats.
    pub nats: f64,
    /// The probability that the model gave it.
    pub probability: f64,
}

/// The examples of the batch of `step` (from 0).
pub(super) fn examine(
    stage: &dyn Stage,
    decoder: &Decoder,
    batch: &Batch,
    step: u64,
    settings: &StepSettings,
) -> Result<Vec<Example>> {
    let nats = losses(decoder, batch, step, settings);
    let sum: f64 = nats.iter().flatten().sum();
    let count = batch.supervised();
    let origins = stage.origins(step, batch)?;
    let stretches = batch.stretches().into_iter().zip(origins);
    let examples = stretches.enumerate().map(|(index, (stretch, origins))| {
        let tokens = tokens(stage, batch, &stretch, &nats);
        let own: f64 = tokens.iter().map(|token| token.nats).sum();
        let (supervised, left) = (tokens.len(), count - tokens.len());
        Example {
            number: index + 1,
            row: stretch.row,
            origins,
            text: stage.text(&ids(batch, &stretch)),
            supervised,
            loss: own / supervised as f64,
            loss_without: (left > 0)
                .then(|| without(sum, own, &nats, batch, &stretch) / left as f64),
            tokens,
            cols: stretch.cols,
        }
    });
    Ok(examples.collect())
}

/// The summed loss of all other stretches; added up anew where this one has no sum.
fn without(sum: f64, own: f64, nats: &[Option<f64>], batch: &Batch, stretch: &Stretch) -> f64 {
    if own.is_finite() {
        return sum - own;
    }
    let place = |index: usize| (index / batch.cols, index % batch.cols);
    let others = nats.iter().enumerate().filter(|&(index, _)| {
        let (row, col) = place(index);
        row != stretch.row || !stretch.cols.contains(&col)
    });
    others.filter_map(|(_, nats)| *nats).sum()
}

/// The loss at each place of the batch that has a target, with the random numbers of the step itself.
fn losses(
    decoder: &Decoder,
    batch: &Batch,
    step: u64,
    settings: &StepSettings,
) -> Vec<Option<f64>> {
    let mut found = vec![None; batch.tokens()];
    let mut first = 0;
    seed_everything(step_seed(settings.seed, step));
    for micro in batch.micro_batches(settings.rows) {
        // As the step does, which draws nothing for such rows.
        if micro.supervised() > 0 {
            let nats = settings
                .precision
                .autocast(decoder.device(), || token_nats(decoder, &micro));
            for (place, nats) in nats {
                let (row, col) = (first + place / micro.cols, place % micro.cols);
                found[row * batch.cols + col] = Some(nats);
            }
        }
        first += micro.rows;
    }
    found
}

fn tokens(
    stage: &dyn Stage,
    batch: &Batch,
    stretch: &Stretch,
    nats: &[Option<f64>],
) -> Vec<TokenLoss> {
    let start = stretch.row * batch.cols;
    let places = stretch.cols.clone().filter_map(|column| {
        let nats = nats[start + column]?;
        let id = id(batch.targets[start + column]);
        Some(TokenLoss {
            column,
            id,
            text: stage.text(&[id]),
            nats,
            probability: (-nats).exp(),
        })
    });
    places.collect()
}

/// What a stretch reads, and the last token that it predicts.
fn ids(batch: &Batch, stretch: &Stretch) -> Vec<u32> {
    let start = stretch.row * batch.cols;
    let read = &batch.input_ids[start + stretch.cols.start..start + stretch.cols.end];
    let last = batch.targets[start + stretch.cols.end - 1];
    let last = Some(last).filter(|&target| target != IGNORE);
    read.iter().copied().chain(last).map(id).collect()
}

fn id(number: i64) -> u32 {
    u32::try_from(number).expect("ids of a batch are those of a tokenizer")
}
