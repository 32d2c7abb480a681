//! The decoder and what belongs to it: its settings, its cache, sampling from it, and the folders that
//! models live in, which are Hugging Face's.
//! What was verified of a model lies beside it ([`certificate`]).
//!
//! One decoder serves all families ([`Family`]); their names and layouts are known to [`hf`] and [`gguf`]
//! alone. A decoder may be frozen and carry a trainable adapter ([`lora`]).

mod block;
mod cache;
pub mod certificate;
mod config;
mod decoder;
mod generate;
pub mod gguf;
pub mod hf;
pub mod lora;
mod masks;
mod rotary;
mod sample;
mod text;

pub use cache::KvCache;
pub use config::{
    ConfigError, Family, MlpKind, ModelConfig, NormKind, Position, QkNorm, RotaryScaling, Sizes,
};
pub use decoder::{Decoder, Input, supervised_places};
pub use generate::{Beams, Continuation, FinishReason, GenerateError, Generator, Request};
pub use sample::{Sampling, SamplingError};
pub use text::{Generation, Prompt, TextGenerator, TextSettings};
