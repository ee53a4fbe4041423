//! What this node knows of the others' loads: the gossip of MOSIX.
//!
//! Every second a node sends the latest that it knows, its own load first, to a few others. A message has the
//! same size however many nodes there are, so the cost a node is constant. How old an entry is travels with it as a
//! length of time, so that no two clocks have to agree.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Run;
use crate::load::Load;

/// Entries in one message, so that it fits one frame of Ethernet.
pub const IN_MESSAGE: usize = 24;
/// Nodes of which something is kept: those with the latest words. Of more nodes than that each one knows a part, and
/// not all the same; so neither memory nor work grows with them.
const KEPT: usize = 800;

/// What a node has told, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who.
    pub run: Run,
    /// Which of its words: a later one has a higher number.
    pub version: u32,
    /// How long ago it was measured, in milliseconds.
    pub age_ms: u32,
    /// What.
    pub load: Load,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug)]
struct Known {
    number: u64,
    version: u32,
    load: Load,
    /// When it was measured, by this node's clock, and in which order it was learnt.
    measured: (Duration, u64),
}

/// What is known of all.
#[derive(Debug, Default)]
pub struct Vector {
    known: HashMap<Ipv4Addr, Known>,
    /// Who told something, in the order in which it was measured.
    order: BTreeMap<(Duration, u64), Ipv4Addr>,
    learnt: u64,
}

impl Vector {
    /// Takes in an entry; whether it was news.
    pub fn take(&mut self, now: Duration, entry: &Entry) -> bool {
        let Entry { run, version, age_ms, load } = *entry;
        let newer = |known: &Known| (run.number, version) > (known.number, known.version);
        if !self.known.get(&run.address).is_none_or(newer) {
            return false;
        }
        self.learnt += 1;
        let measured = (now.saturating_sub(Duration::from_millis(age_ms.into())), self.learnt);
        let known = Known { number: run.number, version, load, measured };
        if let Some(before) = self.known.insert(run.address, known) {
            self.order.remove(&before.measured);
        }
        self.order.insert(measured, run.address);
        if self.known.len() > KEPT
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// A node is gone: what it told is no longer so.
    pub fn forget(&mut self, address: Ipv4Addr) {
        if let Some(known) = self.known.remove(&address) {
            self.order.remove(&known.measured);
        }
    }

    /// What a node tells of itself, and how old that is.
    pub fn of(&self, now: Duration, address: Ipv4Addr) -> Option<(Load, Duration)> {
        let known = self.known.get(&address)?;
        Some((known.load, now.saturating_sub(known.measured.0)))
    }

    /// What all those tell of themselves of which something is known, and how old that is, latest first.
    pub fn all(&self, now: Duration) -> impl Iterator<Item = (Ipv4Addr, Load, Duration)> {
        let told = move |address: &Ipv4Addr| self.of(now, *address).map(|(load, age)| (*address, load, age));
        self.order.values().rev().filter_map(told)
    }

    /// Those that have most to do, as far as is known.
    pub fn busiest(&self, count: usize) -> Vec<Ipv4Addr> {
        let mut all: Vec<(u32, Ipv4Addr)> =
            self.known.iter().map(|(address, known)| (known.load.load, *address)).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.into_iter().take(count).map(|(_, address)| address).collect()
    }

    /// What was measured last, latest first.
    pub fn latest(&self, now: Duration, count: usize) -> Vec<Entry> {
        let latest = self.order.values().rev().take(count);
        latest
            .filter_map(|address| Some((address, self.known.get(address)?)))
            .map(|(address, known)| Entry {
                run: Run { address: *address, number: known.number },
                version: known.version,
                age_ms: millis(now.saturating_sub(known.measured.0)),
                load: known.load,
            })
            .collect()
    }
}

fn millis(age: Duration) -> u32 {
    u32::try_from(age.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Status;

    fn entry(address: u8, number: u64, version: u32, load: u32) -> Entry {
        let run = Run { address: Ipv4Addr::new(10, 0, 0, address), number };
        let load = Load { load, speed: 1, cpus: 100, util: 0, mem: 0, rmem: 0, tmem: 0, status: Status::UP };
        Entry { run, version, age_ms: 300, load }
    }

    #[test]
    fn later_words_win_and_age_by_this_nodes_clock() {
        let mut vector = Vector::default();
        let at = Duration::from_secs;
        assert!(vector.take(at(10), &entry(1, 5, 2, 100)));
        assert!(!vector.take(at(11), &entry(1, 5, 2, 999)), "heard twice");
        assert!(!vector.take(at(11), &entry(1, 4, 9, 999)), "of an earlier run");
        let told = vector.of(at(12), Ipv4Addr::new(10, 0, 0, 1)).unwrap();
        assert_eq!((told.0.load, told.1), (100, Duration::from_millis(2300)));
        assert!(vector.take(at(12), &entry(1, 6, 1, 7)), "another run begins anew");
        vector.forget(Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(vector.of(at(12), Ipv4Addr::new(10, 0, 0, 1)), None);
    }

    #[test]
    fn the_latest_are_told_first() {
        let mut vector = Vector::default();
        for address in 1..=9 {
            vector.take(Duration::from_secs(10), &entry(address, 1, 1, 0));
        }
        vector.take(Duration::from_secs(11), &entry(3, 1, 2, 0));
        let latest = vector.latest(Duration::from_secs(12), 3);
        assert_eq!(latest.iter().map(|entry| entry.run.address.octets()[3]).collect::<Vec<_>>(), [3, 9, 8]);
        assert_eq!(latest[0].age_ms, 1300);
        assert_eq!(vector.latest(Duration::from_secs(12), 99).len(), 9);
    }

    #[test]
    fn of_very_many_the_latest_are_known_and_nothing_old_comes_back() {
        let mut vector = Vector::default();
        let now = Duration::from_secs(50);
        let of = |number: u32| {
            let run = Run { address: Ipv4Addr::from(number), number: 1 };
            Entry { run, ..entry(0, 1, 1, number) }
        };
        for number in 0..2000 {
            assert!(vector.take(now, &of(number)));
        }
        assert_eq!((vector.all(now).count(), vector.order.len()), (KEPT, KEPT));
        assert_eq!(vector.of(now, Ipv4Addr::from(1199)), None);
        assert_eq!(vector.of(now, Ipv4Addr::from(1200)).map(|(load, _)| load.load), Some(1200));
        vector.take(now, &Entry { age_ms: 1000, ..of(5) });
        assert_eq!(vector.of(now, Ipv4Addr::from(5)), None, "older than all that is known");
    }
}
