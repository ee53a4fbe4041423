//! Who else is there: a node finds the others by itself, knows whether they are alive, and what they tell of
//! themselves.
//!
//! [`Core`] is the protocol, without a clock or a socket; [`Neighbours`] has the two. What passes is sealed
//! with the cluster's key ([`Seal`]), which a node gets where its own keys are signed.

mod core;
pub mod fuzz;
mod id;
mod identity;
mod map;
mod neighbours;
mod replay;
mod seal;
#[cfg(test)]
mod tests;
mod vector;

pub use self::core::{Content, Core, Output, Packet, Refused, TELLING};
pub use id::NodeId;
pub use identity::Run;
pub use map::{Line, MAX_LINES, Map, MapError};
pub use neighbours::{GROUP, Neighbours, PORT, own_address};
pub use seal::{OVERHEAD, Seal};
pub use vector::{Entry, IN_MESSAGE, Vector};
