//! Whether a run that is killed and taken up again is the same run: a recipe is run once without interruption, and
//! again and again while its process is killed at random moments, and what comes out is compared bit for bit.

mod child;
mod compare;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use etude_tensor::step_seed;
use etude_train::checkpoint::{Checkpoints, step_name};
use etude_train::interrupt::Interrupt;
use etude_train::{TrainSettings, durable};
use serde::Serialize;

use crate::process::RunFailed;
use child::{End, Moment, Seen, Unfinished};
pub use compare::{Compared, Difference, compare_runs};

/// Marks a folder that this experiment may empty.
const MARK: &str = ".verify-resume";
/// The recipe, in the experiment's folder.
const RECIPE: &str = "recipe.toml";
/// What the processes say, in the experiment's folder.
const SAID: &str = "said.txt";

/// What is to be tried.
#[derive(Debug, Clone)]
pub struct ResumeTrial {
    /// Where the runs go.
    pub folder: PathBuf,
    /// The program and its arguments, to which a recipe's file and `--run` with a folder are added.
    pub command: Vec<OsString>,
    /// The recipe, resolved.
    pub recipe: String,
    /// The recipe's `[train]`.
    pub train: TrainSettings,
    /// How often a process is killed.
    pub kills: u64,
    /// What the moments follow from.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct ResumeProof {
    /// Whether nothing differs.
    pub equal: bool,
    /// Steps of the recipe.
    pub steps: u64,
    /// Seconds that the uninterrupted run took, from its process's start to its end.
    pub seconds: f64,
    /// What the moments followed from.
    pub seed: u64,
    /// The kills.
    pub kills: Kills,
    /// Runs that were killed, taken up until they ended, and compared.
    pub runs: u64,
    /// What was compared of the last of them.
    pub compared: Compared,
    /// What differs. The experiment ends with the first run in which something does.
    pub differences: Vec<Difference>,
    /// The uninterrupted run; and, when something differs, the other one.
    pub folders: Vec<PathBuf>,
}

/// Where the kills fell, judged by what they left in the run folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kills {
    /// All of them.
    pub total: u64,
    /// While a checkpoint was being written: it lay there half-written.
    pub writing_checkpoint: u64,
    /// While an old checkpoint was being removed.
    pub removing_checkpoint: u64,
    /// While the result was being written.
    pub writing_result: u64,
    /// Before the first step was logged.
    pub before_first_step: u64,
    /// While it trained, or did anything else.
    pub elsewhere: u64,
}

/// Tries it. `tell` hears a line at every run's end, and of how many kills. None when someone asked it to stop; then
/// no process is left, and the folder may be used again.
///
/// # Errors
/// When the folder is something else's, a process cannot be started, or the uninterrupted run fails ([`RunFailed`]).
pub fn verify_resume(
    trial: &ResumeTrial,
    interrupt: &Interrupt,
    tell: &mut dyn FnMut(&str, u64),
) -> Result<Option<ResumeProof>> {
    let _lock = make_ready(&trial.folder)?;
    durable::write(&trial.folder.join(RECIPE), trial.recipe.as_bytes())?;
    let [whole, killed] = ["uninterrupted", "killed"].map(|name| trial.folder.join(name));
    let mut experiment = Experiment {
        trial,
        interrupt,
        draws: 0,
        kills: Kills::default(),
        pace: Seen::default(),
    };
    tell("running the recipe once without interruption", 0);
    match experiment.live(&whole, Moment::Never)? {
        (End::Exited(status), seen) if status.success() => experiment.pace = seen,
        (End::Exited(status), _) => bail!(RunFailed::read(&trial.folder.join(SAID), status)),
        _ => return Ok(None),
    }
    let mut proof = ResumeProof {
        equal: true,
        steps: trial.train.steps,
        seconds: experiment.pace.whole.as_secs_f64(),
        seed: trial.seed,
        kills: Kills::default(),
        runs: 0,
        compared: Compared::default(),
        differences: Vec::new(),
        folders: vec![whole.clone()],
    };
    tell(
        &format!("it took {:.1} s; now with kills", proof.seconds),
        0,
    );
    while proof.equal && experiment.kills.total < trial.kills {
        remove(&killed)?;
        let Some(mut differences) = experiment.killed_until_done(&killed, tell)? else {
            return Ok(None);
        };
        if differences.is_empty() {
            (proof.compared, differences) = compare_runs(&whole, &killed)?;
            proof.runs += 1;
        }
        proof.kills = experiment.kills;
        proof.equal = differences.is_empty();
        proof.differences = differences;
    }
    if proof.equal {
        remove(&killed)?;
    } else {
        proof.folders.push(killed);
    }
    Ok(Some(proof))
}

struct Experiment<'a> {
    trial: &'a ResumeTrial,
    interrupt: &'a Interrupt,
    draws: u64,
    kills: Kills,
    /// What was seen of the uninterrupted run.
    pace: Seen,
}

impl Experiment<'_> {
    fn live(&self, run: &Path, moment: Moment) -> Result<(End, Seen)> {
        let (said, recipe) = (self.trial.folder.join(SAID), self.trial.folder.join(RECIPE));
        let mut command = self.trial.command.clone();
        command.extend([recipe.into(), "--run".into(), run.into()]);
        child::live(&command, run, &said, moment, &self.pace, self.interrupt)
    }

    /// One run, killed at one moment after the other and started again, until it ends by itself. What it lost on the
    /// way, or why it did not go on; None when someone asked to stop.
    fn killed_until_done(
        &mut self,
        run: &Path,
        tell: &mut dyn FnMut(&str, u64),
    ) -> Result<Option<Vec<Difference>>> {
        loop {
            let before = Left::look(run)?;
            let moment = self.moment(before.newest());
            match self.live(run, moment)?.0 {
                End::Stopped => return Ok(None),
                End::Exited(status) if status.success() => {
                    let kills = self.kills.total;
                    tell(&format!("a run is done after {kills} kills in all"), kills);
                    return Ok(Some(Vec::new()));
                }
                End::Exited(status) => {
                    return Ok(Some(vec![Difference {
                        place: format!("after {} kills", self.kills.total),
                        what: format!(
                            "the run does not go on: {}",
                            RunFailed::read(&self.trial.folder.join(SAID), status)
                        ),
                    }]));
                }
                End::Killed => {}
            }
            let after = Left::look(run)?;
            self.count(run, &before, &after);
            let lost = after.lost_since(&before, self.trial.train.keep);
            if !lost.is_empty() {
                return Ok(Some(lost));
            }
            tell("", self.kills.total);
        }
    }

    /// A random number.
    fn draw(&mut self) -> u64 {
        self.draws += 1;
        step_seed(self.trial.seed, self.draws)
    }

    /// A random share of a time.
    fn part(&mut self, of: Duration) -> Duration {
        of.mul_f64((self.draw() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// When to kill the next process of a run whose newest checkpoint is of step `newest`: every second time inside
    /// the writing of one of the checkpoints to come, now and then before the first step, else at any moment of the
    /// training that is left. A run that has only its result left to write is left alone every second time.
    fn moment(&mut self, newest: u64) -> Moment {
        let steps = self.trial.train.steps;
        let left = saves(&self.trial.train, newest);
        let choice = self.draw() % 8;
        if self.kills.total >= self.trial.kills || (left == 0 && choice < 4) {
            return Moment::Never;
        }
        if choice < 4 {
            let which = 1 + self.draw() % left;
            return Moment::Saving(which, self.part(self.pace.saving));
        }
        let (whole, setup) = (self.pace.whole, self.pace.setup.min(self.pace.whole));
        if choice == 4 {
            return Moment::After(self.part(setup));
        }
        let to_go = (1.0 - newest as f64 / steps as f64).clamp(0.2, 1.0);
        Moment::After(setup + self.part((whole - setup).mul_f64(to_go)))
    }

    fn count(&mut self, run: &Path, before: &Left, after: &Left) {
        self.kills.total += 1;
        let began = fs::metadata(run.join("metrics.jsonl")).is_ok_and(|log| log.len() > 0);
        let place = if after
            .unfinished
            .difference(&before.unfinished)
            .next()
            .is_some()
        {
            &mut self.kills.writing_checkpoint
        } else if after.torn.iter().any(|step| !before.torn.contains(step)) {
            &mut self.kills.removing_checkpoint
        } else if after.result.difference(&before.result).next().is_some() {
            &mut self.kills.writing_result
        } else if !began {
            &mut self.kills.before_first_step
        } else {
            &mut self.kills.elsewhere
        };
        *place += 1;
    }
}

/// What a process left of its run.
struct Left {
    /// Steps with a whole checkpoint.
    whole: Vec<u64>,
    /// Steps with one that is not.
    torn: Vec<u64>,
    /// Checkpoints that were being written.
    unfinished: BTreeSet<Unfinished>,
    /// Results that were.
    result: BTreeSet<Unfinished>,
}

impl Left {
    fn look(run: &Path) -> Result<Self> {
        let checkpoints = Checkpoints::new(run);
        let steps = checkpoints.steps()?.into_iter();
        let (whole, torn) = steps.partition(|&step| checkpoints.open(step).is_ok());
        Ok(Self {
            whole,
            torn,
            unfinished: child::unfinished(&run.join("checkpoints")),
            result: child::unfinished(run),
        })
    }

    fn newest(&self) -> u64 {
        self.whole.last().copied().unwrap_or(0)
    }

    /// Checkpoints that were whole before and are not now, though no newer ones had taken their place.
    fn lost_since(&self, before: &Self, keep: usize) -> Vec<Difference> {
        let newer = |step: u64| self.whole.iter().filter(|&&now| now > step).count();
        before
            .whole
            .iter()
            .filter(|&&step| !self.whole.contains(&step) && newer(step) < keep.max(1))
            .map(|&step| Difference {
                place: format!("checkpoints/{}", step_name(step)),
                what: "was whole before a kill and is not after it".to_owned(),
            })
            .collect()
    }
}

/// Checkpoints that a run from step `newest` on will write.
fn saves(train: &TrainSettings, newest: u64) -> u64 {
    let last = train.steps.saturating_sub(1); // the one at the end is not one of the series
    let in_series = match train.checkpoint_every {
        0 => 0,
        every => last / every - newest.min(last) / every,
    };
    in_series + u64::from(newest < train.steps)
}

/// Makes the folder of the experiment, or empties that of an earlier one. It is this process's until the file is closed.
fn make_ready(folder: &Path) -> Result<File> {
    let mark = folder.join(MARK);
    if folder.exists() && !mark.is_file() {
        let empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
        if !empty {
            let what = "is there already, and not from such a trial";
            let remedy = "choose another --run; it is emptied";
            return Err(etude_data::DataError::in_file(folder, what, remedy).into());
        }
    }
    let made = fs::create_dir_all(folder).and_then(|()| File::create(&mark));
    let lock = made.with_context(|| {
        format!(
            "{}: cannot be written; choose another --run",
            folder.display()
        )
    })?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        let what = "another etude process is proving a run in this folder";
        let remedy = "wait for it, or choose another --run";
        return Err(etude_data::DataError::in_file(folder, what, remedy).into());
    }
    for name in ["uninterrupted", "killed"] {
        remove(&folder.join(name))?;
    }
    fs::write(folder.join(SAID), "")
        .with_context(|| format!("{}: cannot be written", folder.display()))?;
    Ok(lock)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpoints_to_come_are_counted() {
        let train = |steps, checkpoint_every| TrainSettings {
            steps,
            checkpoint_every,
            ..TrainSettings::default()
        };
        for (steps, every, newest, expected) in [
            (10, 0, 0, 1),
            (10, 3, 0, 4), // 3, 6, 9, 10
            (10, 3, 6, 2),
            (10, 5, 0, 2), // 5, 10
            (10, 5, 5, 1),
            (10, 5, 10, 0),
        ] {
            let found = saves(&train(steps, every), newest);
            assert_eq!(found, expected, "{steps} {every} {newest}");
        }
    }

    #[test]
    fn a_checkpoint_is_lost_when_nothing_newer_took_its_place() {
        let left = |whole: &[u64]| Left {
            whole: whole.to_vec(),
            torn: Vec::new(),
            unfinished: Default::default(),
            result: Default::default(),
        };
        let lost = |before: &[u64], after: &[u64]| left(after).lost_since(&left(before), 2).len();
        assert_eq!(lost(&[2, 4], &[4, 6, 8]), 0, "2 was one of the old");
        assert_eq!(lost(&[2, 4], &[2]), 1);
        assert_eq!(lost(&[2, 4], &[]), 2);
        assert_eq!(lost(&[2, 4], &[2, 4]), 0);
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("mine");
        fs::create_dir(&folder).unwrap();
        let lock = make_ready(&folder).unwrap();
        fs::create_dir(folder.join("killed")).unwrap();
        let second = make_ready(&folder).unwrap_err().to_string();
        assert!(second.contains("another etude process"), "{second}");
        assert!(folder.join("killed").exists());
        drop(lock);
        make_ready(&folder).unwrap();
        assert!(!folder.join("killed").exists());
        let other = parent.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("thesis.txt"), "years of work").unwrap();
        let error = make_ready(&other).unwrap_err().to_string();
        assert!(error.contains("choose another --run"), "{error}");
        assert!(other.join("thesis.txt").is_file());
    }
}
