//! Checkpoints: a model folder (or an adapter folder, where only that is trained) plus `trainer/`, written
//! whole or not at all.
//!
//! A checkpoint is made under a temporary name, every file synced, a manifest of sizes and hashes written
//! last, and then renamed into place. Reading takes the newest whole one; a torn one is named and skipped.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use etude_data::DataError;
use etude_model::certificate::{CERTIFICATE, REFERENCE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;

pub(crate) const MANIFEST: &str = "manifest.json";
const TRAINER: &str = "trainer";
const WEIGHTS: &str = ".safetensors";
const UNFINISHED: &str = ".unfinished-";

/// What the loop needs besides weights and optimizer state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Steps done.
    pub step: u64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Tokens that were supervised.
    pub supervised: u64,
    /// Seconds trained, over all sessions.
    pub seconds: f64,
    /// Steps in a row that were skipped, up to now.
    pub bad_steps: u64,
    /// The best validation loss so far and its step.
    pub best: Option<(f64, u64)>,
    /// Mean loss of the last step, nats a supervised token, where it is finite.
    #[serde(default)]
    pub last_loss: Option<f64>,
    /// The last validation's figures.
    pub last_evaluation: Option<crate::stage::Evaluation>,
    /// Hash of what the run is a function of: recipe and data. A run resumes only under the same one.
    pub fingerprint: String,
}

impl TrainerState {
    /// Before the first step.
    pub fn new(fingerprint: String) -> Self {
        Self {
            step: 0,
            tokens: 0,
            supervised: 0,
            seconds: 0.0,
            bad_steps: 0,
            best: None,
            last_loss: None,
            last_evaluation: None,
            fingerprint,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    path: String,
    bytes: u64,
    sha256: String,
}

/// The checkpoints of a run.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// A checkpoint that was found whole.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its folder, which is a model or adapter folder.
    pub folder: PathBuf,
    /// The loop's state.
    pub state: TrainerState,
}

impl Checkpoint {
    /// The optimizer's state.
    pub fn optimizer(&self) -> PathBuf {
        self.folder.join(TRAINER).join("optimizer.safetensors")
    }
}

impl Checkpoints {
    /// The checkpoints under `run/checkpoints`.
    pub fn new(run: &Path) -> Self {
        Self {
            folder: run.join("checkpoints"),
        }
    }

    /// Writes the checkpoint of `state.step`. `write_model` and `write_optimizer` fill the folder and file
    /// they are given.
    ///
    /// # Errors
    /// When anything cannot be written; older checkpoints are untouched then.
    pub fn save(
        &self,
        state: &TrainerState,
        write_model: impl FnOnce(&Path) -> Result<()>,
        write_optimizer: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = step_name(state.step);
        let place = self.folder.join(&name);
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("{}: cannot be made", self.folder.display()))?;
        if place.join(MANIFEST).is_file() && verify(&place).is_ok() {
            return Ok(place); // this very step was saved before
        }
        let unfinished = self.folder.join(format!("{UNFINISHED}{name}"));
        remove(&unfinished)?;
        let written = (|| {
            fs::create_dir_all(unfinished.join(TRAINER))?;
            write_model(&unfinished)?;
            write_optimizer(&unfinished.join(TRAINER).join("optimizer.safetensors"))?;
            let json = serde_json::to_vec_pretty(state).context("the state is plain data")?;
            fs::write(unfinished.join(TRAINER).join("state.json"), json)?;
            let manifest =
                serde_json::to_vec_pretty(&entries(&unfinished)?).context("plain data")?;
            fs::write(unfinished.join(MANIFEST), manifest)?;
            durable::sync_tree(&unfinished)
        })();
        if let Err(error) = written {
            // What is half-written is of no use; what was saved before stays.
            let _ = remove(&unfinished);
            return Err(error.context(format!(
                "{}: the checkpoint could not be written (older ones are untouched); make room or choose another --run",
                place.display()
            )));
        }
        remove(&place)?; // only a torn one can be in the way
        fs::rename(&unfinished, &place)
            .with_context(|| format!("{}: cannot be put in place", place.display()))?;
        durable::sync_folder(&self.folder)?;
        Ok(place)
    }

    /// The folder of one step's checkpoint, whether it is there or not.
    pub fn place(&self, step: u64) -> PathBuf {
        self.folder.join(step_name(step))
    }

    /// The steps that have a folder, oldest first; none where the run has made no checkpoint yet.
    ///
    /// # Errors
    /// When the folder is there and cannot be read: that is not a run without checkpoints.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let step = |name: &str| name.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(|name| step(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// What lies in the folder.
    fn names(&self) -> Result<Vec<String>> {
        let unreadable = || {
            format!(
                "{}: cannot be read, so nobody knows how far the run is; look at its permissions and its disk",
                self.folder.display()
            )
        };
        // A link to a disk that is not there is not a run without checkpoints.
        let there = fs::symlink_metadata(&self.folder).map_err(|error| error.kind());
        if there.is_err_and(|kind| kind == ErrorKind::NotFound) {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.folder).with_context(unreadable)?;
        entries
            .map(|entry| {
                let entry = entry.with_context(unreadable)?;
                Ok(entry.file_name().to_string_lossy().into_owned())
            })
            .collect()
    }

    /// The newest whole checkpoint, and a line for each torn one that was passed over.
    ///
    /// # Errors
    /// As [`Checkpoints::steps`].
    pub fn newest(&self) -> Result<(Option<Checkpoint>, Vec<String>)> {
        self.newest_up_to(u64::MAX)
    }

    /// As [`Checkpoints::newest`], for a run to go on from: what it has learnt is not to be lost without a word.
    ///
    /// # Errors
    /// Checkpoints of which none is whole, or that cannot be looked at.
    pub fn to_go_on_from(&self) -> Result<(Option<Checkpoint>, Vec<String>)> {
        let (found, torn) = self.newest()?;
        if let (None, [first, ..]) = (&found, &torn[..]) {
            return Err(DataError::in_file(
                &self.folder,
                format!("holds checkpoints, and none of them is whole: {first}"),
                "choose another --run; or remove the run folder, to lose what the run has learnt and start over",
            )
            .into());
        }
        Ok((found, torn))
    }

    /// As [`Checkpoints::newest`], of those after at most `most` steps.
    ///
    /// # Errors
    /// As [`Checkpoints::steps`].
    pub fn newest_up_to(&self, most: u64) -> Result<(Option<Checkpoint>, Vec<String>)> {
        let mut torn = Vec::new();
        let steps = self.steps()?.into_iter().filter(|&step| step <= most);
        for step in steps.rev() {
            match self.open(step) {
                Ok(checkpoint) => return Ok((Some(checkpoint), torn)),
                Err(error) => torn.push(format!("{error:#}")),
            }
        }
        Ok((None, torn))
    }

    /// The checkpoint of the best validation loss among those that were saved, where it is still there and
    /// whole, and that loss.
    ///
    /// # Errors
    /// As [`Checkpoints::steps`].
    pub fn best(&self) -> Result<Option<(Checkpoint, f64)>> {
        let best = self.newest()?.0.and_then(|newest| newest.state.best);
        Ok(best.and_then(|(loss, step)| Some((self.open(step).ok()?, loss))))
    }

    /// Opens the checkpoint of one step and verifies it.
    ///
    /// # Errors
    /// What is torn.
    pub fn open(&self, step: u64) -> Result<Checkpoint> {
        let folder = self.folder.join(step_name(step));
        verify(&folder)
            .with_context(|| format!("{}: the checkpoint is not whole", folder.display()))?;
        let path = folder.join(TRAINER).join("state.json");
        let text =
            fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let state: TrainerState = serde_json::from_slice(&text)
            .with_context(|| format!("{}: not a trainer's state", path.display()))?;
        if state.step != step {
            bail!("{}: is of step {}, not {step}", path.display(), state.step);
        }
        Ok(Checkpoint { folder, state })
    }

    /// Removes all but the last `keep` up to `newest` and the best, and what a crash left half-written.
    /// Those of later steps are torn ones that were passed over: they must not be kept in place of whole
    /// ones.
    ///
    /// # Errors
    /// When a folder cannot be removed, or none can be looked at.
    pub fn prune(&self, newest: u64, keep: usize, best: Option<u64>) -> Result<()> {
        let (steps, later): (Vec<u64>, Vec<u64>) =
            self.steps()?.into_iter().partition(|&step| step <= newest);
        let old = steps.iter().take(steps.len().saturating_sub(keep));
        for &step in old.filter(|&&step| Some(step) != best).chain(&later) {
            remove(&self.folder.join(step_name(step)))?;
        }
        let names = self.names()?;
        let unfinished = names.iter().filter(|name| name.starts_with(UNFINISHED));
        for name in unfinished {
            remove(&self.folder.join(name))?;
        }
        Ok(())
    }
}

/// `step-00000500`.
pub fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Size and hash of every file below `folder`, by path.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let mut files = Vec::new();
    list(folder, folder, &mut files)?;
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let full = folder.join(&path);
            let bytes = fs::metadata(&full)?.len();
            Ok(Entry {
                sha256: hash(&full)?,
                path,
                bytes,
            })
        })
        .collect()
}

fn list(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, files)?;
        } else {
            let relative = path.strip_prefix(root).context("below its root")?;
            files.push(
                relative
                    .to_str()
                    .context("our own names are UTF-8")?
                    .to_owned(),
            );
        }
    }
    Ok(())
}

fn hash(path: &Path) -> Result<String> {
    let mut file =
        fs::File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file
            .read(&mut buffer)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Whether a file of this name, were it in a checkpoint, could be taken for a part of it. Scores and
/// certificates that somebody adds are not.
fn would_be_read(name: &str) -> bool {
    let added = [MANIFEST, CERTIFICATE, REFERENCE];
    (name.ends_with(WEIGHTS) || name.ends_with(".json")) && !added.contains(&name)
}

/// Compares a checkpoint with its manifest.
fn verify(folder: &Path) -> Result<()> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).with_context(|| format!("{}: is missing", path.display()))?;
    let manifest: Vec<Entry> =
        serde_json::from_slice(&text).with_context(|| format!("{}: is damaged", path.display()))?;
    let has = |name: &str| manifest.iter().any(|entry| entry.path == name);
    let model = has("config.json") || has("adapter_config.json");
    let weights = |entry: &Entry| !entry.path.contains('/') && entry.path.ends_with(WEIGHTS);
    if !has("trainer/state.json")
        || !has("trainer/optimizer.safetensors")
        || !model
        || !manifest.iter().any(weights)
    {
        bail!("{}: does not list a whole checkpoint", path.display());
    }
    let mut present = Vec::new();
    list(folder, folder, &mut present)?;
    for name in present {
        if would_be_read(&name) && !has(&name) {
            bail!(
                "{}: {name} lies in the checkpoint and is not listed",
                path.display()
            );
        }
    }
    for entry in &manifest {
        let file = folder.join(&entry.path);
        let bytes = fs::metadata(&file)
            .with_context(|| format!("{}: is missing", file.display()))?
            .len();
        if bytes != entry.bytes {
            bail!(
                "{}: has {bytes} bytes, {} were written",
                file.display(),
                entry.bytes
            );
        }
        if hash(&file)? != entry.sha256 {
            bail!(
                "{}: does not have the contents that were written",
                file.display()
            );
        }
    }
    Ok(())
}
