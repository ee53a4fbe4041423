//! The deputies' ends of the channels: made before their processes are stopped, handed over, and made anew.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use tesela_shim::layout::{self, Thread};
use tesela_shim::seal::Direction;

use super::connector::{Wanted, connect};
use super::{Home, HomeError};
use crate::migrate::blob::Blob;
use crate::migrate::freeze::{Ahead, CHANNEL_ROOM, FreezeError, Frozen, empty_thread, octets, octets_mut};
use crate::migrate::image::{Channel, ToHome, ToRemote};
use crate::migrate::lasting::{Lasting, hang_up};
use crate::migrate::link::Keys;
use crate::migrate::sys;
use crate::migrate::tracee::Tracee;
use crate::migrate::xstate::ExtendedState;

/// Where in a slot the stack of what the agent has a deputy do begins, far below that of its loop.
const STACK: u64 = layout::STACK_AT + (32 << 10);

/// Connections on their way into a process.
#[derive(Debug)]
pub struct Adoption {
    /// How many.
    count: u64,
    /// By which they are passed.
    _socket: OwnedFd,
    /// The process's limit of descriptors, which it has raised meanwhile.
    limit: [u64; 2],
}

/// A connection that waits for a thread, or for a process's memory.
#[derive(Debug)]
pub struct Wire {
    /// As the other side gets to know it.
    pub channel: Channel,
    /// Its keys here.
    pub keys: Keys,
    /// The connection.
    pub stream: TcpStream,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn new(there: SocketAddr) -> io::Result<Self> {
        let (channel, keys) = Channel::new()?;
        Ok(Self { channel, keys, stream: connect(there, channel.token)? })
    }
}

/// The connections of a process that is about to leave.
#[derive(Debug)]
pub struct Wires {
    /// For its threads.
    pub threads: Vec<Wire>,
    /// For its memory.
    pub pages: Wire,
}

impl Wires {
    /// Connects for so many threads.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn new(there: SocketAddr, threads: usize) -> io::Result<Self> {
        let threads = (0..threads).map(|_| Wire::new(there)).collect::<io::Result<_>>()?;
        Ok(Self { threads, pages: Wire::new(there)? })
    }
}

/// Has bodies begun on the other node for processes that still run, and connects them: `first`, and others as far as
/// there is room for them.
///
/// # Errors
/// Those of the link.
pub fn ahead(
    first: Pid,
    ahead: &Ahead,
    link: &Lasting<ToHome>,
    there: SocketAddr,
) -> Result<HashMap<i32, Wires>, HomeError> {
    /// Half of what the other side keeps of connections that have not been asked for.
    const MOST: usize = 512;
    let Some(Blob { base, .. }) = ahead.blob else { return Ok(HashMap::new()) };
    let mut wires = HashMap::new();
    let mut left = MOST;
    let others = ahead.threads.keys().copied().filter(|tgid| *tgid != first.as_raw());
    for tgid in std::iter::once(first.as_raw()).chain(others) {
        let Some(&threads) = ahead.threads.get(&tgid) else { continue };
        let Some(rest) = left.checked_sub(threads + 1) else { continue };
        left = rest;
        link.send(&ToRemote::Room { tgid, base })?;
        wires.insert(tgid, Wires::new(there, threads)?);
    }
    Ok(wires)
}

impl Home {
    /// Begins to give stopped threads, in the order of their slots from 0 on, their connections. From here on they die
    /// with this program.
    pub(super) fn hand_over(&self, frozen: &Frozen, wires: &[Wire]) -> Result<Adoption, HomeError> {
        let Some(leader) = frozen.threads.first() else { return Err(FreezeError::CantMove("ended").into()) };
        frozen.threads.iter().try_for_each(Tracee::bind)?;
        for (Wire { keys, .. }, image) in wires.iter().zip(&frozen.image.threads) {
            self.change_thread(leader.tid, image.slot.into(), |thread| {
                (thread.send, thread.receive) = (Direction::new(keys.send), Direction::new(keys.receive));
                thread.mask = image.mask;
            })?;
        }
        let streams: Vec<&TcpStream> = wires.iter().map(|wire| &wire.stream).collect();
        self.begin_adoption(leader, leader.tid, 0, &streams)
    }

    /// Passes connections into the process `pid` by way of a stopped thread of it: to the slots from `slot` on.
    pub(super) fn adopt(
        &self,
        thread: &Tracee,
        pid: Pid,
        slot: u64,
        streams: &[&TcpStream],
    ) -> Result<(), HomeError> {
        let adoption = self.begin_adoption(thread, pid, slot, streams)?;
        self.end_adoption(thread, pid, slot, &adoption)
    }

    /// The thread runs until [`Home::end_adoption`]: where a process has several of them, the kernel takes ten
    /// milliseconds to make room for descriptors with such numbers.
    fn begin_adoption(
        &self,
        thread: &Tracee,
        pid: Pid,
        slot: u64,
        streams: &[&TcpStream],
    ) -> Result<Adoption, HomeError> {
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
        thread.enter(self.entry, address + STACK, layout::ENTER_ADOPT, address)?;
        Ok(Adoption { count: streams.len() as u64, _socket: ours, limit })
    }

    /// Waits until they are there.
    pub(super) fn end_adoption(
        &self,
        thread: &Tracee,
        pid: Pid,
        slot: u64,
        adoption: &Adoption,
    ) -> Result<(), HomeError> {
        thread.finished()?;
        self.limit(thread, layout::slot(self.base, slot), Some(adoption.limit))?;
        for number in 0..adoption.count {
            if self.thread(pid, slot + number)?.fd < 0 {
                return Err(io::Error::other("the process has no room for its channels' descriptors").into());
            }
        }
        Ok(())
    }

    /// A deputy has stopped, for its channel is broken.
    pub(super) fn asks_for_channel(&mut self, tid: i32) -> Result<(), HomeError> {
        let Some(deputy) = self.deputies.get_mut(&tid) else { return Ok(()) };
        (deputy.stopped, deputy.line.asks) = (true, true);
        let (tgid, slot) = (Pid::from_raw(deputy.tgid), u64::from(deputy.slot));
        let (in_use, fresh) = (deputy.line.stream.is_some(), deputy.line.fresh.is_some());
        if self.thread(tgid, slot)?.broken == 0 {
            return Err(HomeError::NoCall(tid));
        }
        if fresh {
            self.give_channel(tid)
        } else if in_use && !self.link.is_lost() {
            self.connect_anew(tid)
        } else {
            Ok(())
        }
    }

    /// A thread's shim has met with a broken channel: the one of this number.
    pub(super) fn lost_there(&mut self, tid: i32, generation: u32) -> Result<(), HomeError> {
        match self.deputies.get(&tid).map(|deputy| &deputy.line) {
            None => Ok(self.link.send(&ToRemote::Over { tid })?),
            Some(line) if line.generation == generation && line.stream.is_some() => self.connect_anew(tid),
            // It is being made already.
            Some(_) => Ok(()),
        }
    }

    /// Makes another channel for a thread.
    pub(super) fn connect_anew(&mut self, tid: i32) -> Result<(), HomeError> {
        let Some(deputy) = self.deputies.get_mut(&tid) else { return Ok(()) };
        let (tgid, line) = (deputy.tgid, &mut deputy.line);
        if let Some(stream) = line.stream.take() {
            hang_up(&stream);
        }
        line.fresh = None;
        line.generation += 1;
        let generation = line.generation;
        let (channel, keys) = Channel::new()?;
        self.link.send(&ToRemote::Channel { tgid, tid, generation, channel })?;
        self.connector.want(channel.token, Wanted::Channel { tid, generation, keys });
        Ok(())
    }

    /// It is connected.
    pub(super) fn connected(
        &mut self,
        tid: i32,
        generation: u32,
        stream: TcpStream,
        keys: Keys,
    ) -> Result<(), HomeError> {
        let Some(deputy) = self.deputies.get_mut(&tid) else { return Ok(()) };
        if deputy.line.generation != generation {
            return Ok(());
        }
        (deputy.line.stream, deputy.line.fresh) = (Some(stream), Some(keys));
        if deputy.line.asks { super::events::or_gone(self.give_channel(tid)) } else { Ok(()) }
    }

    /// Gives a deputy that has stopped for it another channel, and lets it go on.
    fn give_channel(&mut self, tid: i32) -> Result<(), HomeError> {
        let Some(deputy) = self.deputies.get_mut(&tid) else { return Ok(()) };
        let line = &mut deputy.line;
        let (Some(stream), Some(keys)) = (&line.stream, line.fresh.take()) else { return Ok(()) };
        let stream = stream.try_clone()?;
        let (pid, slot) = (Pid::from_raw(deputy.tgid), u64::from(deputy.slot));
        let Some(deputy) = self.deputies.get(&tid) else { return Ok(()) };
        let tracee = &deputy.tracee;
        let (registers, state) = (tracee.registers()?, ExtendedState::of(tracee.tid)?);
        let mask = tracee.quiet()?;
        let old = self.thread(pid, slot)?;
        if old.fd >= 0 {
            tracee.call(libc::SYS_close, [u64::from(old.fd.cast_unsigned()), 0, 0, 0, 0, 0])?;
        }
        self.change_thread(pid, slot, |thread| {
            (thread.fd, thread.broken) = (-1, 0);
            (thread.send, thread.receive) = (Direction::new(keys.send), Direction::new(keys.receive));
            (thread.in_from, thread.in_to, thread.plain_from, thread.plain_to, thread.out) = (0, 0, 0, 0, 0);
        })?;
        self.adopt(tracee, pid, slot, &[&stream])?;
        tracee.set_registers(&registers)?;
        state.put(tracee.tid)?;
        sys::set_signal_mask(tracee.tid, mask)?;
        let Some(deputy) = self.deputies.get_mut(&tid) else { return Ok(()) };
        deputy.line.heard |= !old.receive.is_unused();
        Ok(deputy.go_on()?)
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
