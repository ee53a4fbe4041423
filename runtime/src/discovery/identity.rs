//! Who a node is to the others, as far as being alive goes.

use std::net::Ipv4Addr;

use foca::Identity;
use serde::{Deserialize, Serialize};

/// A run of a node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Run {
    /// The node's address.
    pub address: Ipv4Addr,
    /// Which run: a later one has a higher number. It begins as the time of the start in milliseconds; where a clock has
    /// been set back, the others tell the number that has to be passed.
    pub number: u64,
}

impl Identity for Run {
    type Addr = Ipv4Addr;

    fn renew(&self) -> Option<Self> {
        Some(Self { number: self.number.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> Ipv4Addr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.number > adversary.number
    }
}
