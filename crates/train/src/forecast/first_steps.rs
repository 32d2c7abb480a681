//! The forecast of a run that nobody planned: from its own first steps, so that its start costs nothing. What
//! has not happened by then is estimated: a validation token takes a third of a training token's time (no
//! backward pass), files are written at [`WRITE_RATE`], and samples are left out.

use std::time::Duration;

use etude_model::Decoder;
use etude_tensor::memory;

use super::rehearsal::trained;
use super::{DiskForecast, FORECAST, Forecast, MadeBy, Memory, ModelBytes, Seconds, Times, Work};
use super::{disk, earlier, recipe_hash};
use crate::optimizer::Optimizer;
use crate::run::RunFolder;
use crate::stage::{Stage, TrainerSettings};

/// Bytes a second that are written, synced and hashed, where nobody has measured it.
const WRITE_RATE: f64 = 3e8;

/// Counts the first steps until there are enough.
#[derive(Debug)]
pub(crate) struct FirstSteps {
    recipe: String,
    wanted: u64,
    counted: u64,
    /// Of the first step, which is slow, and of the others.
    first: f64,
    seconds: f64,
    tokens: u64,
    supervised: u64,
    largest: (usize, usize),
}

/// What a run knows of itself.
pub(crate) struct Known<'a> {
    pub(crate) stage: &'a dyn Stage,
    pub(crate) decoder: &'a Decoder,
    pub(crate) optimizer: &'a Optimizer,
    pub(crate) settings: &'a TrainerSettings,
    pub(crate) folder: &'a RunFolder,
    /// Seconds from the command's start to the first step.
    pub(crate) setup: f64,
}

impl FirstSteps {
    /// Begins to count, unless the folder has a forecast of this recipe already.
    pub(crate) fn new(folder: &RunFolder, steps: u64) -> Option<Self> {
        let recipe = std::fs::read_to_string(folder.file("recipe.toml")).ok()?;
        let planned = Forecast::read(folder.path());
        if planned.is_some_and(|planned| planned.recipe == recipe_hash(&recipe)) {
            return None;
        }
        // What another recipe's plan says is not of this run.
        let _ = std::fs::remove_file(folder.file(FORECAST));
        Some(Self {
            recipe,
            wanted: (steps / 20).clamp(3, 20).min(steps),
            counted: 0,
            first: 0.0,
            seconds: 0.0,
            tokens: 0,
            supervised: 0,
            largest: (0, 0),
        })
    }

    /// Counts a step. True when that was the last one needed.
    pub(crate) fn count(
        &mut self,
        time: Duration,
        supervised: usize,
        shape: (usize, usize),
    ) -> bool {
        let time = time.as_secs_f64();
        match self.counted {
            0 => self.first = time,
            _ => self.seconds += time,
        }
        self.counted += 1;
        self.tokens += (shape.0 * shape.1) as u64;
        self.supervised += supervised as u64;
        self.largest = self.largest.max(shape);
        self.counted == self.wanted
    }

    /// The forecast from what was counted.
    pub(crate) fn forecast(&self, run: &Known<'_>) -> Forecast {
        let (train, decoder) = (&run.settings.train, run.decoder);
        let bytes = ModelBytes::of(decoder, run.optimizer);
        let all = |sum: u64| {
            (u128::from(sum) * u128::from(train.steps) / u128::from(self.counted)) as u64
        };
        let (tokens, times) = (all(self.tokens), Times::of(train));
        let per_step = match self.counted {
            1 => self.first,
            counted => self.seconds / (counted - 1) as f64,
        };
        let per_token = per_step * self.counted as f64 / self.tokens.max(1) as f64;
        let scored = |last: bool| -> f64 {
            let batches = run.stage.validation_batches(last);
            batches.map(|batch| batch.tokens() as f64).sum()
        };
        let scored = scored(true) + scored(false) * times.quick_validations(run.stage) as f64;
        let (checkpoint, result) = (bytes.checkpoint(), bytes.result(decoder));
        let seconds = Seconds {
            setup: run.setup,
            steps: self.first + per_step * (train.steps - 1) as f64,
            per_step,
            validation: scored * per_token / 3.0,
            checkpoints: times.checkpoints as f64 * checkpoint as f64 / WRITE_RATE,
            result: 2.0 * result as f64 / WRITE_RATE,
            ..Seconds::default()
        };
        let (facts, parameters) = (run.stage.data_facts(), decoder.params().numel());
        let flops_per_token = decoder.flops_per_token(run.settings.length as i64);
        let largest = run.stage.largest_batch();
        let held = memory::rss().unwrap_or(0);
        let counted = bytes.weights + bytes.gradients + bytes.optimizer;
        Forecast {
            made_by: MadeBy::FirstSteps,
            recipe: recipe_hash(&self.recipe),
            work: Work {
                steps: train.steps,
                tokens,
                supervised_tokens: all(self.supervised),
                largest_batch: largest.map_or(self.largest, |batch| (batch.rows, batch.cols)),
                parameters,
                trained_parameters: trained(decoder),
                flops_per_token,
                flops: flops_per_token * tokens as f64,
                epoch_tokens: facts.epoch_tokens,
                epochs: facts.epochs,
                tokens_per_parameter: tokens as f64 / parameters as f64,
            },
            seconds: seconds.summed(),
            memory: Memory {
                // The largest batch went through already; what is to come fits into what it took.
                peak: memory::peak_rss().unwrap_or(counted),
                weights: bytes.weights,
                gradients: bytes.gradients,
                optimizer: bytes.optimizer,
                available: memory::available().map(|free| free + held),
            },
            disk: DiskForecast {
                free: disk::free_bytes(run.folder.path()),
                ..DiskForecast::new(train, checkpoint, result)
            },
            loss: earlier::expect(run.folder.path(), &self.recipe, tokens),
        }
    }
}
