//! The process's allocator, libtorch's as well: mimalloc in place of the system's.
//!
//! A training step frees and takes tensors of some hundred sizes again and again, each aligned. glibc's allocator
//! either gives every large one back to the system, which zeroes its pages anew at the next step, or, told to keep
//! them, seldom finds a freed place that fits an aligned block: in fine-tuning on batches of unlike lengths the
//! process came to hold 2.5 times what it needed. `docs/benchmarks.md` has the figures.

use etude_tensor::memory;
use libmimalloc_sys::{mi_collect, mi_option_set_default, mi_option_t};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2's `mimalloc.h`, for which the bindings have no name.
const PURGE_DELAY: mi_option_t = 15;
/// Milliseconds that a freed page is kept before the system gets it back, ten times as long where a block is large.
/// mimalloc's own 10 are less than a step takes, so that each step's pages would be zeroed anew; with 300 training by
/// LoRA took up to a fifth longer.
const KEPT: std::ffi::c_long = 10_000;

/// Sets how long freed memory is kept, unless the user does by `MIMALLOC_PURGE_DELAY`, and how it is given back before.
/// Called once, first of all.
#[allow(unsafe_code)]
pub(crate) fn keep_freed_memory() {
    // SAFETY: it stores a number, and no other thread runs yet.
    unsafe { mi_option_set_default(PURGE_DELAY, KEPT) }
    memory::gives_back(|| {
        // SAFETY: it may be called at any time; each thread has a heap of its own.
        let collect = || unsafe { mi_collect(true) };
        rayon::broadcast(|_| collect());
        collect();
    });
}

#[cfg(test)]
mod tests {
    use etude_tensor::{Device, Kind, Tensor};
    use libmimalloc_sys::{mi_is_in_heap_region, mi_option_get};

    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn tensors_lie_in_its_heap() {
        let tensor = Tensor::zeros([1000], (Kind::Float, Device::Cpu));
        // SAFETY: it compares addresses.
        assert!(unsafe { mi_is_in_heap_region(tensor.data_ptr()) });
        let on_the_stack = 1.0_f32;
        // SAFETY: as above.
        assert!(unsafe { !mi_is_in_heap_region((&raw const on_the_stack).cast()) });
    }

    #[test]
    #[allow(unsafe_code)]
    fn the_option_is_the_purge_delay() {
        // SAFETY: it reads a number.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(delay(), 10, "mimalloc's own");
        keep_freed_memory();
        assert_eq!(delay(), KEPT);
    }
}
