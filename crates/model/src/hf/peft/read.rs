//! Reading an adapter folder for a base: every tensor must have its place there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use etude_tensor::Tensor;
use etude_tensor::safetensors::SafetensorsFile;

use super::super::error::FolderError;
use super::super::folder::read_json;
use super::super::names;
use super::config::{self, PeftConfig};
use super::found::{Found, Update, Whole};
use super::{CONFIG, MAGNITUDE, PREFIX, WEIGHTS};
use crate::decoder::Decoder;
use crate::lora::{LinearModule, linear_modules, matches, outer_modules};

/// Refuses to go on from an adapter that parts what the base ties.
pub(super) fn parted(path: &Path) -> FolderError {
    FolderError::Adapter {
        path: path.to_owned(),
        reason: "trains the embedding and the output layer apart, which the base ties together; such an adapter can be merged, not gone on from".to_owned(),
    }
}

/// Whether an adapter of a decoder whose output layer is its embedding makes the two differ.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn unties(folder: &Path, decoder: &Decoder) -> Result<bool, FolderError> {
    let (config_path, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
    if !config_path.is_file() || !weights.is_file() {
        return Ok(false); // as is told when it is read
    }
    let config = config::parse(&config_path, &read_json(&config_path)?)?;
    let file = SafetensorsFile::open(&weights)?;
    let table = names::table(decoder.config());
    let name_of = |tensor: &str| format!("{PREFIX}{tensor}");
    let is_there = |tensor: &str| file.kind(&name_of(tensor)).is_some();
    let trained =
        |tensor: &str| is_there(tensor) && config.whole.iter().any(|whole| holds(whole, tensor));
    let update = table.replace(".weight", ".lora_embedding_A");
    if is_there("lm_head.lora_A.weight") || is_there(&update) {
        return Ok(true);
    }
    Ok(match (trained(&table), is_there(names::HEAD)) {
        // PEFT that keeps the two tied names the embedding alone, and writes both.
        (true, true) => {
            let [table, head] = [&table[..], names::HEAD].map(|name| file.tensor(&name_of(name)));
            !table?.equal(&head?)
        }
        (true, false) => !config.tying,
        (false, _) => trained(names::HEAD),
    })
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
    config.demand_no_biases(&config_path, decoder)?;
    let mut file = Tensors::open(&weights, decoder)?;
    let mut modules = linear_modules(decoder);
    modules.extend(outer_modules(decoder));
    check_targets(&config_path, &config, &modules, decoder.config().tied)?;
    let mut updates = Vec::new();
    for module in modules {
        let chosen = config.selected.choose(&module.path);
        let [a, _] = module.sides();
        let tensor = format!("{PREFIX}{a}");
        // PEFT may choose the embedding alone, and tie the output layer to it.
        let is_tied = config.tying && module.linear == "head";
        match file.update(module, &config)? {
            None if chosen == Some(true) => {
                return Err(FolderError::Missing {
                    path: weights,
                    tensor,
                });
            }
            Some(_) if chosen == Some(false) && !is_tied => {
                return Err(FolderError::Adapter {
                    path: weights,
                    reason: format!(
                        "tensor `{tensor}` is of a module that target_modules does not choose, and PEFT would leave it out; name the module there, or take the tensor away"
                    ),
                });
            }
            update => updates.extend(update),
        }
    }
    let mut whole = file.whole(&config)?;
    file.base_copies(&mut whole)?;
    file.demand_empty()?;
    let has_table = whole.iter().any(|whole| whole.name == "embedding.weight");
    if updates.is_empty() && whole.is_empty() {
        return Err(file.other_base("it updates nothing".to_owned()));
    }
    Ok(Found {
        updates,
        whole,
        parts: decoder.config().tied && has_table && !config.tying,
    })
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
                    "which the base has no matrix of its own for, its embedding is the output layer as well; such an adapter can be merged, not trained"
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

/// Whether the module that a tensor is of, or one around it, ends in `whole`. PEFT's rule here: no dot is asked for.
fn holds(whole: &str, tensor: &str) -> bool {
    let dots = tensor.match_indices('.').map(|(place, _)| place);
    dots.into_iter().any(|end| tensor[..end].ends_with(whole))
}

/// Whether two matrices are one but for rounding, which may be that of four bits.
fn same(copy: &Tensor, own: &Tensor) -> bool {
    let own = own.to_kind(copy.kind());
    let length = |tensor: &Tensor| tensor.norm().double_value(&[]);
    length(&(copy - &own)) <= 0.2 * length(&own)
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
        let is_turned = module.is_table();
        let mut side = |name: &str, mut shape: [i64; 2]| match is_turned {
            true => {
                shape.reverse();
                Ok(self.take(name, &shape)?.map(|side| side.tr()))
            }
            false => self.take(name, &shape),
        };
        let [a_name, b_name] = module.sides();
        let a = side(&a_name, [rank, module.inputs])?;
        let b = side(&b_name, [module.outputs, rank])?;
        if config.dora && is_turned && a.is_some() {
            return Err(FolderError::Adapter {
                path: self.path.to_owned(),
                reason: format!(
                    "updates `{}` with use_dora; Etude reads DoRA of linear layers, and an embedding's update without it",
                    module.path
                ),
            });
        }
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

    /// PEFT writes the base's own embedding and output layer beside the update of one, and on request. They must be those
    /// that are here, but for the rounding of another dtype.
    ///
    /// Where the two are apart for another adapter's sake, one that trained them as one has trained both.
    fn base_copies(&mut self, found: &mut Vec<Whole>) -> Result<(), FolderError> {
        let config = self.decoder.config();
        let table = names::table(config);
        let mut copies = vec![(table, "embedding.weight")];
        if !config.tied {
            copies.push((names::HEAD.to_owned(), "head.weight"));
        }
        for (name, param) in copies {
            let own = self.decoder.params().get(param);
            let own = own.expect("every decoder has it").shallow_clone();
            let beneath = name.replace(".weight", ".base_layer.weight");
            for name in [name, beneath] {
                let Some(copy) = self.take(&name, &own.size())? else {
                    continue;
                };
                let table = found.iter().find(|whole| whole.name == "embedding.weight");
                if param == "head.weight" && table.is_some_and(|table| table.values.equal(&copy)) {
                    found.push(Whole {
                        name: param.to_owned(),
                        start: 0,
                        values: copy,
                    });
                    continue;
                }
                if !same(&copy, &own) {
                    let reason = format!("`{PREFIX}{name}` is not the base's");
                    return Err(self.other_base(reason));
                }
            }
        }
        Ok(())
    }

    /// The modules that were trained whole, which the configuration must name.
    fn whole(&mut self, config: &PeftConfig) -> Result<Vec<Whole>, FolderError> {
        let decoder = self.decoder;
        let mut found = Vec::new();
        let mut used: BTreeSet<&str> = BTreeSet::new();
        for param in decoder.params().entries() {
            let place = names::place(decoder.config(), &param.name);
            let all = param.tensor.size();
            let parts = match place.names.len() {
                1 => &all[..1],
                _ => &param.parts[..],
            };
            let mut start = 0;
            for (name, &rows) in place.names.iter().zip(parts) {
                let mut shape = all.clone();
                shape[0] = rows;
                let transposed = place.transposed && shape.len() == 2;
                if transposed {
                    shape.reverse();
                }
                let meant = config.whole.iter().filter(|whole| holds(whole, name));
                let meant: Vec<&str> = meant.map(String::as_str).collect();
                if !meant.is_empty()
                    && let Some(tensor) = self.take(name, &shape)?
                {
                    let values = if transposed { tensor.tr() } else { tensor };
                    let name = param.name.clone();
                    found.push(Whole {
                        name,
                        start,
                        values,
                    });
                    used.extend(meant);
                }
                start += rows;
            }
        }
        self.tied_copy(&found, config)?;
        let embedding = found.iter().any(|whole| whole.name == "embedding.weight");
        let tied = decoder.config().tied && embedding;
        // The output layer of a tied model is its embedding.
        let is_head = |whole: &&String| tied && "lm_head".ends_with(whole.as_str());
        let mut missing = config.whole.iter().filter(|whole| !is_head(whole));
        match missing.find(|whole| !used.contains(whole.as_str())) {
            None => Ok(found),
            Some(whole) => Err(self.other_base(format!(
                "modules_to_save names `{whole}`, and no tensor of it is there"
            ))),
        }
    }

    /// The output layer of a tied model is its embedding: a copy of that is welcome, another matrix not.
    fn tied_copy(&mut self, found: &[Whole], config: &PeftConfig) -> Result<(), FolderError> {
        let model = self.decoder.config();
        if !model.tied {
            return Ok(());
        }
        let is_trained = config.whole.iter().any(|whole| holds(whole, names::HEAD));
        let head = self.take(names::HEAD, &[model.vocab_size, model.n_embd])?;
        let embedding = found.iter().find(|whole| whole.name == "embedding.weight");
        let own = self.decoder.params().get("embedding.weight");
        let agree = match (embedding, &head) {
            (None, None) => true,
            (Some(embedding), Some(head)) => embedding.values.equal(head),
            (None, Some(head)) => !is_trained && same(head, own.expect("every decoder has it")),
            (Some(_), None) => config.tying,
        };
        match agree {
            true => Ok(()),
            false => Err(parted(self.path)),
        }
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
