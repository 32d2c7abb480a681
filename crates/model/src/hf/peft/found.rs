//! What an adapter folder holds, as tensors for a base.

use std::path::Path;

use etude_tensor::{Tensor, no_grad};

use super::super::error::FolderError;
use super::super::names;
use super::{MAGNITUDE, PREFIX, WEIGHTS};
use crate::config::ModelConfig;
use crate::lora::LinearModule;

/// A folder's adapter, on the base's device.
pub(super) struct Found {
    /// In the decoder's order.
    pub(super) updates: Vec<Update>,
    /// Modules that were trained whole.
    pub(super) whole: Vec<Whole>,
    /// Whether among them are an embedding and an output layer, tied in the base, that go apart from here on.
    pub(super) parts: bool,
}

impl Found {
    /// Refuses an adapter with what is no finite number: merged, it would spoil the model.
    ///
    /// # Errors
    /// The file and its tensor.
    pub(super) fn demand_finite(
        &self,
        folder: &Path,
        config: &ModelConfig,
    ) -> Result<(), FolderError> {
        let updates = self.updates.iter().flat_map(|update| {
            let [a, b] = update.module.sides();
            let magnitude = update.magnitude.as_ref();
            [
                Some((a, &update.a)),
                Some((b, &update.b)),
                magnitude.map(|values| (format!("{}.{MAGNITUDE}", update.module.path), values)),
            ]
        });
        let whole = self.whole.iter().map(|whole| {
            // A part of several is told by all their names.
            let names = names::place(config, &whole.name).names;
            Some((names.join(" or "), &whole.values))
        });
        for (name, values) in updates.chain(whole).flatten() {
            let finite = no_grad(|| values.isfinite().all().int64_value(&[])); // sync
            if finite == 0 {
                return Err(FolderError::NotFinite {
                    path: folder.join(WEIGHTS),
                    tensor: format!("{PREFIX}{name}"),
                });
            }
        }
        Ok(())
    }
}

impl LinearModule {
    /// PEFT's names of the tensors that are [`Update::a`] and [`Update::b`].
    pub(super) fn sides(&self) -> [String; 2] {
        let leaves = match self.is_table() {
            true => ["lora_embedding_B", "lora_embedding_A"],
            false => ["lora_A.weight", "lora_B.weight"],
        };
        leaves.map(|leaf| format!("{}.{leaf}", self.path))
    }
}

/// The values of a module, or of one that lies in a parameter with others.
pub(super) struct Whole {
    /// The parameter's name in the decoder.
    pub(super) name: String,
    /// Its first row there.
    pub(super) start: i64,
    /// In the decoder's layout.
    pub(super) values: Tensor,
}

/// A module's update.
pub(super) struct Update {
    pub(super) module: LinearModule,
    /// `(rank, inputs)`.
    pub(super) a: Tensor,
    /// `(outputs, rank)`.
    pub(super) b: Tensor,
    pub(super) scale: f64,
    /// `(outputs)`, with DoRA.
    pub(super) magnitude: Option<Tensor>,
}
