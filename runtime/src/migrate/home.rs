//! The home's side of a process that is away: sends it off, keeps its deputy, takes it back.
//!
//! One program ([`Home::run`]) for each process that was sent off, with all that it makes while it is away; it
//! traces the deputies, so that what happens to them (signals, children, exec, their end) is seen. A call that
//! is forwarded passes it by: the deputy has its own connection to the body.

mod events;
mod homeward;
mod wires;

pub use homeward::without;

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

use super::freeze::{self, Agreed, FreezeError, Frozen, Group};
use super::image::{Channel, Image, ToHome, ToRemote};
use super::link::{self, Keys, LinkError, Receiver, Sender};
use super::pages;
use super::shared::{self, Object};
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

/// How long it waits for the other node to have put away what was the process.
const PARTING: Duration = Duration::from_secs(5);
/// Home gives a body up that it has not heard of for so long; the remote side has ended it by then
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
    /// Away it runs in its maker's memory, which waits until it is another program or has ended (vfork).
    borrows: bool,
}

impl Deputy {
    fn new(tracee: Tracee, tgid: i32, slot: u32) -> Self {
        Self { tracee, tgid, slot, stopped: false, delivering: false, borrows: false }
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
    entry: u64,
    labels: [u64; 3],
    /// What the processes share. Where there is anything, all come home together.
    objects: Vec<Object>,
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
    /// Sends a process off over a link to a node that has agreed, and those that share memory with it.
    ///
    /// # Errors
    /// [`HomeError`]; unless the body had begun to run, the process goes on at home.
    pub fn send_off(
        pid: Pid,
        agreed: Option<&Agreed>,
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
        let Group { mut members, objects } = freeze::freeze(pid, agreed)?;
        // The blob is at the same place in all of them.
        let Some(first) = members.first() else { return Err(FreezeError::CantMove("ended").into()) };
        let mut home = Self {
            pid,
            peer,
            port,
            base: first.image.base,
            first_fd: first.image.first_fd,
            entry: first.entry,
            labels: first.labels,
            objects,
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
        let mut at_work = 0;
        let begun = home
            .share()
            .and_then(|()| members.iter().try_for_each(|frozen| home.build(frozen, vdso)))
            .and_then(|()| Ok(home.receiver_timeout(None)?))
            .and_then(|()| home.begin(&mut members, &mut at_work));
        match begun {
            Ok(()) => {
                for Frozen { threads, image, .. } in members {
                    for (tracee, thread) in threads.into_iter().zip(&image.threads) {
                        home.deputies.insert(thread.tid, Deputy::new(tracee, image.tgid, thread.slot));
                    }
                }
                Ok(home)
            }
            Err(error) => {
                for frozen in members {
                    at_work = abandon(frozen, at_work)?;
                }
                Err(error)
            }
        }
    }

    fn receiver_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.receiver.set_timeout(timeout)
    }

    /// Sends what the processes share.
    fn share(&mut self) -> Result<(), HomeError> {
        if self.objects.is_empty() {
            return Ok(());
        }
        let (channel, keys) = new_channel()?;
        let sizes = self.objects.iter().map(Object::size).collect();
        self.sender.send(&ToRemote::Share(sizes, channel))?;
        let (mut sender, _receiver) = link::split(self.connect(&channel)?, keys)?;
        Ok(shared::send(&self.objects, &mut sender)?)
    }

    /// Has a body built, and connects it.
    fn build(&mut self, frozen: &Frozen, vdso: [u8; 32]) -> Result<(), HomeError> {
        if frozen.image.vdso != vdso {
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
        let pid = Pid::from_raw(frozen.image.tgid);
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

    /// The deputies take up their work, `at_work` of them so far, and the bodies go on: once this has
    /// succeeded they are away.
    fn begin(&mut self, members: &mut [Frozen], at_work: &mut usize) -> Result<(), HomeError> {
        for Frozen { threads, image, .. } in members {
            for (thread, own) in threads.iter_mut().zip(&image.threads) {
                let slot = layout::slot(self.base, own.slot.into());
                // What came while it was being stopped is delivered where it runs then.
                freeze::requeue_held(thread, Pid::from_raw(image.tgid), slot)?;
                thread.bind()?;
                sys::set_signal_mask(thread.tid, own.mask)?;
                thread.enter(self.entry, slot + layout::SLOT - 64, layout::ENTER_RESIDENT, slot)?;
                *at_work += 1;
            }
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
            while let Some(arriving) = self.next_arriving() {
                events::or_gone(self.come_home(arriving))?;
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
            if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                self.recall()?;
            }
        }
        Ok(())
    }

    /// Tells all of them to come home.
    fn recall(&mut self) -> Result<(), HomeError> {
        if !std::mem::replace(&mut self.recalled, true) {
            for tgid in self.processes() {
                self.sender.send(&ToRemote::Freeze { tgid })?;
            }
        }
        Ok(())
    }

    /// Those that are away.
    fn processes(&self) -> BTreeSet<i32> {
        self.deputies.values().map(|deputy| deputy.tgid).collect()
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

/// Takes everything back that was done to a process: it goes on at home as if nothing had been asked. The
/// first `at_work` of its threads wait for calls from away; returns how many of others' do.
fn abandon(mut frozen: Frozen, at_work: usize) -> Result<usize, HomeError> {
    for thread in frozen.threads.iter_mut().take(at_work) {
        thread.stop()?;
        thread.quiet()?;
    }
    let left = at_work.saturating_sub(frozen.threads.len());
    frozen.release()?;
    Ok(left)
}
