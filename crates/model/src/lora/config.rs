//! What an adapter is made of, and what is wrong with it.

use serde::{Deserialize, Serialize};

/// Which linear layers are updated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Targets {
    /// All but the output layer.
    AllLinear,
    /// Those whose path is one of these or ends in one after a dot: `q_proj`, `mlp.c_proj`.
    Named(Vec<String>),
}

const ALL_LINEAR: &str = "all-linear";

/// [`Targets`] in a file: a word or a list.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    List(Vec<String>),
}

impl TryFrom<Written> for Targets {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Word(word) if word == ALL_LINEAR => Ok(Targets::AllLinear),
            Written::Word(word) => Err(format!(
                "targets = `{word}`: write \"{ALL_LINEAR}\" or a list of names, such as [\"{word}\"]"
            )),
            Written::List(names) => Ok(Targets::Named(names)),
        }
    }
}

impl From<Targets> for Written {
    fn from(targets: Targets) -> Self {
        match targets {
            Targets::AllLinear => Written::Word(ALL_LINEAR.to_owned()),
            Targets::Named(names) => Written::List(names),
        }
    }
}

/// An adapter's settings, PEFT's `LoraConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Columns of `A` and rows of `B`.
    pub rank: i64,
    /// The update counts `alpha / rank` times.
    pub alpha: f64,
    /// Or `alpha / √rank` times (Kalajdzievski 2023).
    pub rslora: bool,
    /// Whether the rows of an updated weight have lengths of their own: DoRA (Liu et al. 2024).
    pub dora: bool,
    /// The share of its input that an update does not see in training, at least 0 and below 1.
    pub dropout: f64,
    /// Which linear layers are updated.
    pub targets: Targets,
    /// Modules that are trained whole beside them: `embed_tokens`, `lm_head`, a norm.
    pub modules_to_save: Vec<String>,
}

impl LoraConfig {
    /// What an update is multiplied with.
    pub fn scale(&self) -> f64 {
        scale(self.alpha, self.rank, self.rslora)
    }

    /// Refuses settings that no adapter can have.
    ///
    /// # Errors
    /// The field, its value and what it must be.
    pub fn validate(&self) -> Result<(), LoraError> {
        let wrong = |field, value: String, remedy| {
            Err(LoraError::Setting {
                field,
                value,
                remedy,
            })
        };
        if self.rank < 1 {
            return wrong("rank", self.rank.to_string(), "it must be at least 1");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return wrong("alpha", self.alpha.to_string(), "it must be above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(
                "dropout",
                self.dropout.to_string(),
                "it must be at least 0 and below 1",
            );
        }
        if self.targets == Targets::Named(Vec::new()) {
            return wrong(
                "targets",
                "[]".to_owned(),
                "name at least one linear layer, or write \"all-linear\"",
            );
        }
        Ok(())
    }
}

pub(crate) fn scale(alpha: f64, rank: i64, rslora: bool) -> f64 {
    let rank = rank as f64;
    alpha / if rslora { rank.sqrt() } else { rank }
}

/// Settings that do not go with the model, or with anything.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// A value that no adapter can have.
    #[error("lora.{field} = {value}: {remedy}")]
    Setting {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        remedy: &'static str,
    },
    /// A module that the model does not have.
    #[error("lora.{field}: this model has no {what} called `{name}`; it has {known}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// What kind of module is looked for.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A module that is both updated and trained whole.
    #[error(
        "lora.modules_to_save: `{name}` is one of lora.targets too; leave it out of one of them"
    )]
    Twice {
        /// The name.
        name: String,
    },
    /// The decoder has an adapter already.
    #[error(
        "the model has an adapter already; merge it first (`etude export` writes the merged model)"
    )]
    Occupied,
}
