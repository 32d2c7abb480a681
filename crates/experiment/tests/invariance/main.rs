//! The invariance contract: what a run is asked to do, and in which pieces it does it, are two things. A training
//! trajectory, that is every logged loss, gradient norm and validation loss and the final weights, is a function of
//! the recipe's data, model, optimizer and seed. It does not depend on
//!
//! | axis | varied here | pre-training | all weights | LoRA, dropout | tolerance |
//! |---|---|---|---|---|---|
//! | loader threads | 1, 2, 4 | runs | runs, steps | runs | none: bit for bit |
//! | resumption points | a stop after every step | runs | runs | runs | none: bit for bit |
//! | when a run looks at itself | log, validation, samples, checkpoints, TensorBoard | runs | runs | runs | none: bit for bit |
//! | micro-batches (gradient accumulation) | 1, 2, 4 rows at a time of 6 | runs, steps | runs, steps | runs, steps | rounding |
//! | padding | padded, grouped by length, or an example at a time | | runs, steps | runs, steps | rounding |
//! | packing | several in a row, or one at a time | steps (documents kept apart) | runs, steps | runs, steps | rounding |
//! | compute threads | 1, 2, 3 | steps | steps | steps | rounding |
//! | all of these, changed at every resumption | | runs | runs | runs | rounding |
//!
//! *Runs* are whole runs of a recipe in a folder, compared by what they leave there ([`runs`]); *steps* are training
//! steps on the batches that the data crate makes, over more families, optimizers and precisions ([`steps`]).
//!
//! The first three axes move no floating-point operation: a batch is a function of (seed, step), a checkpoint holds
//! every number in full, and what looks at the model draws from generators of its own. So not a bit may differ.
//!
//! The others change the order in which the same numbers are added, and nothing else: gradients and losses are sums
//! over the step's places, taken in other parts; a product of other rows goes through other blocks of the same
//! kernel; attention over documents one by one and over a masked row sums its softmax in other lengths. How far that
//! may take a trajectory is stated once, in [`trajectory::Tolerance`], and [`steps`] shows that the slightest
//! mistakes in what a step reads lie thousands of times further off.

mod place;
mod runs;
mod steps;
mod trajectory;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Fresh weights, dropout and the number of threads belong to the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
