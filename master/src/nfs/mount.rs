//! MOUNT version 3 (RFC 1813, appendix I).

use super::args::MAX_PATH;
use super::fs::{Caller, FileSystem, Status};
use super::rpc::Denial;
use super::xdr::{Decoder, Encode};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// MOUNT's program number.
pub const PROGRAM: u32 = 100_005;
/// Its version; version 1 is for NFS version 2.
pub const VERSION: u32 = 3;

/// The most mounts that DUMP lists; it is a courtesy, and nothing else rests on it.
const MAX_LISTED: usize = 1024;

/// Who has mounted what, for DUMP (`showmount -a`).
#[derive(Debug, Default)]
pub struct Mounts(Mutex<BTreeSet<(IpAddr, Vec<u8>)>>);

impl Mounts {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeSet<(IpAddr, Vec<u8>)>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a procedure asks the file system, which can block.
pub fn may_block(procedure: u32) -> bool {
    matches!(procedure, 1 | 5)
}

/// Carries out a call of MOUNT version 3 and encodes its results behind what `out` holds; nothing is
/// written if it is denied.
pub fn execute(
    fs: &dyn FileSystem,
    mounts: &Mounts,
    who: &Caller,
    procedure: u32,
    arguments: &[u8],
    out: &mut BytesMut,
) -> Result<(), Denial> {
    let path = || Decoder::new(arguments).opaque(MAX_PATH).map_err(|_| Denial::GarbageArguments);
    match procedure {
        0 => {}
        1 => {
            let path = path()?;
            match fs.mount(who, path) {
                Ok(handle) => {
                    mounts.with(|list| {
                        if list.len() < MAX_LISTED {
                            list.insert((who.address, path.to_vec()));
                        }
                    });
                    out.put_u32(0);
                    out.put_opaque(handle.as_bytes());
                    // One flavour: AUTH_UNIX.
                    out.put_u32(1);
                    out.put_u32(1);
                }
                Err(status) => out.put_u32(mount_status(status)),
            }
        }
        2 => mounts.with(|list| {
            for (address, path) in &*list {
                out.put_bool(true);
                out.put_opaque(address.to_string().as_bytes());
                out.put_opaque(path);
            }
            out.put_bool(false);
        }),
        3 => {
            let path = path()?.to_vec();
            mounts.with(|list| list.remove(&(who.address, path)));
        }
        4 => mounts.with(|list| list.retain(|(address, _)| *address != who.address)),
        5 => {
            for path in fs.exports(who) {
                out.put_bool(true);
                out.put_opaque(&path);
                // One group: the caller itself, whose exports these are.
                out.put_bool(true);
                out.put_opaque(who.address.to_string().as_bytes());
                out.put_bool(false);
            }
            out.put_bool(false);
        }
        _ => return Err(Denial::NoProcedure),
    }
    Ok(())
}

/// `mountstat3` has the numbers of `nfsstat3`, but not all of them.
fn mount_status(status: Status) -> u32 {
    match status {
        Status::NFS3ERR_PERM
        | Status::NFS3ERR_NOENT
        | Status::NFS3ERR_IO
        | Status::NFS3ERR_ACCES
        | Status::NFS3ERR_NOTDIR
        | Status::NFS3ERR_INVAL
        | Status::NFS3ERR_NAMETOOLONG
        | Status::NFS3ERR_NOTSUPP => status as u32,
        _ => Status::NFS3ERR_SERVERFAULT as u32,
    }
}
