//! What a run puts on the disk: how many checkpoints lie there at a time, what they take together with the
//! result, and whether there is room. A run that would fill the disk is refused before its first step.

use std::fs;
use std::path::Path;

use anyhow::Result;
use etude_data::DataError;
use etude_model::Decoder;
use serde::{Deserialize, Serialize};

use super::{ModelBytes, Times};
use crate::optimizer::Optimizer;
use crate::run::RunFolder;
use crate::settings::TrainSettings;

/// How much disk a run takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskForecast {
    /// A checkpoint.
    pub checkpoint: u64,
    /// The result: `model/` and, where there is one, `adapter/`.
    pub result: u64,
    /// Checkpoints and result at the fullest moment, a checkpoint being written.
    pub most: u64,
    /// What stays of them at the end. One checkpoint more when the best is not among the last.
    pub left: u64,
    /// What the data takes in the cache, fetched and as token shards; 0 where nobody counted.
    pub cache: u64,
    /// Room on the run folder's file system; none where the system does not tell.
    pub free: Option<u64>,
}

impl DiskForecast {
    /// From the size of one checkpoint and of the result.
    pub(crate) fn new(train: &TrainSettings, checkpoint: u64, result: u64) -> Self {
        let made = Times::of(train).checkpoints;
        let kept = made.min(train.keep as u64);
        // A validation on the way can make an old checkpoint the best, which is kept besides.
        let best = u64::from(train.eval_every > 0);
        let kept_with_best = made.min(train.keep as u64 + best);
        let with_new = made.min(train.keep as u64 + best + 1);
        let bytes = |checkpoints: u64| checkpoint.saturating_mul(checkpoints);
        Self {
            checkpoint,
            result,
            most: bytes(with_new).max(bytes(kept_with_best).saturating_add(result)),
            left: bytes(kept).saturating_add(result),
            cache: 0,
            free: None,
        }
    }

    /// Whether there is room; none where nobody knows.
    pub fn fits(&self) -> Option<bool> {
        self.free.map(|free| self.most <= free)
    }

    /// Refuses a run whose checkpoints `free` bytes cannot hold. `there`: the bytes of the checkpoints that the
    /// folder has already, which will give way or be kept instead of new ones.
    ///
    /// # Errors
    /// The folder, what is needed, what is free, and what to lower.
    pub fn must_fit(
        &self,
        folder: &Path,
        train: &TrainSettings,
        there: u64,
        free: u64,
    ) -> Result<()> {
        let needed = self.most.saturating_sub(there);
        if needed <= free {
            return Ok(());
        }
        let gigabytes = |bytes: u64| match bytes {
            0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
            1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
            _ => format!("{:.1} GB", bytes as f64 / 1e9),
        };
        let mut ways = Vec::new();
        if self.most > 2 * self.checkpoint + self.result && train.keep > 1 {
            ways.push(format!("lower train.keep, which is {}", train.keep));
        }
        if train.checkpoint_every > 0 {
            let every = train.checkpoint_every;
            ways.push(format!(
                "set train.checkpoint_every = 0 (it is {every}), which saves at the end alone"
            ));
        }
        ways.push("make room, or choose another disk with --run".to_owned());
        let what = format!(
            "the disk cannot hold this run: its checkpoints ({} each) and its result need {}, and {} are free",
            gigabytes(self.checkpoint),
            gigabytes(needed),
            gigabytes(free)
        );
        Err(DataError::in_file(folder, what, ways.join("; or ")).into())
    }
}

/// Refuses to start a run whose checkpoints its disk cannot hold. What a checkpoint takes is counted from the model
/// alone: the tokenizer and small files come on top.
///
/// # Errors
/// As [`DiskForecast::must_fit`].
pub(crate) fn require(
    folder: &RunFolder,
    decoder: &Decoder,
    optimizer: &Optimizer,
    train: &TrainSettings,
) -> Result<()> {
    let bytes = ModelBytes::of(decoder, optimizer);
    let disk = DiskForecast::new(train, bytes.checkpoint(), bytes.result(decoder));
    let Some(free) = free_bytes(folder.path()) else {
        return Ok(());
    };
    let there = folder_bytes(&folder.file("checkpoints"));
    disk.must_fit(folder.path(), train, there, free)
}

/// The bytes that are free to this user on the file system of `path`, or of the nearest folder above it that
/// is there. None where the system does not tell.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let place = existing(path);
    let found = rustix::fs::statvfs(&place).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The nearest folder on the way up that is there: the path itself, or one that it would lie in.
pub(crate) fn existing(path: &Path) -> std::path::PathBuf {
    let found = path.ancestors().find(|place| place.is_dir());
    match found {
        Some(place) if !place.as_os_str().is_empty() => place.to_owned(),
        _ => ".".into(),
    }
}

/// The bytes of all files below `folder`; 0 when it is not there.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// The bytes that a data set whose files lie below `root` takes in the cache: its archive and what was unpacked of
/// it. 0 for files of the user's own, which are used where they are.
pub fn cached_bytes(cache: &Path, root: &Path) -> u64 {
    let slots = cache.join("datasets");
    let Ok(inside) = root.strip_prefix(&slots) else {
        return 0;
    };
    let slot = inside.components().next();
    slot.map_or(0, |slot| folder_bytes(&slots.join(slot)))
}

/// What a run folder holds of what [`DiskForecast`] speaks of.
pub(crate) fn saved_bytes(run: &Path) -> u64 {
    let parts = ["checkpoints", "model", "adapter"];
    parts.iter().map(|part| folder_bytes(&run.join(part))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(steps: u64, checkpoint_every: u64, keep: usize, eval_every: u64) -> TrainSettings {
        TrainSettings {
            steps,
            checkpoint_every,
            keep,
            eval_every,
            ..TrainSettings::default()
        }
    }

    #[test]
    fn checkpoints_are_counted_as_they_are_kept() {
        let of = |train: &TrainSettings| {
            let disk = DiskForecast::new(train, 100, 30);
            (disk.most, disk.left)
        };
        // One at the end, then the result beside it.
        assert_eq!(of(&train(50, 0, 2, 10)), (130, 130));
        // Two are kept and a third is written; no validation, so the best is not kept besides.
        assert_eq!(of(&train(50, 10, 2, 0)), (300, 230));
        // The best, two, and the one being written.
        assert_eq!(of(&train(50, 10, 2, 5)), (400, 230));
        // Fewer are made than may be kept.
        assert_eq!(of(&train(20, 10, 9, 5)), (230, 230));
        assert_eq!(
            DiskForecast::new(&train(9, 1, usize::MAX / 4, 0), u64::MAX, 1).most,
            u64::MAX
        );
    }

    #[test]
    fn a_disk_that_is_too_small_is_named_with_what_to_lower() {
        let settings = train(500, 10, 3, 5);
        let disk = DiskForecast::new(&settings, 2_000_000_000, 1_000_000_000);
        let folder = Path::new("runs/big");
        disk.must_fit(folder, &settings, 0, 10_000_000_000).unwrap();
        // What is there already is part of what is needed.
        disk.must_fit(folder, &settings, 4_000_000_000, 6_000_000_000)
            .unwrap();
        let refused = disk
            .must_fit(folder, &settings, 4_000_000_000, 5_900_000_000)
            .unwrap_err();
        let told = format!("{refused:#}");
        for part in [
            "runs/big",
            "2.0 GB each",
            "need 6.0 GB",
            "5.9 GB are free",
            "lower train.keep, which is 3",
            "train.checkpoint_every = 0 (it is 10)",
            "--run",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(refused.downcast::<DataError>().unwrap().is_input());
        let bare = train(500, 0, 2, 5);
        let disk = DiskForecast::new(&bare, 5_000, 1_000);
        let told = disk.must_fit(folder, &bare, 0, 10).unwrap_err().to_string();
        assert!(!told.contains("keep") && told.contains("6.0 kB"), "{told}");
    }

    #[test]
    fn bytes_of_a_folder_and_of_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), [0; 10]).unwrap();
        fs::write(folder.path().join("d"), [0; 5]).unwrap();
        assert_eq!(folder_bytes(folder.path()), 15);
        assert_eq!(folder_bytes(&folder.path().join("none")), 0);
        let free = free_bytes(folder.path()).unwrap();
        assert!(free > 0);
        let nowhere = folder.path().join("not/yet/there");
        assert_eq!(existing(&nowhere), folder.path());
        assert!(free_bytes(&nowhere).is_some());
        assert_eq!(
            existing(Path::new("runs-that-nobody-made/x")),
            Path::new(".")
        );
    }
}
