//! The core over libtorch: everything that touches its unsafe side, and the parts that every model
//! is built from. Other crates take [`Tensor`] from here and stay safe Rust.
//!
//! Reading order: [`device`], [`precision`], [`params`], the layers ([`layers`], [`ops`],
//! [`lora`], [`mod@attention`]), [`loss`], [`optim`] (the fused step, the gradient norm), [`safetensors`], and the native
//! module beneath (`native.rs`, `native/*.cpp`).
//!
//! Shapes are written with B rows of a batch, T positions, H heads, D head width, C model width,
//! V vocabulary, N = B · T.

pub mod attention;
mod cgroup;
pub mod device;
mod few_rows;
pub mod init;
pub mod layers;
pub mod lora;
pub mod loss;
pub mod map;
pub mod memory;
mod native;
pub mod ops;
pub mod optim;
pub mod params;
pub mod peak;
pub mod precision;
pub mod safetensors;
pub mod seed;

pub use attention::{AttentionMask, NewPosition, attend_newest, attention};
pub use device::{DeviceError, parse_device};
pub use init::Init;
pub use layers::{Embedding, LayerNorm, Linear, Norm, RmsNorm};
pub use lora::{LowRank, LowRankPart};
pub use map::MappedFile;
pub use native::NativeError;
pub use params::{Param, Params, Scope};
pub use precision::{Precision, to_compute_kind};
pub use seed::{seed_everything, step_seed, with_seed};
pub use tch::{Cuda, Device, IndexOp, Kind, TchError, Tensor, no_grad, no_grad_guard};

/// The version of libtorch that this build is linked to.
pub const LIBTORCH_VERSION: &str = "2.11.0";

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// What is multiplied by loops of our own gives the same on processors with fewer instructions.
    #[test]
    fn every_instruction_set_passes_the_tests_of_the_kernels() {
        let this = std::env::current_exe().expect("this program");
        for most in ["base", "v3"] {
            for tests in ["attention::", "few_rows::", "ops::tests::fused", "loss::"] {
                let mut alone = Command::new(&this);
                let done = alone.arg(tests).env("ETUDE_CPU_ISA", most).output();
                let done = done.expect("it runs");
                let told = String::from_utf8_lossy(&done.stdout);
                assert!(done.status.success(), "{most} {tests}: {told}");
                assert!(!told.contains(" 0 passed"), "{most} {tests}: {told}");
            }
        }
    }
}
