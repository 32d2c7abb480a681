//! What the right answers cost the model, item by item.

use anyhow::{Result, ensure};
use etude_data::{RenderedExample, collate};
use etude_model::Decoder;

use super::Item;
use crate::nats::batch_nats;
use crate::progress::{Progress, Stage};

/// Tokens that go through the model at a time.
const BATCH_TOKENS: usize = 8192;

/// The nats of each item's supervised tokens, in the order of the items.
pub(super) fn nats(
    decoder: &Decoder,
    items: &[Item<'_>],
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Vec<f64>> {
    let total = items.len() as u64;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(items[number].whole.ids.len()));
    let mut nats = vec![0.0; items.len()];
    let mut done = 0;
    while done < order.len() {
        on_progress(Progress {
            stage: Stage::Scoring,
            done: done as u64,
            total,
        });
        // The first is the longest.
        let rows = (BATCH_TOKENS / items[order[done]].whole.ids.len()).max(1);
        let here = &order[done..order.len().min(done + rows)];
        let examples: Vec<&RenderedExample> =
            here.iter().map(|&number| &items[number].whole).collect();
        for (&number, value) in here.iter().zip(batch_nats(decoder, &collate(&examples, 0))) {
            ensure!(
                value.is_finite(),
                "{}: the model's loss is {value}: its weights are damaged, or too large for their number format",
                items[number].example.source
            );
            nats[number] = value;
        }
        done += here.len();
    }
    on_progress(Progress {
        stage: Stage::Scoring,
        done: total,
        total,
    });
    Ok(nats)
}
