//! What both stages share: settings, schedules, optimizers, the step, the loop, checkpoints and the log.
//!
//! `pretrain` and `finetune` give the loop a [`Stage`]: where batches come from, what validation means,
//! what a sample looks like. Reading order: [`settings`], [`schedule`], [`optimizer`] and [`muon`],
//! [`step`], [`trainer`] (the loop) and `log` (what it tells), [`checkpoint`], [`metrics`]; [`forecast`] says before
//! a run what it will take.

pub mod bench;
pub mod checkpoint;
mod data_record;
pub mod durable;
mod environment;
mod folder_kind;
pub mod forecast;
pub mod interrupt;
mod log;
pub mod metrics;
pub mod muon;
pub mod optimizer;
pub mod progress;
pub mod recipe;
pub mod replay;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod stage;
pub mod step;
mod tensorboard;
pub mod trainer;
mod weights;

pub use environment::Environment;
pub use folder_kind::{FolderKind, holds_no_file};
pub use optimizer::Optimizer;
pub use recipe::{RecipeText, Validate};
pub use replay::{Replay, ReplayRequest, replay};
pub use run::{RUN, RunContext, RunFolder};
pub use schedule::learning_rate_scale;
pub use settings::{
    ModelSettings, OptimizerKind, OptimizerSettings, ScheduleKind, ScheduleSettings, TrainSettings,
};
pub use stage::{
    Diverged, Ended, Evaluation, FinalLosses, MakeBatch, Origin, Ready, Sample, Stage, Summary,
    TrainerSettings,
};
pub use trainer::Trainer;
