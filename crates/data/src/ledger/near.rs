//! Documents that are nearly equal, found in one pass over a text of any size in which no text is kept.
//!
//! As in [`super::similar`], a document is the set of its runs of three words, and MinHash makes 32 numbers of it.
//! These alone are kept, 128 bytes a document. Documents that agree in one of eight bands of four numbers are
//! compared: they are nearly equal if 26 of the 32 numbers agree. That estimates a Jaccard similarity of 0.8 with a
//! standard error of 0.07: of pairs that are 0.9 alike 99% are found, of pairs that are 0.5 alike one in 5,000.
//!
//! The time is a few operations a word, and the memory has a bound: of more than [`MOST`] documents the first are
//! compared.

use std::path::{Path, PathBuf};

use super::similar::{BAND, BANDS, chain, least, triples, words};
use crate::split::Split;
use crate::task::SourceRef;

/// Documents that are compared, at most: 80 MB of numbers.
const MOST: usize = 1 << 19;
/// Numbers of two documents that agree if they are nearly equal.
const AGREE: usize = 26;
/// A document of fewer words is too short to be nearly equal to another.
const LEAST_WORDS: usize = 18;
/// Of many documents alike, so many are enough to be found by.
const FIRST: usize = 16;

/// The documents met so far.
#[derive(Debug, Default)]
pub(crate) struct NearDocuments {
    documents: Vec<Document>,
    files: Vec<PathBuf>,
    not_compared: u64,
}

#[derive(Debug)]
struct Document {
    numbers: [u32; BANDS * BAND],
    held_out: bool,
    file: u32,
    line: u64,
}

/// A document that is nearly a training document: an earlier one, if it is of the training split itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NearPair {
    pub(crate) held_out: bool,
    pub(crate) place: SourceRef,
    /// Where the other one stands.
    pub(crate) like: SourceRef,
}

impl NearDocuments {
    /// Adds a document.
    pub(crate) fn add(&mut self, split: Split, text: &str, place: &SourceRef) {
        let words = words(text);
        if words.len() < LEAST_WORDS {
            return;
        }
        if self.documents.len() == MOST {
            self.not_compared += 1;
            return;
        }
        if self.files.last() != Some(&place.file) {
            self.files.push(place.file.clone());
        }
        self.documents.push(Document {
            numbers: least(triples(&words)).map(|number| number as u32),
            held_out: split != Split::Train,
            file: self.files.len() as u32 - 1,
            line: place.line,
        });
    }

    /// How many were not compared, since there were too many.
    pub(crate) fn not_compared(&self) -> u64 {
        self.not_compared
    }

    /// Those that are nearly a training document, in the order in which they were added.
    pub(crate) fn pairs(&self) -> Vec<NearPair> {
        let mut like: Vec<Option<u32>> = vec![None; self.documents.len()];
        for band in 0..BANDS {
            let of_band = band * BAND..(band + 1) * BAND;
            let key = |document: &Document| {
                let numbers = document.numbers[of_band.clone()].iter();
                chain(&numbers.map(|&number| u64::from(number)).collect::<Vec<_>>())
            };
            let numbered = (0u32..).zip(&self.documents);
            let mut keys: Vec<(u64, u32)> = numbered.map(|(n, one)| (key(one), n)).collect();
            keys.sort_unstable();
            for group in keys.chunk_by(|one, other| one.0 == other.0) {
                self.compare(group, &mut like);
            }
        }
        let found = self.documents.iter().zip(like);
        found
            .filter_map(|(one, like)| {
                Some(NearPair {
                    held_out: one.held_out,
                    place: self.place(one),
                    like: self.place(&self.documents[like? as usize]),
                })
            })
            .collect()
    }

    /// Compares documents of one band, in their order, with the first training documents among them.
    fn compare(&self, group: &[(u64, u32)], like: &mut [Option<u32>]) {
        let numbers = group.iter().map(|&(_, number)| number);
        let training = numbers
            .clone()
            .filter(|&number| !self.documents[number as usize].held_out);
        let first: Vec<u32> = training.take(FIRST).collect();
        for number in numbers {
            let one = &self.documents[number as usize];
            let known = &mut like[number as usize];
            let mut before = first
                .iter()
                .filter(|&&other| one.held_out || other < number);
            if known.is_none() {
                *known = before
                    .find(|&&other| one.agrees(&self.documents[other as usize]))
                    .copied();
            }
        }
    }

    fn place(&self, document: &Document) -> SourceRef {
        let file: &Path = &self.files[document.file as usize];
        SourceRef {
            file: file.to_owned(),
            line: document.line,
        }
    }
}

impl Document {
    fn agrees(&self, other: &Document) -> bool {
        let both = self.numbers.iter().zip(&other.numbers);
        both.filter(|(one, other)| one == other).count() >= AGREE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::mix;

    fn text(seed: u64, words: u64) -> String {
        let word = |n: u64| format!("w{} ", mix(seed, n) % 5_000);
        (0..words).map(word).collect()
    }

    fn pairs(texts: &[(Split, String)]) -> Vec<(bool, String)> {
        let mut near = NearDocuments::default();
        for (line, (split, text)) in (1..).zip(texts) {
            let file = "f".into();
            near.add(*split, text, &SourceRef { file, line });
        }
        assert_eq!(near.not_compared(), 0);
        let pairs = near.pairs().into_iter();
        let said = |pair: NearPair| (pair.held_out, format!("{} and {}", pair.place, pair.like));
        pairs.map(said).collect()
    }

    #[test]
    fn nearly_equal_documents_are_found_and_others_not() {
        let mut texts: Vec<(Split, String)> =
            (0..300).map(|n| (Split::Train, text(n, 200))).collect();
        texts.extend((300..400).map(|n| (Split::Validation, text(n, 200))));
        assert_eq!(pairs(&texts), []);
        // Half of it is the same: that is another document.
        let half = format!("{}{}", text(5, 100), text(999, 100));
        texts.push((Split::Train, half));
        assert_eq!(pairs(&texts), []);

        texts.push((Split::Train, format!("A title. {}", texts[7].1)));
        texts.push((Split::Validation, format!("{} The end.", texts[9].1)));
        // A held-out document that is like another one of them is no fault.
        texts.push((Split::Validation, format!("{} The end.", texts[350].1)));
        let expected = [(false, "f:402 and f:8"), (true, "f:403 and f:10")];
        assert_eq!(
            pairs(&texts),
            expected.map(|(held_out, places)| (held_out, places.to_owned()))
        );
    }

    /// What the estimate is worth, on pairs of a known similarity.
    #[test]
    fn pairs_are_found_by_how_alike_they_are() {
        let found = |changed: u64| {
            let of_pair = |n: u64| {
                let kept = text(n, 300 - changed);
                let [one, other] = [n + 10_000, n + 20_000]
                    .map(|seed| (Split::Train, kept.clone() + &text(seed, changed)));
                [one, other]
            };
            let texts: Vec<_> = (0..200).flat_map(of_pair).collect();
            pairs(&texts).len()
        };
        // Of about 298 triples a side so many differ: Jaccard similarities of 0.90 and of 0.50.
        let (much, little) = (found(16), found(100));
        assert!(much >= 190 && little <= 2, "{much} {little} of 200");
    }
}
