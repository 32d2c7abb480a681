//! `etude eval --task TASK --against MODEL`: two models on the same examples.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use etude_eval::{Comparison, TaskItem, TaskResult, TaskSettings, compare};
use etude_scores::Score;
use serde::Serialize;

use crate::error::{Misuse, bad_input};
use crate::output;

/// What the other model made of the task, and how far the first is from it.
#[derive(Debug, Serialize)]
pub(super) struct Against {
    model: String,
    scores: BTreeMap<String, Score>,
    left_out: BTreeMap<String, u64>,
    /// How many it answered.
    #[serde(skip)]
    answered: usize,
    /// The split, where the two runs do not have the same examples in it.
    #[serde(skip)]
    other_split: Option<&'static str>,
    /// Over the examples that both answered.
    #[serde(flatten)]
    comparison: Comparison,
}

impl Against {
    /// Compares the results of the first model and of `model` on the examples that both answered. `other_split` is
    /// the split's name where the two models' runs do not have the same examples in it.
    pub(super) fn new(
        first: &TaskResult,
        other: TaskResult,
        model: String,
        settings: &TaskSettings,
        other_split: Option<&'static str>,
    ) -> Result<Self> {
        let [mine, its] = [
            common(&first.items, &other.items),
            common(&other.items, &first.items),
        ];
        if mine.is_empty() {
            return Err(Misuse::error(
                format!("{model}: has answered none of the examples that the first model has"),
                "ask both the same: give examples that neither has learnt from with --data",
            ));
        }
        let comparison = compare(&mine, &its, &settings.metrics, &settings.bootstrap);
        Ok(Self {
            model,
            answered: other.items.len(),
            other_split,
            comparison: comparison.map_err(bad_input)?,
            scores: other.scores,
            left_out: other.left_out,
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
        let count = output::count(both as u64);
        if let Some(split) = self.other_split {
            text += &format!(
                ", over the {count} that both were asked: the two runs have different {split} examples"
            );
        } else if both < first.items.len().max(self.answered) {
            text += &format!(", over the {count} that fit both models");
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
