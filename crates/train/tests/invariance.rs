//! What must not change a training run: how many rows go through the model at a time, how many threads
//! make batches, and whether examples are padded or packed.

mod support;

use std::path::PathBuf;

use etude_data::{Batch, RenderedExample, SourceRef, collate, collate_packed};
use etude_model::Family;
use etude_tensor::{Precision, step_seed};
use etude_train::step::{StepSettings, train_step};
use etude_train::{Optimizer, OptimizerKind};
use support::{CONTEXT, Counting, counting_batch, decoder, run, settings};

const STEPS: u64 = 20;

/// The losses of some steps on what `make` makes.
fn trajectory(
    family: Family,
    precision: Precision,
    kind: OptimizerKind,
    rows: usize,
    make: impl Fn(u64) -> Batch,
) -> Vec<f64> {
    let decoder = decoder(family, precision);
    let optimizer = settings(STEPS, kind).optimizer;
    let run = StepSettings {
        rows,
        precision,
        max_norm: Some(optimizer.clip),
        seed: 1,
    };
    let mut optimizer = Optimizer::new(&decoder, &optimizer);
    (0..STEPS)
        .map(|step| {
            let batch = make(step);
            batch
                .validate(support::VOCABULARY, CONTEXT)
                .expect("a possible batch");
            train_step(&decoder, &mut optimizer, &batch, step, 1.0, &run)
                .expect("steps")
                .loss
                .double_value(&[])
        })
        .collect()
}

fn assert_close(expected: &[f64], found: &[f64], tolerance: f64, what: &str) {
    assert_eq!(expected.len(), found.len());
    for (step, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert!(
            (expected - found).abs() <= tolerance,
            "{what}: step {step} has loss {found}, not {expected}"
        );
    }
}

fn cases() -> impl Iterator<Item = (Family, Precision, OptimizerKind, f64)> {
    let kinds = [OptimizerKind::Adamw, OptimizerKind::Muon];
    let precisions = [(Precision::Float32, 1e-4), (Precision::Float64, 1e-9)];
    [Family::NanoChat, Family::Gpt2]
        .into_iter()
        .flat_map(move |family| {
            kinds.into_iter().flat_map(move |kind| {
                precisions.map(|(precision, close)| (family, precision, kind, close))
            })
        })
}

#[test]
fn rows_at_a_time_do_not_change_the_losses() {
    for (family, precision, kind, close) in cases() {
        let whole = trajectory(family, precision, kind, 8, counting_batch);
        assert!(
            whole[STEPS as usize - 1] < whole[0] - 0.05,
            "{family:?}, {kind:?} learns: {whole:?}"
        );
        for rows in [1, 2, 3, 4] {
            let parts = trajectory(family, precision, kind, rows, counting_batch);
            assert_close(
                &whole,
                &parts,
                close,
                &format!("{family:?}, {precision:?}, {kind:?}, {rows} rows"),
            );
        }
    }
}

/// Examples of uneven lengths, of which only the answers are supervised.
fn examples(step: u64) -> Vec<RenderedExample> {
    let example = |number: u64| {
        let random = step_seed(number, step) as usize;
        let (prompt, answer) = (1 + random % 4, 1 + (random >> 8) % 4);
        RenderedExample {
            id: number.to_string(),
            ids: (0..prompt + answer)
                .map(|place| ((random >> 16) + place * 3) as u32 % 20)
                .collect(),
            supervised: (0..prompt + answer).map(|place| place >= prompt).collect(),
            source: SourceRef {
                file: PathBuf::new(),
                line: number,
            },
            truncated: false,
            target_bytes: 0,
        }
    };
    (0..6).map(example).collect()
}

#[test]
fn packed_examples_teach_what_padded_ones_do() {
    let padded = |step| collate(&examples(step).iter().collect::<Vec<_>>(), 21);
    let packed = |step| {
        let examples = examples(step);
        let rows: Vec<Vec<&RenderedExample>> = examples
            .chunks(2)
            .map(|pair| pair.iter().collect())
            .collect();
        collate_packed(&rows, CONTEXT, 22)
    };
    for (family, precision, kind, close) in cases() {
        let expected = trajectory(family, precision, kind, 6, padded);
        for rows in [1, 3] {
            let found = trajectory(family, precision, kind, rows, packed);
            assert_close(
                &expected,
                &found,
                close,
                &format!("{family:?}, {precision:?}, {kind:?}, {rows} packed rows"),
            );
        }
    }
}

#[test]
fn loader_threads_change_nothing_at_all() {
    let parent = tempfile::tempdir().expect("a folder");
    let folders = [1, 4].map(|threads| {
        let folder = parent.path().join(threads.to_string());
        let mut settings = settings(STEPS, OptimizerKind::Adamw);
        settings.train.loader_threads = threads;
        run(&Counting::default(), &settings, &folder).expect("runs");
        folder
    });
    support::assert_same_runs(&folders[0], &folders[1], "step-00000020");
}
