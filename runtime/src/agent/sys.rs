//! The system calls that `nix` does not have.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Asks the file server for the attributes of `path`, whatever the kernel has cached (statx(2),
/// `AT_STATX_FORCE_SYNC`); a symbolic link is not followed.
pub(super) fn statx_force_sync(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: `path` is a C string that outlives the call, and `attributes` is room for one `statx`,
    // which is not read afterwards.
    // By number: in a static program linked with LTO, the C library's `statx` is the weak symbol that Rust's
    // own library looks for, and stays null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_statx,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_FORCE_SYNC | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT,
            libc::STATX_BASIC_STATS,
            attributes.as_mut_ptr(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
