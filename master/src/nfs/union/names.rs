//! CREATE, MKDIR, SYMLINK, MKNOD, LINK, REMOVE, RMDIR, RENAME.

use super::access::{W, X, in_directory, is_root, to_unname};
use super::attributes::of_new;
use super::handle::Name;
use super::journal::Room;
use super::node::{Node, OPERATION};
use super::object::{Attributes, Body, DIRECTORY_SIZE, ObjectId, ROOT};
use super::record::NewBody;
use super::state::{State, before};
use super::txn::{Txn, free};
use crate::nfs::fs::{Attr, Caller, CreateHow, Kind, Made, Make, Result, SetAttr, Status, Wcc};

/// The longest target of a symbolic link (PATH_MAX).
const MAX_TARGET: usize = 4096;

impl Node {
    pub(super) fn create(&self, who: &Caller, directory: Name, name: &[u8], how: CreateHow) -> Result<Made> {
        let (set, verifier) = match how {
            CreateHow::Unchecked(set) | CreateHow::Guarded(set) => (set, None),
            CreateHow::Exclusive(verifier) => {
                (SetAttr { mode: Some(0), ..SetAttr::default() }, Some(verifier))
            }
        };
        let (made, existed) = self.change(OPERATION + name.len(), |txn| {
            let parent = txn.admit(who, directory)?;
            let attributes = txn.directory(parent)?;
            if let Some(existing) = txn.child(parent, name) {
                in_directory(who, &attributes, X)?;
                return Ok((self.existing(txn, parent, existing, how)?, true));
            }
            in_directory(who, &attributes, W | X)?;
            let mut new = of_new(who, &attributes, &set, 0o644, false, txn.now)?;
            new.verifier = verifier;
            Ok((self.enter_new(txn, parent, name, new, NewBody::Other(Body::Data))?, false))
        })?;
        match set.size {
            Some(size) if existed || size > 0 => {
                let name = self.shared.key.open(&made.handle)?;
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                let attr = self.setattr(who, name, &set, None)?.after;
                Ok(Made { attr, ..made })
            }
            _ => Ok(made),
        }
    }

    /// What CREATE answers for a name that is there.
    fn existing(&self, state: &State, parent: ObjectId, id: ObjectId, how: CreateHow) -> Result<Made> {
        let (attributes, kind) = state.find(id)?;
        let taken = kind == Kind::File
            && match how {
                CreateHow::Unchecked(_) => true,
                CreateHow::Guarded(_) => false,
                CreateHow::Exclusive(verifier) => attributes.verifier == Some(verifier),
            };
        if !taken {
            return Err(Status::NFS3ERR_EXIST);
        }
        let directory = state.directory(parent)?;
        let attr = state.attr(parent, &directory, Kind::Directory);
        Ok(Made {
            handle: self.handle(state, id),
            attr: state.attr(id, &attributes, kind),
            directory: Wcc { before: before(&directory), after: attr },
        })
    }

    fn enter_new(
        &self,
        txn: &mut Txn,
        parent: ObjectId,
        name: &[u8],
        attributes: Attributes,
        body: NewBody,
    ) -> Result<Made> {
        let is_directory = matches!(body, NewBody::Directory(_));
        let directory = txn.names_changed(parent, i32::from(is_directory))?;
        txn.by_node();
        let id = txn.add(attributes, body);
        txn.enter(parent, name, id, true);
        Ok(Made { handle: self.handle(txn, id), attr: txn.find_attr(id)?, directory })
    }

    pub(super) fn make(
        &self,
        who: &Caller,
        directory: Name,
        name: &[u8],
        what: &Make,
        set: &SetAttr,
    ) -> Result<Made> {
        let target = match what {
            Make::Symlink(target) => target.len(),
            Make::Directory | Make::Node(_) => 0,
        };
        if target > MAX_TARGET {
            return Err(Status::NFS3ERR_NAMETOOLONG);
        }
        if matches!(what, Make::Node(Kind::Block(..) | Kind::Char(..))) && !is_root(who) {
            return Err(Status::NFS3ERR_PERM);
        }
        self.change(OPERATION + name.len() + target, |txn| {
            let parent = txn.admit(who, directory)?;
            let in_parent = txn.directory(parent)?;
            in_directory(who, &in_parent, W | X)?;
            free(txn, parent, name)?;
            let (body, mode, size) = match *what {
                Make::Directory => (NewBody::Directory(parent), 0o755, DIRECTORY_SIZE),
                Make::Symlink(target) => {
                    (NewBody::Other(Body::Symlink(target.into())), 0o777, target.len() as u64)
                }
                Make::Node(Kind::File | Kind::Directory | Kind::Symlink) => {
                    return Err(Status::NFS3ERR_BADTYPE);
                }
                Make::Node(kind) => (NewBody::Other(Body::Node(kind)), 0o644, 0),
            };
            let is_directory = matches!(what, Make::Directory);
            let mut new = of_new(who, &in_parent, set, mode, is_directory, txn.now)?;
            new.size = size;
            self.enter_new(txn, parent, name, new, body)
        })
    }

    pub(super) fn link(
        &self,
        who: &Caller,
        object: Name,
        directory: Name,
        name: &[u8],
    ) -> Result<(Attr, Wcc)> {
        self.change(OPERATION + name.len(), |txn| {
            let (id, parent) = (txn.admit(who, object)?, txn.admit(who, directory)?);
            let (_, kind) = txn.find(id)?;
            if kind == Kind::Directory {
                return Err(Status::NFS3ERR_ISDIR);
            }
            in_directory(who, &txn.directory(parent)?, W | X)?;
            free(txn, parent, name)?;
            txn.by_node();
            let attr = txn.update(id, |attributes| attributes.nlink += 1)?.after;
            let wcc = txn.names_changed(parent, 0)?;
            txn.enter(parent, name, id, true);
            Ok((attr, wcc))
        })
    }

    pub(super) fn remove(&self, who: &Caller, directory: Name, name: &[u8]) -> Result<Wcc> {
        self.change_in(Room::Last, OPERATION + name.len(), |txn| {
            let (parent, id, kind) = named(txn, who, directory, name)?;
            if kind == Kind::Directory {
                return Err(Status::NFS3ERR_ISDIR);
            }
            txn.by_node();
            let wcc = txn.names_changed(parent, 0)?;
            txn.leave(parent, name, true);
            txn.unlink(id);
            Ok(wcc)
        })
    }

    pub(super) fn rmdir(&self, who: &Caller, directory: Name, name: &[u8]) -> Result<Wcc> {
        self.change_in(Room::Last, OPERATION + name.len(), |txn| {
            let (parent, id, kind) = named(txn, who, directory, name)?;
            if kind != Kind::Directory {
                return Err(Status::NFS3ERR_NOTDIR);
            }
            require_empty(txn, id)?;
            txn.by_node();
            let wcc = txn.names_changed(parent, -1)?;
            txn.leave(parent, name, true);
            txn.remove(id);
            Ok(wcc)
        })
    }

    pub(super) fn rename(
        &self,
        who: &Caller,
        (from, old_name): (Name, &[u8]),
        (to, new_name): (Name, &[u8]),
    ) -> Result<(Wcc, Wcc)> {
        self.change(OPERATION + old_name.len() + new_name.len(), |txn| {
            let (from, in_from, id) = found(txn, who, from, old_name)?;
            let to = txn.admit(who, to)?;
            let in_to = txn.directory(to)?;
            in_directory(who, &in_to, X)?;
            let over = txn.child(to, new_name);
            if over == Some(id) {
                // Two names of one object: nothing is to be done (rename(2)), so whoever sees both may.
                return Ok((unchanged(txn, from)?, unchanged(txn, to)?));
            }
            let (object, kind) = txn.find(id)?;
            to_unname(who, &in_from, &object)?;
            in_directory(who, &in_to, W)?;
            let moves_directory = kind == Kind::Directory;
            if moves_directory && from != to {
                // `..` in it changes.
                in_directory(who, &txn.directory(id)?, W)?;
                if within(txn, to, id) {
                    return Err(Status::NFS3ERR_INVAL);
                }
            }
            let over = match over {
                Some(over) => Some((over, replaceable(txn, who, &in_to, over, moves_directory)?)),
                None => None,
            };
            txn.by_node();
            let came = i32::from(moves_directory && from != to);
            let went = i32::from(moves_directory && over.is_some());
            let wcc = if from == to {
                let wcc = txn.names_changed(from, -went)?;
                (wcc, wcc)
            } else {
                (txn.names_changed(from, -came)?, txn.names_changed(to, came - went)?)
            };
            txn.leave(from, old_name, true);
            txn.enter(to, new_name, id, true);
            match over {
                Some((over, Kind::Directory)) => txn.remove(over),
                Some((over, _)) => txn.unlink(over),
                None => {}
            }
            let moved = (moves_directory && from != to).then_some(NewBody::Directory(to));
            txn.update_with(id, |_| {}, moved)?;
            Ok(wcc)
        })
    }
}

/// A directory, and what a name in it stands for.
fn found(txn: &Txn, who: &Caller, directory: Name, name: &[u8]) -> Result<(ObjectId, Attributes, ObjectId)> {
    let parent = txn.admit(who, directory)?;
    let attributes = txn.directory(parent)?;
    in_directory(who, &attributes, X)?;
    let id = txn.child(parent, name).ok_or(Status::NFS3ERR_NOENT)?;
    Ok((parent, attributes, id))
}

/// The same, which the caller may take away, and what it is.
fn named(txn: &Txn, who: &Caller, directory: Name, name: &[u8]) -> Result<(ObjectId, ObjectId, Kind)> {
    let (parent, attributes, id) = found(txn, who, directory, name)?;
    let (object, kind) = txn.find(id)?;
    to_unname(who, &attributes, &object)?;
    Ok((parent, id, kind))
}

/// That an object may be replaced by a rename, and what it is.
fn replaceable(
    txn: &Txn,
    who: &Caller,
    directory: &Attributes,
    over: ObjectId,
    by_directory: bool,
) -> Result<Kind> {
    let (object, kind) = txn.find(over)?;
    to_unname(who, directory, &object)?;
    match (by_directory, kind) {
        (true, Kind::Directory) => require_empty(txn, over)?,
        (true, _) => return Err(Status::NFS3ERR_NOTDIR),
        (false, Kind::Directory) => return Err(Status::NFS3ERR_ISDIR),
        (false, _) => {}
    }
    Ok(kind)
}

fn require_empty(state: &State, directory: ObjectId) -> Result<()> {
    match state.entries(directory).next() {
        None => Ok(()),
        Some(_) => Err(Status::NFS3ERR_NOTEMPTY),
    }
}

/// Whether a directory is `above` or lies below it.
fn within(state: &State, mut directory: ObjectId, above: ObjectId) -> bool {
    loop {
        if directory == above {
            return true;
        }
        if directory == ROOT {
            return false;
        }
        directory = state.parent(directory);
    }
}

fn unchanged(state: &State, directory: ObjectId) -> Result<Wcc> {
    let attributes = state.directory(directory)?;
    let attr = state.attr(directory, &attributes, Kind::Directory);
    Ok(Wcc { before: before(&attributes), after: attr })
}
