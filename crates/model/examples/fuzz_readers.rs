//! Damages weight files for as long as one likes and reads them: `fuzz_readers SECONDS FILE…`, where FILE
//! is a GGUF file, or the `model.safetensors` of a model folder. A panic, more than ten seconds for a
//! file, or more than 256 megabytes of memory ends it with a message and the damaged file kept.
//!
//! `scripts/fuzz_readers.sh` runs it on the goldens.
#![allow(clippy::print_stdout)] // its result

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etude_model::{gguf, hf};
use etude_tensor::{Device, Kind};

const SLOWEST: Duration = Duration::from_secs(10);
const LARGEST: u64 = 256 << 20;

/// SplitMix64 (Steele et al. 2014): enough to choose where to break things.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .context("usage: fuzz_readers SECONDS FILE…")?;
    let sources: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if sources.is_empty() {
        bail!("usage: fuzz_readers SECONDS FILE…");
    }
    let start = Instant::now();
    let folder = std::env::temp_dir().join(format!("etude-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let mut random = Random(std::process::id().into());
    let (mut read, mut refused) = (0u64, 0u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        let source = &sources[random.below(sources.len())];
        if attempt(source, &folder, &mut random)
            .with_context(|| format!("the damaged file is kept in {}", folder.display()))?
        {
            read += 1;
        } else {
            refused += 1;
        }
    }
    fs::remove_dir_all(&folder)?;
    let peak = peak_bytes() / 1_000_000;
    println!("{read} read, {refused} refused, at most {peak} MB, no crash and no hang");
    Ok(())
}

/// The most memory that this process has held, as Linux counts it; 0 elsewhere.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Whether one damaged copy could be read.
fn attempt(source: &Path, folder: &Path, random: &mut Random) -> Result<bool> {
    let is_gguf = source.extension().is_some_and(|ending| ending == "gguf");
    let mut bytes = fs::read(source)?;
    damage(&mut bytes, random);
    let began = Instant::now();
    let outcome = if is_gguf {
        let path = folder.join("x.gguf");
        fs::write(&path, &bytes)?;
        gguf::import(&path, folder, hf::Formats::one(Kind::Float)).map_err(anyhow::Error::from)
    } else {
        let config = source.with_file_name("config.json");
        fs::copy(config, folder.join("config.json"))?;
        fs::write(folder.join("model.safetensors"), &bytes)?;
        let loaded = hf::load(folder, Kind::Float, Device::Cpu);
        loaded.map(drop).map_err(anyhow::Error::from)
    };
    if began.elapsed() > SLOWEST {
        bail!("{} took {:?}", source.display(), began.elapsed());
    }
    if peak_bytes() > LARGEST {
        bail!("{} took {} bytes", source.display(), peak_bytes());
    }
    Ok(outcome.is_ok())
}

/// A few bytes, words or lengths changed, mostly near the front where the header is; now and then a cut.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let span = if random.below(4) > 0 {
            bytes.len().min(8000)
        } else {
            bytes.len()
        };
        let at = random.below(span);
        let word = match random.below(5) {
            0 => vec![random.below(256) as u8],
            1 => u64::MAX.to_le_bytes().to_vec(),
            2 => (1u64 << random.below(64)).to_le_bytes().to_vec(),
            3 => (random.below(1 << 20) as u32).to_le_bytes().to_vec(),
            _ => vec![bytes[at] ^ (1 << random.below(8))],
        };
        let end = (at + word.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&word[..end - at]);
    }
    if random.below(8) == 0 {
        let left = random.below(bytes.len());
        bytes.truncate(left);
    }
}
