//! READ, WRITE, COMMIT, and the copy of a file's content that comes before its first change.
//!
//! The size and mtime of what a node has written are those of its data file: a WRITE puts no record
//! into the journal, but for a small stable one, whose data it takes ([`super::recorded`]). The records
//! that are there tell of data that is there, since a copy is durable before the record that names it.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use super::access;
use super::error::status;
use super::files::Owner;
use super::handle::Name;
use super::journal::Room;
use super::node::{Node, OPERATION, time_of};
use super::object::{Attributes, Body, ObjectId};
use super::record::{Change, NewBody};
use super::recorded::{self, Piece};
use super::state::{Content, before};
use super::sys::read_at;
use super::txn::{after, now};
use crate::nfs::fs::{Caller, Kind, Read, Result, Stable, Status, Wcc, Written};

impl Node {
    pub(super) fn read_file(&self, who: &Caller, name: Name, offset: u64, count: u32) -> Result<Read> {
        let (id, content, attr) = {
            let state = self.read();
            let id = state.admit(who, name)?;
            let attributes = state.file(id)?;
            access::to_read(who, &attributes)?;
            (id, state.content(id)?, state.attr(id, &attributes, Kind::File))
        };
        let left = attr.size.saturating_sub(offset);
        let length = usize::try_from(left.min(count.into())).map_err(|_| Status::NFS3ERR_INVAL)?;
        let data = if length == 0 {
            Vec::new()
        } else {
            self.content_at(id, &content, offset, length).map_err(|error| status(&error))?
        };
        let eof = data.len() < length || left <= length as u64;
        Ok(Read { data: data.into(), eof, attr })
    }

    /// Octets of a file; fewer only where its end is nearer.
    pub(super) fn content_at(
        &self,
        id: ObjectId,
        content: &Content,
        offset: u64,
        length: usize,
    ) -> io::Result<Vec<u8>> {
        match content {
            Content::Text(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                Ok(text[start..text.len().min(start.saturating_add(length))].to_vec())
            }
            Content::Data => read_at(&*self.data_file(id)?, length, offset),
            Content::Image(build, object) => {
                let open = || build.open(*object);
                let file = self.shared.files.get(Owner::Build(build.number), id, open)?;
                let data = read_at(&file, length, offset)?;
                if data.len() < length {
                    return Err(io::Error::other("an image's file is shorter than its index says"));
                }
                Ok(data)
            }
        }
    }

    pub(super) fn write_file(
        &self,
        who: &Caller,
        name: Name,
        offset: u64,
        data: &[u8],
        stable: Stable,
    ) -> Result<Written> {
        let end = offset.checked_add(data.len() as u64).ok_or(Status::NFS3ERR_FBIG)?;
        i64::try_from(end).map_err(|_| Status::NFS3ERR_FBIG)?;
        let (id, in_place, privileged) = {
            let state = self.read();
            let id = state.admit(who, name)?;
            let attributes = state.file(id)?;
            access::to_write(who, &attributes)?;
            let privileged =
                !access::is_root(who) && access::without_privilege(attributes.mode) != attributes.mode;
            (id, matches!(state.content(id)?, Content::Data), privileged)
        };
        if !in_place {
            self.copy_up(id, u64::MAX)?;
        }
        if stable != Stable::Unstable && data.len() <= recorded::LONGEST {
            let octets = self.read().recorded.octets();
            match (octets < recorded::MOST).then(|| self.write_recorded(who, name, offset, data)) {
                // What is there already may be overwritten even so.
                None | Some(Err(Status::NFS3ERR_NOSPC)) => {}
                Some(written) => return written,
            }
        }
        if privileged {
            self.change(OPERATION, |txn| {
                txn.by_node();
                txn.update(id, |attributes| {
                    attributes.mode = access::without_privilege(attributes.mode);
                })
            })?;
        }
        let file = self.data_file(id).map_err(|error| status(&error))?;
        if self.read().recorded.last(id).is_some() {
            // Or it would be written over this one, after a crash.
            self.sync_data(id, &file)?;
        }
        let count = write_at(&file, data, offset).map_err(|error| status(&error))?;
        let wcc = self.written(id, &file)?;
        let committed = if stable == Stable::Unstable {
            Stable::Unstable
        } else {
            self.sync_data(id, &file)?;
            Stable::FileSync
        };
        Ok(Written { count, committed, wcc })
    }

    /// Writes into the data file, and makes it durable by a record with the data.
    fn write_recorded(&self, who: &Caller, name: Name, offset: u64, data: &[u8]) -> Result<Written> {
        let write = || {
            let id = {
                let state = self.read();
                let id = state.admit(who, name)?;
                access::to_write(who, &state.file(id)?)?;
                // It was copied up before, and that is never undone.
                if !matches!(state.content(id)?, Content::Data) {
                    return Err(Status::NFS3ERR_SERVERFAULT);
                }
                id
            };
            let file = self.data_file(id).map_err(|error| status(&error))?;
            let count = write_at(&file, data, offset).map_err(|error| status(&error))?;
            let metadata = file.metadata().map_err(|error| status(&error))?;
            Ok((id, count, metadata))
        };
        self.change_after(Room::Common, OPERATION + data.len(), write, |txn, (id, count, metadata)| {
            txn.by_node();
            let number = txn.recorded.next();
            // As long as the data at the most.
            let data = data[..usize::try_from(count).unwrap_or(data.len())].into();
            txn.log(Change::Content(id, Piece { number, offset, data, is_last: false }));
            let wcc = txn.update(id, |attributes| {
                if !access::is_root(who) {
                    attributes.mode = access::without_privilege(attributes.mode);
                }
                take_over(attributes, &metadata);
            })?;
            Ok(Written { count, committed: Stable::FileSync, wcc })
        })
    }

    /// Takes size and mtime from the data file after it was changed.
    fn written(&self, id: ObjectId, file: &File) -> Result<Wcc> {
        let mut state = self.write();
        let Some(object) = state.object_mut(id).filter(|object| object.body == Body::Data) else {
            drop(state);
            // Removed meanwhile: a data file made by this write is of no use.
            self.discard_data(&[id]);
            return Err(Status::NFS3ERR_STALE);
        };
        let metadata = file.metadata().map_err(|error| status(&error))?;
        let old = before(&object.attributes);
        let attributes = &mut object.attributes;
        take_over(attributes, &metadata);
        attributes.ctime = after(now(), attributes.ctime);
        let attributes = *attributes;
        Ok(Wcc { before: old, after: state.attr(id, &attributes, Kind::File) })
    }

    pub(super) fn commit_file(&self, who: &Caller, name: Name) -> Result<Wcc> {
        let (id, has_data) = {
            let state = self.read();
            let id = state.admit(who, name)?;
            let attributes = state.file(id)?;
            (id, attributes.size > 0 && matches!(state.content(id)?, Content::Data))
        };
        if has_data {
            let file = self.data_file(id).map_err(|error| status(&error))?;
            self.sync_data(id, &file)?;
        }
        let state = self.read();
        let attributes = state.file(id)?;
        Ok(Wcc { before: before(&attributes), after: state.attr(id, &attributes, Kind::File) })
    }

    /// Gives a file a data file of its own with the first `limit` octets of its content; the object
    /// and all else that is known of it stay. Does nothing where it has one.
    ///
    /// # Errors
    /// `NFS3ERR_STALE` if it is removed meanwhile, and what the disk says.
    pub(super) fn copy_up(&self, id: ObjectId, limit: u64) -> Result<()> {
        let _one = self.copying(id);
        let content = self.read().content(id)?;
        if matches!(content, Content::Data) {
            return Ok(());
        }
        let file = self.copy(id, &content, limit).map_err(|error| status(&error))?;
        let metadata = file.metadata().map_err(|error| status(&error))?;
        let result = self.change(OPERATION, |txn| {
            let mut attributes = txn.file(id)?;
            attributes.size = metadata.len();
            attributes.stamp = time_of(metadata.mtime(), metadata.mtime_nsec());
            txn.by_node();
            txn.log(Change::Put(id, attributes, Some(NewBody::Other(Body::Data))));
            Ok(())
        });
        if result.is_err() && !matches!(self.read().content(id), Ok(Content::Data)) {
            self.discard_data(&[id]);
        }
        result
    }

    pub(super) fn copy(&self, id: ObjectId, content: &Content, limit: u64) -> io::Result<File> {
        let path = self.data_path(id);
        let beside = path.with_extension("new");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.custom_flags(libc::O_NOFOLLOW).open(&beside)?;
        let copied = match content {
            Content::Text(text) => {
                let length = usize::try_from(limit).unwrap_or(usize::MAX).min(text.len());
                file.write_all(&text[..length])
            }
            // A descriptor of its own, whose position no other thread moves. The library copies
            // with copy_file_range(2), which shares the blocks where the file system can.
            Content::Image(build, object) => build
                .open(*object)
                .and_then(|source| io::copy(&mut source.take(limit), &mut file))
                .map(|_| ()),
            Content::Data => Ok(()),
        };
        let result = copied
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&beside, &path))
            .and_then(|()| super::files::sync_directory_of(&path));
        if let Err(error) = result {
            // What is left is swept at the next start; its space is wanted now.
            drop(std::fs::remove_file(&beside));
            return Err(error);
        }
        Ok(file)
    }
}

/// Takes size and mtime from a data file that was written.
fn take_over(attributes: &mut Attributes, metadata: &Metadata) {
    attributes.size = metadata.len();
    attributes.stamp = time_of(metadata.mtime(), metadata.mtime_nsec());
    attributes.mtime = attributes.stamp;
}

/// Writes as much as there is room for; an error only if that is nothing.
fn write_at(file: &File, data: &[u8], offset: u64) -> io::Result<u32> {
    let mut written = 0;
    while written < data.len() {
        match file.write_at(&data[written..], offset + written as u64) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if written == 0 => return Err(error),
            Err(_) => break,
        }
    }
    u32::try_from(written).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
