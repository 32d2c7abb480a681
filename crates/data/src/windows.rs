//! Pre-training rows: the token stream cut into windows of C + 1 tokens, C inputs and C targets.
//!
//! Windows of an epoch lie end to end, each sharing one token with the next, so every token is a
//! target once. Where the first one starts differs from epoch to epoch, so the cuts fall elsewhere
//! each time. Which window comes at which step is `order`'s, so a batch is a pure function of
//! (seed, step). The rows of a held-out text are in `validation`.

mod validation;

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::batch::{Batch, IGNORE};
use crate::error::DataError;
use crate::order::{Order, mix};
use crate::stream::TokenStream;

pub use validation::{ValidationBatch, ValidationSettings, ValidationWindows};

/// Keeps the window offsets apart from the permutations, which use the same seed.
const OFFSET_KEY: u64 = 0x6f66_6673_6574;

/// What a row knows of the documents it was cut from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundaries {
    /// Nothing: plain causal attention over the whole row, positions 0 to C - 1. The cheaper form.
    #[default]
    Ignored,
    /// Attention stays inside a document, and positions start again at 0 with each.
    ///
    /// The separator that ends a document is read as the start of the next one, since that is what
    /// it predicts; so even a document's first token is a target, with the separator as its context.
    Kept,
}

/// How training rows are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSettings {
    /// C, the tokens in a row.
    pub context: usize,
    /// B, the rows in a batch (of one optimizer step).
    pub rows: usize,
    /// The seed of the order and the offsets.
    pub seed: u64,
    /// Whether documents are kept apart.
    pub boundaries: Boundaries,
}

/// The training rows of a token stream.
#[derive(Clone, Debug)]
pub struct Windows {
    stream: TokenStream,
    settings: WindowSettings,
    order: Order,
    /// Window starts shift by 0 to `offsets` - 1 tokens, the same for all windows of an epoch.
    offsets: u64,
}

impl Windows {
    /// Prepares the rows; nothing is read yet.
    ///
    /// # Errors
    /// When the context or the number of rows is 0, or the text is shorter than one window.
    pub fn new(stream: TokenStream, settings: WindowSettings) -> Result<Windows> {
        ensure!(
            settings.context > 0,
            "a context of 0 tokens leaves nothing to train on; give at least 1"
        );
        ensure!(
            settings.rows > 0,
            "a batch of 0 rows leaves nothing to train on; give at least 1"
        );
        let (tokens, context) = (stream.tokens(), settings.context as u64);
        if tokens <= context {
            let what = format!(
                "the training text has {tokens} tokens, and one window takes {} (the context and one more)",
                context + 1
            );
            let remedy = format!(
                "give more text, or lower the context to at most {}",
                tokens.saturating_sub(1)
            );
            return Err(DataError::input(what, remedy).into());
        }
        // Few offsets where the text is little longer than a window, so that one always fits.
        let offsets = context.min(tokens - context);
        let per_epoch = (tokens - offsets) / context;
        Ok(Windows {
            stream,
            settings,
            order: Order::new(per_epoch, settings.seed),
            offsets,
        })
    }

    /// The windows of an epoch.
    pub fn per_epoch(&self) -> u64 {
        self.order.items()
    }

    /// How many epochs the first `steps` steps go through.
    pub fn epochs(&self, steps: u64) -> f64 {
        (steps * self.settings.rows as u64) as f64 / self.per_epoch() as f64
    }

    /// The stream that is cut.
    pub fn stream(&self) -> &TokenStream {
        &self.stream
    }

    /// The batch of step `step`, a pure function of (seed, step).
    pub fn pretrain_batch(&self, step: u64) -> Batch {
        let mut batch = RowBuilder::new(self.settings.context, self.settings.boundaries);
        for targets in self.pretrain_targets(step) {
            batch.push(&self.stream, targets.start, self.settings.context, None);
        }
        batch.finish()
    }

    /// The tokens of the stream that each row of step `step` predicts, each from the one before it.
    pub fn pretrain_targets(&self, step: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let (rows, context) = (self.settings.rows as u64, self.settings.context as u64);
        (step * rows..(step + 1) * rows).map(move |index| {
            let start = self.window_start(index) + 1;
            start..start + context
        })
    }

    /// The tokens of the stream that the first epoch predicts, end to end.
    pub fn first_epoch(&self) -> Range<u64> {
        let start = mix(self.settings.seed ^ OFFSET_KEY, 0) % self.offsets + 1;
        start..start + self.per_epoch() * self.settings.context as u64
    }

    /// The first token of the window at place `index` of the endless stream of windows.
    fn window_start(&self, index: u64) -> u64 {
        let place = self.order.at(index);
        let offset = mix(self.settings.seed ^ OFFSET_KEY, place.epoch) % self.offsets;
        offset + place.item * self.settings.context as u64
    }
}

/// Gathers rows into a batch.
struct RowBuilder {
    batch: Batch,
    boundaries: Boundaries,
    scratch: Vec<u32>,
}

impl RowBuilder {
    fn new(cols: usize, boundaries: Boundaries) -> RowBuilder {
        let batch = Batch {
            rows: 0,
            cols,
            input_ids: Vec::new(),
            targets: Vec::new(),
            position_ids: Vec::new(),
            doc_ids: (boundaries == Boundaries::Kept).then(Vec::new),
        };
        RowBuilder {
            batch,
            boundaries,
            scratch: Vec::new(),
        }
    }

    /// Adds a row whose targets are the `count` tokens from `target` on, each predicted from the one
    /// before it. Before the stream's first token stands `lead`. Short rows are padded.
    fn push(&mut self, stream: &TokenStream, target: u64, count: usize, lead: Option<u32>) {
        let cols = self.batch.cols;
        let batch = &mut self.batch;
        self.scratch.clear();
        if target == 0 {
            self.scratch
                .push(lead.expect("a row begins before the stream only with a lead"));
        }
        stream.read(
            target.saturating_sub(1)..target + count as u64,
            &mut self.scratch,
        );
        batch.rows += 1;
        batch
            .input_ids
            .extend(self.scratch[..count].iter().map(|&id| i64::from(id)));
        batch
            .targets
            .extend(self.scratch[1..].iter().map(|&id| i64::from(id)));
        match self.boundaries {
            Boundaries::Ignored => batch.position_ids.extend(0..count as i64),
            Boundaries::Kept => {
                let docs = batch.doc_ids.as_mut().expect("made with boundaries");
                push_documents(stream, target, count, docs, &mut batch.position_ids);
                docs.extend(std::iter::repeat_n(-1, cols - count));
            }
        }
        // Padding comes last, where causal attention never looks, and asks for nothing.
        let padding = cols - count;
        batch.input_ids.extend(std::iter::repeat_n(0, padding));
        batch.targets.extend(std::iter::repeat_n(IGNORE, padding));
        batch.position_ids.extend(std::iter::repeat_n(0, padding));
    }

    fn finish(self) -> Batch {
        self.batch
    }
}

/// Numbers the documents of a row from 0 and the positions in each. An input belongs to the document
/// of its target.
fn push_documents(
    stream: &TokenStream,
    target: u64,
    count: usize,
    docs: &mut Vec<i32>,
    positions: &mut Vec<i64>,
) {
    let end = target + count as u64;
    let (mut at, mut number) = (target, 0);
    while at < end {
        let document_end = stream.document_of(at).1.tokens.end.min(end);
        docs.extend((at..document_end).map(|_| number));
        positions.extend(0..(document_end - at) as i64);
        at = document_end;
        number += 1;
    }
}

#[cfg(test)]
mod tests;
