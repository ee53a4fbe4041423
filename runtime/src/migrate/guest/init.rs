//! The place where a guest lives: new namespaces with nothing in them, and their first process.
//!
//! The first process makes bodies, for it alone may give them the ids that they have at home, and takes up
//! those that end. It dies with the agent's program, and everything in the place with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::body;
use crate::migrate::sys;

/// A body that is wanted: its id, its region.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its id.
    pub tgid: i32,
    /// Where the region is.
    pub base: u64,
}

/// The first process of the place, as the agent's program has it.
#[derive(Debug)]
pub struct Init {
    /// Its id here.
    pub pid: Pid,
    socket: OwnedFd,
}

/// A body has ended: its id in the place, and its status as wait(2) has it.
pub type Ended = (i32, i32);

impl Init {
    /// Makes the place. The caller has a single thread.
    ///
    /// # Errors
    /// Those of clone(2).
    pub fn start() -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let spaces = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        // SAFETY: the caller has no other threads.
        let pid = unsafe { sys::fork(spaces, 0)? };
        let Some(pid) = pid else {
            drop(ours);
            let Err(error) = live(&theirs);
            tracing::error!(%error, "the guest's place is gone");
            std::process::exit(1);
        };
        Ok(Self { pid, socket: ours })
    }

    /// Asks for a body, which gets `control` as its control socket. Returns its id here.
    ///
    /// # Errors
    /// Those of the socket; the place could not make it.
    pub fn body(&self, wanted: Wanted, control: &OwnedFd) -> io::Result<()> {
        let mut message = [0_u8; 16];
        message[..4].copy_from_slice(&wanted.tgid.to_ne_bytes());
        message[8..].copy_from_slice(&wanted.base.to_ne_bytes());
        let fds = [control.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(&message)],
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    /// The next body that has ended.
    ///
    /// # Errors
    /// Those of the socket; `UnexpectedEof` where the place is gone.
    pub fn ended(&self) -> io::Result<Ended> {
        let mut message = [0_u8; 8];
        if nix::unistd::read(&self.socket, &mut message)? != message.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let word =
            |at: usize| i32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        Ok((word(0), word(4)))
    }

    /// Readable where a body has ended.
    pub fn socket(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // ESRCH: it has ended already. Its children end with it.
        let _ended = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        let _status = waitpid(self.pid, None);
    }
}

/// Between -1000, never, and 1000, first (proc_pid_oom_score_adj(5)).
const GUESTS_FIRST: &str = "500";

/// The first process's life.
fn live(socket: &OwnedFd) -> io::Result<std::convert::Infallible> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The agent is spared when memory runs out. Guests go before the node's own.
    std::fs::write("/proc/self/oom_score_adj", GUESTS_FIRST)?;
    empty_root()?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    loop {
        let mut ready = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [ended, asked] = ready.map(|one| one.any().unwrap_or(false));
        if ended {
            while children.read_signal()?.is_some() {}
            take_up(socket)?;
        }
        if asked {
            let (wanted, control) = next_wanted(socket)?;
            make(wanted, control, socket)?;
        }
    }
}

/// A root with nothing in it, which nobody can write.
fn empty_root() -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("guest"),
        "/proc",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("size=4k,mode=0555"),
    )?;
    std::fs::create_dir("/proc/old")?;
    nix::unistd::pivot_root("/proc", "/proc/old")?;
    nix::unistd::chdir("/")?;
    umount2("/old", MntFlags::MNT_DETACH)?;
    std::fs::remove_dir("/old")?;
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    mount(none, "/", none, flags, none)?;
    Ok(())
}

fn take_up(socket: &OwnedFd) -> io::Result<()> {
    loop {
        let (pid, status) = match sys::wait(None, libc::WNOHANG | libc::__WALL) {
            Ok(Some((pid, status))) if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) => (pid, status),
            Ok(None) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(Some(_)) | Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        tell(socket, pid.as_raw(), status)?;
    }
}

fn tell(socket: &OwnedFd, pid: i32, status: i32) -> io::Result<()> {
    let mut message = [0_u8; 8];
    message[..4].copy_from_slice(&pid.to_ne_bytes());
    message[4..].copy_from_slice(&status.to_ne_bytes());
    nix::unistd::write(socket, &message)?;
    Ok(())
}

fn next_wanted(socket: &OwnedFd) -> io::Result<(Wanted, OwnedFd)> {
    let mut message = [0_u8; 16];
    let (got, fd) = receive(socket, &mut message)?;
    let Some(control) = fd.filter(|_| got == message.len()) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let mut base = [0; 8];
    base.copy_from_slice(&message[8..]);
    let tgid = i32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
    Ok((Wanted { tgid, base: u64::from_ne_bytes(base) }, control))
}

/// One message, and the descriptor that came with it.
pub fn receive(socket: &OwnedFd, message: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut vector = [IoSliceMut::new(message)];
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fd = None;
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made them for us.
            fd = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next();
        }
    }
    Ok((received.bytes, fd))
}

/// One message of a body's, and the id that its sender has here; (0, None) where the body has closed it.
pub fn receive_named(socket: &OwnedFd, message: &mut [u8]) -> io::Result<(usize, Option<Pid>)> {
    let mut space = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
    let mut vector = [IoSliceMut::new(message)];
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let sender = received.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(credentials) => Some(Pid::from_raw(credentials.pid())),
        _ => None,
    });
    Ok((received.bytes, sender))
}

fn make(wanted: Wanted, control: OwnedFd, socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: this process has one thread.
    match unsafe { sys::fork(0, wanted.tgid) } {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            let Err(error) = body::begin(wanted, control);
            tracing::error!(%error, "a body could not be begun");
            std::process::exit(1);
        }
        // EEXIST: the id is taken here by another guest of the same place.
        Err(error) => {
            tracing::warn!(tgid = wanted.tgid, %error, "no body of this id");
            tell(socket, wanted.tgid, 1 << 8)
        }
    }
}
