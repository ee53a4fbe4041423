//! The index of an image: what every inode of `root/` is, in one small file.
//!
//! [`scan`] walks the tree once, when the image is built, and gives every inode an object number
//! (hard links share one); [`Index::write`] puts the index beside the tree. The master loads it once
//! per build and answers every question about names and attributes from it: the tree itself is only
//! opened to read the content of regular files. So owners, modes and device numbers may live in the
//! index alone, over a tree that an ordinary user has unpacked (see [`scan_with`]).
//!
//! Numbers count from 1, the root, breadth first, so that a directory's number is above its parent's.
//! An inode costs 56 octets in memory, a name 12 and its length.
//!
//! The file is our own, yet read as if it were not: a corrupt one is an [`IndexError`].

mod format;
mod scan;

use std::path::{Path, PathBuf};

pub use format::fuzz;
pub use scan::{scan, scan_with};

/// The number of an object of an image.
pub type Object = u32;

/// The number of the root directory.
pub const ROOT: Object = 1;

/// The most inodes that an image may have; numbers from here on are free for other uses.
pub const MAX_INODES: u32 = 1 << 28;

/// The name of the index file in the directory of a build, beside `root/`.
pub const FILE_NAME: &str = "index";

/// Seconds and nanoseconds since 1970; times out of range are clamped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Seconds.
    pub seconds: u32,
    /// Nanoseconds, under 10⁹.
    pub nanos: u32,
}

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file of so many octets.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device: major, minor.
    Block(u32, u32),
    /// A character device: major, minor.
    Char(u32, u32),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// The attributes of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names within the image; for a directory 2 and its subdirectories.
    pub nlink: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
}

/// A span of the names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Span {
    start: u32,
    length: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Inode {
    attributes: Attributes,
    /// The first directory that has it, and its name there: the way to its content.
    parent: Object,
    name: Span,
    /// A directory's entries, or a symbolic link's target among the names.
    body: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    object: Object,
    name: u32,
    length: u8,
}

/// An image index in memory, checked: every number in it leads somewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    names: Vec<u8>,
}

/// Why an index could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The tree or the index file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The tree holds what an image cannot.
    #[error("{path}: {what}")]
    Tree {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The index file is not whole, or not an index.
    #[error("the image index is corrupt ({0}); build the image again: tesela image build")]
    Corrupt(&'static str),
}

impl Index {
    /// Reads and checks an index file.
    ///
    /// # Errors
    /// [`IndexError::Io`] if it cannot be read, [`IndexError::Corrupt`] if it does not hold.
    pub fn load(path: &Path) -> Result<Self, IndexError> {
        let octets =
            std::fs::read(path).map_err(|source| IndexError::Io { path: path.to_owned(), source })?;
        Self::parse(&octets)
    }

    /// How many inodes there are; their numbers are 1 to this.
    pub fn len(&self) -> u32 {
        // The builder and the parser both refuse more than MAX_INODES.
        u32::try_from(self.inodes.len()).unwrap_or(MAX_INODES)
    }

    /// Never: there is a root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// Octets of memory that it takes.
    pub fn memory(&self) -> usize {
        self.inodes.capacity() * size_of::<Inode>()
            + self.entries.capacity() * size_of::<Entry>()
            + self.names.capacity()
    }

    fn inode(&self, object: Object) -> Option<&Inode> {
        self.inodes.get((object as usize).checked_sub(1)?)
    }

    fn name(&self, span: Span) -> &[u8] {
        &self.names[span.start as usize..][..span.length as usize]
    }

    fn entry_name(&self, entry: &Entry) -> &[u8] {
        self.name(Span { start: entry.name, length: entry.length.into() })
    }

    fn entries(&self, directory: Object) -> &[Entry] {
        match self.inode(directory) {
            Some(Inode { attributes: Attributes { kind: Kind::Directory, .. }, body, .. }) => {
                &self.entries[body.start as usize..][..body.length as usize]
            }
            _ => &[],
        }
    }

    /// The attributes of an object; `None` if there is no such number.
    pub fn attributes(&self, object: Object) -> Option<&Attributes> {
        self.inode(object).map(|inode| &inode.attributes)
    }

    /// The first directory that has this object (the root is its own parent), and the name there.
    pub fn parent(&self, object: Object) -> Option<(Object, &[u8])> {
        self.inode(object).map(|inode| (inode.parent, self.name(inode.name)))
    }

    /// The target of a symbolic link; empty for anything else.
    pub fn target(&self, object: Object) -> &[u8] {
        match self.inode(object) {
            Some(Inode { attributes: Attributes { kind: Kind::Symlink, .. }, body, .. }) => self.name(*body),
            _ => &[],
        }
    }

    /// The object of this name in a directory.
    pub fn lookup(&self, directory: Object, name: &[u8]) -> Option<Object> {
        let entries = self.entries(directory);
        let at = entries.binary_search_by(|entry| self.entry_name(entry).cmp(name)).ok()?;
        Some(entries[at].object)
    }

    /// How many names a directory has; 0 for anything else.
    pub fn entry_count(&self, directory: Object) -> usize {
        self.entries(directory).len()
    }

    /// The names of a directory with their objects from the `start`-th on, ordered by name (octets).
    pub fn read_directory(&self, directory: Object, start: usize) -> impl Iterator<Item = (&[u8], Object)> {
        let entries = self.entries(directory);
        entries[start.min(entries.len())..].iter().map(|entry| (self.entry_name(entry), entry.object))
    }

    /// The object at a path below the root; symbolic links are not followed.
    pub fn find(&self, path: &Path) -> Option<Object> {
        use std::os::unix::ffi::OsStrExt;
        path.as_os_str()
            .as_bytes()
            .split(|&octet| octet == b'/')
            .filter(|part| !part.is_empty())
            .try_fold(ROOT, |directory, name| self.lookup(directory, name))
    }

    /// The path of an object below the root, without a leading slash: of its first name.
    pub fn path(&self, object: Object) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let mut parts = Vec::new();
        let mut at = object;
        while at != ROOT {
            // Numbers fall on the way up, so this ends.
            let (parent, name) = self.parent(at)?;
            parts.push(std::ffi::OsStr::from_bytes(name));
            at = parent;
        }
        Some(parts.into_iter().rev().collect())
    }
}

#[cfg(test)]
mod tests;
