//! A small random generator for resampling: SplitMix64 (Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", OOPSLA 2014).
//!
//! Its own here so that a seed gives the same interval in every release, whatever happens to other
//! crates' generators.

/// One stream of random numbers.
pub(crate) struct Stream {
    state: u64,
}

impl Stream {
    /// The stream number `index` of a seed. Streams of one seed start at unrelated places, so that
    /// every resample can be drawn by itself, on any thread.
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        Self {
            state: mix(mix(seed) ^ index.wrapping_mul(GOLDEN)),
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A number below `bound`, all equally likely (Lemire 2019: multiply, reject the few that would
    /// bias).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        assert!(bound > 0, "there is no number below 0");
        loop {
            let product = u128::from(self.next()) * u128::from(bound);
            let low = product as u64;
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (product >> 64) as usize;
            }
        }
    }
}

/// 2^64 divided by the golden ratio, made odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scrambles all 64 bits, reversibly.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_numbers() {
        // SplitMix64 from state 0 starts with these.
        let mut stream = Stream { state: 0 };
        assert_eq!(stream.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.next(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn every_number_is_as_likely() {
        let mut seen = [0_u32; 7];
        for index in 0..700 {
            let mut stream = Stream::new(3, index);
            for _ in 0..100 {
                seen[stream.below(7)] += 1;
            }
        }
        // 10,000 expected each, standard deviation 93.
        assert!(
            seen.iter().all(|&n| (9_600..10_400).contains(&n)),
            "{seen:?}"
        );
    }
}
