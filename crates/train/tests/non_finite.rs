//! A loss or gradient that is not finite: the step is left out, its batch kept for inspection, and the run
//! ends when that goes on.

mod support;

use std::fs;
use std::path::Path;

use etude_data::Batch;
use etude_model::{Decoder, Family};
use etude_tensor::{Precision, no_grad};
use etude_train::{Ended, OptimizerKind, Stage};
use serde_json::Value;
use support::{Counting, bits, context, decoder, metrics, run_with, settings};

/// A decoder that is broken for one token alone: the embedding of token 23 is not a number.
fn broken() -> Decoder {
    let decoder = decoder(Family::NanoChat, Precision::Float32);
    let mut row = decoder
        .params()
        .get("embedding.weight")
        .expect("there")
        .narrow(0, 23, 1);
    let _ = no_grad(|| row.fill_(f64::NAN));
    decoder
}

fn dumped(folder: &Path, step: u64) -> Value {
    let path = folder.join(format!("bad-steps/step-{step:08}.json"));
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn one_bad_step_is_left_out_and_survived() {
    for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let parent = tempfile::tempdir().expect("a folder");
        let decoder = broken();
        let stage = Counting {
            odd: 4..5,
            ..Counting::default()
        };
        let mut settings = settings(8, kind);
        settings.train.max_bad_steps = 2;
        let ended =
            run_with(&stage, &settings, &context(parent.path()), &decoder).expect("goes on");
        assert!(
            matches!(ended, Ended::Finished(summary) if summary.steps == 8 && summary.last.train_loss.is_some())
        );

        let lines: Vec<Value> = metrics(parent.path())
            .into_iter()
            .filter(|line| line["kind"] == "train")
            .collect();
        assert_eq!(lines.len(), 8);
        for line in &lines {
            let bad = line["step"] == 5;
            assert_eq!(line["skipped"], bad, "{line}");
            assert_eq!(
                line["loss"].is_null() && line["grad_norm"].is_null(),
                bad,
                "{line}"
            );
        }
        let dump = dumped(parent.path(), 5);
        let batch: Batch = serde_json::from_value(dump["batch"].clone()).expect("a batch");
        assert_eq!(
            batch,
            stage.batches()(4).expect("pure"),
            "the batch of that step, whole"
        );
        assert_eq!(
            (&dump["step"], &dump["loss"]),
            (&Value::from(5), &Value::from("NaN"))
        );
        assert_eq!(
            fs::read_dir(parent.path().join("bad-steps"))
                .expect("there")
                .count(),
            1
        );
        // Only the row that was broken is.
        for (name, values) in decoder.params().iter() {
            let sick = values
                .isnan()
                .sum(etude_tensor::Kind::Int64)
                .int64_value(&[]);
            assert_eq!(
                sick,
                if name == "embedding.weight" { 16 } else { 0 },
                "{name}"
            );
        }
    }
}

#[test]
fn bad_steps_in_a_row_end_the_run_with_nothing_applied() {
    let parent = tempfile::tempdir().expect("a folder");
    let decoder = broken();
    let before = bits(&decoder);
    let mut settings = settings(20, OptimizerKind::Adamw);
    settings.train.max_bad_steps = 3;
    let stage = Counting {
        odd: 0..20,
        ..Counting::default()
    };
    let error = run_with(&stage, &settings, &context(parent.path()), &decoder)
        .expect_err("ends")
        .to_string();
    assert!(
        error.contains("3 steps in a row") && error.contains("step 3"),
        "{error}"
    );
    assert!(
        error.contains("bad-steps/step-00000003.json") && error.contains("lower the learning rate"),
        "{error}"
    );
    assert_eq!(bits(&decoder), before, "nothing was applied");
    for step in 1..=3 {
        dumped(parent.path(), step);
    }
    assert_eq!(
        fs::read_dir(parent.path().join("bad-steps"))
            .expect("there")
            .count(),
        3
    );
    assert!(!parent.path().join("summary.json").exists() && !parent.path().join("model").exists());
}

#[test]
fn bad_steps_apart_from_each_other_are_counted_anew() {
    let parent = tempfile::tempdir().expect("a folder");
    let mut settings = settings(8, OptimizerKind::Adamw);
    settings.train.max_bad_steps = 3;
    let stage = Counting {
        odd: 3..5,
        ..Counting::default()
    };
    run_with(&stage, &settings, &context(parent.path()), &broken())
        .expect("two in a row are borne");
    let skipped = metrics(parent.path())
        .iter()
        .filter(|line| line["skipped"] == true)
        .count();
    assert_eq!(skipped, 2);
}

#[test]
fn the_count_of_bad_steps_goes_on_after_a_resumption() {
    let parent = tempfile::tempdir().expect("a folder");
    let mut settings = settings(8, OptimizerKind::Adamw);
    settings.train.max_bad_steps = 2;
    let stage = Counting {
        odd: 0..8,
        ..Counting::default()
    };
    let stopped = context(parent.path());
    stopped.interrupt.ask();
    assert_eq!(
        run_with(&stage, &settings, &stopped, &broken()).expect("stops"),
        Ended::Interrupted { step: 1 }
    );
    let error = run_with(&stage, &settings, &context(parent.path()), &broken())
        .expect_err("ends")
        .to_string();
    assert!(
        error.contains("2 steps in a row") && error.contains("step 2"),
        "{error}"
    );
}

#[test]
fn a_batch_without_targets_is_an_error_and_not_a_step() {
    let mut batch = support::counting_batch(0);
    batch.targets.fill(etude_data::IGNORE);
    let decoder = decoder(Family::Gpt2, Precision::Float32);
    let run = etude_train::step::StepSettings {
        rows: 2,
        precision: Precision::Float32,
        max_norm: None,
        seed: 1,
    };
    let error = etude_train::step::forward_backward(&decoder, &batch, &run)
        .expect_err("refused")
        .to_string();
    assert!(error.contains("no supervised token"), "{error}");
}
