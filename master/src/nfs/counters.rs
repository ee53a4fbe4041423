//! What the server counts, for `/metrics`.

use super::args::Procedure;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One procedure.
#[derive(Debug, Default)]
struct PerProcedure {
    calls: AtomicU64,
    errors: AtomicU64,
}

/// Counts since the start of the server.
#[derive(Debug, Default)]
pub struct Counters {
    procedures: [PerProcedure; Procedure::ALL.len()],
    /// Octets that came in over all connections, with headers.
    pub received: AtomicU64,
    /// Octets that went out.
    pub sent: AtomicU64,
    /// Replies that came out of the reply cache.
    pub replayed: AtomicU64,
    /// Calls that were not understood or not served (RPC errors).
    pub denied: AtomicU64,
    /// Calls that met a fault of this server (a panic).
    pub faults: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections turned away, being too many.
    pub refused: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU64,
}

impl Counters {
    /// For each procedure its name, the calls and how many of them failed.
    pub fn procedures(&self) -> impl Iterator<Item = (&'static str, u64, u64)> + '_ {
        Procedure::ALL.iter().zip(&self.procedures).map(|(procedure, counts)| {
            (procedure.name(), counts.calls.load(Relaxed), counts.errors.load(Relaxed))
        })
    }

    pub(super) fn call(&self, procedure: Procedure, failed: bool) {
        let counts = &self.procedures[procedure as usize];
        counts.calls.fetch_add(1, Relaxed);
        if failed {
            counts.errors.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count(counter: &AtomicU64, by: usize) {
        counter.fetch_add(by as u64, Relaxed);
    }
}
