//! What a run will take, said before it: time, memory, disk, and the loss that earlier runs let expect.
//!
//! `etude plan` makes a [`Forecast`] by a rehearsal ([`rehearse`]): a little of everything that the run does,
//! with its own model, batches and files. A run that nobody planned makes a rougher one of its first steps.
//! Either lies in the run folder as `forecast.json`, and when the run ends [`Comparison`] sets it beside what
//! came to pass. [`disk`] says what checkpoints take and refuses to start without room for them; [`earlier`]
//! looks for runs to learn from.

mod compare;
pub mod disk;
pub mod earlier;
mod first_steps;
mod rehearsal;
pub(crate) mod room;

use std::path::Path;

use anyhow::{Context, Result};
use etude_model::Decoder;
use etude_tensor::Params;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;
use crate::optimizer::Optimizer;
use crate::run::RUN;
use crate::settings::TrainSettings;
use crate::step::StepSettings;

pub use compare::{Beside, Comparison};
pub use disk::{DiskForecast, cached_bytes};
pub use earlier::ExpectedLoss;
pub(crate) use first_steps::{FirstSteps, Known};
pub use rehearsal::{Rehearsed, rehearse};

/// The forecast's name in a run folder.
pub const FORECAST: &str = "forecast.json";

/// `forecast.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// How it was made.
    pub made_by: MadeBy,
    /// SHA-256 of the resolved recipe that it is of.
    pub recipe: String,
    /// How much is computed, on how much data.
    pub work: Work,
    /// How long it takes.
    pub seconds: Seconds,
    /// How much memory.
    pub memory: Memory,
    /// How much disk.
    pub disk: DiskForecast,
    /// The final validation loss; none when no earlier run is like this one.
    pub loss: Option<ExpectedLoss>,
}

/// Who made a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MadeBy {
    /// `etude plan`, by a rehearsal.
    Plan,
    /// The run itself, from its first steps.
    FirstSteps,
}

/// How much is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens that go through the model in training, padding included.
    pub tokens: u64,
    /// Of these, supervised.
    pub supervised_tokens: u64,
    /// Rows and tokens a row of the largest batch.
    pub largest_batch: (usize, usize),
    /// Numbers in the model.
    pub parameters: u64,
    /// Numbers that training moves.
    pub trained_parameters: u64,
    /// Floating-point operations of training a token.
    pub flops_per_token: f64,
    /// Of all steps together.
    pub flops: f64,
    /// Tokens of one pass over the training data; 0 where the stage does not say.
    pub epoch_tokens: u64,
    /// Passes over the training data.
    pub epochs: f64,
    /// Tokens seen for each number of the model.
    pub tokens_per_parameter: f64,
}

/// How long a run takes, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// From the command's start to its end.
    pub total: f64,
    /// Of these, what `summary.json` counts as `seconds`: from the largest batch's trial to the last checkpoint.
    pub training: f64,
    /// Everything before: start, data, model.
    pub setup: f64,
    /// Optimizer steps, the largest batch's trial included.
    pub steps: f64,
    /// A step on average.
    pub per_step: f64,
    /// All validations.
    pub validation: f64,
    /// All samples.
    pub samples: f64,
    /// All checkpoints.
    pub checkpoints: f64,
    /// Writing the result and reading it back.
    pub result: f64,
    /// Answering the test split at the end, where the recipe asks for scores.
    #[serde(default)]
    pub answers: f64,
}

impl Seconds {
    /// The sums from the parts.
    fn summed(self) -> Self {
        let training = self.steps + self.validation + self.samples + self.checkpoints;
        Self {
            training,
            total: self.setup + training + self.result + self.answers,
            ..self
        }
    }

    /// With the time that answering the test split takes.
    pub fn add_answers(&mut self, answers: f64) {
        *self = Self { answers, ..*self }.summed();
    }
}

/// How much memory a run takes, in bytes. On a GPU this is the host's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The most that the process will hold.
    pub peak: u64,
    /// Of these: the weights,
    pub weights: u64,
    /// their gradients,
    pub gradients: u64,
    /// and the optimizer's state. The rest is activations, libraries and the data.
    pub optimizer: u64,
    /// What was free for this process when the forecast was made; none where the system does not tell.
    pub available: Option<u64>,
}

impl Memory {
    /// What is neither weights nor gradients nor optimizer state.
    pub fn rest(&self) -> u64 {
        self.peak
            .saturating_sub(self.weights + self.gradients + self.optimizer)
    }

    /// Whether it will fit; none where nobody knows.
    pub fn fits(&self) -> Option<bool> {
        self.available.map(|available| self.peak <= available)
    }
}

/// What a stage knows of its training data.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DataFacts {
    /// Tokens of one pass.
    pub epoch_tokens: u64,
    /// Passes that the run makes.
    pub epochs: f64,
    /// Bytes of files that are mapped: their pages come into memory as the run reads on.
    pub mapped_bytes: u64,
}

/// Bytes that follow from the model alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelBytes {
    pub(crate) weights: u64,
    pub(crate) gradients: u64,
    pub(crate) optimizer: u64,
    /// What a checkpoint holds of the model: all weights, or the adapter's.
    pub(crate) saved: u64,
}

impl ModelBytes {
    pub(crate) fn of(decoder: &Decoder, optimizer: &Optimizer) -> Self {
        let bytes = |tensor: &etude_tensor::Tensor| {
            (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
        };
        let all = |params: &Params| params.tensors().map(bytes).sum::<u64>();
        let adapter = decoder.adapter().map(|adapter| all(adapter.params()));
        let gradients = decoder.trainable().map(|param| bytes(&param.tensor)).sum();
        let own = all(decoder.params());
        Self {
            weights: own + adapter.unwrap_or(0),
            gradients,
            optimizer: optimizer.bytes(),
            saved: if adapter.is_some() { gradients } else { own },
        }
    }

    /// A checkpoint's, less the tokenizer and the small files.
    pub(crate) fn checkpoint(&self) -> u64 {
        self.saved + self.optimizer
    }

    /// The result's: the whole model and, where there is one, the adapter.
    pub(crate) fn result(&self, decoder: &Decoder) -> u64 {
        match decoder.adapter() {
            Some(_) => {
                let size = decoder.params().kind().elt_size_in_bytes() as u64;
                self.saved + decoder.params().numel() * size
            }
            None => self.saved,
        }
    }
}

/// How often a run validates before its end, samples, and saves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// Validations on the way; the last one comes on top.
    pub(crate) validations: u64,
    pub(crate) samplings: u64,
    pub(crate) checkpoints: u64,
}

impl Times {
    pub(crate) fn of(train: &TrainSettings) -> Self {
        let due = |every: u64| (train.steps - 1).checked_div(every).unwrap_or(0);
        let at_the_start = u64::from(train.sample_every > 0);
        Self {
            validations: due(train.eval_every),
            samplings: at_the_start + due(train.sample_every) + 1,
            checkpoints: due(train.checkpoint_every) + 1,
        }
    }

    /// Validations of a part, where the last is of more: it is made beside that, too.
    pub(crate) fn quick_validations(&self, stage: &dyn crate::Stage) -> u64 {
        self.validations + u64::from(self.validations > 0 && stage.validates_in_part())
    }
}

/// The warning that hardly any memory is left, after a batch as large as any went through: the process held `peak`
/// bytes, `available` are free, and what is to come (validation, the result read back) wants some more.
pub(crate) fn tight_memory(
    peak: Option<u64>,
    available: Option<u64>,
    step: &StepSettings,
    (rows, cols): (usize, usize),
) -> Option<String> {
    let (peak, available) = (peak?, available?);
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    (available < peak / 10).then(|| {
        format!(
            "warning: the largest batch ({rows} rows of {cols} tokens) took {:.2} GB, and only {:.2} GB are left: the system may end this run; lower train.micro_rows, now {} (which does not change the result), or end other programs",
            gigabytes(peak),
            gigabytes(available),
            step.rows
        )
    })
}

/// What a forecast names its recipe by.
pub fn recipe_hash(resolved: &str) -> String {
    let hash = Sha256::digest(resolved.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Forecast {
    /// Reads the forecast of a run folder; none when there is none that can be read.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read(folder.join(FORECAST)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it into a run folder, making that if need be.
    ///
    /// # Errors
    /// When something else lies in the folder, or it cannot be written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        RUN.claim(folder)?;
        let mut json = serde_json::to_vec_pretty(self).context("a forecast is plain data")?;
        json.push(b'\n');
        durable::write(&folder.join(FORECAST), &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(steps: u64, eval: u64, sample: u64, checkpoint: u64) -> TrainSettings {
        TrainSettings {
            steps,
            eval_every: eval,
            sample_every: sample,
            checkpoint_every: checkpoint,
            ..TrainSettings::default()
        }
    }

    #[test]
    fn what_is_due_is_counted_as_the_loop_does_it() {
        let times = |train: &TrainSettings| {
            let times = Times::of(train);
            (times.validations, times.samplings, times.checkpoints)
        };
        assert_eq!(times(&train(10, 0, 0, 0)), (0, 1, 1));
        // Steps 3, 6 and 9 are due; what the last step would have due, the end does.
        assert_eq!(times(&train(10, 3, 3, 3)), (3, 5, 4));
        assert_eq!(times(&train(9, 3, 3, 3)), (2, 4, 3));
        assert_eq!(times(&train(1, 1, 1, 1)), (0, 2, 1));
    }

    #[test]
    fn a_warning_when_the_largest_batch_leaves_hardly_any_memory() {
        let step = StepSettings {
            rows: 8,
            precision: etude_tensor::Precision::Float32,
            max_norm: None,
            seed: 1,
        };
        let warning = |available| tight_memory(Some(4_000_000_000), available, &step, (16, 256));
        assert_eq!(warning(Some(400_000_000)), None);
        assert_eq!(warning(None), None);
        let told = warning(Some(399_000_000)).unwrap();
        for part in [
            "16 rows of 256",
            "4.00 GB",
            "0.40 GB",
            "train.micro_rows, now 8",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn the_parts_of_the_time_add_up() {
        let seconds = Seconds {
            setup: 1.0,
            steps: 10.0,
            validation: 2.0,
            samples: 0.5,
            checkpoints: 0.25,
            result: 3.0,
            ..Seconds::default()
        }
        .summed();
        assert_eq!((seconds.training, seconds.total), (12.75, 16.75));
    }
}
