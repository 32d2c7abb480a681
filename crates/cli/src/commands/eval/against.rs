//! `etude eval --task TASK --against MODEL`: two models on the same examples.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use etude_eval::{Comparison, TaskItem, TaskResult, TaskSettings, compare};
use etude_scores::Score;
use serde::Serialize;

use crate::output;

/// What the other model made of the task, and how far the first is from it.
#[derive(Debug, Serialize)]
pub(super) struct Against {
    model: String,
    scores: BTreeMap<String, Score>,
    left_out: BTreeMap<String, u64>,
    /// Over the examples that both answered.
    #[serde(flatten)]
    comparison: Comparison,
}

impl Against {
    /// Compares the results of the first model and of `model` on the examples that fit both.
    pub(super) fn new(
        first: &TaskResult,
        other: TaskResult,
        model: String,
        settings: &TaskSettings,
    ) -> Result<Self> {
        let [mine, its] = [
            common(&first.items, &other.items),
            common(&other.items, &first.items),
        ];
        let comparison = compare(&mine, &its, &settings.metrics, &settings.bootstrap)?;
        Ok(Self {
            model,
            scores: other.scores,
            left_out: other.left_out,
            comparison,
        })
    }

    /// A row for each score.
    pub(super) fn table(&self, first: &TaskResult) -> String {
        let head = ["SCORE", "THIS", "AGAINST", "DIFFERENCE", "P"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let show =
            |score: &Score| format!("{:.4} [{:.4}, {:.4}]", score.value, score.low, score.high);
        for (name, gain) in &self.comparison.differences {
            let of =
                |scores: &BTreeMap<String, Score>| scores.get(name).map_or_else(String::new, show);
            rows.push(vec![
                name.clone(),
                of(&first.scores),
                of(&self.scores),
                format!("{:+.4} [{:+.4}, {:+.4}]", gain.value, gain.low, gain.high),
                etude_report::shown_p(gain.p),
            ]);
        }
        let mut text = output::columns(&rows);
        text += "\n95% intervals by bootstrap; the difference is paired, by example";
        let both = self.comparison.n;
        if both < first.items.len() || !self.left_out.is_empty() {
            text += &format!(
                ", over the {} that fit both models",
                output::count(both as u64)
            );
        }
        text + "\n"
    }
}

/// The items that `other` has, too. Names may repeat.
fn common(items: &[TaskItem], other: &[TaskItem]) -> Vec<TaskItem> {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for item in other {
        *left.entry(&item.id).or_default() += 1;
    }
    let mut kept = Vec::with_capacity(items.len());
    for item in items {
        if let Some(count) = left.get_mut(item.id.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            kept.push(item.clone());
        }
    }
    kept
}
