//! The addresses of a network in memory: whose each is, and which is next.
//!
//! The one writer of this state is the engine. An address of the dynamic range is in one of these
//! places: not yet looked at (from `fresh` on), being probed, probed and ready, or held by an entry.
//! Entries that ran out stay, so that a machine that comes back gets its old address; they are reused,
//! the oldest first, once nothing else is left. Everything is bounded by the size of the range and the
//! number of reserved addresses.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::lease::{Lease, LeaseState, Seconds};
use crate::cluster::{Mac, Uuid};

/// What holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Offered, not yet asked for. Not in the store.
    Offered,
    /// As the store has it.
    Stored(LeaseState),
    /// Seen in use by a machine that we did not give it to. Not in the store.
    Conflict,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub mac: Mac,
    pub uuid: Option<Uuid>,
    pub hold: Hold,
    pub until: Seconds,
}

impl Entry {
    /// Whether nobody but its former holder has a claim on it.
    fn is_over(&self, now: Seconds) -> bool {
        self.until <= now
    }

    /// Whether the address is set aside because someone uses it who should not.
    fn is_set_aside(&self, now: Seconds) -> bool {
        !self.is_over(now) && matches!(self.hold, Hold::Conflict | Hold::Stored(LeaseState::Declined))
    }

    /// Whether the machine has the better claim, or nobody else has one. A machine found on an address
    /// that we have no record of may be one whose record was lost: the address is its own.
    fn is_free_for(&self, mac: Mac, now: Seconds) -> bool {
        self.is_over(now) || (self.mac == mac && self.hold != Hold::Stored(LeaseState::Declined))
    }
}

/// An address that nobody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Free {
    pub address: Ipv4Addr,
    /// Whether ARP probes found nobody there.
    pub probed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    range: Option<RangeInclusive<u32>>,
    entries: HashMap<u32, Entry>,
    by_mac: HashMap<Mac, u32>,
    /// When entries run out, the oldest first.
    ends: BTreeSet<(Seconds, u32)>,
    /// The first address of the range not yet looked at; `None` past its end.
    fresh: Option<u32>,
    probing: VecDeque<u32>,
    ready: VecDeque<u32>,
}

impl Table {
    /// A table of what the store holds.
    pub fn new(range: Option<(Ipv4Addr, Ipv4Addr)>, leases: Vec<Lease>) -> Self {
        let mut table = Self::default();
        table.set_range(range);
        // In the order of time, so that of two records of one machine the newer one is its own.
        let mut leases = leases;
        leases.sort_by_key(|lease| lease.expires);
        for lease in leases {
            let entry = Entry {
                mac: lease.mac,
                uuid: lease.uuid,
                hold: Hold::Stored(lease.state),
                until: lease.expires,
            };
            table.put(lease.address, entry);
        }
        table
    }

    /// The dynamic range from now on. Entries outside it stay until they run out.
    pub fn set_range(&mut self, range: Option<(Ipv4Addr, Ipv4Addr)>) {
        self.range = range.map(|(first, last)| first.into()..=last.into());
        self.fresh = self.range.as_ref().map(|range| *range.start());
        self.probing.clear();
        self.ready.clear();
        self.ends = self.entries.iter().map(|(key, entry)| (entry.until, *key)).collect();
    }

    /// Whether the address is of the dynamic range.
    pub fn in_range(&self, address: Ipv4Addr) -> bool {
        self.range.as_ref().is_some_and(|range| range.contains(&address.into()))
    }

    /// The entry of an address, run out or not.
    pub fn entry(&self, address: Ipv4Addr) -> Option<&Entry> {
        self.entries.get(&address.into())
    }

    /// The address that a machine has or had, as long as nobody else got it and it is not set aside.
    pub fn of_machine(&self, mac: Mac, now: Seconds) -> Option<Ipv4Addr> {
        let address = *self.by_mac.get(&mac)?;
        let entry = self.entries.get(&address)?;
        (entry.mac == mac && !entry.is_set_aside(now)).then(|| address.into())
    }

    /// Whether the machine was offered or given the address, and nobody else got it since.
    pub fn is_held_by(&self, address: Ipv4Addr, mac: Mac, now: Seconds) -> bool {
        self.entry(address)
            .is_some_and(|entry| entry.mac == mac && !entry.is_set_aside(now) && entry.hold != Hold::Conflict)
    }

    /// Whether the address can be given to the machine: nobody else has a claim on it, an offer apart
    /// where `over_offers`, and it is not set aside.
    pub fn is_free_for(
        &self,
        address: Ipv4Addr,
        mac: Mac,
        uuid: Option<Uuid>,
        over_offers: bool,
        now: Seconds,
    ) -> bool {
        self.entry(address).is_none_or(|entry| {
            let same_machine = uuid.is_some() && entry.uuid == uuid;
            entry.is_free_for(mac, now)
                || (!entry.is_set_aside(now)
                    && (same_machine || (over_offers && entry.hold == Hold::Offered)))
        })
    }

    /// Records who holds an address; what was there before is gone.
    pub fn put(&mut self, address: Ipv4Addr, entry: Entry) {
        let key = address.into();
        if let Some(old) = self.entries.insert(key, entry) {
            self.ends.remove(&(old.until, key));
            if old.mac != entry.mac && self.by_mac.get(&old.mac) == Some(&key) {
                self.by_mac.remove(&old.mac);
            }
        }
        self.ends.insert((entry.until, key));
        if !matches!(entry.hold, Hold::Conflict | Hold::Stored(LeaseState::Declined)) {
            self.by_mac.insert(entry.mac, key);
        }
    }

    /// Takes away an offer that the client did not want.
    pub fn withdraw_offer(&mut self, mac: Mac, now: Seconds) {
        let Some(address) = self.by_mac.get(&mac).copied() else { return };
        if let Some(entry) = self.entries.get(&address).copied()
            && entry.hold == Hold::Offered
            && entry.mac == mac
        {
            self.put(address.into(), Entry { until: now, ..entry });
        }
    }

    /// The other addresses that this machine still has in the store once it has been given `address`:
    /// it moved, so they are free. Called before [`Table::put`] of the new one.
    pub fn leave_old(&mut self, mac: Mac, address: Ipv4Addr, now: Seconds) -> Option<Ipv4Addr> {
        let old = Ipv4Addr::from(*self.by_mac.get(&mac)?);
        let entry = *self.entry(old)?;
        let stored = matches!(entry.hold, Hold::Stored(LeaseState::Bound | LeaseState::Released));
        if old == address || entry.mac != mac || !stored {
            return None;
        }
        self.put(old, Entry { until: entry.until.min(now), hold: Hold::Offered, ..entry });
        Some(old)
    }

    /// The next free address: a probed one, else one being probed, else one not looked at, else the one
    /// whose lease ran out first.
    pub fn take_free(&mut self, now: Seconds, is_reserved: impl Fn(Ipv4Addr) -> bool) -> Option<Free> {
        while let Some(key) = self.ready.pop_front() {
            if self.is_free(key, now) && !is_reserved(key.into()) {
                return Some(Free { address: key.into(), probed: true });
            }
        }
        while let Some(key) = self.probing.pop_front() {
            if self.is_free(key, now) && !is_reserved(key.into()) {
                return Some(Free { address: key.into(), probed: false });
            }
        }
        let key = self.next_unprobed(now, is_reserved)?;
        Some(Free { address: key.into(), probed: false })
    }

    /// The next address to probe, now being probed.
    pub fn next_to_probe(
        &mut self,
        now: Seconds,
        is_reserved: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let key = self.next_unprobed(now, is_reserved)?;
        self.probing.push_back(key);
        Some(key.into())
    }

    /// How many addresses are probed, or being probed.
    pub fn probed_or_probing(&self) -> usize {
        self.ready.len() + self.probing.len()
    }

    /// The probes of an address are over and nobody answered.
    pub fn probe_done(&mut self, address: Ipv4Addr) {
        let key = address.into();
        if let Some(at) = self.probing.iter().position(|probing| *probing == key) {
            self.probing.remove(at);
            self.ready.push_back(key);
        }
    }

    /// A machine that we did not give it to uses the address. Returns whether that was news.
    pub fn conflict(&mut self, address: Ipv4Addr, holder: Mac, now: Seconds, until: Seconds) -> bool {
        if !self.in_range(address) {
            return false;
        }
        let ours = self.entry(address).is_some_and(|entry| {
            entry.is_set_aside(now)
                || (!entry.is_over(now)
                    && (entry.mac == holder || entry.hold == Hold::Stored(LeaseState::Bound)))
        });
        if ours {
            return false;
        }
        self.probing.retain(|probing| *probing != u32::from(address));
        self.put(address, Entry { mac: holder, uuid: None, hold: Hold::Conflict, until });
        true
    }

    fn is_free(&self, key: u32, now: Seconds) -> bool {
        self.entries.get(&key).is_none_or(|entry| entry.is_over(now))
    }

    fn next_unprobed(&mut self, now: Seconds, is_reserved: impl Fn(Ipv4Addr) -> bool) -> Option<u32> {
        let last = *self.range.as_ref()?.end();
        while let Some(key) = self.fresh {
            self.fresh = (key < last).then(|| key + 1);
            if !self.entries.contains_key(&key) && !is_reserved(key.into()) {
                return Some(key);
            }
        }
        // An entry taken here leaves `ends`, so that it is taken once; the next `put` brings it back.
        let mut passed = Vec::new();
        let mut found = None;
        for &(until, key) in &self.ends {
            if until > now {
                break;
            }
            passed.push((until, key));
            if self.in_range(key.into()) && !is_reserved(key.into()) {
                found = Some(key);
                break;
            }
        }
        if let (Some(_), Some(end)) = (found, passed.last()) {
            self.ends.remove(end);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    fn bound(mac: Mac, until: Seconds) -> Entry {
        Entry { mac, uuid: None, hold: Hold::Stored(LeaseState::Bound), until }
    }

    #[test]
    fn probed_addresses_come_first_and_expired_ones_last() {
        let mut table = Table::new(Some((A, Ipv4Addr::new(10, 0, 0, 13))), Vec::new());
        let free = |table: &mut Table, now| {
            table.take_free(now, |_| false).map(|free| (free.address.octets()[3], free.probed))
        };
        assert_eq!(table.next_to_probe(0, |address| address == A), Some(B));
        table.probe_done(B);
        assert_eq!(free(&mut table, 0), Some((11, true)));
        table.put(B, bound(mac(1), 20));
        assert_eq!(free(&mut table, 0), Some((12, false)));
        table.put(Ipv4Addr::new(10, 0, 0, 12), bound(mac(2), 10));
        assert_eq!(free(&mut table, 0), Some((13, false)));
        table.put(Ipv4Addr::new(10, 0, 0, 13), bound(mac(3), 30));
        assert_eq!(free(&mut table, 0), None);
        assert_eq!(free(&mut table, 25), Some((12, false)), "the one that ran out first");
        assert_eq!(free(&mut table, 25), Some((11, false)));
        assert_eq!(free(&mut table, 25), None);
    }

    #[test]
    fn a_machine_keeps_its_address_until_another_needs_it() {
        let mut table = Table::new(Some((A, A)), Vec::new());
        table.put(A, bound(mac(1), 10));
        assert_eq!(table.of_machine(mac(1), 100), Some(A));
        assert!(table.is_free_for(A, mac(2), None, false, 100));
        table.put(A, bound(mac(2), 200));
        assert_eq!(table.of_machine(mac(1), 100), None);
        assert!(!table.is_free_for(A, mac(1), None, true, 100));
    }

    #[test]
    fn an_address_in_use_is_set_aside_for_a_time() {
        let mut table = Table::new(Some((A, A)), Vec::new());
        assert!(table.conflict(A, mac(9), 0, 100));
        assert!(!table.conflict(A, mac(9), 1, 101));
        assert_eq!(table.take_free(50, |_| false), None);
        assert_eq!(table.take_free(100, |_| false), Some(Free { address: A, probed: false }));
        table.put(A, bound(mac(1), 200));
        assert!(!table.conflict(A, mac(9), 150, 300), "a lease stands");
    }
}
