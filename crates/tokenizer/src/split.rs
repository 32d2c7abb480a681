//! Cutting text into the words that BPE never merges across, for training, and into chunks that
//! can be encoded apart.
//!
//! Encoding itself uses the engine's own pre-tokenizer; a property test below holds the two equal.

use regex::Regex;
use std::sync::LazyLock;

use crate::train::Split;

/// One word as GPT-2's pattern has it, without its look-ahead, which [`words`] adds by hand: the
/// `regex` crate has none, and is many times as fast as the engines that have.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+")
        .expect("the pattern is fixed")
});

/// Calls `each` with every word of `text`, in order; together they are `text`.
pub(crate) fn words<'t>(text: &'t str, split: Split, mut each: impl FnMut(&'t str)) {
    match split {
        Split::Words => pattern_words(text, &mut each),
        Split::Digits => {
            let mut start = 0;
            for (at, digit) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
                pattern_words(&text[start..at], &mut each);
                start = at + digit.len_utf8();
                each(&text[at..start]);
            }
            pattern_words(&text[start..], &mut each);
        }
    }
}

fn pattern_words<'t>(text: &'t str, each: &mut impl FnMut(&'t str)) {
    let mut at = 0;
    while let Some(word) = WORD.find_at(text, at) {
        at = word.end();
        // Of a run of white space before a word, the last character belongs to that word.
        if at < text.len() && word.as_str().starts_with(char::is_whitespace) {
            let last = word
                .as_str()
                .chars()
                .next_back()
                .expect("a match is never empty");
            if last.is_whitespace() && word.len() > last.len_utf8() {
                at -= last.len_utf8();
            }
        }
        each(&text[word.start()..at]);
    }
}

/// Cuts `text` into chunks of about `size` bytes (more where no cut is safe).
///
/// A cut stands before a space or line break that follows a letter or digit. No alternative of
/// the pattern above matches across such a place, none looks behind, and the only look-ahead
/// concerns white space, so the words on both sides are those of the whole text.
pub(crate) fn chunks(text: &str, size: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (chunk, tail) = rest.split_at(safe_cut(rest, size).unwrap_or(rest.len()));
        rest = tail;
        Some(chunk)
    })
}

/// The first safe place to cut at or after `from`.
fn safe_cut(text: &str, from: usize) -> Option<usize> {
    let start = (0..=from.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))?;
    let mut previous = text[..start].chars().next_back()?;
    for (offset, character) in text[start..].char_indices() {
        if matches!(character, ' ' | '\n') && previous.is_alphanumeric() {
            return Some(start + offset);
        }
        previous = character;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::pre_tokenizer;
    use proptest::prelude::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn ours(text: &str, split: Split) -> Vec<String> {
        let mut found = Vec::new();
        words(text, split, |word| {
            found.push(crate::bytes::to_alphabet(word))
        });
        found
    }

    fn engines(text: &str, split: Split) -> Vec<String> {
        let mut pre_tokenized = PreTokenizedString::from(text);
        pre_tokenizer(split)
            .pre_tokenize(&mut pre_tokenized)
            .unwrap();
        let splits = pre_tokenized.get_splits(OffsetReferential::Normalized, OffsetType::None);
        splits
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .filter(|w| !w.is_empty())
            .collect()
    }

    /// Text rich in what the pattern cares about.
    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                Just(" ".to_owned()),
                Just("\n".to_owned()),
                Just("\u{a0}\t ".to_owned()),
                Just("'s".to_owned()),
                Just("'LL".to_owned()),
                "[0-9]{1,4}",
                "[a-zA-Zéß東]{1,4}",
                "[.,!<>|'-]{1,3}",
                "[²½Ⅷ٣]",
                "\\PC{0,3}",
            ],
            0..24,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn words_are_the_engines(text in text()) {
            for split in [Split::Words, Split::Digits] {
                prop_assert_eq!(ours(&text, split), engines(&text, split));
            }
        }

        #[test]
        fn cutting_into_chunks_changes_no_word(text in text(), size in 0usize..9) {
            for split in [Split::Words, Split::Digits] {
                let cut: Vec<String> =
                    chunks(&text, size).flat_map(|chunk| engines(chunk, split)).collect();
                prop_assert_eq!(cut, engines(&text, split));
            }
        }
    }

    /// The tables of Unicode may be of different age here and in the engine.
    #[test]
    fn every_character_is_of_the_same_class() {
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for block in all.chunks(4096) {
            // A letter joins the x, a digit its like, white space neither, and others the dot.
            let text: String = block.iter().flat_map(|c| ['x', *c, *c, '.']).collect();
            let same = ours(&text, Split::Words) == engines(&text, Split::Words);
            assert!(same, "in the block from U+{:X}", block[0] as u32);
        }
    }

    #[test]
    fn chunks_are_cut_where_it_is_safe() {
        let found: Vec<&str> = chunks("one two  three, four\nfive", 4).collect();
        assert_eq!(found, ["one two", "  three, four", "\nfive"]);
    }
}
