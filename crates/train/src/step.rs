//! One optimizer step: micro-batches forward and backward, the norm, the update. Losses are summed and
//! divided once, by the number of supervised tokens of the whole step, so that the trajectory does not
//! depend on how many rows go through the model at a time.

use anyhow::{Result, ensure};
use etude_data::Batch;
use etude_eval::batch_loss;
use etude_model::Decoder;
use etude_tensor::optim::GradScale;
use etude_tensor::{Kind, Precision, Tensor, memory, seed_everything, step_seed};

use crate::optimizer::Optimizer;
use crate::stage::TrainerSettings;

/// What a step reports, still on the device.
#[derive(Debug)]
pub struct StepReport {
    /// Mean cross-entropy in nats over the supervised tokens.
    pub loss: Tensor,
    /// The gradients' global norm before clipping.
    pub grad_norm: Tensor,
    /// 1 when the step was not applied because a gradient was not finite.
    pub skipped: Tensor,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Tokens that were supervised.
    pub supervised: usize,
}

/// How a step runs, apart from what it learns.
#[derive(Debug, Clone, Copy)]
pub struct StepSettings {
    /// Rows at a time.
    pub rows: usize,
    /// Number formats.
    pub precision: Precision,
    /// The gradients' largest global norm; none means no clipping.
    pub max_norm: Option<f64>,
    /// The run's seed.
    pub seed: u64,
}

impl StepSettings {
    /// Those of a run.
    pub(crate) fn of(settings: &TrainerSettings) -> Self {
        let (train, clip) = (&settings.train, settings.optimizer.clip);
        Self {
            rows: train.rows_at_a_time(),
            precision: train.precision,
            max_norm: (clip > 0.0).then_some(clip),
            seed: train.seed,
        }
    }
}

/// Makes step number `step` (from 0) on `batch`, with learning rates scaled by `scale`.
///
/// # Errors
/// When nothing in the batch is supervised, or libtorch fails.
pub fn train_step(
    decoder: &Decoder,
    optimizer: &mut Optimizer,
    batch: &Batch,
    step: u64,
    scale: f64,
    settings: &StepSettings,
) -> Result<StepReport> {
    let made = step_gradients(decoder, batch, step, settings)?;
    optimizer.step(scale, &made.scale)?;
    Ok(StepReport {
        loss: made.loss,
        grad_norm: made.scale.norm,
        skipped: made.scale.found_inf,
        tokens: batch.tokens(),
        supervised: made.supervised,
    })
}

/// The first half of a step: its gradients, which lie in the decoder's parameters, and what is known of them.
#[derive(Debug)]
pub struct StepGradients {
    /// Mean cross-entropy in nats over the supervised tokens.
    pub loss: Tensor,
    /// Tokens that were supervised.
    pub supervised: usize,
    /// Their norm, and by what clipping divides them.
    pub scale: GradScale,
}

/// Makes the gradients of step number `step` (from 0) on `batch`.
///
/// # Errors
/// As [`train_step`].
pub fn step_gradients(
    decoder: &Decoder,
    batch: &Batch,
    step: u64,
    settings: &StepSettings,
) -> Result<StepGradients> {
    // Whatever is random in the model follows from (seed, step) alone.
    seed_everything(step_seed(settings.seed, step));
    decoder.drop_grads();
    let (loss, supervised) = forward_backward(decoder, batch, settings)?;
    let grads: Vec<Tensor> = decoder
        .trainable()
        .map(|param| param.tensor.grad())
        .filter(Tensor::defined)
        .collect();
    let scale = GradScale::measure(&grads, settings.max_norm)?;
    Ok(StepGradients {
        loss,
        supervised,
        scale,
    })
}

/// The gradients of the batch's mean loss, by micro-batches. Returns that loss and the number of
/// supervised tokens.
///
/// # Errors
/// When nothing in the batch is supervised.
pub fn forward_backward(
    decoder: &Decoder,
    batch: &Batch,
    settings: &StepSettings,
) -> Result<(Tensor, usize)> {
    let supervised = batch.supervised();
    ensure!(
        supervised > 0,
        "a batch of {} rows has no supervised token; look at the data and its mask",
        batch.rows
    );
    let mut total = Tensor::zeros([], (Kind::Double, decoder.device()));
    for micro in batch.micro_batches(settings.rows) {
        let sum = settings
            .precision
            .autocast(decoder.device(), || batch_loss(decoder, &micro));
        let Some(sum) = sum else { continue };
        let mean = sum / supervised as f64;
        mean.backward();
        total += mean.detach();
    }
    Ok((total, supervised))
}

/// Memory that does not suffice becomes an error that says what to lower.
pub(crate) fn within_memory<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    memory::or_out_of_memory(work).map_err(|error| {
        error.with_remedy(
            "lower train.micro_rows (rows at a time, which does not change the result), or train a smaller model",
        )
    })?
}
