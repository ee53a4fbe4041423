//! Whole-cluster tests.

pub mod dhcp;
pub mod netns;
pub mod nfs;
