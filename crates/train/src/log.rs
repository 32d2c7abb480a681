//! What a run tells while it goes on: `metrics.jsonl`, `samples.jsonl`, `bad-steps/` and, if wished, TensorBoard's
//! event files for later, a bar and lines on stderr for whoever watches. When something is told is the loop's business.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etude_data::Batch;
use serde_json::{Value, json};

use crate::checkpoint::TrainerState;
use crate::metrics::JsonLines;
use crate::progress::Bar;
use crate::run::{RunContext, RunFolder};
use crate::stage::{Evaluation, Sample, TrainerSettings};
use crate::tensorboard::EventFile;

/// The log of one session of a run.
pub(crate) struct RunLog<'a> {
    stage: &'static str,
    settings: &'a TrainerSettings,
    folder: &'a RunFolder,
    metrics: JsonLines,
    events: Option<EventFile>,
    samples: JsonLines,
    bar: Bar,
    speed: Speed,
    session: Instant,
    seconds_before: f64,
    clock: Clock,
}

/// By what a step's speed is judged.
pub(crate) struct Speed {
    /// Floating-point operations that a token takes, forward and backward.
    pub(crate) flops_per_token: f64,
    /// What a large matrix product reaches here, in floating-point operations a second.
    pub(crate) peak: f64,
}

/// Tokens and time of steps alone, without what else happens between them.
#[derive(Default)]
struct Clock {
    tokens: u64,
    seconds: f64,
}

/// What a step came to, read from the device.
pub(crate) struct Figures {
    /// Its number, from 1.
    pub(crate) step: u64,
    /// The share of the peak learning rate that it was made with.
    pub(crate) scale: f64,
    /// Tokens that went through the model, in it and all before.
    pub(crate) tokens: u64,
    /// Those of them that were supervised.
    pub(crate) supervised: u64,
    /// Mean loss, nats a supervised token.
    pub(crate) loss: f64,
    /// The gradients' global norm before clipping.
    pub(crate) grad_norm: f64,
    /// Whether it was refused, as its gradient is not finite.
    pub(crate) skipped: bool,
}

impl<'a> RunLog<'a> {
    /// Goes on with a run's log after the checkpoint of `state`, or begins it when there is none.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub(crate) fn open(
        stage: &'static str,
        settings: &'a TrainerSettings,
        context: &RunContext,
        folder: &'a RunFolder,
        from: Option<&TrainerState>,
        speed: Speed,
    ) -> Result<Self> {
        let step = from.map(|state| state.step);
        Ok(Self {
            stage,
            settings,
            folder,
            metrics: JsonLines::resume(&folder.file("metrics.jsonl"), step)?,
            events: if settings.train.tensorboard {
                Some(EventFile::begin(
                    &folder.file("tensorboard"),
                    step.unwrap_or(0),
                )?)
            } else {
                None
            },
            samples: JsonLines::resume(&folder.file("samples.jsonl"), step)?,
            bar: if context.progress {
                Bar::new(stage, settings.train.steps, step.unwrap_or(0))
            } else {
                Bar::hidden()
            },
            speed,
            session: Instant::now(),
            seconds_before: from.map_or(0.0, |state| state.seconds),
            clock: Clock::default(),
        })
    }

    /// Seconds trained, over all sessions.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds_before + self.session.elapsed().as_secs_f64()
    }

    /// Makes sure that what was logged is on the disk: a checkpoint stands for the log up to its step.
    ///
    /// # Errors
    /// When the system says that it is not.
    pub(crate) fn sync(&self) -> Result<()> {
        self.metrics.sync()?;
        self.samples.sync()
    }

    /// A line for whoever watches.
    pub(crate) fn say(&self, line: &str) {
        self.bar.say(line);
    }

    /// A line that is told to whoever asked for no bars, too.
    pub(crate) fn warn(&self, line: &str) {
        self.bar.warn(line);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish();
    }

    /// Counts the tokens of a step that was begun.
    pub(crate) fn begun(&mut self, tokens: usize) {
        self.clock.tokens += tokens as u64;
    }

    /// A step was made, in this time; a line of it when one is due.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn step(&mut self, done: &Figures, time: Duration) -> Result<()> {
        self.clock.seconds += time.as_secs_f64();
        self.bar.advance(done.step);
        let every = self.settings.train.log_every;
        if done.step.is_multiple_of(every) || done.step == 1 || done.skipped {
            self.write_step(done)?;
        }
        Ok(())
    }

    fn write_step(&mut self, done: &Figures) -> Result<()> {
        let clock = std::mem::take(&mut self.clock);
        let rate = clock.tokens as f64 / clock.seconds.max(1e-9);
        let mfu = rate * self.speed.flops_per_token / self.speed.peak;
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        self.record(&json!({
            "kind": "train", "step": done.step, "loss": finite(done.loss), "lr": self.settings.optimizer.peak() * done.scale,
            "grad_norm": finite(done.grad_norm), "tokens": done.tokens, "supervised": done.supervised,
            "tokens_per_second": rate, "seconds": self.seconds(), "mfu": mfu, "skipped": done.skipped,
        }))?;
        let status = format!(
            "loss {:.3}  {} tokens/s  {:.0}% of matmul peak",
            done.loss,
            grouped(rate),
            100.0 * mfu
        );
        let (stage, step, steps) = (self.stage, done.step, self.settings.train.steps);
        let line = status.clone();
        let left = (steps - step) as f64 * self.seconds() / step.max(1) as f64;
        // Without a terminal a line every twentieth of the run is enough.
        let tell = step == 1
            || (step * 20 / steps)
                != (step.saturating_sub(self.settings.train.log_every) * 20 / steps);
        if tell || self.bar.is_terminal() {
            self.bar.status(status, || {
                format!("{stage} {step}/{steps}  {line}  about {left:.0} s left")
            });
        }
        Ok(())
    }

    /// Appends a line to `metrics.jsonl`, and its numbers to the event file when there is one.
    fn record(&mut self, line: &Value) -> Result<()> {
        self.metrics.write(line)?;
        let (Some(events), Some(figures)) = (&mut self.events, line.as_object()) else {
            return Ok(());
        };
        let kind = line["kind"].as_str().unwrap_or_default();
        let step = line["step"].as_u64().unwrap_or_default();
        events.scalars(kind, step, figures)
    }

    /// Writes the batch of a step that was not applied to `bad-steps/`. Returns the file's name in the run
    /// folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn bad_step(&self, done: &Figures, batch: &Batch) -> Result<String> {
        let (step, loss, norm) = (done.step, done.loss, done.grad_norm);
        let name = format!("bad-steps/step-{step:08}.json");
        std::fs::create_dir_all(self.folder.file("bad-steps"))
            .context("the run folder cannot be written")?;
        self.folder.write_json(
            &name,
            &json!({"step": step, "loss": format!("{loss}"), "grad_norm": format!("{norm}"), "batch": batch}),
        )?;
        self.warn(&format!(
            "step {step} was not applied: loss {loss}, gradient norm {norm}; its batch is in {name}"
        ));
        Ok(name)
    }

    /// What a validation after `step` found.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn evaluation(
        &mut self,
        step: u64,
        found: &Evaluation,
        of_part: Option<f64>,
    ) -> Result<()> {
        let seconds = self.seconds();
        let mut line = json!({
            "kind": "eval", "step": step, "loss": found.loss, "bits_per_byte": found.bits_per_byte,
            "perplexity": found.perplexity, "seconds": seconds,
        });
        if let Some(loss) = of_part {
            line["part_loss"] = json!(loss);
        }
        self.record(&line)?;
        self.say(&format!(
            "step {step}: validation loss {:.4}, {:.4} bits per byte ({seconds:.0} s)",
            found.loss, found.bits_per_byte
        ));
        Ok(())
    }

    /// What the model wrote after `step`.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn samples(&mut self, step: u64, samples: &[Sample]) -> Result<()> {
        let line =
            |sample: &Sample| json!({"step": step, "prompt": sample.prompt, "text": sample.text});
        let lines: Vec<Value> = samples.iter().map(line).collect();
        self.samples.write_all(&lines)
    }

    /// Whether samples of a step are there.
    pub(crate) fn has_samples(&self, step: u64) -> bool {
        self.samples.has(step)
    }
}

/// 12345.6 as `12,346`.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
