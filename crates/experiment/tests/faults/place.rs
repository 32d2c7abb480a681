//! A tiny text, tiny examples, and tiny recipes of both stages over them, run in this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use etude_data::{Cache, Catalog};
use etude_train::interrupt::Interrupt;
use etude_train::{Ended, RecipeText, RunContext};

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Pretrain,
    Finetune,
    Lora,
}

impl Job {
    pub(crate) const ALL: [Job; 3] = [Job::Pretrain, Job::Finetune, Job::Lora];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Job::Pretrain => "pretrain",
            Job::Finetune => "finetune",
            Job::Lora => "lora",
        }
    }
}

/// A folder with everything in it; runs lie in folders of their own.
#[derive(Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// Fills the folder, or finds it filled.
    pub(crate) fn new(folder: &Path) -> Self {
        let place = Self(folder.to_owned());
        let text = |n: u32| format!("The {n}th rose is as sweet as the {}th.\n\n", n * 7 % 90);
        let example =
            |n: u32| format!("{{\"prompt\": \"Say {n}.\", \"completion\": \"A rose {n}.\"}}\n");
        let files = [
            ("text.txt", (0..90).map(text).collect::<String>()),
            ("examples.jsonl", (0..40).map(example).collect()),
        ];
        for (name, contents) in files {
            fs::write(place.0.join(name), contents).expect("written");
        }
        place
    }

    /// The run folder of that name.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs a job in a run folder, or goes on with it.
    pub(crate) fn run(&self, job: Job, run: &str) -> Result<Ended> {
        let context = RunContext {
            folder: self.folder(run),
            catalog: Catalog::load(&[] as &[PathBuf])?,
            cache: Cache::at(self.folder("cache")),
            progress: false,
            interrupt: Interrupt::default(),
            started: Instant::now(),
        };
        let recipe = RecipeText {
            name: job.name().to_owned(),
            origin: job.name().into(),
            text: self.recipe(job),
        };
        match job {
            Job::Pretrain => etude_pretrain::run(&recipe.parse(&[])?, &context),
            Job::Finetune | Job::Lora => etude_finetune::run(&recipe.parse(&[])?, &context),
        }
    }

    pub(crate) fn recipe(&self, job: Job) -> String {
        let file = |name: &str| self.folder(name).display().to_string();
        let train = "[train]\nsteps = 3\nbatch_rows = 2\nthreads = 1\nloader_threads = 1\ndevice = \"cpu\"\n\
                     log_every = 1\neval_every = 2\ncheckpoint_every = 1\nkeep = 1\n";
        if job == Job::Pretrain {
            return format!(
                "[data]\nsources = [\"{}\"]\n[tokenizer]\nvocab_size = 280\n\
                 [model]\nn_layer = 1\nn_head = 2\nn_embd = 8\ncontext = 40\n{train}\
                 [eval]\nwindows = 1\nsample_tokens = 2\nprompts = [\"A\"]\n",
                file("text.txt"),
            );
        }
        let adapter = match job {
            Job::Lora => "method = \"lora\"\n[lora]\nrank = 2\n",
            _ => "",
        };
        format!(
            "[base]\npath = \"{}\"\n{adapter}[task]\nsource = \"{}\"\nanswer_tokens = 12\n\
             {train}[eval]\nexamples = 1\nsamples = 1\n",
            file("whole-pretrain"),
            file("examples.jsonl"),
        )
    }
}
