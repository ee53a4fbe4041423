//! What this node's processes have done of late: the processor time that they used and the calls that they made, which
//! fade as they are told to ([`Fading`]).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

use super::moves::{Fading, Hints};
use crate::wire::local::Decay;

/// Users from this id on are people, whose processes move by themselves; those below are daemons' (login.defs(5)).
const FIRST_USER: u32 = 1000;
/// nobody(5): nobody's processes are a daemon's, too.
const NOBODY: u32 = 65534;

/// A process of a user's, as it was when it was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its id.
    pub pid: i32,
    /// It runs, or could.
    pub runs: bool,
    /// Its memory, in KiB.
    pub memory: u64,
    /// Processor time that it has used of late.
    pub used: Duration,
    /// Calls that read or write, a second of processor time.
    pub calls: f64,
}

#[derive(Clone, Copy, Debug)]
struct History {
    started: u64,
    ticks: u64,
    calls: u64,
    used: f64,
    a_second: f64,
    at: Instant,
}

/// All of them.
#[derive(Debug)]
pub struct Histories {
    known: HashMap<i32, History>,
    /// Ticks in a second.
    second: f64,
    /// KiB in a page.
    page: u64,
}

impl Histories {
    /// None yet.
    pub fn new() -> Self {
        let of = |variable, otherwise: u32| {
            sysconf(variable).ok().flatten().and_then(|value| u32::try_from(value).ok()).unwrap_or(otherwise)
        };
        let (second, page) = (of(SysconfVar::CLK_TCK, 100), of(SysconfVar::PAGE_SIZE, 4096));
        Self { known: HashMap::new(), second: f64::from(second), page: u64::from(page / 1024) }
    }

    /// What a process of anybody's has in memory now, in KiB; 0: it has ended.
    pub fn memory(&self, pid: i32) -> u64 {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok().and_then(|text| Stat::parse(&text));
        stat.map_or(0, |stat| stat.pages * self.page)
    }

    /// Looks at all processes of users. `hints` tells what one is said to be like.
    ///
    /// # Errors
    /// Those of /proc.
    pub fn look(&mut self, decay: Decay, hints: impl Fn(i32) -> Hints) -> io::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let mut known = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // One that has ended meanwhile is none.
            let Ok(uid) = entry.metadata().map(|it| it.uid()) else { continue };
            if uid < FIRST_USER || uid == NOBODY {
                continue;
            }
            let Some(stat) = fs::read(entry.path().join("stat")).ok().and_then(|text| Stat::parse(&text))
            else {
                continue;
            };
            let calls = fs::read_to_string(entry.path().join("io")).map_or(0, |text| calls(&text));
            let now = Instant::now();
            let before = self.known.get(&pid).filter(|before| before.started == stat.started);
            let (history, busy) = self.next(before, &stat, calls, now, decay, &hints(pid));
            known.insert(pid, history);
            seen.push(Seen {
                pid,
                runs: stat.runs || busy > 0.2,
                memory: stat.pages * self.page,
                used: Duration::from_secs_f64(history.used),
                calls: history.a_second,
            });
        }
        self.known = known;
        Ok(seen)
    }

    #[expect(clippy::cast_precision_loss, reason = "figures of a few days")]
    fn next(
        &self,
        before: Option<&History>,
        stat: &Stat,
        calls: u64,
        at: Instant,
        decay: Decay,
        hints: &Hints,
    ) -> (History, f64) {
        let Some(before) = before else {
            // Of one that is seen for the first time as much counts as would have been kept by now.
            let all = stat.ticks as f64 / self.second;
            let used = match kept(decay, hints.fading, decay.interval.into()) {
                share if share < 1.0 => all.min(f64::from(decay.interval) / (1.0 - share)),
                _ => all,
            };
            let a_second = if all > 0.0 { calls as f64 / all } else { 0.0 };
            return (History { started: stat.started, ticks: stat.ticks, calls, used, a_second, at }, 0.0);
        };
        let time = at.saturating_duration_since(before.at).as_secs_f64();
        let delta = stat.ticks.saturating_sub(before.ticks) as f64 / self.second;
        let used = before.used * kept(decay, hints.fading, time) + delta;
        // A look at it is short, and the rate of calls is not.
        let weight = (delta / (delta + 0.5)).clamp(0.0, 1.0);
        let now =
            if delta > 0.0 { calls.saturating_sub(before.calls) as f64 / delta } else { before.a_second };
        let a_second = before.a_second * (1.0 - weight) + now * weight;
        let busy = if time > 0.0 { delta / time } else { 0.0 };
        (History { started: stat.started, ticks: stat.ticks, calls, used, a_second, at }, busy)
    }
}

/// What is kept of statistics after so many seconds.
fn kept(decay: Decay, fading: Fading, seconds: f64) -> f64 {
    match fading {
        Fading::Slow => decay.kept(decay.slow, seconds),
        Fading::Fast => decay.kept(decay.fast, seconds),
        Fading::None => 1.0,
    }
}

/// syscr and syscw (proc_pid_io(5)).
fn calls(io: &str) -> u64 {
    let value = |key: &str| io.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
    value("syscr:").unwrap_or(0) + value("syscw:").unwrap_or(0)
}

/// Of proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    runs: bool,
    ticks: u64,
    started: u64,
    pages: u64,
}

impl Stat {
    fn parse(text: &[u8]) -> Option<Self> {
        // The second field, the program's name in brackets, can have brackets and blanks in it.
        let end = text.iter().rposition(|octet| *octet == b')')?;
        let fields: Vec<&str> =
            std::str::from_utf8(&text[end + 1..]).ok()?.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            runs: *fields.first()? == "R",
            ticks: number(11)? + number(12)?,
            started: number(19)?,
            pages: number(21)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &[u8] = b"7 (a) b) R 3 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 900 8000 25 0";

    #[test]
    fn a_line_of_stat_is_read() {
        let stat = Stat::parse(STAT).unwrap();
        assert_eq!(stat, Stat { runs: true, ticks: 300, started: 900, pages: 25 });
        assert_eq!(Stat::parse(b"7 (a"), None);
        assert_eq!(calls("rchar: 5\nsyscr: 7\nsyscw: 3\n"), 10);
    }

    #[test]
    fn what_was_used_fades() {
        let histories = Histories::new();
        let (decay, hints) = (Decay::default(), Hints::default());
        let histories = Histories { second: 100.0, ..histories };
        let stat = Stat { ticks: 10_000, ..Stat::parse(STAT).unwrap() };
        let at = Instant::now();
        let (first, _) = histories.next(None, &stat, 1000, at, decay, &hints);
        assert!((39.9..40.1).contains(&first.used), "{first:?}");
        let later = at + Duration::from_secs(27);
        let (second, busy) = histories.next(Some(&first), &stat, 1000, later, decay, &hints);
        assert!((19.0..21.0).contains(&second.used) && busy == 0.0, "{second:?}");
        let none = Hints { fading: Fading::None, ..hints };
        assert_eq!(histories.next(Some(&first), &stat, 1000, later, decay, &none).0.used, first.used);
    }
}
