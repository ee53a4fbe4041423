//! The seam between machines and protocols: for a machine, which file or script comes next.

mod accept;
pub mod context;
mod cuts;
mod files;
pub mod firmware;
mod forget;
mod generation;
mod images;
mod join;
mod rebase;
mod site;
#[cfg(test)]
pub(crate) mod testing;

pub use accept::{AcceptError, Acceptance, Acceptances, Passed, is_free};
pub use files::{File, FileError, Request, neighbour};
pub use forget::ForgetError;
pub use generation::{Generation, adopted_name};
pub use images::{NoProgram, NodePrograms, manuals, not_built, spec as image_spec};
pub use join::JoinError;
pub use rebase::{Rebase, RebaseError, RebaseHow};
pub use site::{ApplyError, Beginning, Paths, Roots, Site, Tokens, applied_path};

pub use tesela_runtime::wire::CONTROL_PORT;
/// TCP port of NFS and MOUNT.
pub const NFS_PORT: u16 = 2049;
