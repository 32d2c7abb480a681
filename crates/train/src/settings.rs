//! The tables of a recipe that both stages have. Every field is documented with its unit and default;
//! unknown keys are refused; `validate` names the key, its value and what it must be.

use anyhow::{Result, ensure};
use etude_data::DataError;
use etude_model::{Family, ModelConfig, Sizes};
use etude_tensor::Precision;
use serde::{Deserialize, Serialize};

/// `[model]`: the decoder to be trained from scratch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// `nanochat` (default), `llama`, `qwen2`, `qwen3`, `olmo2`, `mistral` or `gpt2`.
    pub family: Family,
    /// Layers. Default 6.
    pub n_layer: i64,
    /// Query heads. Default 6.
    pub n_head: i64,
    /// Key-value heads; 0 (default) means as many as query heads.
    pub n_kv_head: i64,
    /// Width. Default 384.
    pub n_embd: i64,
    /// Width inside the feed-forward layer; 0 (default) means 4 times the width, 8/3 with a gate.
    pub n_inner: i64,
    /// The most positions, in tokens. Default 256.
    pub context: i64,
    /// Whether the output layer is the embedding. Default false.
    pub tied: bool,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            family: Family::NanoChat,
            n_layer: 6,
            n_head: 6,
            n_kv_head: 0,
            n_embd: 384,
            n_inner: 0,
            context: 256,
            tied: false,
        }
    }
}

impl ModelSettings {
    /// The decoder's configuration for a vocabulary.
    ///
    /// # Errors
    /// When no decoder can have these sizes.
    pub fn config(&self, vocab_size: usize) -> Result<ModelConfig> {
        // Far above any model, and below where sizes that are made of these overflow.
        for (key, value, most) in [
            ("n_layer", self.n_layer, 10_000),
            ("n_head", self.n_head, 1 << 20),
            ("n_kv_head", self.n_kv_head, 1 << 20),
            ("n_embd", self.n_embd, 1 << 20),
            ("n_inner", self.n_inner, 1 << 24),
            ("context", self.context, 1 << 24),
        ] {
            ensure!(
                value <= most,
                "model.{key} = {value}: it must be at most {most}"
            );
        }
        // A published model's heads may have a width of their own; here it follows from these.
        ensure!(
            self.n_head <= 0 || self.n_embd % self.n_head == 0,
            "model.n_embd = {}: it must be a multiple of n_head = {}",
            self.n_embd,
            self.n_head
        );
        let gated = !matches!(self.family, Family::Gpt2 | Family::NanoChat);
        let n_inner = match (self.n_inner, gated) {
            (0, false) => self.n_embd.saturating_mul(4),
            // Two thirds of four widths, rounded up to a multiple of 32, as Llama has it.
            (0, true) => (self.n_embd.saturating_mul(8) / 3 + 31) / 32 * 32,
            (chosen, _) => chosen,
        };
        let n_kv_head = if self.n_kv_head == 0 {
            self.n_head
        } else {
            self.n_kv_head
        };
        let config = ModelConfig::new(
            self.family,
            Sizes {
                vocab_size: vocab_size as i64,
                n_layer: self.n_layer,
                n_head: self.n_head,
                n_kv_head,
                n_embd: self.n_embd,
                n_inner,
                context: self.context,
                tied: self.tied,
            },
        );
        config.validate()?;
        Ok(config)
    }
}

/// Which optimizer takes the matrices inside the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW for everything.
    Adamw,
    /// Muon for the matrices inside the layers, AdamW for the rest.
    Muon,
}

/// `[optimizer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSettings {
    /// `adamw` (default) or `muon`.
    pub kind: OptimizerKind,
    /// AdamW's peak learning rate. Default 1e-3.
    pub lr: f64,
    /// AdamW's peak learning rate for the embedding; 0 (default) means `lr`.
    pub embedding_lr: f64,
    /// AdamW's peak learning rate for the output layer; 0 (default) means `lr`.
    pub head_lr: f64,
    /// Muon's peak learning rate. Default 0.02.
    pub muon_lr: f64,
    /// Muon's momentum. Default 0.95.
    pub momentum: f64,
    /// Muon's Newton–Schulz iterations. Default 5.
    pub newton_schulz_steps: u32,
    /// AdamW's decay of the first moment. Default 0.9.
    pub beta1: f64,
    /// AdamW's decay of the second moment. Default 0.95.
    pub beta2: f64,
    /// AdamW's ε. Default 1e-8.
    pub eps: f64,
    /// Decoupled weight decay of matrices, times the learning rate at each step. Default 0.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; 0 switches clipping off. Default 1.
    pub clip: f64,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            lr: 1e-3,
            embedding_lr: 0.0,
            head_lr: 0.0,
            muon_lr: 0.02,
            momentum: 0.95,
            newton_schulz_steps: 5,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
        }
    }
}

impl OptimizerSettings {
    /// The peak learning rate of the matrices inside the layers, which the log follows.
    pub fn peak(&self) -> f64 {
        match self.kind {
            OptimizerKind::Muon => self.muon_lr,
            OptimizerKind::Adamw => self.lr,
        }
    }

    /// The same with every learning rate times `factor`.
    pub fn with_rates(&self, factor: f64) -> Self {
        Self {
            lr: self.lr * factor,
            embedding_lr: self.embedding_lr * factor,
            head_lr: self.head_lr * factor,
            muon_lr: self.muon_lr * factor,
            ..self.clone()
        }
    }

    /// Refuses values that no optimizer can use.
    ///
    /// # Errors
    /// The key, its value and what it must be.
    pub fn validate(&self) -> Result<()> {
        for (key, rate) in [("lr", self.lr), ("muon_lr", self.muon_lr)] {
            ensure!(
                rate.is_finite() && rate > 0.0,
                "optimizer.{key} = {rate}: it must be a finite number above 0"
            );
        }
        let or_zero = [
            ("embedding_lr", self.embedding_lr),
            ("head_lr", self.head_lr),
            ("weight_decay", self.weight_decay),
            ("clip", self.clip),
        ];
        for (key, value) in or_zero {
            ensure!(
                value.is_finite() && value >= 0.0,
                "optimizer.{key} = {value}: it must be a finite number, 0 or more"
            );
        }
        for (key, value) in [
            ("beta1", self.beta1),
            ("beta2", self.beta2),
            ("momentum", self.momentum),
        ] {
            ensure!(
                (0.0..1.0).contains(&value),
                "optimizer.{key} = {value}: it must be at least 0 and below 1"
            );
        }
        ensure!(
            self.eps.is_finite() && self.eps > 0.0,
            "optimizer.eps = {}: it must be a finite number above 0",
            self.eps
        );
        let steps = self.newton_schulz_steps;
        ensure!(
            (1..=20).contains(&steps),
            "optimizer.newton_schulz_steps = {steps}: it must be from 1 to 20"
        );
        Ok(())
    }
}

/// The shape of the learning rate over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Warm-up, then the peak.
    Constant,
    /// Warm-up, then half a cosine down.
    Cosine,
    /// Warm-up, the peak, then a straight line down over the last `decay` of the run.
    Wsd,
}

/// `[schedule]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSettings {
    /// `constant`, `cosine` or `wsd` (warm-up, stable, decay; default).
    pub kind: ScheduleKind,
    /// Steps of linear warm-up. Default 0.
    pub warmup_steps: u64,
    /// The share of the run that the decay of `wsd` takes. Default 0.5.
    pub decay: f64,
    /// Where the decay ends, as a share of the peak. Default 0.
    pub final_scale: f64,
}

impl Default for ScheduleSettings {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Wsd,
            warmup_steps: 0,
            decay: 0.5,
            final_scale: 0.0,
        }
    }
}

impl ScheduleSettings {
    /// Refuses impossible shapes.
    ///
    /// # Errors
    /// The key, its value and what it must be.
    pub fn validate(&self, steps: u64) -> Result<()> {
        for (key, value) in [("decay", self.decay), ("final_scale", self.final_scale)] {
            ensure!(
                (0.0..=1.0).contains(&value),
                "schedule.{key} = {value}: it must be from 0 to 1"
            );
        }
        let warmup = self.warmup_steps;
        ensure!(
            warmup <= steps,
            "schedule.warmup_steps = {warmup}: it must not exceed train.steps = {steps}"
        );
        Ok(())
    }
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// Optimizer steps. Default 1,000.
    pub steps: u64,
    /// Rows of a step: windows of `model.context` tokens, or examples. Default 16.
    pub batch_rows: usize,
    /// Rows that go through the model at a time; 0 (default) means all. The result does not depend on it.
    pub micro_rows: usize,
    /// Everything random follows from it. Default 1.
    pub seed: u64,
    /// `auto` (default), `cpu`, `cuda`, `cuda:N` or `mps`.
    pub device: String,
    /// `auto` (default), `float32`, `bfloat16` or `float64`.
    pub precision: Precision,
    /// Threads of an operation; 0 (default) leaves libtorch's choice.
    pub threads: usize,
    /// A line in the log every so many steps. Default 10.
    pub log_every: u64,
    /// Whether the figures of the log also go to TensorBoard's event files. Default false.
    pub tensorboard: bool,
    /// Validation every so many steps, and at the end; 0 means at the end alone. Default 0.
    pub eval_every: u64,
    /// Samples every so many steps, and at the end; 0 means at the end alone. Default 0.
    pub sample_every: u64,
    /// A checkpoint every so many steps; 0 (default) means at the end alone.
    pub checkpoint_every: u64,
    /// How many checkpoints to keep, besides the best. Default 2.
    pub keep: usize,
    /// The run stops after this many steps in a row whose gradient is not finite. Default 5.
    pub max_bad_steps: u64,
    /// Threads that make batches ahead of time. Default 1.
    pub loader_threads: usize,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_rows: 16,
            micro_rows: 0,
            seed: 1,
            device: "auto".to_owned(),
            precision: Precision::Auto,
            threads: 0,
            log_every: 10,
            tensorboard: false,
            eval_every: 0,
            sample_every: 0,
            checkpoint_every: 0,
            keep: 2,
            max_bad_steps: 5,
            loader_threads: 1,
        }
    }
}

impl TrainSettings {
    /// Refuses a step that the run does not make; steps count from 1.
    ///
    /// # Errors
    /// The steps that it makes.
    pub fn check_step(&self, step: u64) -> Result<(), DataError> {
        let last = self.steps;
        if (1..=last).contains(&step) {
            return Ok(());
        }
        let what = format!("step {step}: train.steps is {last}");
        Err(DataError::input(what, format!("give 1 to {last}")))
    }

    /// Refuses values that no run can have.
    ///
    /// # Errors
    /// The key, its value and what it must be.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.steps >= 1, "train.steps = 0: it must be at least 1");
        ensure!(
            (1..=1 << 20).contains(&self.batch_rows),
            "train.batch_rows = {}: it must be from 1 to 1048576",
            self.batch_rows
        );
        ensure!(
            self.micro_rows <= self.batch_rows,
            "train.micro_rows = {}: it must not exceed train.batch_rows = {}",
            self.micro_rows,
            self.batch_rows
        );
        ensure!(
            self.log_every >= 1,
            "train.log_every = 0: it must be at least 1"
        );
        ensure!(self.keep >= 1, "train.keep = 0: it must be at least 1");
        ensure!(
            self.max_bad_steps >= 1,
            "train.max_bad_steps = 0: it must be at least 1"
        );
        ensure!(
            (1..=256).contains(&self.loader_threads),
            "train.loader_threads = {}: it must be from 1 to 256",
            self.loader_threads
        );
        ensure!(
            self.threads <= 1024,
            "train.threads = {}: it must be at most 1024",
            self.threads
        );
        Ok(())
    }

    /// Rows that go through the model at a time.
    pub fn rows_at_a_time(&self) -> usize {
        if self.micro_rows == 0 {
            self.batch_rows
        } else {
            self.micro_rows
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_machine_has_are_refused_by_name() {
        let model = |change: fn(&mut ModelSettings)| {
            let mut settings = ModelSettings::default();
            change(&mut settings);
            settings.config(300).unwrap_err().to_string()
        };
        let told = model(|model| model.n_embd = i64::MAX);
        assert!(
            told.starts_with("model.n_embd = 9223372036854775807"),
            "{told}"
        );
        let told = model(|model| model.n_layer = 999_999_999);
        assert!(told.starts_with("model.n_layer = 999999999"), "{told}");
        let train = |change: fn(&mut TrainSettings)| {
            let mut settings = TrainSettings::default();
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        let told = train(|train| train.loader_threads = 100_000);
        assert!(
            told.contains("loader_threads = 100000: it must be from 1 to 256"),
            "{told}"
        );
        let told = train(|train| train.batch_rows = 99_999_999_999);
        assert!(told.contains("batch_rows = 99999999999"), "{told}");
    }
}
