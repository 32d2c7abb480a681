//! A step that is replayed is the step that was made, to the last bit; without an example it is the step of the
//! others; and what was changed since is noticed.

mod support;

use std::fs;
use std::path::Path;

use etude_data::{Batch, IGNORE};
use etude_model::{Decoder, Family};
use etude_tensor::{Precision, Tensor, no_grad};
use etude_train::step::{StepSettings, train_step};
use etude_train::{
    Optimizer, OptimizerKind, Ready, Replay, ReplayRequest, TrainerSettings, learning_rate_scale,
    replay,
};
use support::{Counting, context, counting_batch, decoder, run_with, settings};

/// Nine steps of three micro-batches each, with checkpoints after the fourth, eighth and ninth.
fn accumulating(kind: OptimizerKind) -> TrainerSettings {
    let mut settings = settings(9, kind);
    settings.train.micro_rows = 3;
    settings.train.checkpoint_every = 4;
    settings.train.keep = 3;
    settings
}

fn fresh() -> Decoder {
    decoder(Family::NanoChat, Precision::Float32)
}

fn make_run(stage: &Counting, settings: &TrainerSettings, folder: &Path, decoder: &Decoder) {
    run_with(stage, settings, &context(folder), decoder).expect("runs");
}

fn replayed(
    stage: Counting,
    settings: &TrainerSettings,
    decoder: Decoder,
    request: (&Path, u64, &[usize]),
) -> anyhow::Result<Replay> {
    let ready = Ready {
        stage: Box::new(stage),
        decoder,
        settings: settings.clone(),
        data: serde_json::json!({"sources": []}),
    };
    let (run, step, without) = request;
    replay(
        ready,
        &ReplayRequest {
            run: run.to_owned(),
            step,
            without: without.to_vec(),
            examples: Vec::new(),
            progress: false,
        },
    )
}

/// A step of a run of the plain stage.
fn plain(settings: &TrainerSettings, run: &Path, step: u64) -> Replay {
    let request = (run, step, &[][..]);
    replayed(Counting::default(), settings, fresh(), request).expect("replays")
}

#[track_caller]
fn refused(settings: &TrainerSettings, request: (&Path, u64, &[usize]), expected: &[&str]) {
    let error = replayed(Counting::default(), settings, fresh(), request).expect_err("refused");
    let error = format!("{error:#}");
    for text in expected {
        assert!(error.contains(text), "no `{text}` in: {error}");
    }
}

#[test]
fn every_step_comes_out_to_the_last_bit() {
    for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let parent = tempfile::tempdir().expect("a folder");
        let settings = accumulating(kind);
        make_run(&Counting::default(), &settings, parent.path(), &fresh());
        for (step, from) in [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8)] {
            let found = plain(&settings, parent.path(), step);
            assert_eq!((found.reproduced, found.from), (Some(true), from), "{step}");
            assert_eq!(found.passed.len() as u64, step - 1 - from);
            let saved = [4, 8, 9].contains(&step);
            assert_eq!(found.same_weights, saved.then_some(true), "{step}");
            assert_eq!(found.same_optimizer, saved.then_some(true), "{step}");
            assert!(found.data_checked && found.torn.is_empty());
        }
        // Checkpoints that were pruned are made up for by more steps.
        for step in [4, 8] {
            let gone = format!("checkpoints/step-{step:08}");
            fs::remove_dir_all(parent.path().join(gone)).expect("there");
        }
        let found = plain(&settings, parent.path(), 9);
        assert_eq!((found.reproduced, found.from), (Some(true), 0));
        assert_eq!(found.passed.len(), 8);
    }
}

#[test]
fn losses_and_gradients_are_told_in_parts_that_add_up() {
    let parent = tempfile::tempdir().expect("a folder");
    let settings = accumulating(OptimizerKind::Adamw);
    make_run(&Counting::default(), &settings, parent.path(), &fresh());
    let found = plain(&settings, parent.path(), 6);
    let outcome = &found.outcome;
    assert_eq!(found.examples.len(), 8, "a row is an example");
    assert_eq!(outcome.supervised, counting_batch(5).supervised());

    let all: Vec<f64> = found.examples.iter().flat_map(|e| e.nats()).collect();
    assert_eq!(all.len(), outcome.supervised);
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert!((mean - outcome.loss).abs() < 1e-6 * mean);
    for example in &found.examples {
        let nats: f64 = example.nats().sum();
        if example.supervised == 0 {
            assert!(example.loss.is_nan() && example.grad_norm == 0.0);
            continue;
        }
        assert!((nats / example.supervised as f64 - example.loss).abs() < 1e-9);
        let rest = (all.iter().sum::<f64>() - nats) / (all.len() - example.supervised) as f64;
        assert!((rest - example.loss_without.expect("others are left")).abs() < 1e-9);
        let token = example.tokens.iter().find(|t| t.supervised).expect("one");
        let probability = token.probability.expect("supervised");
        assert!((probability - (-token.nats.expect("supervised")).exp()).abs() < 1e-12);
    }
    // A gradient is at most as long as its parts together.
    let parts: f64 = found.examples.iter().map(|e| e.grad_norm).sum();
    assert!(parts >= outcome.grad_norm * (1.0 - 1e-6));
    for groups in [&outcome.layers, &outcome.kinds] {
        let whole: f64 = groups.iter().map(|group| group.grad_norm.powi(2)).sum();
        assert!((whole.sqrt() / outcome.grad_norm - 1.0).abs() < 1e-5);
        assert!(groups.iter().all(|group| group.update > 0.0));
    }
    let names: Vec<&str> = outcome.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names[0], "embedding");
    assert!(names.contains(&"layer 1"), "{names:?}");
}

/// A batch without one of its rows, taken apart by hand.
fn without_row(batch: &Batch, row: usize) -> Batch {
    let (cols, gone) = (batch.cols, row * batch.cols..(row + 1) * batch.cols);
    let left = |values: &[i64]| [&values[..gone.start], &values[gone.end..]].concat();
    Batch {
        rows: batch.rows - 1,
        cols,
        input_ids: left(&batch.input_ids),
        targets: left(&batch.targets),
        position_ids: left(&batch.position_ids),
        doc_ids: None,
    }
}

#[test]
fn a_step_without_an_example_is_the_step_of_the_others() {
    for kind in [OptimizerKind::Adamw, OptimizerKind::Muon] {
        let parent = tempfile::tempdir().expect("a folder");
        let settings = accumulating(kind);
        make_run(&Counting::default(), &settings, parent.path(), &fresh());
        let (run, stage) = (parent.path(), Counting::default());
        let found = replayed(stage, &settings, fresh(), (run, 8, &[3, 3])).expect("replays");
        assert_eq!(
            (found.reproduced, found.same_weights),
            (Some(true), Some(true)),
            "the step as it was is made after it, from the same weights"
        );
        let told = found.without.expect("asked for");
        assert_eq!(told.examples, [3], "named twice, left out once");

        // The same from the beginning, with the plain step.
        let (decoder, step_settings) = (
            fresh(),
            StepSettings {
                rows: 3,
                precision: Precision::Float32,
                max_norm: Some(settings.optimizer.clip),
                seed: settings.train.seed,
            },
        );
        let mut optimizer = Optimizer::new(&decoder, &settings.optimizer);
        let mut make = |batch: &Batch, step: u64| {
            let scale = learning_rate_scale(step, settings.train.steps, &settings.schedule);
            let made = train_step(&decoder, &mut optimizer, batch, step, scale, &step_settings);
            let made = made.expect("runs");
            (
                made.loss.double_value(&[]),
                made.grad_norm.double_value(&[]),
            )
        };
        for step in 0..7 {
            make(&counting_batch(step), step);
        }
        let embedding = || {
            let weight = decoder.params().get("embedding.weight").expect("there");
            no_grad(|| weight.detach().copy())
        };
        let before = embedding();
        let batch = without_row(&counting_batch(7), 2);
        let (loss, norm) = make(&batch, 7);
        assert_eq!(told.outcome.loss.to_bits(), loss.to_bits());
        assert_eq!(told.outcome.grad_norm.to_bits(), norm.to_bits());
        assert_ne!(loss, found.outcome.loss);
        assert_eq!(told.outcome.supervised, batch.supervised());
        assert!((found.examples[2].loss_without.expect("told") - loss).abs() < 1e-6);
        let moved = no_grad(|| length(&(embedding() - before)));
        assert!((told.outcome.layers[0].update / moved - 1.0).abs() < 1e-6);
    }
}

fn length(tensor: &Tensor) -> f64 {
    tensor.norm().double_value(&[])
}

/// A decoder that knows no token 23: its embedding is not a number.
fn broken() -> Decoder {
    let decoder = fresh();
    let embedding = decoder.params().get("embedding.weight").expect("there");
    let _ = no_grad(|| embedding.narrow(0, 23, 1).fill_(f64::NAN));
    decoder
}

#[test]
fn the_token_that_broke_a_step_is_named() {
    let parent = tempfile::tempdir().expect("a folder");
    let settings = accumulating(OptimizerKind::Adamw);
    let stage = || Counting {
        odd: 5..6,
        ..Counting::default()
    };
    make_run(&stage(), &settings, parent.path(), &broken());
    let request = (parent.path(), 6, &[1][..]);
    let found = replayed(stage(), &settings, broken(), request).expect("replays");
    assert_eq!(found.reproduced, Some(true), "as little a number as before");
    assert!(found.outcome.skipped);
    let fault = found.fault.expect("looked for");
    assert_eq!(
        (fault.place.as_str(), &fault.examples[..]),
        ("the embedding", &[1][..])
    );
    let token = fault.token.expect("in the forward pass");
    assert_eq!((token.example, token.column, token.id), (1, 0, 23));
    assert_eq!(fault.weights, ["embedding.weight: 16 of 384 numbers"]);
    let without = found.without.expect("asked for").outcome;
    assert!(!without.skipped && without.loss.is_finite());
}

/// Changes the log of a run.
fn edit(run: &Path, change: impl Fn(&str) -> String) {
    let log = run.join("metrics.jsonl");
    let text = fs::read_to_string(&log).expect("there");
    fs::write(log, change(&text)).expect("writable");
}

#[test]
fn an_edited_log_is_noticed() {
    let parent = tempfile::tempdir().expect("a folder");
    let settings = accumulating(OptimizerKind::Adamw);
    make_run(&Counting::default(), &settings, parent.path(), &fresh());
    let honest = plain(&settings, parent.path(), 6);
    let loss = honest.outcome.loss;
    let forged = f64::from_bits(loss.to_bits() + 1);
    edit(parent.path(), |log| {
        log.replace(&loss.to_string(), &forged.to_string())
    });
    let found = plain(&settings, parent.path(), 6);
    assert_eq!(found.reproduced, Some(false));
    let recorded = found.recorded.expect("logged");
    assert!(!recorded.loss.exact && recorded.grad_norm.exact);
    assert_eq!(recorded.loss.recorded, Some(forged));
    assert!(recorded.loss.off().expect("numbers") < 1e-15);
    // Of a later step, the forged one is on the way.
    let found = plain(&settings, parent.path(), 7);
    assert_eq!(found.reproduced, Some(false));
    assert!(found.recorded.expect("logged").exact && !found.passed[1].exact);

    // Lines that are none are counted; one that is being written is not.
    edit(parent.path(), |log| {
        let others = log.lines().filter(|line| !line.contains("\"step\":9"));
        let others: Vec<&str> = others.collect();
        format!("not a line\n{}\n{{\"kind\":\"tr", others.join("\n"))
    });
    let found = plain(&settings, parent.path(), 9);
    assert_eq!((found.unreadable, found.recorded), (1, None));
    assert_eq!(
        (found.reproduced, found.same_weights),
        (Some(true), Some(true)),
        "the checkpoint tells"
    );
}

#[test]
fn a_learning_rate_or_a_count_that_was_edited_is_noticed() {
    let settings = accumulating(OptimizerKind::Adamw);
    for key in ["lr", "tokens", "supervised"] {
        let parent = tempfile::tempdir().expect("a folder");
        make_run(&Counting::default(), &settings, parent.path(), &fresh());
        edit(parent.path(), |log| {
            let mut lines: Vec<serde_json::Value> = log
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            let of_step =
                |line: &&mut serde_json::Value| line["kind"] == "train" && line["step"] == 6;
            let line = lines.iter_mut().find(of_step).expect("logged");
            line[key] = (line[key].as_f64().expect("a number") * 2.0).into();
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            lines.join("\n") + "\n"
        });
        let found = plain(&settings, parent.path(), 6);
        assert_eq!(found.reproduced, Some(false), "{key}");
        let recorded = found.recorded.expect("logged");
        let other = recorded.figures().filter(|(_, pair)| !pair.exact);
        assert_eq!(other.count(), 1, "{key} alone");
        assert!(recorded.loss.exact && recorded.grad_norm.exact, "{key}");
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_a_forged_one_noticed() {
    let parent = tempfile::tempdir().expect("a folder");
    let settings = accumulating(OptimizerKind::Adamw);
    make_run(&Counting::default(), &settings, parent.path(), &fresh());
    let file = |step: u64, name: &str| {
        let path = format!("checkpoints/step-{step:08}/{name}");
        parent.path().join(path)
    };
    // The weights of an earlier step, with a manifest that vouches for them.
    let manifest = |step: u64| {
        let text = fs::read(file(step, "manifest.json")).expect("there");
        serde_json::from_slice::<Vec<serde_json::Value>>(&text).expect("JSON")
    };
    let vouch = |files: &[serde_json::Value]| {
        let text = serde_json::to_vec(files).expect("JSON");
        fs::write(file(8, "manifest.json"), text).expect("writable");
    };
    let mut forged = manifest(8);
    for (file, earlier) in forged.iter_mut().zip(manifest(4)) {
        if file["path"] == "model.safetensors" {
            *file = earlier;
        }
    }
    let whole = [
        fs::read(file(8, "model.safetensors")).expect("there"),
        fs::read(file(8, "manifest.json")).expect("there"),
    ];
    fs::copy(file(4, "model.safetensors"), file(8, "model.safetensors")).expect("copies");
    vouch(&forged);
    let found = plain(&settings, parent.path(), 8);
    assert_eq!(
        (found.reproduced, found.same_weights, found.same_optimizer),
        (Some(false), Some(false), Some(true))
    );
    assert!(found.recorded.expect("logged").exact, "the log is honest");
    let found = plain(&settings, parent.path(), 9);
    assert_eq!((found.reproduced, found.from), (Some(false), 8));

    // The optimizer's state of an earlier step, under the step's own weights.
    let [weights, manifest_bytes] = &whole;
    fs::write(file(8, "model.safetensors"), weights).expect("writable");
    let mut forged: Vec<serde_json::Value> = serde_json::from_slice(manifest_bytes).expect("JSON");
    let name = "trainer/optimizer.safetensors";
    let state = forged.iter_mut().find(|file| file["path"] == name);
    let state = state.expect("saved");
    let own = fs::read(file(8, name)).expect("there");
    *state = (manifest(4).into_iter())
        .find(|file| file["path"] == name)
        .expect("saved");
    fs::copy(file(4, name), file(8, name)).expect("copies");
    vouch(&forged);
    let found = plain(&settings, parent.path(), 8);
    assert_eq!(
        (found.reproduced, found.same_weights, found.same_optimizer),
        (Some(false), Some(true), Some(false))
    );
    fs::write(file(8, name), own).expect("writable");

    // A bit of it changed, without a word to the manifest.
    let [mut bytes, manifest] = whole;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(file(8, "model.safetensors"), bytes).expect("writable");
    fs::write(file(8, "manifest.json"), manifest).expect("writable");
    let found = plain(&settings, parent.path(), 9);
    assert_eq!((found.reproduced, found.from), (Some(true), 4));
    assert!(
        found.torn.len() == 1 && found.torn[0].contains("step-00000008"),
        "{:?}",
        found.torn
    );
}

#[test]
fn what_cannot_be_replayed_is_refused_with_the_reason() {
    let parent = tempfile::tempdir().expect("a folder");
    let run = parent.path();
    let settings = accumulating(OptimizerKind::Adamw);
    refused(
        &settings,
        (&run.join("none"), 1, &[]),
        &["metrics.jsonl", "a run that has begun"],
    );
    make_run(&Counting::default(), &settings, run, &fresh());
    refused(
        &settings,
        (run, 10, &[]),
        &["no step 10", "give --step 1 to 9"],
    );
    refused(
        &settings,
        (run, 2, &[9]),
        &["--without 9", "8 examples", "1 to 8"],
    );
    refused(
        &settings,
        (run, 2, &[1, 2, 3, 4, 5, 6, 7, 8]),
        &["--without", "nothing supervised"],
    );
    let mut other = settings.clone();
    other.data_fingerprint = "other".to_owned();
    for step in [2, 9] {
        refused(
            &other,
            (run, step, &[]),
            &["the data has changed", "bring the old data back"],
        );
    }
    let mut long = settings.clone();
    long.train.steps = 100;
    refused(
        &long,
        (run, 50, &[]),
        &["step 50 was not made yet", "at step 9"],
    );
    // Examples without a target teach nothing, and may be all that is left out.
    let batch = counting_batch(1);
    assert!(
        batch.targets[batch.cols..2 * batch.cols]
            .iter()
            .all(|&t| t == IGNORE)
    );
    let found = replayed(Counting::default(), &settings, fresh(), (run, 2, &[2]));
    let found = found.expect("replays");
    let without = found.without.expect("asked for").outcome;
    assert!((without.loss - found.outcome.loss).abs() < 1e-6);
}
