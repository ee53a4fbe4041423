//! The master of a tesela cluster: one process that serves DHCP, TFTP, HTTP and an NFS root,
//! built from templates, to diskless x86-64 nodes, as `cluster.yaml` says.
//!
//! ARCHITECTURE.md tells which module knows which.

pub mod boot;
pub mod cli;
pub mod cluster;
pub mod control;
pub mod dhcp;
pub mod doctor;
pub mod http;
pub mod interfaces;
pub mod inventory;
pub mod keys;
pub mod lab;
pub mod ndp;
pub mod nfs;
pub mod places;
pub mod ports;
pub mod render;
pub mod serve;
pub mod sntp;
pub mod tftp;
pub mod wake;
pub mod web;
