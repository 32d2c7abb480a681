//! `etude export`: a model written out as a Hugging Face folder of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use etude_model::hf::{self, peft};
use etude_tensor::{Device, Kind};
use serde_json::{Value, json};

use crate::adapter::AdapterArgs;
use crate::error::{Exit, Misuse};
use crate::{model, output};

const ABOUT: &str = "\
Write a model out as a Hugging Face folder.

Takes the model out of a run or a checkpoint, merges adapters into it, checks it by loading all of it, and writes config.json, \
generation_config.json, the weights and the tokenizer with its chat template. \
`transformers.AutoModelForCausalLM.from_pretrained(DIR)` loads the folder as it stands.";

const EXAMPLES: &str = "\
Examples:
  etude export runs/shakespeare my-model
  etude export runs/shakespeare/checkpoints/step-00000500 early
  etude export SmolLM2 merged --adapter runs/task
  etude export runs/big my-model --max-shard 2GB --dtype bfloat16";

/// What, and where to.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// A model folder, run folder, checkpoint or adapter folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The folder to write; it must not be there yet, or be empty
    #[arg(value_name = "DIR")]
    out: PathBuf,
    /// Split the weights into files of at most this size, such as 500MB or 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    max_shard: u64,
    /// The weights' number format; by default the one they have
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// Print {"folder", "files", "bytes"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DtypeArg {
    Float32,
    Bfloat16,
    Float16,
}

impl DtypeArg {
    fn kind(self) -> Kind {
        match self {
            DtypeArg::Float32 => Kind::Float,
            DtypeArg::Bfloat16 => Kind::BFloat16,
            DtypeArg::Float16 => Kind::Half,
        }
    }
}

pub(crate) fn run(args: &ExportArgs) -> Result<Exit> {
    let folder = model::folder(&args.model)?;
    check_target(&args.out)?;
    let (config, _) = hf::load_config(&folder)?;
    let tokenizer = model::tokenizer(&folder)?;
    model::check_fit(&folder, &tokenizer, config.vocab_size)?;
    let kind = args
        .dtype
        .map(DtypeArg::kind)
        .map_or_else(|| stored_kind(&folder), Ok)?;
    let hf::LoadedModel { mut decoder, ids } = hf::load(&folder, kind, Device::Cpu)?;
    args.adapters.merge(&mut decoder)?;

    // Under another name first, so that a full disk leaves no half folder where a whole one is expected.
    let unfinished = beside(&args.out);
    remove(&unfinished)?;
    let written = (|| {
        fs::create_dir_all(&unfinished)
            .with_context(|| format!("{}: cannot be made", unfinished.display()))?;
        hf::save_sharded(&decoder, &ids, &unfinished, args.max_shard)?;
        tokenizer.save(&unfinished)?;
        if args.out.exists() {
            fs::remove_dir(&args.out)
                .with_context(|| format!("{}: cannot be replaced", args.out.display()))?;
        }
        fs::rename(&unfinished, &args.out)
            .with_context(|| format!("{}: cannot be put in place", args.out.display()))
    })();
    if let Err(failure) = written {
        // What is half-written is of no use.
        let _ = remove(&unfinished);
        return Err(failure);
    }
    tell(args)?;
    Ok(Exit::Done)
}

/// The format of the weights as config.json, the base's for an adapter, states it; anything else counts as
/// float32.
fn stored_kind(folder: &Path) -> Result<Kind> {
    if peft::is_adapter(folder) {
        return stored_kind(&peft::base(folder)?);
    }
    let config = fs::read(folder.join("config.json")).ok();
    let config: Option<Value> = config.and_then(|text| serde_json::from_slice(&text).ok());
    let dtype = config
        .as_ref()
        .and_then(|config| config.get("dtype").or_else(|| config.get("torch_dtype")));
    Ok(match dtype.and_then(Value::as_str) {
        Some("bfloat16") => Kind::BFloat16,
        Some("float16") => Kind::Half,
        Some("float64") => Kind::Double,
        _ => Kind::Float,
    })
}

fn check_target(out: &Path) -> Result<()> {
    let shown = out.display();
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Misuse::error(
                format!("{shown}: is there already and not empty"),
                "name a new folder",
            )),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Err(Misuse::error(
            format!("{shown}: is a file"),
            "name a new folder",
        )),
        Err(error) => Err(error).with_context(|| format!("{shown}: cannot be looked into")),
    }
}

/// The hidden name in the same folder under which `out` is made.
fn beside(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.unfinished"))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

fn tell(args: &ExportArgs) -> Result<()> {
    let mut files = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir(&args.out)
        .with_context(|| format!("{}: cannot be read", args.out.display()))?
    {
        let entry = entry.with_context(|| format!("{}: cannot be read", args.out.display()))?;
        bytes += entry.metadata().map_or(0, |found| found.len());
        files.push(entry.file_name().to_string_lossy().into_owned());
    }
    files.sort();
    if args.json {
        return output::json(&json!({"folder": args.out, "files": files, "bytes": bytes}));
    }
    output::line(&format!(
        "{}: {} ({})",
        args.out.display(),
        files.join(" "),
        output::size(bytes)
    ))
}

/// `500MB`, `5GB`, `300kB`, or plain bytes; decimal units, as Hugging Face counts.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1000),
        ("KB", 1000),
        ("B", 1),
    ];
    let found = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
    let (number, unit) = found.unwrap_or((text, 1_u64));
    let number: u64 = number
        .trim()
        .parse()
        .map_err(|_| "give a whole number and a unit, such as 500MB".to_owned())?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("give more than 0 and less than 18 million TB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("300 kB"), Ok(300_000));
        assert_eq!(parse_size("77"), Ok(77));
        for wrong in ["0", "-1MB", "MB", "5 apples", "99999999999TB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
