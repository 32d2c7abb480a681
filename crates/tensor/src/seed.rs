//! Seeds. Everything random in training is a function of (seed, step), so that no generator's state
//! has to be saved: the generator is seeded anew where it is used.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

/// libtorch's generators belong to the whole process, so whoever seeds them may disturb another thread.
static GENERATORS: Mutex<()> = Mutex::new(());

thread_local! {
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// Seeds libtorch's generators on all devices.
pub fn seed_everything(seed: u64) {
    with_seed(seed, || ());
}

/// Seeds libtorch's generators, then makes something random that depends on `seed` alone: no other thread
/// seeds them anew, or draws under a seed of its own, before it is made.
///
/// `make` must not seed anything itself: it would wait for its own end.
pub fn with_seed<T>(seed: u64, make: impl FnOnce() -> T) -> T {
    // The lock guards no data that a panic could have left half-made.
    let _held = GENERATORS.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed as i64);
    LAST.set(seed);
    make()
}

/// The seed that this thread gave last; 0 before it gave one. For what is drawn by a hash and from no generator, so
/// that no other thread can disturb it.
pub(crate) fn last_seed() -> u64 {
    LAST.get()
}

/// The seed of one step: well mixed, so that neighbouring steps and seeds are unrelated (the finalizer
/// of SplitMix64, Steele, Lea and Flood 2014).
pub fn step_seed(seed: u64, step: u64) -> u64 {
    let mut z = seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::step_seed;

    #[test]
    fn steps_and_seeds_give_different_seeds() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..20 {
            for step in 0..200 {
                assert!(
                    seen.insert(step_seed(seed, step)),
                    "collision at {seed}, {step}"
                );
            }
        }
    }
}
