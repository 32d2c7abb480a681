//! What a check found.

use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Two tokens are as good as equally likely, and this time the other one was chosen.
    NearTie,
    /// Worth knowing, and neither right nor wrong.
    Noted,
    /// Not as it should be.
    Failed,
}

impl Outcome {
    /// A word for a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::NearTie => "near-tie",
            Self::Noted => "note",
            Self::Failed => "FAILED",
        }
    }
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// How it came out.
    pub outcome: Outcome,
    /// How much was looked at, or what is wrong.
    pub detail: String,
    /// The largest difference of a logit or log-probability, where such were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest: Option<f64>,
}

impl Check {
    pub(super) fn new(what: &str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            outcome,
            detail: detail.into(),
            largest: None,
        }
    }

    pub(super) fn passed(what: &str, detail: impl Into<String>) -> Self {
        Self::new(what, Outcome::Passed, detail)
    }

    pub(super) fn noted(what: &str, detail: impl Into<String>) -> Self {
        Self::new(what, Outcome::Noted, detail)
    }

    pub(super) fn failed(what: &str, detail: impl Into<String>) -> Self {
        Self::new(what, Outcome::Failed, detail)
    }

    /// `passed` unless something went wrong.
    pub(super) fn unless(wrong: Option<String>, what: &str, passed: impl Into<String>) -> Self {
        match wrong {
            Some(wrong) => Self::failed(what, wrong),
            None => Self::passed(what, passed),
        }
    }

    pub(super) fn with_largest(mut self, largest: f64) -> Self {
        self.largest = Some(largest);
        self
    }

    /// Whether something is not as it should be.
    pub fn has_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }
}
