//! The kernel's calls that nix lacks.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The names of a file's extended attributes, links not followed. None where the file system has no such
/// thing.
///
/// # Errors
/// Those of llistxattr(2).
pub fn xattrs(path: &Path) -> io::Result<Vec<String>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut names = vec![0_u8; 4096];
    // SAFETY: a NUL-terminated path, and a buffer of the length that is told.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOTSUP) { Ok(Vec::new()) } else { Err(error) };
    };
    names.truncate(length);
    let names = names.split(|&octet| octet == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}
