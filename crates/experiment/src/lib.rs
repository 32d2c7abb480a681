//! Experiments over both stages. The quickstart: a base model is pre-trained, fine-tuned on one task, and
//! set against itself before fine-tuning and against the same decoder that learns the task from scratch.

mod arms;
mod quickstart;

pub use quickstart::{
    BaseSummary, Finished, Outcome, Plan, QuickstartSummary, Seconds, TaskSummary, quickstart,
    set_aside,
};
