//! A step of a run made again: what it read, what each token cost, what the gradients and the weights did,
//! and whether the log says the same.
//!
//! The step is the loop's own (`step`), from the nearest whole checkpoint before it; steps between are made
//! again. The run folder is only read, so a run that is under way may be replayed. Recipes and data are the
//! stages' business: they hand over what their runs start from.

mod examples;
mod fault;
mod groups;
mod outcome;
mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etude_data::{Batch, DataError};
use etude_model::Decoder;
use etude_tensor::device;
use serde::Serialize;

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::data_record::{self, Compared};
use crate::environment::Environment;
use crate::optimizer::Optimizer;
use crate::progress::Bar;
use crate::schedule::learning_rate_scale;
use crate::stage::Ready;
use crate::step::{StepSettings, train_step};
use crate::weights;

pub use examples::{Example, TokenLoss};
pub use fault::{Fault, FaultyToken};
pub use groups::Group;
pub use outcome::Outcome;
use recorded::Made;
pub use recorded::{Comparison, Difference, Pair, Usual};

/// Which step, and what is changed in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRequest {
    /// The run folder.
    pub run: PathBuf,
    /// The step, from 1, as the log counts.
    pub step: u64,
    /// Examples of its batch, by number from 1, without which it is made once more.
    pub without: Vec<usize>,
    /// Examples of its batch, by number from 1, that the caller will look for.
    pub examples: Vec<usize>,
    /// Whether to show on stderr how it goes.
    pub progress: bool,
}

/// What a step was.
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
    /// Lines of the log that cannot be read.
    pub unreadable: usize,
    /// Whether the run folder told which data the run is of, and it is this.
    pub data_checked: bool,
    /// Whether all that the run folder tells of this step and of those on the way came out to the last bit: the
    /// log's figures, and the checkpoint after the step. None when it tells nothing.
    pub reproduced: Option<bool>,
    /// This step in the log; none when it was not logged.
    pub recorded: Option<Comparison>,
    /// The logged steps on the way to it.
    pub passed: Vec<Comparison>,
    /// Whether the weights after it are those of its checkpoint; none when there is no checkpoint of it.
    pub same_weights: Option<bool>,
    /// The same of the optimizer's state.
    pub same_optimizer: Option<bool>,
    /// What is different here from where the run was made, in its last session.
    pub environment: Vec<Difference>,
    /// The logged steps before it; none when there are none.
    pub usual: Option<Usual>,
    /// The learning rate, as the log has it: of the matrices inside the layers.
    pub lr: f64,
    /// The share of its peak.
    pub lr_scale: f64,
    /// What the step came to.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Where what is not finite began.
    pub fault: Option<Fault>,
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
    /// What the step of the others comes to.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Makes a step again, from what its run starts from.
///
/// # Errors
/// When the run has no such step, its data has changed, its checkpoint is of another model, or an example is
/// named that the batch does not have.
pub fn replay(ready: Ready, request: &ReplayRequest) -> Result<Replay> {
    let mut made = Remade::start(ready, request)?;
    made.check_numbers(request)?;
    made.go_to(request.step - 1, request.progress)?;
    made.examine(request)
}

/// A run that is being made again.
struct Remade {
    ready: Ready,
    optimizer: Optimizer,
    step_settings: StepSettings,
    log: recorded::Log,
    environment: Vec<Difference>,
    torn: Vec<String>,
    data_checked: bool,
    from: u64,
    /// Steps made.
    step: u64,
    /// Tokens seen in them, and those before.
    tokens: u64,
    supervised: u64,
    passed: Vec<Comparison>,
}

impl Remade {
    /// Takes up the newest whole checkpoint before the step, or begins at the beginning.
    fn start(ready: Ready, request: &ReplayRequest) -> Result<Self> {
        let (run, settings) = (&request.run, &ready.settings);
        let log = recorded::log(run)?;
        let checkpoints = Checkpoints::new(run);
        check_step(&ready, request, &log.steps, &checkpoints)?;
        let as_it_was = recorded::environment(run);
        // As many as there were, where the recipe leaves it to the machine.
        if let (0, Some(threads)) = (settings.train.threads, as_it_was["threads"].as_u64()) {
            device::set_threads(threads as usize);
        }
        let decoder = &ready.decoder;
        let kind = settings.train.precision.product_kind(decoder.device());
        let now = Environment::measure(decoder.device(), kind);
        let now = serde_json::to_value(now).context("plain data")?;
        let environment = recorded::differences(&as_it_was, &now);

        let (found, torn) = checkpoints.newest_up_to(request.step - 1)?;
        let data_checked = check_data(run, &ready, &checkpoints, found.as_ref())?;
        let mut optimizer = Optimizer::new(decoder, &settings.optimizer).with_products(kind);
        let state = found.as_ref().map(|found| &found.state);
        let [from, tokens, supervised] =
            state.map_or([0; 3], |state| [state.step, state.tokens, state.supervised]);
        if let Some(checkpoint) = found {
            restore(decoder, &mut optimizer, &checkpoint)?;
        }
        Ok(Self {
            step_settings: StepSettings::of(settings),
            ready,
            optimizer,
            log,
            environment,
            torn,
            data_checked,
            from,
            step: from,
            tokens,
            supervised,
            passed: Vec::new(),
        })
    }

    /// Refuses numbers of examples that the step's batch does not have, before any step is made.
    fn check_numbers(&self, request: &ReplayRequest) -> Result<()> {
        let batch = self.ready.stage.batches()(request.step - 1)?;
        let count = batch.stretches().len();
        for (option, numbers) in [
            ("--without", &request.without),
            ("--example", &request.examples),
        ] {
            if let Some(number) = numbers.iter().find(|&number| !(1..=count).contains(number)) {
                let what =
                    format!("{option} {number}: the batch of this step has {count} examples");
                return Err(
                    DataError::input(what, format!("give a number from 1 to {count}")).into(),
                );
            }
        }
        without(&batch, &request.without).map(drop)
    }

    /// Makes the steps up to `goal` again.
    fn go_to(&mut self, goal: u64, progress: bool) -> Result<()> {
        let bar = match progress && goal > self.step {
            true => Bar::new("replay", goal, self.step),
            false => Bar::hidden(),
        };
        bar.say(&format!(
            "{} to be made again, from {}",
            match goal - self.step {
                1 => "1 step is".to_owned(),
                steps => format!("{steps} steps are"),
            },
            match self.from {
                0 => "the beginning, as no checkpoint before is left".to_owned(),
                step => format!("the checkpoint after step {step}"),
            }
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
            self.tokens += report.tokens as u64;
            self.supervised += report.supervised as u64;
            if let Some(&recorded) = self.log.steps.get(&self.step) {
                let made = Made {
                    loss: report.loss.double_value(&[]),           // sync
                    grad_norm: report.grad_norm.double_value(&[]), // sync
                    lr: self.ready.settings.optimizer.peak() * scale,
                    tokens: self.tokens,
                    supervised: self.supervised,
                };
                self.passed.push(Comparison::new(self.step, recorded, made));
            }
            bar.advance(self.step);
        }
        bar.finish();
        Ok(())
    }

    fn scale(&self) -> f64 {
        let settings = &self.ready.settings;
        learning_rate_scale(self.step, settings.train.steps, &settings.schedule)
    }

    /// Makes the next step and looks at everything in it.
    fn examine(mut self, request: &ReplayRequest) -> Result<Replay> {
        let (step, scale) = (self.step, self.scale());
        let (stage, decoder) = (self.ready.stage.as_ref(), &self.ready.decoder);
        let batch = stage.batches()(step)?;
        let rest = without(&batch, &request.without)?;
        let examples = examples::examine(stage, decoder, &batch, step, &self.step_settings)?;
        let (optimizer, of_step) = (&mut self.optimizer, (step, scale));
        let without = match rest {
            Some(rest) => {
                let before = outcome::Snapshot::take(decoder, optimizer);
                let outcome =
                    outcome::make(decoder, optimizer, &rest, of_step, &self.step_settings)?;
                before.put_back(decoder, optimizer);
                let left_out: BTreeSet<usize> = request.without.iter().copied().collect();
                Some(Without {
                    examples: left_out.into_iter().collect(),
                    outcome,
                })
            }
            None => None,
        };
        let outcome = outcome::make(decoder, optimizer, &batch, of_step, &self.step_settings)?;
        let gradient = outcome.broken.as_deref();
        let fault = outcome
            .skipped
            .then(|| fault::find(decoder, &batch, &self.step_settings, &examples, gradient));
        let same = same_as_saved(
            decoder,
            optimizer,
            (&request.run, request.step),
            &mut self.torn,
        )?;
        let (same_weights, same_optimizer) = same.unzip();

        let lr = self.ready.settings.optimizer.peak() * scale;
        let made = Made {
            loss: outcome.loss,
            grad_norm: outcome.grad_norm,
            lr,
            tokens: self.tokens + outcome.tokens as u64,
            supervised: self.supervised + outcome.supervised as u64,
        };
        let this = self.log.steps.get(&request.step);
        let recorded = this.map(|&log| Comparison::new(request.step, log, made));
        let compared = self.passed.iter().chain(&recorded).map(|one| one.exact);
        let saved = same_weights.into_iter().chain(same_optimizer);
        let all: Vec<bool> = compared.chain(saved).collect();
        let settings = &self.ready.settings;
        Ok(Replay {
            run: request.run.clone(),
            stage: stage.name(),
            step: request.step,
            steps: settings.train.steps,
            from: self.from,
            torn: self.torn,
            unreadable: self.log.unreadable,
            data_checked: self.data_checked,
            reproduced: (!all.is_empty()).then(|| all.iter().all(|&exact| exact)),
            recorded,
            passed: self.passed,
            same_weights,
            same_optimizer,
            environment: self.environment,
            usual: Usual::before(request.step, &self.log.steps),
            lr,
            lr_scale: scale,
            outcome,
            fault,
            examples,
            without,
        })
    }
}

/// The batch without some examples, when that is asked for.
fn without(batch: &Batch, left_out: &[usize]) -> Result<Option<Batch>> {
    if left_out.is_empty() {
        return Ok(None);
    }
    let places: Vec<usize> = left_out.iter().map(|number| number - 1).collect();
    match batch.without(&places) {
        Some(rest) => Ok(Some(rest)),
        None => {
            let what = "--without: nothing supervised is left in the batch";
            Err(DataError::input(what, "leave fewer examples out").into())
        }
    }
}

/// Whether the weights, and the optimizer's state, are those that the run saved after a step; none when no whole
/// checkpoint of it is there. Afterwards both are the saved ones.
fn same_as_saved(
    decoder: &Decoder,
    optimizer: &mut Optimizer,
    (run, step): (&Path, u64),
    torn: &mut Vec<String>,
) -> Result<Option<(bool, bool)>> {
    let checkpoints = Checkpoints::new(run);
    if !checkpoints.steps()?.contains(&step) {
        return Ok(None);
    }
    let checkpoint = match checkpoints.open(step) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            torn.push(format!("{error:#}"));
            return Ok(None);
        }
    };
    let made = outcome::Snapshot::take(decoder, optimizer);
    restore(decoder, optimizer, &checkpoint)?;
    Ok(Some(made.same_as(decoder, optimizer)))
}

fn restore(decoder: &Decoder, optimizer: &mut Optimizer, checkpoint: &Checkpoint) -> Result<()> {
    let restored = weights::restore(decoder, &checkpoint.folder)
        .and_then(|()| optimizer.load(&checkpoint.optimizer()));
    if restored.is_err() && !checkpoint.folder.is_dir() {
        let what = "the run has gone on and removed this checkpoint while it was being read";
        let remedy = "give the same command again";
        return Err(DataError::in_file(&checkpoint.folder, what, remedy).into());
    }
    restored
}

/// Refuses a step that the run has not made.
fn check_step(
    ready: &Ready,
    request: &ReplayRequest,
    recorded: &BTreeMap<u64, recorded::Recorded>,
    checkpoints: &Checkpoints,
) -> Result<()> {
    let train = &ready.settings.train;
    // The steps after the last that is logged may have been made, up to the next that would be.
    let logged = recorded.keys().next_back().copied().unwrap_or(0);
    let unlogged = (logged / train.log_every)
        .saturating_add(1)
        .saturating_mul(train.log_every)
        - 1;
    let saved = checkpoints.steps()?.last().copied().unwrap_or(0);
    let made = unlogged.max(logged).max(saved).min(train.steps);
    if (1..=made).contains(&request.step) {
        return Ok(());
    }
    let what = match request.step > made && made < train.steps {
        true => format!(
            "step {} was not made yet: the run is at step {}",
            request.step,
            logged.max(saved)
        ),
        false => format!("has no step {}: its steps are 1 to {made}", request.step),
    };
    let remedy = match made {
        0 => "no step was made; start the run again, and it goes on".to_owned(),
        made => format!("give --step 1 to {made}"),
    };
    Err(DataError::in_file(&request.run, what, remedy).into())
}

/// Refuses other data than the run's. Whether the run folder tells which it was.
fn check_data(
    run: &Path,
    ready: &Ready,
    checkpoints: &Checkpoints,
    found: Option<&Checkpoint>,
) -> Result<bool> {
    let now = &ready.settings.data_fingerprint;
    let remedy =
        |old: &str| format!("bring the old {old} back; without it the step cannot be made again");
    let said = data_record::compare(run, now);
    // A later checkpoint knows as well which data it was.
    let saved = match found {
        Some(checkpoint) => Some(checkpoint.state.fingerprint.clone()),
        None => checkpoints
            .newest()?
            .0
            .map(|newest| newest.state.fingerprint),
    };
    if said == Compared::Other || saved.as_ref().is_some_and(|saved| saved != now) {
        return Err(data_record::changed(run, &ready.data, remedy));
    }
    Ok(said == Compared::Same || saved.is_some())
}
