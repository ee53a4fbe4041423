//! DHCPv4 for boot clients and for the machines of the cluster (RFC 2131, 2132, 3046, 3396, 4578).
//!
//! [`Engine`] is the protocol: bytes of a datagram, where it came from and the time go in; the reply,
//! how to send it, and what must be durable first come out. It does no I/O. [`serve`] is the shell:
//! sockets, the ARP prober, and the store of leases, around one engine in one thread.
//!
//! Behaviour:
//! - A machine is its hardware address. PXE ROM, iPXE, stage1 and the installed system each send another
//!   client identifier (option 61); it is echoed (RFC 6842) and never looked at, so that all four get the
//!   same address. Where `cluster.yaml` knows a machine by UUID, [`Policy`] says its address.
//! - Only boot clients (PXE, UEFI HTTP, iPXE, stage1) and machines that [`Policy`] knows are answered.
//! - An ACK leaves only when its lease is durable ([`Leases`]).
//! - In [`Mode::Proxy`] another server gives the addresses and this one adds the boot file, on port 67
//!   and on port 4011.
//!
//! Limits: Ethernet only; one network a server (a relay's `giaddr` must lie in the network that the
//! policy gives); no BOOTP, no leasequery, no FORCERENEW, no RFC 3118 authentication.

pub mod client;
pub mod engine;
pub mod frame;
pub mod fuzz;
pub mod lease;
pub mod policy;
pub mod wire;

mod arp;
mod batch;
#[cfg(test)]
mod golden;
mod observe;
mod proxy;
mod pxe;
mod reply;
mod scout;
mod server;
mod store;
mod sys;
mod table;
#[cfg(test)]
mod tests;

pub use client::{Arch, Client, Kind};
pub use engine::{Answer, Destination, Engine, Port, Received, Reply};
pub use lease::{Change, Lease, LeaseState, Leases, StoreError, Then};
pub use observe::{Counters, Exchange, Outcome, Silence};
pub use policy::{BootFile, Decision, Network, Policy, Terms};
pub use scout::{FoundServer, ScoutError, find_servers};
pub use server::{Config, Mode, Server, StartError, check, serve};
pub use store::SqliteLeases;
pub use wire::{Malformed, MessageType};
