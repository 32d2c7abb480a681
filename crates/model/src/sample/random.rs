//! The generator behind sampling: SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
//! pseudorandom number generators"). Small, the same on every machine, and each row has its own.

/// The odd integer nearest 2⁶⁴ divided by the golden ratio: the step between states.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of uniform numbers.
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    pub(super) fn new(seed: u64) -> Self {
        // Mixed once, so that the streams of neighbouring seeds are not one stream shifted.
        Self { state: mix(seed) }
    }

    /// The next number, uniform in [0, 1), with 53 random bits.
    pub(super) fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_add(STEP);
        (mix(self.state) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_splitmix64() {
        // The reference's first outputs for the state 0.
        let mut state = 0u64;
        let first = [
            0xe220_a839_7b1d_cdaf,
            0x6e78_9e6a_a1b9_65f4,
            0x06c4_5d18_8009_454f_u64,
        ];
        for expected in first {
            state = state.wrapping_add(STEP);
            assert_eq!(mix(state), expected);
        }
    }

    #[test]
    fn is_uniform_enough_and_seeds_differ() {
        let mut counts = [0u32; 10];
        for seed in 0..100 {
            let mut random = Random::new(seed);
            for _ in 0..1000 {
                counts[(random.next() * 10.0) as usize] += 1;
            }
        }
        // 10,000 each are expected, with a deviation of 95.
        assert!(
            counts.iter().all(|c| c.abs_diff(10_000) < 500),
            "{counts:?}"
        );
        assert_ne!(Random::new(0).next(), Random::new(1).next());
    }
}
