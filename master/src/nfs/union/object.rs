//! Objects that a node has and its image has not, or has otherwise.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tesela_node_image::index;

use crate::nfs::fs::{Kind, Time};

/// The number of an object of a node, which is its fileid too: those of the image as the index has
/// them, all others from [`FIRST_OWN`] on. Never reused.
pub type ObjectId = u64;

/// The first number that is not an image's.
pub const FIRST_OWN: ObjectId = index::MAX_INODES as ObjectId;

/// The root directory.
pub const ROOT: ObjectId = index::ROOT as ObjectId;

/// What an object of a directory has for `.`, `..` and its first name of the image.
const FIRST_COOKIE: u64 = 3;

/// What can be set of an object, and its times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; 0 for one that is only kept for handles to it.
    pub nlink: u32,
    /// Octets.
    pub size: u64,
    /// Last access: as it was set, for a read does not change it.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of any of this.
    pub ctime: Time,
    /// The mtime of the data file when this was recorded: a later one in the file tells of a write
    /// since, which no record speaks of.
    pub stamp: Time,
    /// By what an exclusive CREATE made it, until its first SETATTR.
    pub verifier: Option<[u8; 8]>,
}

impl Attributes {
    /// Those that the image says.
    pub fn of_image(image: &index::Attributes, target: usize) -> Self {
        let time = |time: index::Time| Time { seconds: time.seconds, nanos: time.nanos };
        Self {
            mode: image.mode,
            uid: image.uid,
            gid: image.gid,
            nlink: image.nlink,
            size: match image.kind {
                index::Kind::File(size) => size,
                index::Kind::Directory => DIRECTORY_SIZE,
                index::Kind::Symlink => target as u64,
                _ => 0,
            },
            atime: time(image.mtime),
            mtime: time(image.mtime),
            ctime: time(image.ctime),
            stamp: Time::default(),
            verifier: None,
        }
    }
}

/// The octets that every directory claims.
pub const DIRECTORY_SIZE: u64 = 4096;

/// What an image's object is.
pub fn kind_of_image(kind: index::Kind) -> Kind {
    match kind {
        index::Kind::File(_) => Kind::File,
        index::Kind::Directory => Kind::Directory,
        index::Kind::Symlink => Kind::Symlink,
        index::Kind::Block(major, minor) => Kind::Block(major, minor),
        index::Kind::Char(major, minor) => Kind::Char(major, minor),
        index::Kind::Fifo => Kind::Fifo,
        index::Kind::Socket => Kind::Socket,
    }
}

/// What an object is and where its content lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Not a directory, and as in the image: only attributes differ.
    Image,
    /// A regular file whose content is the data file of its number; none if it is empty.
    Data,
    /// A rendered file.
    Text(Arc<[u8]>),
    /// A directory: how it differs from the image's of the same number.
    Directory(Box<Directory>),
    /// A symbolic link to this.
    Symlink(Box<[u8]>),
    /// A device, socket or FIFO.
    Node(Kind),
}

/// An object that is not, or no longer, just the image's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Its attributes.
    pub attributes: Attributes,
    /// What it is.
    pub body: Body,
}

/// A name of a directory where it differs from the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// The image's object of this name is gone from here for good.
    pub hidden: bool,
    /// The object here instead, with its cookie.
    pub entry: Option<(ObjectId, u64)>,
}

/// How a directory differs from the image's of the same number (from an empty one, if there is none).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory {
    /// Where `..` leads.
    pub parent: ObjectId,
    slots: HashMap<Arc<[u8]>, Slot>,
    order: BTreeMap<u64, (Arc<[u8]>, ObjectId)>,
    next_cookie: u64,
}

impl Directory {
    /// One that does not differ, in `parent`; the image's has so many `image_entries`.
    pub fn new(parent: ObjectId, image_entries: usize) -> Self {
        Self {
            parent,
            slots: HashMap::new(),
            order: BTreeMap::new(),
            next_cookie: image_cookie(image_entries),
        }
    }

    /// What differs at a name.
    pub fn slot(&self, name: &[u8]) -> Option<Slot> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots.get(name).copied()
    }

    /// Sets what differs at a name.
    pub fn set(&mut self, name: &[u8], slot: Slot) {
        let known = self.slots.get_key_value(name).map(|(name, slot)| (Arc::clone(name), slot.entry));
        let (name, old) = known.unwrap_or_else(|| (name.into(), None));
        if let Some((_, cookie)) = old {
            self.order.remove(&cookie);
        }
        if let Some((object, cookie)) = slot.entry {
            self.order.insert(cookie, (Arc::clone(&name), object));
            self.next_cookie = self.next_cookie.max(cookie + 1);
        }
        if slot == Slot::default() {
            self.slots.remove(&name);
        } else {
            self.slots.insert(name, slot);
        }
    }

    /// A cookie that no entry had since the master started.
    pub fn next_cookie(&self) -> u64 {
        self.next_cookie
    }

    /// All names where it differs.
    pub fn slots(&self) -> impl Iterator<Item = (&[u8], Slot)> {
        self.slots.iter().map(|(name, slot)| (&**name, *slot))
    }

    /// Its own entries after a cookie, in their order.
    pub fn entries_after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], ObjectId)> {
        let range = (std::ops::Bound::Excluded(cookie), std::ops::Bound::Unbounded);
        self.order.range(range).map(|(cookie, (name, object))| (*cookie, &**name, *object))
    }
}

/// The cookie of the `at`-th name of the image's directory.
pub fn image_cookie(at: usize) -> u64 {
    FIRST_COOKIE + at as u64
}

/// Which name of the image's directory comes first after a cookie.
pub fn image_position(after: u64) -> usize {
    // The cookie is the client's, and may be anything.
    usize::try_from(after.saturating_add(1).saturating_sub(FIRST_COOKIE)).unwrap_or(usize::MAX)
}
