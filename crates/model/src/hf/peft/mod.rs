//! Adapter folders, which are PEFT's: `adapter_config.json` and `adapter_model.safetensors`, both ways.
//!
//! Beside the base that its configuration names, such a folder is as good as a model folder:
//! [`super::load`] takes either. Here an adapter in training is [`save`]d and [`restore`]d, and
//! adapters are [`merge`]d into a base's weights.

mod config;
mod found;
mod read;
mod targets;
mod write;

use std::path::{Path, PathBuf};

use etude_tensor::{LowRank, LowRankPart, Tensor, no_grad};

use found::{Found, Update, Whole};
pub use write::save;

use super::error::FolderError;
use super::folder::read_json;
use crate::decoder::Decoder;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What DoRA's magnitudes are called in a module.
const MAGNITUDE: &str = "lora_magnitude_vector";
/// What PEFT puts before every name.
const PREFIX: &str = "base_model.model.";

/// Whether a folder holds an adapter and no model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && !folder.join("config.json").is_file()
}

/// The model folder that an adapter folder is for.
///
/// # Errors
/// When the configuration cannot be read or names no folder that is there.
pub fn base(folder: &Path) -> Result<PathBuf, FolderError> {
    let path = folder.join(CONFIG);
    let json = read_json(&path)?;
    let named = json
        .get("base_model_name_or_path")
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    let places = [PathBuf::from(named), folder.join(named)];
    let found = places
        .into_iter()
        .find(|place| !named.is_empty() && place.join("config.json").is_file());
    found.ok_or_else(|| FolderError::Field {
        path,
        field: "base_model_name_or_path".to_owned(),
        reason: format!(
            "names `{named}`, and no model folder is there; give the base model and this folder as its adapter (`--adapter`)"
        ),
    })
}

/// Adds adapters, each so many times over, to a decoder's weights. A module that an adapter trained whole
/// moves as far from the base's towards the adapter's. Where one makes the output layer another matrix than the
/// embedding that it was, the decoder has both from then on.
///
/// # Errors
/// What is wrong with a folder, or that it is an adapter for another base.
pub fn merge(decoder: &mut Decoder, adapters: &[(PathBuf, f64)]) -> Result<(), FolderError> {
    for (folder, _) in adapters {
        if decoder.config().tied && read::unties(folder, decoder)? {
            decoder.untie();
        }
    }
    // All are read before any is added: some hold copies of the base's weights, which are compared.
    let found: Vec<Found> = (adapters.iter())
        .map(|(folder, _)| {
            let found = read::read(folder, decoder)?;
            found.demand_finite(folder, decoder.config())?;
            Ok(found)
        })
        .collect::<Result<_, FolderError>>()?;
    let mut changed: Vec<Changed> = Vec::new();
    for ((folder, weight), found) in adapters.iter().zip(found) {
        let wrong = |reason: String| FolderError::Adapter {
            path: folder.clone(),
            reason,
        };
        let decomposed = |update: &Update| update.magnitude.is_some();
        if adapters.len() > 1 && found.updates.iter().any(decomposed) {
            let reason = "scales the base's own weights (`use_dora`), so that no other adapter can be merged beside it";
            return Err(wrong(reason.to_owned()));
        }
        let mut now: Vec<Changed> = Vec::new();
        for update in found.updates {
            let name = format!("{}.weight", update.module.linear);
            now.push((name.clone(), update.module.start, false));
            let alone = LowRank {
                a: update.a,
                parts: vec![LowRankPart {
                    start: update.module.start,
                    b: update.b,
                    scale: update.scale,
                    magnitude: update.magnitude,
                }],
                dropout: 0.0,
                layer: 0,
            };
            alone.merge_into(of(decoder, &name), *weight);
        }
        for whole in found.whole {
            now.push((whole.name.clone(), whole.start, true));
            let param = of(decoder, &whole.name);
            let values = whole.values.to_kind(param.kind());
            no_grad(|| {
                let mut rows = param.narrow(0, whole.start, values.size()[0]);
                if *weight == 1.0 {
                    rows.copy_(&values);
                } else {
                    let _ = rows.lerp_(&values, *weight);
                }
            });
        }
        // Two updates add up; what was trained whole stands for itself.
        let clash = |(name, start, whole): &&Changed| {
            let other = |(known, first, other): &Changed| {
                known == name && first == start && (*whole || *other)
            };
            changed.iter().any(other)
        };
        if let Some((name, ..)) = now.iter().find(clash) {
            return Err(wrong(format!(
                "trains `{name}`, and so does an adapter before it, one of them whole; the two cannot be merged"
            )));
        }
        changed.extend(now);
    }
    Ok(())
}

/// A parameter, its first row that an adapter changes, and whether it brings new values for these.
type Changed = (String, i64, bool);

fn of<'a>(decoder: &'a Decoder, name: &str) -> &'a Tensor {
    let param = decoder.params().get(name);
    param.expect("the module is the decoder's")
}

/// As [`restore`], of an adapter that was made elsewhere and is to be trained on. One that PEFT would train as two
/// matrices, where the base and so this decoder have one, is refused.
///
/// # Errors
/// As [`restore`].
///
/// # Panics
/// As [`restore`].
pub fn start_from(decoder: &Decoder, folder: &Path) -> Result<(), FolderError> {
    let found = read::read(folder, decoder)?;
    match found.parts {
        true => Err(read::parted(folder)),
        false => fill(decoder, folder, found),
    }
}

/// Copies the values that [`save`] put into a folder into the decoder's adapter, which has the same layers and ranks.
///
/// # Errors
/// What is wrong with the folder, or how its adapter differs.
///
/// # Panics
/// When the decoder has no adapter.
pub fn restore(decoder: &Decoder, folder: &Path) -> Result<(), FolderError> {
    fill(decoder, folder, read::read(folder, decoder)?)
}

fn fill(decoder: &Decoder, folder: &Path, found: Found) -> Result<(), FolderError> {
    let adapter = decoder.adapter().expect("an adapter was attached");
    let differs = |reason: String| FolderError::Adapter {
        path: folder.to_owned(),
        reason,
    };
    let known = |path: &str| {
        adapter
            .layers
            .iter()
            .any(|layer| layer.modules.iter().any(|own| own == path))
    };
    if let Some(extra) = found
        .updates
        .iter()
        .find(|update| !known(&update.module.path))
    {
        return Err(differs(format!(
            "updates `{}`, which lora.targets does not name",
            extra.module.path
        )));
    }
    for layer in &adapter.layers {
        for (path, (a, part)) in layer.modules.iter().zip(layer.update.pairs()) {
            let update = found
                .updates
                .iter()
                .find(|update| update.module.path == *path)
                .ok_or_else(|| {
                    differs(format!(
                        "has no update of `{path}`, which lora.targets names"
                    ))
                })?;
            if update.a.size() != a.size() {
                return Err(differs(format!(
                    "has rank {} in `{path}`, lora.rank is {}",
                    update.a.size()[0],
                    a.size()[0]
                )));
            }
            if (update.scale - part.scale).abs() > 1e-9 * part.scale {
                return Err(differs(format!(
                    "counts {} times in `{path}`; by lora.alpha, lora.rank and lora.rslora it would be {}",
                    update.scale, part.scale
                )));
            }
            let magnitudes = match (&part.magnitude, &update.magnitude) {
                (Some(own), Some(found)) => Some((own, found)),
                (None, None) => None,
                (own, _) => {
                    let (has, is) = match own {
                        Some(_) => ("no", "true"),
                        None => ("a", "false"),
                    };
                    return Err(differs(format!(
                        "has {has} magnitude of `{path}`, and lora.dora is {is}"
                    )));
                }
            };
            no_grad(|| {
                a.shallow_clone().copy_(&update.a);
                part.b.shallow_clone().copy_(&update.b);
                if let Some((own, found)) = magnitudes {
                    own.shallow_clone().copy_(found);
                }
            });
        }
    }
    for name in &adapter.whole {
        let whole = found
            .whole
            .iter()
            .find(|whole| whole.name == *name && whole.start == 0)
            .ok_or_else(|| {
                differs(format!(
                    "does not hold `{name}`, which lora.modules_to_save names"
                ))
            })?;
        let param = of(decoder, name);
        if param.size() != whole.values.size() {
            return Err(differs(format!("holds a part of `{name}` alone")));
        }
        no_grad(|| param.shallow_clone().copy_(&whole.values));
    }
    if let Some(Whole { name, .. }) = found
        .whole
        .iter()
        .find(|whole| !adapter.whole.contains(&whole.name))
    {
        return Err(differs(format!(
            "trains `{name}` whole, which is not among lora.modules_to_save"
        )));
    }
    Ok(())
}
