//! What a MODEL argument means, and loading it: a model folder, a run folder (its `model/`), a checkpoint, or
//! an adapter folder that names its base.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use etude_data::{Cache, KnownModel, Progress};
use etude_model::certificate::CERTIFICATE;
use etude_model::hf::{self, Formats, TokenIds, peft};
use etude_model::{Decoder, gguf};
use etude_tensor::{Kind, device, memory, parse_device};
use etude_tokenizer::{Tokenizer, TokenizerError};

use crate::adapter::AdapterArgs;
use crate::error::Misuse;
use crate::{certificate, output, target};

/// Where a model runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// Where to run: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// Threads of an operation on the CPU; 0 leaves libtorch's choice
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) threads: u16,
    #[command(flatten)]
    pub(crate) adapters: AdapterArgs,
}

/// A model and its tokenizer, ready to run.
pub(crate) struct Loaded {
    /// The model folder that the argument led to, or that of the adapter on it: its run tells how it was trained.
    pub(crate) folder: PathBuf,
    /// The model folder that the argument led to, whatever adapter is on it: it recommends how to draw tokens.
    pub(crate) base: PathBuf,
    /// The decoder with its weights.
    pub(crate) decoder: Decoder,
    /// Its special tokens.
    pub(crate) ids: TokenIds,
    /// The tokenizer beside it.
    pub(crate) tokenizer: Tokenizer,
}

impl DeviceArgs {
    /// Loads a model and its tokenizer onto the device. The first thing a command does that needs a model.
    ///
    /// # Errors
    /// What is wrong with the device, the folder, the tokenizer, or their fit.
    pub(crate) fn load(&self, model: &Path) -> Result<Loaded> {
        memory::tune();
        let folder = folder(model)?;
        let device = self.device()?;
        let (config, _) = hf::load_config(&folder)?;
        let tokenizer = self.adapters.tokenizer(&folder, config.vocab_size)?;
        // An adapter is added in float32.
        let hf::LoadedModel { decoder, ids } = match self.adapters.folder() {
            None => {
                self.adapters.tell_other_base(&folder);
                hf::load_to_ask(&folder, device)?
            }
            Some(_) => self
                .adapters
                .load(&folder, Formats::one(Kind::Float), device)?,
        };
        Ok(Loaded {
            base: folder.clone(),
            folder: self.adapters.folder().map_or(folder, Path::to_owned),
            decoder,
            ids,
            tokenizer,
        })
    }

    /// The device, with the number of threads set.
    ///
    /// # Errors
    /// A device that is not known or not there.
    pub(crate) fn device(&self) -> Result<etude_tensor::Device> {
        let device = parse_device(&self.device)?;
        device::set_threads(usize::from(self.threads));
        Ok(device)
    }
}

/// The model folder that a MODEL argument means. A path that is there wins over the name of a published model.
///
/// # Errors
/// Nothing there, or nothing that holds a model; what lies there instead is named.
pub(crate) fn folder(given: &Path) -> Result<PathBuf> {
    let holds_model =
        |folder: &Path| folder.join("config.json").is_file() || peft::is_adapter(folder);
    if holds_model(given) {
        return Ok(given.to_owned());
    }
    let result = given.join("model");
    if holds_model(&result) {
        return Ok(result);
    }
    let shown = given.display();
    if !given.exists() {
        if let Some(known) = given.to_str().and_then(KnownModel::named) {
            return published(&known);
        }
        let remedy = "give a model folder, a run folder, a checkpoint folder or `smollm2`; runs lie in runs/ by default";
        return Err(Misuse::error(
            format!("{shown}: there is no such folder"),
            remedy,
        ));
    }
    if !given.is_dir() {
        let parent = given
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let is_gguf = given
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        let remedy = if is_gguf {
            format!("make a model folder of it first: etude import {shown} FOLDER")
        } else if holds_model(parent) {
            format!("give the folder that holds it, {}", parent.display())
        } else {
            "give the folder that holds config.json and model.safetensors".to_owned()
        };
        return Err(Misuse::error(
            format!("{shown}: is a file, not a model folder"),
            remedy,
        ));
    }
    Err(Misuse::error(
        format!("{shown}: holds no model (no config.json, no model/config.json)"),
        elsewhere(given),
    ))
}

/// The folder of a published model that is known by name, fetched and imported into the cache the first time.
///
/// # Errors
/// When it cannot be fetched, or the cache cannot be written.
fn published(known: &KnownModel) -> Result<PathBuf> {
    let cache = Cache::user()?;
    let models = cache.root().join("models");
    let place = models.join(&known.name);
    let unwritable = || format!("{}: cannot be written", models.display());
    fs::create_dir_all(&models).with_context(unwritable)?;
    let lock =
        File::create(models.join(format!(".{}.lock", known.name))).with_context(unwritable)?;
    lock.lock().with_context(unwritable)?; // until the end of this function; one process imports
    if !is_imported(known, &place)? {
        let file = known.fetch(&cache, &Progress::Shown)?;
        output::note(&format!(
            "importing {} into {}",
            known.name,
            place.display()
        ));
        target::write_folder(&place, |unfinished| {
            gguf::import(&file, unfinished, Formats::one(Kind::Float))?;
            let reference = certificate::of_known(known)?;
            let certificate = certificate::of_import(unfinished, reference.as_ref())?;
            certificate::demand(&certificate, &known.name)
        })?;
    }
    Ok(place)
}

/// Whether an import lies in the cache. One of an Etude that wrote no certificates is checked, once; what fails
/// is removed.
fn is_imported(known: &KnownModel, place: &Path) -> Result<bool> {
    let holds = |name: &str| place.join(name).is_file();
    if !holds("config.json") || holds(CERTIFICATE) {
        return Ok(holds("config.json"));
    }
    output::note(&format!("checking {} in {}", known.name, place.display()));
    let reference = certificate::of_known(known)?;
    let checked = certificate::of_import(place, reference.as_ref())?;
    let Some(failed) = checked.failures().next() else {
        return Ok(true);
    };
    let what = format!("{}: {}", failed.what, failed.detail);
    output::note(&format!("{}: {what}; it is imported anew", known.name));
    fs::remove_dir_all(place).with_context(|| format!("{}: cannot be removed", place.display()))?;
    Ok(false)
}

/// What to give in place of a folder without a model.
fn elsewhere(given: &Path) -> String {
    let names = |folder: &Path, holds: &dyn Fn(&Path) -> bool| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| holds(path))
            .collect();
        found.sort();
        found
    };
    let checkpoints = names(&given.join("checkpoints"), &|path| {
        path.join("config.json").is_file() || peft::is_adapter(path)
    });
    if let Some(newest) = checkpoints.last() {
        return format!(
            "the run has not finished; its newest checkpoint is {}",
            newest.display()
        );
    }
    let runs = names(given, &|path| {
        path.join("model").join("config.json").is_file()
    });
    if runs.is_empty() {
        return "give the folder that holds config.json and model.safetensors".to_owned();
    }
    let runs: Vec<String> = runs.iter().map(|run| run.display().to_string()).collect();
    format!("give one of the runs in it: {}", runs.join(", "))
}

/// The tokenizer of a tokenizer folder or file, of a model folder, or of a run.
///
/// # Errors
/// None there, or one that cannot be read.
pub(crate) fn tokenizer(given: &Path) -> Result<Tokenizer> {
    let in_run = given.join("model");
    let place =
        if !given.join("tokenizer.json").is_file() && in_run.join("tokenizer.json").is_file() {
            in_run
        } else if !given.join("tokenizer.json").is_file() && peft::is_adapter(given) {
            peft::base(given)?
        } else {
            given.to_owned()
        };
    match Tokenizer::load(&place) {
        Err(TokenizerError::NoTokenizer { folder }) if folder.join("config.json").is_file() => {
            Err(Misuse::error(
                format!(
                    "{}: the model folder holds no tokenizer.json",
                    folder.display()
                ),
                "copy the tokenizer.json that the model was trained with into it",
            ))
        }
        loaded => Ok(loaded?),
    }
}

/// Refuses a tokenizer that has ids the model does not know.
pub(crate) fn check_fit(folder: &Path, tokenizer: &Tokenizer, vocab_size: i64) -> Result<()> {
    let tokens = tokenizer.vocab_size();
    if tokens as i64 <= vocab_size {
        return Ok(());
    }
    let remedy = match within(tokenizer, vocab_size) {
        Some(_) => {
            "write it anew with `etude import`, which leaves out tokens that were added later"
        }
        None => "put the tokenizer that the model was trained with into the folder",
    };
    Err(Misuse::error(
        format!(
            "{}: its tokenizer has {tokens} tokens, its model knows {vocab_size}{}",
            folder.display(),
            not_known(tokenizer, vocab_size)
        ),
        remedy,
    ))
}

/// The tokenizer of a model that is imported: without tokens that were added to the vocabulary and that the model does
/// not know.
pub(crate) fn fitted(folder: &Path, vocab_size: i64) -> Result<Tokenizer> {
    let tokenizer = tokenizer(folder)?;
    if tokenizer.vocab_size() as i64 > vocab_size
        && let Some(smaller) = within(&tokenizer, vocab_size)
    {
        output::note(&format!(
            "{}: its model knows {vocab_size} tokens{}; left out of the tokenizer",
            folder.display(),
            not_known(&tokenizer, vocab_size)
        ));
        return Ok(smaller);
    }
    check_fit(folder, &tokenizer, vocab_size)?;
    Ok(tokenizer)
}

fn within(tokenizer: &Tokenizer, vocab_size: i64) -> Option<Tokenizer> {
    tokenizer.within(usize::try_from(vocab_size).ok()?)
}

/// The tokens beyond a model's vocabulary, few of many.
fn not_known(tokenizer: &Tokenizer, vocab_size: i64) -> String {
    let beyond = tokenizer.beyond(usize::try_from(vocab_size).unwrap_or(0));
    match beyond.len() {
        0 => String::new(),
        1..=4 => format!(", not {}", beyond.join(", ")),
        many => format!(", not {} and {} more", beyond[..2].join(", "), many - 2),
    }
}

/// Refuses a model without a chat template where one is needed.
///
/// # Errors
/// It has none.
pub(crate) fn demand_template(loaded: &Loaded) -> Result<()> {
    if loaded.tokenizer.chat_template().is_some() {
        return Ok(());
    }
    Err(Misuse::error(
        format!(
            "{}: a base model without a chat template, which a conversation needs",
            loaded.folder.display()
        ),
        "continue text with `etude generate` without --chat, fine-tune the model first, or put a \
         chat_template.jinja beside its tokenizer.json",
    ))
}
