//! The memory that a control group still leaves to its processes: what containers, batch systems and
//! `systemd-run -p MemoryMax=` limit, and `/proc/meminfo` does not tell.
//!
//! Both versions of the interface are read (Linux, `Documentation/admin-guide/cgroup-v2.rst` and
//! `cgroup-v1/memory.rst`). A group's own limit is not all: each group above it may have a tighter one.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a version of the interface keeps its figures.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat`: file cache, which gives way when memory is wanted.
    cache: [&'static str; 2],
}

const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    cache: ["inactive_file", "active_file"],
};

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};

/// A mounted hierarchy of groups.
struct Mount {
    files: &'static Files,
    /// Which group stands at the mount point.
    root: PathBuf,
    point: PathBuf,
}

/// The bytes that this process may still take before the tightest of its groups is full; none where no group
/// has a limit. `root` stands for `/`, so that tests can lay out a tree of their own.
pub(crate) fn available(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let (groups, mounts) = (read("proc/self/cgroup")?, read("proc/self/mountinfo")?);
    let mounts: Vec<Mount> = mounts.lines().filter_map(mount).collect();
    let rooms = groups.lines().filter_map(|line| {
        let (files, group) = group(line)?;
        // A hybrid system mounts both versions; the line of one belongs to the mount of the same.
        let mount = mounts
            .iter()
            .find(|mount| mount.files.limit == files.limit)?;
        tightest(root, mount, Path::new(group))
    });
    rooms.min()
}

/// A line of `/proc/self/cgroup`, `ID:CONTROLLERS:PATH`, when it is of memory: version 2 has no controllers.
fn group(line: &str) -> Option<(&'static Files, &str)> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    if id == "0" && controllers.is_empty() {
        return Some((&V2, path));
    }
    let memory = controllers.split(',').any(|name| name == "memory");
    memory.then_some((&V1, path))
}

/// A line of `/proc/self/mountinfo`: `ID PARENT DEVICE ROOT POINT OPTIONS [FIELDS…] - TYPE SOURCE OPTIONS`.
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let files = match (right.next()?, right.nth(1)) {
        ("cgroup2", _) => &V2,
        ("cgroup", Some(options)) if options.split(',').any(|name| name == "memory") => &V1,
        _ => return None,
    };
    Some(Mount {
        files,
        root: root.into(),
        point: point.into(),
    })
}

/// The least room of a group and of those above it, up to the mount point.
fn tightest(root: &Path, mount: &Mount, group: &Path) -> Option<u64> {
    let point = root.join(mount.point.strip_prefix("/").ok()?);
    // Inside a container the path may be the host's, of which only what is mounted can be seen.
    let inside = group.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let inside = inside.strip_prefix("/").unwrap_or(inside);
    let mut rooms = inside
        .ancestors()
        .filter_map(|part| room(&point.join(part), mount.files));
    let first = rooms.next()?;
    Some(rooms.fold(first, u64::min))
}

/// What one group's limit leaves: the limit, less what is used and would not give way.
fn room(folder: &Path, files: &Files) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok() // `max` is no number: no limit
    };
    let limit = number(files.limit)?;
    // Version 1 says "no limit" by a number close to 2^63.
    if limit >= 1 << 60 {
        return None;
    }
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cache: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| files.cache.contains(name))
        .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
        .sum();
    let used = number(files.usage)?.saturating_sub(cache);
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up `/`.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(cgroup: &str, mountinfo: &str) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.file("proc/self/cgroup", cgroup);
            tree.file("proc/self/mountinfo", mountinfo);
            tree
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn v2(&self, group: &str, max: &str, current: u64, stat: &str) {
            let folder = format!("sys/fs/cgroup/{group}");
            self.file(&format!("{folder}/memory.max"), &format!("{max}\n"));
            self.file(&format!("{folder}/memory.current"), &format!("{current}\n"));
            self.file(&format!("{folder}/memory.stat"), stat);
        }

        fn available(&self) -> Option<u64> {
            available(self.0.path())
        }
    }

    const MOUNT_V2: &str = "24 1 8:1 / / rw - ext4 /dev/vda rw\n\
        31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_2_subtracts_what_would_not_give_way() {
        let tree = Tree::new("0::/user.slice/job\n", MOUNT_V2);
        assert_eq!(tree.available(), None, "no file, no limit");
        let stat = "anon 600\nfile 300\ninactive_file 200\nactive_file 50\nshmem 50\n";
        tree.v2("user.slice/job", "1000", 900, stat);
        assert_eq!(tree.available(), Some(1000 - (900 - 250)));
        tree.v2("user.slice/job", "max", 900, stat);
        assert_eq!(tree.available(), None);
    }

    #[test]
    fn the_tightest_of_nested_groups_counts() {
        let tree = Tree::new("0::/a/b/c\n", MOUNT_V2);
        tree.v2("a/b/c", "max", 10, "");
        tree.v2("a/b", "5000", 1000, "inactive_file 100\n");
        tree.v2("a", "3000", 2500, "");
        assert_eq!(tree.available(), Some(500), "the outermost is the tightest");
        tree.v2("a/b/c", "100", 110, "");
        assert_eq!(tree.available(), Some(0), "over its limit");
    }

    #[test]
    fn version_1_knows_no_limit_by_a_huge_number() {
        let mountinfo = "40 24 0:35 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            41 24 0:36 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let tree = Tree::new("4:cpu,cpuacct:/elsewhere\n3:memory:/batch/7\n", mountinfo);
        let folder = "sys/fs/cgroup/memory/batch/7";
        let limit = |bytes: &str| tree.file(&format!("{folder}/memory.limit_in_bytes"), bytes);
        tree.file(&format!("{folder}/memory.usage_in_bytes"), "700\n");
        let stat = "inactive_file 1\ntotal_inactive_file 80\ntotal_active_file 20\n";
        tree.file(&format!("{folder}/memory.stat"), stat);
        limit("9223372036854771712\n");
        assert_eq!(tree.available(), None);
        limit("1000\n");
        assert_eq!(tree.available(), Some(400));
    }

    #[test]
    fn inside_a_container_the_mount_point_is_the_group() {
        // Without a namespace of its own, a container sees the host's path and a part of the host's tree.
        let mountinfo = "31 24 0:27 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n".to_owned();
        let tree = Tree::new("0::/docker/abc\n", &mountinfo);
        tree.v2("", "2000", 500, "");
        assert_eq!(tree.available(), Some(1500));
        let stranger = Tree::new("0::/docker/other\n", &mountinfo);
        stranger.v2("", "2000", 100, "");
        assert_eq!(stranger.available(), Some(1900));
    }

    #[test]
    fn a_hybrid_system_and_a_damaged_one() {
        let mountinfo = "31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            41 24 0:36 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\nnonsense\n";
        let tree = Tree::new("3:memory:/x\n0::/x\n\nhalf:a\n", mountinfo);
        tree.file("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "900");
        tree.file("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "100");
        assert_eq!(tree.available(), Some(800));
        tree.file("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "many");
        assert_eq!(tree.available(), None);
        assert_eq!(available(Path::new("no-such-folder")), None);
    }
}
