//! One optimizer step: micro-batches forward and backward, the norm, the update. Losses are summed and
//! divided once, by the number of supervised tokens of the whole step, so that the trajectory does not
//! depend on how many rows go through the model at a time.

use anyhow::{Result, ensure};
use etude_data::Batch;
use etude_model::{Decoder, Input, supervised_places};
use etude_tensor::optim::GradScale;
use etude_tensor::{Kind, Precision, Tensor, seed_everything, step_seed};

use crate::optimizer::Optimizer;

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
    // Whatever is random in the model follows from (seed, step) alone.
    seed_everything(step_seed(settings.seed, step));
    decoder.params().drop_grads();
    let (loss, supervised) = forward_backward(decoder, batch, settings)?;
    let grads: Vec<Tensor> = decoder.params().tensors().map(Tensor::grad).filter(Tensor::defined).collect();
    let grad_scale = GradScale::measure(&grads, settings.max_norm)?;
    optimizer.step(scale, &grad_scale)?;
    Ok(StepReport { loss, grad_norm: grad_scale.norm, skipped: grad_scale.found_inf, tokens: batch.tokens(), supervised })
}

/// The gradients of the batch's mean loss, by micro-batches. Returns that loss and the number of
/// supervised tokens.
///
/// # Errors
/// When nothing in the batch is supervised.
pub fn forward_backward(decoder: &Decoder, batch: &Batch, settings: &StepSettings) -> Result<(Tensor, usize)> {
    let supervised = batch.supervised();
    ensure!(supervised > 0, "a batch of {} rows has no supervised token; look at the data and its mask", batch.rows);
    let mut total = Tensor::zeros([], (Kind::Double, decoder.device()));
    for micro in batch.micro_batches(settings.rows) {
        if micro.supervised() == 0 {
            continue;
        }
        let sum = settings.precision.autocast(decoder.device(), || loss_sum(decoder, &micro));
        let mean = sum / supervised as f64;
        mean.backward();
        total += mean.detach();
    }
    Ok((total, supervised))
}

/// The summed loss of plain data: where a batch becomes tensors.
pub fn loss_sum(decoder: &Decoder, batch: &Batch) -> Tensor {
    let device = decoder.device();
    let shape = [batch.rows as i64, batch.cols as i64];
    let tensor = |values: &[i64]| Tensor::from_slice(values).view(shape).to_device(device);
    let (ids, targets) = (tensor(&batch.input_ids), tensor(&batch.targets)); // (B, T)
    // Plain rows count their positions from 0, which the decoder does by itself.
    let packed = batch.doc_ids.as_ref().map(|documents| {
        let documents = Tensor::from_slice(documents).view(shape).to_device(device);
        (tensor(&batch.position_ids), documents)
    });
    let input = Input {
        ids: &ids,
        positions: packed.as_ref().map(|(positions, _)| positions),
        documents: packed.as_ref().map(|(_, documents)| documents),
    };
    decoder.loss_sum(input, &targets, &supervised_places(&batch.targets))
}

/// Summed nats and number of scored tokens over batches, without gradients.
pub fn windows_loss(decoder: &Decoder, batches: impl Iterator<Item = Batch>) -> (f64, u64) {
    etude_tensor::no_grad(|| {
        batches.fold((0.0, 0), |(nats, tokens), batch| {
            let sum = loss_sum(decoder, &batch).double_value(&[]); // sync
            (nats + sum, tokens + batch.supervised() as u64)
        })
    })
}
