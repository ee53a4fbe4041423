//! Who may do what: the rules of a local Linux file system (path_resolution(7), chmod(2), chown(2)).

use super::object::Attributes;
use crate::nfs::fs::{Caller, Result, Status};

/// Read.
pub const R: u16 = 4;
/// Write.
pub const W: u16 = 2;
/// Execute, or search a directory.
pub const X: u16 = 1;

const SETUID: u16 = 0o4000;
const SETGID: u16 = 0o2000;
/// Only the owner of a file, or of the directory, may take names away from it.
const STICKY: u16 = 0o1000;
const GROUP_EXECUTE: u16 = 0o010;

/// Whether the caller is root.
pub fn is_root(who: &Caller) -> bool {
    who.uid == 0
}

/// Whether the caller is in a group.
pub fn in_group(who: &Caller, gid: u32) -> bool {
    who.gid == gid || who.groups.contains(&gid)
}

/// Which of `rwx` the mode gives the caller. Root has all, but executes only what anyone may, or a
/// directory.
pub fn rights(who: &Caller, of: &Attributes, is_directory: bool) -> u16 {
    if is_root(who) {
        let executable = is_directory || of.mode & 0o111 != 0;
        return R | W | if executable { X } else { 0 };
    }
    let shift = if who.uid == of.uid {
        6
    } else if in_group(who, of.gid) {
        3
    } else {
        0
    };
    of.mode >> shift & 7
}

/// That the caller has these rights in a directory.
pub fn in_directory(who: &Caller, directory: &Attributes, wanted: u16) -> Result<()> {
    allowed(rights(who, directory, true) & wanted == wanted)
}

/// That the caller may read a file: the owner always, for the client checks when it opens; who may
/// execute it too, for the client has to read what it runs.
pub fn to_read(who: &Caller, file: &Attributes) -> Result<()> {
    allowed(who.uid == file.uid || rights(who, file, false) & (R | X) != 0)
}

/// That the caller may write a file: the owner always.
pub fn to_write(who: &Caller, file: &Attributes) -> Result<()> {
    allowed(who.uid == file.uid || rights(who, file, false) & W != 0)
}

fn allowed(yes: bool) -> Result<()> {
    if yes { Ok(()) } else { Err(Status::NFS3ERR_ACCES) }
}

/// That the caller may take a name of `object` out of `directory`, or put another in its place.
pub fn to_unname(who: &Caller, directory: &Attributes, object: &Attributes) -> Result<()> {
    in_directory(who, directory, W | X)?;
    let free =
        directory.mode & STICKY == 0 || is_root(who) || who.uid == directory.uid || who.uid == object.uid;
    if free { Ok(()) } else { Err(Status::NFS3ERR_PERM) }
}

/// The mode after a write to a file, or a change of its owner: without setuid, and without setgid
/// where that means a program's group (not mandatory locking).
pub fn without_privilege(mode: u16) -> u16 {
    let mode = mode & !SETUID;
    if mode & GROUP_EXECUTE != 0 { mode & !SETGID } else { mode }
}

/// The mode that a caller may give to an object of this group.
pub fn settable_mode(who: &Caller, mode: u16, gid: u32) -> u16 {
    if is_root(who) || in_group(who, gid) { mode } else { mode & !SETGID }
}

/// The group and mode of a new object in a directory.
pub fn inherited(who: &Caller, directory: &Attributes, mode: u16, is_directory: bool) -> (u32, u16) {
    if directory.mode & SETGID == 0 {
        return (who.gid, settable_mode(who, mode, who.gid));
    }
    let mode = if is_directory {
        mode | SETGID
    } else if mode & GROUP_EXECUTE != 0 {
        settable_mode(who, mode, directory.gid)
    } else {
        mode
    };
    (directory.gid, mode)
}
