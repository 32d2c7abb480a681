//! The final loss that earlier runs let expect. Runs count that lie in the same folder of runs, were finished,
//! and had the same model and data; those with the same optimizer, schedule and batch alone, where there are any.
//!
//! - Of runs about as long as this one: their mean, and the interval in which one more would fall (Student's t).
//! - Of runs of other lengths: a straight line through log loss over log tokens (a power law, as in Kaplan et al.
//!   2020), with its prediction interval; with only one length, the line has the slope of that run's own
//!   validation curve in its second half.
//!
//! An interval is at least half a percent to each side, two percent where nothing tells the spread, and half of
//! the way where a slope was borrowed. Nothing is said of a run over ten times longer or shorter than all others.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

/// Runs about as long: their tokens differ by no more than this share.
const ALIKE: f64 = 0.05;
/// Half of an interval at least, as a share of the loss.
const LEAST: f64 = 0.005;
/// The same where nothing tells the spread.
const UNKNOWN: f64 = 0.02;
/// How far, as a factor of tokens, a line is followed.
const FARTHEST: f64 = 10.0;

/// A final validation loss to expect, in nats a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectedLoss {
    /// The expected value.
    pub value: f64,
    /// The interval in which nineteen of twenty such runs are expected.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// How many earlier runs it is from.
    pub runs: usize,
    /// How it was found, in a few words.
    pub method: String,
}

/// What counts of a finished run.
#[derive(Debug, Clone)]
struct Finished {
    tokens: f64,
    loss: f64,
    /// Optimizer, schedule and batch are the recipe's.
    same_training: bool,
    folder: PathBuf,
    steps: f64,
}

/// What the runs beside `folder` let expect of one with this recipe (resolved, as TOML) and so many tokens.
pub fn expect(folder: &Path, recipe: &str, tokens: u64) -> Option<ExpectedLoss> {
    let recipe: Table = recipe.parse().ok()?;
    let mut runs: Vec<Finished> = candidates(folder)
        .into_iter()
        .filter_map(|place| finished(place, &recipe))
        .collect();
    if runs.iter().any(|run| run.same_training) {
        runs.retain(|run| run.same_training);
    }
    let tokens = tokens as f64;
    let distance = |run: &Finished| (run.tokens / tokens).ln().abs();
    let near: Vec<f64> = runs
        .iter()
        .filter(|run| distance(run) <= ALIKE)
        .map(|run| run.loss)
        .collect();
    if !near.is_empty() {
        return Some(of_like_length(&near));
    }
    runs.retain(|run| distance(run) <= FARTHEST.ln());
    along_a_line(&runs, tokens)
}

/// The folders beside a run's, and those one level below: a quickstart holds three runs.
fn candidates(folder: &Path) -> Vec<PathBuf> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folders = |place: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.is_dir()).collect()
    };
    let mut found = folders(parent);
    let below: Vec<PathBuf> = found.iter().flat_map(|place| folders(place)).collect();
    found.extend(below);
    found.retain(|place| place.join("summary.json").is_file() && !same(place, folder));
    found.sort();
    found
}

fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A run that was finished and is of the same model and data.
fn finished(folder: PathBuf, recipe: &Table) -> Option<Finished> {
    let other: Table = fs::read_to_string(folder.join("recipe.toml"))
        .ok()?
        .parse()
        .ok()?;
    let same = |keys: &[&str]| keys.iter().all(|key| other.get(*key) == recipe.get(*key));
    let at = |table: &Table, outer: &str, key: &str| table.get(outer)?.get(key).cloned();
    let examples = at(&other, "eval", "examples") == at(recipe, "eval", "examples");
    if !examples || !same(&["data", "tokenizer", "model", "base", "lora", "task"]) {
        return None;
    }
    let text = fs::read_to_string(folder.join("summary.json")).ok()?;
    let summary: Value = serde_json::from_str(&text).ok()?;
    let number = |place: &str| {
        summary
            .pointer(place)?
            .as_f64()
            .filter(|value| *value > 0.0)
    };
    let rows = at(&other, "train", "batch_rows") == at(recipe, "train", "batch_rows");
    Some(Finished {
        tokens: number("/tokens")?,
        loss: number("/final/validation_loss")?,
        same_training: rows && same(&["optimizer", "schedule"]),
        steps: number("/steps")?,
        folder,
    })
}

fn of_like_length(losses: &[f64]) -> ExpectedLoss {
    let count = losses.len();
    let mean = losses.iter().sum::<f64>() / count as f64;
    let half = if count == 1 {
        UNKNOWN * mean
    } else {
        let squares: f64 = losses.iter().map(|loss| (loss - mean).powi(2)).sum();
        let deviation = (squares / (count - 1) as f64).sqrt();
        let one_more = (1.0 + 1.0 / count as f64).sqrt();
        (student(count - 1) * deviation * one_more).max(LEAST * mean)
    };
    ExpectedLoss {
        value: mean,
        low: mean - half,
        high: mean + half,
        runs: count,
        method: "the mean of runs as long as this one".to_owned(),
    }
}

/// A line through log loss over log tokens, and where it is at `tokens`.
fn along_a_line(runs: &[Finished], tokens: f64) -> Option<ExpectedLoss> {
    let points: Vec<(f64, f64)> = runs
        .iter()
        .map(|run| (run.tokens.ln(), run.loss.ln()))
        .collect();
    let count = points.len() as f64;
    let center = points.iter().map(|point| point.0).sum::<f64>() / count;
    let height = points.iter().map(|point| point.1).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|point| (point.0 - center).powi(2)).sum();
    let ahead = tokens.ln() - center;
    let of_lengths = spread.sqrt() > ALIKE;
    let slope = if of_lengths {
        let product = |point: &(f64, f64)| (point.0 - center) * (point.1 - height);
        points.iter().map(product).sum::<f64>() / spread
    } else {
        own_slope(runs.first()?)?
    };
    let value = height + slope * ahead;
    let free = points.len().saturating_sub(2);
    let half = if of_lengths && free > 0 {
        let error = |point: &(f64, f64)| point.1 - height - slope * (point.0 - center);
        let squares: f64 = points.iter().map(|point| error(point).powi(2)).sum();
        let deviation = (squares / free as f64).sqrt();
        let one_more = (1.0 + 1.0 / count + ahead.powi(2) / spread).sqrt();
        (student(free) * deviation * one_more).max(LEAST)
    } else {
        UNKNOWN.max(0.5 * (slope * ahead).abs())
    };
    let method = match of_lengths {
        true => "a power law through runs of other lengths",
        false => "the curve of a run of another length, followed",
    };
    Some(ExpectedLoss {
        value: value.exp(),
        low: (value - half).exp(),
        high: (value + half).exp(),
        runs: points.len(),
        method: method.to_owned(),
    })
}

/// The slope of a run's own validation losses over its second half, log over log; never upwards.
fn own_slope(run: &Finished) -> Option<f64> {
    let text = fs::read_to_string(run.folder.join("metrics.jsonl")).ok()?;
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let points: Vec<(f64, f64)> = lines
        .filter(|line: &Value| line["kind"] == "eval")
        // The last validation is of more text than those before it; `part_loss` is of the same.
        .filter_map(|line| {
            let loss = line["part_loss"].as_f64().or(line["loss"].as_f64())?;
            Some((line["step"].as_f64()?, loss))
        })
        .filter(|&(step, loss)| step >= 0.4 * run.steps && loss > 0.0)
        .collect();
    let ((from, high), (to, low)) = (points.first()?, points.last()?);
    let way = (to / from).ln();
    (way > 0.1).then(|| ((low / high).ln() / way).min(0.0))
}

/// The 97.5th percentile of Student's t for so many degrees of freedom.
fn student(free: usize) -> f64 {
    const TABLE: [f64; 10] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    ];
    // Beyond the table, 1.96 and two terms of Cornish and Fisher's expansion around it: within 0.1 percent.
    let n = free as f64;
    let beyond = || 1.960 + 2.372 / n + 2.823 / n.powi(2);
    TABLE
        .get(free.saturating_sub(1))
        .copied()
        .unwrap_or_else(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "[data]\nsources = [\"a\"]\n[model]\nn_layer = 2\n\
        [optimizer]\nlr = 0.1\n[train]\nsteps = 100\nbatch_rows = 4\nseed = 1\n[eval]\nwindows = 9\n";

    /// Plants a finished run.
    fn plant(runs: &Path, name: &str, recipe: &str, steps: u64, loss: f64) {
        let folder = runs.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("recipe.toml"), recipe).unwrap();
        let summary = serde_json::json!({"steps": steps, "tokens": steps * 1000, "final": {"validation_loss": loss}});
        fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
    }

    fn runs() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("next");
        (place, run)
    }

    #[test]
    fn no_earlier_run_no_expectation() {
        let (place, run) = runs();
        assert_eq!(expect(&run, RECIPE, 100_000), None);
        let other = RECIPE.replace("n_layer = 2", "n_layer = 3");
        plant(place.path(), "larger", &other, 100, 2.0);
        plant(place.path(), "far", RECIPE, 2000, 2.0);
        plant(place.path(), "next", RECIPE, 100, 1.0); // the run itself
        assert_eq!(expect(&run, RECIPE, 100_000), None);
    }

    #[test]
    fn runs_as_long_as_this_one_give_their_mean_and_spread() {
        let (place, run) = runs();
        plant(place.path(), "one", RECIPE, 100, 4.0);
        let one = expect(&run, RECIPE, 100_000).unwrap();
        assert_eq!((one.value, one.runs), (4.0, 1));
        assert!((one.high - 4.08).abs() < 1e-9, "{one:?}");
        let seed = RECIPE.replace("seed = 1", "seed = 2");
        plant(place.path(), "group/two", &seed, 101, 4.1);
        plant(place.path(), "three", &seed, 99, 4.2);
        let three = expect(&run, RECIPE, 100_000).unwrap();
        assert_eq!(three.runs, 3);
        assert!((three.value - 4.1).abs() < 1e-9);
        // 4.303 · 0.1 · √(4/3)
        assert!(
            (three.high - three.value - 0.49687).abs() < 1e-3,
            "{three:?}"
        );
    }

    #[test]
    fn another_learning_rate_counts_when_there_is_nothing_nearer() {
        let (place, run) = runs();
        plant(
            place.path(),
            "other",
            &RECIPE.replace("0.1", "0.5"),
            100,
            5.0,
        );
        assert_eq!(expect(&run, RECIPE, 100_000).unwrap().value, 5.0);
        plant(place.path(), "same", RECIPE, 100, 4.0);
        assert_eq!(expect(&run, RECIPE, 100_000).unwrap().value, 4.0);
    }

    #[test]
    fn other_lengths_lie_on_a_power_law() {
        let (place, run) = runs();
        for steps in [50u64, 100, 200, 400] {
            let loss = 8.0 * (steps as f64 / 50.0).powf(-0.2);
            plant(place.path(), &format!("of-{steps}"), RECIPE, steps, loss);
        }
        let found = expect(&run, RECIPE, 800_000).unwrap();
        let truth = 8.0 * 16f64.powf(-0.2);
        assert!((found.value / truth - 1.0).abs() < 1e-9, "{found:?}");
        assert!((found.high / found.value - 1.005).abs() < 1e-4, "{found:?}");
        assert_eq!(
            found.runs, 3,
            "one of a sixteenth of the length says nothing"
        );
    }

    #[test]
    fn one_other_length_lends_the_slope_of_its_own_curve() {
        let (place, run) = runs();
        plant(place.path(), "one", RECIPE, 100, 4.0);
        assert_eq!(expect(&run, RECIPE, 200_000), None, "it never validated");
        let lines: String = [(25, 9.0), (50, 5.0), (100, 4.0)]
            .map(|(step, loss)| format!("{{\"kind\":\"eval\",\"step\":{step},\"loss\":{loss}}}\n"))
            .concat();
        fs::write(place.path().join("one/metrics.jsonl"), lines).unwrap();
        let found = expect(&run, RECIPE, 200_000).unwrap();
        assert!((found.value - 3.2).abs() < 1e-9, "{found:?}"); // 4 · 4/5
        assert!(found.low < 3.0 && found.high > 3.5, "{found:?}");
    }

    #[test]
    fn the_table_goes_on_smoothly() {
        assert!((student(11) / 2.201 - 1.0).abs() < 1e-3, "{}", student(11));
        assert!((student(1000) - 1.962).abs() < 1e-3);
    }
}
