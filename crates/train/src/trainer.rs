//! The training loop, the only one. It reads: learning rate, batch, step (forward, backward, clip,
//! update), log, what is due, checkpoint.

mod ending;

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result};
use etude_data::{Batch, DataError, Loader, LoaderSettings};
use etude_model::Decoder;
use etude_tensor::memory;

use crate::checkpoint::{Checkpoint, Checkpoints, TrainerState};
use crate::environment::Environment;
use crate::forecast::{self, FirstSteps};
use crate::log::{Figures, RunLog, Speed};
use crate::optimizer::Optimizer;
use crate::run::{RunContext, RunFolder};
use crate::schedule::learning_rate_scale;
use crate::stage::{Diverged, Ended, Stage, TrainerSettings, validation};
use crate::step::{StepReport, StepSettings, forward_backward, train_step, within_memory};
use crate::weights;

/// A run in progress.
pub struct Trainer<'a> {
    stage: &'a dyn Stage,
    decoder: &'a Decoder,
    optimizer: Optimizer,
    settings: &'a TrainerSettings,
    context: &'a RunContext,
    folder: &'a RunFolder,
    checkpoints: Checkpoints,
    state: TrainerState,
    log: RunLog<'a>,
    resumed: bool,
    seconds_to_first_step: Option<f64>,
    /// The newest validation loss of what every validation is of.
    comparable: f64,
    /// Steps whose figures are still on the device, with their batches.
    pending: VecDeque<Pending>,
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("stage", &self.stage.name())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

struct Pending {
    step: u64,
    scale: f64,
    tokens: u64,
    supervised: u64,
    report: StepReport,
    batch: Batch,
}

impl<'a> Trainer<'a> {
    /// Prepares a run: takes up the newest whole checkpoint of the folder, or starts.
    ///
    /// # Errors
    /// When the folder holds another run's data, or checkpoints of which none is whole, or cannot be written.
    pub fn new(
        stage: &'a dyn Stage,
        decoder: &'a Decoder,
        settings: &'a TrainerSettings,
        context: &'a RunContext,
        folder: &'a RunFolder,
    ) -> Result<Self> {
        let kind = settings.train.precision.product_kind(decoder.device());
        let checkpoints = Checkpoints::new(folder.path());
        let environment = Environment::measure(decoder.device(), kind);
        let (found, torn) = checkpoints.to_go_on_from()?;
        let state = match &found {
            Some(checkpoint) => checkpoint.state.clone(),
            None if folder.file("summary.json").exists() => {
                return Err(DataError::in_file(
                    folder.path(),
                    "holds a finished run without its checkpoints, and to begin anew would lose its model and its log",
                    "choose another --run, or remove the folder to begin anew",
                )
                .into());
            }
            None => TrainerState::new(settings.data_fingerprint.clone()),
        };
        if state.fingerprint != settings.data_fingerprint {
            return Err(DataError::in_file(
                folder.path(),
                "the data has changed since this run began",
                "choose another --run, or bring the old data back",
            )
            .into());
        }
        if state.step < settings.train.steps {
            memory::give_back(); // what making the data ready used
            forecast::room::require(decoder, &settings.optimizer)?;
            folder.write_json("environment.json", &environment)?; // else it tells of what made the run
        }
        let optimizer = Optimizer::new(decoder, &settings.optimizer).with_products(kind);
        let speed = Speed {
            flops_per_token: decoder.flops_per_token(settings.length as i64),
            peak: environment.matmul_peak,
        };
        let from = found.as_ref().map(|checkpoint| &checkpoint.state);
        let log = RunLog::open(stage.name(), settings, context, folder, from, speed)?;
        for line in &torn {
            log.warn(&format!("passed over: {line}"));
        }
        let mut trainer = Self {
            stage,
            decoder,
            optimizer,
            settings,
            context,
            folder,
            checkpoints,
            state,
            log,
            resumed: found.is_some(),
            seconds_to_first_step: None,
            comparable: f64::NAN,
            pending: VecDeque::new(),
        };
        if let Some(checkpoint) = found {
            trainer.restore(&checkpoint)?;
        }
        Ok(trainer)
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        weights::restore(self.decoder, &checkpoint.folder)?;
        self.optimizer.load(&checkpoint.optimizer())?;
        self.log.say(&format!(
            "resuming after step {} ({})",
            self.state.step,
            checkpoint.folder.display()
        ));
        Ok(())
    }

    /// Runs to the end, or until it is asked to stop.
    ///
    /// # Errors
    /// When a file cannot be written, the data cannot be read, or too many steps in a row are not finite.
    pub fn run(mut self) -> Result<Ended> {
        let train = &self.settings.train;
        self.context.interrupt.work_begins();
        if self.state.step >= train.steps {
            self.prune()?; // the session that made the last checkpoint may have died before it did
            let summary = match self.finished_before() {
                Some(summary) => summary,
                None => self.finish_again()?,
            };
            return Ok(Ended::Finished(Box::new(summary)));
        }
        let step_settings = StepSettings::of(self.settings);
        forecast::disk::require(self.folder, self.decoder, &self.optimizer, train)?;
        self.try_largest_batch(&step_settings)?;
        let mut first_steps = match self.resumed {
            true => None, // the forecast was made when the run began
            false => FirstSteps::new(self.folder, train.steps),
        };
        let make = self.stage.batches();
        let ahead = LoaderSettings {
            threads: train.loader_threads,
            ..LoaderSettings::default()
        };
        let mut loader = Loader::new(self.state.step, ahead, move |step| make(step))?;
        match self.resumed {
            // The run does not end for what it said on the way.
            true => {
                if let Err(error) = self.sample_again() {
                    self.log.warn(&format!(
                        "without samples of the last checkpoint: {error:#}"
                    ));
                }
            }
            false if train.sample_every > 0 => self.sample()?, // what an untrained model says
            false => {}
        }
        while self.state.step < train.steps {
            let step = self.state.step;
            let scale = learning_rate_scale(step, train.steps, &self.settings.schedule);
            let batch = loader.next()?;
            let start = Instant::now();
            let report = within_memory(|| {
                train_step(
                    self.decoder,
                    &mut self.optimizer,
                    &batch,
                    step,
                    scale,
                    &step_settings,
                )
            })?;
            self.state.step += 1;
            self.state.tokens += report.tokens as u64;
            self.state.supervised += report.supervised as u64;
            self.log.begun(report.tokens);
            let (supervised, shape) = (report.supervised, (batch.rows, batch.cols));
            self.pending.push_back(Pending {
                step: self.state.step,
                scale,
                tokens: self.state.tokens,
                supervised: self.state.supervised,
                report,
                batch,
            });
            // A device that works ahead is asked about a step when the next one is under way.
            let lag = usize::from(self.decoder.device() != etude_tensor::Device::Cpu);
            self.settle(lag, start)?;
            if self.seconds_to_first_step.is_none() {
                self.seconds_to_first_step = Some(self.context.started.elapsed().as_secs_f64());
                self.warn_of_tight_memory(&step_settings, shape);
            }
            let first = &mut first_steps;
            if first
                .as_mut()
                .is_some_and(|first| first.count(start.elapsed(), supervised, shape))
            {
                self.forecast(first.take())?;
            }
            if self.do_what_is_due()? {
                return Ok(Ended::Interrupted {
                    step: self.state.step,
                });
            }
        }
        self.finish()
            .map(|summary| Ended::Finished(Box::new(summary)))
    }

    /// Runs the largest batch forward and backward, so that memory that does not suffice shows now.
    fn try_largest_batch(&self, settings: &StepSettings) -> Result<()> {
        if let Some(batch) = self.stage.largest_batch().filter(|_| !self.resumed) {
            let _ = within_memory(|| forward_backward(self.decoder, &batch, settings))
                .with_context(|| {
                    format!(
                        "the largest batch ({} rows of {} tokens) does not go through",
                        batch.rows, batch.cols
                    )
                })?;
            self.decoder.drop_grads();
            self.warn_of_tight_memory(settings, (batch.rows, batch.cols));
        }
        Ok(())
    }

    /// Says so when hardly any memory is left after a batch as large as any.
    fn warn_of_tight_memory(&self, settings: &StepSettings, shape: (usize, usize)) {
        let tight =
            forecast::tight_memory(memory::peak_rss(), memory::available(), settings, shape);
        if let Some(warning) = tight {
            self.log.warn(&warning);
        }
    }

    /// Writes the forecast that the first steps allow.
    fn forecast(&self, first: Option<FirstSteps>) -> Result<()> {
        let Some(first) = first else { return Ok(()) };
        let known = forecast::Known {
            stage: self.stage,
            decoder: self.decoder,
            optimizer: &self.optimizer,
            settings: self.settings,
            folder: self.folder,
            setup: self.seconds_to_first_step.unwrap_or(0.0),
        };
        first.forecast(&known).write(self.folder.path())
    }

    /// Reads the figures of finished steps until only `leave` are outstanding, logs those that are due and
    /// counts those that were not applied.
    fn settle(&mut self, leave: usize, start: Instant) -> Result<()> {
        while self.pending.len() > leave {
            let Some(done) = self.pending.pop_front() else {
                break;
            };
            let figures = Figures {
                step: done.step,
                scale: done.scale,
                tokens: done.tokens,
                supervised: done.supervised,
                loss: done.report.loss.double_value(&[]), // sync
                grad_norm: done.report.grad_norm.double_value(&[]), // sync
                skipped: done.report.skipped.double_value(&[]) != 0.0, // sync
            };
            self.state.last_loss = Some(figures.loss).filter(|loss| loss.is_finite());
            if figures.skipped {
                self.state.bad_steps += 1;
                self.not_applied(&figures, &done.batch)?;
            } else {
                self.state.bad_steps = 0;
            }
            self.log.step(&figures, start.elapsed())?;
        }
        Ok(())
    }

    /// Keeps the batch of a step that was not applied, and ends the run after too many in a row.
    fn not_applied(&self, done: &Figures, batch: &Batch) -> Result<()> {
        let name = self.log.bad_step(done, batch)?;
        if self.state.bad_steps >= self.settings.train.max_bad_steps {
            return Err(Diverged {
                steps: self.state.bad_steps,
                last: done.step,
                batch: self.folder.file(&name),
            }
            .into());
        }
        Ok(())
    }

    /// Validation, samples and checkpoints when their step has come. True when the run is to stop.
    fn do_what_is_due(&mut self) -> Result<bool> {
        let (step, train) = (self.state.step, &self.settings.train);
        let [evaluates, samples, saves] =
            [train.eval_every, train.sample_every, train.checkpoint_every]
                .map(|every| self.is_due(every));
        let asked = self.context.interrupt.asked();
        if evaluates || samples || saves || asked {
            self.settle(0, Instant::now())?;
        }
        if evaluates {
            self.evaluate()?;
        }
        let sampled = match samples {
            true => self.sample(),
            false => Ok(()),
        };
        if saves || (asked && step < train.steps) {
            self.checkpoint()?; // what was learnt is kept, whatever became of the samples
        }
        sampled?;
        if asked && step < train.steps {
            self.log.finish();
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether something that is done every so many steps, and at the end, is to be done in the midst of the run.
    fn is_due(&self, every: u64) -> bool {
        let step = self.state.step;
        every > 0 && step.is_multiple_of(every) && step < self.settings.train.steps
    }

    fn evaluate(&mut self) -> Result<()> {
        let (stage, decoder, train) = (self.stage, self.decoder, &self.settings.train);
        let last = self.state.step == train.steps;
        let found = |whole| validation(stage, decoder, train.precision, whole);
        let evaluation = found(last)?;
        // The loss of a part and that of the whole do not compare.
        let others = (1..self.state.step).contains(&train.eval_every);
        let beside = last && others && stage.validates_in_part();
        let of_part = match beside {
            true => Some(found(false)?.loss),
            false => None,
        };
        self.comparable = of_part.unwrap_or(evaluation.loss);
        self.log.evaluation(self.state.step, &evaluation, of_part)?;
        self.state.last_evaluation = Some(evaluation);
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        let samples = self.stage.samples(self.decoder)?;
        self.log.samples(self.state.step, &samples)
    }

    /// The samples of a checkpoint's step, where they could not be written when it was made.
    fn sample_again(&mut self) -> Result<()> {
        let step = self.state.step;
        let wanted =
            step == self.settings.train.steps || self.is_due(self.settings.train.sample_every);
        if !wanted || self.log.has_samples(step) {
            return Ok(());
        }
        self.sample()?;
        self.log.sync()
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.log.sync()?;
        self.state.seconds = self.log.seconds();
        if self.state.step == self.settings.train.steps || self.evaluated_now() {
            let loss = self.comparable;
            if loss.is_finite() && self.state.best.is_none_or(|(best, _)| loss < best) {
                self.state.best = Some((loss, self.state.step));
            }
        }
        let (stage, decoder, optimizer, ids) = (
            self.stage,
            self.decoder,
            &self.optimizer,
            &self.settings.ids,
        );
        self.checkpoints.save(
            &self.state,
            |folder| weights::save(stage, decoder, ids, folder),
            |file| optimizer.save(file),
        )?;
        self.prune()
    }

    fn prune(&self) -> Result<()> {
        let best = self.state.best.map(|(_, step)| step);
        let keep = self.settings.train.keep;
        self.checkpoints.prune(self.state.step, keep, best)
    }

    fn evaluated_now(&self) -> bool {
        let every = self.settings.train.eval_every;
        every > 0 && self.state.step.is_multiple_of(every)
    }
}
