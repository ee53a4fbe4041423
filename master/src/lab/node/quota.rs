//! What a node that is namespaces may have of this machine's processors and memory: a control group of its own
//! (cgroups(7)), of version 1 or 2, whichever this machine has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use crate::lab::Error;

const ROOT: &str = "/sys/fs/cgroup";
/// How long what was killed may still be in a group, and between two looks.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// The kernel's own (CFS bandwidth), in microseconds.
const PERIOD: u64 = 100_000;

/// How much a node may have; none: all that this machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Processors, in hundredths.
    pub cpus: Option<u32>,
    /// Memory, in MiB.
    pub memory: Option<u32>,
}

/// The groups of version 1, or the one of version 2.
enum Version {
    One,
    Two,
}

fn version() -> Version {
    if Path::new(ROOT).join("cgroup.controllers").exists() { Version::Two } else { Version::One }
}

impl Quota {
    fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Makes the node's groups, and answers the files into which its first process has to write its id.
    pub fn make(self, name: &str) -> Result<Vec<PathBuf>, Error> {
        if self.is_none() {
            return Ok(Vec::new());
        }
        let write = |path: PathBuf, text: String| fs::write(&path, text).map_err(Error::io("write", &path));
        let groups: Vec<PathBuf> = match version() {
            Version::One => ["cpu", "memory"].map(|it| Path::new(ROOT).join(it).join(name)).into(),
            Version::Two => {
                write(Path::new(ROOT).join("cgroup.subtree_control"), "+cpu +memory".to_owned())?;
                vec![Path::new(ROOT).join(name)]
            }
        };
        for group in &groups {
            fs::create_dir_all(group).map_err(Error::io("make", group))?;
        }
        let [cpu, memory] = [groups.first(), groups.last()].map(|group| group.cloned().unwrap_or_default());
        if let Some(hundredths) = self.cpus {
            let quota = u64::from(hundredths) * PERIOD / 100;
            match version() {
                Version::One => write(cpu.join("cpu.cfs_quota_us"), quota.to_string())?,
                Version::Two => write(cpu.join("cpu.max"), format!("{quota} {PERIOD}"))?,
            }
        }
        if let Some(mib) = self.memory {
            let limit = (u64::from(mib) << 20).to_string();
            match version() {
                Version::One => write(memory.join("memory.limit_in_bytes"), limit)?,
                Version::Two => write(memory.join("memory.max"), limit)?,
            }
        }
        Ok(groups.into_iter().map(|group| group.join("cgroup.procs")).collect())
    }

    /// Shows the node its own groups, from inside of its namespaces.
    pub fn show(self, root: &Path) -> io::Result<()> {
        if self.is_none() {
            return Ok(());
        }
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        let place = root.join(&ROOT[1..]);
        let put =
            |kind: &str, place: &Path, data: &str| mount(Some(kind), place, Some(kind), safe, Some(data));
        match version() {
            Version::One => {
                put("tmpfs", &place, "mode=755")?;
                for controller in ["cpu", "memory"] {
                    let place = place.join(controller);
                    fs::create_dir(&place)?;
                    put("cgroup", &place, controller)?;
                }
            }
            Version::Two => put("cgroup2", &place, "")?,
        }
        Ok(())
    }
}

/// Takes away the groups whose names begin like this; whether there were any. Nothing may be in them.
pub fn clear(prefix: &str) -> Result<bool, Error> {
    let mut found = false;
    for folder in [ROOT, "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"].map(Path::new) {
        let groups = fs::read_dir(folder).into_iter().flatten().flatten();
        for group in groups.filter(|group| group.file_name().to_string_lossy().starts_with(prefix)) {
            let begun = Instant::now();
            // What was killed is in it until the kernel has done with it.
            while let Err(error) = fs::remove_dir(group.path()) {
                if error.kind() != io::ErrorKind::ResourceBusy || begun.elapsed() > GRACE {
                    return Err(Error::io("remove", &group.path())(error));
                }
                std::thread::sleep(POLL);
            }
            found = true;
        }
    }
    Ok(found)
}
