//! An even sample of a stream of documents under a byte budget, in one pass and in memory of the
//! order of the budget.
//!
//! Documents are cut into pieces of a few kilobytes; each piece draws a priority from a hash of
//! its number, and those of lowest priority that fit the budget are kept. So each byte of the
//! stream is as likely to be kept as any other, whichever document it stands in, nothing needs
//! to be known of the stream's length, and the same stream gives the same sample.

use std::collections::BinaryHeap;

use crate::split;

/// Bytes of a piece: small beside a budget of some megabytes, large beside a word.
const PIECE: usize = 4096;
/// A piece without a safe cut (text without spaces) is cut at this many bytes all the same: a
/// broken word in 64 KiB is nothing to the statistics.
const LONGEST_PIECE: usize = 16 * PIECE;

/// The sample so far.
pub(crate) struct Sample {
    budget: u64,
    kept: BinaryHeap<(u64, u64, String)>,
    /// Pieces of this priority or higher are refused, since one of them had to go.
    limit: u64,
    pieces_seen: u64,
    pub(crate) documents_seen: u64,
    pub(crate) bytes_seen: u64,
    pub(crate) bytes_kept: u64,
}

impl Sample {
    pub(crate) fn new(budget: u64) -> Self {
        Self {
            budget,
            kept: BinaryHeap::new(),
            limit: u64::MAX,
            pieces_seen: 0,
            documents_seen: 0,
            bytes_seen: 0,
            bytes_kept: 0,
        }
    }

    /// Takes the next document of the stream.
    pub(crate) fn add(&mut self, document: &str) {
        self.documents_seen += 1;
        self.bytes_seen += document.len() as u64;
        for chunk in split::chunks(document, PIECE) {
            let mut rest = chunk;
            while rest.len() > LONGEST_PIECE {
                let cut = (0..=LONGEST_PIECE)
                    .rev()
                    .find(|at| rest.is_char_boundary(*at));
                let (piece, tail) = rest.split_at(cut.expect("0 is a boundary"));
                self.add_piece(piece);
                rest = tail;
            }
            self.add_piece(rest);
        }
    }

    fn add_piece(&mut self, piece: &str) {
        let priority = scrambled(self.pieces_seen);
        let number = self.pieces_seen;
        self.pieces_seen += 1;
        if priority >= self.limit {
            return;
        }
        self.bytes_kept += piece.len() as u64;
        self.kept.push((priority, number, piece.to_owned()));
        // The last piece stays whatever its size, so that a tiny budget still trains.
        while self.bytes_kept > self.budget && self.kept.len() > 1 {
            let (priority, _, dropped) = self.kept.pop().expect("it holds more than one");
            self.bytes_kept -= dropped.len() as u64;
            self.limit = priority;
        }
    }

    /// The kept pieces.
    pub(crate) fn into_pieces(self) -> Vec<String> {
        self.kept.into_iter().map(|(_, _, piece)| piece).collect()
    }
}

/// A bijection of 64 bits that looks random (the finalizer of SplitMix64).
fn scrambled(number: u64) -> u64 {
    let mut x = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(letter: char, bytes: usize) -> String {
        format!("{letter} ").repeat(bytes / 2)
    }

    #[test]
    fn everything_is_kept_within_the_budget() {
        let mut sample = Sample::new(100_000);
        let documents: Vec<String> = (0..9).map(|n| document('a', n * 1000)).collect();
        documents.iter().for_each(|document| sample.add(document));
        assert_eq!((sample.documents_seen, sample.bytes_seen), (9, 36_000));
        assert_eq!(sample.bytes_kept, 36_000);
        let kept: usize = sample.into_pieces().iter().map(String::len).sum();
        assert_eq!(kept, 36_000);
    }

    #[test]
    fn a_small_budget_takes_evenly_from_every_document() {
        let budget = 400_000;
        let mut sample = Sample::new(budget);
        for letter in ['a', 'b', 'c', 'd'] {
            sample.add(&document(letter, 1_000_000));
        }
        assert!(sample.bytes_kept <= budget && sample.bytes_kept > budget - 2 * PIECE as u64);
        let pieces = sample.into_pieces();
        for letter in ['a', 'b', 'c', 'd'] {
            let bytes: usize = pieces
                .iter()
                .filter(|p| p.contains(letter))
                .map(String::len)
                .sum();
            assert!(
                (60_000..140_000).contains(&bytes),
                "{letter}: {bytes} of about 100,000"
            );
        }
    }

    #[test]
    fn text_without_spaces_is_cut_all_the_same() {
        let mut sample = Sample::new(200_000);
        sample.add(&"東".repeat(1_000_000));
        assert!(sample.bytes_kept <= 200_000 && sample.bytes_kept > 100_000);
    }
}
