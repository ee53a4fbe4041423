//! What the node's own control group lets it have (cgroups(7)), version 1 or 2: a container has less than its machine.

use std::fs;
use std::path::{Path, PathBuf};

/// A quota of processor time, and a limit of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    cpu: Option<PathBuf>,
    memory: Option<PathBuf>,
    unified: Option<PathBuf>,
}

/// What is used and what can be, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The limit.
    pub limit: u64,
    /// What is used and could not be given back at once.
    pub used: u64,
}

impl Cgroup {
    /// The one of the node's first process: the root of what is mounted.
    pub fn of_node() -> Self {
        Self::at(Path::new("/sys/fs/cgroup"))
    }

    fn at(root: &Path) -> Self {
        let there = |path: PathBuf, file: &str| path.join(file).exists().then_some(path);
        Self {
            cpu: there(root.join("cpu"), "cpu.cfs_quota_us")
                .or_else(|| there(root.join("cpu,cpuacct"), "cpu.cfs_quota_us")),
            memory: there(root.join("memory"), "memory.limit_in_bytes"),
            unified: there(root.to_owned(), "cgroup.controllers"),
        }
    }

    /// The processors that it may use, in hundredths; `None`: as many as there are.
    pub fn processors(&self) -> Option<u32> {
        let (quota, period) = match (&self.cpu, &self.unified) {
            (Some(cpu), _) => {
                (number(&cpu.join("cpu.cfs_quota_us"))?, number(&cpu.join("cpu.cfs_period_us"))?)
            }
            (None, Some(unified)) => {
                let text = fs::read_to_string(unified.join("cpu.max")).ok()?;
                let (quota, period) = text.trim().split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            }
            (None, None) => return None,
        };
        u32::try_from(quota.saturating_mul(100).checked_div(period)?)
            .ok()
            .filter(|hundredths| *hundredths > 0)
    }

    /// Its memory; `None`: as much as there is.
    pub fn memory(&self) -> Option<Memory> {
        let (limit, used, stat, inactive) = match (&self.memory, &self.unified) {
            (Some(memory), _) => (
                number(&memory.join("memory.limit_in_bytes"))?,
                number(&memory.join("memory.usage_in_bytes"))?,
                memory.join("memory.stat"),
                "total_inactive_file ",
            ),
            (None, Some(unified)) => (
                number(&unified.join("memory.max"))?,
                number(&unified.join("memory.current"))?,
                unified.join("memory.stat"),
                "inactive_file ",
            ),
            (None, None) => return None,
        };
        // Version 1 says it has no limit by nearly 2^63.
        if limit >= 1 << 60 {
            return None;
        }
        let stat = fs::read_to_string(stat).unwrap_or_default();
        let files = stat.lines().find_map(|line| line.strip_prefix(inactive)?.parse().ok()).unwrap_or(0);
        Some(Memory { limit: limit / 1024, used: used.saturating_sub(files) / 1024 })
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn both_versions_are_read() {
        let one = tree(&[
            ("cpu/cpu.cfs_quota_us", "50000\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "104857600\n"),
            ("memory/memory.usage_in_bytes", "52428800\n"),
            ("memory/memory.stat", "cache 1\ntotal_inactive_file 1048576\n"),
        ]);
        let two = tree(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("cpu.max", "50000 100000\n"),
            ("memory.max", "104857600\n"),
            ("memory.current", "52428800\n"),
            ("memory.stat", "anon 1\ninactive_file 1048576\n"),
        ]);
        for root in [one, two] {
            let group = Cgroup::at(root.path());
            assert_eq!(group.processors(), Some(50));
            assert_eq!(group.memory(), Some(Memory { limit: 102_400, used: 50_176 }));
        }
    }

    #[test]
    fn no_limit_is_none() {
        let one = tree(&[
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.usage_in_bytes", "1\n"),
        ]);
        let two = tree(&[("cgroup.controllers", ""), ("cpu.max", "max 100000\n"), ("memory.max", "max\n")]);
        for root in [one, two, tree(&[])] {
            let group = Cgroup::at(root.path());
            assert_eq!((group.processors(), group.memory()), (None, None));
        }
    }
}
