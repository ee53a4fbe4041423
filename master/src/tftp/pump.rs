//! The threads that move blocks: each drives the sockets of its sessions with one epoll.
//!
//! They are threads of their own, not tasks, for two reasons: sending from a mapped file can wait for the
//! disk, which must not hold up other services; and a lock-step transfer costs three system calls a block
//! this way (epoll_wait, recv, sendmsg) whatever the number of sessions. Time is told by one timerfd that
//! is set anew only once it has fired: a timeout of epoll_wait would set the processor's timer twice a
//! block, which costs as much as a system call, and far more in a virtual machine.
//!
//! A session has a connected socket of its own, so its port is fresh (the TID of RFC 1350), strangers'
//! packets never reach it, and the kernel keeps its route and tells when the client's port is closed. One
//! socket for all, with recvmmsg and sendmmsg, would move more blocks for many lock-step clients
//! (SPECIFICATION.md), and give up all of that; and packets that wait for a vanished client's hardware
//! address would fill the send buffer of everyone.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::UdpGsoSegment};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::Socket;

use super::content::Source;
use super::counters::{Counters, add};
use super::packet::{self, DATA_HEADER, ErrorCode};
use super::registry::{Id, Running, Ticket};
use super::session::{Action, Outcome, Session};
use super::spin::{self, Spin};
use super::{Finished, Transfer};

/// Segments of one send: the kernel's bound (UDP_MAX_SEGMENTS of the oldest kernels).
const SEGMENTS: usize = 64;
/// Octets of one send, under those of an IPv6 or IPv4 datagram.
const SEND: usize = 65_000;
/// The epoll data of the wake-up and of the timer; sessions are numbered from 1.
const WAKE: u64 = 0;
const TIMER: u64 = u64::MAX;

/// A session on its way to a pump.
#[derive(Debug)]
pub struct Begin {
    pub session: Session,
    pub source: Source,
    pub offer: Option<Box<[u8]>>,
    /// Bound to the address that the request came to, connected to the client, not blocking.
    pub socket: Socket,
    pub ticket: Ticket,
    pub path: Box<[u8]>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub started: Instant,
}

enum Command {
    Begin(Box<Begin>),
    /// The client sent its request again; where the session has ended by then, it is a new one, and taken
    /// in by this.
    RequestAgain(Id, Retry),
    Supersede(Id),
    /// End when the sessions have ended, or at this time.
    Stop(Instant),
}

/// Takes a request in anew.
pub type Retry = Box<dyn FnOnce() + Send>;

/// The outer end of one pump.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    load: Arc<AtomicUsize>,
}

impl Handle {
    /// Sessions on it.
    pub fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    pub fn begin(&self, begin: Begin) {
        self.load.fetch_add(1, Relaxed);
        self.tell(Command::Begin(Box::new(begin)));
    }

    pub fn request_again(&self, id: Id, retry: Retry) {
        self.tell(Command::RequestAgain(id, retry));
    }

    pub fn stop(&self, at: Instant) {
        self.tell(Command::Stop(at));
    }

    fn tell(&self, command: Command) {
        // A pump that has stopped needs no commands; what was in one gives its place back by being dropped.
        if self.queue.send(command).is_ok() && self.wake.write(1).is_err() {
            tracing::error!("cannot wake a TFTP thread: eventfd");
        }
    }
}

/// A set of pumps.
#[derive(Debug)]
pub struct Pumps {
    pub handles: Arc<[Handle]>,
    pub threads: Vec<thread::JoinHandle<()>>,
}

impl Pumps {
    /// Starts `count` of them.
    pub fn start(count: usize, counters: &Arc<Counters>, finished: &Finished) -> io::Result<Self> {
        let mut queues = Vec::new();
        let mut handles = Vec::new();
        for _ in 0..count {
            let (queue, commands) = mpsc::channel();
            let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            handles.push(Handle { queue, wake: Arc::new(wake), load: Arc::default() });
            queues.push(commands);
        }
        let handles: Arc<[Handle]> = handles.into();
        let mut threads = Vec::new();
        for (index, commands) in queues.into_iter().enumerate() {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&*handles[index].wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
            let timer =
                TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
            epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
            let pump = Pump {
                index,
                epoll,
                commands,
                handles: Arc::clone(&handles),
                counters: Arc::clone(counters),
                finished: Arc::clone(finished),
                sessions: HashMap::new(),
                timer,
                spin: Spin::default(),
                due: None,
                set: None,
                stop: None,
                scratch: Vec::new(),
            };
            threads.push(thread::Builder::new().name(format!("tftp-{index}")).spawn(move || pump.run())?);
        }
        Ok(Self { handles, threads })
    }
}

struct Active {
    begin: Begin,
    /// Whether the kernel cuts a window into packets for us (UDP_SEGMENT).
    segmented: bool,
    /// Whether the registry knows that the client has answered.
    known_answered: bool,
    /// The first block never sent.
    fresh: u64,
    retransmitted: u64,
}

struct Pump {
    index: usize,
    epoll: Epoll,
    commands: mpsc::Receiver<Command>,
    handles: Arc<[Handle]>,
    counters: Arc<Counters>,
    finished: Finished,
    sessions: HashMap<Id, Active>,
    timer: TimerFd,
    spin: Spin,
    /// When to look at the sessions' deadlines: none lies before it, and it may come too early, for a
    /// deadline moves on with every packet.
    due: Option<Instant>,
    /// When the timer fires.
    set: Option<Instant>,
    stop: Option<Instant>,
    scratch: Vec<u8>,
}

impl Pump {
    fn run(mut self) {
        if let Err(error) = self.turn() {
            tracing::error!(%error, "a TFTP thread ends: epoll or timerfd");
        }
        for (_, mut active) in std::mem::take(&mut self.sessions) {
            active.begin.session.end(Outcome::Stopped);
            self.finish(active);
        }
    }

    fn turn(&mut self) -> nix::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        while self.stop.is_none_or(|at| !self.sessions.is_empty() && Instant::now() < at) {
            let ready = match self.wait(&mut events) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            for event in &events[..ready] {
                match event.data() {
                    WAKE => self.obey(now),
                    TIMER => {
                        self.timer.wait()?;
                        self.set = None;
                    }
                    id => self.receive(id, now),
                }
            }
            if self.due.is_some_and(|due| due <= now) {
                self.expire(now);
            }
            if self.set != self.due {
                self.set_timer(now)?;
            }
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut [EpollEvent]) -> nix::Result<usize> {
        if self.spin.worth_it() {
            let until = Instant::now() + spin::LOOK;
            let found = loop {
                let found = self.epoll.wait(events, EpollTimeout::ZERO)?;
                if found > 0 || Instant::now() >= until {
                    break found;
                }
            };
            self.spin.looked(found > 0);
            if found > 0 {
                return Ok(found);
            }
        }
        self.epoll.wait(events, EpollTimeout::NONE)
    }

    fn set_timer(&mut self, now: Instant) -> nix::Result<()> {
        match self.due {
            // A time of zero would stop it.
            Some(due) => {
                let left = due.saturating_duration_since(now).max(Duration::from_nanos(1));
                self.timer.set(Expiration::OneShot(TimeSpec::from(left)), TimerSetTimeFlags::empty())?;
            }
            None => self.timer.unset()?,
        }
        self.set = self.due;
        Ok(())
    }

    fn obey(&mut self, now: Instant) {
        // The count does not matter; what is queued behind it is taken below.
        let _count = self.handles[self.index].wake.read();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Begin(begin) => self.begin(*begin, now),
                Command::RequestAgain(id, retry) => {
                    // An ERROR that was sent before the request may still wait to be read.
                    self.receive(id, now);
                    match self.sessions.contains_key(&id) {
                        true => self.step(id, |session| session.request_again(now)),
                        false => retry(),
                    }
                }
                Command::Supersede(id) => self.step(id, |session| {
                    session.end(Outcome::Superseded);
                    Action::Wait
                }),
                Command::Stop(at) => {
                    self.stop = Some(at);
                    self.due = Some(self.due.map_or(at, |due| due.min(at)));
                }
            }
        }
    }

    fn begin(&mut self, begin: Begin, now: Instant) {
        let id = begin.ticket.id();
        let terms = begin.session.terms();
        // 4 is DATA_HEADER: a length on the wire, at most 65468.
        let segment = 4 + i32::from(terms.block_size);
        let segmented = terms.window > 1 && setsockopt(&begin.socket, UdpGsoSegment, &segment).is_ok();
        let listening = self.epoll.add(begin.socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, id));
        let mut active = Active { begin, segmented, known_answered: false, fresh: 1, retransmitted: 0 };
        if let Err(error) = listening {
            active.begin.session.end(Outcome::Failed(format!("epoll_ctl: {error}")));
            return self.finish(active);
        }
        self.sessions.insert(id, active);
        self.step(id, |session| session.start(now));
    }

    /// One datagram; epoll is level-triggered and tells of a further one.
    fn receive(&mut self, id: Id, now: Instant) {
        let Some(active) = self.sessions.get(&id) else { return };
        let mut datagram = [0; 512];
        match recv(active.begin.socket.as_raw_fd(), &mut datagram, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => self.step(id, |session| session.receive(&datagram[..count], now)),
            Err(error) => self.step(id, |session| {
                if error == Errno::ECONNREFUSED {
                    session.end(Outcome::Unreachable);
                }
                Action::Wait
            }),
        }
    }

    fn expire(&mut self, now: Instant) {
        let ids: Vec<Id> = self
            .sessions
            .iter()
            .filter(|(_, a)| a.begin.session.deadline() <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.step(id, |session| session.expire(now));
        }
        let deadlines = self.sessions.values().map(|active| active.begin.session.deadline());
        self.due = deadlines.chain(self.stop).min();
    }

    /// Lets the session take one step, does what it asks for, and ends it if it has ended.
    fn step(&mut self, id: Id, step: impl FnOnce(&mut Session) -> Action) {
        let Some(active) = self.sessions.get_mut(&id) else { return };
        let action = step(&mut active.begin.session);
        active.perform(action, &mut self.scratch, &self.counters);
        let session = &active.begin.session;
        if session.answered() && !active.known_answered {
            active.known_answered = true;
            for Running { pump, id } in active.begin.ticket.answered(self.index) {
                self.handles[pump].tell(Command::Supersede(id));
            }
        }
        let deadline = session.deadline();
        if session.outcome().is_some() {
            if let Some(active) = self.sessions.remove(&id) {
                self.finish(active);
            }
        } else if self.due.is_none_or(|due| deadline < due) {
            self.due = Some(deadline);
        }
    }

    /// Says the last word to the client where that is ours, counts, and tells the observer.
    fn finish(&self, active: Active) {
        let Active { begin, retransmitted, .. } = active;
        let Begin { session, source, socket, ticket, path, peer, local, started, .. } = begin;
        let outcome = session.outcome().cloned().unwrap_or(Outcome::Stopped);
        let (counter, last_word) = match &outcome {
            Outcome::Completed => (&self.counters.completed, None),
            Outcome::Aborted { .. } | Outcome::Superseded => (&self.counters.aborted, None),
            Outcome::Silent | Outcome::Unreachable => (&self.counters.lost, None),
            Outcome::Failed(_) => (&self.counters.failed, Some("the file cannot be read")),
            Outcome::Stopped => (&self.counters.failed, Some("the server is stopping")),
        };
        add(counter, 1);
        if let Some(text) = last_word
            && let Err(error) = socket.send(&packet::error(ErrorCode::NotDefined, text))
        {
            tracing::debug!(%peer, %error, "the last ERROR could not be sent");
        }
        let bytes = (session.acknowledged() * u64::from(session.terms().block_size)).min(source.size());
        add(&self.counters.bytes, bytes);
        self.handles[self.index].load.fetch_sub(1, Relaxed);
        // The place is free before anyone hears that the transfer has ended.
        drop((socket, ticket));
        let size = source.size();
        (self.finished)(&Transfer {
            peer,
            local,
            path,
            size,
            bytes,
            retransmitted,
            duration: started.elapsed(),
            outcome,
        });
    }
}

impl Active {
    fn perform(&mut self, action: Action, scratch: &mut Vec<u8>, counters: &Counters) {
        let sent = match action {
            Action::Wait => return,
            Action::Offer => {
                self.begin.socket.send(self.begin.offer.as_deref().unwrap_or_default()).map(|_| ())
            }
            Action::Blocks { first, count } => {
                let again = self.fresh.saturating_sub(first).min(count.into());
                self.fresh = self.fresh.max(first + u64::from(count));
                self.retransmitted += again;
                add(&counters.blocks, count.into());
                add(&counters.retransmitted, again);
                self.send_blocks(first, count.into(), scratch)
            }
        };
        match sent {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.begin.session.end(Outcome::Unreachable);
            }
            // The file shrank under its mapping, or cannot be read.
            Err(error)
                if error.raw_os_error() == Some(nix::libc::EFAULT) || error.raw_os_error().is_none() =>
            {
                self.begin.session.end(Outcome::Failed(format!("reading the file: {error}")));
            }
            // A full queue or a route that is missing for now: as good as lost on the way, and sent again.
            Err(error) => tracing::debug!(peer = %self.begin.peer, %error, "a packet could not be sent"),
        }
    }

    fn send_blocks(&mut self, mut first: u64, mut count: usize, scratch: &mut Vec<u8>) -> io::Result<()> {
        let block_size = self.begin.session.terms().block_size;
        let most = (SEND / (DATA_HEADER + usize::from(block_size))).clamp(1, SEGMENTS);
        while count > 0 {
            let part = if self.segmented { count.min(most) } else { 1 };
            let octets = self.begin.source.blocks(first, part, block_size, scratch)?;
            match send_once(&self.begin.socket, first, part, octets, block_size.into()) {
                Err(error) if part > 1 && refuses_segments(&error) => {
                    // A device or path that cannot: from here on one packet a call.
                    self.segmented = false;
                    setsockopt(&self.begin.socket, UdpGsoSegment, &0)?;
                    continue;
                }
                sent => sent?,
            }
            first += part as u64;
            count -= part;
        }
        Ok(())
    }
}

/// Sends `count` DATA packets in one call: their octets go from the content to the kernel, uncopied here.
fn send_once(socket: &Socket, first: u64, count: usize, octets: &[u8], block_size: usize) -> io::Result<()> {
    if count == 1 {
        let header = packet::data_header(first);
        return socket.send_vectored(&[IoSlice::new(&header), IoSlice::new(octets)]).map(|_| ());
    }
    let mut headers = [[0; DATA_HEADER]; SEGMENTS];
    for (block, header) in (first..).zip(&mut headers[..count]) {
        *header = packet::data_header(block);
    }
    let mut slices = [IoSlice::new(&[]); 2 * SEGMENTS];
    let (mut rest, mut pairs) = (octets, slices.chunks_exact_mut(2));
    for (header, pair) in headers[..count].iter().zip(&mut pairs) {
        let (block, after) = rest.split_at(block_size.min(rest.len()));
        pair[0] = IoSlice::new(header);
        pair[1] = IoSlice::new(block);
        rest = after;
    }
    socket.send_vectored(&slices[..2 * count]).map(|_| ())
}

fn refuses_segments(error: &io::Error) -> bool {
    use nix::libc::{EINVAL, EIO, EMSGSIZE, EOPNOTSUPP};
    matches!(error.raw_os_error(), Some(EINVAL | EIO | EMSGSIZE | EOPNOTSUPP))
}
