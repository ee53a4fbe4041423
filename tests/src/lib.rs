//! Whole-cluster tests.

pub mod dhcp;
pub mod lab;
pub mod netns;
pub mod nfs;
pub mod served;
pub mod tftp;
