//! Forecast beside fact, when a run has ended.

use serde::{Deserialize, Serialize};

use super::{ExpectedLoss, Forecast, MadeBy, disk, recipe_hash};
use crate::run::RunFolder;
use crate::stage::Summary;

/// A figure as it was forecast and as it came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// As forecast.
    pub forecast: f64,
    /// As it came.
    pub fact: f64,
}

/// `forecast` of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Who made the forecast.
    pub made_by: MadeBy,
    /// Seconds of training, as the summary counts them.
    pub seconds: Beside,
    /// The most memory held, in bytes.
    pub peak_memory: Option<Beside>,
    /// Bytes of checkpoints and result at the end.
    pub disk: Beside,
    /// The final validation loss; none when no earlier run was like this one.
    pub validation_loss: Option<LossBeside>,
}

/// A final loss as it was expected and as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossBeside {
    /// What was expected.
    #[serde(flatten)]
    pub expected: ExpectedLoss,
    /// What came.
    pub fact: f64,
}

impl Comparison {
    /// What a run folder's forecast said, beside what its run came to; none when it has no forecast of its recipe.
    pub(crate) fn of(summary: &Summary, folder: &RunFolder) -> Option<Self> {
        let recipe = std::fs::read_to_string(folder.file("recipe.toml")).ok()?;
        let forecast = Forecast::read(folder.path())?;
        let its_own = forecast.recipe == recipe_hash(&recipe);
        its_own.then(|| Self::new(&forecast, summary, disk::saved_bytes(folder.path())))
    }

    /// `saved`: the bytes of checkpoints and result.
    fn new(forecast: &Forecast, summary: &Summary, saved: u64) -> Self {
        let beside = |forecast: f64, fact: f64| Beside { forecast, fact };
        let peak = forecast.memory.peak as f64;
        let loss = forecast.loss.clone();
        Self {
            made_by: forecast.made_by,
            seconds: beside(forecast.seconds.training, summary.seconds),
            peak_memory: summary.peak_memory.map(|fact| beside(peak, fact as f64)),
            disk: beside(forecast.disk.left as f64, saved as f64),
            validation_loss: loss.map(|expected| LossBeside {
                expected,
                fact: summary.last.validation_loss,
            }),
        }
    }
}
