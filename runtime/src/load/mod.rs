//! What a node tells of itself: its load, speed, memory and status, by openMosix's names (the files below
//! `/hpc/nodes/N`).
//!
//! One unit of load is a hundredth of a standard processor that one process keeps busy: a process that computes, alone
//! on a node with one processor of [`STANDARD_SPEED`], is a load of 100, and 50 on one that is twice as fast.

mod cgroup;
mod filter;
mod measure;
pub mod speed;

use serde::{Deserialize, Serialize};

pub use cgroup::{Cgroup, Memory};
pub use filter::{Filter, Filtered};
pub use measure::{Measured, Meter, Room, load_of, running_of};

/// The speed of a standard processor.
pub const STANDARD_SPEED: u32 = 10_000;
/// The load of one process that computes on a standard processor.
pub const STANDARD_LOAD: u32 = 100;

/// What a node tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Its load, in hundredths of a standard processor, for each of its processors: rises at once, falls slowly.
    pub load: u32,
    /// The speed of one of its processors; [`STANDARD_SPEED`] is a standard one.
    pub speed: u32,
    /// Processors, in hundredths: with a quota a node may have the half of one.
    pub cpus: u32,
    /// How much of its processors is in use, in percent.
    pub util: u8,
    /// Memory that processes can still have without swapping, in KiB.
    pub mem: u64,
    /// Memory that nothing is in, in KiB.
    pub rmem: u64,
    /// All of its memory, in KiB.
    pub tmem: u64,
    /// What it takes part in.
    pub status: Status,
}

/// What a node takes part in: flags, which `/hpc/nodes/N/status` shows as their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status(pub u16);

impl Status {
    /// It is a member and can be reached.
    pub const UP: Self = Self(1);
    /// Nothing leaves it by itself (`mosctl stay`).
    pub const STAY: Self = Self(2);
    /// Its own processes do not leave it by themselves (`mosctl lstay`).
    pub const LSTAY: Self = Self(4);
    /// It lets no guests in (`mosctl block`).
    pub const BLOCK: Self = Self(8);
    /// It tells nobody of its load (`mosctl quiet`).
    pub const QUIET: Self = Self(16);
    /// It has no MFS (`mosctl nomfs`).
    pub const NOMFS: Self = Self(32);

    /// With these flags, too.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// Whether it has all of these flags.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}
