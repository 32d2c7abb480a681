//! A number for each place of a batch that says which token of which document it is, and not where it lies.

use crate::batch::{Batch, IGNORE};
use crate::order::mix;

impl Batch {
    /// The name of each place, row-major, (B, T): a hash of its document's tokens and targets and of its position
    /// there. It is the same in every layout: in whatever row, beside whatever documents, behind whatever padding, and
    /// in every micro-batch. What is random about a token in training can be drawn by it. A document that a batch
    /// holds twice has the same names twice.
    ///
    /// What lies behind a document's last target is left out of the hash, since a micro-batch may leave it out.
    pub fn place_names(&self) -> Vec<i64> {
        let mut names = Vec::with_capacity(self.tokens());
        for row in 0..self.rows {
            let start = row * self.cols;
            let end = start + self.cols;
            match &self.doc_ids {
                None => self.name_document(start, end, &mut names),
                Some(documents) => {
                    let mut from = start;
                    for document in documents[start..end].chunk_by(|one, next| one == next) {
                        self.name_document(from, from + document.len(), &mut names);
                        from += document.len();
                    }
                }
            }
        }
        names
    }

    /// Names the places `from..end`, which hold one document.
    fn name_document(&self, from: usize, end: usize, names: &mut Vec<i64>) {
        let targets = &self.targets[from..end];
        let used = targets
            .iter()
            .rposition(|&target| target != IGNORE)
            .map_or(0, |last| last + 1);
        let ids = &self.input_ids[from..from + used];
        let document = ids
            .iter()
            .zip(targets)
            .fold(used as u64, |hash, (&id, &target)| {
                mix(hash, (id as u64) << 32 ^ target as u64)
            });
        names.extend((0..(end - from) as u64).map(|position| mix(document, position) as i64));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::example::RenderedExample;
    use crate::task::SourceRef;
    use crate::{collate, collate_packed};

    /// An example of `length` tokens, the last third of which, but never the very last, is supervised.
    fn example(number: u32, length: u32) -> RenderedExample {
        RenderedExample {
            id: number.to_string(),
            ids: (0..length).map(|at| number * 50 + at).collect(),
            supervised: (0..length)
                .map(|at| at > 0 && at >= length * 2 / 3 && (at + 1 < length || length < 4))
                .collect(),
            source: SourceRef {
                file: "made".into(),
                line: u64::from(number),
            },
            truncated: false,
            target_bytes: 0,
        }
    }

    /// The names by token, of the places up to each document's last target; the tokens are all different.
    fn by_token(batch: &Batch) -> BTreeSet<(i64, i64)> {
        let names = batch.place_names();
        assert_eq!(names.len(), batch.tokens());
        // A token that has a target behind it in its row, before the next document begins.
        let mut found = BTreeSet::new();
        for row in 0..batch.rows {
            let mut asked = false;
            for at in (row * batch.cols..(row + 1) * batch.cols).rev() {
                asked |= batch.targets[at] != IGNORE;
                if asked {
                    found.insert((batch.input_ids[at], names[at]));
                }
                asked &= batch.position_ids[at] != 0;
            }
        }
        found
    }

    proptest! {
        #[test]
        fn a_token_has_one_name_in_every_layout(lengths in prop::collection::vec(2u32..30, 2..10), rows in 1usize..5) {
            let examples: Vec<_> = (1..).zip(&lengths).map(|(n, &length)| example(n, length)).collect();
            let all: Vec<_> = examples.iter().collect();
            let padded = collate(&all, 0);
            let expected = by_token(&padded);
            prop_assert_eq!(expected.len(), expected.iter().map(|(_, name)| name).collect::<BTreeSet<_>>().len());
            let cols = lengths.iter().sum::<u32>() as usize;
            let pairs: Vec<_> = all.chunks(2).map(<[_]>::to_vec).collect();
            for batch in [collate_packed(std::slice::from_ref(&all), cols, 0), collate_packed(&pairs, 60, 9)] {
                prop_assert_eq!(&by_token(&batch), &expected);
                let parts: BTreeSet<_> = batch.micro_batches(rows).flat_map(|part| by_token(&part)).collect();
                prop_assert_eq!(&parts, &expected);
            }
            let parts: BTreeSet<_> = padded.micro_batches(rows).flat_map(|part| by_token(&part)).collect();
            prop_assert_eq!(&parts, &expected);
        }
    }
}
