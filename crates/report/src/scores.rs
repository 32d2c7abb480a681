//! Score tables: values with their intervals, gains with a verdict in words.

use serde::Serialize;
use serde_json::Value;

use crate::format;
use crate::metric::metric;

/// A score and the interval around it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Score {
    pub(crate) value: f64,
    pub(crate) interval: Option<(f64, f64)>,
    /// Of a difference.
    pub(crate) p: Option<f64>,
}

impl Score {
    /// Whether a difference is more than chance: zero lies outside of its interval, and of so few examples that no
    /// test could tell, there is no word.
    pub(crate) fn is_more_than_chance(&self) -> bool {
        let outside = (self.interval).is_some_and(|(low, high)| low > 0.0 || high < 0.0);
        outside && self.p.is_none_or(|p| p < 0.05)
    }
}

/// One model's row under a metric.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Colour letter of the model, the same in charts and tables.
    pub(crate) ink: char,
    pub(crate) value: String,
    pub(crate) interval: String,
    /// Positions in percent of the track: left and width of the interval, and the value.
    pub(crate) plot: Option<(String, String, String)>,
    pub(crate) best: bool,
}

/// All models under one metric.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) label: String,
    pub(crate) meaning: &'static str,
    pub(crate) way: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// A difference between two models under one metric.
#[derive(Debug, Serialize)]
pub(crate) struct Gain {
    pub(crate) label: String,
    pub(crate) against: &'static str,
    pub(crate) value: String,
    pub(crate) interval: String,
    pub(crate) verdict: &'static str,
    /// `better`, `worse` or `open`.
    pub(crate) kind: &'static str,
}

/// Reads `{"value", "low", "high"}` or a plain number.
pub(crate) fn score(value: &Value) -> Option<Score> {
    let field = |name: &str| value.get(name).and_then(Value::as_f64);
    let found = value.as_f64().or_else(|| field("value"))?;
    Some(Score {
        value: found,
        interval: field("low").zip(field("high")),
        p: field("p"),
    })
}

/// `0.180 to 0.231`, or nothing.
pub(crate) fn interval(score: &Score) -> String {
    let range = |(low, high)| format!("{} to {}", format::score(low), format::score(high));
    score.interval.map(range).unwrap_or_default()
}

/// The scores of several models, grouped by metric; `arms` are (name, colour letter, scores by
/// metric). The metric named by `first` comes first.
pub(crate) fn groups(arms: &[(&str, char, &Value)], first: Option<&str>) -> Vec<Group> {
    let mut keys: Vec<&str> = Vec::new();
    for (_, _, scores) in arms {
        let names = scores
            .as_object()
            .into_iter()
            .flat_map(|scores| scores.keys());
        names.for_each(|name| {
            if !keys.contains(&name.as_str()) {
                keys.push(name);
            }
        });
    }
    keys.sort_by_key(|key| Some(*key) != first);
    keys.into_iter()
        .filter_map(|key| group(arms, key))
        .collect()
}

fn group(arms: &[(&str, char, &Value)], key: &str) -> Option<Group> {
    let found: Vec<(&str, char, Score)> = arms
        .iter()
        .filter_map(|(name, ink, scores)| Some((*name, *ink, score(scores.get(key)?)?)))
        .collect();
    let edges = found.iter().flat_map(|(_, _, score)| {
        let (low, high) = score.interval.unwrap_or((score.value, score.value));
        [low, high, score.value]
    });
    let (low, high) = edges.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), edge| {
        (low.min(edge), high.max(edge))
    });
    let known = metric(key);
    let values = || found.iter().map(|(_, _, score)| score.value);
    let best = if known.higher_is_better {
        values().reduce(f64::max)
    } else {
        values().reduce(f64::min)
    }?;
    let several = found.len() > 1;
    let rows = found.iter().map(|(name, ink, score)| Row {
        name: (*name).to_owned(),
        ink: *ink,
        value: format::score(score.value),
        interval: interval(score),
        plot: (several && high > low).then(|| place(score, low, high)),
        best: several && score.value == best,
    });
    let way = if known.higher_is_better {
        "higher is better"
    } else {
        "lower is better"
    };
    Some(Group {
        label: known.label,
        meaning: known.meaning,
        way,
        rows: rows.collect(),
    })
}

/// Where a score lies between the least and the greatest edge, leaving room at both ends.
fn place(score: &Score, low: f64, high: f64) -> (String, String, String) {
    let percent = |value: f64| 4.0 + 92.0 * (value - low) / (high - low);
    let (from, to) = score.interval.unwrap_or((score.value, score.value));
    let text = |value: f64| format!("{value:.1}");
    (
        text(percent(from)),
        text(percent(to) - percent(from)),
        text(percent(score.value)),
    )
}

/// The gains of the fine-tuned model over another arm. `task` is the task table of the summary,
/// `field` names the gains in it and `arm` the other model's scores.
pub(crate) fn gains(task: &Value, field: &str, arm: &str, against: &'static str) -> Vec<Gain> {
    let Some(found) = task.get(field).and_then(Value::as_object) else {
        return Vec::new();
    };
    let gain = |(key, value): (&String, &Value)| {
        let difference = score(value)?;
        let (verdict, kind) = verdict(task, key, arm, &difference);
        Some(Gain {
            label: metric(key).label,
            against,
            value: format::signed(difference.value),
            interval: difference
                .interval
                .map(|(low, high)| format!("{} to {}", format::signed(low), format::signed(high)))
                .unwrap_or_default(),
            verdict,
            kind,
        })
    };
    found.iter().filter_map(gain).collect()
}

/// A difference counts when it is more than chance. Which way is better is read from the two
/// scores themselves, so that it holds whether a gain in bits is written as negative or positive.
fn verdict(task: &Value, key: &str, arm: &str, difference: &Score) -> (&'static str, &'static str) {
    if difference.interval.is_none() {
        return ("no interval", "open");
    }
    if !difference.is_more_than_chance() {
        return ("could be chance", "open");
    }
    let value = |arm: &str| score(task.get(arm)?.get(key)?).map(|score| score.value);
    let higher = metric(key).higher_is_better;
    let better = match (value("finetuned"), value(arm)) {
        (Some(tuned), Some(other)) => (tuned > other) == higher,
        _ => difference.value > 0.0,
    };
    if better {
        ("clearly better", "better")
    } else {
        ("clearly worse", "worse")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn verdicts_follow_the_interval_and_the_scores() {
        let task = json!({
            "base": {"rouge_l": {"value": 0.1}, "bits_per_byte": {"value": 3.0}, "bleu": {"value": 2.0}},
            "finetuned": {"rouge_l": {"value": 0.2}, "bits_per_byte": {"value": 2.0}, "bleu": {"value": 1.0}},
            "gains_over_base": {
                "rouge_l": {"value": 0.1, "low": -0.01, "high": 0.2},
                "bits_per_byte": {"value": -1.0, "low": -1.2, "high": -0.8},
                "bleu": {"value": -1.0, "low": -1.5, "high": -0.5},
                "chrf": {"value": 5.0, "low": 5.0, "high": 5.0, "p": 1.0},
            },
        });
        let kinds: Vec<_> = gains(&task, "gains_over_base", "base", "base")
            .iter()
            .map(|gain| gain.kind)
            .collect();
        assert_eq!(
            kinds,
            ["open", "better", "worse", "open"],
            "of one example nothing follows"
        );
    }

    #[test]
    fn the_best_row_follows_the_metric() {
        let (low, high) = (
            json!({"bits_per_byte": 2.0, "rouge_l": 0.1}),
            json!({"bits_per_byte": 3.0, "rouge_l": 0.2}),
        );
        let groups = groups(&[("one", 'a', &low), ("two", 'b', &high)], Some("rouge_l"));
        assert_eq!(groups[0].label, "ROUGE-L");
        assert!(groups[0].rows[1].best && !groups[0].rows[0].best);
        assert!(groups[1].rows[0].best && !groups[1].rows[1].best);
    }
}
