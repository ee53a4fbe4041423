//! SETATTR, and the attributes that new objects get.

use std::os::unix::fs::MetadataExt;

use super::access::{self, in_group, inherited, is_root, settable_mode, without_privilege};
use super::error::status;
use super::handle::Name;
use super::journal::Room;
use super::node::{Node, OPERATION, time_of};
use super::object::{Attributes, Body, ObjectId};
use super::record::{Change, NewBody};
use super::recorded::Piece;
use super::state::Content;
use super::txn::Txn;
use crate::nfs::fs::{Caller, Kind, Result, SetAttr, SetTime, Status, Time, Wcc};

impl Node {
    pub(super) fn setattr(
        &self,
        who: &Caller,
        name: Name,
        set: &SetAttr,
        guard: Option<Time>,
    ) -> Result<Wcc> {
        if let Some(size) = set.size {
            let (id, needs_copy) = {
                let state = self.read();
                let id = state.admit(who, name)?;
                let old = state.file(id)?;
                check_guard(&old, guard)?;
                access::to_write(who, &old)?;
                i64::try_from(size).map_err(|_| Status::NFS3ERR_FBIG)?;
                (id, size > 0 && !matches!(state.content(id)?, Content::Data))
            };
            if needs_copy {
                self.copy_up(id, size)?;
            }
        }
        self.change_in(Room::Last, OPERATION, |txn| {
            let id = txn.admit(who, name)?;
            let (old, kind) = txn.find(id)?;
            check_guard(&old, guard)?;
            let mut new = changed(who, &old, kind, set, txn.now)?;
            let body = match set.size {
                Some(size) => self.truncate(txn, id, size, &mut new)?,
                None => None,
            };
            txn.by_node();
            txn.update_with(id, |attributes| *attributes = new, body)
        })
    }

    /// Sets the size of the data file, and answers what the object is then. Comes before the record: nothing
    /// is lost if that is not made, for the caller has not been told.
    fn truncate(
        &self,
        txn: &mut Txn,
        id: ObjectId,
        size: u64,
        new: &mut Attributes,
    ) -> Result<Option<NewBody>> {
        match txn.content(id)? {
            Content::Data if new.size == 0 && size == 0 => {}
            Content::Data => {
                let file = self.data_file(id).map_err(|error| status(&error))?;
                file.set_len(size).map_err(|error| status(&error))?;
                let metadata = file.metadata().map_err(|error| status(&error))?;
                new.stamp = time_of(metadata.mtime(), metadata.mtime_nsec());
                // The size that holds after a restart is that of the file.
                let number = txn.recorded.next();
                let end = Piece { number, offset: size, data: Box::default(), is_last: true };
                txn.log(Change::Content(id, end));
            }
            _ if size == 0 => {
                new.size = 0;
                return Ok(Some(NewBody::Other(Body::Data)));
            }
            // It was copied up before, and that is never undone.
            _ => return Err(Status::NFS3ERR_SERVERFAULT),
        }
        new.size = size;
        Ok(None)
    }
}

fn check_guard(old: &Attributes, guard: Option<Time>) -> Result<()> {
    match guard {
        Some(ctime) if ctime != old.ctime => Err(Status::NFS3ERR_NOT_SYNC),
        _ => Ok(()),
    }
}

/// The attributes after a SETATTR, but for the size.
///
/// # Errors
/// `NFS3ERR_PERM` for what only the owner or root may set, `NFS3ERR_ACCES` for want of write access.
fn changed(who: &Caller, old: &Attributes, kind: Kind, set: &SetAttr, now: Time) -> Result<Attributes> {
    let owns = is_root(who) || who.uid == old.uid;
    let mut new = *old;
    new.verifier = None;
    if let Some(uid) = set.uid {
        require(is_root(who) || owns && uid == old.uid)?;
        new.uid = uid;
    }
    if let Some(gid) = set.gid {
        require(is_root(who) || owns && (gid == old.gid || in_group(who, gid)))?;
        new.gid = gid;
    }
    if let Some(mode) = set.mode {
        require(owns)?;
        new.mode = settable_mode(who, permission_bits(mode), new.gid);
    }
    let chowned = set.uid.is_some() || set.gid.is_some();
    if kind != Kind::Directory && (chowned || set.size.is_some() && !is_root(who)) {
        new.mode = without_privilege(new.mode);
    }
    for (time, field) in [(set.atime, &mut new.atime), (set.mtime, &mut new.mtime)] {
        match time {
            None => {}
            Some(SetTime::Now) => {
                if !owns {
                    access::to_write(who, old)?;
                }
                *field = now;
            }
            Some(SetTime::To(time)) => {
                require(owns)?;
                *field = time;
            }
        }
    }
    if set.size.is_some() {
        access::to_write(who, old)?;
        if set.mtime.is_none() {
            new.mtime = now;
        }
    }
    Ok(new)
}

fn require(yes: bool) -> Result<()> {
    if yes { Ok(()) } else { Err(Status::NFS3ERR_PERM) }
}

fn permission_bits(mode: u32) -> u16 {
    // Twelve bits always fit.
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

/// The attributes of a new object in a directory: as asked, with what it inherits.
///
/// # Errors
/// `NFS3ERR_PERM` for an owner that the caller may not give.
pub fn of_new(
    who: &Caller,
    directory: &Attributes,
    set: &SetAttr,
    default_mode: u16,
    is_directory: bool,
    now: Time,
) -> Result<Attributes> {
    let mode = set.mode.map_or(default_mode, permission_bits);
    let (inherited_gid, mode) = inherited(who, directory, mode, is_directory);
    let uid = set.uid.unwrap_or(who.uid);
    let gid = set.gid.unwrap_or(inherited_gid);
    require(is_root(who) || uid == who.uid && (gid == inherited_gid || in_group(who, gid)))?;
    let time = |time| match time {
        Some(SetTime::To(time)) => time,
        Some(SetTime::Now) | None => now,
    };
    Ok(Attributes {
        mode,
        uid,
        gid,
        nlink: if is_directory { 2 } else { 1 },
        size: 0,
        atime: time(set.atime),
        mtime: time(set.mtime),
        ctime: now,
        stamp: Time::default(),
        verifier: None,
    })
}
