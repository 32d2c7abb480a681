//! `etude doctor`: what is installed, what the machine can do, what is missing and how to get it; or
//! whether a model folder is whole.

mod folder;
mod machine;
mod tools;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use etude_data::Cache;
use serde::Serialize;

use self::machine::{Cpu, Disk, Memory, Unit};
use self::tools::Tool;
use crate::error::Exit;
use crate::output;

const ABOUT: &str = "\
Say what is installed, what this machine can do, what is missing and how to get it.

With a MODEL, checks that model instead: that its settings, weights and tokenizer are sound, and that it is as it \
was when Etude finished it. Its certificate.json holds the hash of each file and transcripts, what the model says \
to a few prompts; where an import had a reference, what another program makes of the model is compared too. \
What differs is named, and the exit status is 1.";

const EXAMPLES: &str = "\
Examples:
  etude doctor
  etude doctor --json
  etude doctor runs/pretrain-shakespeare   checks the run's model
  etude doctor exported.gguf               checks it against exported.gguf.certificate.json";

/// The whole machine, or one model.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// A model folder, run folder, checkpoint, adapter folder or GGUF file to check
    model: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<Exit> {
    if let Some(model) = &args.model {
        return folder::check(model, args.json);
    }
    let findings = Findings::gather()?;
    if args.json {
        output::json(&findings)?;
    } else {
        output::text(&findings.text())?;
    }
    let blocked = findings.missing.iter().any(|missing| missing.blocks);
    Ok(if blocked { Exit::Failed } else { Exit::Done })
}

/// Everything that was found out.
#[derive(Debug, Serialize)]
struct Findings {
    etude: &'static str,
    rustc: &'static str,
    target: &'static str,
    libtorch: Libtorch,
    cpu: Cpu,
    devices: Vec<Unit>,
    memory: Option<Memory>,
    tools: Vec<Tool>,
    cache: CacheState,
    here: Disk,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Libtorch {
    version: &'static str,
    /// Where the process has it loaded from; none where the system does not tell.
    folder: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct CacheState {
    #[serde(flatten)]
    disk: Disk,
    /// What is in it.
    bytes: u64,
    /// Whether it can be written to.
    writable: bool,
}

/// Something that is not there.
#[derive(Debug, Serialize)]
struct Missing {
    what: String,
    remedy: String,
    /// Whether Etude cannot work without it.
    blocks: bool,
}

impl Findings {
    fn gather() -> Result<Self> {
        // The tools are slow to start, so they start while the processor is idle: before it is measured.
        let tools = tools::find();
        let cache = Cache::user()?;
        let root = cache.root();
        let cache = CacheState {
            disk: Disk::of(root),
            bytes: machine::folder_bytes(root),
            writable: machine::is_writable(root),
        };
        let mut findings = Self {
            etude: env!("CARGO_PKG_VERSION"),
            rustc: env!("ETUDE_RUSTC"),
            target: env!("ETUDE_TARGET"),
            libtorch: Libtorch {
                version: etude_tensor::LIBTORCH_VERSION,
                folder: machine::libtorch_folder(),
            },
            cpu: Cpu::look(),
            devices: machine::devices(),
            memory: Memory::look(),
            tools,
            cache,
            here: Disk::of(&std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."))),
            missing: Vec::new(),
        };
        findings.missing = findings.missing();
        Ok(findings)
    }

    fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut say = |what: &str, remedy: &str, blocks| {
            missing.push(Missing {
                what: what.to_owned(),
                remedy: remedy.to_owned(),
                blocks,
            });
        };
        for tool in self.tools.iter().filter(|tool| tool.version.is_none()) {
            say(
                &format!("{}: {}", tool.name, tool.needed_for),
                tool.remedy,
                false,
            );
        }
        if !self.cache.writable {
            say(
                "the cache folder cannot be written to",
                "name another folder in ETUDE_CACHE",
                true,
            );
        }
        if self.cache.disk.free.is_some_and(|free| free < 1 << 30) {
            say(
                "less than 1 GiB is free for the cache",
                "make room, or name another folder in ETUDE_CACHE",
                false,
            );
        }
        if self.here.free.is_some_and(|free| free < 1 << 30) {
            say(
                "less than 1 GiB is free here, where runs are written",
                "make room, or train with --run elsewhere",
                false,
            );
        }
        let has_cuda = self
            .devices
            .iter()
            .any(|unit| unit.name.starts_with("cuda"));
        if machine::has_nvidia_driver() && !has_cuda {
            let what = "this machine has an NVIDIA driver, but this libtorch sees no CUDA device";
            say(what, "run `scripts/setup.sh --cuda` and build again", false);
        }
        missing
    }

    fn text(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
        row(
            "etude",
            format!("{} ({}, {})", self.etude, self.rustc, self.target),
        );
        let from = self
            .libtorch
            .folder
            .as_ref()
            .map_or_else(String::new, |at| format!(" from {}", at.display()));
        row("libtorch", format!("{}{from}", self.libtorch.version));
        row(
            "processor",
            self.cpu
                .model
                .clone()
                .unwrap_or_else(|| "not named by the system".to_owned()),
        );
        row(
            "",
            format!(
                "{} cores, {} threads for an operation",
                self.cpu.cores, self.cpu.threads
            ),
        );
        row("", format!("features: {}", self.cpu.features.join(" ")));
        for unit in &self.devices {
            let speed = unit.matmul_flops / 1e9;
            row(
                "device",
                format!(
                    "{}: {speed:.0} GFLOP/s in {} matrix products",
                    unit.name, unit.format
                ),
            );
        }
        if let Some(memory) = &self.memory {
            row(
                "memory",
                format!(
                    "{} free of {}",
                    output::size(memory.available),
                    output::size(memory.total)
                ),
            );
        }
        for tool in &self.tools {
            row(
                tool.name,
                tool.version
                    .clone()
                    .unwrap_or_else(|| "not found".to_owned()),
            );
        }
        let cache = &self.cache;
        row(
            "cache",
            format!(
                "{}, {} in it",
                cache.disk.folder.display(),
                output::size(cache.bytes)
            ),
        );
        row(
            "disk",
            format!(
                "{} free for the cache, {} here",
                free(&cache.disk),
                free(&self.here)
            ),
        );
        let mut text = output::columns(&rows);
        text.push('\n');
        if self.missing.is_empty() {
            text.push_str("Nothing is missing.\n");
        }
        for missing in &self.missing {
            text.push_str(&format!(
                "missing  {}\n   try:  {}\n",
                missing.what, missing.remedy
            ));
        }
        text
    }
}

fn free(disk: &Disk) -> String {
    disk.free
        .map_or_else(|| "an unknown amount".to_owned(), output::size)
}
