//! The home's side of a process that is away: sends it off, keeps its deputy, takes it back.
//!
//! One program ([`Home::run`]) for each process that was sent off, with all that it makes while it is away; it
//! traces the deputies, so that what happens to them (signals, children, exec, their end) is seen. A call that
//! is forwarded passes it by: the deputy has its own connection to the body.

mod connector;
mod copies;
mod departure;
mod events;
mod homeward;
mod memory;
mod wires;

pub use homeward::without;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tesela_shim::layout;

use super::bell::{Inbox, bell};
use super::equal::Offers;
use super::freeze::{self, Ahead, FreezeError, Frozen};
use super::group::{self, Agreed, Group};
use super::image::{Channel, Image, ToHome, ToRemote, Token};
use super::lasting::{self, Connection, Event, Lasting, PING};
use super::link::{self, Keys, LinkError};
use super::shared::{self, Object};
use super::sys;
use super::tracee::{TraceError, Tracee};
use super::{AWAY, AWAY_TOGETHER, FETCHED, SENT, STAYS, fetch_signal, tell};
use connector::{Connector, Wanted};
use memory::{Outgoing, Sent};
use wires::{Wire, Wires};

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
    #[error("nothing has been heard of the other node for {} s", patience().as_secs())]
    Silent,
    /// The other side has ended, and all of the process that was there.
    #[error("the other node has ended it: {0}")]
    EndedThere(String),
    /// The same, before it can have begun to run there; it goes on at home.
    #[error("{0}")]
    Stays(Box<HomeError>),
    /// What comes by a thread's channel is no call.
    #[error("what its body says is no call of thread {0}'s")]
    NoCall(i32),
}

impl From<nix::errno::Errno> for HomeError {
    fn from(error: nix::errno::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// How long it waits for the other node to have put away what was the process.
const PARTING: Duration = Duration::from_secs(5);
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
    /// It was made away.
    made_away: bool,
    line: Line,
}

/// A thread's channel, as home has it.
#[derive(Debug, Default)]
struct Line {
    /// How many there have been before.
    generation: u32,
    /// The connection that is in use, or is about to be; `None`: one is being made.
    stream: Option<TcpStream>,
    /// Its keys, where the deputy does not have it yet.
    fresh: Option<Keys>,
    /// The deputy stands still until it has it.
    asks: bool,
    /// By one that the deputy has had before its body was heard.
    heard: bool,
}

/// What the threads tell that wait for something.
#[derive(Debug)]
enum News {
    /// The link.
    Link(Event<ToHome>),
    /// It has another connection.
    Linked(Box<Connection>),
    /// A thread's channel has been connected.
    Connected { tid: i32, generation: u32, stream: TcpStream, keys: Keys },
}

impl From<Event<ToHome>> for News {
    fn from(event: Event<ToHome>) -> Self {
        Self::Link(event)
    }
}

impl Deputy {
    fn new(tracee: Tracee, tgid: i32, slot: u32, stream: Option<TcpStream>) -> Self {
        let line = Line { stream, ..Line::default() };
        Self { tracee, tgid, slot, stopped: false, delivering: false, borrows: false, made_away: false, line }
    }

    /// One that was stopped at home begins to answer its body's calls.
    fn take_up(&mut self, tgid: i32, mask: u64, entry: u64, slot: u64) -> Result<(), HomeError> {
        // What came while it was being stopped is delivered where it runs now.
        freeze::requeue_held(&mut self.tracee, Pid::from_raw(tgid), slot)?;
        sys::set_signal_mask(self.tracee.tid, mask)?;
        self.tracee.enter(entry, slot + layout::SLOT - 64, layout::ENTER_RESIDENT, slot)?;
        self.stopped = false;
        Ok(())
    }

    /// Lets it go on.
    fn go_on(&mut self) -> io::Result<()> {
        (self.stopped, self.delivering, self.line.asks) = (false, false, false);
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
    /// The port for the connections of this process.
    there: SocketAddr,
    /// Our port of the connection on which it all began: by this both agents know which move it is.
    port: u16,
    /// By which one of the link is recognised.
    token: Token,
    base: u64,
    first_fd: u64,
    entry: u64,
    labels: [u64; 3],
    /// What the processes share. Where there is anything, all come home together.
    objects: Vec<Object>,
    /// Its content is at home again.
    unshared: bool,
    deputies: HashMap<i32, Deputy>,
    /// Processes whose deputies are still being given their channels.
    adoptions: HashMap<i32, wires::Adoption>,
    /// Threads that the kernel has told of before their maker did.
    early: HashMap<i32, Tracee>,
    /// One of them has come home.
    at_home: bool,
    link: Lasting<ToHome>,
    inbox: Inbox<News>,
    connector: Connector,
    /// What has left, until the other node has said that it runs there.
    departing: Vec<Image>,
    /// Where the processes' memory goes out.
    memory: HashMap<i32, Outgoing>,
    copies: copies::Copies,
    /// What is told once they run on the other node.
    untold: Vec<String>,
    signals: SignalFd,
    /// Told to let them come home.
    recalled: bool,
    /// Processes that were wanted home by themselves.
    asked: BTreeSet<i32>,
    /// When the agent was told last what they use.
    told_use: Option<Instant>,
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
    pages: Channel,
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
        let (peer, own_port) = (stream.peer_addr()?.ip(), stream.local_addr()?.port());
        let mask = block_signals()?;
        let (bell, inbox) = bell()?;
        let link = Lasting::new(stream, keys, bell.clone())?;
        let ToHome::Listening { port, token, vdso } = expect(&inbox, Instant::now() + BUILD_PATIENCE)? else {
            return Err(LinkError::NotAuthentic.into());
        };
        let there = SocketAddr::new(peer, port);
        let connector = Connector::start(there, bell)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let all: BTreeSet<i32> =
            agreed.into_iter().flat_map(Agreed::keys).copied().chain([pid.as_raw()]).collect();
        let offers = offer(all.iter().copied().map(Pid::from_raw), &link, &inbox)?;
        let ahead = Ahead::of(all.into_iter().map(Pid::from_raw))?;
        let mut wires = wires::ahead(pid, &ahead, &link, there)?;
        // Where one could not be begun, nothing needs to be stopped for it.
        while let Some(news) = inbox.next() {
            match said(news)? {
                None => {}
                Some(ToHome::Failed(reason)) => return Err(HomeError::Refused(reason)),
                Some(ToHome::Ends(reason)) => return Err(HomeError::EndedThere(reason)),
                Some(_) => return Err(LinkError::NotAuthentic.into()),
            }
        }
        let Group { mut members, objects } = group::freeze(pid, agreed, &ahead)?;
        // The blob is at the same place in all of them.
        let Some(first) = members.first() else { return Err(FreezeError::CantMove("ended").into()) };
        let mut home = Self {
            pid,
            there,
            port: own_port,
            token,
            base: first.image.base,
            first_fd: first.image.first_fd,
            entry: first.entry,
            labels: first.labels,
            objects,
            unshared: false,
            deputies: HashMap::new(),
            adoptions: HashMap::new(),
            early: HashMap::new(),
            at_home: false,
            link,
            inbox,
            connector,
            departing: Vec::new(),
            memory: HashMap::new(),
            copies: copies::Copies::default(),
            untold: Vec::new(),
            signals,
            recalled: false,
            asked: BTreeSet::new(),
            told_use: None,
            arriving: Vec::new(),
            standing: BTreeSet::new(),
            on_their_way: VecDeque::new(),
        };
        let left_out = members
            .iter_mut()
            .try_for_each(|frozen| offers.leave_out(&mut frozen.image, &frozen.lines))
            .map_err(HomeError::Io);
        let built = left_out.and_then(|()| home.share()).and_then(|()| {
            let streams = members.iter().map(|frozen| {
                let made = wires.remove(&frozen.image.tgid);
                home.build(frozen, made, vdso)
            });
            let streams = streams.collect::<Result<Vec<_>, _>>()?;
            home.link.send(&ToRemote::Resume)?;
            Ok(streams)
        });
        match built {
            Ok(streams) => {
                home.memory.values_mut().for_each(Outgoing::start);
                for (Frozen { threads, image, .. }, streams) in members.into_iter().zip(streams) {
                    let threads = threads.into_iter().zip(&image.threads).zip(streams);
                    for ((tracee, thread), stream) in threads {
                        let mut deputy = Deputy::new(tracee, image.tgid, thread.slot, Some(stream));
                        deputy.stopped = true;
                        home.deputies.insert(thread.tid, deputy);
                    }
                    home.departing.push(image);
                }
                Ok(home)
            }
            Err(error) => {
                home.say_bye();
                for frozen in members {
                    home.abandon(frozen);
                }
                Err(error)
            }
        }
    }

    /// Takes everything back that was done to a process: it goes on at home as if nothing had been asked. One that has
    /// ended meanwhile keeps the others from nothing.
    fn abandon(&mut self, frozen: Frozen) {
        let tgid = frozen.image.tgid;
        let adopted = match (self.adoptions.remove(&tgid), frozen.threads.first()) {
            (Some(adoption), Some(leader)) => self.end_adoption(leader, leader.tid, 0, &adoption),
            _ => Ok(()),
        };
        if let Err(error) = adopted {
            tracing::debug!(tgid, %error, "what it was being given for its journey is of no use");
        }
        if let Err(error) = frozen.release() {
            tracing::warn!(tgid, %error, "a process that did not leave cannot be let go");
        }
    }

    /// Sends what the processes share.
    fn share(&mut self) -> Result<(), HomeError> {
        if self.objects.is_empty() {
            return Ok(());
        }
        let (channel, keys) = Channel::new()?;
        let sizes = self.objects.iter().map(Object::size).collect();
        self.link.send(&ToRemote::Share(sizes, channel))?;
        let (mut sender, _receiver) = link::split(self.connect(&channel)?, keys)?;
        Ok(shared::send(&self.objects, &mut sender)?)
    }

    /// Has a body built, and connects it: by these, one for each thread.
    fn build(
        &mut self,
        frozen: &Frozen,
        made: Option<Wires>,
        vdso: [u8; 32],
    ) -> Result<Vec<TcpStream>, HomeError> {
        if frozen.image.vdso != vdso {
            return Err(HomeError::Refused("its kernel is another one (vdso)".into()));
        }
        let mut image = frozen.image.clone();
        let Wires { mut threads, pages } = match made {
            Some(made) => made,
            None => Wires::new(self.there, 0)?,
        };
        // It may have made threads since, or ended some.
        while threads.len() < image.threads.len() {
            threads.push(Wire::new(self.there)?);
        }
        for (thread, wire) in image.threads.iter_mut().zip(&threads) {
            thread.channel = Some(wire.channel);
        }
        threads.truncate(image.threads.len());
        let (content, equal) = (image.content.clone(), image.equal.clone());
        self.link.send(&ToRemote::Build(Box::new(image), pages.channel))?;
        let pid = Pid::from_raw(frozen.image.tgid);
        let memory = Outgoing::new(pid, &content, &equal, pages.stream, pages.keys)?;
        self.memory.insert(frozen.image.tgid, memory);
        self.copies.left(frozen.image.tgid, content);
        let adoption = self.hand_over(frozen, &threads)?;
        self.adoptions.insert(frozen.image.tgid, adoption);
        let streams = threads.into_iter().map(|wire| wire.stream).collect();
        match expect(&self.inbox, Instant::now() + BUILD_PATIENCE)? {
            ToHome::Built => Ok(streams),
            ToHome::Failed(reason) => Err(HomeError::Refused(reason)),
            ToHome::Ends(reason) => Err(HomeError::EndedThere(reason)),
            _ => Err(LinkError::NotAuthentic.into()),
        }
    }

    /// The deputies take up their work, while their bodies run already: what these call waits for them.
    fn take_up_work(&mut self) -> Result<(), HomeError> {
        let mut failed = None;
        for (tgid, adoption) in std::mem::take(&mut self.adoptions) {
            let Some(deputy) = self.deputies.get(&tgid) else { continue };
            match self.end_adoption(&deputy.tracee, deputy.tracee.tid, deputy.slot.into(), &adoption) {
                Err(HomeError::Trace(TraceError::Ended)) => self.ended(tgid)?,
                // All others stand still nevertheless.
                Err(error) => failed = failed.or(Some(error)),
                Ok(()) => {}
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for image in &self.departing {
            for own in &image.threads {
                let Some(deputy) = self.deputies.get_mut(&own.tid) else { continue };
                let slot = layout::slot(self.base, own.slot.into());
                events::or_gone(deputy.take_up(image.tgid, own.mask, self.entry, slot))?;
            }
        }
        Ok(())
    }

    /// Keeps the deputies until all are at home again or have ended. Writes [`AWAY`] once they run on the other node.
    ///
    /// # Errors
    /// [`HomeError::Stays`]: they have not run there, and go on at home. Others: those that are left have been ended.
    pub fn run(mut self) -> Result<Left, HomeError> {
        let error = match self.take_up_work().and_then(|()| self.serve()) {
            Ok(left) => {
                self.part();
                if !self.departing.is_empty() {
                    tell(&format!("{STAYS}ended"));
                }
                return Ok(left);
            }
            Err(error) => error,
        };
        self.say_bye();
        if !self.departing.is_empty() {
            self.await_end_there(&error);
        }
        match self.take_back() {
            Ok(true) => return Err(HomeError::Stays(Box::new(error))),
            Ok(false) => {}
            Err(failure) => tracing::error!(pid = %self.pid, %failure, "it cannot be let go on at home"),
        }
        self.end_all(&error);
        Err(error)
    }

    /// The other side has nothing more to keep.
    fn say_bye(&self) {
        if let Err(error) = self.link.send(&ToRemote::Bye) {
            tracing::warn!(%error, "the other node does not hear that this is over");
        }
    }

    /// Nothing of it is away any more: whoever hears that it is at home finds nothing of it on the other node.
    fn part(&mut self) {
        self.say_bye();
        let until = Instant::now() + PARTING;
        while !self.link.is_lost() {
            match expect(&self.inbox, until) {
                Ok(_) => {}
                Err(HomeError::Link(LinkError::Io(error)))
                    if error.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    return;
                }
                Err(error) => {
                    let pid = self.pid;
                    tracing::debug!(%pid, %error, "the other node does not say that nothing is left");
                    return;
                }
            }
        }
    }

    /// Waits until nothing that has left runs on the other node.
    fn await_end_there(&self, error: &HomeError) {
        // That is what these say.
        if matches!(error, HomeError::Silent | HomeError::EndedThere(_)) {
            return;
        }
        while self.link.unheard() <= patience() {
            match expect(&self.inbox, Instant::now() + PING) {
                Err(HomeError::Link(LinkError::Io(error)))
                    if error.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    return;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(pid = %self.pid, %error, "the other node is not heard to end it")
                }
            }
        }
    }

    /// They run on the other node: it has said so, or a deputy does what its body wants, which can be seen first.
    fn are_away(&mut self) {
        if !std::mem::take(&mut self.departing).is_empty() {
            tell(if self.objects.is_empty() { AWAY } else { AWAY_TOGETHER });
            std::mem::take(&mut self.untold).iter().for_each(|line| tell(line));
        }
    }

    /// All of a process's memory is on the other node.
    fn is_whole(&mut self, tgid: i32) {
        self.copies.whole(tgid);
        let sent = self.memory.get(&tgid).and_then(Outgoing::sent);
        if let Some(Sent { octets, took, round_trip }) = sent {
            let line = format!("{SENT}{octets} {} {}", took.as_micros(), round_trip.as_micros());
            // It can be there whole before it is said to run there.
            if self.departing.is_empty() { tell(&line) } else { self.untold.push(line) }
        }
    }

    fn serve(&mut self) -> Result<Left, HomeError> {
        loop {
            // The other side has to hear even that it is all over, if it can.
            if self.deputies.is_empty() && (!self.link.is_lost() || self.link.unheard() > patience()) {
                if let Err(error) = self.fetch_shared() {
                    tracing::error!(%error, "what the processes wrote into shared memory is lost");
                }
                return Ok(if self.at_home { Left::AtHome } else { Left::Ended });
            }
            let mut ready = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN),
            ];
            let wait = PollTimeout::try_from(PING).unwrap_or(PollTimeout::MAX);
            match poll(&mut ready, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            if ready[0].any().unwrap_or(false) {
                self.take_signals()?;
                self.look_at_children()?;
            }
            while let Some(news) = self.inbox.next() {
                self.learn(news)?;
            }
            while let Some(arriving) = self.next_arriving() {
                events::or_gone(self.come_home(arriving))?;
            }
            self.look_at_memory()?;
            if let Some(connection) = self.link.silent() {
                let silent = format!("nothing has come by it for {} s", lasting::SILENCE.as_secs());
                self.lose(connection, &io::Error::new(io::ErrorKind::TimedOut, silent).into());
            }
            if self.link.unheard() > patience() && !self.deputies.is_empty() {
                return Err(HomeError::Silent);
            }
        }
    }

    fn learn(&mut self, news: News) -> Result<(), HomeError> {
        match news {
            News::Link(Event::Says(message)) => self.hear_remote(message),
            News::Link(Event::Broken(connection, error)) => {
                self.lose(connection, &error);
                Ok(())
            }
            News::Link(Event::Ends(error)) => Err(error.into()),
            News::Linked(connection) => {
                self.link.take_up(*connection)?;
                tracing::info!(pid = %self.pid, "the other node is there again");
                // TCP may have to wait long before it tries again on those that are there.
                let threads: Vec<i32> = self.deputies.keys().copied().collect();
                threads.into_iter().try_for_each(|tid| self.connect_anew(tid))
            }
            News::Connected { tid, generation, stream, keys } => {
                self.connected(tid, generation, stream, keys)
            }
        }
    }

    /// The link's connection is of no more use: another one is made.
    fn lose(&mut self, connection: u64, error: &LinkError) {
        if self.link.lose(connection) {
            let pid = self.pid;
            tracing::warn!(%pid, %error, "no connection to the other node: the process stands still until there is");
            self.connector.forget();
            let wanted = Wanted::Link { secret: self.link.secret(), heard: self.link.heard() };
            self.connector.want(self.token, wanted);
        }
    }

    /// SIGUSR1 is the agent's wish that all come home, [`fetch_signal`] that a single one does, SIGUSR2 its word that the program is gone which kept it
    /// on the other node: in the move that began on our port of this number.
    fn take_signals(&mut self) -> Result<(), HomeError> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                self.recall()?;
            } else if i32::try_from(signal.ssi_signo) == Ok(fetch_signal()) {
                self.recall_one(signal.ssi_int)?;
            } else if signal.ssi_signo == Signal::SIGUSR2 as u32 && signal.ssi_int == i32::from(self.port) {
                return Err(HomeError::EndedThere("the program that kept it there is gone".into()));
            }
        }
        Ok(())
    }

    /// Tells all of them to come home.
    fn recall(&mut self) -> Result<(), HomeError> {
        if !std::mem::replace(&mut self.recalled, true) {
            for tgid in self.processes() {
                self.link.send(&ToRemote::Freeze { tgid })?;
            }
        }
        Ok(())
    }

    /// Tells one of them to come home. One whose child runs in its memory (vfork(2)) stands still once that does not.
    fn recall_one(&mut self, tgid: i32) -> Result<(), HomeError> {
        self.asked.insert(tgid);
        if self.processes().contains(&tgid) {
            return self.asks_to_go_home(tgid);
        }
        self.is_fetched(tgid);
        Ok(())
    }

    /// If a process was wanted home by itself, that is over.
    fn is_fetched(&mut self, tgid: i32) {
        if self.asked.remove(&tgid) {
            tell(&format!("{FETCHED}{tgid}"));
        }
    }

    /// Those that are away.
    fn processes(&self) -> BTreeSet<i32> {
        self.deputies.values().map(|deputy| deputy.tgid).collect()
    }

    fn connect(&self, channel: &Channel) -> io::Result<TcpStream> {
        connector::connect(self.there, channel.token)
    }
}

/// Home gives a body up that it has not heard of for so long. The remote side has ended it by then
/// ([`super::guest::patience`]), so there are never two.
pub fn patience() -> Duration {
    super::patience()
}

/// Agrees with the other node on the files of processes that are about to move, which run meanwhile.
fn offer(
    pids: impl IntoIterator<Item = Pid>,
    link: &Lasting<ToHome>,
    inbox: &Inbox<News>,
) -> Result<Offers, HomeError> {
    let mut offers = Offers::of(pids);
    let named = offers.named();
    if named.is_empty() {
        return Ok(offers);
    }
    // The other node finds out what its own are at the same time.
    link.send(&ToRemote::Files(named))?;
    let here = offers.roots();
    let ToHome::Files(there) = expect(inbox, Instant::now() + BUILD_PATIENCE)? else {
        return Err(LinkError::NotAuthentic.into());
    };
    offers.agree(&here, &there);
    Ok(offers)
}

/// What the other side says by these news; it may be the end of the link.
fn said(news: News) -> Result<Option<ToHome>, HomeError> {
    match news {
        News::Link(Event::Says(message)) => Ok(Some(message)),
        News::Link(Event::Broken(_, error) | Event::Ends(error)) => Err(error.into()),
        News::Linked(_) | News::Connected { .. } => Ok(None),
    }
}

/// What the other side says next, which may take so long.
fn expect(inbox: &Inbox<News>, until: Instant) -> Result<ToHome, HomeError> {
    loop {
        match inbox.next() {
            Some(news) => {
                if let Some(message) = said(news)? {
                    return Ok(message);
                }
            }
            None => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(LinkError::Io(io::ErrorKind::TimedOut.into()).into());
                }
                let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
                match poll(&mut [PollFd::new(inbox.as_fd(), PollFlags::POLLIN)], wait) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
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
    mask.add(Signal::SIGUSR2);
    let mask = sys::signals_with(mask, fetch_signal());
    mask.thread_block()?;
    Ok(mask)
}
