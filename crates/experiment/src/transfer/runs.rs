//! The training runs of a transfer experiment: a folder each, with a record of what came out. What has a record
//! is not run again.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etude_eval::{TaskResult, TextScore};
use etude_finetune::Recipe;
use etude_model::hf;
use etude_tensor::{Kind, parse_device};
use etude_train::checkpoint::Checkpoints;
use etude_train::interrupt::Interrupt;
use etude_train::{Diverged, Ended, RunContext, RunFolder, durable, recipe};
use serde::{Deserialize, Serialize};

const RECORD: &str = "record.json";
/// The folder of the base model's answers, below `runs/`.
pub(super) const BASE: &str = "base";

/// Where a run's weights start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// From the pre-trained model.
    Pretrained,
    /// From random numbers.
    Scratch,
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretrained => "pretrained",
            Self::Scratch => "scratch",
        })
    }
}

/// One run of the experiment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) arm: Arm,
    /// The share of the training examples.
    pub(super) share: f64,
    /// How many those are; 0 for all.
    pub(super) examples: usize,
    pub(super) seed: u64,
    /// What the recipe's learning rates are multiplied by.
    pub(super) rate: f64,
    /// A variant's number, from 1, on the pre-trained arm.
    pub(super) variant: Option<usize>,
}

impl Key {
    /// The run's folder, below `runs/`.
    pub(super) fn folder(&self) -> String {
        let (arm, share, seed, rate) = (self.arm, self.share, self.seed, self.rate);
        match self.variant {
            Some(number) => format!("variant-{number}-seed-{seed}-rate-{rate}"),
            None => format!("{arm}-{share}-seed-{seed}-rate-{rate}"),
        }
    }

    /// The recipe with this run's examples, seed and rates; validated five times at least, and saved each time,
    /// so that the best state can be taken. That state is asked later, and not the last one by the run itself.
    pub(super) fn recipe(&self, recipe: &Recipe) -> Recipe {
        let mut recipe = recipe.clone();
        recipe.task.examples = self.examples;
        recipe.task.draw = self.seed;
        recipe.train.seed = self.seed;
        recipe.optimizer = recipe.optimizer.with_rates(self.rate);
        let train = &mut recipe.train;
        let fifth = (train.steps / 5).max(1);
        train.eval_every = match train.eval_every {
            0 => fifth,
            every => every.min(fifth),
        };
        train.checkpoint_every = train.eval_every;
        train.keep = 1;
        train.sample_every = 0;
        train.tensorboard = false;
        recipe.eval.samples = 0;
        recipe.eval.metrics.clear();
        recipe
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.share * 100.0)?;
        if self.examples > 0 {
            write!(f, " ({} examples)", self.examples)?;
        }
        write!(f, ", seed {}, rates x {}", self.seed, self.rate)
    }
}

/// `record.json`: what came out of a run; for the base model, which is only asked, what it answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The lowest validation loss among the saved states, in nats a token, and its step. That state is the one
    /// that answers. None when training diverged.
    pub(super) validation_loss: Option<f64>,
    pub(super) best_step: u64,
    /// Tokens that went through the model.
    pub(super) tokens: u64,
    pub(super) seconds: f64,
    pub(super) parameters: u64,
    /// Floating-point operations of the training steps.
    pub(super) flops: f64,
    /// Its answers to the test examples, once they are asked for.
    pub(super) result: Option<TaskResult>,
    /// Its loss on general text, once that is asked for.
    pub(super) general: Option<TextScore>,
}

impl Record {
    /// Whether a run has one.
    pub(super) fn is_in(run: &Path) -> bool {
        run.join(RECORD).is_file()
    }

    pub(super) fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(RECORD);
        let Ok(text) = fs::read(&path) else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{}: is damaged; remove {} to make that run again",
                path.display(),
                run.display()
            )
        })?;
        Ok(Some(record))
    }

    /// How training ended, in words.
    pub(super) fn how_it_ended(&self) -> String {
        match self.validation_loss {
            Some(loss) => format!(
                "validation loss {loss:.4} at step {}, {:.0} s",
                self.best_step, self.seconds
            ),
            None => "diverged: its losses are not numbers".to_owned(),
        }
    }

    pub(super) fn write(&self, run: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).context("a record is plain data")?;
        durable::write(&run.join(RECORD), &json)
    }
}

/// The run's record, after training where there is none yet. None when someone asked to stop. That training diverged
/// is a result like others: the rates are too high.
///
/// # Errors
/// As fine-tuning; and when the folder holds a run of another recipe.
pub(super) fn trained(recipe: &Recipe, context: &RunContext) -> Result<Option<Record>> {
    let folder = &context.folder;
    if let Some(record) = Record::read(folder)? {
        // Refuses a folder that an earlier, different experiment left here.
        RunFolder::open(folder, &recipe::to_toml(recipe)?)?;
        return Ok(Some(record));
    }
    let summary = match etude_finetune::run(recipe, context) {
        Ok(Ended::Finished(summary)) => Some(summary),
        Ok(Ended::Interrupted { .. }) => return Ok(None),
        Err(error) if error.is::<Diverged>() => None,
        Err(error) => return Err(error),
    };
    let best = Checkpoints::new(folder).best()?;
    let Some((summary, (checkpoint, loss))) = summary.zip(best) else {
        let record = Record::default();
        record.write(folder)?;
        return Ok(Some(record));
    };
    let (config, _) = hf::load_config(&folder.join("model"))?;
    let share = summary.trained_parameters as f64 / summary.parameters.max(1) as f64;
    // As the decoder counts: an adapter's run needs no gradients of the frozen matrices.
    let adapted = if share < 0.5 { 2.0 / 3.0 } else { 1.0 };
    let length = (summary.tokens as f64
        / (recipe.train.steps * recipe.train.batch_rows as u64) as f64)
        .round()
        .max(1.0) as i64;
    let record = Record {
        validation_loss: Some(loss),
        best_step: checkpoint.state.step,
        tokens: summary.tokens,
        seconds: summary.seconds,
        parameters: summary.parameters,
        flops: adapted * config.flops_per_token(length) * summary.tokens as f64,
        result: None,
        general: None,
    };
    record.write(folder)?;
    Ok(Some(record))
}

/// The folder of the state that answers: the best one that was saved.
pub(super) fn best(run: &Path) -> Result<Option<PathBuf>> {
    Ok(Checkpoints::new(run).best()?.map(|(found, _)| found.folder))
}

/// Removes what a run holds besides its story: weights that nobody will ask again.
pub(super) fn forget_weights(run: &Path) -> Result<()> {
    for name in ["checkpoints", "model", "adapter"] {
        let path = run.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// The loss of a model on general text.
pub(super) fn general_loss(
    model: &Path,
    text: &str,
    device: &str,
    interrupt: &Interrupt,
) -> Result<TextScore> {
    let tokenizer = etude_tokenizer::Tokenizer::load(model)?;
    let loaded = hf::load(model, Kind::Float, parse_device(device)?)?;
    let windows = etude_eval::TextWindows::default();
    let heard = &mut |_| interrupt.check();
    etude_eval::text_loss(&loaded.decoder, &tokenizer, text, &windows, heard)
        .with_context(|| format!("{}: cannot be scored on general text", model.display()))
}
