//! Counting n-grams of anything: words, token ids, characters.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each n-gram occurs.
pub(crate) type Counts<'a, T> = HashMap<&'a [T], u64>;

/// Counts the n-grams of length `n`; there are none in a shorter sequence.
pub(crate) fn count<T: Hash + Eq>(sequence: &[T], n: usize) -> Counts<'_, T> {
    assert!(n > 0, "n-grams have at least one element");
    let mut counts = HashMap::new();
    for gram in sequence.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

/// How many n-grams of length `n` a sequence of `length` has.
pub(crate) fn total(length: usize, n: usize) -> u64 {
    (length + 1).saturating_sub(n) as u64
}

/// The size of the multiset intersection: each n-gram counts as often as in the side that has less.
pub(crate) fn matches<T: Hash + Eq>(a: &Counts<'_, T>, b: &Counts<'_, T>) -> u64 {
    a.iter()
        .filter_map(|(gram, count)| b.get(gram).map(|other| count.min(other)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_clip_at_the_smaller_side() {
        let a = count(b"aaab", 1);
        let b = count(b"aabb", 1);
        assert_eq!(matches(&a, &b), 3);
        assert_eq!(count(b"aaab", 2)[b"aa".as_slice()], 2);
        assert!(count(b"ab", 3).is_empty());
        assert_eq!((total(4, 2), total(1, 3), total(0, 1)), (3, 0, 0));
    }
}
