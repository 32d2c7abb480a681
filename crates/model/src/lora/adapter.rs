//! An adapter in a decoder: which layers are updated, and the parameters that training moves.

use std::path::{Path, PathBuf};

use etude_tensor::{Init, Kind, LowRank, LowRankPart, Params, Tensor, lora, no_grad};

use super::config::{LoraConfig, LoraError, Targets};
use super::modules::{self, LinearModule};
use crate::decoder::Decoder;

/// The adapter of a decoder.
#[derive(Debug)]
pub struct Adapter {
    config: LoraConfig,
    base: PathBuf,
    params: Params,
    pub(crate) layers: Vec<AdaptedLayer>,
    /// Parameters of the decoder that are trained whole.
    pub(crate) whole: Vec<String>,
}

/// What an adapter is put on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// The model folder that the decoder is from.
    pub base: PathBuf,
    /// The dtype that frozen matrices are kept in; none leaves them as they are. Norms and biases, small and
    /// delicate, stay as they are, and so does the adapter.
    pub kind: Option<Kind>,
}

/// A layer with its update.
#[derive(Debug)]
pub(crate) struct AdaptedLayer {
    /// The decoder's name of it: `layers.0.attn.qkv`.
    pub(crate) linear: String,
    /// Hugging Face's path of each updated part.
    pub(crate) modules: Vec<String>,
    pub(crate) update: LowRank,
}

impl Adapter {
    /// Its settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The model folder of the base, which its folder will name.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The `A` and `B` of all layers, and their magnitudes.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The update of a layer.
    pub(crate) fn update(&self, linear: &str) -> Option<&LowRank> {
        let layer = self.layers.iter().find(|layer| layer.linear == linear)?;
        Some(&layer.update)
    }
}

/// Freezes a decoder and puts a fresh adapter into it: `A` uniform on ±1/√inputs (PEFT's Kaiming-uniform
/// with a = √5), drawn from libtorch's generator, `B` zero, magnitudes as the rows of the weight are long. So the decoder
/// computes what it did before.
///
/// # Errors
/// When a setting is impossible or names what the model does not have.
pub fn attach(decoder: &mut Decoder, config: LoraConfig, frozen: Frozen) -> Result<(), LoraError> {
    config.validate()?;
    if decoder.adapter().is_some() {
        return Err(LoraError::Occupied);
    }
    let targets = chosen(decoder, &config)?;
    let whole = trained_whole(decoder, &config, &targets)?;
    freeze(
        decoder,
        &whole,
        frozen.kind.unwrap_or(decoder.params().kind()),
    );

    let mut params = Params::new(decoder.device(), decoder.params().kind());
    let mut layers: Vec<AdaptedLayer> = Vec::new();
    for group in targets.chunk_by(|one, other| one.linear == other.linear) {
        let number = layers.len() as u64;
        let param = decoder.params().get(&format!("{}.weight", group[0].linear));
        let weight = &param.expect("the layer is the decoder's");
        layers.push(fresh(&mut params, group, &config, number, weight));
    }
    for (name, linear) in decoder.linears_mut() {
        if let Some(layer) = layers.iter().find(|layer| layer.linear == name) {
            linear.low_rank = Some(layer.update.shallow_clone());
        }
    }
    decoder.set_adapter(Adapter {
        config,
        base: frozen.base,
        params,
        layers,
        whole,
    });
    Ok(())
}

/// The modules that the targets mean.
fn chosen(decoder: &Decoder, config: &LoraConfig) -> Result<Vec<LinearModule>, LoraError> {
    let all = modules::linear_modules(decoder);
    let Targets::Named(names) = &config.targets else {
        return Ok(all);
    };
    for name in names {
        if !all
            .iter()
            .any(|module| modules::matches(&module.path, name))
        {
            return Err(LoraError::Unknown {
                field: "targets",
                what: "linear layer",
                name: name.clone(),
                known: modules::leaves(all.iter().map(|module| module.path.as_str())),
            });
        }
    }
    Ok(all
        .into_iter()
        .filter(|module| {
            names
                .iter()
                .any(|name| modules::matches(&module.path, name))
        })
        .collect())
}

/// The decoder's parameters in the modules that are trained whole.
fn trained_whole(
    decoder: &Decoder,
    config: &LoraConfig,
    targets: &[LinearModule],
) -> Result<Vec<String>, LoraError> {
    let all = modules::whole_modules(decoder);
    let mut params = Vec::new();
    for name in &config.modules_to_save {
        // The output layer of a tied model is its embedding.
        let tied = name == "lm_head" && decoder.config().tied;
        let found: Vec<_> = all
            .iter()
            .filter(|(path, params)| match tied {
                true => params[0] == "embedding.weight",
                false => path.ends_with(name.as_str()), // PEFT's rule here: no dot is asked for
            })
            .collect();
        if found.is_empty() {
            return Err(LoraError::Unknown {
                field: "modules_to_save",
                what: "module that can be trained whole",
                name: name.clone(),
                known: modules::leaves(all.iter().map(|(path, _)| path.as_str())),
            });
        }
        for (path, names) in found {
            if targets.iter().any(|target| target.path == *path) {
                return Err(LoraError::Twice { name: name.clone() });
            }
            params.extend(names.iter().cloned());
        }
    }
    params.sort();
    params.dedup();
    Ok(params)
}

fn freeze(decoder: &Decoder, whole: &[String], frozen: Kind) {
    for param in decoder.params().entries() {
        if whole.contains(&param.name) {
            continue;
        }
        let mut tensor = param.tensor.set_requires_grad(false);
        if tensor.dim() == 2 && tensor.kind() != frozen {
            no_grad(|| tensor.set_data(&tensor.to_kind(frozen)));
        }
    }
}

/// A fresh update of the modules `group`, which lie in one layer with `weight`.
fn fresh(
    params: &mut Params,
    group: &[LinearModule],
    config: &LoraConfig,
    layer: u64,
    weight: &Tensor,
) -> AdaptedLayer {
    let (rank, inputs) = (config.rank, group[0].inputs);
    let ranks = vec![rank; group.len()];
    let mut root = params.root();
    let mut scope = root.sub(&group[0].linear);
    let bound = 1.0 / (inputs as f64).sqrt();
    let rows = rank * group.len() as i64;
    let a = scope.stacked("lora_a", &[rows, inputs], &ranks, Init::Uniform(bound));
    let parts = group
        .iter()
        .map(|module| {
            let leaf = module.path.rsplit('.').next().unwrap_or_default();
            let b = scope
                .sub("lora_b")
                .param(leaf, &[module.outputs, rank], Init::Zeros);
            let magnitude = config.dora.then(|| {
                let magnitude =
                    scope
                        .sub("lora_magnitude")
                        .param(leaf, &[module.outputs], Init::Ones);
                let rows = weight.narrow(0, module.start, module.outputs);
                let lengths = lora::row_lengths(&rows.detach().to_kind(magnitude.kind()));
                no_grad(|| magnitude.shallow_clone().copy_(&lengths));
                magnitude
            });
            LowRankPart {
                start: module.start,
                b,
                scale: config.scale(),
                magnitude,
            }
        })
        .collect();
    AdaptedLayer {
        linear: group[0].linear.clone(),
        modules: group.iter().map(|module| module.path.clone()).collect(),
        update: LowRank {
            a,
            parts,
            dropout: config.dropout,
            layer,
        },
    }
}
