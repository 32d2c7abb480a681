//! `environment.json`: what a run was made with.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use etude_tensor::{Device, Kind, LIBTORCH_VERSION, device, peak};
use serde::Serialize;

/// `environment.json`: what the run was made with.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// Etude's version.
    pub etude: &'static str,
    /// libtorch's.
    pub libtorch: &'static str,
    /// The device's name.
    pub device: String,
    /// The processor, as the system names it.
    pub processor: Option<String>,
    /// Threads of an operation.
    pub threads: usize,
    /// The number format of products.
    pub products: &'static str,
    /// What a large matrix product in that format reaches here, in floating-point operations a second.
    pub matmul_peak: f64,
    /// Operating system and architecture.
    pub system: String,
    /// The revision of the folder that the command ran in, when that is a git checkout.
    pub git_revision: Option<String>,
    /// The command line.
    pub command: Vec<String>,
}

impl Environment {
    /// Looks around; takes about 0.1 s, most of it the matrix product.
    pub fn measure(on: Device, kind: Kind) -> Self {
        Self {
            etude: env!("CARGO_PKG_VERSION"),
            libtorch: LIBTORCH_VERSION,
            device: device::device_name(on),
            processor: processor(),
            threads: device::threads(),
            products: match kind {
                Kind::BFloat16 => "bfloat16",
                Kind::Double => "float64",
                _ => "float32",
            },
            matmul_peak: matmul_peak(on, kind),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            git_revision: git_revision(Path::new(".")),
            command: std::env::args_os()
                .map(|part| part.to_string_lossy().into_owned())
                .collect(),
        }
    }
}

/// What a large product reaches, measured once a process: runs that follow each other share the machine.
fn matmul_peak(on: Device, kind: Kind) -> f64 {
    static MEASURED: Mutex<Vec<(Device, Kind, f64)>> = Mutex::new(Vec::new());
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = measured
        .iter()
        .find(|(device, of, _)| (*device, *of) == (on, kind));
    if let Some((_, _, peak)) = known {
        return *peak;
    }
    let peak = peak::matmul_peak(on, kind);
    measured.push((on, kind, peak));
    peak
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The commit that `.git/HEAD` names, read from the files: git itself need not be installed.
fn git_revision(start: &Path) -> Option<String> {
    let start = fs::canonicalize(start).ok()?;
    let git = start
        .ancestors()
        .map(|folder| folder.join(".git"))
        .find(|git| git.is_dir())?;
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    match head.trim().strip_prefix("ref: ") {
        Some(name) => Some(fs::read_to_string(git.join(name)).ok()?.trim().to_owned()),
        None => Some(head.trim().to_owned()),
    }
}
