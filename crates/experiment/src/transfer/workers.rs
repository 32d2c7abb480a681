//! Runs side by side, each in a process of its own, since libtorch's threads and random numbers belong to a process. A
//! worker leaves a run's record in the run's folder, where the experiment finds it as one that was made before.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etude_train::RunContext;
use etude_train::interrupt::unless_stopped;
use rustix::process::{Pid, Signal, kill_process};

use super::Transfer;
use super::lab::Lab;
use super::runs::{Arm, Key, Record};
use crate::process::{Reaped, RunFailed};

/// How often the processes are looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// How long processes that were asked to stop may take to save what they have.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many runs go side by side, and what makes one.
#[derive(Debug, Clone)]
pub struct Workers {
    /// The program and its first arguments, after which a [`Work`] is put.
    pub command: Vec<OsString>,
    /// The arguments that follow it.
    pub arguments: Vec<OsString>,
    /// Runs at once. The cores are shared out among them.
    pub count: usize,
}

/// What one process does: `train/RUN/PLAN/LEADER` or `answer/RUN/PLAN/LEADER`, with the name of the run's folder, a digest
/// of the recipes that the leading process read, and that process's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    run: String,
    /// Whether the run is asked the test examples as well.
    answer: bool,
    plan: String,
    leader: u32,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.answer { "answer" } else { "train" };
        write!(f, "{what}/{}/{}/{}", self.run, self.plan, self.leader)
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [what @ ("train" | "answer"), run, plan, leader] => Ok(Self {
                run: run.to_owned(),
                answer: what == "answer",
                plan: plan.to_owned(),
                leader: leader
                    .parse()
                    .map_err(|_| format!("`{leader}` is no process"))?,
            }),
            _ => Err("give `train/RUN/PLAN/LEADER` or `answer/RUN/PLAN/LEADER`".to_owned()),
        }
    }
}

/// One run of an experiment that another process leads. False when someone asked it to stop.
///
/// # Errors
/// As [`super::transfer`]; when the recipes are no longer those of the leading process; and when the experiment has no
/// such run.
pub fn transfer_worker(plan: &Transfer, context: &RunContext, work: &Work) -> Result<bool> {
    ensure!(
        digest(plan)? == work.plan,
        "{}: a recipe was changed while the experiment went on, and its runs must be of one; change it back, and the same command goes on from here",
        work.run
    );
    let done = Lab::new(plan, context, &mut |_| ())?.work(work);
    Ok(unless_stopped(done)?.flatten().is_some())
}

/// Of the plan as this program reads it; another version of the program may make another.
fn digest(plan: &Transfer) -> Result<String> {
    let recipes = (
        &plan.settings,
        &plan.finetune,
        &plan.scratch,
        &plan.variants,
    );
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&recipes)
        .context("plain data")?
        .hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

impl Work {
    /// Has this process asked to stop when the one that leads is gone, even if that was killed. The first that a worker
    /// does.
    ///
    /// # Errors
    /// When the leader is gone already.
    pub fn end_with_the_leader(&self) -> Result<()> {
        // Elsewhere a worker whose leader was killed makes its run to the end.
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        ensure!(
            std::os::unix::process::parent_id() == self.leader,
            "{}: the process that leads the experiment is gone",
            self.run
        );
        Ok(())
    }
}

/// A run under way.
struct Worker<'a> {
    key: &'a Key,
    process: Reaped,
    said: PathBuf,
}

impl Worker<'_> {
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let ended = self.process.0.try_wait();
        ended.context("a process cannot be waited for")
    }
}

impl Lab<'_> {
    fn work(&mut self, work: &Work) -> Result<Option<()>> {
        let key = self.keys().into_iter().find(|key| key.folder() == work.run);
        let key = key.with_context(|| format!("{}: no run of this experiment", work.run))?;
        self.know_the_base()?;
        let record = match work.answer {
            true => self.answered(&key)?,
            false => self.trained(&key)?,
        };
        Ok(record.map(|_| ()))
    }

    /// Every run that the experiment may have, those of rates that are not chosen included.
    fn keys(&self) -> Vec<Key> {
        let settings = &self.plan.settings;
        let mut keys = Vec::new();
        for arm in [Arm::Pretrained, Arm::Scratch] {
            for &share in &settings.shares {
                for &seed in &settings.seeds {
                    let rates = settings.rates.iter();
                    keys.extend(rates.map(|&rate| self.key(arm, share, seed, rate)));
                }
            }
        }
        keys.extend(self.variants().flatten());
        keys
    }

    /// Makes all runs, `workers.count` at a time, and has them answer; [`Lab::all`] then finds them there. None when
    /// someone asked to stop.
    pub(super) fn ahead(&mut self, workers: &Workers) -> Result<Option<()>> {
        self.base()?;
        let arms = [Arm::Pretrained, Arm::Scratch];
        let mut tried: Vec<Key> = arms.iter().flat_map(|&arm| self.tuning(arm)).collect();
        tried.extend(self.variants().flatten());
        if self.side_by_side(workers, &tried, false)?.is_none() {
            return Ok(None);
        }
        let mut chosen = Vec::new();
        for arm in arms {
            let Some(rates) = self.tune(arm, &mut Vec::new())? else {
                return Ok(None);
            };
            chosen.extend(self.curve(arm, &rates).map(|(_, key)| key));
        }
        let variants: Vec<Vec<Key>> = self.variants().collect();
        for keys in &variants {
            let Some(rate) = self.best_of(keys, &mut Vec::new())? else {
                return Ok(None);
            };
            chosen.extend(keys.iter().find(|key| key.rate == rate).cloned());
        }
        self.side_by_side(workers, &chosen, true)
    }

    /// Has workers train the runs, or train and answer, where that was not done.
    fn side_by_side(
        &mut self,
        workers: &Workers,
        keys: &[Key],
        answer: bool,
    ) -> Result<Option<()>> {
        let mut waiting = VecDeque::new();
        for key in keys {
            if self.is_done(key, answer)? {
                self.announce(key)?; // which only counts it
            } else {
                waiting.push_back(key);
            }
        }
        let mut busy: Vec<Worker<'_>> = Vec::new();
        self.context.interrupt.work_begins(); // there are processes to end
        let done = self.make(workers, waiting, answer, &mut busy);
        if !matches!(done, Ok(Some(()))) {
            stop(&mut busy); // they lose nothing by it
        }
        done
    }

    fn make<'k>(
        &mut self,
        workers: &Workers,
        mut waiting: VecDeque<&'k Key>,
        answer: bool,
        busy: &mut Vec<Worker<'k>>,
    ) -> Result<Option<()>> {
        let interrupt = &self.context.interrupt;
        loop {
            while busy.len() < workers.count
                && let Some(key) = waiting.pop_front()
            {
                self.announce(key)?;
                busy.push(self.start(workers, key, answer)?);
            }
            let mut at = 0;
            while at < busy.len() {
                let Some(status) = busy[at].ended()? else {
                    at += 1;
                    continue;
                };
                let worker = busy.swap_remove(at);
                let said = fs::read_to_string(&worker.said).unwrap_or_default();
                let failed = RunFailed::read(&worker.said, status);
                let _ = fs::remove_file(&worker.said);
                if status.success() {
                    self.tell(worker.key, &said)?;
                } else if interrupt.asked() || was_stopped(status) {
                    interrupt.ask();
                } else if status.signal() == Some(Signal::KILL.as_raw()) {
                    return Err(failed.of(&self.folder(worker.key))).context(
                        "a run was killed, most likely for want of memory, which each run needs; a smaller --parallel goes on from here",
                    );
                } else {
                    bail!(failed.of(&self.folder(worker.key)));
                }
            }
            if interrupt.asked() {
                return Ok(None);
            }
            if busy.is_empty() {
                interrupt.nothing_to_save();
                return Ok(Some(()));
            }
            thread::sleep(GLANCE);
        }
    }

    fn is_done(&self, key: &Key, answer: bool) -> Result<bool> {
        let folder = self.folder(key);
        let Some(mut record) = Record::read(&folder)? else {
            return Ok(false);
        };
        Ok(!answer || self.is_told(&mut record, &folder)?)
    }

    fn start<'k>(&self, workers: &Workers, key: &'k Key, answer: bool) -> Result<Worker<'k>> {
        let work = Work {
            run: key.folder(),
            answer,
            plan: digest(self.plan)?,
            leader: std::process::id(),
        };
        let said = self.context.folder.join(format!("{}.said.txt", work.run));
        let _ = fs::remove_file(&said); // of a process that was killed
        let mut command = workers.command.clone();
        command.push(work.to_string().into());
        command.extend(workers.arguments.iter().cloned());
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let environment = ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"].map(|name| {
            let set = std::env::var(name).ok().and_then(|set| set.parse().ok());
            let threads = cores.min(set.filter(|&set| set > 0).unwrap_or(cores)) / workers.count;
            (name, threads.max(1).to_string())
        });
        Ok(Worker {
            key,
            process: Reaped::start(&command, &said, &environment)?,
            said,
        })
    }
}

/// Whether a process ended because someone asked it to, and not us.
fn was_stopped(status: ExitStatus) -> bool {
    // Hang-up, Ctrl-C, SIGTERM: by an exit code of 128 and the signal, or by the signal itself before the process
    // listened for it.
    let signal = status
        .code()
        .map_or(status.signal(), |code| Some(code - 128));
    matches!(signal, Some(1 | 2 | 15))
}

/// Asks processes to stop, and waits until they have saved what they have. Those that do not end are killed.
fn stop(busy: &mut [Worker<'_>]) {
    for worker in &*busy {
        // It fails when the process has ended.
        let _ = kill_process(Pid::from_child(&worker.process.0), Signal::TERM);
    }
    let asked = Instant::now();
    for worker in busy {
        while asked.elapsed() < PATIENCE && matches!(worker.ended(), Ok(None)) {
            thread::sleep(GLANCE);
        }
        let _ = fs::remove_file(&worker.said); // what it was told, and no failure
    }
}
