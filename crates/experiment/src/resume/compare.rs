//! Two run folders set side by side, bit for bit: every tensor of every checkpoint and of the result, the loop's
//! state, every logged line. What the clock decides is left out, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Kind, Tensor};
use etude_train::checkpoint::{Checkpoints, step_name};
use serde::Serialize;
use serde_json::Value;

/// Keys that the clock decides: of `metrics.jsonl`, of a checkpoint's state, of `summary.json`, of a certificate.
const CLOCK: [&str; 7] = [
    "seconds",
    "tokens_per_second",
    "mfu",
    "seconds_to_first_step",
    "peak_memory",
    "forecast",
    "date",
];
/// Of a checkpoint: hashes of the other files, which are compared themselves.
const MANIFEST: &str = "manifest.json";

/// How much was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Checkpoints that both runs kept.
    pub checkpoints: u64,
    /// Tensors of weights, in checkpoints and results.
    pub weights: u64,
    /// Tensors of the optimizer's state.
    pub optimizer_states: u64,
    /// Numbers in all of these.
    pub numbers: u64,
    /// Logged training losses.
    pub losses: u64,
    /// Logged validations and scores.
    pub evaluations: u64,
    /// Samples.
    pub samples: u64,
}

/// One thing that is not the same in both runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where: a file of the run folder, with the tensor or the step.
    pub place: String,
    /// What is there in the first run, and in the second.
    pub what: String,
}

/// Compares the finished run `other` with `one`.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn compare_runs(one: &Path, other: &Path) -> Result<(Compared, Vec<Difference>)> {
    let mut comparison = Comparison {
        one: one.to_owned(),
        other: other.to_owned(),
        compared: Compared::default(),
        found: Vec::new(),
    };
    comparison.checkpoints()?;
    for result in ["model", "adapter"] {
        comparison.folder(result)?;
    }
    comparison.lines("metrics.jsonl")?;
    comparison.lines("samples.jsonl")?;
    comparison.json("summary.json")?;
    Ok((comparison.compared, comparison.found))
}

struct Comparison {
    one: PathBuf,
    other: PathBuf,
    compared: Compared,
    found: Vec<Difference>,
}

impl Comparison {
    fn differs(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.found.push(Difference {
            place: place.into(),
            what: what.into(),
        });
    }

    fn checkpoints(&mut self) -> Result<()> {
        let steps = |run: &Path| -> Result<BTreeSet<u64>> {
            Ok(Checkpoints::new(run).steps()?.into_iter().collect())
        };
        let (one, other) = (steps(&self.one)?, steps(&self.other)?);
        for step in one.symmetric_difference(&other) {
            let what = if one.contains(step) {
                "is there in the first run alone"
            } else {
                "is there in the second run alone"
            };
            self.differs(format!("checkpoints/{}", step_name(*step)), what);
        }
        for &step in one.intersection(&other) {
            let name = format!("checkpoints/{}", step_name(step));
            self.folder(&name)?;
            self.folder(&format!("{name}/trainer"))?;
            self.compared.checkpoints += 1;
        }
        Ok(())
    }

    /// The files of a folder, those of folders in it left out.
    fn folder(&mut self, name: &str) -> Result<()> {
        let files = |run: &Path| -> BTreeSet<String> {
            let entries = fs::read_dir(run.join(name)).into_iter().flatten().flatten();
            entries
                .filter(|entry| entry.path().is_file() && entry.file_name() != MANIFEST)
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let (one, other) = (files(&self.one), files(&self.other));
        for file in one.union(&other) {
            let path = format!("{name}/{file}");
            if !one.contains(file) || !other.contains(file) {
                self.differs(path, "is there in one of the runs alone");
            } else if file.ends_with(".safetensors") {
                self.tensors(&path)?;
            } else if file.ends_with(".json") {
                self.json(&path)?;
            } else {
                let (left, right) = self.read(&path)?;
                if left != right {
                    self.differs(path, "has other contents");
                }
            }
        }
        Ok(())
    }

    fn read(&self, path: &str) -> Result<(Vec<u8>, Vec<u8>)> {
        let read = |run: &Path| {
            let path = run.join(path);
            fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))
        };
        Ok((read(&self.one)?, read(&self.other)?))
    }

    fn tensors(&mut self, path: &str) -> Result<()> {
        let (one, other) = (self.one.join(path), self.other.join(path));
        let (one, other) = (SafetensorsFile::open(&one)?, SafetensorsFile::open(&other)?);
        let shapes: BTreeMap<String, Vec<i64>> = one.shapes()?.into_iter().collect();
        let others: BTreeMap<String, Vec<i64>> = other.shapes()?.into_iter().collect();
        let names: BTreeSet<&String> = shapes.keys().chain(others.keys()).collect();
        for name in names {
            let place = format!("{path}: tensor {name}");
            if !shapes.contains_key(name) || !others.contains_key(name) {
                self.differs(place, "is there in one of the runs alone");
                continue;
            }
            let (left, right) = (one.tensor(name)?, other.tensor(name)?);
            if let Some(what) = tensor_difference(&left, &right) {
                self.differs(place, what);
            }
            self.compared.numbers += left.numel() as u64;
            if path.contains("/trainer/") {
                self.compared.optimizer_states += 1;
            } else {
                self.compared.weights += 1;
            }
        }
        Ok(())
    }

    /// A JSON object, key by key, without what the clock decides.
    fn json(&mut self, path: &str) -> Result<()> {
        let (one, other) = self.read(path)?;
        if one == other {
            return Ok(());
        }
        let parse = |bytes: &[u8]| {
            serde_json::from_slice::<Value>(bytes).with_context(|| format!("{path}: is not JSON"))
        };
        if let Some((key, what)) = value_difference("", &parse(&one)?, &parse(&other)?) {
            self.differs(format!("{path}:{key}"), what);
        }
        Ok(())
    }

    /// A log, line by line; the first line that differs tells enough.
    fn lines(&mut self, path: &str) -> Result<()> {
        let (one, other) = self.read(path)?;
        let parse = |bytes: &[u8]| -> Vec<Value> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| line.into());
            text.lines().map(line).collect()
        };
        let (one, other) = (parse(&one), parse(&other));
        for (left, right) in one.iter().zip(&other) {
            if let Some((key, what)) = value_difference("", left, right) {
                let kind = left["kind"].as_str().unwrap_or("sample");
                self.differs(
                    format!("{path}: {kind} of step {}:{key}", left["step"]),
                    what,
                );
                break;
            }
            match left["kind"].as_str() {
                Some("train") => self.compared.losses += 1,
                Some(_) => self.compared.evaluations += 1,
                None => self.compared.samples += 1,
            }
        }
        if one.len() != other.len() {
            let what = format!(
                "{} lines in the first run, {} in the second",
                one.len(),
                other.len()
            );
            self.differs(path, what);
        }
        Ok(())
    }
}

/// How two tensors differ, by their bits: equal numbers of different sign or kind are not the same.
fn tensor_difference(one: &Tensor, other: &Tensor) -> Option<String> {
    if (one.kind(), one.size()) != (other.kind(), other.size()) {
        let of = |tensor: &Tensor| format!("{:?} {:?}", tensor.kind(), tensor.size());
        return Some(format!(
            "is {} in the first run, {} in the second",
            of(one),
            of(other)
        ));
    }
    let (left, right) = (bytes(one), bytes(other));
    if left == right {
        return None;
    }
    let width = one.kind().elt_size_in_bytes();
    let pairs = left.chunks(width).zip(right.chunks(width));
    let differing = pairs.filter(|(left, right)| left != right).count();
    let apart = (one.to_kind(Kind::Double) - other.to_kind(Kind::Double)).abs();
    Some(format!(
        "{differing} of {} numbers differ, by {:.3e} at most",
        one.numel(),
        apart.max().double_value(&[]) // sync
    ))
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// The first place where two values differ, and the values there.
fn value_difference(place: &str, one: &Value, other: &Value) -> Option<(String, String)> {
    if one == other {
        return None;
    }
    match (one, other) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            keys.into_iter()
                .filter(|key| !CLOCK.contains(&key.as_str()))
                .find_map(|key| {
                    let none = Value::Null;
                    let (left, right) = (left.get(key), right.get(key));
                    let place = format!("{place} {key}");
                    value_difference(&place, left.unwrap_or(&none), right.unwrap_or(&none))
                })
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => left
            .iter()
            .zip(right)
            .enumerate()
            .find_map(|(index, (left, right))| {
                value_difference(&format!("{place} {index}"), left, right)
            }),
        _ => Some((
            place.to_owned(),
            format!("{one} in the first run, {other} in the second"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use etude_tensor::{Device, safetensors};
    use serde_json::json;

    use super::*;

    fn run(folder: &Path, weight: f64, loss: f64, seconds: f64) {
        let checkpoint = folder.join("checkpoints/step-00000002");
        fs::create_dir_all(checkpoint.join("trainer")).unwrap();
        let tensor = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        let changed = Tensor::from_slice(&[0f32, weight as f32, 0.0]);
        let weights = [("a".to_owned(), tensor), ("b".to_owned(), changed)];
        safetensors::write(&checkpoint.join("model.safetensors"), &weights, &[]).unwrap();
        fs::write(checkpoint.join("manifest.json"), format!("{seconds}")).unwrap();
        let json = |value: Value| value.to_string();
        let state = json(json!({"step": 2, "seconds": seconds}));
        fs::write(checkpoint.join("trainer/state.json"), state).unwrap();
        let line = |step: u64, loss: f64| {
            json(json!({"kind": "train", "step": step, "loss": loss, "seconds": seconds})) + "\n"
        };
        fs::write(folder.join("metrics.jsonl"), line(1, 5.0) + &line(2, loss)).unwrap();
        fs::write(folder.join("samples.jsonl"), "").unwrap();
        fs::write(
            folder.join("summary.json"),
            json(json!({"seconds": seconds})),
        )
        .unwrap();
    }

    #[test]
    fn the_clock_is_no_difference_and_everything_else_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| parent.path().join(name);
        run(&folder("one"), 1.0, 4.0, 10.0);
        run(&folder("same"), 1.0, 4.0, 20.0);
        let (compared, found) = compare_runs(&folder("one"), &folder("same")).unwrap();
        assert_eq!(found, []);
        let counts = (compared.checkpoints, compared.weights, compared.losses);
        assert_eq!(counts, (1, 2, 2));

        run(&folder("weight"), 1.0 + f64::from(f32::EPSILON), 4.0, 10.0);
        let (_, found) = compare_runs(&folder("one"), &folder("weight")).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0]
                .place
                .ends_with("step-00000002/model.safetensors: tensor b")
        );
        assert_eq!(found[0].what, "1 of 3 numbers differ, by 1.192e-7 at most");

        // A sign that no sum would show.
        run(&folder("one"), 0.0, 4.0, 10.0);
        run(&folder("sign"), -0.0, 4.0, 10.0);
        assert_eq!(
            compare_runs(&folder("one"), &folder("sign"))
                .unwrap()
                .1
                .len(),
            1
        );

        run(&folder("loss"), 0.0, 4.0 + 4.0 * f64::EPSILON, 10.0);
        let (_, found) = compare_runs(&folder("one"), &folder("loss")).unwrap();
        assert_eq!(found[0].place, "metrics.jsonl: train of step 2: loss");
        assert_eq!(
            found[0].what,
            "4.0 in the first run, 4.000000000000001 in the second"
        );
    }
}
