//! Walking a tree to make its index.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Attributes, Entry, Index, IndexError, Inode, Kind, MAX_INODES, Object, ROOT, Span, Time};

/// The index of the tree at `root`, as the tree says.
///
/// # Errors
/// [`IndexError::Io`] with the path that could not be read; [`IndexError::Tree`] where another file
/// system is mounted inside, or there are too many inodes.
pub fn scan(root: &Path) -> Result<Index, IndexError> {
    scan_with(root, |_, _| ())
}

/// The index of the tree at `root`, with the attributes of each path (relative to `root`; empty for
/// the root itself) passed through `adjust` first: for owners, modes and devices that the tree on
/// disk does not carry. `adjust` is asked once an inode, by its first name. It may make a device, FIFO or socket of a regular
/// file; directories and symbolic links stay what they are, and so does `nlink`.
///
/// # Errors
/// As [`scan`].
pub fn scan_with(root: &Path, mut adjust: impl FnMut(&Path, &mut Attributes)) -> Result<Index, IndexError> {
    let metadata = root.symlink_metadata().map_err(|source| io(root, source))?;
    if !metadata.is_dir() {
        return Err(IndexError::Tree { path: root.to_owned(), what: "not a directory" });
    }
    let mut builder = Builder {
        index: Index { inodes: Vec::new(), entries: Vec::new(), names: Vec::new() },
        links: HashMap::new(),
        device: metadata.dev(),
        adjust: &mut adjust,
    };
    builder.add(root, Path::new(""), &metadata, ROOT, Span::default())?;
    let mut directories = std::collections::VecDeque::from([(ROOT, PathBuf::new())]);
    while let Some((directory, path)) = directories.pop_front() {
        builder.directory(root, directory, &path, &mut directories)?;
    }
    let mut index = builder.index;
    index.inodes.shrink_to_fit();
    index.entries.shrink_to_fit();
    index.names.shrink_to_fit();
    Ok(index)
}

fn io(path: &Path, source: std::io::Error) -> IndexError {
    IndexError::Io { path: path.to_owned(), source }
}

struct Builder<'a> {
    index: Index,
    /// Objects with several names, by inode number.
    links: HashMap<u64, Object>,
    device: u64,
    adjust: &'a mut dyn FnMut(&Path, &mut Attributes),
}

impl Builder<'_> {
    fn directory(
        &mut self,
        root: &Path,
        directory: Object,
        relative: &Path,
        further: &mut std::collections::VecDeque<(Object, PathBuf)>,
    ) -> Result<(), IndexError> {
        let path = root.join(relative);
        let mut names = std::fs::read_dir(&path)
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name().into_vec())).collect::<Result<Vec<_>, _>>()
            })
            .map_err(|source| io(&path, source))?;
        names.sort_unstable();
        let start = count(self.index.entries.len())?;
        for name in names {
            let name_of = std::ffi::OsStr::from_bytes(&name);
            let (full, relative) = (path.join(name_of), relative.join(name_of));
            let metadata = full.symlink_metadata().map_err(|source| io(&full, source))?;
            if metadata.dev() != self.device {
                let what = "another file system is mounted here; unmount it first";
                return Err(IndexError::Tree { path: full, what });
            }
            let span = self.put_name(&name)?;
            let shared = !metadata.is_dir() && metadata.nlink() > 1;
            let known = self.links.get(&metadata.ino()).copied().filter(|_| shared);
            let object = match known {
                Some(object) => {
                    self.inode(object).attributes.nlink += 1;
                    object
                }
                None => self.add(&full, &relative, &metadata, directory, span)?,
            };
            if shared {
                self.links.insert(metadata.ino(), object);
            }
            if metadata.is_dir() {
                self.inode(directory).attributes.nlink += 1;
                further.push_back((object, relative));
            }
            let length = u8::try_from(name.len())
                .map_err(|_| IndexError::Tree { path: full, what: "the name is over 255 octets" })?;
            self.index.entries.push(Entry { object, name: span.start, length });
        }
        let length = count(self.index.entries.len())? - start;
        self.inode(directory).body = Span { start, length };
        Ok(())
    }

    fn inode(&mut self, object: Object) -> &mut Inode {
        // Every number that the builder has given out is that of an inode it has pushed.
        &mut self.index.inodes[object as usize - 1]
    }

    /// Adds an inode with the first name that was found for it.
    fn add(
        &mut self,
        full: &Path,
        relative: &Path,
        metadata: &Metadata,
        parent: Object,
        name: Span,
    ) -> Result<Object, IndexError> {
        let mut attributes = attributes(metadata);
        let (kind, nlink) = (attributes.kind, attributes.nlink);
        (self.adjust)(relative, &mut attributes);
        attributes.nlink = nlink;
        attributes.mode &= 0o7777;
        let body = match kind {
            Kind::Symlink => {
                let target = std::fs::read_link(full).map_err(|source| io(full, source))?;
                self.put_name(target.as_os_str().as_bytes())?
            }
            _ => Span::default(),
        };
        let fixed = |kind| matches!(kind, Kind::Directory | Kind::Symlink);
        if fixed(kind) || fixed(attributes.kind) {
            attributes.kind = kind;
        }
        self.index.inodes.push(Inode { attributes, parent, name, body });
        let number = count(self.index.inodes.len())?;
        if number >= MAX_INODES {
            return Err(IndexError::Tree { path: full.to_owned(), what: "over 2²⁸ inodes" });
        }
        Ok(number)
    }

    fn put_name(&mut self, name: &[u8]) -> Result<Span, IndexError> {
        let span = Span { start: count(self.index.names.len())?, length: count(name.len())? };
        self.index.names.extend_from_slice(name);
        count(self.index.names.len())?;
        Ok(span)
    }
}

fn count(length: usize) -> Result<u32, IndexError> {
    let what = "more than an index can hold";
    u32::try_from(length).map_err(|_| IndexError::Tree { path: PathBuf::new(), what })
}

fn attributes(metadata: &Metadata) -> Attributes {
    let kind = metadata.file_type();
    let device = (nix_major(metadata.rdev()), nix_minor(metadata.rdev()));
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink
    } else if kind.is_block_device() {
        Kind::Block(device.0, device.1)
    } else if kind.is_char_device() {
        Kind::Char(device.0, device.1)
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else {
        Kind::File(metadata.len())
    };
    let time = |seconds: i64, nanos: i64| match u32::try_from(seconds) {
        Ok(seconds) => Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) },
        Err(_) if seconds < 0 => Time::default(),
        Err(_) => Time { seconds: u32::MAX, nanos: 0 },
    };
    Attributes {
        kind,
        mode: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0),
        uid: metadata.uid(),
        gid: metadata.gid(),
        nlink: if metadata.is_dir() { 2 } else { 1 },
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn nix_major(device: u64) -> u32 {
    u32::try_from(nix::sys::stat::major(device)).unwrap_or(0)
}

fn nix_minor(device: u64) -> u32 {
    u32::try_from(nix::sys::stat::minor(device)).unwrap_or(0)
}
