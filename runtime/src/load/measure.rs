//! What this node measures of itself.
//!
//! Ten times a second it counts the processes and threads that run or could; some three times a second the count becomes
//! a load ([`Filter`]).

use std::fs;
use std::io;

use super::cgroup::Cgroup;
use super::filter::{Filter, Filtered};
use super::{Load, STANDARD_LOAD, STANDARD_SPEED, Status};

/// The PID namespace of a kernel's first process (PROC_PID_INIT_INO).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Processes and threads that run or could, as it is told.
    pub told: f64,
    /// The same, as it is used here.
    pub mean: f64,
    /// The processors that they have, in hundredths.
    pub processors: u32,
    /// How much of these is in use, in percent.
    pub util: u8,
    /// See [`Load::mem`].
    pub mem: u64,
    /// See [`Load::rmem`].
    pub rmem: u64,
    /// See [`Load::tmem`].
    pub tmem: u64,
}

impl Measured {
    /// As it is told, by a node of this speed.
    pub fn load(&self, speed: u32, status: Status) -> Load {
        let Self { processors, util, mem, rmem, tmem, .. } = *self;
        Load {
            load: load_of(self.told, speed, processors),
            speed,
            cpus: processors,
            util,
            mem,
            rmem,
            tmem,
            status,
        }
    }
}

/// The load of so many processes that run, for each of the node's processors.
pub fn load_of(running: f64, speed: u32, processors: u32) -> u32 {
    let capacity = f64::from(speed.max(1)) / f64::from(STANDARD_SPEED) * f64::from(processors.max(1)) / 100.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let load = (running / capacity * f64::from(STANDARD_LOAD)).round() as u32;
    load
}

/// How many processes run where the load is this: the other way round.
pub fn running_of(load: &Load) -> f64 {
    f64::from(load.load) / f64::from(STANDARD_LOAD) * f64::from(load.speed) / f64::from(STANDARD_SPEED)
        * f64::from(load.cpus)
        / 100.0
}

/// What measures.
#[derive(Debug)]
pub struct Meter {
    group: Cgroup,
    /// The kernel counts for this node alone.
    whole: bool,
    online: u32,
    filter: Filter,
    /// Time of all processors, and of that what they did nothing, in ticks.
    ticks: Option<(u64, u64)>,
}

impl Meter {
    /// Of this node.
    pub fn of_node() -> Self {
        let namespace = fs::metadata("/proc/self/ns/pid").map(|it| std::os::unix::fs::MetadataExt::ino(&it));
        let online =
            std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        Self {
            group: Cgroup::of_node(),
            whole: namespace.is_ok_and(|inode| inode == FIRST_NAMESPACE),
            online,
            filter: Filter::default(),
            ticks: None,
        }
    }

    /// Counts; after every few counts there is something to tell.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn count(&mut self) -> io::Result<Option<Measured>> {
        let running = if self.whole { running_by_kernel()? } else { running_by_look()? };
        let Some(Filtered { now, told, mean }) = self.filter.count(running) else { return Ok(None) };
        let processors = self.group.processors().unwrap_or(u32::MAX).min(self.online * 100);
        let (mem, rmem, tmem) = memory(&self.group)?;
        let util = self.util(now, processors)?;
        Ok(Some(Measured { told, mean, processors, util, mem, rmem, tmem }))
    }

    fn util(&mut self, running: f64, processors: u32) -> io::Result<u8> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
        let percent = |share: f64| (share * 100.0).clamp(0.0, 100.0) as u8;
        if !self.whole {
            return Ok(percent(running * 100.0 / f64::from(processors.max(1))));
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let fields = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
        let times: Vec<u64> = fields.take(8).map(|field| field.parse().unwrap_or(0)).collect();
        let (all, idle) = (times.iter().sum::<u64>(), times.iter().skip(3).take(2).sum::<u64>());
        let before = self.ticks.replace((all, idle));
        let Some((all_before, idle_before)) = before else { return Ok(0) };
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { 1.0 - part as f64 / whole as f64 };
        Ok(percent(share(idle.saturating_sub(idle_before), all.saturating_sub(all_before))))
    }
}

/// The memory that processes can still have, and all of it, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// See [`Load::mem`].
    pub left: u64,
    /// See [`Load::tmem`].
    pub all: u64,
}

impl Room {
    /// Of this node.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn of_node() -> io::Result<Self> {
        let (left, _, all) = memory(&Cgroup::of_node())?;
        Ok(Self { left, all })
    }
}

/// What [`Load::mem`], [`Load::rmem`] and [`Load::tmem`] say.
fn memory(group: &Cgroup) -> io::Result<(u64, u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    };
    let (mem, rmem, tmem) = (kib("MemAvailable:"), kib("MemFree:"), kib("MemTotal:"));
    Ok(match group.memory() {
        Some(group) if group.limit < tmem => {
            let left = group.limit.saturating_sub(group.used);
            (mem.min(left), rmem.min(left), group.limit)
        }
        _ => (mem, rmem, tmem),
    })
}

/// Those that the kernel counts, less the one that asks.
fn running_by_kernel() -> io::Result<u32> {
    let stat = fs::read_to_string("/proc/stat")?;
    let running = stat.lines().find_map(|line| line.strip_prefix("procs_running ")?.parse::<u32>().ok());
    Ok(running.unwrap_or(1).saturating_sub(1))
}

/// Those that this node can see, where the kernel counts others, too.
fn running_by_look() -> io::Result<u32> {
    let own = std::process::id();
    let mut running = 0;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended since.
        let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
        let Some((state, threads)) = state(&stat) else { continue };
        if pid == own {
            continue;
        }
        if threads <= 1 {
            running += u32::from(state == b'R');
            continue;
        }
        let Ok(tasks) = fs::read_dir(entry.path().join("task")) else { continue };
        for task in tasks.flatten() {
            let state = fs::read(task.path().join("stat")).ok().and_then(|stat| state_of(&stat));
            running += u32::from(state == Some(b'R'));
        }
    }
    Ok(running)
}

fn state_of(stat: &[u8]) -> Option<u8> {
    state(stat).map(|(state, _)| state)
}

/// The state and the number of threads (proc_pid_stat(5), 3 and 20).
fn state(stat: &[u8]) -> Option<(u8, u32)> {
    // The second field, the program's name in brackets, can have brackets and blanks in it.
    let end = stat.iter().rposition(|octet| *octet == b')')?;
    let mut fields = std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(16)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_computes_is_a_load_of_100_on_a_standard_processor() {
        assert_eq!(load_of(1.0, 10_000, 100), 100);
        assert_eq!(load_of(1.0, 20_000, 100), 50);
        assert_eq!(load_of(8.0, 10_000, 400), 200);
        assert_eq!(load_of(1.0, 10_000, 50), 200);
        assert_eq!(load_of(0.0, 0, 0), 0);
        let measured = Measured { told: 3.0, mean: 0.0, processors: 150, util: 0, mem: 0, rmem: 0, tmem: 0 };
        assert!((running_of(&measured.load(7_000, Status::UP)) - 3.0).abs() < 0.02);
    }

    #[test]
    fn one_that_computes_is_counted_by_kernel_and_by_look() {
        assert_eq!(state(b"7 (a) b) R 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 9"), Some((b'R', 3)));
        assert_eq!(state(b"7 (x"), None);
        // At least this one runs, but it is the one that asks.
        let Room { left, all } = Room::of_node().unwrap();
        assert!(left > 0 && all >= left);
        running_by_kernel().unwrap();
        running_by_look().unwrap();
    }
}
