//! Reading an adapter folder for a base: every tensor must have its place there.

use std::collections::BTreeMap;
use std::path::Path;

use etude_tensor::Tensor;
use etude_tensor::safetensors::SafetensorsFile;

use super::super::error::FolderError;
use super::super::folder::read_json;
use super::super::names;
use super::config::{self, PeftConfig};
use super::{CONFIG, MAGNITUDE, PREFIX, WEIGHTS};
use crate::decoder::Decoder;
use crate::lora::{LinearModule, linear_modules, matches, output_module};

/// A folder's adapter, on the base's device.
pub(super) struct Found {
    /// In the decoder's order.
    pub(super) updates: Vec<Update>,
    /// Modules that were trained whole: the decoder's name and layout.
    pub(super) whole: Vec<(String, Tensor)>,
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

/// Reads `folder`, an adapter for `decoder`'s weights.
pub(super) fn read(folder: &Path, decoder: &Decoder) -> Result<Found, FolderError> {
    let config_path = folder.join(CONFIG);
    if !config_path.is_file() {
        return Err(FolderError::Adapter {
            path: folder.to_owned(),
            reason: format!("not an adapter folder, `{CONFIG}` is not in it"),
        });
    }
    let json = read_json(&config_path)?;
    let config = config::parse(&config_path, &json)?;
    let weights = folder.join(WEIGHTS);
    if !weights.is_file() {
        let pickled = folder.join("adapter_model.bin").is_file();
        let hint = if pickled {
            "; adapter_model.bin is a pickle, which can run code: save the adapter again as safetensors"
        } else {
            ""
        };
        return Err(FolderError::Adapter {
            path: folder.to_owned(),
            reason: format!("`{WEIGHTS}` is not in it{hint}"),
        });
    }
    let mut file = Tensors::open(&weights, decoder)?;
    let mut modules = linear_modules(decoder);
    modules.extend(output_module(decoder));
    check_targets(&config_path, &config, &modules, decoder.config().tied)?;
    let mut updates = Vec::new();
    for module in modules {
        let named = |name: &String| matches(&module.path, name);
        let is_due = !config.selects && config.targets.iter().flatten().any(named);
        let missing = format!("{PREFIX}{}.lora_A.weight", module.path);
        match file.update(module, &config)? {
            None if is_due => {
                return Err(FolderError::Missing {
                    path: weights,
                    tensor: missing,
                });
            }
            update => updates.extend(update),
        }
    }
    file.base_head()?;
    let whole = file.whole(&config)?;
    file.demand_empty()?;
    if updates.is_empty() && whole.is_empty() {
        return Err(file.other_base("it updates nothing".to_owned()));
    }
    Ok(Found { updates, whole })
}

fn check_targets(
    path: &Path,
    config: &PeftConfig,
    modules: &[LinearModule],
    tied: bool,
) -> Result<(), FolderError> {
    for name in config.targets.iter().flatten() {
        if !modules.iter().any(|module| matches(&module.path, name)) {
            let why = match tied && matches("lm_head", name) {
                true => {
                    "which the base has no matrix of its own for, its embedding is the output layer as well"
                }
                false => {
                    "which is no linear layer of the base; the adapter is for another base, or of a kind that Etude does not read"
                }
            };
            return Err(FolderError::Field {
                path: path.to_owned(),
                field: "target_modules".to_owned(),
                reason: format!("names `{name}`, {why}"),
            });
        }
    }
    Ok(())
}

/// The tensors of a file that nobody has claimed yet.
struct Tensors<'a> {
    path: &'a Path,
    file: SafetensorsFile,
    left: BTreeMap<String, Vec<i64>>,
    decoder: &'a Decoder,
}

impl<'a> Tensors<'a> {
    fn open(path: &'a Path, decoder: &'a Decoder) -> Result<Self, FolderError> {
        let file = SafetensorsFile::open(path)?;
        let left = file.shapes()?.into_iter().collect();
        Ok(Self {
            path,
            file,
            left,
            decoder,
        })
    }

    /// Takes a tensor of that shape; none when it is not there.
    fn take(&mut self, name: &str, expected: &[i64]) -> Result<Option<Tensor>, FolderError> {
        let name = format!("{PREFIX}{name}");
        let Some(shape) = self.left.remove(&name) else {
            return Ok(None);
        };
        if shape != expected {
            return Err(self.other_base(format!(
                "tensor `{name}` has shape {shape:?}, for this base it must be {expected:?}"
            )));
        }
        let params = self.decoder.params();
        let wide = if params.kind() == etude_tensor::Kind::Double {
            etude_tensor::Kind::Double
        } else {
            etude_tensor::Kind::Float
        };
        let tensor = self.file.tensor(&name)?;
        Ok(Some(tensor.to_kind(wide).to_device(params.device())))
    }

    /// The update of a module, if the file has one.
    fn update(
        &mut self,
        module: LinearModule,
        config: &PeftConfig,
    ) -> Result<Option<Update>, FolderError> {
        let (rank, scale) = config.of(&module.path);
        let [a_name, b_name] = ["A", "B"].map(|side| format!("{}.lora_{side}.weight", module.path));
        let a = self.take(&a_name, &[rank, module.inputs])?;
        let b = self.take(&b_name, &[module.outputs, rank])?;
        let magnitude_name = format!("{}.{MAGNITUDE}", module.path);
        let magnitude = match config.dora {
            true => self.take(&magnitude_name, &[module.outputs])?,
            false => None,
        };
        match (a, b) {
            (Some(_), Some(_)) if config.dora && magnitude.is_none() => Err(FolderError::Missing {
                path: self.path.to_owned(),
                tensor: format!("{PREFIX}{magnitude_name}"),
            }),
            (Some(a), Some(b)) => Ok(Some(Update {
                module,
                a,
                b,
                scale,
                magnitude,
            })),
            (None, None) => Ok(None),
            (one, _) => {
                let missing = if one.is_some() { b_name } else { a_name };
                Err(FolderError::Missing {
                    path: self.path.to_owned(),
                    tensor: format!("{PREFIX}{missing}"),
                })
            }
        }
    }

    /// PEFT writes the base's own output layer beside an update of it. It must be the one that is here, but for the
    /// rounding of another dtype.
    fn base_head(&mut self) -> Result<(), FolderError> {
        let Some(module) = output_module(self.decoder) else {
            return Ok(());
        };
        let name = format!("{}.base_layer.weight", module.path);
        let Some(copy) = self.take(&name, &[module.outputs, module.inputs])? else {
            return Ok(());
        };
        let own = self
            .decoder
            .params()
            .get(&format!("{}.weight", module.linear));
        let own = own
            .expect("the module is the decoder's")
            .to_kind(copy.kind());
        if copy.allclose(&own, 1e-2, 1e-4, false) {
            return Ok(());
        }
        Err(self.other_base(format!(
            "`{PREFIX}{name}` is another output layer than the base's"
        )))
    }

    /// The modules that were trained whole, which the configuration must name.
    fn whole(&mut self, config: &PeftConfig) -> Result<Vec<(String, Tensor)>, FolderError> {
        let decoder = self.decoder;
        let mut found = Vec::new();
        for param in decoder.params().entries() {
            let place = names::place(decoder.config(), &param.name);
            let [name] = &place.names[..] else { continue };
            let module = name
                .rsplit_once('.')
                .map_or(name.as_str(), |(module, _)| module);
            // PEFT's rule here: no dot is asked for.
            if !config.whole.iter().any(|whole| module.ends_with(whole)) {
                continue;
            }
            let mut shape = param.tensor.size();
            let transposed = place.transposed && shape.len() == 2;
            if transposed {
                shape.reverse();
            }
            let Some(tensor) = self.take(name, &shape)? else {
                continue;
            };
            let tensor = if transposed { tensor.tr() } else { tensor };
            found.push((param.name.clone(), tensor));
        }
        self.tied_copy(&found)?;
        let decoder_name = |whole: &String| {
            let names = found
                .iter()
                .map(|(name, _)| names::place(decoder.config(), name));
            names.flat_map(|place| place.names).any(|name| {
                let module = name
                    .rsplit_once('.')
                    .map_or(name.as_str(), |(module, _)| module);
                module.ends_with(whole)
            })
        };
        let embedding = found.iter().any(|(name, _)| name == "embedding.weight");
        let tied = decoder.config().tied && embedding;
        // The output layer of a tied model is its embedding.
        let is_head = |whole: &&String| tied && "lm_head".ends_with(whole.as_str());
        let mut missing = config.whole.iter().filter(|whole| !is_head(whole));
        match missing.find(|whole| !decoder_name(whole)) {
            None => Ok(found),
            Some(whole) => Err(self.other_base(format!(
                "modules_to_save names `{whole}`, and no tensor of it is there"
            ))),
        }
    }

    /// The output layer of a tied model is its embedding: a copy of that is welcome, another matrix not.
    fn tied_copy(&mut self, found: &[(String, Tensor)]) -> Result<(), FolderError> {
        if !self.decoder.config().tied {
            return Ok(());
        }
        let embedding = found.iter().find(|(name, _)| name == "embedding.weight");
        let config = self.decoder.config();
        let head = self.take("lm_head.weight", &[config.vocab_size, config.n_embd])?;
        let agree = match (embedding, &head) {
            (None, None) => true,
            (Some((_, embedding)), Some(head)) => embedding.equal(head),
            _ => false,
        };
        if agree {
            return Ok(());
        }
        Err(FolderError::Adapter {
            path: self.path.to_owned(),
            reason: "trains the embedding and the output layer apart, which the base ties together; untie the base first".to_owned(),
        })
    }

    /// Refuses tensors that nothing here has a place for: something would be left out.
    fn demand_empty(&self) -> Result<(), FolderError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(self.other_base(format!("tensor `{name}` has no place in this base")))
            }
        }
    }

    fn other_base(&self, reason: String) -> FolderError {
        FolderError::Adapter {
            path: self.path.to_owned(),
            reason: format!("{reason}; the adapter is for another base (its {CONFIG} names it)"),
        }
    }
}
