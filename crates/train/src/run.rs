//! The run folder: who may write to it, what it is a run of, and the small files that tell its story.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use etude_data::{Cache, Catalog, DataError};
use serde::Serialize;
use toml::{Table, Value};

use crate::checkpoint::Checkpoints;
use crate::durable;
use crate::folder_kind::FolderKind;
use crate::forecast::{FORECAST, Forecast};
use crate::interrupt::Interrupt;

/// Where a stage runs and what it may use.
#[derive(Debug)]
pub struct RunContext {
    /// The run folder.
    pub folder: PathBuf,
    /// The data sets that recipes may name.
    pub catalog: Catalog,
    /// Where fetched data and token shards are kept.
    pub cache: Cache,
    /// Whether to show bars on stderr.
    pub progress: bool,
    /// Whether someone asked the run to stop.
    pub interrupt: Interrupt,
    /// When the process (or this run) started.
    pub started: Instant,
}

impl RunContext {
    /// A run in `folder`, started now, that listens for Ctrl-C and SIGTERM.
    ///
    /// # Errors
    /// When the system refuses the signal handlers.
    pub fn new(folder: PathBuf, catalog: Catalog, cache: Cache, progress: bool) -> Result<Self> {
        Ok(Self {
            folder,
            catalog,
            cache,
            progress,
            interrupt: Interrupt::listen()?,
            started: Instant::now(),
        })
    }

    /// The same context for another run folder.
    pub fn for_folder(&self, folder: PathBuf) -> Self {
        Self {
            folder,
            catalog: self.catalog.clone(),
            cache: self.cache.clone(),
            progress: self.progress,
            interrupt: self.interrupt.clone(),
            started: Instant::now(),
        }
    }
}

/// Keys that change how a run goes, or what is measured of its result, but not what it computes.
const FREE_KEYS: [&str; 14] = [
    "train.device",
    "train.threads",
    "train.log_every",
    "train.tensorboard",
    "train.eval_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "train.loader_threads",
    "train.micro_rows",
    "base.pretrain",
    "eval.choices",
    "eval.metrics",
    "eval.test",
];

/// Run folders. The mark is the lock as well.
pub const RUN: FolderKind = FolderKind {
    mark: ".lock",
    name: "run folder",
    otherwise: |folder| {
        folder.join("recipe.toml").is_file() && begun(folder) || only_planned(folder)
    },
};

/// Whether a run left what another must not write over.
fn begun(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let steps = Checkpoints::new(folder).steps();
    // Checkpoints that cannot be looked at are some.
    has("metrics.jsonl") || has("summary.json") || steps.map_or(true, |steps| !steps.is_empty())
}

/// Whether a forecast is all that lies in the folder.
fn only_planned(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.all(|entry| entry.file_name() == FORECAST) && Forecast::read(folder).is_some()
}

/// A run folder that this process alone may write to, until it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes or reopens a run folder for a recipe (resolved, as TOML).
    ///
    /// # Errors
    /// When it cannot be written, another process has it, something else lies in it, or it holds a run of another
    /// recipe: then the message says what differs. A recipe that failed before its run began is in nobody's way.
    pub fn open(path: &Path, recipe: &str) -> Result<Self> {
        let lock = RUN.claim(path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataError::in_file(
                    path,
                    "another etude process is working in this run folder",
                    "wait for it, or choose another --run",
                )
                .into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("{}: cannot be locked", path.display()));
            }
        }
        let folder = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        etude_files::forget_unfinished(path); // a kill's, since nobody else writes here
        let place = folder.file("recipe.toml");
        let mut kept = recipe.to_owned();
        if begun(path) {
            if !place.exists() {
                return Err(DataError::in_file(
                    &place,
                    "is missing, so nobody knows what this is a run of",
                    "bring it back, or remove the run's folder to begin anew",
                )
                .into());
            }
            let saved = fs::read_to_string(&place)
                .with_context(|| format!("{}: cannot be read", place.display()))?;
            if saved.parse::<Table>().is_err() {
                return Err(DataError::in_file(
                    &place,
                    "is damaged, so nobody knows what this is a run of",
                    "put the file back as it was, or choose another --run",
                )
                .into());
            }
            let differences = recipe_differences(&saved, recipe)?;
            if !differences.is_empty() {
                return Err(DataError::in_file(
                    path,
                    format!(
                        "holds a run of another recipe\n  {}",
                        differences.join("\n  ")
                    ),
                    "choose another --run, or remove the folder to start again",
                )
                .into());
            }
            if folder.file("summary.json").is_file() {
                kept = with_train_of(recipe, &saved)?;
            }
        }
        durable::write(&place, kept.as_bytes())?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a JSON file, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(value).context("plain data")?;
        json.push(b'\n');
        durable::write(&self.file(name), &json)
    }

    /// Fills the folder `name` by `write`, whole or not at all, in place of what was there.
    ///
    /// # Errors
    /// When it cannot be written; what was there before then stays.
    pub fn replace_folder(
        &self,
        name: &str,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let (place, fresh) = (self.file(name), self.file(&format!(".{name}.unfinished")));
        let old = self.file(&format!(".{name}.old"));
        for leftover in [&fresh, &old] {
            if leftover.exists() {
                fs::remove_dir_all(leftover)
                    .with_context(|| format!("{}: cannot be removed", leftover.display()))?;
            }
        }
        fs::create_dir_all(&fresh)
            .with_context(|| format!("{}: cannot be made", fresh.display()))?;
        if let Err(error) = write(&fresh).and_then(|()| durable::sync_tree(&fresh)) {
            // What is half-written is of no use, and takes the room of the whole.
            let _ = fs::remove_dir_all(&fresh);
            return Err(error.context(format!("{}: cannot be written", place.display())));
        }
        if place.exists() {
            fs::rename(&place, &old)
                .with_context(|| format!("{}: cannot be replaced", place.display()))?;
        }
        fs::rename(&fresh, &place)
            .with_context(|| format!("{}: cannot be put in place", place.display()))?;
        durable::sync_folder(&self.path)?;
        if old.exists() {
            fs::remove_dir_all(&old)
                .with_context(|| format!("{}: cannot be removed", old.display()))?;
        }
        Ok(place)
    }
}

/// The recipe as a finished run keeps it: `[train]` stays what made it, whatever this session would have.
fn with_train_of(recipe: &str, saved: &str) -> Result<String> {
    let (mut kept, made): (Table, Table) = (recipe.parse()?, saved.parse()?);
    match made.get("train") {
        Some(train) if kept.get("train") != Some(train) => {
            kept.insert("train".to_owned(), train.clone());
            Ok(toml::to_string(&kept)?)
        }
        _ => Ok(recipe.to_owned()),
    }
}

/// What differs between two recipes, a line a key, apart from keys that do not change the result.
///
/// # Errors
/// When one of them is no TOML.
pub fn recipe_differences(saved: &str, now: &str) -> Result<Vec<String>> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (recipe, keys) in [(saved, &mut before), (now, &mut after)] {
        let table: Table = recipe.parse().context("a resolved recipe is TOML")?;
        flatten("", &Value::Table(table), keys);
    }
    let find = |list: &[(String, String)], key: &str| {
        list.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
    };
    let mut keys: Vec<&String> = before.iter().chain(&after).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let free = |key: &str| FREE_KEYS.contains(&key);
    let lines = keys.into_iter().filter(|key| !free(key)).filter_map(|key| {
        let (was, is) = (find(&before, key), find(&after, key));
        let show = |value: Option<String>| value.unwrap_or_else(|| "unset".to_owned());
        (was != is).then(|| format!("{key}: the run has {}, the recipe {}", show(was), show(is)))
    });
    Ok(lines.collect())
}

fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let path = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&path, value, out);
            }
        }
        leaf => out.push((prefix.to_owned(), leaf.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_folder_is_for_one_recipe_and_one_process() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let first = RunFolder::open(&path, "[train]\nsteps = 5\nthreads = 1\n").unwrap();
        let error = RunFolder::open(&path, "[train]\nsteps = 5\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("another etude process"), "{error}");
        drop(first);
        RunFolder::open(&path, "[train]\nsteps = 4\n").unwrap();
        RunFolder::open(&path, "[train]\nsteps = 5\nthreads = 1\n").unwrap();
        fs::write(path.join("metrics.jsonl"), "").unwrap(); // the run has begun
        // What made a finished run stays written down.
        fs::write(path.join("summary.json"), "{}").unwrap();
        let later = "[train]\nsteps = 5\nthreads = 3\n[eval]\ntest = 7\n";
        drop(RunFolder::open(&path, later).unwrap());
        let kept = fs::read_to_string(path.join("recipe.toml")).unwrap();
        assert!(kept.contains("threads = 1") && kept.contains("test = 7"));
        fs::remove_file(path.join("summary.json")).unwrap();
        RunFolder::open(&path, "[train]\nsteps = 5\nthreads = 2\n").unwrap();
        let error = RunFolder::open(&path, "[train]\nsteps = 6\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("train.steps: the run has 5, the recipe 6"),
            "{error}"
        );
    }

    #[test]
    fn a_run_that_lost_its_recipe_or_its_log_does_not_take_another_recipe() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let recipe = "[train]\nsteps = 5\n";
        drop(RunFolder::open(&path, recipe).unwrap());
        fs::create_dir_all(path.join("checkpoints/step-00000002")).unwrap();
        let refused = |recipe: &str| RunFolder::open(&path, recipe).unwrap_err().to_string();
        let told = refused("[train]\nsteps = 6\n");
        assert!(told.contains("another recipe"), "{told}");
        fs::remove_file(path.join("recipe.toml")).unwrap();
        let told = refused(recipe);
        assert!(told.contains("recipe.toml: is missing"), "{told}");
        assert!(!path.join("recipe.toml").exists());
    }

    #[test]
    fn what_is_in_the_way_of_a_run_is_the_users_to_mend() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let damaged = parent.path().join("damaged");
        drop(RunFolder::open(&damaged, "").unwrap());
        fs::write(damaged.join("metrics.jsonl"), "").unwrap();
        fs::write(damaged.join("recipe.toml"), "x = [").unwrap();
        for (path, expected) in [
            (file.clone(), "a file of that name"),
            (file.join("run"), "a file of that name"),
            (damaged.clone(), "recipe.toml: is damaged"),
        ] {
            let error = RunFolder::open(&path, "").unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            let error = error.downcast::<DataError>().expect("bad input");
            assert!(error.is_input(), "{error}");
        }
        assert_eq!(
            fs::read_to_string(damaged.join("recipe.toml")).unwrap(),
            "x = ["
        );
    }

    #[test]
    fn a_replaced_folder_is_the_old_one_or_the_new_one() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&parent.path().join("run"), "").unwrap();
        run.replace_folder("model", |folder| Ok(fs::write(folder.join("a"), "1")?))
            .unwrap();
        run.replace_folder("model", |_| bail!("no room"))
            .unwrap_err();
        assert_eq!(fs::read_to_string(run.file("model/a")).unwrap(), "1");
        run.replace_folder("model", |folder| Ok(fs::write(folder.join("a"), "2")?))
            .unwrap();
        assert_eq!(fs::read_to_string(run.file("model/a")).unwrap(), "2");
    }
}
