//! The order of data: which item comes at which place of an endless stream of epochs.
//!
//! Every epoch is its own permutation of the items, computed for one place at a time by a keyed
//! cipher over the item numbers, so any place is found in O(1) with no state: step 1,000,000 of a
//! resumed run costs what step 0 does, and nothing is skipped or read twice.
//!
//! The permutation is a balanced Feistel network on the smallest even number of bits that holds all
//! items, with cycle walking: a result outside `0..n` is enciphered again until it falls inside
//! (Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002). The domain is less than four
//! times `n`, so fewer than four walks are needed on average. This is a shuffle, not cryptography.
//!
//! The numbers are part of the format of a run: changing them changes what a resumed run reads, so
//! the tests hold them to fixed values.

/// Rounds of the Feistel network; more than enough for a thorough shuffle even of very few items.
const ROUNDS: u64 = 8;

/// The order of `n` items over an endless stream of epochs, as a pure function of a seed.
///
/// ```
/// let order = etude_data::Order::new(3, 42);
/// let mut first_epoch: Vec<u64> = (0..3).map(|place| order.at(place).item).collect();
/// first_epoch.sort();
/// assert_eq!(first_epoch, [0, 1, 2]);
/// assert_eq!(order.at(3_000_000_000_000).epoch, 1_000_000_000_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    n: u64,
    seed: u64,
    /// Bits of each half of the Feistel network.
    half: u32,
}

/// One place of the stream: the epoch it lies in and the item found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many whole epochs came before.
    pub epoch: u64,
    /// The item, below n.
    pub item: u64,
}

impl Order {
    /// An order of `n` items.
    ///
    /// # Panics
    /// When `n` is 0: an empty set must be refused where it is read, by name.
    pub fn new(n: u64, seed: u64) -> Order {
        assert!(n > 0, "the order of no items is not defined");
        let bits = u64::BITS - (n - 1).leading_zeros();
        Order {
            n,
            seed,
            half: bits.div_ceil(2).max(1),
        }
    }

    /// The number of items, which is the length of an epoch.
    pub fn items(&self) -> u64 {
        self.n
    }

    /// What lies at place `index` of the stream.
    pub fn at(&self, index: u64) -> Place {
        let epoch = index / self.n;
        Place {
            epoch,
            item: self.permute(epoch, index % self.n),
        }
    }

    /// The item at `place` of `epoch`.
    fn permute(&self, epoch: u64, place: u64) -> u64 {
        let key = mix(self.seed, epoch);
        let mut value = place;
        loop {
            value = self.encipher(key, value);
            if value < self.n {
                return value;
            }
        }
    }

    /// One pass of the network: a bijection of `0..4^half`.
    fn encipher(&self, key: u64, value: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for round in 0..ROUNDS {
            let scrambled = mix(key.wrapping_add(round), right) >> (u64::BITS - self.half);
            (left, right) = (right, left ^ scrambled);
        }
        (left << self.half) | right
    }
}

/// A 64-bit hash of two numbers: two rounds of the SplitMix64 finalizer (Steele, Lea and Flood,
/// *Fast Splittable Pseudorandom Number Generators*, 2014).
pub(crate) fn mix(seed: u64, number: u64) -> u64 {
    finalize(finalize(seed) ^ number.wrapping_add(1).wrapping_mul(GOLDEN))
}

/// The odd number nearest to 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn finalize(value: u64) -> u64 {
    let mut z = value.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epoch(order: &Order, epoch: u64) -> Vec<u64> {
        let n = order.items();
        (epoch * n..(epoch + 1) * n)
            .map(|i| order.at(i).item)
            .collect()
    }

    fn is_bijection(order: &Order, number: u64) -> bool {
        let mut items = epoch(order, number);
        items.sort_unstable();
        items.iter().enumerate().all(|(i, &item)| i as u64 == item)
    }

    #[test]
    fn every_small_size_is_a_bijection() {
        for n in 1..=300 {
            for number in [0, 1, 7] {
                assert!(
                    is_bijection(&Order::new(n, 5), number),
                    "n = {n}, epoch {number}"
                );
            }
        }
    }

    #[test]
    fn a_large_size_is_a_bijection() {
        assert!(is_bijection(&Order::new(1_000_003, 9), 2));
        assert!(is_bijection(&Order::new(1 << 18, 9), 0));
    }

    #[test]
    fn the_largest_size_stays_inside() {
        for n in [u64::MAX, 1 << 63, (1 << 63) + 1] {
            let order = Order::new(n, 3);
            for index in [0, 1, n - 1] {
                let place = order.at(index);
                assert!(place.item < n && place.epoch == 0);
            }
        }
    }

    proptest! {
        #[test]
        fn any_size_and_seed_is_a_bijection(n in 1u64..5_000, seed: u64, number in 0u64..1_000_000) {
            prop_assert!(is_bijection(&Order::new(n, seed), number));
        }

        #[test]
        fn a_place_needs_no_history(n in 1u64..1_000_000_000, seed: u64, index in 0u64..u64::MAX / 2) {
            let order = Order::new(n, seed);
            let place = order.at(index);
            prop_assert_eq!(place.epoch, index / n);
            prop_assert!(place.item < n);
            prop_assert_eq!(place, Order::new(n, seed).at(index));
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let order = Order::new(100, 1);
        assert_ne!(epoch(&order, 0), epoch(&order, 1));
        assert_ne!(epoch(&order, 0), epoch(&Order::new(100, 2), 0));
        assert_ne!(epoch(&order, 0), (0..100).collect::<Vec<u64>>());
    }

    /// Each of the 24 orders of four items should come up about 1,000 times in 24,000 epochs: a
    /// standard deviation is 31, so 200 off means a lopsided shuffle.
    #[test]
    fn all_orders_of_few_items_are_equally_likely() {
        let order = Order::new(4, 11);
        let mut seen = std::collections::BTreeMap::new();
        for number in 0..24_000 {
            *seen.entry(epoch(&order, number)).or_insert(0u32) += 1;
        }
        assert_eq!(seen.len(), 24);
        assert!(
            seen.values().all(|&count| (800..1_200).contains(&count)),
            "{seen:?}"
        );
    }

    /// Where item 0 lands is uniform over 1,000 places, and neighbours do not stay neighbours.
    #[test]
    fn shuffles_thoroughly() {
        let order = Order::new(1_000, 17);
        let items = epoch(&order, 0);
        let neighbours = items
            .windows(2)
            .filter(|w| w[0].abs_diff(w[1]) == 1)
            .count();
        assert!(
            neighbours < 12,
            "{neighbours} of 999 neighbours stayed together; 2 are expected"
        );
        let mean: f64 = (0..2_000)
            .map(|e| order.at(e * 1_000).item as f64)
            .sum::<f64>()
            / 2_000.0;
        assert!(
            (mean - 499.5).abs() < 30.0,
            "the first place holds item {mean} on average"
        );
    }

    /// Fixed for good: a change here means that resumed runs read other data than they would have.
    /// The numbers are from `scripts/goldens/order.py`, which shares no code with this file.
    #[test]
    fn the_numbers_never_change() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../tests/goldens/order.json")).expect("JSON");
        let cases = cases.as_array().expect("a list");
        assert_eq!(cases.len(), 9);
        for case in cases {
            let number = |key: &str| case[key].as_u64().expect("a whole number");
            let order = Order::new(number("n"), number("seed"));
            for (i, item) in case["items"].as_array().expect("a list").iter().enumerate() {
                let index = number("first") + i as u64;
                assert_eq!(Some(order.at(index).item), item.as_u64(), "{case}");
            }
        }
    }
}
