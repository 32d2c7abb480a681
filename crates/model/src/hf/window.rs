//! How far back the layers of a model see, as its `config.json` says.

use serde_json::Value;

use super::config::Fields;
use super::error::FolderError;
use crate::config::{Family, ModelConfig};

const LAYER_TYPES: &str = "layer_types";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The window of all layers; none where they see the whole context.
///
/// # Errors
/// A field that is no number, or a window of some layers.
pub(super) fn read(fields: &Fields<'_>, base: &ModelConfig) -> Result<Option<i64>, FolderError> {
    if base.family == Family::Mistral {
        return match fields.find(&[LAYER_TYPES]) {
            Some(listed) => of_listed(fields, base, listed),
            None => window(fields),
        };
    }
    if fields.flag("use_sliding_window", false)? && hides(fields, base)? {
        return Err(fields.error(
            "use_sliding_window",
            "is true, and some layers see less than the context; that is supported for mistral alone",
        ));
    }
    Ok(None)
}

/// The window of a Mistral whose layers are listed, which Transformers takes for a Ministral.
fn of_listed(
    fields: &Fields<'_>,
    base: &ModelConfig,
    listed: &Value,
) -> Result<Option<i64>, FolderError> {
    let kinds: Vec<&str> = match listed {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if kinds.len() as i64 != base.n_layer {
        let reason = format!(
            "is {listed}; it names the kind of each of the {} layers, or is left out",
            base.n_layer
        );
        return Err(fields.error(LAYER_TYPES, reason));
    }
    if let Some(other) = kinds.iter().find(|kind| ![FULL, SLIDING].contains(kind)) {
        let reason = format!("names `{other}`; {FULL} and {SLIDING} are known");
        return Err(fields.error(LAYER_TYPES, reason));
    }
    if !kinds.contains(&SLIDING) {
        return Ok(None);
    }
    let Some(window) = window(fields)? else {
        let reason = format!("is null, and {LAYER_TYPES} names {SLIDING}; write the window");
        return Err(fields.error("sliding_window", reason));
    };
    match kinds.contains(&FULL) {
        false => Ok(Some(window)),
        true if window >= base.context => Ok(None),
        true => Err(fields.error(
            LAYER_TYPES,
            format!(
                "names both {FULL} and {SLIDING}; one kind for all layers is supported: run this model with Transformers"
            ),
        )),
    }
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
    let listed = fields.object.get(LAYER_TYPES).and_then(Value::as_array);
    let any = match listed {
        Some(types) => types.iter().any(|layer| layer == SLIDING),
        None => first < base.n_layer,
    };
    let window = window(fields)?;
    Ok(any && window.is_some_and(|window| window < base.context))
}
