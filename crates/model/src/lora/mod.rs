//! LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024) as PEFT defines them: low-rank updates of chosen linear layers, the
//! base frozen.
//!
//! Modules go by their Hugging Face names (`q_proj`, `c_attn`), also where Etude stacks several of them
//! in one product: each has an update of its own. [`attach`] puts fresh ones into a decoder for
//! training; adapter folders and merging are [`crate::hf::peft`]'s.

mod adapter;
mod config;
mod modules;

pub use adapter::{Adapter, Frozen, attach};
pub(crate) use config::scale;
pub use config::{LoraConfig, LoraError, Targets};
pub(crate) use modules::{LinearModule, linear_modules, matches, outer_modules};
