//! Experiments over both stages. The quickstart: a base model is pre-trained, fine-tuned on one task, and
//! set against itself before fine-tuning and against the same decoder that learns the task from scratch. The
//! transfer experiment: the same at several amounts of task data. The resume trial: a recipe whose process is killed
//! again and again, and compared with one that was left alone.

mod arms;
mod base;
mod process;
mod quickstart;
mod resume;
mod transfer;

pub use base::ready_base;
pub use process::RunFailed;
pub use quickstart::{
    BaseSummary, Finished, Outcome, Plan, QuickstartSummary, Seconds, TaskSummary, quickstart,
    set_aside,
};
pub use resume::{
    Compared, Difference, Kills, ResumeProof, ResumeTrial, compare_runs, verify_resume,
};
pub use transfer::{
    Arm, ArmScores, Compute, Cost, DataRatio, Point, Transfer, TransferRecipe, TransferSettings,
    TransferSummary, Transferred, Variant, VariantSettings, Work, Workers, transfer,
    transfer_worker,
};
