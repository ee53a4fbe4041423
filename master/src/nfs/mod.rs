//! NFS version 3 over TCP (RFC 1813) with MOUNT and a portmapper answer.
//!
//! The protocol half knows nothing of nodes, images or templates: it serves any [`FileSystem`].
//!
//! The way of a call: [`record`] cuts it out of the stream, [`rpc`] reads its header, [`service`] finds
//! the procedure, [`args`] decodes its arguments, [`procedures`] carries it out and writes the
//! results ([`encode`]), [`output`] frames and [`outbox`] sends them. [`connection`] drives this for one
//! client: calls that cannot block run there and then, in batches; one that can and comes alone runs on
//! the same thread; the others in a [`pool`]. [`cache`] answers again what was answered before.
//!
//! Calls count from ports under 1024 only: with AUTH_UNIX the client says itself who calls, so the word of
//! any user of a node would make him its root.
//!
//! Limits: no NFS over UDP, no NLM (mount with `nolock`), no ACLs; AUTH_NONE and AUTH_UNIX only.

pub mod args;
pub mod cache;
pub mod connection;
pub mod counters;
pub mod encode;
pub mod fs;
pub mod fuzz;
pub mod memory;
pub mod mount;
pub mod outbox;
pub mod output;
pub mod pool;
pub mod portmap;
pub mod procedures;
pub mod record;
pub mod rpc;
pub mod server;
pub mod service;
pub mod union;
pub mod xdr;

pub use counters::Counters;
pub use fs::FileSystem;
pub use server::{Limits, Server};

/// NFS's program number.
pub const PROGRAM: u32 = 100_003;
/// Its version.
pub const VERSION: u32 = 3;
