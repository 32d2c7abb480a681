//! The fixed training step that speed is measured by: a GPT-2 shape or a model that is there, random tokens,
//! AdamW with clipping. `scripts/bench/` sets it beside the same step in PyTorch, Transformers and PEFT.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use etude_data::Batch;
use etude_model::{Decoder, Family, ModelConfig, Sizes};
use etude_tensor::loss::IGNORE;
use etude_tensor::{Cuda, Device, Precision, seed_everything, step_seed};

use crate::optimizer::Optimizer;
use crate::settings::{OptimizerKind, OptimizerSettings};
use crate::step::{StepSettings, train_step};

/// A model and batch shape to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    sizes: Sizes,
    /// Rows of a step.
    pub rows: usize,
}

/// The shapes that can be named.
pub const PRESETS: [Preset; 2] = [
    Preset {
        name: "gpt2-12m",
        sizes: sizes(4096, 6, 6, 384, 256),
        rows: 8,
    },
    Preset {
        name: "gpt2-124m",
        sizes: sizes(50_304, 12, 12, 768, 1024),
        rows: 16,
    },
];

const fn sizes(vocab_size: i64, n_layer: i64, n_head: i64, n_embd: i64, context: i64) -> Sizes {
    Sizes {
        vocab_size,
        n_layer,
        n_head,
        n_kv_head: n_head,
        n_embd,
        n_inner: 4 * n_embd,
        context,
        tied: true,
    }
}

/// The batch of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of a step.
    pub rows: usize,
    /// Tokens of a row.
    pub cols: usize,
    /// Of these, the last ones that are supervised; at least 1.
    pub supervised: usize,
}

/// More rows are a slip of the hand.
const MOST_ROWS: usize = 65_536;

/// A prepared step.
#[derive(Debug)]
pub struct StepBench {
    decoder: Decoder,
    optimizer: Optimizer,
    settings: StepSettings,
    shape: Shape,
    step: u64,
}

/// What some steps took.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StepTimes {
    /// Of each step, in seconds.
    pub seconds: Vec<f64>,
    /// The loss of each step, in nats a token.
    pub loss: Vec<f64>,
}

impl StepBench {
    /// Prepares a shape by name.
    ///
    /// # Errors
    /// When there is no such shape.
    pub fn new(name: &str, device: Device, precision: Precision) -> Result<Self> {
        let Some(&preset) = PRESETS.iter().find(|preset| preset.name == name) else {
            let known = PRESETS.map(|preset| preset.name).join(", ");
            bail!("no shape is called `{name}`; there are {known}");
        };
        seed_everything(1);
        let decoder = Decoder::new(
            ModelConfig::new(Family::Gpt2, preset.sizes),
            precision.kind(),
            device,
        )?;
        let cols = preset.sizes.context as usize;
        let shape = Shape {
            rows: preset.rows,
            cols,
            supervised: cols,
        };
        Self::with_decoder(decoder, shape, precision)
    }

    /// Prepares steps of a decoder as it is: with its adapter, if it has one.
    ///
    /// # Errors
    /// When the shape does not fit the decoder's context.
    pub fn with_decoder(decoder: Decoder, shape: Shape, precision: Precision) -> Result<Self> {
        let Shape {
            rows,
            cols,
            supervised,
        } = shape;
        let context = decoder.config().context as usize;
        ensure!(
            (1..=MOST_ROWS).contains(&rows) && (1..=context).contains(&cols),
            "{rows} rows of {cols} tokens: give at least one row and at most {MOST_ROWS}, of 1 to {context} tokens"
        );
        ensure!(
            (1..=cols).contains(&supervised),
            "{supervised} supervised tokens a row: give 1 to {cols}"
        );
        let optimizer = OptimizerSettings {
            kind: OptimizerKind::Adamw,
            lr: 6e-4,
            weight_decay: 0.1,
            ..OptimizerSettings::default()
        };
        let optimizer = Optimizer::new(&decoder, &optimizer);
        let settings = StepSettings {
            rows,
            precision,
            max_norm: Some(1.0),
            seed: 1,
        };
        Ok(Self {
            decoder,
            optimizer,
            settings,
            shape,
            step: 0,
        })
    }

    /// Makes `steps` steps, each timed until the device is done with it.
    ///
    /// # Errors
    /// As [`train_step`].
    pub fn run(&mut self, steps: u64) -> Result<StepTimes> {
        let mut times = StepTimes {
            seconds: Vec::new(),
            loss: Vec::new(),
        };
        for _ in 0..steps {
            // The peer makes its batch inside its step too.
            let start = Instant::now();
            let batch = self.batch();
            let report = train_step(
                &self.decoder,
                &mut self.optimizer,
                &batch,
                self.step,
                1.0,
                &self.settings,
            )?;
            let loss = report.loss.double_value(&[]); // sync
            if let Device::Cuda(index) = self.decoder.device() {
                Cuda::synchronize(index as i64); // sync
            }
            times.seconds.push(start.elapsed().as_secs_f64());
            times.loss.push(loss);
            self.step += 1;
        }
        Ok(times)
    }

    /// Seconds that the ledger takes of a step when nobody looks: the count of what the step has and learns.
    pub fn ledger_seconds(&self) -> f64 {
        const TIMES: u32 = 1000;
        let batch = self.batch();
        let start = Instant::now();
        for _ in 0..TIMES {
            let batch = black_box(&batch);
            black_box((batch.tokens(), batch.supervised()));
        }
        (start.elapsed() / TIMES).as_secs_f64()
    }

    /// Tokens of one step.
    pub fn tokens(&self) -> usize {
        self.shape.rows * self.shape.cols
    }

    /// Floating-point operations of one step.
    pub fn flops(&self) -> f64 {
        let length = self.shape.cols as i64;
        self.tokens() as f64 * self.decoder.flops_per_token(length)
    }

    /// The step's batch: uniformly random tokens, a function of its number.
    fn batch(&self) -> Batch {
        let Shape {
            rows,
            cols,
            supervised,
        } = self.shape;
        let vocabulary = self.decoder.config().vocab_size as u64;
        let token = |place: usize| (step_seed(self.step, place as u64) % vocabulary) as i64;
        let at = |row: usize, column: usize| token(row * (cols + 1) + column);
        let target = |row: usize, column: usize| match column + supervised >= cols {
            true => at(row, column + 1),
            false => IGNORE,
        };
        let places = || (0..rows).flat_map(|row| (0..cols).map(move |column| (row, column)));
        Batch {
            rows,
            cols,
            input_ids: places().map(|(row, column)| at(row, column)).collect(),
            targets: places().map(|(row, column)| target(row, column)).collect(),
            position_ids: places().map(|(_, column)| column as i64).collect(),
            doc_ids: None,
        }
    }
}
