//! `etude export`: a model written out as a Hugging Face folder of its own, or as a GGUF file.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use etude_model::Prompt;
use etude_model::certificate::{self, CERTIFICATE, Certificate, Subject};
use etude_model::gguf::{self, ExportFormat};
use etude_model::hf::{self, Formats};
use etude_tensor::{Device, Kind};
use serde_json::json;

use crate::adapter::AdapterArgs;
use crate::error::{Exit, Misuse};
use crate::target::{self, DtypeArg};
use crate::{model, output};

const ABOUT: &str = "\
Write a model out as a Hugging Face folder or a GGUF file.

Takes the model out of a run or a checkpoint, merges adapters into it, checks it by loading all of it, and writes config.json, \
generation_config.json, the weights and the tokenizer with its chat template. \
`transformers.AutoModelForCausalLM.from_pretrained(OUT)` loads the folder as it stands.

When OUT ends in .gguf it becomes one file with all of that, for llama.cpp and the programs around it.

What was written is read back: certificate.json (OUT.gguf.certificate.json beside a file) holds the hash of each \
file and what the model says to a few prompts, and `etude doctor OUT` compares.";

const EXAMPLES: &str = "\
Examples:
  etude export runs/pretrain-shakespeare my-model
  etude export runs/pretrain-shakespeare/checkpoints/step-00000500 early
  etude export SmolLM2 merged --adapter runs/task
  etude export runs/big my-model --max-shard 2GB --dtype bfloat16
  etude export runs/big my-model.gguf --format q8_0";

/// What, and where to.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// A model folder, run folder, checkpoint or adapter folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The folder or .gguf file to write; it must not be there yet, or be an empty folder
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Folder: split the weights into files of at most this size, such as 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = target::parse_size)]
    max_shard: u64,
    /// Folder: the weights' number format; by default the one they have
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    /// GGUF file: the matrices' number format; by default f16
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// Print {"folder", "files", "bytes"}, or {"file", "bytes"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl FormatArg {
    fn format(self) -> ExportFormat {
        match self {
            FormatArg::F32 => ExportFormat::F32,
            FormatArg::F16 => ExportFormat::F16,
            FormatArg::Q8_0 => ExportFormat::Q8_0,
        }
    }
}

pub(crate) fn run(args: &ExportArgs) -> Result<Exit> {
    let ending = args.out.extension().unwrap_or_default();
    let to_file = ending.eq_ignore_ascii_case("gguf");
    if to_file && args.dtype.is_some() {
        return Err(Misuse::error(
            "--dtype is for model folders",
            "say --format f32, f16 or q8_0 for a .gguf file",
        ));
    }
    if !to_file && args.format.is_some() {
        return Err(Misuse::error(
            "--format is for GGUF files",
            "name a file that ends in .gguf, or say --dtype for a model folder",
        ));
    }
    let folder = model::folder(&args.model)?;
    if to_file {
        check_file(args)?;
    } else {
        target::check_folder(&args.out)?;
    }
    let (config, _) = hf::load_config(&folder)?;
    let tokenizer = args.adapters.tokenizer(&folder, config.vocab_size)?;
    let formats = match (to_file, args.dtype) {
        (true, _) => Formats::one(Kind::Float),
        (false, Some(dtype)) => Formats::one(dtype.kind()),
        (false, None) => hf::stored_formats(&folder)?,
    };
    let hf::LoadedModel { decoder, ids } = args.adapters.load(&folder, formats, Device::Cpu)?;
    hf::demand_finite(&decoder, &folder)?;
    // What was asked of the model before is asked of it again.
    let prompts = Certificate::load(&folder)?.map_or_else(Vec::new, |before| before.prompts());
    if to_file {
        let subject = Subject::new(hf::LoadedModel { decoder, ids }, Some(tokenizer));
        write_gguf(args, subject, &prompts)?;
        tell_file(args)?;
    } else {
        let recommended = hf::load_generation(&folder)?;
        target::write_folder(&args.out, |unfinished| {
            hf::save_sharded(&decoder, &ids, unfinished, args.max_shard)?;
            hf::save_generation(&recommended, unfinished)?;
            tokenizer.save(unfinished)?;
            drop(decoder);
            let certificate = certificate::certify(unfinished, &prompts, None)?;
            for failed in certificate.failures() {
                output::note(&format!("{}: {}", failed.what, failed.detail));
            }
            Ok(certificate.write(&unfinished.join(CERTIFICATE))?)
        })?;
        target::tell_folder(&args.out, args.json)?;
    }
    Ok(Exit::Done)
}

/// Writes the file, and beside it a certificate with what the model says out of the file.
fn write_gguf(args: &ExportArgs, subject: Subject, prompts: &[Prompt]) -> Result<()> {
    let format = args.format.unwrap_or(FormatArg::F16).format();
    let name = args.out.file_name().unwrap_or_default().to_string_lossy();
    let transcripts = subject.transcripts(prompts)?;
    target::write_file(&args.out, |unfinished| {
        let tokenizer = subject.tokenizer.as_ref().expect("it was given");
        gguf::export(
            &subject.decoder,
            &subject.ids,
            tokenizer,
            unfinished,
            format,
        )?;
        drop(subject);
        certificate::certify_gguf(unfinished, &name, &transcripts)
    })
}

fn check_file(args: &ExportArgs) -> Result<()> {
    if args.out.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Misuse::error(
            format!(
                "{}: names a folder, and a GGUF file is one file",
                args.out.display()
            ),
            "leave out the slash at its end",
        ));
    }
    let what = match args.out.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(found) if found.is_file() => "is there already",
        Ok(found) if found.is_symlink() => "is a link, and a model is written to a new file only",
        Ok(found) if found.is_dir() => "is a folder",
        Ok(_) => "is a device or a pipe, and a model is written to a new file only",
    };
    Err(Misuse::error(
        format!("{}: {what}", args.out.display()),
        "name a new file",
    ))
}

fn tell_file(args: &ExportArgs) -> Result<()> {
    let bytes = args.out.metadata().map_or(0, |found| found.len());
    if args.json {
        return output::json(&json!({"file": args.out, "bytes": bytes}));
    }
    output::line(&format!("{} ({})", args.out.display(), output::size(bytes)))
}
