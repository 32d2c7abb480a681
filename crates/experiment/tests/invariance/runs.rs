//! Whole runs of both stages, compared by what they leave in their folders.

use etude_experiment::compare_runs;
use etude_finetune::{Recipe, batches, prepare};
use etude_tensor::Precision;
use etude_tokenizer::Tokenizer;

use crate::alone;
use crate::place::{Job, Place, STEPS};
use crate::trajectory::Tolerance;

/// Asserts that two runs left the same checkpoints, optimizer states, logs, samples and results, bit for bit.
fn assert_same(place: &Place, one: &str, other: &str) {
    let (compared, different) =
        compare_runs(&place.path(one), &place.path(other)).expect("both are there");
    assert!(different.is_empty(), "{one}, {other}: {different:?}");
    assert_eq!(compared.losses, STEPS, "{one}, {other}");
    assert!(
        compared.weights > 0 && compared.optimizer_states > 0 && compared.samples > 0,
        "{compared:?}"
    );
}

#[test]
fn loader_threads_change_not_a_bit() {
    let _alone = alone();
    let place = Place::new();
    for job in Job::ALL {
        let name = |threads: &str| format!("{job:?}-{threads}");
        for threads in ["1", "2", "4"] {
            let setting = format!("train.loader_threads={threads}");
            place.run(job, &name(threads), &[&setting]).expect("runs");
        }
        assert_same(&place, &name("1"), &name("2"));
        assert_same(&place, &name("1"), &name("4"));
    }
}

#[test]
fn resumption_points_change_not_a_bit() {
    let _alone = alone();
    let place = Place::new();
    for job in Job::ALL {
        let (whole, pieces) = (format!("{job:?}"), format!("{job:?}-pieces"));
        place.run(job, &whole, &[]).expect("runs");
        for _ in 1..STEPS {
            place.one_step(job, &pieces, &[]);
        }
        place.run(job, &pieces, &[]).expect("ends");
        // A run that was stopped has a checkpoint more to keep: that of its last stop.
        let stopped = place.path(&format!("{pieces}/checkpoints/step-{:08}", STEPS - 1));
        std::fs::remove_dir_all(stopped).expect("there");
        assert_same(&place, &whole, &pieces);
    }
}

#[test]
fn looking_at_a_run_changes_not_a_bit() {
    let _alone = alone();
    let place = Place::new();
    for job in Job::ALL {
        let (blind, seen) = (format!("{job:?}"), format!("{job:?}-seen"));
        let never = ["train.eval_every=0", "train.sample_every=0"];
        let blind = place.trajectory(job, &blind, &never);
        let always = [
            "train.eval_every=1",
            "train.sample_every=1",
            "train.checkpoint_every=1",
            "train.keep=1",
            "train.tensorboard=true",
        ];
        let seen = place.trajectory(job, &seen, &always);
        assert_eq!(blind.steps, seen.steps, "{job:?}");
        assert_eq!(blind.validation.last(), seen.validation.last(), "{job:?}");
        assert_eq!(blind.weights, seen.weights, "{job:?}");
    }
}

#[test]
fn micro_batches_change_nothing_but_rounding() {
    let _alone = alone();
    let place = Place::new();
    for job in Job::ALL {
        for (precision, name) in [
            (Precision::Float64, "train.precision=float64"),
            (Precision::Float32, "train.precision=float32"),
        ] {
            let run = |rows: &str| {
                let folder = format!("{job:?}-{precision:?}-{rows}");
                let rows = format!("train.micro_rows={rows}");
                place.trajectory(job, &folder, &[name, &rows])
            };
            let whole = run("0");
            for rows in ["1", "4"] {
                let what = format!("{job:?}, {precision:?}, {rows} rows at a time");
                whole.assert_near(&run(rows), Tolerance::of(precision), &what);
            }
        }
    }
}

/// The rows that an epoch of a fine-tuning job has, in a layout.
fn rows_of_an_epoch(place: &Place, job: Job, layout: &str) -> u64 {
    let recipe: Recipe = place
        .recipe(job)
        .parse(&[layout.to_owned()])
        .expect("parses");
    let tokenizer = Tokenizer::load(&place.path("base/model")).expect("loads");
    let context = place.context("unused");
    let task = prepare(&recipe.task, 64, &tokenizer, &context).expect("examples");
    let batches = batches(&recipe, &task, &tokenizer, 64).expect("batches");
    batches.rows_per_epoch()
}

/// Where a step is an epoch, every layout gives it the same examples.
#[test]
fn padding_and_packing_change_nothing_but_rounding() {
    let _alone = alone();
    let place = Place::new();
    for job in [Job::Full, Job::Lora] {
        let run = |layout: &str, more: &str| {
            let layout = format!("task.layout={layout}");
            let rows = format!(
                "train.batch_rows={}",
                rows_of_an_epoch(&place, job, &layout)
            );
            let folder = format!("{job:?}-{layout}-{more}");
            (
                rows.clone(),
                place.trajectory(job, &folder, &[&layout, &rows, more]),
            )
        };
        let (examples, padded) = run("padded", "train.micro_rows=0");
        let (rows, packed) = run("packed", "train.micro_rows=0");
        assert_ne!(examples, rows, "some rows hold several");
        let (_, alone) = run("padded", "train.micro_rows=1");
        let (_, by_three) = run("packed", "train.micro_rows=3");
        let tolerance = Tolerance::of(Precision::Float64);
        for (what, other) in [
            ("packed", packed),
            ("an example at a time", alone),
            ("packed, three rows at a time", by_three),
        ] {
            padded.assert_near(&other, tolerance, &format!("{job:?}, {what}"));
        }
    }
}

/// What the run folder lets a user change at a resumption, changed at each.
#[test]
fn a_run_in_ever_other_pieces_ends_in_the_same_place() {
    let _alone = alone();
    let place = Place::new();
    for job in Job::ALL {
        let whole = place.trajectory(job, &format!("{job:?}"), &[]);
        let pieces = format!("{job:?}-pieces");
        let settings = |step: u64| {
            let (micro, threads, loader) = (step % 4, 1 + 2 * (step % 2), 1 + step % 3);
            [
                format!("train.micro_rows={micro}"),
                format!("train.threads={threads}"),
                format!("train.loader_threads={loader}"),
            ]
        };
        for step in 1..STEPS {
            let [a, b, c] = &settings(step);
            place.one_step(job, &pieces, &[a, b, c]);
        }
        let [a, b, c] = &settings(STEPS);
        let pieces = place.trajectory(job, &pieces, &[a, b, c]);
        let tolerance = Tolerance::of(Precision::Float64);
        whole.assert_near(&pieces, tolerance, &format!("{job:?} in pieces"));
    }
}
