//! What can be wrong with the input of a score, each with its remedy.

/// A mistake in what was asked to be scored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// [`crate::Metric::parse`] met a name that is none of the known ones.
    #[error("unknown metric `{name}`; did you mean `{nearest}`? Known metrics: {}", known.join(", "))]
    UnknownMetric {
        /// What was asked for.
        name: String,
        /// The known name closest to it.
        nearest: &'static str,
        /// All known names.
        known: Vec<&'static str>,
    },
    /// There is nothing to score.
    #[error("no items to score: the list of predictions is empty; give at least one")]
    NoItems,
    /// An item lacks what the metric compares with.
    #[error(
        "item {item} (counting from 0) has no reference, and `{metric}` needs at least one; \
         add a reference or leave the item out"
    )]
    NoReferences {
        /// The metric's name.
        metric: &'static str,
        /// The item's place in the list.
        item: usize,
    },
    /// Two systems to compare were not run on the same number of items.
    #[error(
        "the two systems answered {a} and {b} items; a paired comparison needs the same items \
         in the same order"
    )]
    DifferentLengths {
        /// Items of the first system.
        a: usize,
        /// Items of the second system.
        b: usize,
    },
    /// Two systems to compare were not run on the same items.
    #[error(
        "item {item} (counting from 0) has other references in the second system than in the \
         first; a paired comparison needs the same items in the same order"
    )]
    DifferentReferences {
        /// The first item that differs.
        item: usize,
    },
    /// Statistics of two metrics, or of one metric with two settings, cannot be compared.
    #[error("the two systems were measured as `{a}` and `{b}`; measure both with one metric")]
    DifferentMetrics {
        /// How the first was measured.
        a: String,
        /// How the second was measured.
        b: String,
    },
    /// The corpus-level score is no number, for example nats over zero bytes.
    #[error("the score of these items is not a finite number: {why}")]
    Undefined {
        /// What makes it so.
        why: &'static str,
    },
    /// A setting of [`crate::Bootstrap`] makes no sense.
    #[error("bootstrap setting `{field}` is {value}; it must be {must}")]
    InvalidBootstrap {
        /// The setting's name.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        must: &'static str,
    },
}

impl ScoreError {
    /// Of a name that is none of the `known` ones.
    ///
    /// # Panics
    /// When none is known.
    pub fn unknown_metric(name: &str, known: Vec<&'static str>) -> Self {
        let folded = name.trim().to_lowercase().replace(['-', ' '], "_");
        let near = |known: &str| strsim::normalized_damerau_levenshtein(&folded, known);
        let nearest = known.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
        Self::UnknownMetric {
            name: name.to_owned(),
            nearest: nearest.expect("some metric is known"),
            known,
        }
    }
}
