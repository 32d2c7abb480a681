//! Whole LoRA runs: only the adapter is trained and saved, a stopped run ends as one left alone, and the
//! result is a model folder like any other.

mod support;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etude_model::hf;
use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, Kind, Tensor};
use etude_train::Ended;
use serde_json::Value;
use support::{Place, assert_same, metrics, wait_for};

const LORA: [&str; 5] = [
    "base.method=lora",
    "lora.rank=2",
    "lora.dropout=0.2",
    "lora.modules_to_save=[\"lm_head\"]",
    "optimizer.lr=0.02",
];

/// Dropout draws from libtorch's one generator, so that runs side by side would disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn weights(folder: &Path) -> Vec<(String, Tensor)> {
    let loaded = hf::load(folder, Kind::Float, Device::Cpu).expect("loads");
    let params = loaded.decoder.params().iter();
    params
        .map(|(name, tensor)| (name.to_owned(), tensor.detach()))
        .collect()
}

#[test]
fn a_run_trains_and_saves_the_adapter_alone() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let Ended::Finished(summary) = place.run("run", &LORA).expect("runs") else {
        panic!("nobody stopped it")
    };
    assert!(summary.trained_parameters < summary.parameters);
    let lines = metrics(&place.folder("run"));
    let losses: Vec<f64> = lines
        .iter()
        .filter(|line| line["kind"] == "train")
        .map(|line| line["loss"].as_f64().expect("finite"))
        .collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[35..]) < mean(&losses[..5]) - 0.1, "{losses:?}");

    // Checkpoints and adapter/ hold the adapter, model/ the merged model; all three stand for the same.
    let run = place.folder("run");
    let last = run.join("checkpoints/step-00000040");
    assert!(!last.join("model.safetensors").exists() && !last.join("config.json").exists());
    let merged = weights(&run.join("model"));
    for adapter in [&last, &run.join("adapter")] {
        assert!(adapter.join("tokenizer.json").is_file());
        for ((name, one), (_, other)) in weights(adapter).iter().zip(&merged) {
            assert!(one.equal(other), "{name} in {}", adapter.display());
        }
    }
    let base = weights(&place.folder("base"));
    let moved: Vec<&str> = base
        .iter()
        .zip(&merged)
        .filter(|((_, one), (_, other))| !one.equal(other))
        .map(|((name, _), _)| name.as_str())
        .collect();
    assert_eq!(
        moved,
        [
            "layers.0.attn.qkv.weight",
            "layers.0.attn.out.weight",
            "layers.0.mlp.up.weight",
            "layers.0.mlp.down.weight",
            "head.weight"
        ]
    );
    let state = SafetensorsFile::open(&last.join("trainer/optimizer.safetensors")).expect("opens");
    let held: i64 = state
        .shapes()
        .expect("reads")
        .iter()
        .map(|(_, shape)| shape.iter().product::<i64>())
        .sum();
    assert_eq!(held as u64, 2 * summary.trained_parameters + 1);

    // The same command once more finds it finished.
    let told = |file: &str| fs::read(run.join(file)).expect("reads");
    let files = ["summary.json", "environment.json", "recipe.toml"];
    let before = files.map(told);
    place.run("run", &LORA).expect("is finished");
    assert!(before == files.map(told));
}

#[test]
fn a_stopped_run_ends_as_one_left_alone() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    place.run("whole", &LORA).expect("runs");
    let (context, recipe) = (
        place.context("halves"),
        place.recipe(&LORA).expect("parses"),
    );
    let (interrupt, folder) = (context.interrupt.clone(), context.folder.clone());
    let asking = std::thread::spawn(move || {
        wait_for(&folder, 10);
        interrupt.ask();
    });
    let ended = etude_finetune::run(&recipe, &context).expect("runs");
    asking.join().expect("asked");
    assert!(
        matches!(ended, Ended::Interrupted { step } if (10..40).contains(&step)),
        "{ended:?}"
    );
    place.run("halves", &LORA).expect("resumes");
    assert_same(&place.folder("whole"), &place.folder("halves"));
    let adapter = |run: &str| {
        fs::read(place.folder(run).join("adapter/adapter_model.safetensors")).expect("reads")
    };
    assert!(adapter("whole") == adapter("halves"));
}

#[test]
fn training_goes_on_from_an_adapter() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let short = ["base.method=lora", "lora.rank=2", "train.steps=3"];
    place.run("first", &short).expect("runs");
    let start = format!("lora.start={:?}", place.folder("first/adapter"));
    let mut settings = short.to_vec();
    settings.extend([start.as_str(), "optimizer.lr=1e-12"]);
    settings.push("eval.metrics=[\"bits_per_byte\"]");
    place.run("second", &settings).expect("runs");
    let pairs = weights(&place.folder("first/model"))
        .into_iter()
        .zip(weights(&place.folder("second/model")));
    for ((name, one), (_, other)) in pairs {
        assert!((one - other).abs().max().double_value(&[]) < 1e-6, "{name}");
    }
    // What it learnt before is not gained once more.
    let scores = fs::read(place.folder("second/scores.json")).expect("is scored");
    let scores: Value = serde_json::from_slice(&scores).expect("JSON");
    let score = |when: &str| scores[when]["bits_per_byte"]["value"].as_f64();
    let apart = score("after").expect("a number") - score("before").expect("a number");
    assert!(apart.abs() < 1e-6, "{scores}");
    // bf16 for the frozen matrices, and a whole model from an adapter's folder.
    settings.push("lora.base_dtype=bfloat16");
    place.run("half", &settings).expect("runs");
    let base = format!("base.path={:?}", place.folder("first/adapter"));
    place
        .run("full", &[base.as_str(), "train.steps=2"])
        .expect("runs");
}

#[test]
fn impossible_adapters_are_refused_by_name() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let refused = |settings: &[&str], words: &[&str]| {
        let message = match place.recipe(settings) {
            Err(error) => format!("{error:#}"),
            Ok(_) => place.refusal(settings),
        };
        for word in words {
            assert!(message.contains(word), "{settings:?}: {message}");
        }
    };
    refused(&["base.method=lora"], &["[lora]", "rank = 8"]);
    refused(&["lora.rank=8"], &["[lora]", "base.method = \"lora\""]);
    let lora = |setting| ["base.method=lora", setting];
    refused(&lora("lora.rank=0"), &["lora.rank = 0"]);
    refused(&lora("lora.rang=4"), &["did you mean `rank`"]);
    refused(&lora("lora.targets=q_proj"), &["[\"q_proj\"]"]);
    refused(
        &lora("lora.targets=[\"q_pro\"]"),
        &["`q_pro`", "gate_proj", "q_proj"],
    );
    refused(
        &lora("lora.start=\"nowhere\""),
        &["lora.start = nowhere", "adapter_config.json"],
    );
    refused(
        &["base.method=lora", "lora.rank=2", "base.from_scratch=true"],
        &["base.from_scratch"],
    );
    refused(
        &["eval.metrics=[\"exact_match\", \"rouge_l\", \"em\"]"],
        &["eval.metrics", "exact_match is named twice"],
    );
}

#[test]
fn the_control_of_a_recipe_with_an_adapter_trains_all_weights() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path());
    let control = ["lora.rank=2", "base.from_scratch=true", "train.steps=2"];
    let Ended::Finished(summary) = place.run("control", &control).expect("runs") else {
        panic!("nobody stopped it")
    };
    assert_eq!(summary.trained_parameters, summary.parameters);
    assert!(!place.folder("control/adapter").exists());
}
