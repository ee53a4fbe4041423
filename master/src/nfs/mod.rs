//! NFS version 3 over TCP (RFC 1813) with MOUNT and a portmapper answer.
//!
//! The protocol half knows nothing of nodes, images or templates: it serves any [`FileSystem`].

pub mod fs;

pub use fs::FileSystem;
