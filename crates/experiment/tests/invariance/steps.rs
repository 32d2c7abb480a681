//! Training steps on the batches that the data crate makes, over families, optimizers and precisions: what goes
//! through the model together, and how it lies in rows, changes nothing but rounding; what a step reads does.

use std::path::PathBuf;
use std::time::Duration;

use etude_data::{
    Batch, Boundaries, FinetuneBatches, FinetuneSettings, IGNORE, Loader, LoaderSettings,
    RenderedExample, Rows, ShardWriter, SourceRef, TokenStream, WindowSettings, Windows, collate,
};
use etude_model::lora::{Frozen, LoraConfig, Targets, attach};
use etude_model::{Decoder, Family, ModelConfig, Sizes};
use etude_tensor::{Device, Precision, device, step_seed, with_seed};
use etude_train::step::{StepSettings, train_step};
use etude_train::{Optimizer, OptimizerKind, OptimizerSettings};

use crate::alone;
use crate::trajectory::{Figures, Tolerance, Trajectory};

const VOCABULARY: i64 = 40;
const CONTEXT: usize = 32;

/// A decoder and how it is trained.
#[derive(Debug, Clone, Copy)]
struct Subject {
    family: Family,
    optimizer: OptimizerKind,
    precision: Precision,
    /// An adapter with dropout in place of all weights.
    lora: bool,
    width: i64,
    steps: u64,
}

impl Subject {
    /// Every family with both optimizers and with an adapter, in float64, and one of them in float32.
    fn all() -> Vec<Self> {
        let families = [
            Family::NanoChat,
            Family::Llama,
            Family::Gpt2,
            Family::Mistral,
        ];
        let mut all: Vec<Self> = families.into_iter().flat_map(Self::of).collect();
        all.extend(Self::of(Family::Llama).map(|subject| Self {
            precision: Precision::Float32,
            ..subject
        }));
        all
    }

    fn of(family: Family) -> [Self; 3] {
        let subject = |optimizer, lora| Self {
            family,
            optimizer,
            precision: Precision::Float64,
            lora,
            width: 16,
            steps: 6,
        };
        [
            subject(OptimizerKind::Adamw, false),
            subject(OptimizerKind::Muon, false),
            subject(OptimizerKind::Adamw, true),
        ]
    }

    fn tolerance(self) -> Tolerance {
        Tolerance::of(self.precision)
    }

    fn decoder(self) -> Decoder {
        let sizes = Sizes {
            vocab_size: VOCABULARY,
            n_layer: 2,
            n_head: 4,
            n_kv_head: if self.family == Family::Gpt2 { 4 } else { 2 },
            n_embd: self.width,
            n_inner: 2 * self.width,
            context: CONTEXT as i64,
            tied: false,
        };
        let mut config = ModelConfig::new(self.family, sizes);
        if self.family == Family::Mistral {
            config.sliding_window = Some(6); // shorter than the longest examples
        }
        with_seed(11, || {
            let kind = self.precision.kind();
            let mut decoder = Decoder::new(config, kind, Device::Cpu).expect("possible");
            if self.lora {
                let adapter = LoraConfig {
                    rank: 2,
                    alpha: 4.0,
                    rslora: false,
                    dora: false,
                    dropout: 0.25,
                    targets: Targets::AllLinear,
                    modules_to_save: Vec::new(),
                };
                let frozen = Frozen {
                    base: PathBuf::new(),
                    kind: None,
                };
                attach(&mut decoder, adapter, frozen).expect("possible");
            }
            decoder
        })
    }

    /// Trains on what `make` makes of each step, `rows` at a time.
    fn train(self, rows: usize, mut make: impl FnMut(u64) -> Batch) -> Trajectory {
        let decoder = self.decoder();
        let settings = OptimizerSettings {
            kind: self.optimizer,
            lr: 3e-3,
            weight_decay: 0.01,
            ..OptimizerSettings::default()
        };
        let run = StepSettings {
            rows,
            precision: self.precision,
            max_norm: Some(settings.clip),
            seed: 1,
        };
        let mut optimizer = Optimizer::new(&decoder, &settings);
        let step = |step| {
            let batch = make(step);
            batch
                .validate(VOCABULARY as usize, CONTEXT)
                .expect("a possible batch");
            let done =
                train_step(&decoder, &mut optimizer, &batch, step, 1.0, &run).expect("steps");
            Figures {
                loss: done.loss.double_value(&[]),
                grad_norm: done.grad_norm.double_value(&[]),
                supervised: done.supervised as u64,
            }
        };
        Trajectory {
            steps: (0..self.steps).map(step).collect(),
            validation: Vec::new(),
            weights: decoder
                .trainable()
                .map(|param| param.tensor.detach().copy())
                .collect(),
        }
    }
}

/// An example of 3 to 13 tokens, of which the answer is supervised.
fn example(number: u32) -> RenderedExample {
    let length = 3 + (number * 7) % 11;
    RenderedExample {
        id: number.to_string(),
        ids: (0..length).map(|i| (number * 5 + i * i) % 40).collect(),
        supervised: (0..length).map(|i| i > length / 3).collect(),
        source: SourceRef {
            file: "made".into(),
            line: u64::from(number),
        },
        truncated: false,
        target_bytes: 0,
    }
}

fn finetuning(layout: Rows) -> FinetuneBatches {
    let settings = FinetuneSettings {
        rows: 6,
        layout,
        seed: 1,
        pad: 0,
    };
    FinetuneBatches::new((0..32).map(example).collect(), settings).expect("batches")
}

/// Windows over documents of 2 to 12 tokens, kept apart.
fn pretraining() -> Windows {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("made.tokens");
    let mut writer =
        ShardWriter::create(&path, &"0".repeat(64), VOCABULARY as usize).expect("a shard");
    for number in 0..200u32 {
        let length = 1 + number * 7 % 11;
        let mut ids: Vec<u32> = (0..length).map(|i| 1 + (number * 3 + i * i) % 39).collect();
        ids.push(0);
        writer.push(&ids, u64::from(length)).expect("room");
    }
    let stream = TokenStream::new(vec![writer.finish().expect("a shard")]).expect("a stream");
    let settings = WindowSettings {
        context: 24,
        rows: 6,
        seed: 1,
        boundaries: Boundaries::Kept,
    };
    Windows::new(stream, settings).expect("windows")
}

/// Each document of a batch in a row of its own, with nothing to keep it apart from.
fn one_document_a_row(batch: &Batch) -> Batch {
    let documents = batch.doc_ids.as_ref().expect("documents kept apart");
    let mut apart = Batch {
        rows: 0,
        cols: batch.cols,
        input_ids: Vec::new(),
        targets: Vec::new(),
        position_ids: Vec::new(),
        doc_ids: None,
    };
    for row in 0..batch.rows {
        let mut start = row * batch.cols;
        for document in documents[start..start + batch.cols].chunk_by(|one, next| one == next) {
            let here = start..start + document.len();
            start = here.end;
            if document[0] < 0 {
                continue; // padding
            }
            apart.rows += 1;
            let size = apart.rows * batch.cols;
            apart.input_ids.extend(&batch.input_ids[here.clone()]);
            apart.targets.extend(&batch.targets[here.clone()]);
            apart.position_ids.extend(0..document.len() as i64);
            apart.input_ids.resize(size, 0);
            apart.targets.resize(size, IGNORE);
            apart.position_ids.resize(size, 0);
        }
    }
    apart
}

/// A batch whose rows differ in what they ask for: row 1 asks for nothing, row 2 for little.
fn uneven(mut batch: Batch) -> Batch {
    let cols = batch.cols;
    batch.targets[cols..2 * cols].fill(IGNORE);
    batch.targets[2 * cols + 3..3 * cols].fill(IGNORE);
    batch
}

#[test]
fn micro_batches_change_nothing_but_rounding() {
    let _alone = alone();
    let (padded, kept) = (finetuning(Rows::Padded), pretraining());
    for subject in Subject::all() {
        let examples = |step| uneven(padded.finetune_batch(step));
        let windows = |step| uneven(kept.pretrain_batch(step));
        for (what, make) in [
            ("examples", &examples as &dyn Fn(u64) -> Batch),
            ("windows", &windows),
        ] {
            let whole = subject.train(6, make);
            for rows in [1, 4] {
                let what = format!("{subject:?}, {what}, {rows} rows at a time");
                whole.assert_near(&subject.train(rows, make), subject.tolerance(), &what);
            }
        }
    }
}

/// Loader threads that are never equally fast, so that the batches are ready in any order.
#[test]
fn uneven_loader_threads_change_not_a_bit() {
    let _alone = alone();
    let subject = Subject::of(Family::Llama)[0];
    let through = |threads| {
        let batches = finetuning(Rows::Grouped);
        let settings = LoaderSettings { threads, ahead: 6 };
        let mut loader = Loader::new(0, settings, move |step| {
            std::thread::sleep(Duration::from_micros(step_seed(3, step) % 5_000));
            Ok(batches.finetune_batch(step))
        })
        .expect("threads");
        subject.train(6, |_| loader.next().expect("a batch"))
    };
    let one = through(1);
    for threads in [2, 4] {
        let many = through(threads);
        assert_eq!(one.steps, many.steps, "{threads} threads");
        assert_eq!(one.weights, many.weights, "{threads} threads");
    }
}

/// What dropout leaves out follows from the step: another one each time, and the same when a step is made again.
#[test]
fn every_step_drops_otherwise() {
    let _alone = alone();
    let subject = Subject::of(Family::Llama)[2];
    let decoder = subject.decoder();
    let mut optimizer = Optimizer::new(&decoder, &OptimizerSettings::default());
    let batch = finetuning(Rows::Padded).finetune_batch(0);
    let settings = StepSettings {
        rows: 6,
        precision: subject.precision,
        max_norm: None,
        seed: 1,
    };
    // A learning rate of nothing: the steps differ in their draws alone.
    let norms = [0, 1, 2, 1].map(|step| {
        let done = train_step(&decoder, &mut optimizer, &batch, step, 0.0, &settings);
        done.expect("a step").grad_norm.double_value(&[])
    });
    assert_eq!(norms[1], norms[3]);
    assert!(norms[0] != norms[1] && norms[1] != norms[2], "{norms:?}");
}

#[test]
fn every_layout_teaches_what_an_example_at_a_time_does() {
    let _alone = alone();
    for layout in [Rows::Padded, Rows::Grouped, Rows::Packed(CONTEXT)] {
        let batches = finetuning(layout);
        for subject in Subject::all() {
            let together = subject.train(6, |step| batches.finetune_batch(step));
            // Rows of one are cut to their own length.
            let alone = subject.train(1, |step| collate(&batches.finetune_rows(step).concat(), 7));
            let what = format!("{subject:?}, {layout:?}");
            together.assert_near(&alone, subject.tolerance(), &what);
        }
    }
}

#[test]
fn documents_kept_apart_teach_what_a_document_at_a_time_does() {
    let _alone = alone();
    let windows = pretraining();
    for subject in Subject::all() {
        let together = subject.train(6, |step| windows.pretrain_batch(step));
        let alone = subject.train(1, |step| one_document_a_row(&windows.pretrain_batch(step)));
        together.assert_near(&alone, subject.tolerance(), &format!("{subject:?}"));
    }
}

/// Wide enough that every thread has a share of a product and of a sum.
#[test]
fn compute_threads_change_nothing_but_rounding() {
    let _alone = alone();
    let padded = finetuning(Rows::Padded);
    // OpenMP's threads sleep when they wait where there are more of them than cores, and spin where there are not:
    // on a busy machine that takes a hundred times as long.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    for subject in Subject::of(Family::Llama) {
        let wide = Subject {
            precision: Precision::Float32,
            width: 128,
            steps: 3,
            ..subject
        };
        let on = |threads| {
            device::set_threads(threads);
            assert_eq!(device::threads(), threads);
            let trajectory = wide.train(6, |step| padded.finetune_batch(step));
            device::set_threads(1);
            trajectory
        };
        let one = on(1);
        for threads in [cores + 1, cores + 2] {
            let what = format!("{wide:?}, {threads} threads");
            one.assert_near(&on(threads), wide.tolerance(), &what);
        }
    }
}

/// What the tolerances are worth: the slightest mistakes lie far outside of them.
#[test]
fn mistakes_in_what_a_step_reads_are_not_taken_for_rounding() {
    let _alone = alone();
    let (padded, packed) = (finetuning(Rows::Padded), finetuning(Rows::Packed(CONTEXT)));
    for subject in Subject::all() {
        if subject.precision != Precision::Float64 {
            continue;
        }
        let right = subject.train(6, |step| padded.finetune_batch(step));
        let right_packed = subject.train(6, |step| packed.finetune_batch(step));
        let far = |right: &Trajectory, what: &str, wrong: Trajectory| {
            right.assert_far(&wrong, subject.tolerance(), &format!("{subject:?}, {what}"));
        };
        let late = subject.train(6, |step| padded.finetune_batch(step + 1));
        far(&right, "the batch of the next step", late);
        let target = subject.train(6, |step| {
            let mut batch = padded.finetune_batch(step);
            let first = batch.targets.iter_mut().find(|target| **target != IGNORE);
            *first.expect("something is supervised") = IGNORE;
            batch
        });
        far(&right, "a target missing", target);
        let crossing = subject.train(6, |step| {
            let mut batch = packed.finetune_batch(step);
            let one = |document: i32| document.min(0);
            batch.doc_ids = batch.doc_ids.map(|ids| ids.into_iter().map(one).collect());
            batch
        });
        far(&right_packed, "examples that see each other", crossing);
        if subject.family == Family::Gpt2 {
            // Where positions are relative, a document that starts anywhere is the same document.
            let running_on = subject.train(6, |step| {
                let mut batch = packed.finetune_batch(step);
                for (place, position) in batch.position_ids.iter_mut().enumerate() {
                    *position = (place % batch.cols) as i64;
                }
                batch
            });
            far(&right_packed, "positions that run on", running_on);
        }
    }
}
