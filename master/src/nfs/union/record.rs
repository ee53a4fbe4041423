//! What the journal holds: changes of a node's state, each of them saying what is, not what to do,
//! so that it may be applied over and over.
//!
//! Numbers are little endian; octet strings have their length (u32) before them. Several changes
//! make one record, which holds as a whole or not at all.

use std::sync::Arc;

use super::object::{Attributes, Body, Directory, ObjectId, Slot};
use super::recorded::Piece;
use crate::nfs::fs::{Kind, Time};

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// What the root is made on.
    Head(Head),
    /// The node itself has written.
    Wrote,
    /// An object's attributes, and what it is where that changes (`Body::Directory`: with this
    /// parent; as plain as it came, if it is new).
    Put(ObjectId, Attributes, Option<NewBody>),
    /// An object is no more.
    Gone(ObjectId),
    /// A name of a directory.
    Name(ObjectId, Box<[u8]>, Slot),
    /// What a path is rendered as: the object, and a digest of all that was said of it.
    Rendered(Box<[u8]>, Option<(ObjectId, Digest)>),
    /// The object that had a rendered path before and is kept aside.
    Aside(Box<[u8]>, Option<ObjectId>),
    /// A piece of a file's content, which may not be in its data file yet.
    Content(ObjectId, Piece),
    /// A file's pieces up to the one of this number are in its data file for good.
    Settled(ObjectId, u64),
}

/// A digest of a rendered file: its kind, mode, owners and content.
pub type Digest = [u8; 16];

/// What a node's root is made on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The node's number.
    pub number: u32,
    /// How often the root was made anew.
    pub generation: u32,
    /// The directory of the build, relative to the state directory where it lies within.
    pub build: Box<[u8]>,
    /// No object has had this number or one above.
    pub next_object: ObjectId,
}

/// What an object is from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewBody {
    /// A directory with this parent; its names stay.
    Directory(ObjectId),
    /// Anything else.
    Other(Body),
}

/// A record that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Appends a change to a record.
pub fn encode(change: &Change, out: &mut Vec<u8>) {
    let mut out = Writer(out);
    match change {
        Change::Head(head) => {
            out.u8(1);
            out.u32(head.number);
            out.u32(head.generation);
            out.octets(&head.build);
            out.u64(head.next_object);
        }
        Change::Wrote => out.u8(2),
        Change::Put(object, attributes, body) => {
            out.u8(3);
            out.u64(*object);
            out.attributes(attributes);
            out.body(body.as_ref());
        }
        Change::Gone(object) => {
            out.u8(4);
            out.u64(*object);
        }
        Change::Name(directory, name, slot) => {
            out.u8(5);
            out.u64(*directory);
            out.octets(name);
            out.u8(u8::from(slot.hidden) | u8::from(slot.entry.is_some()) << 1);
            if let Some((object, cookie)) = slot.entry {
                out.u64(object);
                out.u64(cookie);
            }
        }
        Change::Rendered(path, what) => {
            out.u8(6);
            out.octets(path);
            out.u8(u8::from(what.is_some()));
            if let Some((object, digest)) = what {
                out.u64(*object);
                out.0.extend_from_slice(digest);
            }
        }
        Change::Aside(path, object) => {
            out.u8(7);
            out.octets(path);
            out.u8(u8::from(object.is_some()));
            if let Some(object) = object {
                out.u64(*object);
            }
        }
        Change::Content(object, piece) => {
            out.u8(8);
            out.u64(*object);
            out.u64(piece.number);
            out.u64(piece.offset);
            out.u8(u8::from(piece.is_last));
            out.octets(&piece.data);
        }
        Change::Settled(object, number) => {
            out.u8(9);
            out.u64(*object);
            out.u64(*number);
        }
    }
}

/// The changes of a record.
pub fn decode(record: &[u8]) -> Result<Vec<Change>, Malformed> {
    let mut reader = Reader(record);
    let mut changes = Vec::new();
    while !reader.0.is_empty() {
        changes.push(reader.change()?);
    }
    Ok(changes)
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }
    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }
    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }
    fn octets(&mut self, octets: &[u8]) {
        // Records are far under 4 GB: the journal refuses longer ones before they are applied.
        self.u32(u32::try_from(octets.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(octets);
    }
    fn time(&mut self, time: Time) {
        self.u32(time.seconds);
        self.u32(time.nanos);
    }
    fn attributes(&mut self, attributes: &Attributes) {
        let Attributes { mode, uid, gid, nlink, size, atime, mtime, ctime, stamp, verifier } = attributes;
        self.0.extend_from_slice(&mode.to_le_bytes());
        self.u32(*uid);
        self.u32(*gid);
        self.u32(*nlink);
        self.u64(*size);
        for time in [atime, mtime, ctime, stamp] {
            self.time(*time);
        }
        self.u8(u8::from(verifier.is_some()));
        if let Some(verifier) = verifier {
            self.0.extend_from_slice(verifier);
        }
    }
    fn body(&mut self, body: Option<&NewBody>) {
        match body {
            None => self.u8(0),
            Some(NewBody::Directory(parent)) => {
                self.u8(1);
                self.u64(*parent);
            }
            Some(NewBody::Other(Body::Image)) => self.u8(2),
            Some(NewBody::Other(Body::Data)) => self.u8(3),
            Some(NewBody::Other(Body::Text(text))) => {
                self.u8(4);
                self.octets(text);
            }
            Some(NewBody::Other(Body::Symlink(target))) => {
                self.u8(5);
                self.octets(target);
            }
            Some(NewBody::Other(Body::Node(kind))) => {
                let (code, major, minor) = match *kind {
                    Kind::Block(major, minor) => (1, major, minor),
                    Kind::Char(major, minor) => (2, major, minor),
                    Kind::Fifo => (3, 0, 0),
                    Kind::Socket => (4, 0, 0),
                    Kind::File | Kind::Directory | Kind::Symlink => {
                        unreachable!("these have bodies of their own")
                    }
                };
                self.0.extend_from_slice(&[6, code]);
                self.u32(major);
                self.u32(minor);
            }
            Some(NewBody::Other(Body::Directory(directory))) => {
                self.u8(1);
                self.u64(directory.parent);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.take()?))
    }
    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.take()?))
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take()?))
    }
    fn octets(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        let (octets, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(octets)
    }
    fn time(&mut self) -> Result<Time, Malformed> {
        let time = Time { seconds: self.u32()?, nanos: self.u32()? };
        if time.nanos < 1_000_000_000 { Ok(time) } else { Err(Malformed) }
    }

    fn change(&mut self) -> Result<Change, Malformed> {
        Ok(match self.u8()? {
            1 => Change::Head(Head {
                number: self.u32()?,
                generation: self.u32()?,
                build: self.octets()?.into(),
                next_object: self.u64()?,
            }),
            2 => Change::Wrote,
            3 => Change::Put(self.u64()?, self.attributes()?, self.body()?),
            4 => Change::Gone(self.u64()?),
            5 => Change::Name(self.u64()?, self.octets()?.into(), self.slot()?),
            6 => Change::Rendered(
                self.octets()?.into(),
                if self.flag()? { Some((self.u64()?, self.take()?)) } else { None },
            ),
            7 => Change::Aside(self.octets()?.into(), if self.flag()? { Some(self.u64()?) } else { None }),
            8 => Change::Content(self.u64()?, self.piece()?),
            9 => Change::Settled(self.u64()?, self.u64()?),
            _ => return Err(Malformed),
        })
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        Ok(Attributes {
            mode: Some(u16::from_le_bytes(self.take()?)).filter(|mode| *mode <= 0o7777).ok_or(Malformed)?,
            uid: self.u32()?,
            gid: self.u32()?,
            nlink: self.u32()?,
            size: self.u64()?,
            atime: self.time()?,
            mtime: self.time()?,
            ctime: self.time()?,
            stamp: self.time()?,
            verifier: if self.flag()? { Some(self.take()?) } else { None },
        })
    }

    fn piece(&mut self) -> Result<Piece, Malformed> {
        let (number, offset, is_last) = (self.u64()?, self.u64()?, self.flag()?);
        let data = self.octets()?;
        let end = offset.checked_add(data.len() as u64).ok_or(Malformed)?;
        if i64::try_from(end).is_err() {
            return Err(Malformed);
        }
        Ok(Piece { number, offset, data: data.into(), is_last })
    }

    fn slot(&mut self) -> Result<Slot, Malformed> {
        let flags = self.u8()?;
        if flags > 3 {
            return Err(Malformed);
        }
        let entry = if flags & 2 != 0 { Some((self.u64()?, self.u64()?)) } else { None };
        // The next cookie is above all that are.
        if entry.is_some_and(|(_, cookie)| cookie >= u64::MAX / 2) {
            return Err(Malformed);
        }
        Ok(Slot { hidden: flags & 1 != 0, entry })
    }

    fn body(&mut self) -> Result<Option<NewBody>, Malformed> {
        let body = match self.u8()? {
            0 => return Ok(None),
            1 => return Ok(Some(NewBody::Directory(self.u64()?))),
            2 => Body::Image,
            3 => Body::Data,
            4 => Body::Text(Arc::from(self.octets()?)),
            5 => Body::Symlink(self.octets()?.into()),
            6 => {
                let (code, major, minor) = (self.u8()?, self.u32()?, self.u32()?);
                Body::Node(match (code, major, minor) {
                    (1, ..) => Kind::Block(major, minor),
                    (2, ..) => Kind::Char(major, minor),
                    (3, 0, 0) => Kind::Fifo,
                    (4, 0, 0) => Kind::Socket,
                    _ => return Err(Malformed),
                })
            }
            _ => return Err(Malformed),
        };
        Ok(Some(NewBody::Other(body)))
    }
}

impl NewBody {
    /// What is to be recorded of a whole body.
    pub fn of(body: &Body) -> Self {
        match body {
            Body::Directory(directory) => Self::Directory(directory.parent),
            other => Self::Other(other.clone()),
        }
    }

    /// The body of an object that is new, where the image's directory has so many names.
    pub fn make(self, image_entries: usize) -> Body {
        match self {
            Self::Directory(parent) => Body::Directory(Box::new(Directory::new(parent, image_entries))),
            Self::Other(body) => body,
        }
    }
}
