//! `/hpc`: what openMosix has under `/proc/hpc`, and under `/hpc/pid/PID` what it adds to `/proc/PID`, read and written by
//! `cat` and `echo`.
//!
//! A file system of the agent's own (FUSE), for a stock kernel has no room under `/proc`. [`tree`] knows the names and
//! what they mean; [`serve`] is what the kernel asks. Whatever is read or written becomes a request as those of the tools
//! are, in the name of the user who does it.

mod serve;
mod tree;

pub use serve::{PLACE, mount};
pub use tree::{Caller, Entry, Source, Tree};
