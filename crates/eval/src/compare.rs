//! Two models on the same items: the difference of their scores, by paired bootstrap.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use etude_scores::{Bootstrap, Difference};
use serde::{Deserialize, Serialize};

use crate::task::{TaskItem, TaskMetric};

/// The first model's scores minus the second's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The items that both answered.
    pub n: usize,
    /// By metric; where less is better, a gain is negative.
    pub differences: BTreeMap<String, Difference>,
}

/// Compares the results `a` and `b` of two models on the same items, in any order.
///
/// # Errors
/// Results on other items, or with other reference answers, and scores that are not finite.
pub fn compare(
    a: &[TaskItem],
    b: &[TaskItem],
    metrics: &[TaskMetric],
    bootstrap: &Bootstrap,
) -> Result<Comparison> {
    let b = in_order_of(a, b)?;
    let difference = |metric: &TaskMetric| {
        let difference = metric
            .measure(a)
            .and_then(|a| a.minus(&metric.measure(&b)?, bootstrap));
        let difference = difference.with_context(|| format!("cannot compare by {metric}"))?;
        Ok((metric.name().to_owned(), difference))
    };
    let differences = metrics.iter().map(difference).collect::<Result<_>>()?;
    Ok(Comparison {
        n: a.len(),
        differences,
    })
}

/// The items of `b` as those of `a` stand. Names may repeat: equal ones are taken in order.
fn in_order_of(a: &[TaskItem], b: &[TaskItem]) -> Result<Vec<TaskItem>> {
    ensure!(
        a.len() == b.len(),
        "the two results have {} and {} items; evaluate both models on the same examples, with the same context",
        a.len(),
        b.len()
    );
    let mut by_id: HashMap<&str, Vec<&TaskItem>> = HashMap::new();
    for item in b.iter().rev() {
        by_id.entry(&item.id).or_default().push(item);
    }
    let mut ordered = Vec::with_capacity(b.len());
    for item in a {
        let Some(other) = by_id.get_mut(item.id.as_str()).and_then(Vec::pop) else {
            bail!(
                "item `{}` is missing from the second result; evaluate both models on the same examples",
                item.id
            );
        };
        ensure!(
            other.reference == item.reference && other.also == item.also,
            "item `{}` has another reference answer in the second result; evaluate both models on the same examples",
            item.id
        );
        ordered.push(other.clone());
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score_items;
    use crate::task::testing::item;

    fn metrics() -> Vec<TaskMetric> {
        ["rouge_l", "bits_per_byte"]
            .map(|name| TaskMetric::parse(name).expect("known"))
            .to_vec()
    }

    #[test]
    fn pairs_items_by_name() -> Result<()> {
        let a: Vec<TaskItem> = (0..30)
            .map(|i| item(&format!("{i}"), "x y z", "x y z"))
            .collect();
        let mut b: Vec<TaskItem> = (0..30)
            .map(|i| item(&format!("{i}"), "x q", "x y z"))
            .collect();
        for item in &mut b {
            item.nats *= 2.0;
        }
        b.reverse();
        let found = compare(&a, &b, &metrics(), &Bootstrap::default())?;
        assert_eq!(found.n, 30);
        // ROUGE-L of "x q" against "x y z" is 2 * 1 / (2 + 3).
        let rouge = found.differences["rouge_l"];
        assert!(
            (rouge.value - 0.6).abs() < 1e-12 && rouge.low > 0.0 && rouge.p < 0.01,
            "{rouge:?}"
        );
        let bits = found.differences["bits_per_byte"];
        let own = a[0].nats / a[0].bytes as f64 / std::f64::consts::LN_2;
        assert!(
            (bits.value + own).abs() < 1e-12 && bits.high < 0.0,
            "{bits:?}"
        );
        Ok(())
    }

    #[test]
    fn other_items_are_refused() {
        let a = [item("a", "x", "x"), item("b", "x", "x")];
        let says = |b: &[TaskItem], words: &str| {
            let error = compare(&a, b, &metrics(), &Bootstrap::default()).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
        };
        says(&a[..1], "2 and 1 items");
        says(
            &[item("a", "x", "x"), item("c", "x", "x")],
            "`b` is missing",
        );
        says(
            &[item("a", "x", "x"), item("a", "x", "x")],
            "`b` is missing",
        );
        says(
            &[item("b", "x", "y"), item("a", "x", "x")],
            "`b` has another reference",
        );
    }

    #[test]
    fn an_answer_is_scored_by_the_nearest_of_the_right_ones() -> Result<()> {
        let mut one = item("1", "the year 1066", "in 1066");
        let score = |item: &TaskItem, name: &str| -> Result<f64> {
            let metrics = [TaskMetric::parse(name)?];
            let scores = score_items(std::slice::from_ref(item), &metrics, &Bootstrap::default())?;
            Ok(scores[name].value)
        };
        assert_eq!(score(&one, "exact_match")?, 0.0);
        let line = serde_json::to_string(&one)?;
        assert!(
            !line.contains("also"),
            "predictions with one right answer stay as they were: {line}"
        );
        one.also = vec!["1067".to_owned(), "The year 1066.".to_owned()];
        assert_eq!(score(&one, "exact_match")?, 1.0);
        for (chosen, expected) in [("in 1066", 1.0), ("1067", 1.0), ("1068", 0.0)] {
            one.chosen = Some(chosen.to_owned());
            for name in ["choice_accuracy", "choice_macro_f1"] {
                assert_eq!(score(&one, name)?, expected, "{name} of {chosen}");
            }
        }
        let again: TaskItem = serde_json::from_str(&serde_json::to_string(&one)?)?;
        assert_eq!(again, one);
        // Whichever of two right answers a model takes, its macro-F1 is the same.
        let macro_f1 = |first: &str| -> Result<f64> {
            let mut items: Vec<TaskItem> = (0..10).map(|i| item(&i.to_string(), "", "A")).collect();
            items[0].also = vec!["B".to_owned()];
            for item in &mut items {
                item.chosen = Some("C".to_owned());
            }
            items[0].chosen = Some(first.to_owned());
            let metrics = [TaskMetric::parse("choice_macro_f1")?];
            Ok(score_items(&items, &metrics, &Bootstrap::default())?["choice_macro_f1"].value)
        };
        // F1 of A is 2 * 1 / (1 + 10), that of C is 0.
        assert!((macro_f1("A")? - 1.0 / 11.0).abs() < 1e-12);
        assert_eq!(macro_f1("A")?, macro_f1("B")?);
        // Two results over other right answers are not compared.
        let error = compare(
            &[one.clone()],
            &[item("1", "x", "in 1066")],
            &metrics(),
            &Bootstrap::default(),
        );
        assert!(format!("{:#}", error.expect_err("refused")).contains("another reference answer"));
        Ok(())
    }
}
