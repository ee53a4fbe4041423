//! Which sessions there are: the bounds on them, and what a further request of the same client means.
//!
//! A request that comes again from the same port before its transfer was acknowledged is a retransmission
//! and draws the same answer. Any other opens a new transfer; once the client acknowledges the new one,
//! the older ones of that port end. Until then they go on: a request can also have been duplicated by the
//! network, and then the client refuses the new transfer and keeps the old.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::counters::Counters;

/// Names a session for as long as the server runs.
pub type Id = u64;

/// Where a running session is: the index of its pump, and its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Running {
    pub pump: usize,
    pub id: Id,
}

#[derive(Debug)]
pub struct Registry {
    most: usize,
    most_per_client: usize,
    counters: Arc<Counters>,
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_id: Id,
    total: usize,
    clients: HashMap<IpAddr, Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    id: Id,
    port: u16,
    /// A hash of the request.
    request: u64,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The content is being opened.
    Opening,
    /// Blocks may be on their way; nothing was acknowledged yet.
    Offered(usize),
    /// The client has acknowledged something.
    Answered(usize),
}

/// What a request means.
#[derive(Debug)]
pub enum Admission {
    /// A new transfer.
    New(Ticket),
    /// That of this session, once more.
    Again(Running),
    /// That of a session whose content is still being opened.
    Opening,
    /// One too many.
    Full,
}

impl Registry {
    pub fn new(most: usize, most_per_client: usize, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_client,
            counters,
            hasher: RandomState::new(),
            state: Mutex::default(),
        })
    }

    /// Decides on a request.
    pub fn admit(self: &Arc<Self>, peer: SocketAddr, datagram: &[u8]) -> Admission {
        let request = self.hasher.hash_one(datagram);
        let mut state = self.lock();
        if let Some(entries) = state.clients.get(&peer.ip()) {
            let same =
                entries.iter().rev().find(|entry| entry.port == peer.port() && entry.request == request);
            match same.map(|entry| (entry.id, entry.phase)) {
                Some((_, Phase::Opening)) => return Admission::Opening,
                Some((id, Phase::Offered(pump))) => return Admission::Again(Running { pump, id }),
                Some((_, Phase::Answered(_))) | None => {}
            }
            if entries.len() >= self.most_per_client {
                return Admission::Full;
            }
        }
        if state.total >= self.most {
            return Admission::Full;
        }
        state.total += 1;
        state.last_id += 1;
        let id = state.last_id;
        let entry = Entry { id, port: peer.port(), request, phase: Phase::Opening };
        state.clients.entry(peer.ip()).or_default().push(entry);
        self.counters.active.fetch_add(1, Relaxed);
        Admission::New(Ticket { registry: Arc::clone(self), peer, id })
    }

    /// The state is plain counts and lists, whole after every statement, so a panic elsewhere while it was
    /// held does it no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the sessions, given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    registry: Arc<Registry>,
    peer: SocketAddr,
    id: Id,
}

impl Ticket {
    pub fn id(&self) -> Id {
        self.id
    }

    /// The session runs on this pump from now on.
    pub fn offered(&self, pump: usize) {
        self.set(Phase::Offered(pump));
    }

    /// The client has acknowledged: returns the older sessions of its port, which have to end.
    pub fn answered(&self, pump: usize) -> Vec<Running> {
        self.set(Phase::Answered(pump));
        let state = self.registry.lock();
        let entries = state.clients.get(&self.peer.ip()).map(Vec::as_slice).unwrap_or_default();
        let older = entries.iter().filter(|entry| entry.port == self.peer.port() && entry.id < self.id);
        older
            .filter_map(|entry| match entry.phase {
                Phase::Opening => None,
                Phase::Offered(pump) | Phase::Answered(pump) => Some(Running { pump, id: entry.id }),
            })
            .collect()
    }

    fn set(&self, phase: Phase) {
        let mut state = self.registry.lock();
        let entries = state.clients.get_mut(&self.peer.ip());
        if let Some(entry) = entries.and_then(|entries| entries.iter_mut().find(|entry| entry.id == self.id))
        {
            entry.phase = phase;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        if let Some(entries) = state.clients.get_mut(&self.peer.ip()) {
            entries.retain(|entry| entry.id != self.id);
            if entries.is_empty() {
                state.clients.remove(&self.peer.ip());
            }
        }
        state.total -= 1;
        self.registry.counters.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    fn registry() -> Arc<Registry> {
        Registry::new(4, 2, Arc::default())
    }

    fn new(admission: Admission) -> Ticket {
        match admission {
            Admission::New(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bounds_in_all_and_per_client() {
        let registry = registry();
        let held: Vec<_> =
            [(1, 1), (1, 2), (2, 1)].map(|(a, b)| new(registry.admit(peer(a, b), b"r"))).into();
        assert!(matches!(registry.admit(peer(1, 3), b"r"), Admission::Full));
        let last = new(registry.admit(peer(3, 1), b"r"));
        assert!(matches!(registry.admit(peer(4, 1), b"r"), Admission::Full));
        assert_eq!(registry.counters.active.load(Relaxed), 4);
        drop(last);
        new(registry.admit(peer(4, 1), b"r"));
        drop(held);
        assert_eq!(registry.counters.active.load(Relaxed), 0);
        assert!(registry.lock().clients.is_empty());
    }

    #[test]
    fn a_request_again_is_the_same_transfer_until_it_is_answered() {
        let registry = registry();
        let ticket = new(registry.admit(peer(1, 9), b"r"));
        assert!(matches!(registry.admit(peer(1, 9), b"r"), Admission::Opening));
        ticket.offered(3);
        let running = Running { pump: 3, id: ticket.id() };
        assert!(matches!(registry.admit(peer(1, 9), b"r"), Admission::Again(r) if r == running));
        assert!(ticket.answered(3).is_empty());
        let newer = new(registry.admit(peer(1, 9), b"r"));
        newer.offered(1);
        assert_eq!(newer.answered(1), [running]);
    }

    #[test]
    fn another_request_of_the_same_port_is_another_transfer() {
        let registry = registry();
        let probe = new(registry.admit(peer(1, 9), b"probe"));
        probe.offered(0);
        let real = new(registry.admit(peer(1, 9), b"real"));
        real.offered(0);
        assert_eq!(real.answered(0), [Running { pump: 0, id: probe.id() }]);
    }
}
