//! The edge to Hugging Face's model folders: `config.json` and `generation_config.json`, the names and
//! layouts of each family's tensors, one file or shards. Inside Etude a parameter has Etude's name; only
//! this module knows the others.

mod config;
mod error;
mod fingerprint;
mod folder;
mod formats;
mod generation;
mod names;
pub mod peft;
mod rope;
mod shards;
#[cfg(test)]
mod tests;
mod window;

pub use config::TokenIds;
pub(crate) use config::to_json as config_json;
pub use error::FolderError;
pub use fingerprint::{combined, fingerprint, settings_fingerprint, weights_fingerprint};
pub(crate) use folder::write_json;
pub use folder::{
    LoadedModel, MAX_SHARD_BYTES, load, load_config, load_merged, load_to_ask, save, save_sharded,
};
pub use formats::{Formats, demand_finite, stored_formats};
pub(crate) use formats::{broken, settle};
pub use generation::{Recommended, load_generation, save_generation};
pub(crate) use names::place;
pub use names::{HfTensor, hf_tensors};
