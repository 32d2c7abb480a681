//! How far back the layers of a model see, as its `config.json` says.

use serde_json::Value;

use super::config::Fields;
use super::error::FolderError;
use crate::config::{Family, ModelConfig};

/// The window of all layers; none where they see the whole context.
///
/// # Errors
/// A field that is no number, or a window of some layers.
pub(super) fn read(fields: &Fields<'_>, base: &ModelConfig) -> Result<Option<i64>, FolderError> {
    if base.family == Family::Mistral {
        return window(fields);
    }
    if fields.flag("use_sliding_window", false)? && hides(fields, base)? {
        return Err(fields.error(
            "use_sliding_window",
            "is true, and some layers see less than the context; that is supported for mistral alone",
        ));
    }
    Ok(None)
}

/// Transformers' default is a number, and null is none.
fn window(fields: &Fields<'_>) -> Result<Option<i64>, FolderError> {
    match fields.object.get("sliding_window") {
        None => Ok(Some(4096)),
        Some(_) => fields.int_or_none(&["sliding_window"]),
    }
}

/// Whether a window of Qwen's hides anything: it is that of the layers from `max_window_layers` on, 28 by default.
fn hides(fields: &Fields<'_>, base: &ModelConfig) -> Result<bool, FolderError> {
    let first = fields.int_or_none(&["max_window_layers"])?.unwrap_or(28);
    let listed = fields.object.get("layer_types").and_then(Value::as_array);
    let any = match listed {
        Some(types) => types.iter().any(|layer| layer == "sliding_attention"),
        None => first < base.n_layer,
    };
    let window = window(fields)?;
    Ok(any && window.is_some_and(|window| window < base.context))
}
