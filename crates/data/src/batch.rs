//! The batch: what one training or validation step reads, as plain numbers.
//!
//! Loader threads make batches and the step turns them into tensors, so no tensor is ever shared
//! between threads. How rows are cut or packed is left to `windows` and `collate`.
//!
//! Legend: B rows, T columns; every field is row-major, B * T long.

mod names;
mod stretches;

use anyhow::{Result, bail, ensure};

pub use stretches::Stretch;

/// The target that asks for no prediction: its position adds nothing to the loss.
pub const IGNORE: i64 = -100;

/// Micro-batches are cut to a multiple of this many columns, so that few shapes occur.
const COLUMN_STEP: usize = 8;

/// Token ids, their targets, and what attention needs to know, for B rows of T columns.
///
/// Attention is always causal. `targets` are already shifted: `targets[b, t]` is the token that
/// follows `input_ids[b, t]`, or [`IGNORE`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Batch {
    /// B, the number of rows.
    pub rows: usize,
    /// T, the number of columns.
    pub cols: usize,
    /// The tokens the model reads, (B, T).
    pub input_ids: Vec<i64>,
    /// The token to predict at each place, or [`IGNORE`], (B, T).
    pub targets: Vec<i64>,
    /// The position of each token in its document, from 0, (B, T).
    pub position_ids: Vec<i64>,
    /// The document of each token: attention never crosses from one to another, and -1 is padding,
    /// (B, T). `None` means plain causal attention within the row.
    pub doc_ids: Option<Vec<i32>>,
}

impl Batch {
    /// How many places have a target.
    pub fn supervised(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORE).count()
    }

    /// How many tokens are read, padding included: B * T.
    pub fn tokens(&self) -> usize {
        self.rows * self.cols
    }

    /// Checks everything that a model relies on.
    ///
    /// # Errors
    /// When a field has the wrong length, a token or target lies outside the vocabulary, a position
    /// is not below `context`, a padding place has a target, or nothing at all is supervised.
    pub fn validate(&self, vocab_size: usize, context: usize) -> Result<()> {
        let size = self.rows * self.cols;
        ensure!(
            size > 0,
            "the batch is empty: {} rows of {} columns",
            self.rows,
            self.cols
        );
        let lengths = [
            ("input_ids", self.input_ids.len()),
            ("targets", self.targets.len()),
            ("position_ids", self.position_ids.len()),
            ("doc_ids", self.doc_ids.as_ref().map_or(size, Vec::len)),
        ];
        for (name, length) in lengths {
            ensure!(
                length == size,
                "batch.{name} holds {length} numbers, not rows * cols = {size}"
            );
        }
        for at in 0..size {
            self.validate_place(at, vocab_size as i64, context as i64)?;
        }
        ensure!(
            self.supervised() > 0,
            "no place of the batch is supervised: there is nothing to learn from it"
        );
        Ok(())
    }

    fn validate_place(&self, at: usize, vocab_size: i64, context: i64) -> Result<()> {
        let place = || format!("row {}, column {}", at / self.cols, at % self.cols);
        let (id, target, position) = (self.input_ids[at], self.targets[at], self.position_ids[at]);
        if !(0..vocab_size).contains(&id) {
            bail!(
                "token {id} ({}) is outside the vocabulary of {vocab_size}: the text was encoded with another tokenizer than the model's",
                place()
            );
        }
        if target != IGNORE && !(0..vocab_size).contains(&target) {
            bail!(
                "target {target} ({}) is outside the vocabulary of {vocab_size}: the text was encoded with another tokenizer than the model's",
                place()
            );
        }
        if !(0..context).contains(&position) {
            bail!(
                "position {position} ({}) does not fit the context of {context}: lower the row length or raise the context",
                place()
            );
        }
        if let Some(docs) = &self.doc_ids {
            ensure!(
                docs[at] >= -1,
                "document {} ({}) is not a document number; padding is -1",
                docs[at],
                place()
            );
            ensure!(
                docs[at] >= 0 || target == IGNORE,
                "padding ({}) has the target {target}",
                place()
            );
        }
        Ok(())
    }

    /// The batch in slices of `rows_each` rows (the last may be shorter), in row order.
    ///
    /// Trailing columns in which no row of the slice has a target are dropped: attention is causal,
    /// so nothing supervised ever looks at them, and the summed loss stays the same.
    ///
    /// # Panics
    /// When `rows_each` is 0.
    pub fn micro_batches(&self, rows_each: usize) -> impl Iterator<Item = Batch> + '_ {
        assert!(rows_each > 0, "a micro-batch needs at least one row");
        (0..self.rows)
            .step_by(rows_each)
            .map(move |first| self.slice(first, rows_each.min(self.rows - first)))
    }

    /// `count` rows from `first` on, without the trailing columns that have no target.
    fn slice(&self, first: usize, count: usize) -> Batch {
        let used = (first..first + count)
            .map(|row| self.used_columns(row))
            .max()
            .unwrap_or(0);
        let cols = used.max(1).next_multiple_of(COLUMN_STEP).min(self.cols);
        Batch {
            rows: count,
            cols,
            input_ids: self.cut(&self.input_ids, first, count, cols),
            targets: self.cut(&self.targets, first, count, cols),
            position_ids: self.cut(&self.position_ids, first, count, cols),
            doc_ids: self
                .doc_ids
                .as_ref()
                .map(|docs| self.cut(docs, first, count, cols)),
        }
    }

    /// The number of columns of `row` up to and with its last target.
    fn used_columns(&self, row: usize) -> usize {
        let targets = &self.targets[row * self.cols..(row + 1) * self.cols];
        targets
            .iter()
            .rposition(|&t| t != IGNORE)
            .map_or(0, |last| last + 1)
    }

    fn cut<T: Copy>(&self, values: &[T], first: usize, count: usize, cols: usize) -> Vec<T> {
        (first..first + count)
            .flat_map(|row| &values[row * self.cols..row * self.cols + cols])
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(rows: usize, cols: usize, lengths: &[usize]) -> Batch {
        let mut targets = vec![IGNORE; rows * cols];
        for (row, &length) in lengths.iter().enumerate() {
            for col in 0..length {
                targets[row * cols + col] = (row * cols + col) as i64;
            }
        }
        Batch {
            rows,
            cols,
            input_ids: (0..(rows * cols) as i64).collect(),
            targets,
            position_ids: (0..rows).flat_map(|_| 0..cols as i64).collect(),
            doc_ids: None,
        }
    }

    #[test]
    fn counts_targets() {
        assert_eq!(batch(2, 4, &[3, 1]).supervised(), 4);
        assert_eq!(batch(2, 4, &[3, 1]).tokens(), 8);
    }

    #[test]
    fn micro_batches_drop_only_columns_without_targets() {
        let whole = batch(3, 32, &[3, 20, 0]);
        let parts: Vec<Batch> = whole.micro_batches(1).collect();
        assert_eq!(parts.iter().map(|b| b.cols).collect::<Vec<_>>(), [8, 24, 8]);
        assert_eq!(parts[1].input_ids, (32..56).collect::<Vec<i64>>());
        let parts: Vec<Batch> = whole.micro_batches(2).collect();
        assert_eq!(
            parts.iter().map(|b| (b.rows, b.cols)).collect::<Vec<_>>(),
            [(2, 24), (1, 8)]
        );
    }

    proptest! {
        #[test]
        fn micro_batches_keep_every_target_and_its_left_context(
            lengths in prop::collection::vec(0usize..40, 1..9), each in 1usize..10
        ) {
            let (rows, cols) = (lengths.len(), 40);
            let whole = batch(rows, cols, &lengths);
            let mut row = 0;
            for part in whole.micro_batches(each) {
                for r in 0..part.rows {
                    for col in 0..cols {
                        let target = whole.targets[row * cols + col];
                        if col < part.cols {
                            prop_assert_eq!(part.targets[r * part.cols + col], target);
                            prop_assert_eq!(part.input_ids[r * part.cols + col], whole.input_ids[row * cols + col]);
                            prop_assert_eq!(part.position_ids[r * part.cols + col], col as i64);
                        } else {
                            prop_assert_eq!(target, IGNORE);
                        }
                    }
                    row += 1;
                }
            }
            prop_assert_eq!(row, rows);
        }
    }

    #[test]
    fn validation_names_the_place() {
        let good = batch(2, 4, &[4, 4]);
        good.validate(8, 4).expect("a good batch");
        let says = |batch: &Batch, words: &str| {
            let text = batch.validate(8, 4).expect_err(words).to_string();
            assert!(text.contains(words), "{text:?} lacks {words:?}");
        };
        says(
            &Batch {
                input_ids: vec![0, 1, 2, 3, 4, 5, 8, 7],
                ..good.clone()
            },
            "token 8 (row 1, column 2)",
        );
        says(
            &Batch {
                targets: vec![0, -1, 2, 3, 4, 5, 6, 7],
                ..good.clone()
            },
            "target -1 (row 0, column 1)",
        );
        says(
            &Batch {
                position_ids: vec![0, 1, 2, 4, 0, 1, 2, 3],
                ..good.clone()
            },
            "position 4 (row 0, column 3)",
        );
        says(
            &Batch {
                targets: vec![IGNORE; 8],
                ..good.clone()
            },
            "nothing to learn",
        );
        says(
            &Batch {
                targets: vec![0; 7],
                ..good.clone()
            },
            "batch.targets holds 7",
        );
        says(
            &Batch {
                doc_ids: Some(vec![0, 0, 0, -1, 0, 0, 0, 0]),
                ..good.clone()
            },
            "padding (row 0, column 3)",
        );
        says(
            &Batch {
                doc_ids: Some(vec![0; 3]),
                ..good.clone()
            },
            "batch.doc_ids holds 3",
        );
    }
}
