//! Padded, grouped and packed rows teach the same: each gives the loss and the gradients that the examples
//! give one at a time.

mod support;

use etude_data::{FinetuneBatches, FinetuneSettings, RenderedExample, Rows, SourceRef, collate};
use etude_eval::batch_loss;
use etude_model::{Decoder, Family, ModelConfig, Sizes};
use etude_tensor::{Device, Kind, seed_everything};
use support::{Place, metrics};

fn example(number: u32) -> RenderedExample {
    let length = 3 + (number * 7) % 11;
    RenderedExample {
        id: number.to_string(),
        ids: (0..length).map(|i| (number * 5 + i * i) % 40).collect(),
        supervised: (0..length).map(|i| i > length / 3).collect(),
        source: SourceRef {
            file: "made".into(),
            line: 1,
        },
        truncated: false,
        target_bytes: 0,
    }
}

/// The summed loss of some batches and the gradients of all parameters.
fn summed<'a>(
    decoder: &Decoder,
    batches: impl IntoIterator<Item = &'a etude_data::Batch>,
) -> (f64, Vec<etude_tensor::Tensor>) {
    decoder.drop_grads();
    let mut sum = 0.0;
    for batch in batches {
        let loss = batch_loss(decoder, batch).expect("something is supervised");
        sum += loss.double_value(&[]);
        loss.backward();
    }
    let grads = decoder.params().tensors().map(|tensor| tensor.grad());
    (sum, grads.collect())
}

#[test]
fn every_layout_gives_the_loss_of_one_example_at_a_time() {
    let sizes = Sizes {
        vocab_size: 40,
        n_layer: 2,
        n_head: 4,
        n_kv_head: 2,
        n_embd: 16,
        n_inner: 32,
        context: 32,
        tied: false,
    };
    let examples: Vec<RenderedExample> = (0..32).map(example).collect();
    let alone: Vec<_> = examples
        .iter()
        .map(|example| collate(&[example], 0))
        .collect();
    for family in [Family::Llama, Family::Gpt2, Family::Mistral] {
        for (kind, tolerance) in [(Kind::Double, 1e-10), (Kind::Float, 1e-5)] {
            let mut config = ModelConfig::new(family, sizes);
            if family == Family::Mistral {
                config.sliding_window = Some(6); // shorter than the longest examples
            }
            seed_everything(3);
            let decoder = Decoder::new(config, kind, Device::Cpu).expect("possible");
            let (expected, expected_grads) = summed(&decoder, &alone);
            for layout in [Rows::Padded, Rows::Grouped, Rows::Packed(31)] {
                let settings = FinetuneSettings {
                    rows: 2,
                    layout,
                    seed: 1,
                    pad: 0,
                };
                let batches = FinetuneBatches::new(examples.clone(), settings).expect("batches");
                // An epoch, row by row where it does not end with a batch.
                let steps = batches.rows_per_epoch().div_ceil(2);
                let rows: Vec<_> = (0..steps)
                    .flat_map(|step| {
                        let batch = batches.finetune_batch(step);
                        let (whole, odd) = (step + 1 < steps, batches.rows_per_epoch() % 2 == 1);
                        if whole || !odd {
                            vec![batch]
                        } else {
                            batch.micro_batches(1).take(1).collect()
                        }
                    })
                    .collect();
                let (loss, grads) = summed(&decoder, &rows);
                let off = (loss - expected).abs() / expected;
                assert!(off < tolerance, "{family:?} {layout:?} {kind:?}: {off}");
                for (one, other) in grads.iter().zip(&expected_grads) {
                    let scale = other.abs().max().double_value(&[]).max(1e-3);
                    let off = (one - other).abs().max().double_value(&[]) / scale;
                    assert!(
                        off < 20.0 * tolerance,
                        "{family:?} {layout:?} {kind:?}: gradient off by {off}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_learnt_has_to_fit_into_a_row_and_what_is_asked_has_not() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let made = |settings: &[&str]| {
        let recipe = place.recipe(settings).expect("parses");
        let folder = etude_finetune::model_folder(&recipe.base.path);
        let tokenizer = etude_tokenizer::Tokenizer::load(&folder).expect("loads");
        let run = place.context("looked-at");
        etude_finetune::prepare(&recipe.task, 64, &tokenizer, &run).expect("is prepared")
    };
    let longest = |task: &etude_finetune::Task| {
        let lengths = task.train.iter().map(|example| example.ids.len());
        lengths.max().expect("some are left")
    };
    let whole = made(&["task.layout=packed"]);
    let row = longest(&whole) - 2; // an example of a row has one id more
    let short = made(&["task.layout=packed", &format!("task.row_tokens={row}")]);
    assert!(longest(&short) <= row + 1 && short.report.dropped() > 0);
    let kept = |task: &etude_finetune::Task| {
        let all = task.validation.iter().chain(&task.test);
        let kept = all.filter(|example| {
            let rendered = task.renderer.render(example).expect("renders");
            rendered.as_kept().is_some()
        });
        kept.count()
    };
    assert_eq!(kept(&short), kept(&whole));
    assert_eq!(kept(&short), short.validation.len() + short.test.len());
}

#[test]
fn runs_in_every_layout_learn() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    for layout in ["grouped", "packed"] {
        let layout_setting = format!("task.layout={layout}");
        place
            .run(layout, &[&layout_setting, "optimizer.lr=0.01"])
            .expect("runs");
        let lines = metrics(&place.folder(layout));
        let losses: Vec<f64> = lines
            .iter()
            .filter(|line| line["kind"] == "train")
            .map(|line| line["loss"].as_f64().expect("finite"))
            .collect();
        assert!(losses[39] < losses[0] - 0.1, "{layout}: {losses:?}");
    }
    let message = place.refusal(&["task.layout=packed", "task.row_tokens=65"]);
    assert!(
        message.contains("task.row_tokens = 65") && message.contains("64"),
        "{message}"
    );
}
