//! What a run wrote of its steps and of where it ran, set beside what a replay finds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use etude_data::DataError;
use serde::Serialize;
use serde_json::Value;

/// A step as the log has it. A number that was not finite is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recorded {
    pub(super) loss: Option<f64>,
    pub(super) grad_norm: Option<f64>,
    /// That of the matrices inside the layers; none, like the next two, where the line does not tell.
    pub(super) lr: Option<f64>,
    /// Up to and with the step, padding included.
    pub(super) tokens: Option<f64>,
    /// Those of them that were supervised.
    pub(super) supervised: Option<f64>,
}

/// The same of a step that was made again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) loss: f64,
    pub(super) grad_norm: f64,
    pub(super) lr: f64,
    pub(super) tokens: u64,
    pub(super) supervised: u64,
}

/// A number of the log and the one that was found again; none stands for one that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pair {
    /// What the log has.
    pub recorded: Option<f64>,
    /// What the replay found.
    pub replayed: Option<f64>,
    /// Whether the two have the same bits.
    pub exact: bool,
}

impl Pair {
    fn new(recorded: Option<f64>, replayed: f64) -> Self {
        let replayed = Some(replayed).filter(|value| value.is_finite());
        Self {
            recorded,
            replayed,
            exact: recorded.map(f64::to_bits) == replayed.map(f64::to_bits),
        }
    }

    /// How far the two are apart, as a share of the recorded one.
    pub fn off(&self) -> Option<f64> {
        let (recorded, replayed) = (self.recorded?, self.replayed?);
        Some((replayed - recorded).abs() / recorded.abs().max(f64::MIN_POSITIVE))
    }
}

/// A step in the log and in the replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The step, from 1.
    pub step: u64,
    /// Whether all of them are the same to the last bit.
    pub exact: bool,
    /// The mean loss.
    pub loss: Pair,
    /// The gradients' norm before clipping.
    pub grad_norm: Pair,
    /// The learning rate of the matrices inside the layers; none where the log does not tell.
    pub lr: Option<Pair>,
    /// Tokens that the model had seen after it, padding included; none where the log does not tell.
    pub tokens: Option<Pair>,
    /// Tokens that had been supervised after it; none where the log does not tell.
    pub supervised: Option<Pair>,
}

impl Comparison {
    pub(super) fn new(step: u64, recorded: Recorded, made: Made) -> Self {
        let told = |recorded: Option<f64>, made| recorded.map(|it| Pair::new(Some(it), made));
        let mut comparison = Self {
            step,
            exact: false,
            loss: Pair::new(recorded.loss, made.loss),
            grad_norm: Pair::new(recorded.grad_norm, made.grad_norm),
            lr: told(recorded.lr, made.lr),
            tokens: told(recorded.tokens, made.tokens as f64),
            supervised: told(recorded.supervised, made.supervised as f64),
        };
        comparison.exact = comparison.figures().all(|(_, pair)| pair.exact);
        comparison
    }

    /// What is compared, by name.
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, Pair)> + use<> {
        let figures = [
            ("loss", Some(self.loss)),
            ("gradient norm", Some(self.grad_norm)),
            ("learning rate", self.lr),
            ("tokens seen", self.tokens),
            ("tokens supervised", self.supervised),
        ];
        (figures.into_iter()).filter_map(|(name, pair)| Some((name, pair?)))
    }
}

/// What the logged steps before a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Usual {
    /// How many were looked at, the nearest ones.
    pub steps: usize,
    /// The median of their losses.
    pub loss: f64,
    /// The lowest of their losses.
    pub lowest: f64,
    /// The highest of their losses.
    pub highest: f64,
    /// The median of their gradient norms.
    pub grad_norm: f64,
}

/// Logged steps before a step that tell what is usual.
const NEAREST: usize = 10;

impl Usual {
    /// Of at most the [`NEAREST`] logged steps that were finite.
    pub(super) fn before(step: u64, recorded: &BTreeMap<u64, Recorded>) -> Option<Self> {
        let before = recorded.range(..step).rev();
        let finite = before.filter_map(|(_, log)| Some((log.loss?, log.grad_norm?)));
        let (losses, norms): (Vec<f64>, Vec<f64>) = finite.take(NEAREST).unzip();
        (!losses.is_empty()).then(|| Self {
            steps: losses.len(),
            lowest: losses.iter().copied().fold(f64::INFINITY, f64::min),
            highest: losses.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            loss: median(losses),
            grad_norm: median(norms),
        })
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() % 2 {
        0 => (numbers[middle - 1] + numbers[middle]) / 2.0,
        _ => numbers[middle],
    }
}

/// The logged training steps of a run.
pub(super) struct Log {
    pub(super) steps: BTreeMap<u64, Recorded>,
    /// Lines that are no JSON, which count for nothing; the last one may just be being written and is not among them.
    pub(super) unreadable: usize,
}

/// Reads `metrics.jsonl`.
pub(super) fn log(run: &Path) -> Result<Log> {
    let path = run.join("metrics.jsonl");
    let bytes = fs::read(&path).map_err(|_| {
        DataError::in_file(
            run,
            "no step was made here: there is no metrics.jsonl",
            "give the folder of a run that has begun",
        )
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let mut log = Log {
        steps: BTreeMap::new(),
        unreadable: 0,
    };
    for line in text.split_inclusive('\n') {
        let Ok(values) = serde_json::from_str::<Value>(line) else {
            log.unreadable += usize::from(line.ends_with('\n'));
            continue;
        };
        let number = |key: &str| values.get(key).and_then(Value::as_f64);
        if let (Some("train"), Some(step)) = (values["kind"].as_str(), values["step"].as_u64()) {
            let recorded = Recorded {
                loss: number("loss"),
                grad_norm: number("grad_norm"),
                lr: number("lr"),
                tokens: number("tokens"),
                supervised: number("supervised"),
            };
            log.steps.insert(step, recorded);
        }
    }
    Ok(log)
}

/// A fact of the environment that is not what it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Which, by its name in `environment.json`.
    pub what: String,
    /// In the run.
    pub run: String,
    /// Now.
    pub now: String,
}

/// What in `environment.json` bears on the numbers that come out.
const FACTS: [&str; 8] = [
    "etude",
    "git_revision",
    "libtorch",
    "device",
    "processor",
    "threads",
    "products",
    "system",
];

/// `environment.json` of a run; null when there is none.
pub(super) fn environment(run: &Path) -> Value {
    let bytes = fs::read(run.join("environment.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// How the environment differs from that of the run.
pub(super) fn differences(run: &Value, now: &Value) -> Vec<Difference> {
    let show = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let changed = FACTS.iter().filter(|&&fact| run[fact] != now[fact]);
    changed
        .map(|&fact| Difference {
            what: fact.to_owned(),
            run: show(&run[fact]),
            now: show(&now[fact]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bits_are_exact() {
        let pair = Pair::new(Some(0.1 + 0.2), 0.3);
        assert!(!pair.exact && pair.off().unwrap() < 1e-15);
        assert!(Pair::new(Some(0.3), 0.3).exact);
        assert!(!Pair::new(Some(0.0), -0.0).exact);
        // The log has null for a number that was not finite.
        assert!(Pair::new(None, f64::NAN).exact);
        assert!(!Pair::new(None, 1.0).exact && !Pair::new(Some(1.0), f64::INFINITY).exact);
        assert_eq!(Pair::new(Some(1.0), f64::NAN).off(), None);
    }

    #[test]
    fn the_log_is_read_and_the_nearest_steps_are_what_is_usual() {
        let folder = tempfile::tempdir().unwrap();
        let mut text = "[1, 2]\nno JSON\n{\"kind\":\"eval\",\"step\":2,\"loss\":9.0}\n".to_owned();
        for step in 1..=30 {
            let loss = if step == 29 {
                "null"
            } else {
                &step.to_string()
            };
            text += &format!(
                "{{\"kind\":\"train\",\"step\":{step},\"loss\":{loss},\"grad_norm\":0.5}}\n"
            );
        }
        text += "{\"kind\":\"train\",\"step\":31,\"lo";
        fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
        let log = log(folder.path()).unwrap();
        assert_eq!((log.steps.len(), log.unreadable), (30, 1));
        assert_eq!(log.steps[&29].loss, None);
        let usual = Usual::before(30, &log.steps).unwrap();
        assert_eq!((usual.steps, usual.lowest, usual.highest), (10, 19.0, 28.0));
        assert_eq!((usual.loss, usual.grad_norm), (23.5, 0.5));
        assert_eq!(Usual::before(1, &log.steps), None);
        assert!(super::log(&folder.path().join("none")).is_err());
    }

    #[test]
    fn another_machine_shows() {
        let was = serde_json::json!({"threads": 2, "device": "cpu", "seconds": 1});
        let now = serde_json::json!({"threads": 4, "device": "cpu", "seconds": 2});
        let found = differences(&was, &now);
        assert_eq!(
            found.len(),
            1,
            "what does not bear on the numbers may differ"
        );
        assert_eq!((&found[0].run[..], &found[0].now[..]), ("2", "4"));
    }
}
