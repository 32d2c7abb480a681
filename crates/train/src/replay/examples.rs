//! The examples of a replayed batch: their text, where they are from, the loss of each token, and what each adds
//! to the gradient.

use std::ops::Range;

use anyhow::{Result, ensure};
use etude_data::{Batch, IGNORE, Stretch};
use etude_eval::token_nats;
use etude_model::Decoder;
use etude_tensor::{seed_everything, step_seed};
use serde::Serialize;

use crate::stage::{Origin, Stage};
use crate::step::{StepSettings, step_gradients};

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
    /// The step's loss if it were not there; none when nothing would be left.
    pub loss_without: Option<f64>,
    /// The norm of what it adds to the step's gradient, before clipping. (The norms do not add up: gradients point
    /// in different directions.)
    pub grad_norm: f64,
    /// Its tokens, in order.
    pub tokens: Vec<TokenLoss>,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLoss {
    /// Its id.
    pub id: u32,
    /// Its text; a character of several tokens stands at the last of them.
    pub text: String,
    /// Whether it was to be predicted.
    pub supervised: bool,
    /// Its loss in nats, when it was.
    pub nats: Option<f64>,
    /// The probability that the model gave it.
    pub probability: Option<f64>,
}

impl Example {
    /// The supervised tokens' losses.
    pub fn nats(&self) -> impl Iterator<Item = f64> {
        self.tokens.iter().filter_map(|token| token.nats)
    }
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
    let all = batch.supervised();
    let origins = stage.origins(step, batch)?;
    let stretches = batch.stretches();
    ensure!(
        origins.len() == stretches.len(),
        "step {}: the batch has {} examples, and {} are known to its data; this is a bug",
        step + 1,
        stretches.len(),
        origins.len()
    );
    let mut examples = Vec::with_capacity(stretches.len());
    for (index, (stretch, origins)) in stretches.iter().zip(origins).enumerate() {
        let tokens = tokens(stage, batch, stretch, &nats)?;
        let own: f64 = tokens.iter().filter_map(|token| token.nats).sum();
        let supervised = tokens.iter().filter(|token| token.supervised).count();
        let left = all - supervised;
        let others: Vec<usize> = (0..stretches.len()).filter(|&k| k != index).collect();
        examples.push(Example {
            number: index + 1,
            row: stretch.row,
            cols: stretch.cols.clone(),
            origins,
            text: tokens.iter().map(|token| token.text.as_str()).collect(),
            supervised,
            loss: own / supervised as f64,
            loss_without: (left > 0).then(|| without(&nats, batch, stretch) / left as f64),
            grad_norm: match batch.without(&others) {
                Some(only) => {
                    let made = step_gradients(decoder, &only, step, settings)?;
                    let share = supervised as f64 / all as f64;
                    made.scale.norm.double_value(&[]) * share // sync
                }
                None => 0.0,
            },
            tokens,
        });
    }
    Ok(examples)
}

/// The summed loss of all other stretches.
fn without(nats: &[Option<f64>], batch: &Batch, stretch: &Stretch) -> f64 {
    let others = nats.iter().enumerate().filter(|&(index, _)| {
        let (row, col) = (index / batch.cols, index % batch.cols);
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
        // As the step does, which draws nothing for rows without a target.
        let nats = settings
            .precision
            .autocast(decoder.device(), || token_nats(decoder, &micro));
        for (place, nats) in nats {
            let (row, col) = (first + place / micro.cols, place % micro.cols);
            found[row * batch.cols + col] = Some(nats);
        }
        first += micro.rows;
    }
    found
}

/// What a stretch reads, and the last token that it predicts.
fn tokens(
    stage: &dyn Stage,
    batch: &Batch,
    stretch: &Stretch,
    nats: &[Option<f64>],
) -> Result<Vec<TokenLoss>> {
    let start = stretch.row * batch.cols;
    let places = start + stretch.cols.start..start + stretch.cols.end;
    let mut ids: Vec<u32> = batch.input_ids[places.clone()]
        .iter()
        .copied()
        .map(id)
        .collect();
    // A token's loss stands at the place before it.
    let mut losses = vec![None];
    losses.extend_from_slice(&nats[places.clone()]);
    match batch.targets[places.end - 1] {
        IGNORE => drop(losses.pop()),
        last => ids.push(id(last)),
    }
    let texts = stage.spelled(&ids)?;
    let tokens = ids.into_iter().zip(texts).zip(losses);
    let tokens = tokens.map(|((id, text), nats)| TokenLoss {
        id,
        text,
        supervised: nats.is_some(),
        nats,
        probability: nats.map(|nats| (-nats).exp()),
    });
    Ok(tokens.collect())
}

fn id(number: i64) -> u32 {
    u32::try_from(number).expect("ids of a batch are those of a tokenizer")
}
