//! What the server counts, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters that only rise, and one gauge; read them with any ordering.
#[derive(Debug, Default)]
pub struct Counters {
    /// Read requests that were well-formed.
    pub requests: AtomicU64,
    /// Datagrams to the server's port that were no request.
    pub malformed: AtomicU64,
    /// Requests not answered for a bound on sessions, or because the content was busy.
    pub busy: AtomicU64,
    /// Requests answered with an ERROR: not found, refused, or a write.
    pub refused: AtomicU64,
    /// Sessions that are open now (a gauge).
    pub active: AtomicU64,
    /// Transfers whose last block was acknowledged.
    pub completed: AtomicU64,
    /// Transfers that the client ended with an ERROR.
    pub aborted: AtomicU64,
    /// Transfers whose client fell silent or whose port closed.
    pub lost: AtomicU64,
    /// Transfers that failed on our side, or were stopped with the server.
    pub failed: AtomicU64,
    /// DATA packets sent, retransmissions among them.
    pub blocks: AtomicU64,
    /// DATA packets sent again.
    pub retransmitted: AtomicU64,
    /// Octets of files acknowledged, in ended transfers.
    pub bytes: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}
