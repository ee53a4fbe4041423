//! The deputies' ends of the channels.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use tesela_shim::layout::{self, SLOT, Thread};
use tesela_shim::seal::Direction;

use super::{Home, HomeError};
use crate::migrate::freeze::{CHANNEL_ROOM, Frozen, empty_thread, octets, octets_mut};
use crate::migrate::link::Keys;
use crate::migrate::sys;
use crate::migrate::tracee::Tracee;

impl Home {
    /// Gives stopped threads, in the order of their slots from 0 on, their connections.
    pub(super) fn hand_over(&self, frozen: &Frozen, wires: Vec<(TcpStream, Keys)>) -> Result<(), HomeError> {
        let Some(leader) = frozen.threads.first() else { return Ok(()) };
        let count = wires.len();
        for ((_, keys), image) in wires.iter().zip(&frozen.image.threads) {
            self.change_thread(leader.tid, image.slot.into(), |thread| {
                (thread.send, thread.receive) = (Direction::new(keys.send), Direction::new(keys.receive));
                thread.mask = image.mask;
            })?;
        }
        let streams: Vec<TcpStream> = wires.into_iter().map(|(stream, _)| stream).collect();
        self.adopt(leader, leader.tid, 0, &streams)?;
        debug_assert_eq!(count, streams.len());
        Ok(())
    }

    /// Passes connections into the process `pid` by way of a stopped thread of it: to the slots from `slot` on.
    pub(super) fn adopt(
        &self,
        thread: &Tracee,
        pid: Pid,
        slot: u64,
        streams: &[TcpStream],
    ) -> Result<(), HomeError> {
        let (theirs, ours) = self.socket_pair(thread, pid, slot)?;
        for stream in streams {
            pass(&ours, stream.as_raw_fd())?;
        }
        self.change_thread(pid, slot, |thread| {
            thread.socket = theirs;
            thread.adopt = u32::try_from(streams.len()).unwrap_or(0);
        })?;
        let address = layout::slot(self.base, slot);
        // The process itself raises its limit meanwhile, as far as it may.
        let limit = self.limit(thread, address, None)?;
        let raised = [limit[0].max((self.first_fd + CHANNEL_ROOM).min(limit[1])), limit[1]];
        self.limit(thread, address, Some(raised))?;
        thread.enter(self.entry, address + SLOT - 64, layout::ENTER_ADOPT, address)?;
        thread.finished()?;
        self.limit(thread, address, Some(limit))?;
        for number in 0..streams.len() as u64 {
            if self.thread(pid, slot + number)?.fd < 0 {
                return Err(io::Error::other("the process has no room for its channels' descriptors").into());
            }
        }
        Ok(())
    }

    /// The process's limit of descriptors, soft and hard; and a new one, which it sets itself.
    fn limit(&self, thread: &Tracee, slot: u64, new: Option<[u64; 2]>) -> Result<[u64; 2], HomeError> {
        let at = slot + layout::OUT_AT;
        let octets = new.unwrap_or_default().map(u64::to_le_bytes).concat();
        sys::write_memory(thread.tid, at, &octets)?;
        let (put, get) = if new.is_some() { (at, 0) } else { (0, at) };
        let resource = u64::from(libc::RLIMIT_NOFILE);
        thread.must_call(libc::SYS_prlimit64, [0, resource, put, get, 0, 0])?;
        let mut limit = [0_u8; 16];
        sys::read_memory(thread.tid, at, &mut limit)?;
        let [soft, hard] = limit.as_chunks::<8>().0 else { return Ok([0; 2]) };
        Ok([u64::from_le_bytes(*soft), u64::from_le_bytes(*hard)])
    }

    /// A socket pair: one end in the process, one here. Its thread of `slot` stands still.
    fn socket_pair(&self, thread: &Tracee, pid: Pid, slot: u64) -> Result<(RawFd, OwnedFd), HomeError> {
        let pair_at = layout::slot(self.base, slot) + layout::OUT_AT;
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        let [family, kind] = [libc::AF_UNIX, kind].map(|word| u64::from(word.cast_unsigned()));
        let args = [family, kind, 0, pair_at, 0, 0];
        thread.must_call(libc::SYS_socketpair, args)?;
        let mut pair = [0_u8; 8];
        sys::read_memory(thread.tid, pair_at, &mut pair)?;
        let [one, other] =
            [0, 4].map(|at| i32::from_ne_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]));
        let ours = sys::take_fd(pid, other)?;
        thread.must_call(libc::SYS_close, [u64::from(other.cast_unsigned()), 0, 0, 0, 0, 0])?;
        Ok((one, ours))
    }

    /// Gives a deputy a file, by way of a stopped thread of it in this slot. Returns its descriptor there.
    pub(super) fn pass_in(&self, thread: &Tracee, slot: u64, file: &File) -> Result<u64, HomeError> {
        const CMSG_CLOEXEC: u64 = 0x4000_0000;
        let (theirs, ours) = self.socket_pair(thread, thread.tid, slot)?;
        pass(&ours, file.as_raw_fd())?;
        let theirs = u64::from(theirs.cast_unsigned());
        // struct msghdr; behind it the struct iovec, an octet, and room for a struct cmsghdr with a descriptor.
        let at = layout::slot(self.base, slot) + layout::OUT_AT;
        let (vector, octet, control) = (at + 56, at + 72, at + 80);
        let words = [0, 0, vector, 1, control, 24, 0, octet, 1, 0, 0, 0, 0];
        let message: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        sys::write_memory(thread.tid, at, &message)?;
        thread.must_call(libc::SYS_recvmsg, [theirs, at, CMSG_CLOEXEC, 0, 0, 0])?;
        let mut fd = [0; 4];
        sys::read_memory(thread.tid, control + 16, &mut fd)?;
        thread.must_call(libc::SYS_close, [theirs, 0, 0, 0, 0, 0])?;
        Ok(u32::from_le_bytes(fd).into())
    }

    /// A thread's part of a deputy.
    pub(super) fn thread(&self, pid: Pid, slot: u64) -> Result<Thread, HomeError> {
        let mut thread = empty_thread();
        sys::read_memory(pid, layout::slot(self.base, slot), octets_mut(&mut thread))?;
        Ok(thread)
    }

    /// Changes a thread's part of a deputy that stands still.
    pub(super) fn change_thread(
        &self,
        pid: Pid,
        slot: u64,
        change: impl FnOnce(&mut Thread),
    ) -> Result<(), HomeError> {
        let mut thread = self.thread(pid, slot)?;
        change(&mut thread);
        Ok(sys::write_memory(pid, layout::slot(self.base, slot), octets(&thread))?)
    }
}

fn pass(socket: &OwnedFd, fd: RawFd) -> io::Result<()> {
    let fds = [fd];
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[0])], &message, MsgFlags::empty(), None)?;
    Ok(())
}
