//! What answers cost the model: the right ones, and those that are compared with them.

use anyhow::{Result, ensure};
use etude_data::{RenderedExample, SourceRef, collate};
use etude_model::Decoder;

use crate::nats::batch_nats;
use crate::progress::{Listener, Progress, Stage};

/// Tokens that go through the model at a time.
pub(super) const BATCH_TOKENS: usize = 8192;

/// The nats of each example's supervised tokens, in the order given.
pub(super) fn nats(
    decoder: &Decoder,
    examples: &[(&RenderedExample, &SourceRef)],
    on_progress: &mut Listener<'_>,
) -> Result<Vec<f64>> {
    let total = examples.len() as u64;
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(examples[number].0.ids.len()));
    let mut nats = vec![0.0; examples.len()];
    let mut done = 0;
    while done < order.len() {
        on_progress(Progress {
            stage: Stage::Scoring,
            done: done as u64,
            total,
        })?;
        // The first is the longest.
        let rows = (BATCH_TOKENS / examples[order[done]].0.ids.len()).max(1);
        let here = &order[done..order.len().min(done + rows)];
        let rendered: Vec<&RenderedExample> =
            here.iter().map(|&number| examples[number].0).collect();
        for (&number, value) in here.iter().zip(batch_nats(decoder, &collate(&rendered, 0))) {
            ensure!(
                value.is_finite(),
                "{}: the model's loss is {value}: its weights are damaged, or too large for their number format",
                examples[number].1
            );
            nats[number] = value;
        }
        done += here.len();
    }
    on_progress(Progress {
        stage: Stage::Scoring,
        done: total,
        total,
    })?;
    Ok(nats)
}
