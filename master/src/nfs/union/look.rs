//! GETATTR, LOOKUP, ACCESS, READLINK, READDIR: memory only.

use super::access::{R, W, X, in_directory, rights};
use super::handle::Name;
use super::node::Node;
use super::object::{ObjectId, image_cookie, image_position};
use super::state::State;
use crate::nfs::fs::{Attr, Caller, Entry, Handle, Kind, Page, Result, Status};

const ACCESS_READ: u32 = 0x01;
const ACCESS_LOOKUP: u32 = 0x02;
const ACCESS_MODIFY: u32 = 0x04;
const ACCESS_EXTEND: u32 = 0x08;
const ACCESS_DELETE: u32 = 0x10;
const ACCESS_EXECUTE: u32 = 0x20;

/// Octets of an entry on the wire, apart from its name (RFC 1813, `entry3`).
const ENTRY: usize = 24;
/// Octets more of an `entryplus3` with attributes and one of our handles.
const ENTRY_PLUS: usize = 4 + 84 + 4 + 4 + 32;
/// Octets of a reply without entries.
const PAGE: usize = 104;

const COOKIE_SELF: u64 = 1;
const COOKIE_PARENT: u64 = 2;

impl Node {
    pub(super) fn getattr(&self, who: &Caller, name: Name) -> Result<Attr> {
        let state = self.read();
        state.find_attr(state.admit(who, name)?)
    }

    pub(super) fn lookup(&self, who: &Caller, directory: Name, name: &[u8]) -> Result<(Handle, Attr)> {
        let state = self.read();
        let id = state.admit(who, directory)?;
        let attributes = state.directory(id)?;
        in_directory(who, &attributes, X)?;
        let object = match name {
            b"." => id,
            b".." => state.parent(id),
            _ => state.child(id, name).ok_or(Status::NFS3ERR_NOENT)?,
        };
        Ok((self.handle(&state, object), state.find_attr(object)?))
    }

    pub(super) fn access(&self, who: &Caller, object: Name, mask: u32) -> Result<(u32, Attr)> {
        let state = self.read();
        let id = state.admit(who, object)?;
        let (attributes, kind) = state.find(id)?;
        let is_directory = kind == Kind::Directory;
        let has = rights(who, &attributes, is_directory);
        let granted = [
            (R, ACCESS_READ),
            (W, ACCESS_MODIFY | ACCESS_EXTEND | if is_directory { ACCESS_DELETE } else { 0 }),
            (X, if is_directory { ACCESS_LOOKUP } else { ACCESS_EXECUTE }),
        ];
        let bits = granted.iter().filter(|(right, _)| has & right != 0);
        let bits = bits.fold(0, |bits, (_, bit)| bits | bit);
        Ok((bits & mask, state.attr(id, &attributes, kind)))
    }

    pub(super) fn readlink(&self, who: &Caller, link: Name) -> Result<(Vec<u8>, Attr)> {
        let state = self.read();
        let id = state.admit(who, link)?;
        let attr = state.find_attr(id)?;
        let target = state.target(id).ok_or(Status::NFS3ERR_INVAL)?;
        Ok((target.to_vec(), attr))
    }

    /// Entries have these cookies: 1 and 2 are `.` and `..`, then come the image's names in their
    /// order, then the node's own in the order in which they were made. So a cookie keeps its place
    /// whatever is made, removed or renamed meanwhile, and the verifier is always 0.
    pub(super) fn readdir(
        &self,
        who: &Caller,
        directory: Name,
        cookie: u64,
        max_bytes: usize,
        plus: bool,
    ) -> Result<Page> {
        let state = self.read();
        let id = state.admit(who, directory)?;
        let attributes = state.directory(id)?;
        in_directory(who, &attributes, R)?;
        let attr = state.attr(id, &attributes, Kind::Directory);
        let each = ENTRY + if plus { ENTRY_PLUS } else { 0 };
        let mut left = max_bytes.saturating_sub(PAGE);
        let mut entries = Vec::with_capacity((left / (each + 16)).min(state.image_entries(id) + 64));
        for (cookie, name, object) in entries_after(&state, id, cookie) {
            let size = each + name.len().next_multiple_of(4);
            if size > left {
                if entries.is_empty() {
                    return Err(Status::NFS3ERR_TOOSMALL);
                }
                return Ok(Page { entries, eof: false, verifier: [0; 8], attr });
            }
            left -= size;
            let plus =
                if plus { Some((self.handle(&state, object), state.find_attr(object)?)) } else { None };
            entries.push(Entry { fileid: object, name: name.to_vec(), cookie, plus });
        }
        Ok(Page { entries, eof: true, verifier: [0; 8], attr })
    }
}

fn entries_after(state: &State, id: ObjectId, cookie: u64) -> impl Iterator<Item = (u64, &[u8], ObjectId)> {
    let dots = [(COOKIE_SELF, &b"."[..], id), (COOKIE_PARENT, &b".."[..], state.parent(id))];
    let difference = state.difference(id);
    let first = image_position(cookie);
    let image = state.image_object(id).into_iter();
    let image = image
        .flat_map(move |object| state.build.index.read_directory(object, first))
        .zip(first..)
        .filter(move |((name, _), _)| difference.is_none_or(|own| own.slot(name).is_none()))
        .map(|((name, object), at)| (image_cookie(at), name, ObjectId::from(object)));
    let own = difference.into_iter().flat_map(move |own| own.entries_after(cookie));
    dots.into_iter().filter(move |(dot, ..)| *dot > cookie).chain(image).chain(own)
}
