//! What the agent and the code that it maps into a moving process have in common.
//!
//! A process that moves is in two places: its **body** runs on the remote node, and the process itself
//! stays at home as its **deputy**. The agent maps the same piece of code, the *blob*, into both: in the
//! body it is the *shim*, which catches system calls and sends them home; in the deputy it is the
//! *resident loop*, which makes them. This crate holds what the two and the agent must agree on, and
//! touches no memory but what it is given; the code itself is in `runtime/blob`.
//!
//! - [`table`]: for each system call where it runs, and what its arguments point to.
//! - [`layout`]: the region that the blob lives in, and the structures in it.
//! - [`wire`]: the messages of a forwarded call.
//! - [`seal`]: how they are encrypted.
//! - [`kernel`]: structures of system calls.
#![cfg_attr(not(test), no_std)]

pub mod kernel;
pub mod layout;
pub mod seal;
pub mod table;
pub mod wire;
