//! A small stage for the loop: rows of arithmetic, made from the step's number alone.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use etude_data::{Batch, Cache, Catalog, IGNORE};
use etude_eval::windows_loss;
use etude_model::{Decoder, Family, hf::TokenIds};
use etude_tensor::{Device, Precision, Tensor, step_seed, with_seed};
use etude_train::interrupt::Interrupt;
use etude_train::{
    Ended, Evaluation, MakeBatch, ModelSettings, OptimizerKind, OptimizerSettings, RunContext,
    RunFolder, Sample, ScheduleSettings, Stage, TrainSettings, Trainer, TrainerSettings,
};
use serde_json::Value;

/// Tokens of the tiny models.
pub(crate) const VOCABULARY: usize = 24;
/// Positions of the tiny models.
pub(crate) const CONTEXT: usize = 16;
const ROWS: usize = 8;

/// Rows that count up from anywhere by a step of their own; the targets of row 0 are few, those of row 1
/// none, those of the others differ in number, so that micro-batches are unlike each other.
pub(crate) fn counting_batch(step: u64) -> Batch {
    let (mut input_ids, mut targets) = (Vec::new(), Vec::new());
    for row in 0..ROWS {
        let random = step_seed(row as u64, step) as usize;
        let (start, stride) = (random % 20, 1 + (random >> 8) % 3);
        let supervised = match row {
            0 => 2,
            1 => 0,
            _ => 1 + (random >> 16) % (CONTEXT - 1),
        };
        for col in 0..CONTEXT {
            let at = |col: usize| ((start + col * stride) % 20) as i64;
            input_ids.push(at(col));
            targets.push(if col < supervised {
                at(col + 1)
            } else {
                IGNORE
            });
        }
    }
    let position_ids = (0..ROWS).flat_map(|_| 0..CONTEXT as i64).collect();
    Batch {
        rows: ROWS,
        cols: CONTEXT,
        input_ids,
        targets,
        position_ids,
        doc_ids: None,
    }
}

/// A stage over [`counting_batch`].
pub(crate) struct Counting {
    /// The first of the steps, counted from 0, whose batch holds the token 23, and how many do.
    pub(crate) odd: std::ops::Range<u64>,
    /// Waited for each batch.
    pub(crate) pause: Duration,
    /// Asked at each validation.
    pub(crate) stop_at_validation: Option<Interrupt>,
    /// What validation is said to find, in place of what it finds.
    pub(crate) validation_loss: Option<fn() -> f64>,
    /// By how much the loss of the last validation is higher for being of more than the others.
    pub(crate) whole_adds: f64,
    /// Whether no sample can be made.
    pub(crate) mute: bool,
}

impl Default for Counting {
    fn default() -> Self {
        Self {
            odd: 0..0,
            pause: Duration::ZERO,
            stop_at_validation: None,
            validation_loss: None,
            whole_adds: 0.0,
            mute: false,
        }
    }
}

impl Stage for Counting {
    fn name(&self) -> &'static str {
        "pretrain"
    }

    fn batches(&self) -> MakeBatch {
        let (odd, pause) = (self.odd.clone(), self.pause);
        Arc::new(move |step| {
            std::thread::sleep(pause);
            let mut batch = counting_batch(step);
            if odd.contains(&step) {
                batch.input_ids[0] = 23;
            }
            Ok(batch)
        })
    }

    fn largest_batch(&self) -> Option<Batch> {
        Some(counting_batch(0))
    }

    fn validates_in_part(&self) -> bool {
        self.whole_adds != 0.0
    }

    fn evaluate(&self, decoder: &Decoder, last: bool) -> Result<Evaluation> {
        if let Some(interrupt) = &self.stop_at_validation {
            interrupt.ask();
        }
        let (nats, tokens) = windows_loss(decoder, [counting_batch(1 << 40)]);
        let loss = self
            .validation_loss
            .map_or(nats / tokens as f64, |made_up| made_up())
            + if last { self.whole_adds } else { 0.0 };
        Ok(Evaluation {
            loss,
            bits_per_byte: loss,
            perplexity: loss.exp(),
        })
    }

    fn samples(&self, _decoder: &Decoder) -> Result<Vec<Sample>> {
        anyhow::ensure!(!self.mute, "nothing comes to mind");
        Ok(vec![Sample {
            prompt: "one".to_owned(),
            text: "two".to_owned(),
        }])
    }

    fn save_tokenizer(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }
}

/// Settings of a short run that logs every step.
pub(crate) fn settings(steps: u64, kind: OptimizerKind) -> TrainerSettings {
    let train = TrainSettings {
        steps,
        batch_rows: ROWS,
        device: "cpu".to_owned(),
        precision: Precision::Float32,
        log_every: 1,
        ..TrainSettings::default()
    };
    TrainerSettings {
        train,
        optimizer: OptimizerSettings {
            kind,
            lr: 3e-3,
            weight_decay: 0.01,
            ..OptimizerSettings::default()
        },
        schedule: ScheduleSettings {
            warmup_steps: 3,
            ..ScheduleSettings::default()
        },
        ids: TokenIds {
            bos: None,
            eos: Vec::new(),
            pad: None,
        },
        length: CONTEXT,
        data_fingerprint: "counting".to_owned(),
    }
}

/// A decoder of about 5,000 numbers, always the same.
pub(crate) fn decoder(family: Family, precision: Precision) -> Decoder {
    let model = ModelSettings {
        family,
        n_layer: 2,
        n_head: 2,
        n_embd: 16,
        context: CONTEXT as i64,
        ..ModelSettings::default()
    };
    let config = model.config(VOCABULARY).expect("possible sizes");
    with_seed(11, || Decoder::new(config, precision.kind(), Device::Cpu)).expect("possible sizes")
}

/// What a run may use: nothing but its folder.
pub(crate) fn context(folder: &Path) -> RunContext {
    RunContext {
        folder: folder.to_owned(),
        catalog: Catalog::load(&[] as &[PathBuf]).expect("the shipped manifests"),
        cache: Cache::at(folder.join("cache")),
        progress: false,
        interrupt: Interrupt::default(),
        started: Instant::now(),
    }
}

/// Runs a stage to its end in `folder`, or until it is interrupted.
pub(crate) fn run_with(
    stage: &Counting,
    settings: &TrainerSettings,
    context: &RunContext,
    decoder: &Decoder,
) -> Result<Ended> {
    let folder = RunFolder::open(&context.folder, "")?;
    Trainer::new(stage, decoder, settings, context, &folder)?.run()
}

/// As [`run_with`], with nothing special.
pub(crate) fn run(stage: &Counting, settings: &TrainerSettings, folder: &Path) -> Result<Ended> {
    run_with(
        stage,
        settings,
        &context(folder),
        &decoder(Family::NanoChat, settings.train.precision),
    )
}

/// The lines of `metrics.jsonl` without what the clock decides.
pub(crate) fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("the log is there");
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON lines"))
        .collect();
    for line in &mut lines {
        let line = line.as_object_mut().expect("objects");
        for key in ["seconds", "tokens_per_second", "mfu"] {
            line.remove(key);
        }
    }
    lines
}

/// The losses of the training steps.
pub(crate) fn losses(folder: &Path) -> Vec<f64> {
    let lines = metrics(folder);
    lines
        .iter()
        .filter(|line| line["kind"] == "train")
        .map(|line| line["loss"].as_f64().expect("finite"))
        .collect()
}

/// The bytes of a tensor.
pub(crate) fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor
        .detach()
        .contiguous()
        .copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// The bytes of all parameters.
pub(crate) fn bits(decoder: &Decoder) -> Vec<Vec<u8>> {
    decoder.params().tensors().map(bytes).collect()
}

/// Asserts that two runs ended in the same weights and optimizer state, byte for byte, and wrote the same log.
pub(crate) fn assert_same_runs(one: &Path, other: &Path, last: &str) {
    for file in [
        "model/model.safetensors".to_owned(),
        format!("checkpoints/{last}/trainer/optimizer.safetensors"),
        format!("checkpoints/{last}/model.safetensors"),
    ] {
        let read = |folder: &Path| {
            std::fs::read(folder.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"))
        };
        assert!(
            read(one) == read(other),
            "{file} differs between {} and {}",
            one.display(),
            other.display()
        );
    }
    assert_eq!(metrics(one), metrics(other));
}
