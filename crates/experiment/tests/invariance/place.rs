//! A tiny text, tiny examples of uneven lengths, and a recipe of each stage over them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use etude_data::{Cache, Catalog};
use etude_train::interrupt::Interrupt;
use etude_train::{Ended, RecipeText, RunContext};

use crate::trajectory::Trajectory;

/// The stages, and of fine-tuning both methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Pretrain,
    Full,
    Lora,
}

impl Job {
    pub(crate) const ALL: [Job; 3] = [Job::Pretrain, Job::Full, Job::Lora];
}

/// Steps of each run.
pub(crate) const STEPS: u64 = 6;

/// A folder with everything in it; runs lie in folders of their own.
#[derive(Debug)]
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// Writes text, examples and a base model.
    pub(crate) fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let text = |n: usize| format!("The {n}th {} is sweet.\n\n", "old rose ".repeat(1 + n % 5));
        let example = |n: usize| {
            let (prompt, answer) = ("please ".repeat(n % 4), "rose ".repeat(1 + n * 3 % 5));
            format!("{{\"prompt\": \"Say {n} {prompt}.\", \"completion\": \"{n} {answer}\"}}\n")
        };
        for (name, contents) in [
            ("text.txt", (0..120).map(text).collect::<String>()),
            ("examples.jsonl", (0..40).map(example).collect()),
        ] {
            fs::write(place.path(name), contents).expect("written");
        }
        place
            .run(
                Job::Pretrain,
                "base",
                &["train.precision=float32", "train.steps=2"],
            )
            .expect("a base model");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run of its own, from start to end.
    pub(crate) fn trajectory(&self, job: Job, run: &str, settings: &[&str]) -> Trajectory {
        let ended = self.run(job, run, settings).expect("runs");
        assert!(matches!(ended, Ended::Finished(_)), "{ended:?}");
        Trajectory::of_run(&self.path(run))
    }

    /// Runs a job in a run folder, or goes on with it.
    pub(crate) fn run(&self, job: Job, run: &str, settings: &[&str]) -> Result<Ended> {
        self.run_in(job, &self.context(run), settings)
    }

    /// Makes one step of a run, from where it was stopped.
    pub(crate) fn one_step(&self, job: Job, run: &str, settings: &[&str]) {
        let context = self.context(run);
        context.interrupt.ask();
        let ended = self.run_in(job, &context, settings).expect("goes on");
        assert!(matches!(ended, Ended::Interrupted { .. }), "{ended:?}");
    }

    fn run_in(&self, job: Job, context: &RunContext, settings: &[&str]) -> Result<Ended> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.into()).collect();
        let recipe = self.recipe(job);
        match job {
            Job::Pretrain => etude_pretrain::run(&recipe.parse(&settings)?, context),
            Job::Full | Job::Lora => etude_finetune::run(&recipe.parse(&settings)?, context),
        }
    }

    pub(crate) fn context(&self, run: &str) -> RunContext {
        RunContext {
            folder: self.path(run),
            catalog: Catalog::load(&[] as &[&Path]).expect("the shipped manifests"),
            cache: Cache::at(self.path("cache")),
            progress: false,
            interrupt: Interrupt::default(),
            started: Instant::now(),
        }
    }

    pub(crate) fn recipe(&self, job: Job) -> RecipeText {
        let train = format!(
            "[train]\nsteps = {STEPS}\nbatch_rows = 6\nprecision = \"float64\"\nthreads = 1\ndevice = \"cpu\"\n\
             log_every = 1\neval_every = 2\n"
        );
        let text = match job {
            Job::Pretrain => format!(
                "[data]\nsources = [{:?}]\nboundaries = \"kept\"\n\
                 local = {{ documents = \"blank-lines\", validation = 10 }}\n\
                 [tokenizer]\nvocab_size = 280\n\
                 [model]\nfamily = \"llama\"\nn_layer = 2\nn_head = 2\nn_kv_head = 1\nn_embd = 16\ncontext = 64\n\
                 [optimizer]\nkind = \"muon\"\n{train}\
                 [eval]\nwindows = 4\nsample_tokens = 3\nprompts = [\"The\"]\n",
                self.path("text.txt"),
            ),
            Job::Full | Job::Lora => format!(
                "[base]\npath = {:?}\n{}[task]\nsource = {:?}\nanswer_tokens = 3\n\
                 local = {{ validation = 15, test = 10 }}\n[optimizer]\nlr = 5e-3\n{train}\
                 [eval]\nexamples = 6\nsamples = 1\n",
                self.path("base"),
                match job {
                    Job::Lora => "method = \"lora\"\n[lora]\nrank = 2\ndropout = 0.25\n",
                    _ => "",
                },
                self.path("examples.jsonl"),
            ),
        };
        RecipeText {
            name: format!("{job:?}"),
            origin: "made.toml".into(),
            text,
        }
    }
}
