//! Leases as they are kept, and the seam to where.

use std::net::Ipv4Addr;

use crate::cluster::{Mac, Uuid};

/// Seconds since 1970.
pub type Seconds = u64;

/// What stands in the store for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address: one record each.
    pub address: Ipv4Addr,
    /// Whose it is; for [`LeaseState::Declined`], who declined it.
    pub mac: Mac,
    /// The machine's UUID, where its firmware sent one.
    pub uuid: Option<Uuid>,
    /// What it is.
    pub state: LeaseState,
    /// Until when.
    pub expires: Seconds,
    /// The name that the client gave.
    pub hostname: Option<String>,
}

/// What a record means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Given to the machine until `expires`, and kept for it after that as long as nobody needs it.
    Bound,
    /// Given back at `expires`, and kept for the machine as long as nobody needs it.
    Released,
    /// Found in use by someone else: set aside until `expires`.
    Declined,
}

/// A change to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This record takes the place of the address's old one.
    Put(Lease),
    /// The address has no record any more.
    Forget(Ipv4Addr),
}

/// The store failed. Ours or the disk's fault, never the client's.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the leases could not be {doing}: {why}")]
pub struct StoreError {
    /// What was tried, as a participle: `read`, `written`.
    pub doing: &'static str,
    /// What the database said.
    pub why: String,
}

/// What happens once changes are durable, or are not.
pub type Then = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Where leases are kept.
pub trait Leases: Send + Sync {
    /// All records.
    ///
    /// # Errors
    /// The store cannot be read.
    fn load(&self) -> Result<Vec<Lease>, StoreError>;

    /// Makes the changes durable, all or none, in the order of the calls, and then calls `then`, on any
    /// thread. Waits only while more than a bounded number of changes is under way. Calls that come
    /// while a commit runs share the next one.
    fn commit(&self, changes: Vec<Change>, then: Then);
}
