//! Fine-tuning batches: rendered examples put into rows, one to a row with padding on the right (those of
//! like length together, if asked), or several packed into one. Targets never cross from one example to the next.
//!
//! Which examples a step reads is a pure function of (seed, step): the stream of epochs of `order`,
//! cut every B rows, so the last batch of an epoch runs over into the next one's permutation.
//! Packs are put together once, from the seed; each epoch permutes the packs.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

use crate::batch::{Batch, IGNORE};
use crate::example::RenderedExample;
use crate::order::{Order, mix};

/// Steps whose examples are sorted by length together: enough for little padding, few enough that a batch
/// still holds a mixture.
const GROUP: u64 = 16;

/// How examples are put into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One example to a row, rows padded to the longest one of the batch.
    Padded,
    /// The same, with examples of like length in a batch: less padding, batches less alike.
    Grouped,
    /// As many examples to a row of this many tokens as fit, kept apart by their document numbers.
    Packed(usize),
}

/// How fine-tuning batches are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinetuneSettings {
    /// B, the rows of a batch (of one optimizer step).
    pub rows: usize,
    /// How examples are put into rows.
    pub layout: Rows,
    /// The seed of the order.
    pub seed: u64,
    /// The token that fills rows up. No loss ever depends on it.
    pub pad: u32,
}

/// The training rows of a set of examples. Cheap to clone and to share between threads.
#[derive(Clone, Debug)]
pub struct FinetuneBatches {
    examples: Arc<[RenderedExample]>,
    /// The examples of each row, by number.
    packs: Arc<[Vec<u32>]>,
    settings: FinetuneSettings,
    order: Order,
}

impl FinetuneBatches {
    /// Prepares the rows.
    ///
    /// # Errors
    /// When there is no example, one has no target, one is longer than a packed row, or the number
    /// of rows is 0.
    pub fn new(
        examples: Vec<RenderedExample>,
        settings: FinetuneSettings,
    ) -> Result<FinetuneBatches> {
        ensure!(
            settings.rows > 0,
            "a batch of 0 rows leaves nothing to train on; give at least 1"
        );
        ensure!(
            !examples.is_empty(),
            "there is no example to train on; give at least one"
        );
        for example in &examples {
            if example.targets() == 0 {
                bail!(
                    "{}: no token of the example is supervised, so nothing can be learnt from it; check its answer",
                    example.source
                );
            }
        }
        let packs = match settings.layout {
            Rows::Padded | Rows::Grouped => (0..examples.len() as u32)
                .map(|number| vec![number])
                .collect(),
            Rows::Packed(cols) => pack(&examples, cols, settings.seed)?,
        };
        let order = Order::new(packs.len() as u64, settings.seed);
        Ok(FinetuneBatches {
            examples: examples.into(),
            packs: packs.into(),
            settings,
            order,
        })
    }

    /// The rows of an epoch: the examples, or the packs they fit into.
    pub fn rows_per_epoch(&self) -> u64 {
        self.order.items()
    }

    /// The steps that an epoch takes, the last one running over into the next.
    pub fn steps_per_epoch(&self) -> u64 {
        self.rows_per_epoch().div_ceil(self.settings.rows as u64)
    }

    /// How many epochs the first `steps` steps go through.
    pub fn epochs(&self, steps: u64) -> f64 {
        (steps * self.settings.rows as u64) as f64 / self.rows_per_epoch() as f64
    }

    /// The examples, in the order given.
    pub fn examples(&self) -> &[RenderedExample] {
        &self.examples
    }

    /// The batch of step `step`, a pure function of (seed, step).
    pub fn finetune_batch(&self, step: u64) -> Batch {
        let packs = self.finetune_rows(step);
        match self.settings.layout {
            Rows::Padded | Rows::Grouped => collate(&packs.concat(), self.settings.pad),
            Rows::Packed(cols) => collate_packed(&packs, cols, self.settings.pad),
        }
    }

    /// The examples of each row of step `step`.
    pub fn finetune_rows(&self, step: u64) -> Vec<Vec<&RenderedExample>> {
        let packs = self.places(step).into_iter();
        packs
            .map(|index| self.row(&self.packs[self.order.at(index).item as usize]))
            .collect()
    }

    /// The places in the stream of epochs that step `step` reads.
    fn places(&self, step: u64) -> Vec<u64> {
        let rows = self.settings.rows as u64;
        match self.settings.layout {
            Rows::Grouped => self.grouped(step),
            Rows::Padded | Rows::Packed(_) => (step * rows..(step + 1) * rows).collect(),
        }
    }

    /// What the steps before `end` read, counted by lengths alone, without making a batch.
    pub fn seen(&self, end: u64) -> Epoch {
        let mut seen = Epoch {
            steps: end,
            ..Epoch::default()
        };
        for step in 0..end {
            let places = self.places(step);
            let mut lengths = Vec::with_capacity(places.len());
            for &place in &places {
                let at = self.order.at(place);
                let row = self.row(&self.packs[at.item as usize]);
                let tokens: usize = row.iter().map(|example| inputs(example)).sum();
                let learnt: usize = row.iter().map(|example| example.targets()).sum();
                lengths.push(tokens);
                let of = match at.epoch {
                    0 => &mut seen.first,
                    _ => &mut seen.later,
                };
                of.rows += 1;
                of.examples += row.len() as u64;
                of.inputs += tokens as u64;
                of.supervised += learnt as u64;
            }
            let cols = match self.settings.layout {
                Rows::Packed(cols) => cols,
                Rows::Padded | Rows::Grouped => lengths.iter().copied().max().unwrap_or(0),
            };
            seen.places += (cols * places.len()) as u64;
            seen.padding += lengths
                .iter()
                .map(|length| (cols - length) as u64)
                .sum::<u64>();
        }
        seen
    }

    /// The places and the targets of the batches of the steps before `end`, counted in the batches themselves.
    pub fn held(&self, end: u64) -> (u64, u64) {
        let count = |step| {
            let batch = self.finetune_batch(step);
            (batch.tokens() as u64, batch.supervised() as u64)
        };
        let sum = |one: (u64, u64), other: (u64, u64)| (one.0 + other.0, one.1 + other.1);
        (0..end).into_par_iter().map(count).reduce(|| (0, 0), sum)
    }

    /// The first epoch: the steps until each example was read once, and what they read.
    pub fn first_epoch(&self) -> Epoch {
        let steps = self.steps_per_epoch();
        self.seen(match self.settings.layout {
            // The rows of an epoch lie anywhere in its groups.
            Rows::Grouped => steps.next_multiple_of(GROUP),
            Rows::Padded | Rows::Packed(_) => steps,
        })
    }

    /// The places in the stream of epochs that step `step` reads: those of [`GROUP`] steps together are
    /// sorted by length and cut into batches, which come in an order drawn from the seed.
    fn grouped(&self, step: u64) -> Vec<u64> {
        let rows = self.settings.rows as u64;
        let (group, number) = (step / GROUP, step % GROUP);
        let mut places: Vec<u64> = (group * GROUP * rows..(group + 1) * GROUP * rows).collect();
        places.sort_by_cached_key(|&place| {
            self.examples[self.order.at(place).item as usize].ids.len()
        });
        let batches = Order::new(GROUP, mix(self.settings.seed, group));
        let first = (batches.at(number).item * rows) as usize;
        places[first..first + rows as usize].to_vec()
    }

    fn row(&self, pack: &[u32]) -> Vec<&RenderedExample> {
        let example = |&number: &u32| &self.examples[number as usize];
        pack.iter().map(example).collect()
    }

    /// The batch that needs the most memory: B rows of the longest examples or packs. To be run before the
    /// first step, so that a lack of memory shows at once.
    pub fn largest_batch(&self) -> Batch {
        let mut longest: Vec<Vec<&RenderedExample>> =
            self.packs.iter().map(|pack| self.row(pack)).collect();
        longest.sort_by_key(|row| {
            std::cmp::Reverse(row.iter().map(|example| inputs(example)).sum::<usize>())
        });
        let rows: Vec<_> = longest
            .into_iter()
            .cycle()
            .take(self.settings.rows)
            .collect();
        match self.settings.layout {
            Rows::Padded | Rows::Grouped => collate(&rows.concat(), self.settings.pad),
            Rows::Packed(cols) => collate_packed(&rows, cols, self.settings.pad),
        }
    }
}

/// What a number of steps read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// The steps.
    pub steps: u64,
    /// Rows times columns of all their batches.
    pub places: u64,
    /// Those of them that hold nothing.
    pub padding: u64,
    /// What was read for the first time.
    pub first: EpochPart,
    /// What was read again, in later epochs.
    pub later: EpochPart,
}

/// What was read of one epoch, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochPart {
    /// Rows.
    pub rows: u64,
    /// Examples in them.
    pub examples: u64,
    /// Tokens read.
    pub inputs: u64,
    /// Targets.
    pub supervised: u64,
}

/// One example to a row, padded on the right to the longest. No document numbers are needed: causal
/// attention never looks right, so padding there changes nothing.
///
/// # Panics
/// When there is no example, or one has fewer than two tokens.
pub fn collate(examples: &[&RenderedExample], pad: u32) -> Batch {
    let cols = examples
        .iter()
        .map(|example| inputs(example))
        .max()
        .expect("at least one example");
    let mut batch = empty(cols, false);
    for example in examples {
        push_example(&mut batch, example, 0);
        fill_row(&mut batch, pad);
    }
    batch
}

/// Several examples to a row of `cols` tokens, numbered as documents, each with positions from 0.
///
/// # Panics
/// When the examples of a row do not fit into it.
pub fn collate_packed(rows: &[Vec<&RenderedExample>], cols: usize, pad: u32) -> Batch {
    let mut batch = empty(cols, true);
    for row in rows {
        for (number, example) in row.iter().enumerate() {
            push_example(&mut batch, example, number as i32);
        }
        fill_row(&mut batch, pad);
    }
    batch
}

/// The tokens that an example takes in a row: all but its last, which is only a target.
fn inputs(example: &RenderedExample) -> usize {
    assert!(
        example.ids.len() > 1,
        "an example of {} tokens has no target",
        example.ids.len()
    );
    example.ids.len() - 1
}

fn empty(cols: usize, documents: bool) -> Batch {
    Batch {
        rows: 0,
        cols,
        input_ids: Vec::new(),
        targets: Vec::new(),
        position_ids: Vec::new(),
        doc_ids: documents.then(Vec::new),
    }
}

/// Appends an example to the row begun last, its targets shifted by one.
fn push_example(batch: &mut Batch, example: &RenderedExample, number: i32) {
    let count = inputs(example);
    batch
        .input_ids
        .extend(example.ids[..count].iter().map(|&id| i64::from(id)));
    batch.targets.extend((1..=count).map(|i| {
        if example.supervised[i] {
            i64::from(example.ids[i])
        } else {
            IGNORE
        }
    }));
    batch.position_ids.extend(0..count as i64);
    if let Some(docs) = &mut batch.doc_ids {
        docs.extend(std::iter::repeat_n(number, count));
    }
}

/// Ends the row begun last with padding.
fn fill_row(batch: &mut Batch, pad: u32) {
    batch.rows += 1;
    let size = batch.rows * batch.cols;
    assert!(
        batch.input_ids.len() <= size,
        "a row holds more than its {} tokens",
        batch.cols
    );
    batch.input_ids.resize(size, i64::from(pad));
    batch.targets.resize(size, IGNORE);
    batch.position_ids.resize(size, 0);
    if let Some(docs) = &mut batch.doc_ids {
        docs.resize(size, -1);
    }
}

/// Puts examples into rows of `cols` tokens: in an order drawn from the seed, each into the row
/// where it leaves the least room. Best fit wastes little and, unlike sorting by length first, keeps
/// long and short ones mixed.
fn pack(examples: &[RenderedExample], cols: usize, seed: u64) -> Result<Vec<Vec<u32>>> {
    let order = Order::new(examples.len() as u64, seed);
    let mut packs: Vec<Vec<u32>> = Vec::new();
    // Open rows by the room left in them.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for place in 0..examples.len() as u64 {
        let number = order.at(place).item as usize;
        let size = inputs(&examples[number]);
        if size > cols {
            bail!(
                "{}: the example takes {size} tokens and a packed row holds {cols}; raise the row length or lower the context to it",
                examples[number].source
            );
        }
        let best = open.range(size..).next().map(|(&room, _)| room);
        let (row, room) = match best {
            Some(room) => {
                let rows = open.get_mut(&room).expect("found just now");
                let row = rows.pop().expect("empty lists are removed");
                if rows.is_empty() {
                    open.remove(&room);
                }
                (row, room)
            }
            None => {
                packs.push(Vec::new());
                (packs.len() - 1, cols)
            }
        };
        packs[row].push(number as u32);
        open.entry(room - size).or_default().push(row);
    }
    Ok(packs)
}

#[cfg(test)]
mod tests;
