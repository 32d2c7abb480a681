//! The stretches of a batch: what was put into its rows, one by one, and the batch without some of them.
//!
//! A stretch is what attention stays inside: a packed example or document, or all of a row up to its padding.

use std::ops::Range;

use super::{Batch, IGNORE};

/// A piece of a row that sees nothing but itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stretch {
    /// Its row.
    pub row: usize,
    /// Its columns.
    pub cols: Range<usize>,
}

impl Batch {
    /// The stretches in the order of the rows.
    pub fn stretches(&self) -> Vec<Stretch> {
        (0..self.rows)
            .flat_map(|row| match &self.doc_ids {
                Some(docs) => self.documents_of(row, docs),
                None => vec![Stretch {
                    row,
                    cols: 0..self.length_of(row),
                }],
            })
            .collect()
    }

    fn documents_of(&self, row: usize, docs: &[i32]) -> Vec<Stretch> {
        let mut at = 0;
        let runs = docs[row * self.cols..(row + 1) * self.cols].chunk_by(|one, next| one == next);
        runs.filter_map(|run| {
            let cols = at..at + run.len();
            at += run.len();
            (run[0] >= 0).then_some(Stretch { row, cols })
        })
        .collect()
    }

    /// Columns up to the padding, whose positions do not go on.
    fn length_of(&self, row: usize) -> usize {
        let positions = &self.position_ids[row * self.cols..(row + 1) * self.cols];
        let going_on = positions.windows(2).take_while(|pair| pair[1] > pair[0]);
        1 + going_on.count()
    }

    /// The batch as if the stretches of these numbers had never been in it: a row that loses all of them is
    /// gone, the others of a packed row move together, and the longest row has no padding. None when nothing
    /// supervised is left.
    pub fn without(&self, left_out: &[usize]) -> Option<Batch> {
        let mut kept: Vec<Vec<Stretch>> = vec![Vec::new(); self.rows];
        for (number, stretch) in self.stretches().into_iter().enumerate() {
            if !left_out.contains(&number) {
                kept[stretch.row].push(stretch);
            }
        }
        let rows: Vec<&Vec<Stretch>> = kept.iter().filter(|row| !row.is_empty()).collect();
        let length = |row: &Vec<Stretch>| row.iter().map(|stretch| stretch.cols.len()).sum();
        let cols = rows.iter().map(|row| length(row)).max().unwrap_or(0);
        let batch = Batch {
            rows: rows.len(),
            cols,
            input_ids: self.gathered(&rows, cols, &self.input_ids, 0),
            targets: self.gathered(&rows, cols, &self.targets, IGNORE),
            position_ids: self.gathered(&rows, cols, &self.position_ids, 0),
            doc_ids: self
                .doc_ids
                .as_ref()
                .map(|docs| self.gathered(&rows, cols, docs, -1)),
        };
        (batch.supervised() > 0).then_some(batch)
    }

    /// The values of some stretches, row by row, each filled up to `cols` with `padding`.
    fn gathered<T: Copy>(
        &self,
        rows: &[&Vec<Stretch>],
        cols: usize,
        values: &[T],
        padding: T,
    ) -> Vec<T> {
        let mut out = Vec::with_capacity(rows.len() * cols);
        for (number, row) in rows.iter().enumerate() {
            for stretch in *row {
                let start = stretch.row * self.cols;
                out.extend_from_slice(
                    &values[start + stretch.cols.start..start + stretch.cols.end],
                );
            }
            out.resize((number + 1) * cols, padding);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> Batch {
        Batch {
            rows: 2,
            cols: 5,
            input_ids: vec![1, 2, 3, 4, 0, 5, 6, 7, 0, 0],
            targets: vec![2, 9, 4, 9, IGNORE, 6, 7, 9, IGNORE, IGNORE],
            position_ids: vec![0, 1, 0, 1, 0, 0, 1, 2, 0, 0],
            doc_ids: Some(vec![0, 0, 1, 1, -1, 0, 0, 0, -1, -1]),
        }
    }

    #[test]
    fn packed_examples_are_found_and_taken_out() {
        let batch = packed();
        let cols: Vec<_> = batch.stretches().into_iter().map(|s| s.cols).collect();
        assert_eq!(cols, [0..2, 2..4, 0..3]);
        let less = batch.without(&[0]).unwrap();
        assert_eq!((less.rows, less.cols), (2, 3));
        assert_eq!(less.input_ids, [3, 4, 0, 5, 6, 7]);
        assert_eq!(less.doc_ids, Some(vec![1, 1, -1, 0, 0, 0]));
        assert_eq!(less.supervised(), batch.supervised() - 2);
        let less = batch.without(&[0, 1]).unwrap();
        assert_eq!((less.rows, less.input_ids[0]), (1, 5));
        assert_eq!(batch.without(&[0, 1, 2]), None);
        let all = batch.without(&[]).unwrap();
        assert_eq!((all.cols, all.supervised()), (4, batch.supervised()));
    }

    #[test]
    fn padded_rows_end_where_their_padding_begins() {
        let mut batch = packed();
        batch.doc_ids = None;
        batch.position_ids = vec![0, 1, 2, 3, 0, 0, 0, 0, 0, 0];
        let stretches = batch.stretches();
        assert_eq!((&stretches[0].cols, &stretches[1].cols), (&(0..4), &(0..1)));
    }
}
