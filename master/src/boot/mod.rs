//! The seam between machines and protocols: for a machine, which file or script comes next.

pub mod firmware;
