//! Files below a directory that somebody else made: no symbolic link in it leads out.
//!
//! Absolute links and `..` are resolved by the kernel as if the directory were `/` (openat2(2) with
//! `RESOLVE_IN_ROOT`), just as the image's own programs will see them. Paths may begin with a `/`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// The directory.
#[derive(Debug)]
pub struct Rooted {
    root: OwnedFd,
    path: PathBuf,
}

/// A name in a directory that is held open; derefs to a path for the calls of [`std::fs`].
#[derive(Debug)]
pub struct Place {
    _directory: OwnedFd,
    path: PathBuf,
}

impl std::ops::Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Rooted {
    /// Opens the directory.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Its path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file below it; links are followed, and stay inside.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlag, mode: u32) -> io::Result<File> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(mode))
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = path.as_ref();
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Ok(File::from(openat2(self.root.as_fd(), path, how)?))
    }

    /// The place of a path: its directory resolved, its last name not.
    ///
    /// # Errors
    /// `InvalidInput` for a path without a last name (`/`, `..`); those of openat2(2).
    pub fn place(&self, path: impl AsRef<Path>) -> io::Result<Place> {
        let path = path.as_ref();
        let (folder, name) = split(path).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
        })?;
        let directory = self.open_file(folder, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Place { _directory: directory.into(), path })
    }

    /// The whole content of a file.
    ///
    /// # Errors
    /// Those of openat2(2) and read(2).
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.open_file(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?.read_to_end(&mut content)?;
        Ok(content)
    }

    /// The content of a text file.
    ///
    /// # Errors
    /// As [`Rooted::read`]; `InvalidData` where it is no UTF-8.
    pub fn read_to_string(&self, path: impl AsRef<Path>) -> io::Result<String> {
        String::from_utf8(self.read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// Those of openat2(2) and getdents(2).
    pub fn names(&self, path: impl AsRef<Path>) -> io::Result<Vec<String>> {
        let directory = self.open_file(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
            // A name that is no text is none that is ever asked for.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// Whether there is anything at this path, a dangling link included.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.place(path).is_ok_and(|place| fs::symlink_metadata(&*place).is_ok())
    }

    /// Makes a directory and those above it, all with mode 0755.
    ///
    /// # Errors
    /// Those of openat2(2) and mkdir(2).
    pub fn create_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        if self.open_file(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).is_ok() {
            return Ok(());
        }
        if let Some((folder, _)) = split(path) {
            self.create_dir_all(folder)?;
        }
        match fs::create_dir(&*self.place(path)?) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts a file at a path in place of whatever is there (a link is replaced, not followed), and makes
    /// its directory.
    ///
    /// # Errors
    /// Those of openat2(2), unlink(2) and write(2).
    pub fn write(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> io::Result<()> {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let place = self.clear(path)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&*place)?;
        file.write_all(content)?;
        // The umask has no say in what an image holds.
        file.set_permissions(fs::Permissions::from_mode(mode))
    }

    /// Puts a symbolic link at a path in place of whatever file is there.
    ///
    /// # Errors
    /// Those of openat2(2), unlink(2) and symlink(2).
    pub fn symlink(&self, target: &str, path: impl AsRef<Path>) -> io::Result<()> {
        std::os::unix::fs::symlink(target, &*self.clear(path)?)
    }

    fn clear(&self, path: impl AsRef<Path>) -> io::Result<Place> {
        let path = path.as_ref();
        if let Some((folder, _)) = split(path) {
            self.create_dir_all(folder)?;
        }
        self.remove(path)?;
        self.place(path)
    }

    /// Removes a file or a whole directory, if it is there.
    ///
    /// # Errors
    /// Those of unlink(2) and rmdir(2).
    pub fn remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let place = match self.place(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            other => other?,
        };
        match fs::symlink_metadata(&*place) {
            Ok(found) if found.is_dir() => gone(fs::remove_dir_all(&*place)),
            Ok(_) => gone(fs::remove_file(&*place)),
            Err(error) => gone(Err(error)),
        }
    }

    /// Removes all that a directory holds, if it is there, but not itself.
    ///
    /// # Errors
    /// Those of unlink(2) and rmdir(2).
    pub fn empty(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let directory = match self.open_file(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            other => other?,
        };
        for entry in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// A path's directory and its last name.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    let Some(Component::Normal(name)) = path.components().next_back() else { return None };
    Some((path.parent().unwrap_or(Path::new("")), name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_leads_out() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "outside").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/secret"), "inside").unwrap();
        symlink(outside.path(), root.join("absolute")).unwrap();
        symlink("../../../../../../../../etc", root.join("up")).unwrap();
        symlink("/etc", root.join("own")).unwrap();
        let rooted = Rooted::open(root).unwrap();
        assert!(rooted.read("absolute/secret").is_err());
        assert_eq!(rooted.read_to_string("up/secret").unwrap(), "inside");
        assert_eq!(rooted.read_to_string("/own/secret").unwrap(), "inside");
        rooted.write("own/secret", b"new", 0o600).unwrap();
        assert_eq!(fs::read_to_string(root.join("etc/secret")).unwrap(), "new");
        assert!(rooted.write("absolute/secret", b"new", 0o600).is_err());
        rooted.remove("absolute/secret").unwrap();
        rooted.remove("absolute").unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "outside");
        assert!(rooted.place("..").is_err() && rooted.place("/").is_err());
    }

    #[test]
    fn what_is_written_takes_the_place_of_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let rooted = Rooted::open(folder.path()).unwrap();
        rooted.symlink("/dev/null", "a/b/link").unwrap();
        assert!(rooted.exists("a/b/link"));
        rooted.write("a/b/link", b"text", 0o640).unwrap();
        assert_eq!(rooted.read("a/b/link").unwrap(), b"text");
        assert_eq!(rooted.names("a/b").unwrap(), ["link"]);
        rooted.empty("a").unwrap();
        assert!(rooted.names("a").unwrap().is_empty());
        rooted.empty("not/there").unwrap();
        rooted.remove("not/there").unwrap();
    }
}
