//! What a run or a series of steps went through, how far two of them are apart, and how far they may be.

use std::fs;
use std::path::Path;

use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Kind, Precision, Tensor};
use serde_json::Value;

/// How far apart two trajectories of one recipe may be, relative to the numbers themselves.
///
/// A sum of n numbers taken in another order is off by a few roundings of its largest partial sum: about √n ε, n
/// being the places of a step (a hundred or two here), ε 1.1e-16 in float64 and 6.0e-8 in float32. The optimizers
/// make more of it: AdamW divides each gradient by its own size, so that an entry which is nearly zero, and of which
/// rounding is a large part, moves as far as any other; Muon raises small singular values a few hundredfold. From
/// then on the weights differ, and each step starts from there. The tolerances are some fifty times what was seen over
/// the tests of this target on x86-64 with AVX-512. Gradient norms are kept in float32 in any case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// Of each training and validation loss.
    pub(crate) loss: f64,
    /// Of each gradient norm.
    pub(crate) norm: f64,
    /// Of the final weights: the norm of their difference by their norm.
    pub(crate) weights: f64,
}

impl Tolerance {
    pub(crate) fn of(precision: Precision) -> Self {
        match precision {
            Precision::Float64 => Self {
                loss: 1e-13,
                norm: 4e-7,
                weights: 1e-13,
            },
            _ => Self {
                loss: 1e-5,
                norm: 1e-5,
                weights: 5e-5,
            },
        }
    }
}

/// A step as it was logged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    pub(crate) loss: f64,
    pub(crate) grad_norm: f64,
    /// The places that had a target.
    pub(crate) supervised: u64,
}

/// What was gone through.
#[derive(Debug)]
pub(crate) struct Trajectory {
    pub(crate) steps: Vec<Figures>,
    /// Of each validation.
    pub(crate) validation: Vec<f64>,
    /// The weights that training moved, at the end.
    pub(crate) weights: Vec<Tensor>,
}

impl Trajectory {
    /// Reads what a finished run left in its folder.
    pub(crate) fn of_run(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("a log");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON lines"))
            .collect();
        let of = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
        let number = |line: &Value, key: &str| line[key].as_f64().expect("finite");
        let mut seen = 0;
        let steps = of("train").map(|line| {
            let before = seen;
            seen = line["supervised"].as_u64().expect("a count");
            Figures {
                loss: number(line, "loss"),
                grad_norm: number(line, "grad_norm"),
                supervised: seen - before,
            }
        });
        Self {
            steps: steps.collect(),
            validation: of("eval").map(|line| number(line, "loss")).collect(),
            weights: weights(folder),
        }
    }

    /// Asserts that `other` went the same way but for rounding.
    pub(crate) fn assert_near(&self, other: &Self, tolerance: Tolerance, what: &str) {
        let [loss, norm, weights] = self.apart(other, what);
        assert!(
            loss <= tolerance.loss && norm <= tolerance.norm && weights <= tolerance.weights,
            "{what}: losses are {loss:.2e} apart, gradient norms {norm:.2e}, weights {weights:.2e}; {tolerance:?} are \
             allowed\n{:?}\n{:?}",
            self.steps,
            other.steps
        );
    }

    /// Asserts that `other` is further away than rounding can explain, a thousandfold.
    pub(crate) fn assert_far(&self, other: &Self, tolerance: Tolerance, what: &str) {
        let [loss, norm, weights] = self.apart(other, what);
        assert!(
            loss > 1e3 * tolerance.loss
                && norm > 1e3 * tolerance.norm
                && weights > 1e3 * tolerance.weights,
            "{what} would hardly be seen: {loss:.2e} {norm:.2e} {weights:.2e}, {tolerance:?} being allowed"
        );
    }

    /// The largest relative distances of a loss, of a gradient norm, and of the weights.
    fn apart(&self, other: &Self, what: &str) -> [f64; 3] {
        assert_eq!(self.steps.len(), other.steps.len(), "{what}: steps");
        assert_eq!(
            self.validation.len(),
            other.validation.len(),
            "{what}: validations"
        );
        let worst = |pairs: &mut dyn Iterator<Item = (f64, f64)>| {
            pairs
                .map(|(one, other)| (one - other).abs() / one.abs())
                .fold(0.0, f64::max)
        };
        let steps = || self.steps.iter().zip(&other.steps);
        let validation = self.validation.iter().zip(&other.validation);
        let mut losses = steps()
            .map(|(one, other)| (one.loss, other.loss))
            .chain(validation.map(|(&one, &other)| (one, other)));
        let mut norms = steps().map(|(one, other)| (one.grad_norm, other.grad_norm));
        let squares = |tensor: &Tensor| {
            let wide = tensor.to_kind(Kind::Double);
            (&wide * &wide).sum(Kind::Double).double_value(&[])
        };
        assert_eq!(self.weights.len(), other.weights.len(), "{what}: weights");
        let pairs = self.weights.iter().zip(&other.weights);
        let apart: f64 = pairs.map(|(one, other)| squares(&(one - other))).sum();
        let size: f64 = self.weights.iter().map(squares).sum();
        [worst(&mut losses), worst(&mut norms), (apart / size).sqrt()]
    }
}

/// The weights of a run's result: of its adapter, where only that was trained.
fn weights(folder: &Path) -> Vec<Tensor> {
    let adapter = folder.join("adapter/adapter_model.safetensors");
    let whole = folder.join("model/model.safetensors");
    let path = if adapter.is_file() { adapter } else { whole };
    let file = SafetensorsFile::open(&path).expect("the result");
    let mut names: Vec<String> = file
        .shapes()
        .expect("names")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.sort();
    let read = |name: &String| file.tensor(name).expect("a tensor");
    names.iter().map(read).collect()
}
