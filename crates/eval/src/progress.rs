//! How far an evaluation is. What is shown of it, and where, is the caller's.

use anyhow::Result;

/// Hears how far an evaluation is. An error of its own ends the evaluation with it.
pub type Listener<'a> = dyn FnMut(Progress) -> Result<()> + 'a;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Given text is scored by the model's probabilities.
    Scoring,
    /// Answers are generated.
    Generating,
}

impl Stage {
    /// `scoring` or `generating`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scoring => "scoring",
            Self::Generating => "generating",
        }
    }
}

/// A step of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Windows of a text, or items of a task, that are done.
    pub done: u64,
    /// All of them.
    pub total: u64,
}
