//! What is asked of a recipe's data, and the answer; the same for both stages.

use serde::Serialize;

use super::view::{BatchView, ExampleView};
use super::{Account, Amount, Ledger, Line, Unit};
use crate::split::Split;

/// What is to be shown beside the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Of which split.
    pub split: Split,
    /// How many of the first examples or rows.
    pub first: usize,
    /// This example, numbered from 1, instead of the first ones.
    pub example: Option<u64>,
    /// The batch of this step, numbered from 1.
    pub batch: Option<u64>,
    /// What a run has counted so far.
    pub seen: Option<Seen>,
}

/// What a run has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Steps made.
    pub step: u64,
    /// Tokens that went through the model, padding included.
    pub tokens: u64,
    /// Tokens that were supervised.
    pub supervised: u64,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The books.
    pub ledger: Ledger,
    /// Examples or documents.
    pub examples: Vec<ExampleView>,
    /// A batch.
    pub batch: Option<BatchView>,
}

impl Seen {
    /// What the run counted against what its batches hold: the places of their rows, and the supervised ones.
    pub fn accounts(&self, places: u64, supervised: u64) -> [Account; 2] {
        let account = |what: &str, counted, held| Account {
            title: format!("{what} in the {} steps made", self.step),
            units: vec![Unit::Tokens],
            incoming: vec![Line::new("counted by the run", Amount::tokens(0, counted))],
            outgoing: vec![Line::new("held by its batches", Amount::tokens(0, held))],
        };
        [
            account("read, padding included,", self.tokens, places),
            account("supervised", self.supervised, supervised),
        ]
    }
}
