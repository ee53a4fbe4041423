//! System calls that nix does not have.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that the kernel has just made, which ends here.
///
/// # Safety
/// Nobody else owns it.
unsafe fn closed(fd: libc::c_long) -> io::Result<()> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the caller's.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// userfaultfd(2).
pub(super) fn userfaultfd() -> io::Result<()> {
    // SAFETY: the call makes a descriptor of ours.
    unsafe { closed(checked(libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK))?) }
}

/// `seccomp(2)`, `SECCOMP_GET_ACTION_AVAIL`: whether a filter may bring on a signal.
pub(super) fn seccomp_traps() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads the action.
    checked(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    })?;
    Ok(())
}

/// `pidfd_getfd(2)`, of a descriptor of this process.
pub(super) fn pidfd_getfd() -> io::Result<()> {
    // SAFETY: both calls make a descriptor of ours.
    unsafe {
        let own = checked(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0))?;
        let copied = checked(libc::syscall(libc::SYS_pidfd_getfd, own, own, 0)).and_then(|fd| closed(fd));
        closed(own)?;
        copied
    }
}

/// `PR_SET_MM_MAP_SIZE` (prctl(2)): the kernel says how long its structure is.
pub(super) fn memory_marks() -> io::Result<()> {
    let mut size = 0_u32;
    // SAFETY: the kernel writes four octets.
    checked(unsafe {
        libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP_SIZE, &raw mut size, 0_usize, 0_usize).into()
    })?;
    Ok(())
}
