//! A step made on a batch, as numbers, and the step taken back.

use anyhow::Result;
use etude_data::Batch;
use etude_model::Decoder;
use etude_tensor::{Kind, Tensor, no_grad};
use serde::Serialize;

use super::groups::{Before, Group, broken, by_kind, by_layer};
use crate::optimizer::Optimizer;
use crate::step::{StepSettings, step_gradients};

/// What a step came to. A number that is not finite is null in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Mean loss, nats a supervised token.
    pub loss: f64,
    /// The gradients' norm before clipping.
    pub grad_norm: f64,
    /// What clipping multiplied the gradients with.
    pub clip_factor: f64,
    /// Whether the step was refused, as a gradient is not finite.
    pub skipped: bool,
    /// Tokens that went through the model, padding included.
    pub tokens: usize,
    /// Tokens that were supervised.
    pub supervised: usize,
    /// Gradients and movement by layer; the squares of the gradients' norms add up to that of the whole.
    pub layers: Vec<Group>,
    /// The same by what the parameters are for.
    pub kinds: Vec<Group>,
    /// The first parameter on the way back whose gradient is not finite.
    #[serde(skip)]
    pub(super) broken: Option<String>,
}

/// Makes step number `step` (from 0) on a batch as the loop does, and looks at it. The gradients stay in the
/// decoder.
pub(super) fn make(
    decoder: &Decoder,
    optimizer: &mut Optimizer,
    batch: &Batch,
    (step, scale): (u64, f64),
    settings: &StepSettings,
) -> Result<Outcome> {
    let made = step_gradients(decoder, batch, step, settings)?;
    let before = Before::new(decoder);
    optimizer.step(scale, &made.scale)?;
    let measured = before.after(decoder);
    Ok(Outcome {
        loss: made.loss.double_value(&[]),            // sync
        grad_norm: made.scale.norm.double_value(&[]), // sync
        clip_factor: 1.0 / made.scale.divisor.double_value(&[]),
        skipped: made.scale.found_inf.double_value(&[]) != 0.0,
        tokens: batch.tokens(),
        supervised: made.supervised,
        layers: by_layer(&measured),
        kinds: by_kind(&measured),
        broken: broken(&measured),
    })
}

/// Weights and optimizer as they were, to be put back after a step that is only tried.
pub(super) struct Snapshot {
    weights: Vec<Tensor>,
    state: Vec<Tensor>,
}

impl Snapshot {
    /// Copies them.
    pub(super) fn take(decoder: &Decoder, optimizer: &Optimizer) -> Self {
        let copy = |tensor: &Tensor| no_grad(|| tensor.detach().copy());
        Self {
            weights: decoder.trainable().map(|p| copy(&p.tensor)).collect(),
            state: optimizer.state().iter().map(|(_, t)| copy(t)).collect(),
        }
    }

    /// Whether the weights, and the optimizer's state, are still these.
    pub(super) fn same_as(&self, decoder: &Decoder, optimizer: &Optimizer) -> (bool, bool) {
        let weights = decoder.trainable().map(|p| p.tensor.shallow_clone());
        let state = optimizer.state().into_iter().map(|(_, tensor)| tensor);
        (same(weights, &self.weights), same(state, &self.state))
    }

    /// Puts them back.
    pub(super) fn put_back(self, decoder: &Decoder, optimizer: &Optimizer) {
        let weights = decoder
            .trainable()
            .map(|param| param.tensor.shallow_clone());
        let state = optimizer.state().into_iter().map(|(_, tensor)| tensor);
        for (mut now, was) in weights.zip(&self.weights).chain(state.zip(&self.state)) {
            no_grad(|| now.copy_(was));
        }
    }
}

/// Whether two lists of tensors hold the same numbers.
fn same(tensors: impl Iterator<Item = Tensor>, others: &[Tensor]) -> bool {
    let mut pairs = tensors.zip(others);
    no_grad(|| pairs.all(|(tensor, other)| bits(&tensor).equal(&bits(other))))
}

/// The bits of each number: those of one that is not a number equal themselves, and 0 is not -0.
fn bits(tensor: &Tensor) -> Tensor {
    tensor.view_dtype(match tensor.kind().elt_size_in_bytes() {
        8 => Kind::Int64,
        4 => Kind::Int,
        2 => Kind::Int16,
        _ => Kind::Int8,
    })
}
