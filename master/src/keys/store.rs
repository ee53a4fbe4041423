//! Files of keys: made once, whole or not at all.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tesela_runtime::durable;

use super::Error;

/// A directory that only its owner can enter, locked against other processes that would make keys in it.
pub(super) struct Store {
    directory: PathBuf,
    /// flock(2) holds until this is closed.
    _lock: File,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let lock = private_directory(directory).and_then(|()| {
            let handle = File::open(directory)?;
            handle.lock()?;
            Ok(handle)
        });
        match lock {
            Ok(lock) => Ok(Store { directory: directory.to_owned(), _lock: lock }),
            Err(source) => Err(Error::Io { path: directory.to_owned(), source }),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The text of a file, which is made first where it is missing.
    pub(super) fn once(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<String, Error>,
    ) -> Result<String, Error> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(text) => return Ok(text),
            Err(source) => return Err(Error::Io { path, source }),
        }
        let text = make()?;
        self.put(name, &text)?;
        Ok(text)
    }

    /// Writes a file in whatever state it is.
    pub(super) fn put(&self, name: &str, text: &str) -> Result<(), Error> {
        replace(&self.directory, name, text).map_err(|source| Error::Io { path: self.path(name), source })
    }
}

/// Makes a directory of mode 0700, or gives that mode to the one that is there.
pub(super) fn private_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o700))
}

/// Puts `text` in the place of `directory/name` (mode 0600): after a crash there is the old or the new.
pub(super) fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    durable::replace(&directory.join(name), text.as_bytes(), Some(0o600))
}
