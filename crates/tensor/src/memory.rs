//! The process's memory: what libtorch may keep for later, what was used at most, and what happens when it does
//! not suffice.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::OnceLock;

use crate::cgroup;

/// How many compiled products are kept. A step of one shape has some sixty.
const COMPILED_PRODUCTS: &str = "96";

/// Sets how many of the products on the CPU that are compiled for their shapes, those in bfloat16 and, with AVX-512,
/// float32, the process keeps: those of the last steps. Called once, before the first tensor.
///
/// oneDNN would keep 1,024 and the layer above it in libtorch as many again, and where batches are of unlike lengths
/// these grow to more than the model. A user's own settings of `ONEDNN_PRIMITIVE_CACHE_CAPACITY` and
/// `LRU_CACHE_CAPACITY` stand.
#[allow(unsafe_code)]
pub fn tune() {
    for name in ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: what reads the environment by now is std alone, whose lock this takes.
            unsafe { std::env::set_var(name, COMPILED_PRODUCTS) };
        }
    }
}

/// What gives free memory back, see [`gives_back`].
static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Tells how this program's allocator gives the memory that it keeps for later back to the system. The first to tell
/// counts; without it nothing is given back before its time.
pub fn gives_back(function: fn()) {
    let _ = GIVE_BACK.set(function);
}

/// Gives back what the allocator keeps: between two kinds of work, where the next one has no use for blocks of the
/// last one's sizes and would come on top of them.
pub fn give_back() {
    if let Some(function) = GIVE_BACK.get() {
        function();
    }
}

/// The memory that is free for this process, in bytes: what the machine has left, or, where that is less, what
/// the process's control groups leave it. None where the system does not tell.
pub fn available() -> Option<u64> {
    let machine = told("/proc/meminfo", "MemAvailable:");
    let groups = cgroup::available(Path::new("/"));
    [machine, groups].into_iter().flatten().min()
}

/// The room in the machine's swap space, in bytes; none where the system does not tell.
pub fn swap() -> Option<u64> {
    told("/proc/meminfo", "SwapFree:")
}

/// The most memory that this process has held, in bytes; none where the system does not tell.
pub fn peak_rss() -> Option<u64> {
    told("/proc/self/status", "VmHWM:")
}

/// The memory that this process holds now, in bytes; none where the system does not tell.
pub fn rss() -> Option<u64> {
    told("/proc/self/status", "VmRSS:")
}

/// What Linux says after `label` in `file`, in bytes.
fn told(file: &str, label: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The device's memory does not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The bytes that could not be had, where libtorch says how many.
    pub wanted: Option<u64>,
    /// What to do.
    pub remedy: &'static str,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the memory does not suffice")?;
        match self.wanted {
            Some(bytes) => write!(f, ": {:.1} MB more could not be had", bytes as f64 / 1e6),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OutOfMemory {}

impl OutOfMemory {
    /// With advice that fits what was being done.
    pub fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy, ..self }
    }

    /// What a panic was about, if it was about memory.
    pub fn in_panic(payload: &(dyn Any + Send)) -> Option<Self> {
        Self::in_message(words(payload)?)
    }

    /// Reads libtorch's message; none when it is about something else.
    fn in_message(message: &str) -> Option<Self> {
        let cpu = message.contains("can't allocate memory");
        let gpu = message.contains("CUDA out of memory") || message.contains("MPS backend out of");
        (cpu || gpu).then(|| Self {
            wanted: message
                .split_once("you tried to allocate ")
                .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()),
            remedy: "end other programs, or take a smaller model, batch or context",
        })
    }
}

/// Runs `work`; memory that does not suffice, which libtorch's bindings answer with a panic, comes back as
/// an error. Other panics go on their way.
///
/// # Errors
/// When the memory does not suffice. What `work` was changing is then of no use any more.
pub fn or_out_of_memory<T>(work: impl FnOnce() -> T) -> Result<T, OutOfMemory> {
    catch_unwind(AssertUnwindSafe(work))
        .or_else(|panic| OutOfMemory::in_panic(&*panic).map_or_else(|| resume_unwind(panic), Err))
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> Option<&str> {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_does_not_suffice_is_an_error_and_other_panics_stay_panics() {
        let petabytes = || tch::Tensor::zeros([1 << 50], (tch::Kind::Float, tch::Device::Cpu));
        let error = or_out_of_memory(petabytes).expect_err("no machine has it");
        assert_eq!(error.wanted, Some(4 << 50));
        assert_eq!(or_out_of_memory(|| 1), Ok(1));
        let other = catch_unwind(|| or_out_of_memory(|| panic!("something else")));
        assert_eq!(words(&*other.expect_err("a panic")), Some("something else"));
    }
}
