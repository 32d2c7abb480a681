//! The optimizer over a decoder's parameters: Muon or AdamW for the matrices inside the layers, AdamW for
//! the rest, and the state that a checkpoint holds.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use etude_model::Decoder;
use etude_tensor::optim::{AdamWGroup, AdamWSettings, GradScale};
use etude_tensor::safetensors::{self, SafetensorsFile};
use etude_tensor::{Kind, Tensor, no_grad};

use crate::muon::{self, MuonParam, MuonStep};
use crate::settings::{OptimizerKind, OptimizerSettings};

/// Parameters that AdamW steps with one learning rate and decay.
#[derive(Debug)]
struct AdamW {
    names: Vec<String>,
    group: AdamWGroup,
    lr: f64,
    weight_decay: f64,
}

/// A parameter that Muon steps.
#[derive(Debug)]
struct Muon {
    name: String,
    param: Tensor,
    parts: Vec<i64>,
    momentum: Tensor,
}

/// The optimizer and its state.
#[derive(Debug)]
pub struct Optimizer {
    settings: OptimizerSettings,
    adamw: Vec<AdamW>,
    muon: Vec<Muon>,
    /// Steps applied so far, a float on the device: a skipped step does not count.
    applied: Tensor,
    /// The dtype of Muon's products.
    work: Kind,
}

impl Optimizer {
    /// Fresh state for what is trained of a decoder.
    pub fn new(decoder: &Decoder, settings: &OptimizerSettings) -> Self {
        let or_lr = |rate: f64| if rate > 0.0 { rate } else { settings.lr };
        let mut muon = Vec::new();
        // (learning rate, decay) of: embeddings, the output layer, other matrices, vectors.
        let rates = [
            (or_lr(settings.embedding_lr), settings.weight_decay),
            (or_lr(settings.head_lr), settings.weight_decay),
            (settings.lr, settings.weight_decay),
            (settings.lr, 0.0),
        ];
        let mut groups: [(Vec<String>, Vec<Tensor>); 4] = Default::default();
        for param in decoder.trainable() {
            let inside = param.name.starts_with("layers.");
            let matrix = param.tensor.dim() == 2;
            if settings.kind == OptimizerKind::Muon && inside && matrix {
                muon.push(Muon {
                    name: param.name.clone(),
                    param: param.tensor.shallow_clone(),
                    parts: param.parts.clone(),
                    momentum: muon::fresh_momentum(&param.tensor),
                });
                continue;
            }
            let place = match param.name.as_str() {
                "embedding.weight" | "positions.weight" => 0,
                "head.weight" => 1,
                _ if matrix => 2,
                _ => 3,
            };
            groups[place].0.push(param.name.clone());
            groups[place].1.push(param.tensor.shallow_clone());
        }
        let adamw = groups
            .into_iter()
            .zip(rates)
            .filter(|((names, _), _)| !names.is_empty())
            .map(|((names, params), (lr, weight_decay))| AdamW {
                names,
                group: AdamWGroup::new(params),
                lr,
                weight_decay,
            })
            .collect();
        let applied = Tensor::zeros([], (Kind::Float, decoder.device()));
        Self {
            settings: settings.clone(),
            adamw,
            muon,
            applied,
            work: decoder.params().kind(),
        }
    }

    /// Muon's products in this dtype, the one of the step's other products; without it in the parameters'.
    #[must_use]
    pub fn with_products(mut self, kind: Kind) -> Self {
        self.work = kind;
        self
    }

    /// One step with every learning rate scaled by `scale`. Where the gradients' norm is not finite nothing
    /// changes; the device decides that, nobody waits for it.
    ///
    /// # Errors
    /// A message of libtorch's.
    pub fn step(&mut self, scale: f64, grads: &GradScale) -> Result<()> {
        let _guard = etude_tensor::no_grad_guard();
        self.applied += 1.0 - &grads.found_inf;
        let settings = self.adamw_settings();
        for part in &self.adamw {
            part.group.step(
                &self.applied,
                part.lr * scale,
                part.weight_decay,
                &settings,
                grads,
            )?;
        }
        let step = MuonStep {
            lr: self.settings.muon_lr * scale,
            momentum: self.settings.momentum,
            weight_decay: self.settings.weight_decay,
            iterations: self.settings.newton_schulz_steps,
            work: self.work,
        };
        let gradients: Vec<Tensor> = self.muon.iter().map(|matrix| matrix.param.grad()).collect();
        let params: Vec<MuonParam<'_>> = self
            .muon
            .iter()
            .zip(&gradients)
            .filter(|(_, gradient)| gradient.defined())
            .map(|(matrix, gradient)| MuonParam {
                param: &matrix.param,
                gradient,
                momentum: &matrix.momentum,
                parts: &matrix.parts,
            })
            .collect();
        muon::step(&params, &step, grads);
        Ok(())
    }

    fn adamw_settings(&self) -> AdamWSettings {
        AdamWSettings {
            beta1: self.settings.beta1,
            beta2: self.settings.beta2,
            eps: self.settings.eps,
        }
    }

    /// Everything that a checkpoint must hold, by name.
    pub(crate) fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("applied".to_owned(), self.applied.shallow_clone())];
        for part in &self.adamw {
            for (name, (first, second)) in part.names.iter().zip(part.group.moments()) {
                state.push((format!("exp_avg.{name}"), first.shallow_clone()));
                state.push((format!("exp_avg_sq.{name}"), second.shallow_clone()));
            }
        }
        for matrix in &self.muon {
            state.push((
                format!("momentum.{}", matrix.name),
                matrix.momentum.shallow_clone(),
            ));
        }
        state
    }

    /// The bytes of that state.
    pub fn bytes(&self) -> u64 {
        let size = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        let state = self.state();
        state.iter().map(|(_, tensor)| size(tensor) as u64).sum()
    }

    /// Writes the state to a safetensors file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(safetensors::write(path, &self.state(), &[])?)
    }

    /// Reads the state back into this optimizer, which was made with the same settings and model.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape: the file belongs to another recipe.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let file = SafetensorsFile::open(path)?;
        for (name, mut tensor) in self.state() {
            let saved = file
                .tensor(&name)
                .context("the optimizer's state is of another recipe")?;
            ensure!(
                saved.size() == tensor.size(),
                "{}: `{name}` has shape {:?}, the model's is {:?}; the checkpoint is of another recipe",
                path.display(),
                saved.size(),
                tensor.size()
            );
            no_grad(|| tensor.copy_(&saved));
        }
        Ok(())
    }
}
