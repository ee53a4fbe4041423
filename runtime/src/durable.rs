//! Files that are there whole, whatever happens: the old one or the new one, after a crash and after
//! a loss of power.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Puts a file with this content in the place of `path`: written beside it, synced, renamed over it.
///
/// A symbolic link at `path` stays, and the file that it leads to is replaced. `mode`: permission bits; where
/// they are not said, those of the file that was there, or 0644.
///
/// # Errors
/// What the system says; the old file is as it was.
pub fn replace(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        found => found?,
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    let beside = path.with_file_name(format!(".{name}.new"));
    let mode = match (mode, fs::metadata(&path)) {
        (Some(mode), _) => mode,
        (None, Ok(found)) => found.permissions().mode() & 0o7777,
        (None, Err(_)) => 0o644,
    };
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    let written = options.open(&beside).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    });
    if let Err(error) = written {
        // The error that counts is the first; what is left is overwritten next time, and its space is
        // wanted now.
        drop(fs::remove_file(&beside));
        return Err(error);
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_file_has_the_mode_and_the_place_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| directory.path().join(name));
        let seen = || (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().permissions().mode() & 0o7777);
        replace(&file, b"one", Some(0o600)).unwrap();
        assert_eq!(seen(), (b"one".to_vec(), 0o600));
        fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        replace(&link, b"two", None).unwrap();
        assert_eq!(seen(), (b"two".to_vec(), 0o664));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside them");
        assert!(replace(&directory.path().join("not/there"), b"", None).is_err());
    }
}
