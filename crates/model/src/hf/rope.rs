//! Rotary positions, as a `config.json` has them.

use serde_json::Value;

use super::config::Fields;
use super::error::FolderError;
use crate::config::RotaryScaling;

/// Transformers' base where a file names none.
const THETA: f64 = 10_000.0;

/// Base and scaling. Old files have `rope_theta` and `rope_scaling`, new ones both in `rope_parameters`. Where both are,
/// Transformers takes `rope_scaling`.
///
/// # Errors
/// The field that means nothing, or what the decoder lacks.
pub(super) fn read(
    fields: &Fields<'_>,
    context: i64,
) -> Result<(f64, Option<RotaryScaling>), FolderError> {
    let nested = ["rope_scaling", "rope_parameters"]
        .into_iter()
        .filter_map(|name| Some((name, fields.find(&[name])?.as_object()?)))
        .find(|(_, object)| !object.is_empty());
    let Some((name, object)) = nested else {
        return Ok((theta(fields)?, None));
    };
    if let Some((kind, _)) = object.iter().find(|(_, value)| value.is_object()) {
        let reason = format!(
            "has settings of its own for layers of the kind `{kind}`; one setting for all layers is supported"
        );
        return Err(fields.error(name, reason));
    }
    let inner = Fields {
        path: fields.path,
        object,
    };
    let theta = match object.contains_key("rope_theta") {
        true => theta(&inner)?,
        false => theta(fields)?,
    };
    let scaling = scaling(fields, &inner, context)?;
    let factor = match scaling {
        Some(RotaryScaling::Linear { factor } | RotaryScaling::Llama3 { factor, .. }) => factor,
        None => return Ok((theta, None)),
    };
    if factor <= 0.0 {
        return Err(inner.error("factor", format!("is {factor}, which is not above 0")));
    }
    // Without scaling Transformers looks at it as little.
    for place in [&inner, fields] {
        if place.float("partial_rotary_factor", 1.0)? != 1.0 {
            let reason = "is not 1, and the positions are scaled; the whole width of a head is turned here: leave it out";
            return Err(place.error("partial_rotary_factor", reason));
        }
    }
    Ok((theta, scaling))
}

fn theta(fields: &Fields<'_>) -> Result<f64, FolderError> {
    let theta = match fields.object.get("rope_theta") {
        Some(Value::Null) => {
            let reason = format!("is null; write the number, or leave it out for {THETA}");
            return Err(fields.error("rope_theta", reason));
        }
        _ => fields.float("rope_theta", THETA)?,
    };
    match theta > 0.0 {
        true => Ok(theta),
        false => Err(fields.error("rope_theta", format!("is {theta}, which is not above 0"))),
    }
}

fn scaling(
    fields: &Fields<'_>,
    inner: &Fields<'_>,
    context: i64,
) -> Result<Option<RotaryScaling>, FolderError> {
    let kind = inner.text("rope_type").or(inner.text("type"));
    let kind = kind.unwrap_or("default");
    let number = |name: &str| match inner.find(&[name]) {
        Some(_) => inner.float(name, 1.0),
        None => {
            let reason = format!("is missing, and the rope_type `{kind}` needs it");
            Err(inner.error(name, reason))
        }
    };
    Ok(match kind {
        "default" => None,
        "linear" => Some(RotaryScaling::Linear {
            factor: number("factor")?,
        }),
        "llama3" => Some(RotaryScaling::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original_context: fields.float(
                "original_max_position_embeddings",
                inner.float("original_max_position_embeddings", context as f64)?,
            )?,
        }),
        other => {
            let reason = format!("is `{other}`; default, linear and llama3 are known");
            return Err(inner.error("rope_type", reason));
        }
    })
}
