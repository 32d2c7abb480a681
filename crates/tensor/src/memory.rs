//! The process's memory: how the allocator treats large tensors, and what was used at most.

/// Keeps freed tensor memory in the process. glibc gives every block over its threshold back to the
/// system when it is freed and takes it anew at the next step, and the system zeroes each page again;
/// a training step frees and takes the same blocks each time. Called once, before the first tensor.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt takes two integers and is called before other threads run.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 0);
            libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}

/// The most memory that this process has held, in bytes; none where the system does not tell.
pub fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}
