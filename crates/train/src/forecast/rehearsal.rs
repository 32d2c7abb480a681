//! The measurement behind `etude plan`: a rehearsal. Each thing that the run will do is done once or a few
//! times, by the run's own functions, with its own model, batches and files, and in its order; the clock is
//! multiplied by how often the run does it, and the process's peak memory is read at the end.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use etude_data::Batch;
use etude_eval::windows_loss;
use etude_model::Decoder;
use etude_tensor::memory;
use sha2::{Digest, Sha256};

use super::{DiskForecast, Forecast, MadeBy, Memory, ModelBytes, Seconds, Times, Work};
use super::{disk, earlier, recipe_hash, room};
use crate::checkpoint::{Checkpoints, TrainerState};
use crate::environment::Environment;
use crate::optimizer::Optimizer;
use crate::run::{RUN, RunContext, RunFolder};
use crate::schedule::learning_rate_scale;
use crate::stage::{Stage, TrainerSettings, validation};
use crate::step::{StepSettings, forward_backward, train_step, within_memory};
use crate::weights;

/// About how long steps are measured, in seconds; of slow ones, at least [`LEAST_STEPS`].
const STEP_SECONDS: f64 = 5.0;
const LEAST_STEPS: usize = 6;
const MOST_STEPS: usize = 200;
/// About how long validation is measured, in seconds.
const VALIDATION_SECONDS: f64 = 2.0;
/// Batches whose sizes are counted; a longer run is taken to go on like them.
const COUNTED: u64 = 4096;
/// A larger checkpoint and result are not written: their time follows from that of a smaller file.
const WRITTEN: u64 = 4_000_000_000;
const PROBE: usize = 64 << 20;
/// What a touch of a mapped file brings into memory (Linux maps this much around a page that is in its cache).
const FAULT_AROUND: f64 = 65_536.0;
/// What the names of the folders that are written to begin with.
const PREFIX: &str = ".etude-plan-";

/// What is rehearsed.
#[derive(Clone, Copy)]
pub struct Rehearsed<'a> {
    /// The stage, with its data.
    pub stage: &'a dyn Stage,
    /// The decoder, fresh or as it is to be fine-tuned. Its weights are changed.
    pub decoder: &'a Decoder,
    /// The run's settings.
    pub settings: &'a TrainerSettings,
    /// Where the run would go; `started` tells how long the set-up took.
    pub context: &'a RunContext,
    /// The resolved recipe, as TOML.
    pub recipe: &'a str,
    /// What the data takes in the cache.
    pub cache_bytes: u64,
}

/// What a rehearsal has found so far.
struct Rehearsal<'a> {
    run: &'a Rehearsed<'a>,
    optimizer: Optimizer,
    step: StepSettings,
    seconds: Seconds,
}

/// Tokens and supervised tokens of the run's batches.
struct Sizes {
    /// Step and tokens of those that were counted, the smallest first.
    by_tokens: Vec<(u64, u64)>,
    tokens: u64,
    supervised: u64,
}

/// Rehearses a run. None when someone asked it to stop.
///
/// # Errors
/// What the run would fail with: memory that does not suffice, a batch without a supervised token, a folder
/// that cannot be written to.
pub fn rehearse(run: &Rehearsed<'_>) -> Result<Option<Forecast>> {
    let (decoder, settings) = (run.decoder, run.settings);
    let train = &settings.train;
    run.context.interrupt.work_begins();
    memory::give_back(); // what making the data ready used
    let held = memory::rss().unwrap_or(0);
    let available = memory::available().map(|free| free + held);
    let kind = train.precision.product_kind(decoder.device());
    room::require(decoder, &settings.optimizer)?;
    let optimizer = Optimizer::new(decoder, &settings.optimizer).with_products(kind);
    let bytes = ModelBytes::of(decoder, &optimizer);
    Environment::measure(decoder.device(), kind);
    let mut rehearsal = Rehearsal {
        run,
        optimizer,
        step: StepSettings::of(settings),
        seconds: Seconds {
            setup: run.context.started.elapsed().as_secs_f64(),
            ..Seconds::default()
        },
    };
    let sizes = rehearsal.sizes()?;
    let largest = match run.stage.largest_batch() {
        Some(batch) => batch,
        None => (run.stage.batches())(0)?,
    };
    let largest_batch = (largest.rows, largest.cols);
    let Some(rows_read) = rehearsal.steps(&largest, &sizes)? else {
        return Ok(None);
    };
    drop(largest);
    if !rehearsal.validation()? || !rehearsal.samples()? {
        return Ok(None);
    }
    let (checkpoint, result, read_back) = rehearsal.ending(&bytes)?;
    let facts = run.stage.data_facts();
    let rows = train.steps * train.batch_rows as u64;
    let mapped = yet_to_map(facts.mapped_bytes, rows_read, rows);
    let counted = bytes.weights + bytes.gradients + bytes.optimizer;
    let peak = memory::peak_rss().unwrap_or(counted) + mapped;
    let parameters = decoder.params().numel();
    let flops_per_token = decoder.flops_per_token(settings.length as i64);
    Ok(Some(Forecast {
        made_by: MadeBy::Plan,
        recipe: recipe_hash(run.recipe),
        work: Work {
            steps: train.steps,
            tokens: sizes.tokens,
            supervised_tokens: sizes.supervised,
            largest_batch,
            parameters,
            trained_parameters: trained(decoder),
            flops_per_token,
            flops: flops_per_token * sizes.tokens as f64,
            epoch_tokens: facts.epoch_tokens,
            epochs: facts.epochs,
            tokens_per_parameter: sizes.tokens as f64 / parameters as f64,
        },
        seconds: rehearsal.seconds.summed(),
        memory: Memory {
            // A result that was not read back would be another copy of the weights.
            peak: if read_back {
                peak
            } else {
                peak + bytes.weights
            },
            weights: bytes.weights,
            gradients: bytes.gradients,
            optimizer: bytes.optimizer,
            available,
        },
        disk: DiskForecast {
            cache: run.cache_bytes,
            free: disk::free_bytes(&run.context.folder),
            ..DiskForecast::new(train, checkpoint, result)
        },
        loss: earlier::expect(&run.context.folder, run.recipe, sizes.tokens),
    }))
}

/// Numbers that training moves.
pub(super) fn trained(decoder: &Decoder) -> u64 {
    let sizes = decoder.trainable().map(|param| param.tensor.numel() as u64);
    sizes.sum()
}

impl Rehearsal<'_> {
    /// Whether someone asked to stop.
    fn asked(&self) -> bool {
        self.run.context.interrupt.asked()
    }

    /// The sizes of all batches, or of the first ones times as many as there are.
    fn sizes(&self) -> Result<Sizes> {
        let (make, steps) = (self.run.stage.batches(), self.run.settings.train.steps);
        // Without a largest one all are alike.
        let alike = self.run.stage.largest_batch().is_none();
        let counted = if alike { 1 } else { steps.min(COUNTED) };
        let (mut by_tokens, mut supervised) = (Vec::new(), 0);
        for step in 0..counted {
            let batch = make(step)?;
            by_tokens.push((step, batch.tokens() as u64));
            supervised += batch.supervised() as u64;
        }
        by_tokens.sort_by_key(|&(_, tokens)| tokens);
        let tokens: u64 = by_tokens.iter().map(|&(_, tokens)| tokens).sum();
        let all = |sum: u64| (u128::from(sum) * u128::from(steps) / u128::from(counted)) as u64;
        Ok(Sizes {
            by_tokens,
            tokens: all(tokens),
            supervised: all(supervised),
        })
    }

    /// The largest batch, a first step, and steps whose batches are spread over the run's sizes. Returns how many
    /// rows were read; none when someone asked to stop.
    fn steps(&mut self, largest: &Batch, sizes: &Sizes) -> Result<Option<u64>> {
        let (run, settings) = (self.run, self.run.settings);
        let begun = Instant::now();
        if run.stage.largest_batch().is_some() {
            let _ = within_memory(|| forward_backward(run.decoder, largest, &self.step))?;
            run.decoder.drop_grads();
        }
        let trial = begun.elapsed().as_secs_f64();
        let make = run.stage.batches();
        let mut timed = |step: u64| -> Result<(f64, u64)> {
            let batch = make(step)?; // in the run, made ahead on another thread
            let scale = learning_rate_scale(step, settings.train.steps, &settings.schedule);
            let start = Instant::now();
            let optimizer = &mut self.optimizer;
            let report = within_memory(|| {
                train_step(run.decoder, optimizer, &batch, step, scale, &self.step)
            })?;
            report.loss.double_value(&[]); // sync
            Ok((start.elapsed().as_secs_f64(), report.tokens as u64))
        };
        let (first, first_tokens) = timed(0)?;
        let affordable = (STEP_SECONDS / first.max(1e-9)) as usize;
        let wanted = affordable.clamp(LEAST_STEPS, MOST_STEPS);
        let wanted = wanted.min(settings.train.steps as usize);
        let (mut times, mut tokens) = (Vec::new(), 0);
        for number in 0..wanted {
            if run.context.interrupt.asked() {
                return Ok(None);
            }
            // The middle of each part, when the sizes are cut into as many parts.
            let place = (2 * number + 1) * sizes.by_tokens.len() / (2 * wanted);
            let step = match sizes.by_tokens.len() {
                1 => number as u64 + 1,
                _ => sizes.by_tokens[place].0,
            };
            let (time, of_step) = timed(step)?;
            times.push(time);
            tokens += of_step;
        }
        let count = times.len() as f64;
        let seconds = match sizes.by_tokens.len() {
            // Alike, so that what disturbs a few of them can be left aside.
            1 => median(&mut times) * count,
            _ => times.iter().sum(),
        };
        let per_token = seconds / tokens.max(1) as f64;
        // The first step is slow, since memory is new to the process; the run pays that once as well.
        let warming = (first - per_token * first_tokens as f64).max(0.0);
        self.seconds.per_step = per_token * sizes.tokens as f64 / settings.train.steps as f64;
        self.seconds.steps = trial + warming + per_token * sizes.tokens as f64;
        Ok(Some((wanted as u64 + 1) * settings.train.batch_rows as u64))
    }

    /// A few validation batches, the largest among them. False when someone asked to stop.
    fn validation(&mut self) -> Result<bool> {
        let (run, times) = (self.run, Times::of(&self.run.settings.train));
        let (device, precision) = (run.decoder.device(), run.settings.train.precision);
        let sizes = |last: bool| -> Vec<usize> {
            let batches = run.stage.validation_batches(last);
            batches.map(|batch| batch.tokens()).collect()
        };
        let whole = sizes(true);
        if whole.is_empty() {
            let start = Instant::now();
            validation(run.stage, run.decoder, precision, true)?;
            let each = start.elapsed().as_secs_f64();
            self.seconds.validation = each * (times.validations + 1) as f64;
            return Ok(!self.asked());
        }
        let timed = |batch: Batch| -> Result<f64> {
            let start = Instant::now();
            within_memory(
                || Ok(precision.autocast(device, || windows_loss(run.decoder, [batch]))),
            )?;
            Ok(start.elapsed().as_secs_f64())
        };
        let most = (0..whole.len())
            .max_by_key(|&index| whole[index])
            .unwrap_or(0);
        let mut batches = run.stage.validation_batches(true);
        let mut seconds = match batches.nth(most) {
            Some(batch) => timed(batch)?,
            None => 0.0,
        };
        let mut tokens = whole[most];
        let affordable = (VALIDATION_SECONDS / seconds.max(1e-9)) as usize;
        let wanted = affordable.clamp(2, 16).min(whole.len());
        let spread: Vec<usize> = (0..wanted)
            .map(|number| (2 * number + 1) * whole.len() / (2 * wanted))
            .collect();
        for (index, batch) in run.stage.validation_batches(true).enumerate() {
            if self.asked() {
                return Ok(false);
            }
            if spread.contains(&index) {
                tokens += batch.tokens();
                seconds += timed(batch)?;
            }
        }
        let per_token = seconds / tokens as f64;
        let sum = |sizes: Vec<usize>| sizes.iter().sum::<usize>() as f64;
        let quick = sum(sizes(false)) * times.quick_validations(self.run.stage) as f64;
        self.seconds.validation = per_token * (quick + sum(whole));
        Ok(true)
    }

    /// The samples, once. False when someone asked to stop.
    fn samples(&mut self) -> Result<bool> {
        let start = Instant::now();
        self.run.stage.samples(self.run.decoder)?;
        let samplings = Times::of(&self.run.settings.train).samplings;
        self.seconds.samples = start.elapsed().as_secs_f64() * samplings as f64;
        Ok(!self.asked())
    }

    /// A checkpoint and the result, in a folder that is removed again. Returns their bytes, and whether the result
    /// was written and read back as the run does it.
    fn ending(&mut self, bytes: &ModelBytes) -> Result<(u64, u64, bool)> {
        let run = self.run;
        let checkpoints = Times::of(&run.settings.train).checkpoints as f64;
        let (checkpoint, result) = (bytes.checkpoint(), bytes.result(run.decoder));
        let beside = disk::existing(&run.context.folder);
        let mut builder = tempfile::Builder::new();
        forget_killed(&beside);
        let folder = builder.prefix(PREFIX).tempdir_in(&beside);
        let folder = folder.with_context(|| {
            format!(
                "{}: cannot be written to, and the run would lie there; choose another --run",
                beside.display()
            )
        })?;
        let place = RunFolder::open(folder.path(), "")?; // locked, so that it is known to be in use
        let both = checkpoint + result;
        let room = disk::free_bytes(folder.path()).is_none_or(|free| free / 2 > both);
        if both > WRITTEN || !room {
            let second = probe(folder.path())?;
            self.seconds.checkpoints = checkpoint as f64 / second * checkpoints;
            self.seconds.result = 2.0 * result as f64 / second; // written and read back
            return Ok((checkpoint, result, false));
        }
        let (stage, decoder, ids) = (run.stage, run.decoder, &run.settings.ids);
        let start = Instant::now();
        let saved = Checkpoints::new(folder.path()).save(
            &TrainerState::new(run.settings.data_fingerprint.clone()),
            |folder| weights::save(stage, decoder, ids, folder),
            |file| self.optimizer.save(file),
        )?;
        self.seconds.checkpoints = start.elapsed().as_secs_f64() * checkpoints;
        let checkpoint = disk::folder_bytes(&saved);
        let start = Instant::now();
        weights::save_result(stage, decoder, ids, &place)?;
        self.seconds.result = start.elapsed().as_secs_f64();
        let result = disk::saved_bytes(folder.path()) - checkpoint;
        Ok((checkpoint, result, true))
    }
}

/// Removes the folders of rehearsals that were killed: nobody holds their locks.
fn forget_killed(beside: &Path) {
    for entry in fs::read_dir(beside).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let mark = File::open(entry.path().join(RUN.mark));
        if mark.is_ok_and(|mark| mark.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path()); // it is in nobody's way
        }
    }
}

/// The middle one, or the upper of the two; there is at least one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes a second that are written, synced and hashed in `folder`.
fn probe(folder: &Path) -> Result<f64> {
    let start = Instant::now();
    let bytes = vec![1; PROBE];
    crate::durable::write(&folder.join("probe"), &bytes)?;
    let _ = Sha256::digest(&bytes);
    Ok(PROBE as f64 / start.elapsed().as_secs_f64().max(1e-9))
}

/// What the run's reading will yet bring into memory of mapped files, beyond what `read` rows have.
fn yet_to_map(mapped: u64, read: u64, rows: u64) -> u64 {
    if mapped == 0 || rows <= read {
        return 0;
    }
    let missed = |rows: u64| (-(rows as f64) * FAULT_AROUND / mapped as f64).exp();
    (mapped as f64 * (missed(read) - missed(rows))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_files_come_in_as_they_are_read() {
        assert_eq!(yet_to_map(0, 1, 100), 0);
        assert_eq!(yet_to_map(1 << 20, 100, 100), 0);
        // A small file is in memory after a few rows, a large one grows with the rows.
        assert!(yet_to_map(1 << 20, 200, 10_000) < 1 << 10);
        let large = yet_to_map(100 << 30, 100, 1100) as f64;
        assert!(
            (large / (1000.0 * FAULT_AROUND) - 1.0).abs() < 0.01,
            "{large}"
        );
    }

    #[test]
    fn what_a_killed_rehearsal_left_is_removed() {
        let beside = tempfile::tempdir().unwrap();
        let [killed, alive, other] =
            [".etude-plan-a", ".etude-plan-b", "mine"].map(|name| beside.path().join(name));
        for folder in [&killed, &other] {
            drop(RunFolder::open(folder, "").unwrap());
            fs::write(folder.join("model.safetensors"), "much").unwrap();
        }
        let held = RunFolder::open(&alive, "").unwrap();
        forget_killed(beside.path());
        assert!(!killed.exists() && alive.exists() && other.exists());
        drop(held);
        forget_killed(&beside.path().join("not there"));
    }

    #[test]
    fn a_probe_says_how_fast_a_disk_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(probe(folder.path()).unwrap() > 1e5);
    }
}
