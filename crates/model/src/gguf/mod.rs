//! GGUF, the one-file format of llama.cpp: weights, mostly quantized, beside settings and tokenizer.
//! Version 2 and 3, little-endian (the specification is `docs/gguf.md` of the ggml repository).
//!
//! Reading order: [`file`] (the header, checked), `metadata`, [`format`] and `dequantize` (numbers),
//! `config`, `names` and `tokenizer` (what they mean), [`load`]; for the way out [`quantize`],
//! [`write`] and [`export`].
//!
//! A file is untrusted: each count, length, offset and shape is compared with the file's size and with
//! what the settings promise before memory is taken for it.

mod config;
mod cursor;
mod dequantize;
mod error;
mod export;
mod file;
mod format;
mod k_quants;
mod load;
mod metadata;
mod names;
mod quantize;
mod rope;
mod tokenizer;
mod write;

pub use dequantize::dequantize;
pub use error::GgufError;
pub use export::{ExportFormat, export};
pub use file::{GgufFile, TensorInfo};
pub use format::TensorFormat;
pub use load::{import, load, load_tokenizer, stored_formats};
pub use metadata::{Metadata, Value};
pub use quantize::quantize;
