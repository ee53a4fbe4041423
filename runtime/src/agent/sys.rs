//! The system calls that `nix` does not have.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

/// Lets a command's program have `fd` as descriptor 3.
pub(super) fn give_as_3(command: &mut tokio::process::Command, fd: OwnedFd) {
    let give = move || {
        // A duplicate has no FD_CLOEXEC; one with the same number already would keep it.
        let flag = if fd.as_raw_fd() == 3 {
            // SAFETY: fcntl(2) on a descriptor of ours.
            unsafe { libc::fcntl(3, libc::F_SETFD, 0) }
        } else {
            // SAFETY: dup2(2); this is the child, in which no number is in use but what the program gets.
            unsafe { libc::dup2(fd.as_raw_fd(), 3) }
        };
        if flag < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: `give` makes system calls that are safe after fork(2), and takes no memory.
    unsafe { command.pre_exec(give) };
}

/// A descriptor of a process, which becomes readable with its end (pidfd_open(2)).
pub(super) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the very process that the descriptor is of, with a number (pidfd_send_signal(2), sigqueue(3)).
pub(super) fn signal(pidfd: &OwnedFd, signal: i32, number: i32) -> io::Result<()> {
    // siginfo_t: signal, error, code, padding, sender's process and user, number
    let mut info = [0_i32; 32];
    [info[0], info[2], info[4], info[6]] = [signal, libc::SI_QUEUE, std::process::id().cast_signed(), number];
    // SAFETY: `info` is as long as a siginfo_t.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info.as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for the end of the process that a [`pidfd`] is of.
pub(super) async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` is open, and of the same number, until it is dropped, with the registration.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(io::Error::from)?.readable().await?.retain_ready();
    Ok(())
}

/// Has an interface wake its machine up when a magic packet comes, too, as `ethtool -s NAME wol g` does.
///
/// # Errors
/// EOPNOTSUPP: it cannot.
pub(super) fn wake_by_magic_packet(interface: &str) -> io::Result<()> {
    /// linux/ethtool.h
    #[repr(C)]
    struct WolInfo {
        command: u32,
        supported: u32,
        options: u32,
        password: [u8; 8],
    }
    const ETHTOOL_GWOL: u32 = 5;
    const ETHTOOL_SWOL: u32 = 6;
    const WAKE_MAGIC: u32 = 1 << 5;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut info = WolInfo { command: ETHTOOL_GWOL, supported: 0, options: 0, password: [0; 8] };
    let ask = |info: &mut WolInfo| {
        // SAFETY: all zero is an `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last octet stays 0.
        for (to, octet) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
            *to = octet.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut *info).cast();
        // SAFETY: `request` names an interface, and points to what the command reads or writes; both outlive the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    ask(&mut info)?;
    if info.supported & WAKE_MAGIC == 0 {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    if info.options & WAKE_MAGIC != 0 {
        return Ok(());
    }
    info.command = ETHTOOL_SWOL;
    info.options |= WAKE_MAGIC;
    ask(&mut info)
}
