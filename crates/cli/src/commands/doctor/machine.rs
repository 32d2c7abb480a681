//! What the machine is: processor, devices, memory, disks, and where libtorch was loaded from.

use std::fs;
use std::path::{Path, PathBuf};

use etude_tensor::{Kind, device, parse_device, peak};
use serde::Serialize;

/// The processor.
#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    pub(super) model: Option<String>,
    pub(super) cores: usize,
    /// What libtorch uses for one operation.
    pub(super) threads: usize,
    /// The instruction sets that matter to training.
    pub(super) features: Vec<&'static str>,
}

/// A device that can be named with `--device`.
#[derive(Debug, Serialize)]
pub(super) struct Unit {
    pub(super) name: String,
    /// The number format of the measurement: what training uses there.
    pub(super) format: &'static str,
    /// What a large matrix product reaches, in floating-point operations a second.
    pub(super) matmul_flops: f64,
}

/// The machine's memory, in bytes.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) available: u64,
}

/// A folder and the room on its disk.
#[derive(Debug, Serialize)]
pub(super) struct Disk {
    pub(super) folder: PathBuf,
    /// Bytes; none where the system does not tell.
    pub(super) free: Option<u64>,
}

impl Cpu {
    pub(super) fn look() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find(|line| line.starts_with("model name"));
        Self {
            model: model.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: device::threads(),
            features: features(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let all = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        (
            "avx512vnni",
            std::arch::is_x86_feature_detected!("avx512vnni"),
        ),
        (
            "avx512bf16",
            std::arch::is_x86_feature_detected!("avx512bf16"),
        ),
    ];
    all.into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    let all = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    all.into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

/// The devices that are there, each measured.
pub(super) fn devices() -> Vec<Unit> {
    let mut names = vec!["cpu".to_owned()];
    names.extend(
        (0..)
            .map(|index| format!("cuda:{index}"))
            .take_while(|name| parse_device(name).is_ok()),
    );
    names.push("mps".to_owned());
    let measure = |name: String| {
        let device = parse_device(&name).ok()?;
        let (kind, format) = if device.is_cuda() {
            (Kind::BFloat16, "bfloat16")
        } else {
            (Kind::Float, "float32")
        };
        Some(Unit {
            name,
            format,
            matmul_flops: peak::matmul_peak(device, kind),
        })
    };
    names.into_iter().filter_map(measure).collect()
}

/// Whether NVIDIA's driver is loaded, whatever libtorch makes of it.
pub(super) fn has_nvidia_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

impl Memory {
    pub(super) fn look() -> Option<Self> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Self {
            total: field("MemTotal:")?,
            available: field("MemAvailable:")?,
        })
    }
}

impl Disk {
    /// The room where `folder` is, or would be made.
    pub(super) fn of(folder: &Path) -> Self {
        let free = existing(folder).and_then(|place| rustix::fs::statvfs(place).ok());
        Self {
            folder: folder.to_owned(),
            free: free.map(|found| found.f_bavail * found.f_frsize),
        }
    }
}

/// The nearest folder above that is there.
fn existing(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|folder| folder.is_dir())
}

/// Whether a file could be made in `folder`, or the folder itself where it is missing.
pub(super) fn is_writable(folder: &Path) -> bool {
    let place = existing(folder);
    place.is_some_and(|place| rustix::fs::access(place, rustix::fs::Access::WRITE_OK).is_ok())
}

/// The bytes of all files below a folder; links are not followed.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The folder that this process has loaded libtorch from.
pub(super) fn libtorch_folder() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let library = maps.lines().find_map(|line| {
        let path = &line[line.find('/')?..];
        path.ends_with("libtorch_cpu.so")
            .then(|| PathBuf::from(path))
    })?;
    library.parent().map(Path::to_owned)
}
