//! A user's folder with a tiny base model and a task, and runs in it.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use etude_data::{Cache, Catalog};
use etude_finetune::Recipe;
use etude_model::hf::{self, TokenIds};
use etude_model::{Decoder, Family, ModelConfig, Sizes};
use etude_tensor::{Device, Kind, with_seed};
use etude_tokenizer::{Tokenizer, TrainSettings};
use etude_train::interrupt::Interrupt;
use etude_train::{Ended, RecipeText, RunContext};
use serde_json::{Value, json};

/// A user's folder: a base model, a task, a cache, runs.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new(root: &Path) -> Self {
        let place = Self(root.to_owned());
        place.write_tasks(tasks());
        place.write_base(5);
        place
    }

    pub(crate) fn write_tasks(&self, tasks: impl IntoIterator<Item = Value>) {
        let text: String = tasks.into_iter().map(|task| format!("{task}\n")).collect();
        fs::write(self.0.join("task.jsonl"), text).expect("writes");
    }

    pub(crate) fn write_base(&self, seed: u64) {
        let settings = TrainSettings {
            vocab_size: 300,
            ..TrainSettings::default()
        };
        let texts = tasks().map(|task| format!("{} {}", task["prompt"], task["completion"]));
        let (tokenizer, _) =
            Tokenizer::train(texts.collect::<Vec<_>>().into_iter(), &settings).expect("trains");
        let sizes = Sizes {
            vocab_size: 300,
            n_layer: 1,
            n_head: 2,
            n_kv_head: 2,
            n_embd: 16,
            n_inner: 32,
            context: 64,
            tied: false,
        };
        let config = ModelConfig::new(Family::Llama, sizes);
        let decoder =
            with_seed(seed, || Decoder::new(config, Kind::Float, Device::Cpu)).expect("possible");
        let ids = TokenIds {
            bos: tokenizer.bos_id(),
            eos: tokenizer.eos_id().into_iter().collect(),
            pad: tokenizer.pad_id(),
        };
        let folder = self.0.join("base");
        fs::create_dir_all(&folder).expect("makes");
        hf::save(&decoder, &ids, &folder).expect("saves");
        tokenizer.save(&folder).expect("saves");
    }

    /// A tiny recipe, with settings on top.
    pub(crate) fn recipe(&self, settings: &[&str]) -> Result<Recipe> {
        let text = format!(
            "[base]\npath = {:?}\n\
             [task]\nsource = {:?}\nanswer_tokens = 6\nlocal = {{ validation = 20, test = 10 }}\n\
             [train]\nsteps = 40\nbatch_rows = 4\ndevice = \"cpu\"\nthreads = 1\nlog_every = 1\n\
             checkpoint_every = 5\neval_every = 1\nsample_every = 20\n\
             [eval]\nexamples = 4\nsamples = 1\n",
            self.0.join("base"),
            self.0.join("task.jsonl")
        );
        let source = RecipeText {
            name: "tiny".to_owned(),
            origin: "tiny.toml".into(),
            text,
        };
        source.parse(
            &settings
                .iter()
                .map(|setting| (*setting).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    pub(crate) fn context(&self, run: &str) -> RunContext {
        RunContext {
            folder: self.0.join(run),
            catalog: Catalog::load(&[] as &[&Path]).expect("the shipped manifests"),
            cache: Cache::at(self.0.join("cache")),
            progress: false,
            interrupt: Interrupt::default(),
            started: Instant::now(),
        }
    }

    pub(crate) fn run(&self, run: &str, settings: &[&str]) -> Result<Ended> {
        etude_finetune::run(&self.recipe(settings)?, &self.context(run))
    }

    /// The message that a run ends with.
    pub(crate) fn refusal(&self, settings: &[&str]) -> String {
        format!(
            "{:#}",
            self.run("refused", settings).expect_err("is refused")
        )
    }

    pub(crate) fn folder(&self, run: &str) -> PathBuf {
        self.0.join(run)
    }
}

/// Sums in words, of uneven lengths.
pub(crate) fn tasks() -> impl Iterator<Item = Value> {
    let names = [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    ];
    (0..60).map(move |n| {
        let list = vec![names[n % 10]; 1 + n / 10].join(" ");
        json!({"prompt": format!("{list} {n}"), "completion": names[n % 10]})
    })
}

/// The log without what the clock decides.
pub(crate) fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
    let mut lines: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    for line in &mut lines {
        for key in ["seconds", "tokens_per_second", "mfu"] {
            line.as_object_mut().expect("objects").remove(key);
        }
    }
    lines
}

pub(crate) fn wait_for(folder: &Path, step: u64) {
    let begun = Instant::now();
    while !metrics(folder)
        .iter()
        .any(|line| line["kind"] == "train" && line["step"].as_u64() >= Some(step))
    {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no step {step} is made"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn assert_same(one: &Path, other: &Path) {
    for file in [
        "model/model.safetensors",
        "checkpoints/step-00000040/trainer/optimizer.safetensors",
        "samples.jsonl",
    ] {
        let read = |folder: &Path| {
            fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
        };
        assert!(read(one) == read(other), "{file} differs");
    }
    assert_eq!(metrics(one), metrics(other));
}
