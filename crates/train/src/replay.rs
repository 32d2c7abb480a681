//! A step of a run made again: what it read, what each token cost, what the gradients and the weights did,
//! and whether the log says the same.
//!
//! The step is the loop's own (`step`), from the nearest whole checkpoint before it; steps between are made
//! again. The run folder is only read, so a run that is under way may be replayed. Recipes and data are the
//! stages' business: they hand over what their runs start from.

mod examples;
mod fault;
mod groups;
mod recorded;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etude_data::{Batch, DataError};
use etude_model::Decoder;
use etude_tensor::device;
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::optimizer::Optimizer;
use crate::progress::Bar;
use crate::run::Environment;
use crate::schedule::learning_rate_scale;
use crate::stage::{Ready, TrainerSettings};
use crate::step::{StepSettings, step_gradients, train_step};
use crate::weights;

pub use examples::{Example, TokenLoss};
pub use fault::{Fault, FaultyToken};
pub use groups::Group;
pub use recorded::{Comparison, Difference, Pair};

/// Which step, and what is changed in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRequest {
    /// The run folder.
    pub run: PathBuf,
    /// The step, from 1, as the log counts.
    pub step: u64,
    /// Examples of its batch, by number, without which it is made once more.
    pub without: Vec<usize>,
    /// Whether to show on stderr how it goes.
    pub progress: bool,
}

/// What a step was. A number that is not finite is null in JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// The run folder.
    pub run: PathBuf,
    /// `pretrain` or `finetune`.
    pub stage: &'static str,
    /// The step, from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// The step of the checkpoint that was gone on from; 0 for the beginning.
    pub from: u64,
    /// Checkpoints that are not whole and were passed over.
    pub torn: Vec<String>,
    /// Whether a checkpoint told which data the run is of, and it is this.
    pub data_checked: bool,
    /// Whether what the log has of this step, and of those on the way, came out to the last bit; none when it
    /// has none of them.
    pub reproduced: Option<bool>,
    /// This step in the log; none when it was not logged.
    pub recorded: Option<Comparison>,
    /// The logged steps on the way to it.
    pub passed: Vec<Comparison>,
    /// What is different here from where the run was made, in its last session.
    pub environment: Vec<Difference>,
    /// Mean loss, nats a supervised token.
    pub loss: f64,
    /// The gradients' norm before clipping.
    pub grad_norm: f64,
    /// What clipping multiplied the gradients with.
    pub clip_factor: f64,
    /// The learning rate, as the log has it: of the matrices inside the layers.
    pub lr: f64,
    /// The share of its peak.
    pub lr_scale: f64,
    /// Whether the step was refused, as a gradient is not finite.
    pub skipped: bool,
    /// Where that began.
    pub fault: Option<Fault>,
    /// Tokens that went through the model, padding included.
    pub tokens: usize,
    /// Tokens that were supervised.
    pub supervised: usize,
    /// Gradients and movement by layer.
    pub layers: Vec<Group>,
    /// The same by what the parameters are for.
    pub kinds: Vec<Group>,
    /// The batch.
    pub examples: Vec<Example>,
    /// The step without some of it, when that was asked for.
    pub without: Option<Without>,
}

/// The same step without some examples.
#[derive(Debug, Clone, Serialize)]
pub struct Without {
    /// Their numbers.
    pub examples: Vec<usize>,
    /// Mean loss of the others.
    pub loss: f64,
    /// Their gradients' norm before clipping.
    pub grad_norm: f64,
    /// Their supervised tokens.
    pub supervised: usize,
    /// The gradients' norm by layer, in the order of the full step's.
    pub layers: Vec<LayerNorm>,
}

/// The norm of one layer's gradient.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerNorm {
    /// The layer.
    pub name: String,
    /// The norm before clipping.
    pub grad_norm: f64,
}

/// Makes a step again, from what its run starts from.
///
/// # Errors
/// When the run has no such step, its data has changed, its checkpoint is of another model, or an example is
/// named that the batch does not have.
pub fn replay(ready: Ready, request: &ReplayRequest) -> Result<Replay> {
    let mut made = Remade::start(ready, request)?;
    made.go_to(request.step - 1, request.progress)?;
    made.examine(request)
}

/// A run that is being made again.
struct Remade {
    ready: Ready,
    optimizer: Optimizer,
    step_settings: StepSettings,
    recorded: BTreeMap<u64, recorded::Recorded>,
    environment: Vec<Difference>,
    torn: Vec<String>,
    data_checked: bool,
    from: u64,
    /// Steps made.
    step: u64,
    passed: Vec<Comparison>,
}

impl Remade {
    /// Takes up the newest whole checkpoint before the step, or begins at the beginning.
    fn start(ready: Ready, request: &ReplayRequest) -> Result<Self> {
        let (run, settings) = (&request.run, &ready.settings);
        check_step(run, request.step, settings.train.steps)?;
        let recorded = recorded::steps(run)?;
        let as_it_was = recorded::environment(run);
        if let Some(threads) = as_it_was["threads"].as_u64() {
            device::set_threads(threads as usize);
        }
        let kind = settings
            .train
            .precision
            .product_kind(ready.decoder.device());
        let now = Environment::measure(ready.decoder.device(), kind);
        let now = serde_json::to_value(now).context("plain data")?;
        let environment = recorded::differences(&as_it_was, &now);

        let checkpoints = Checkpoints::new(run);
        let (found, torn) = checkpoints.newest_up_to(request.step - 1);
        // A later one knows as well which data it was.
        let witness = match &found {
            Some(checkpoint) => Some(checkpoint.state.fingerprint.clone()),
            None => checkpoints
                .newest()
                .0
                .map(|newest| newest.state.fingerprint),
        };
        if let Some(was) = &witness {
            check_data(run, was, settings)?;
        }
        let mut optimizer = Optimizer::new(&ready.decoder, &settings.optimizer).with_products(kind);
        let from = found.as_ref().map_or(0, |found| found.state.step);
        if let Some(checkpoint) = found {
            restore(&ready.decoder, &mut optimizer, &checkpoint)?;
        }
        Ok(Self {
            step_settings: StepSettings::of(settings),
            ready,
            optimizer,
            recorded,
            environment,
            torn,
            data_checked: witness.is_some(),
            from,
            step: from,
            passed: Vec::new(),
        })
    }

    /// Makes the steps up to `goal` again.
    fn go_to(&mut self, goal: u64, progress: bool) -> Result<()> {
        let bar = if progress && goal > self.step {
            Bar::new("replay", goal, self.step)
        } else {
            Bar::hidden()
        };
        bar.say(&format!(
            "{} steps are made again, from {}",
            goal - self.step,
            self.beginning()
        ));
        let batches = self.ready.stage.batches();
        while self.step < goal {
            let scale = self.scale();
            let report = train_step(
                &self.ready.decoder,
                &mut self.optimizer,
                &batches(self.step)?,
                self.step,
                scale,
                &self.step_settings,
            )?;
            self.step += 1;
            if let Some(recorded) = self.recorded.get(&self.step) {
                let loss = report.loss.double_value(&[]); // sync
                let norm = report.grad_norm.double_value(&[]); // sync
                self.passed
                    .push(Comparison::new(self.step, *recorded, loss, norm));
            }
            bar.advance(self.step);
        }
        bar.finish();
        Ok(())
    }

    fn beginning(&self) -> String {
        match self.from {
            0 => "the beginning".to_owned(),
            step => format!("the checkpoint after step {step}"),
        }
    }

    fn scale(&self) -> f64 {
        let settings = &self.ready.settings;
        learning_rate_scale(self.step, settings.train.steps, &settings.schedule)
    }

    /// Makes the next step and looks at everything in it.
    fn examine(mut self, request: &ReplayRequest) -> Result<Replay> {
        let (step, scale) = (self.step, self.scale());
        let Ready {
            stage,
            decoder,
            settings,
        } = &self.ready;
        let batch = stage.batches()(step)?;
        let examples =
            examples::examine(stage.as_ref(), decoder, &batch, step, &self.step_settings)?;
        let without = self.without(&batch, &request.without)?;

        let made = step_gradients(decoder, &batch, step, &self.step_settings)?;
        let (loss, grad_norm) = (
            made.loss.double_value(&[]),       // sync
            made.scale.norm.double_value(&[]), // sync
        );
        let skipped = made.scale.found_inf.double_value(&[]) != 0.0; // sync
        let before = groups::Before::new(decoder);
        self.optimizer.step(scale, &made.scale)?;
        let measured = before.after(decoder);
        let fault = if skipped {
            let found = fault::find(decoder, &batch, step, &self.step_settings, &examples);
            Some(found?)
        } else {
            None
        };

        let this = self.recorded.get(&request.step);
        let recorded = this.map(|r| Comparison::new(request.step, *r, loss, grad_norm));
        let mut compared = self.passed.iter().chain(&recorded).peekable();
        let any = compared.peek().is_some();
        Ok(Replay {
            run: request.run.clone(),
            stage: stage.name(),
            step: request.step,
            steps: settings.train.steps,
            from: self.from,
            torn: self.torn,
            data_checked: self.data_checked,
            reproduced: any.then(|| compared.all(|one| one.exact)),
            recorded,
            passed: self.passed,
            environment: self.environment,
            loss,
            grad_norm,
            clip_factor: 1.0 / made.scale.divisor.double_value(&[]),
            lr: settings.optimizer.peak() * scale,
            lr_scale: scale,
            skipped,
            fault,
            tokens: batch.tokens(),
            supervised: made.supervised,
            layers: groups::by_layer(&measured),
            kinds: groups::by_kind(&measured),
            examples,
            without,
        })
    }

    /// The gradients of the batch without some of its examples.
    fn without(&self, batch: &Batch, left_out: &[usize]) -> Result<Option<Without>> {
        if left_out.is_empty() {
            return Ok(None);
        }
        let count = batch.stretches().len();
        for number in left_out {
            if !(1..=count).contains(number) {
                let what = format!("--without {number}: the batch has {count} examples");
                let remedy = format!("give a number from 1 to {count}");
                return Err(DataError::input(what, remedy).into());
            }
        }
        let places: Vec<usize> = left_out.iter().map(|number| number - 1).collect();
        let Some(rest) = batch.without(&places) else {
            return Err(DataError::input(
                "--without leaves nothing supervised in the batch",
                "leave fewer examples out",
            )
            .into());
        };
        let decoder = &self.ready.decoder;
        let made = step_gradients(decoder, &rest, self.step, &self.step_settings)?;
        let layers = groups::by_layer(&groups::measure(decoder));
        Ok(Some(Without {
            examples: left_out.to_vec(),
            loss: made.loss.double_value(&[]),
            grad_norm: made.scale.norm.double_value(&[]),
            supervised: made.supervised,
            layers: layers
                .into_iter()
                .map(|layer| LayerNorm {
                    name: layer.name,
                    grad_norm: layer.grad_norm,
                })
                .collect(),
        }))
    }
}

fn restore(decoder: &Decoder, optimizer: &mut Optimizer, checkpoint: &Checkpoint) -> Result<()> {
    weights::restore(decoder, &checkpoint.folder)?;
    optimizer.load(&checkpoint.optimizer())
}

fn check_step(run: &Path, step: u64, steps: u64) -> Result<()> {
    if (1..=steps).contains(&step) {
        return Ok(());
    }
    let what = format!("has no step {step}: its steps are 1 to {steps}");
    Err(DataError::in_file(run, what, "give one of those as --step").into())
}

fn check_data(run: &Path, was: &str, settings: &TrainerSettings) -> Result<()> {
    if was == settings.data_fingerprint {
        return Ok(());
    }
    Err(DataError::in_file(
        run,
        "the data, or the model that was started from, has changed since this run was made, so its steps cannot be made again",
        "bring the old files back",
    )
    .into())
}
