//! The model's loss in nats, as sums over batches of plain data. Training's validation and `eval` both
//! come here.
//!
//! B rows, T columns, C model width, N supervised places, V vocabulary.

use etude_data::Batch;
use etude_model::{Decoder, Input, supervised_places};
use etude_tensor::{Kind, Tensor, no_grad};

/// What a decoder must know of documents in one row.
struct Packed {
    positions: Tensor,
    documents: Tensor,
    lengths: Vec<i64>,
}

/// A batch on the decoder's device.
struct Tensors {
    ids: Tensor,
    targets: Tensor,
    /// None where rows are plain, since the decoder then counts by itself.
    packed: Option<Packed>,
    /// None where nothing is dropped.
    places: Option<Tensor>,
}

impl Tensors {
    fn new(decoder: &Decoder, batch: &Batch) -> Self {
        let device = decoder.device();
        let shape = [batch.rows as i64, batch.cols as i64];
        let place = |values: &[i64]| Tensor::from_slice(values).view(shape).to_device(device); // (B, T)
        let packed = batch.doc_ids.as_ref().map(|documents| {
            Packed {
                positions: place(&batch.position_ids),
                documents: Tensor::from_slice(documents).view(shape).to_device(device), // (B, T)
                lengths: lengths(documents, batch.cols),
            }
        });
        Self {
            ids: place(&batch.input_ids),
            targets: place(&batch.targets),
            packed,
            places: decoder.has_dropout().then(|| place(&batch.place_names())), // (B, T)
        }
    }

    fn input(&self) -> Input<'_> {
        Input {
            ids: &self.ids,
            positions: self.packed.as_ref().map(|packed| &packed.positions),
            documents: self.packed.as_ref().map(|packed| &packed.documents),
            lengths: self.packed.as_ref().map(|packed| &packed.lengths[..]),
            places: self.places.as_ref(),
        }
    }
}

/// The lengths of runs of one document number within rows of `cols`.
fn lengths(documents: &[i32], cols: usize) -> Vec<i64> {
    let rows = documents.chunks(cols);
    rows.flat_map(|row| row.chunk_by(|one, next| one == next))
        .map(|run| run.len() as i64)
        .collect()
}

/// The summed cross-entropy in nats of a batch's targets, a scalar that can be differentiated once: the
/// training objective and validation alike. None when nothing is supervised.
///
/// # Panics
/// As [`windows_loss`].
pub fn batch_loss(decoder: &Decoder, batch: &Batch) -> Option<Tensor> {
    let places = supervised_places(&batch.targets);
    if places.is_empty() {
        return None;
    }
    let tensors = Tensors::new(decoder, batch);
    Some(decoder.loss_sum(tensors.input(), &tensors.targets, &places))
}

/// The summed cross-entropy in nats over all targets of the batches, and how many targets there are.
/// No gradients are kept. The mean loss is the one divided by the other; it is not a number when
/// there is no target, and not finite when the model is broken.
///
/// Number formats are the decoder's; a caller that trains in bf16 wraps the call in its autocast.
///
/// # Panics
/// When a row is longer than the context or an id is outside the vocabulary: [`Batch::validate`] says
/// which.
pub fn windows_loss(decoder: &Decoder, batches: impl IntoIterator<Item = Batch>) -> (f64, u64) {
    let (mut nats, mut tokens) = (0.0, 0);
    for batch in batches {
        if let Some(sum) = no_grad(|| batch_loss(decoder, &batch)) {
            nats += sum.double_value(&[]); // sync
            tokens += batch.supervised() as u64;
        }
    }
    (nats, tokens)
}

/// The summed cross-entropy in nats of each row's targets; 0 for a row without one.
///
/// # Panics
/// As [`windows_loss`].
pub fn batch_nats(decoder: &Decoder, batch: &Batch) -> Vec<f64> {
    let mut rows = vec![0.0; batch.rows];
    for (place, nats) in no_grad(|| token_nats(decoder, batch)) {
        rows[place / batch.cols] += nats;
    }
    rows
}

/// The place of each target in row-major order, and its cross-entropy in nats: what [`batch_loss`] sums. No
/// gradients are kept; but where gradients are recorded, the layers compute as in training, with dropout.
///
/// # Panics
/// As [`windows_loss`].
pub fn token_nats(decoder: &Decoder, batch: &Batch) -> Vec<(usize, f64)> {
    let places = supervised_places(&batch.targets);
    if places.is_empty() {
        return Vec::new();
    }
    let tensors = Tensors::new(decoder, batch);
    let nats = decoder.losses(tensors.input(), &tensors.targets, &places); // (N)
    let nats = Vec::<f64>::try_from(nats.to_kind(Kind::Double)).expect("float64"); // sync
    places
        .iter()
        .map(|&place| place as usize)
        .zip(nats)
        .collect()
}

/// Shows `look` the stream of a batch, `(B, T, C)`, as each part of the decoder leaves it: `embedding`,
/// `layers.0` and so on, `norm`. No gradients are kept.
///
/// # Panics
/// As [`windows_loss`].
pub fn batch_stream(decoder: &Decoder, batch: &Batch, look: &mut dyn FnMut(&str, &Tensor)) {
    let tensors = Tensors::new(decoder, batch);
    no_grad(|| decoder.watched(tensors.input(), look));
}

#[cfg(test)]
mod tests;
