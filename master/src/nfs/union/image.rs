//! A build of an image: its index in memory, its tree on the disk.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use tesela_node_image::index::{self, Index, IndexError};

/// A build, shared by all nodes that have it.
pub struct Build {
    /// Its directory: `STATE/images/NAME/BUILD`.
    pub directory: PathBuf,
    /// Its number among the builds that this process has loaded.
    pub number: u32,
    /// Its index.
    pub index: Index,
    root: OwnedFd,
}

impl Build {
    /// Loads the index and opens the root directory.
    pub fn load(directory: &Path) -> Result<Self, IndexError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let index = Index::load(&directory.join(index::FILE_NAME))?;
        let path = directory.join("root");
        let root =
            nix::fcntl::open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|error| IndexError::Io { path, source: error.into() })?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { directory: directory.to_owned(), number, index, root })
    }

    /// Opens the content of a regular file. No symbolic link is followed on the way, and nothing
    /// outside the tree is reached, whatever stands in it.
    pub fn open(&self, object: index::Object) -> std::io::Result<File> {
        let path = self.index.path(object).ok_or(std::io::ErrorKind::NotFound)?;
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        // A FIFO put in the place of a file must not hold the caller up.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::from(openat2(&self.root, &path, OpenHow::new().flags(flags).resolve(resolve))?);
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("not the regular file that the index says"));
        }
        Ok(file)
    }
}
