//! Prefetch: background threads that make the next items while the current one is used.
//!
//! The loader knows nothing of batches: it calls a function of the step number, which must be pure,
//! and hands the results out in step order whatever the threads' timing. It can start at any step,
//! so resuming costs nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};

/// How a [`Loader`] works ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderSettings {
    /// Threads that make items; at least 1. Default 1.
    pub threads: usize,
    /// Items kept ready beyond the one in use; at least 1. Default 4.
    pub ahead: usize,
}

impl Default for LoaderSettings {
    fn default() -> LoaderSettings {
        LoaderSettings {
            threads: 1,
            ahead: 4,
        }
    }
}

/// Items of consecutive steps, made ahead on background threads. Dropping it stops and joins them.
///
/// ```
/// use etude_data::{Loader, LoaderSettings};
/// let mut squares = Loader::new(7, LoaderSettings::default(), |step| Ok(step * step))?;
/// assert_eq!(squares.next()?, 49);
/// assert_eq!(squares.next()?, 64);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Loader<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// Signalled when an item was made.
    made: Condvar,
    /// Signalled when there is room for another item, or the loader stops.
    room: Condvar,
    ahead: u64,
}

#[derive(Debug)]
struct Queue<T> {
    /// The step that the next free thread takes.
    claim: u64,
    /// The step that is handed out next.
    deliver: u64,
    ready: BTreeMap<u64, Result<T>>,
    /// The step whose failure was handed out, after which nothing follows.
    failed: Option<u64>,
    stop: bool,
}

impl<T: Send + 'static> Loader<T> {
    /// Starts making the items of the steps from `first` on.
    ///
    /// # Errors
    /// When `settings` ask for no threads or nothing ahead, or the system starts no thread.
    pub fn new(
        first: u64,
        settings: LoaderSettings,
        make: impl Fn(u64) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Loader<T>> {
        if settings.threads == 0 || settings.ahead == 0 {
            bail!("a loader needs at least one thread and one item ahead, not {settings:?}");
        }
        let queue = Queue {
            claim: first,
            deliver: first,
            ready: BTreeMap::new(),
            failed: None,
            stop: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            made: Condvar::new(),
            room: Condvar::new(),
            ahead: settings.ahead as u64,
        });
        let make = Arc::new(make);
        // Built first, so that when a thread cannot start the drop below ends those that did.
        let mut loader = Loader {
            shared,
            threads: Vec::new(),
        };
        for number in 0..settings.threads {
            let (shared, make) = (Arc::clone(&loader.shared), Arc::clone(&make));
            let thread = std::thread::Builder::new()
                .name(format!("loader-{number}"))
                .spawn(move || shared.work(&*make))
                .context("cannot start a loader thread")?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// The item of the next step, waiting for it if it is not ready.
    ///
    /// # Errors
    /// What making the item failed with (a panic included), once; every later call fails too, since
    /// going on would leave the step out.
    #[allow(clippy::should_implement_trait)] // An endless, fallible stream: `?` reads better than `Option`.
    pub fn next(&mut self) -> Result<T> {
        let mut queue = self.shared.lock();
        if let Some(step) = queue.failed {
            bail!("the loader stopped when step {step} failed");
        }
        let step = queue.deliver;
        let item = loop {
            if let Some(item) = queue.ready.remove(&step) {
                break item;
            }
            queue = self
                .shared
                .made
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        };
        match &item {
            Ok(_) => queue.deliver += 1,
            Err(_) => {
                queue.failed = Some(step);
                queue.stop = true;
            }
        }
        drop(queue);
        self.shared.room.notify_all();
        item
    }

    /// The step of the item that [`next`](Loader::next) gives.
    pub fn step(&self) -> u64 {
        self.shared.lock().deliver
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // No code of a caller runs under the lock, so the queue is whole even if a thread panicked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does until the loader stops.
    fn work(&self, make: &dyn Fn(u64) -> Result<T>) {
        while let Some(step) = self.claim() {
            let item = catch_unwind(AssertUnwindSafe(|| make(step)))
                .unwrap_or_else(|panic| {
                    Err(anyhow!("making the data panicked: {}", words(&*panic)))
                })
                .with_context(|| format!("cannot make the data of step {step}"));
            self.lock().ready.insert(step, item);
            self.made.notify_all();
        }
    }

    /// Waits for room and takes the next step; `None` when the loader stops.
    fn claim(&self) -> Option<u64> {
        let mut queue = self.lock();
        loop {
            if queue.stop {
                return None;
            }
            if queue.claim - queue.deliver < self.ahead {
                let step = queue.claim;
                queue.claim += 1;
                return Some(step);
            }
            queue = self
                .room
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The message of a panic.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // The thread catches the panics of the caller's function, and an Err says no more.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    fn settings(threads: usize, ahead: usize) -> LoaderSettings {
        LoaderSettings { threads, ahead }
    }

    #[test]
    fn keeps_step_order_whatever_the_delays() {
        for (threads, ahead) in [(1, 1), (1, 5), (4, 1), (4, 3), (3, 16)] {
            let mut loader = Loader::new(100, settings(threads, ahead), |step| {
                std::thread::sleep(Duration::from_micros(crate::order::mix(3, step) % 900));
                Ok(step)
            })
            .expect("a loader");
            for step in 100..250 {
                assert_eq!(loader.step(), step);
                assert_eq!(
                    loader.next().expect("an item"),
                    step,
                    "{threads} threads, {ahead} ahead"
                );
            }
        }
    }

    #[test]
    fn never_works_further_ahead_than_asked() {
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        let mut loader = Loader::new(0, settings(3, 4), move |step| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(step)
        })
        .expect("a loader");
        for used in 0..5 {
            let limit = used + 4;
            for _ in 0..200 {
                if made.load(Ordering::SeqCst) == limit {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(made.load(Ordering::SeqCst), limit);
            loader.next().expect("an item");
        }
    }

    #[test]
    fn an_error_comes_through_at_its_step_and_ends_the_stream() {
        let mut loader = Loader::new(0, settings(4, 8), |step| {
            if step >= 3 {
                Err(anyhow!("no more text"))
            } else {
                Ok(step)
            }
        })
        .expect("a loader");
        for step in 0..3 {
            assert_eq!(loader.next().expect("an item"), step);
        }
        let error = format!("{:#}", loader.next().expect_err("step 3 fails"));
        assert!(
            error.contains("step 3") && error.contains("no more text"),
            "{error}"
        );
        assert!(
            loader
                .next()
                .expect_err("stopped")
                .to_string()
                .contains("step 3")
        );
    }

    #[test]
    fn a_panic_is_an_error_and_drop_still_returns() {
        for threads in [1, 4] {
            let mut loader = Loader::new(0, settings(threads, 6), |step| {
                if step == 2 {
                    std::panic::resume_unwind(Box::new(format!("bad step {step}")));
                }
                Ok(step)
            })
            .expect("a loader");
            loader.next().expect("step 0");
            loader.next().expect("step 1");
            let error = format!("{:#}", loader.next().expect_err("step 2 panics"));
            assert!(
                error.contains("step 2") && error.contains("bad step 2"),
                "{error}"
            );
            drop(loader);
        }
    }

    #[test]
    fn drop_joins_every_thread() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let loader = Loader::new(0, settings(4, 2), move |step| {
            let _held = &held;
            std::thread::sleep(Duration::from_millis(2));
            Ok(step)
        })
        .expect("a loader");
        drop(loader);
        // The function is gone only when the last thread that could call it is.
        assert_eq!(Arc::strong_count(&alive), 1);
    }

    #[test]
    fn settings_without_threads_are_refused() {
        assert!(Loader::new(0, settings(0, 1), Ok).is_err());
        assert!(Loader::new(0, settings(1, 0), Ok).is_err());
    }
}
