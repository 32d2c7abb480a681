//! Whole pre-training runs of a tiny decoder on a small text: stopping and going on, and what a user who
//! made a mistake is told.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use etude_data::{Cache, Catalog};
use etude_model::hf;
use etude_pretrain::Recipe;
use etude_tensor::{Device, Kind};
use etude_train::interrupt::Interrupt;
use etude_train::{Ended, RecipeText, RunContext, RunFolder};
use serde_json::Value;

/// Names the folder that the child of the kill test works in.
const CHILD: &str = "ETUDE_TEST_PRETRAIN_FOLDER";

/// Fresh weights are drawn from libtorch's one generator, so that runs side by side would disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user's folder: a text, a cache, runs.
struct Place(PathBuf);

impl Place {
    fn new(root: &Path, text: &str) -> Self {
        fs::write(root.join("text.txt"), text).expect("writes");
        Self(root.to_owned())
    }

    /// A tiny recipe, with settings on top.
    fn recipe(&self, settings: &[&str]) -> Result<Recipe> {
        let text = format!(
            "[data]\nsources = [{:?}]\nlocal = {{ validation = 20 }}\n\
             [tokenizer]\nvocab_size = 280\n\
             [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n\
             [optimizer]\nkind = \"muon\"\n\
             [train]\nsteps = 40\nbatch_rows = 4\ndevice = \"cpu\"\nthreads = 1\nlog_every = 1\n\
             checkpoint_every = 5\neval_every = 1\nsample_every = 20\n\
             [eval]\nwindows = 2\nsample_tokens = 8\nprompts = [\"the\"]\n",
            self.0.join("text.txt")
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

    fn context(&self, run: &str) -> RunContext {
        RunContext {
            folder: self.0.join(run),
            catalog: Catalog::load(&[] as &[&Path]).expect("the shipped manifests"),
            cache: Cache::at(self.0.join("cache")),
            progress: false,
            interrupt: Interrupt::default(),
            started: Instant::now(),
        }
    }

    fn run(&self, run: &str, settings: &[&str]) -> Result<Ended> {
        etude_pretrain::run(&self.recipe(settings)?, &self.context(run))
    }

    /// The message that a run ends with.
    fn refusal(&self, settings: &[&str]) -> String {
        format!(
            "{:#}",
            self.run("refused", settings).expect_err("is refused")
        )
    }

    fn folder(&self, run: &str) -> PathBuf {
        self.0.join(run)
    }
}

/// Some hundred lines of words, none like another.
fn words() -> String {
    let nouns = [
        "cat", "dog", "house", "river", "stone", "tree", "child", "king", "bird",
    ];
    let verbs = [
        "sees", "finds", "loves", "leaves", "follows", "hears", "knows",
    ];
    (0..400)
        .map(|n| {
            format!(
                "the {} {} the {} .\n",
                nouns[n % 9],
                verbs[n % 7],
                nouns[(n / 9 + n) % 9]
            )
        })
        .collect()
}

/// The log without what the clock decides.
fn metrics(folder: &Path) -> Vec<Value> {
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

fn wait_for(folder: &Path, step: u64) {
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

fn assert_same(one: &Path, other: &Path) {
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

#[test]
fn a_run_learns_and_its_result_is_a_model_folder() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path(), &words());
    let Ended::Finished(summary) = place.run("run", &[]).expect("runs") else {
        panic!("nobody stopped it")
    };
    assert_eq!((summary.steps, summary.tokens), (40, 40 * 4 * 32));
    let lines = metrics(&place.folder("run"));
    let of = |kind: &str| {
        lines
            .iter()
            .filter(|line| line["kind"] == kind)
            .collect::<Vec<_>>()
    };
    assert_eq!((of("train").len(), of("eval").len()), (40, 40));
    let first = of("eval")[0]["loss"].as_f64().expect("finite");
    assert!(
        summary.last.validation_loss < first - 0.5,
        "{first} to {}",
        summary.last.validation_loss
    );
    let loaded = hf::load(&place.folder("run/model"), Kind::Float, Device::Cpu).expect("loads");
    assert_eq!(loaded.decoder.params().numel(), summary.parameters);
    etude_tokenizer::Tokenizer::load(&place.folder("run/model")).expect("the tokenizer is in it");
    assert_eq!(
        fs::read_dir(place.folder("run/checkpoints"))
            .expect("there")
            .count(),
        2,
        "the last two are kept"
    );
}

#[test]
fn an_interrupted_and_a_killed_run_end_as_one_left_alone() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path(), &words());
    place.run("whole", &[]).expect("runs");

    let (context, recipe) = (place.context("halves"), place.recipe(&[]).expect("parses"));
    let interrupt = context.interrupt.clone();
    let folder = context.folder.clone();
    let asking = std::thread::spawn(move || {
        wait_for(&folder, 10);
        interrupt.ask();
    });
    let ended = etude_pretrain::run(&recipe, &context).expect("runs");
    asking.join().expect("asked");
    assert!(
        matches!(ended, Ended::Interrupted { step } if (10..40).contains(&step)),
        "{ended:?}"
    );
    place.run("halves", &[]).expect("resumes");
    assert_same(&place.folder("whole"), &place.folder("halves"));

    let mut child = Command::new(std::env::current_exe().expect("this test's program"))
        .args(["--exact", "child_that_is_killed"])
        .env(CHILD, root.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    wait_for(&place.folder("killed"), 13);
    child.kill().expect("is killed");
    assert_eq!(
        child.wait().expect("ends").signal(),
        Some(9),
        "it was not done yet"
    );
    place.run("killed", &[]).expect("resumes");
    assert_same(&place.folder("whole"), &place.folder("killed"));
}

/// Not a test by itself: what the test above starts and kills.
#[test]
fn child_that_is_killed() {
    let _alone = alone();
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    Place(root.into()).run("killed", &[]).expect("runs");
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path(), &words());
    for (setting, says) in [
        (
            "train.stesp=3",
            &["--set train.stesp=3", "did you mean `steps`"][..],
        ),
        ("optimizer.lr=-0.1", &["optimizer.lr = -0.1", "above 0"]),
        (
            "optimizer.lr=inf",
            &["optimizer.lr = inf", "a finite number above 0"],
        ),
        ("optimizer.lr=nan", &["optimizer.lr = NaN", "above 0"]),
        (
            "tokenizer.vocab_size=100",
            &["vocab_size", "is 100", "256 bytes"],
        ),
        ("data.sources=[]", &["data.sources is empty"]),
        (
            "data.sources=[\"x\", { name = \"y\", repeat = 0 }]",
            &["data.sources[1].repeat = 0", "`y`", "from 1 to 100"],
        ),
        (
            "data.sources=[{ name = \"y\", repeats = 2 }]",
            &["did you mean `repeat`"],
        ),
        (
            "model.n_head=3",
            &["model.n_embd = 16", "multiple of n_head = 3"],
        ),
        ("train.steps=0", &["train.steps = 0", "at least 1"]),
        (
            "train.micro_rows=9",
            &["train.micro_rows = 9", "train.batch_rows = 4"],
        ),
        (
            "eval.sample_tokens=32",
            &["eval.sample_tokens = 32", "below model.context = 32"],
        ),
        (
            "eval.sample_tokens=0",
            &["eval.sample_tokens = 0", "at least 1"],
        ),
        (
            "eval.prompts=[\"the\", \"a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a\"]",
            &["eval.prompts[1] has", "model.context is 32"],
        ),
        ("train.device=cuba", &["cuba"]),
    ] {
        let message = match place.recipe(&[setting]) {
            Err(error) => format!("{error:#}"),
            Ok(_) => place.refusal(&[setting]),
        };
        for part in says {
            assert!(message.contains(part), "{setting}: {message}");
        }
    }
}

#[test]
fn unusable_text_is_refused_by_name() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path(), "");
    let message = place.refusal(&[]);
    assert!(message.contains("text"), "an empty text: {message}");
    fs::write(
        root.path().join("text.txt"),
        "the cat\nsees the dog\nand the\nriver\n",
    )
    .expect("writes");
    let message = place.refusal(&["train.steps=2"]);
    assert!(
        message.contains("context") || message.contains("validation"),
        "too short to be cut into windows and a held-out part: {message}"
    );
    let message = place.refusal(&["train.steps=3", "data.sources=[\"nowhere.txt\"]"]);
    assert!(message.contains("nowhere.txt"), "{message}");
    fs::write(root.path().join("text.txt"), words()).expect("writes");
    let message = place.refusal(&["train.steps=4", "data.local.validation=0"]);
    assert!(message.contains("data.local.validation"), "{message}");
    // A mistake that was found before training leaves nothing in the way of the corrected recipe.
    place
        .run("refused", &["train.steps=5"])
        .expect("the folder is free");
}

#[test]
fn records_that_are_left_out_are_counted() {
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path(), "");
    let lines = words()
        .lines()
        .map(|text| serde_json::json!({"text": text}).to_string())
        .collect::<Vec<_>>();
    let empty = vec![serde_json::json!({"text": ""}).to_string(); 3];
    fs::write(
        root.path().join("text.jsonl"),
        [lines, empty].concat().join("\n"),
    )
    .expect("writes");
    let source = format!("data.sources=[{:?}]", root.path().join("text.jsonl"));
    let counted = |run: &str| {
        place.run(run, &["train.steps=1", &source]).expect("runs");
        let text = fs::read(place.folder(run).join("data.json")).expect("reads");
        let data: Value = serde_json::from_slice(&text).expect("JSON");
        let dropped = data["dropped"].as_object().expect("counts").clone();
        dropped.values().filter_map(Value::as_u64).sum::<u64>()
    };
    assert_eq!(counted("first"), 3);
    assert_eq!(counted("cached"), 3, "from the note in the cache");
}

#[test]
fn changed_data_and_a_second_process_are_refused() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path(), &words());
    let settings = ["train.steps=4"];
    let context = place.context("run");
    context.interrupt.ask();
    let recipe = place.recipe(&settings).expect("parses");
    assert_eq!(
        etude_pretrain::run(&recipe, &context).expect("runs"),
        Ended::Interrupted { step: 1 }
    );

    fs::write(
        root.path().join("text.txt"),
        words().replacen("cat", "cow", 1),
    )
    .expect("writes");
    let error = format!("{:#}", place.run("run", &settings).expect_err("refused"));
    assert!(error.contains("the data has changed"), "{error}");
    fs::write(root.path().join("text.txt"), words()).expect("writes");

    let recipe_text = fs::read_to_string(place.folder("run/recipe.toml")).expect("reads");
    let held = RunFolder::open(&place.folder("run"), &recipe_text).expect("opens");
    let error = format!("{:#}", place.run("run", &settings).expect_err("refused"));
    assert!(error.contains("another etude process"), "{error}");
    drop(held);
    assert!(matches!(
        place.run("run", &settings).expect("goes on"),
        Ended::Finished(_)
    ));
    let error = format!(
        "{:#}",
        place.run("run", &["train.steps=5"]).expect_err("refused")
    );
    assert!(
        error.contains("another recipe")
            && error.contains("train.steps: the run has 4, the recipe 5"),
        "{error}"
    );
}

#[test]
fn a_repeated_source_is_read_so_often_and_validated_once() {
    let _alone = alone();
    let root = tempfile::tempdir().expect("a folder");
    let place = Place::new(root.path(), &words());
    let path = root.path().join("text.txt");
    let data = |run: &str, sources: &str| -> Value {
        let sources = format!("data.sources={sources}");
        place.run(run, &["train.steps=1", &sources]).expect("runs");
        let text = fs::read(place.folder(run).join("data.json")).expect("reads");
        serde_json::from_slice(&text).expect("JSON")
    };
    let once = data("once", &format!("[{path:?}]"));
    let twice = data("twice", &format!("[{{ name = {path:?}, repeat = 2 }}]"));
    let named = data("named", &format!("[{path:?}, {path:?}]"));
    let count = |data: &Value, key: &str| data[key].as_u64().expect("a count");
    assert_eq!(twice, named, "naming it twice is the same");
    assert_eq!(twice["sources"][0]["repeat"], 2);
    for (key, times) in [
        ("train_tokens", 2),
        ("train_bytes", 2),
        ("validation_bytes", 1),
    ] {
        assert_eq!(count(&twice, key), times * count(&once, key), "{key}");
    }
    let kept = fs::read_to_string(place.folder("twice").join("recipe.toml")).expect("reads");
    assert!(kept.contains("repeat = 2"), "as resolved: {kept}");
}
