//! The home's side of a process that is away: sends it off, keeps its deputy, takes it back.
//!
//! One program ([`Home::run`]) for each process that was sent off, with all that it makes while it is away; it
//! traces the deputies, so that what happens to them (signals, children, exec, their end) is seen. A call that
//! is forwarded passes it by: the deputy has its own connection to the body.

mod events;
mod homeward;
mod wires;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tesela_shim::layout;

use super::freeze::{self, FreezeError, Frozen};
use super::image::{Channel, Image, ToHome, ToRemote};
use super::link::{self, Keys, LinkError, Receiver, Sender};
use super::pages;
use super::sys;
use super::tracee::{TraceError, Tracee};

/// Why a process was not sent off, or is no longer away.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It does not move, and goes on at home.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// The connection to the other node.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The other node does not take it; it goes on at home.
    #[error("the other node does not take it: {0}")]
    Refused(String),
    /// A deputy does not do what it is told.
    #[error("its deputy: {0}")]
    Trace(#[from] TraceError),
    /// The kernel refuses something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other node is silent.
    #[error("nothing has been heard of the other node for {} s", HOME_PATIENCE.as_secs())]
    Silent,
}

impl From<nix::errno::Errno> for HomeError {
    fn from(error: nix::errno::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Home gives a body up that it has not heard of for so long; the remote side has ended it by then
/// How long it waits for the other node to have put away what was the process.
const PARTING: Duration = Duration::from_secs(5);
/// ([`super::guest::REMOTE_PATIENCE`]), so there are never two.
pub const HOME_PATIENCE: Duration = Duration::from_secs(60);
/// How often each side says that it is there.
pub const PING: Duration = Duration::from_secs(5);
/// How long the other node may take to build a body.
const BUILD_PATIENCE: Duration = Duration::from_secs(30);

/// A thread of a process that is away.
#[derive(Debug)]
struct Deputy {
    tracee: Tracee,
    tgid: i32,
    slot: u32,
    /// It stands still (a ptrace stop) and waits to be let go.
    stopped: bool,
    /// It does so until the other node has handed a signal on.
    delivering: bool,
}

impl Deputy {
    fn new(tracee: Tracee, tgid: i32, slot: u32) -> Self {
        Self { tracee, tgid, slot, stopped: false, delivering: false }
    }

    /// Lets it go on.
    fn go_on(&mut self) -> io::Result<()> {
        (self.stopped, self.delivering) = (false, false);
        sys::cont(self.tracee.tid, 0)
    }
}

/// How a process that was away came to its end here.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// It runs at home again.
    AtHome,
    /// It has ended.
    Ended,
}

/// The home's side.
#[derive(Debug)]
pub struct Home {
    pid: Pid,
    peer: IpAddr,
    port: u16,
    base: u64,
    first_fd: u64,
    syscall: u64,
    entry: u64,
    labels: [u64; 3],
    deputies: HashMap<i32, Deputy>,
    /// Threads that the kernel has told of before their maker did.
    early: HashMap<i32, Tracee>,
    /// What has been read of a process that is on its way home.
    homecoming: Option<homeward::Homecoming>,
    sender: Sender,
    receiver: Receiver,
    heard: Instant,
    signals: SignalFd,
    /// Told to let them come home.
    recalled: bool,
    /// Processes that stand still away, and come home once those of their deputies are gone whose threads have
    /// ended there.
    arriving: Vec<Arriving>,
    /// Processes that job control has stopped.
    standing: BTreeSet<i32>,
    /// Signals that have been sent on, and that the other node has not handed on yet.
    on_their_way: VecDeque<OnItsWay>,
}

/// A process that stands still away.
#[derive(Debug)]
struct Arriving {
    image: Image,
    /// By which its memory comes.
    connection: TcpStream,
    keys: Keys,
}

/// A signal that has been sent on.
#[derive(Debug)]
struct OnItsWay {
    tgid: i32,
    tid: i32,
    /// `siginfo_t`; `None`: it only tells what the kernel has done here already (job control).
    info: Option<Vec<u8>>,
    /// The deputy that stands still until it has been handed on.
    holds: Option<i32>,
}

impl Home {
    /// Sends a process off over a link to a node that has agreed.
    ///
    /// # Errors
    /// [`HomeError`]; unless the body had begun to run, the process goes on at home.
    pub fn send_off(
        pid: Pid,
        agreed: Option<&str>,
        stream: TcpStream,
        keys: Keys,
    ) -> Result<Self, HomeError> {
        let peer = stream.peer_addr()?.ip();
        stream.set_read_timeout(Some(BUILD_PATIENCE))?;
        let (sender, mut receiver) = link::split(stream, keys)?;
        let ToHome::Listening { port, vdso } = receiver.receive()? else {
            return Err(LinkError::NotAuthentic.into());
        };
        let mask = block_signals()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let mut frozen = freeze::freeze(pid, agreed)?;
        let mut home = Self {
            pid,
            peer,
            port,
            base: frozen.image.base,
            first_fd: frozen.image.first_fd,
            syscall: frozen.syscall,
            entry: frozen.entry,
            labels: frozen.labels,
            deputies: HashMap::new(),
            early: HashMap::new(),
            homecoming: None,
            sender,
            receiver,
            heard: Instant::now(),
            signals,
            recalled: false,
            arriving: Vec::new(),
            standing: BTreeSet::new(),
            on_their_way: VecDeque::new(),
        };
        let known_vdso = frozen.image.vdso == vdso;
        let mut at_work = 0;
        let begun = home
            .build(&frozen, known_vdso)
            .and_then(|()| Ok(home.receiver_timeout(None)?))
            .and_then(|()| home.begin(&mut frozen, &mut at_work));
        match begun {
            Ok(()) => {
                for (tracee, image) in frozen.threads.into_iter().zip(&frozen.image.threads) {
                    home.deputies.insert(image.tid, Deputy::new(tracee, pid.as_raw(), image.slot));
                }
                Ok(home)
            }
            Err(error) => {
                abandon(frozen, at_work)?;
                Err(error)
            }
        }
    }

    fn receiver_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.receiver.set_timeout(timeout)
    }

    /// Has the body built, and connects it.
    fn build(&mut self, frozen: &Frozen, known_vdso: bool) -> Result<(), HomeError> {
        if !known_vdso {
            return Err(HomeError::Refused("its kernel is another one (vdso)".into()));
        }
        let mut image = frozen.image.clone();
        let mut connections = Vec::new();
        let mut wires = Vec::new();
        for thread in &mut image.threads {
            let (channel, ours) = new_channel()?;
            thread.channel = Some(channel);
            wires.push((channel, ours));
        }
        let (pages, page_keys) = new_channel()?;
        let content = image.content.clone();
        self.sender.send(&ToRemote::Build(Box::new(image), pages))?;
        for (channel, ours) in &wires {
            connections.push((self.connect(channel)?, *ours));
        }
        let page_link = self.connect(&pages)?;
        pages::hold_back(&page_link)?;
        let (page_sender, page_receiver) = link::split(page_link, page_keys)?;
        let pid = self.pid;
        std::thread::Builder::new().name("pages".into()).spawn(move || {
            if let Err(error) = pages::serve(pid, &content, pages::Ground::Fresh, page_sender, page_receiver)
            {
                tracing::debug!(%pid, %error, "no more pages are asked for");
            }
        })?;
        self.hand_over(frozen, connections)?;
        loop {
            match self.receiver.receive()? {
                ToHome::Built => return Ok(()),
                ToHome::Failed(reason) => return Err(HomeError::Refused(reason)),
                // A small process is there whole before its threads are.
                ToHome::Whole { .. } | ToHome::Pong => {}
                _ => return Err(LinkError::NotAuthentic.into()),
            }
        }
    }

    /// The deputies take up their work, `at_work` of them so far, and the body goes on: once this has
    /// succeeded it is away.
    fn begin(&mut self, frozen: &mut Frozen, at_work: &mut usize) -> Result<(), HomeError> {
        for (thread, image) in frozen.threads.iter_mut().zip(&frozen.image.threads) {
            let slot = layout::slot(self.base, image.slot.into());
            // What came while it was being stopped is delivered where it runs then.
            requeue_held(thread, self.pid, self.syscall, slot)?;
            thread.bind()?;
            sys::set_signal_mask(thread.tid, image.mask)?;
            thread.enter(self.entry, slot + layout::SLOT - 64, layout::ENTER_RESIDENT, slot)?;
            *at_work += 1;
        }
        Ok(self.sender.send(&ToRemote::Resume)?)
    }

    /// Keeps the deputies until all are at home again or have ended.
    ///
    /// # Errors
    /// [`HomeError`]; the deputies that are left have been ended.
    pub fn run(mut self) -> Result<Left, HomeError> {
        let ran = self.serve();
        match ran {
            Ok(_) => self.part(),
            Err(_) => self.end_all(),
        }
        ran
    }

    /// Nothing of it is away any more: whoever hears that it is at home finds nothing of it on the other node.
    fn part(&mut self) {
        let until = Instant::now() + PARTING;
        let parted = self.sender.finish().and_then(|()| self.receiver_timeout(Some(PARTING)));
        let mut parted = parted.map_err(LinkError::from);
        while parted.is_ok() && Instant::now() < until {
            parted = self.receiver.receive::<ToHome>().map(drop);
        }
        match parted {
            Err(LinkError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            parted => {
                tracing::debug!(pid = %self.pid, ?parted, "the other node does not say that nothing is left")
            }
        }
    }

    fn serve(&mut self) -> Result<Left, HomeError> {
        let mut next_ping = Instant::now() + PING;
        loop {
            if self.deputies.is_empty() {
                return Ok(if self.homecoming.is_some() { Left::AtHome } else { Left::Ended });
            }
            let wait = next_ping.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut ready = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [children, link] = ready.map(|one| one.any().unwrap_or(false));
            if children {
                self.take_signals()?;
                self.look_at_children()?;
            }
            if link {
                let message = self.receiver.receive()?;
                self.heard = Instant::now();
                if let Some(left) = self.hear_remote(message)? {
                    return Ok(left);
                }
            }
            while let Some(place) = self.arriving.iter().position(|one| self.is_complete(&one.image)) {
                let arriving = self.arriving.swap_remove(place);
                events::or_gone(self.comes_home(arriving))?;
            }
            if Instant::now() >= next_ping {
                self.sender.send(&ToRemote::Ping)?;
                next_ping = Instant::now() + PING;
            }
            if self.heard.elapsed() > HOME_PATIENCE {
                return Err(HomeError::Silent);
            }
        }
    }

    /// SIGUSR1 is the agent's wish that the process come home.
    fn take_signals(&mut self) -> Result<(), HomeError> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGUSR1 as u32 && !self.recalled {
                self.recalled = true;
                let all: Vec<i32> = self.deputies.values().map(|deputy| deputy.tgid).collect();
                for tgid in all.into_iter().collect::<BTreeSet<_>>() {
                    self.sender.send(&ToRemote::Freeze { tgid })?;
                }
            }
        }
        Ok(())
    }

    fn connect(&self, channel: &Channel) -> io::Result<TcpStream> {
        use std::io::Write as _;
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(self.peer, self.port), BUILD_PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.write_all(&channel.token)?;
        Ok(stream)
    }

    /// The body is lost and cannot go on: so the process ends, by a signal that says so.
    fn end_all(&mut self) {
        for deputy in self.deputies.values() {
            let pid = Pid::from_raw(deputy.tgid);
            // ESRCH: it has ended already.
            let _ended = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
    }
}

/// Blocks the signals that are read by a descriptor, in this thread and those that it makes.
///
/// # Errors
/// Those of sigprocmask(2).
pub fn block_signals() -> nix::Result<SigSet> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGUSR1);
    mask.thread_block()?;
    Ok(mask)
}

/// A channel as the remote side gets to know it, and our keys of it.
fn new_channel() -> io::Result<(Channel, Keys)> {
    let keys = Keys::random()?;
    let mut token = [0; 16];
    getrandom::fill(&mut token).map_err(io::Error::other)?;
    Ok((Channel { token, keys: keys.turned() }, keys))
}

/// Has a stopped thread, whose signals are blocked, send itself again what it was held from.
fn requeue_held(thread: &mut Tracee, tgid: Pid, syscall: u64, slot: u64) -> Result<(), TraceError> {
    for info in std::mem::take(&mut thread.held) {
        thread.requeue(syscall, slot + layout::OUT_AT, tgid, &info)?;
    }
    Ok(())
}

/// Takes everything back that was done to a process: it goes on at home as if nothing had been asked. The
/// first `at_work` of its threads wait for calls from away.
fn abandon(mut frozen: Frozen, at_work: usize) -> Result<(), HomeError> {
    let tgid = Pid::from_raw(frozen.image.tgid);
    for thread in frozen.threads.iter_mut().take(at_work) {
        thread.stop()?;
        thread.quiet()?;
    }
    for (thread, image) in frozen.threads.iter_mut().zip(&frozen.image.threads) {
        requeue_held(thread, tgid, frozen.syscall, layout::slot(frozen.image.base, image.slot.into()))?;
    }
    let Some(leader) = frozen.threads.first() else { return Ok(()) };
    leader.call(
        frozen.syscall,
        libc::SYS_close_range,
        [frozen.image.first_fd, u64::from(u32::MAX), 0, 0, 0, 0],
    )?;
    leader.call(frozen.syscall, libc::SYS_munmap, [frozen.image.base, layout::REGION, 0, 0, 0, 0])?;
    freeze::restore_registers(&frozen.threads, &frozen.image.threads)?;
    for thread in frozen.threads {
        thread.detach()?;
    }
    Ok(())
}
