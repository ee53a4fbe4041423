//! The entries of one tar, and a tree made of them.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::{TimeSpec, TimeValLike};

use super::{ArchiveError, Lost, clean};
use crate::rooted::Rooted;

/// A deleted name of a lower layer.
pub const WHITEOUT: &str = ".wh.";
/// A directory whose lower layers are hidden.
pub const OPAQUE: &str = ".wh..wh..opq";

/// An entry as far as it matters, its paths clean.
#[derive(Debug)]
pub struct Entry {
    /// Where it goes; empty for the root.
    pub path: PathBuf,
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    xattrs: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Directory,
    File,
    Symlink(PathBuf),
    Link(PathBuf),
    Char(u64),
    Block(u64),
    Fifo,
}

impl Entry {
    /// What a hard link names.
    pub fn link_inside(&self) -> Option<&PathBuf> {
        if let Kind::Link(target) = &self.kind { Some(target) } else { None }
    }
}

/// An error of reading the archive, whose path the caller knows.
pub fn reading(error: io::Error) -> ArchiveError {
    ArchiveError::Io { path: PathBuf::new(), error }
}

/// Reads the entries of a tar in order; `take` gets each with its content.
pub fn entries(
    reader: impl Read,
    take: &mut dyn FnMut(&Entry, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(reader);
    for found in archive.entries().map_err(reading)? {
        let mut found = found.map_err(reading)?;
        if let Some(entry) = parse(&mut found)? {
            take(&entry, &mut found)?;
        }
    }
    Ok(())
}

/// `None` for what is no file: headers about headers, and the labels of volumes.
fn parse(found: &mut tar::Entry<'_, impl Read>) -> Result<Option<Entry>, ArchiveError> {
    let path = found.path().map_err(reading)?.into_owned();
    let shown = path.display().to_string();
    let refuse = |problem: &str| ArchiveError::Entry { path: shown.clone(), problem: problem.to_owned() };
    let path = clean(&path)?;
    let mut xattrs = Vec::new();
    if let Some(extensions) = found.pax_extensions().map_err(reading)? {
        for extension in extensions {
            let key = extension.map_err(reading)?.key().map_err(|_| refuse("a PAX key is no text"))?;
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                xattrs.push(name.to_owned());
            } else if key.starts_with("GNU.sparse.") {
                return Err(refuse(
                    "a sparse file of GNU tar; pack it with --format=gnu or without --sparse",
                ));
            }
        }
    }
    let header = found.header();
    let number = |number: io::Result<u64>| {
        number
            .and_then(|number| u32::try_from(number).map_err(io::Error::other))
            .map_err(|_| refuse("an owner out of range"))
    };
    let device = || {
        let major = header.device_major().ok().flatten().unwrap_or(0);
        let minor = header.device_minor().ok().flatten().unwrap_or(0);
        makedev(major.into(), minor.into())
    };
    let target = || {
        let target = found.link_name().map_err(reading)?.ok_or_else(|| refuse("a link without a target"))?;
        if target.as_os_str().is_empty() {
            Err(refuse("a link without a target"))
        } else {
            Ok(target.into_owned())
        }
    };
    use tar::EntryType;
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink(target()?),
        EntryType::Link => Kind::Link(clean(&target()?)?),
        EntryType::Char => Kind::Char(device()),
        EntryType::Block => Kind::Block(device()),
        EntryType::Fifo => Kind::Fifo,
        _ => return Ok(None),
    };
    if path.as_os_str().is_empty() && !matches!(kind, Kind::Directory) {
        return Err(refuse("an entry without a name"));
    }
    Ok(Some(Entry {
        path,
        kind,
        mode: header.mode().map_err(reading)? & 0o7777,
        uid: number(header.uid())?,
        gid: number(header.gid())?,
        mtime: header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0),
        xattrs,
    }))
}

/// Unpacks one tar over what `root` holds already; names that begin with `.wh.` are passed over (see
/// [`whiteouts`]).
pub fn unpack(reader: impl Read, root: &Rooted, lost: &mut Lost) -> Result<(), ArchiveError> {
    let mut directories = Vec::new();
    entries(reader, &mut |entry, content| {
        if name(&entry.path).starts_with(WHITEOUT) {
            return Ok(());
        }
        if !entry.xattrs.is_empty() {
            lost.push((format!("/{}", entry.path.display()), entry.xattrs.clone()));
        }
        make(entry, content, root)?;
        if let Kind::Directory = entry.kind {
            directories.push((entry.path.clone(), entry.mtime));
        }
        Ok(())
    })?;
    // What was put into a directory has changed its time.
    for (path, mtime) in directories {
        // A later entry may have put something else there.
        if let Ok(directory) =
            root.open_file(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0)
        {
            let time = TimeSpec::seconds(mtime);
            nix::sys::stat::futimens(&directory, &time, &time)
                .map_err(|error| on_disk(root, &path, error.into()))?;
        }
    }
    Ok(())
}

/// Removes what a layer deletes of those below it. The whole layer is read for it before any of it is
/// unpacked, for its own files are not meant.
pub fn whiteouts(reader: impl Read, root: &Rooted) -> Result<(), ArchiveError> {
    entries(reader, &mut |entry, _| {
        let folder = entry.path.parent().unwrap_or(Path::new(""));
        let result = match name(&entry.path) {
            OPAQUE => root.empty(folder),
            name => match name.strip_prefix(WHITEOUT) {
                Some("" | "." | "..") | None => Ok(()),
                Some(hidden) => root.remove(folder.join(hidden)),
            },
        };
        result.map_err(|error| on_disk(root, &entry.path, error))
    })
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn on_disk(root: &Rooted, path: &Path, error: io::Error) -> ArchiveError {
    ArchiveError::Io { path: root.path().join(path), error }
}

fn make(entry: &Entry, content: &mut dyn Read, root: &Rooted) -> Result<(), ArchiveError> {
    let failed = |error| on_disk(root, &entry.path, error);
    if entry.path.as_os_str().is_empty() {
        // The root itself: only its owner and mode.
        let directory = root.open_file("", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).map_err(failed)?;
        nix::unistd::fchown(&directory, Some(entry.uid.into()), Some(entry.gid.into()))
            .map_err(|error| failed(error.into()))?;
        return directory.set_permissions(fs::Permissions::from_mode(entry.mode)).map_err(failed);
    }
    if let Some(folder) = entry.path.parent() {
        root.create_dir_all(folder).map_err(failed)?;
    }
    let place = root.place(&entry.path).map_err(failed)?;
    let there = fs::symlink_metadata(&*place).ok();
    let keep = matches!(entry.kind, Kind::Directory) && there.as_ref().is_some_and(fs::Metadata::is_dir);
    if there.is_some() && !keep {
        root.remove(&entry.path).map_err(failed)?;
    }
    match &entry.kind {
        Kind::Directory if keep => {}
        Kind::Directory => fs::create_dir(&*place).map_err(failed)?,
        Kind::File => {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).open(&*place).map_err(failed)?;
            copy(content, &mut file, failed)?;
        }
        Kind::Symlink(target) => std::os::unix::fs::symlink(target, &*place).map_err(failed)?,
        Kind::Link(target) => {
            let target = root.place(target).map_err(failed)?;
            // A hard link to a symbolic link is one to the link itself: link(2) follows none.
            return fs::hard_link(&*target, &*place).map_err(failed);
        }
        Kind::Char(device) => special(&place, SFlag::S_IFCHR, *device).map_err(failed)?,
        Kind::Block(device) => special(&place, SFlag::S_IFBLK, *device).map_err(failed)?,
        Kind::Fifo => special(&place, SFlag::S_IFIFO, 0).map_err(failed)?,
    }
    if let Kind::Symlink(_) = entry.kind {
        lchown(&*place, Some(entry.uid), Some(entry.gid)).map_err(failed)?;
    } else {
        // The owner first: changing it clears setuid.
        chown(&*place, Some(entry.uid), Some(entry.gid)).map_err(failed)?;
        fs::set_permissions(&*place, fs::Permissions::from_mode(entry.mode)).map_err(failed)?;
    }
    let time = TimeSpec::seconds(entry.mtime);
    utimensat(AT_FDCWD, &*place, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|error| failed(error.into()))
}

/// Copies, and tells a damaged archive from a full disk.
fn copy(
    content: &mut dyn Read,
    file: &mut fs::File,
    failed: impl Fn(io::Error) -> ArchiveError,
) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let length = content.read(&mut buffer).map_err(reading)?;
        if length == 0 {
            return Ok(());
        }
        io::Write::write_all(file, &buffer[..length]).map_err(&failed)?;
    }
}

fn special(place: &Path, kind: SFlag, device: u64) -> io::Result<()> {
    Ok(mknod(place, kind, Mode::S_IRUSR | Mode::S_IWUSR, device)?)
}
