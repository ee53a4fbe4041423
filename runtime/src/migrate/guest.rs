//! The remote side of a process that is away: builds its body, sends its signals on, sends it home.
//!
//! One program for each process that comes, with all that it makes while it is here. Bodies live in a place
//! of their own ([`init`]); what they call goes home by their own connections and passes this by.

mod body;
mod build;
mod door;
mod freeze;
mod init;
mod lines;
mod signals;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tesela_shim::layout::{
    CONTROL, CONTROL_ASKS, CONTROL_BORN, CONTROL_CHANNEL, CONTROL_FAILED, CONTROL_GONE, CONTROL_MAPPED,
    CONTROL_PAGES, CONTROL_PARKED, CONTROL_READY, Control,
};

use super::bell::{Bell, Inbox, bell};
use super::equal::Own;
use super::freeze::{octets, octets_mut};
use super::image::{Image, ToHome, ToRemote, Token};
use super::known::Known;
use super::lasting::{Event, Lasting, PING};
use super::link::{Keys, LinkError, Receiver, Sender};
use super::look;
use super::pages::Pager;
use super::processor;
use super::shared::Object;
use build::Room;
use door::Door;
use init::Init;
use lines::{Line, Wanted};

/// The remote side ends a body whose home may not have heard of it for so long: 50 s. By what it counts the time,
/// home's own ([`super::HOME_PATIENCE`]) begins later.
pub fn patience() -> Duration {
    super::patience() * 5 / 6
}

/// Why a guest could not stay.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The connection to its home.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refuses something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its home is silent.
    #[error("its home has not been reached for {} s", patience().as_secs())]
    Silent,
}

impl From<nix::errno::Errno> for GuestError {
    fn from(error: nix::errno::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A body.
#[derive(Debug)]
struct Body {
    /// Its id in this program's namespace; `None` until it has said that it begins.
    pid: Option<Pid>,
    /// What it is to be told then.
    early: Vec<ToRemote>,
    /// Its control socket; `None` where it has closed it, for it ends.
    control: Option<OwnedFd>,
    /// Its threads, by id, with their slots.
    threads: HashMap<i32, u32>,
    /// Their channels.
    lines: HashMap<i32, Line>,
    /// Where its pages come from, until all have come.
    pager: Option<Arc<Pager>>,
    /// By which it is told to take what this node has in files; `None`: it has been.
    fills: Option<mpsc::Sender<()>>,
    /// The number of the connection by which they do.
    page_link: u32,
    /// What home holds of its memory.
    known: Arc<Known>,
    /// As long as this is open, it is heard of what the body does with its mappings.
    listens: Option<OwnedFd>,
    /// What that is, where it matters to its end.
    copies: Option<Arc<Pager>>,
    /// It runs in the memory of this one, whose pages have not all come yet when it was made.
    maker: Option<i32>,
    /// It waits for all its pages, to make a child.
    wants_pages: bool,
    /// Home wants it, once all its pages are here.
    wanted_home: bool,
    frozen: Option<freeze::Freezing>,
    /// The base of its region, descriptors, and what else it came with.
    image: Arc<Image>,
    /// Its own end has been told to home, or home knows it.
    over: bool,
}

impl Body {
    /// One without threads yet.
    fn new(pid: Option<Pid>, control: OwnedFd, image: Arc<Image>) -> Self {
        Self {
            pid,
            early: Vec::new(),
            control: Some(control),
            threads: HashMap::new(),
            lines: HashMap::new(),
            pager: None,
            fills: None,
            page_link: 0,
            known: Arc::default(),
            listens: None,
            copies: None,
            maker: None,
            wants_pages: false,
            wanted_home: false,
            frozen: None,
            image,
            over: false,
        }
    }
}

/// What the threads tell that wait for something.
#[derive(Debug)]
enum News {
    /// The link.
    Link(Event<ToRemote>),
    /// No more of a body's memory comes by this connection: it is all there, or not.
    Pages { tgid: i32, connection: u32, all: bool },
}

impl From<Event<ToRemote>> for News {
    fn from(event: Event<ToRemote>) -> Self {
        Self::Link(event)
    }
}

/// The remote side.
#[derive(Debug)]
pub struct Guest {
    init: Init,
    door: Door,
    link: Lasting<ToRemote>,
    /// By which another connection of the link is recognised.
    token: Token,
    inbox: Inbox<News>,
    bell: Bell<News>,
    bodies: HashMap<i32, Body>,
    /// What stands here for what the processes share.
    objects: Arc<Vec<Object>>,
    /// This node's files that home has named.
    files: Vec<Option<Arc<Own>>>,
    /// Bodies that have been begun, and wait for their images.
    rooms: HashMap<i32, Room>,
    /// Connections that home makes.
    wanted: HashMap<Token, Wanted>,
    /// Connections by which the memory of bodies that are being built comes.
    page_links: HashMap<i32, (Sender, Receiver)>,
    /// What this node's processor has ([`processor::here`]).
    processor: String,
    /// The user whose processes this node has agreed to; `None`: any.
    agreed: Option<u32>,
    /// When home was told last what they use.
    told: Instant,
    /// Something of it has run here: without a connection it is waited for its home.
    begun: bool,
}

impl Guest {
    /// Takes a process in, and keeps it until it has gone home or ended; `agreed`: only one of this user's.
    ///
    /// The caller has a single thread.
    ///
    /// # Errors
    /// [`GuestError`]; nothing of the guest is left.
    pub fn serve(stream: TcpStream, keys: Keys, agreed: Option<u32>) -> Result<(), GuestError> {
        let init = Init::start()?;
        let door = Door::open(stream.local_addr()?.ip())?;
        let (bell, inbox) = bell()?;
        let link = Lasting::new(stream, keys, bell.clone())?;
        let mut token = Token::default();
        getrandom::fill(&mut token).map_err(io::Error::other)?;
        let mut guest = Self {
            init,
            door,
            link,
            token,
            inbox,
            bell,
            bodies: HashMap::new(),
            objects: Arc::default(),
            files: Vec::new(),
            rooms: HashMap::new(),
            wanted: HashMap::new(),
            page_links: HashMap::new(),
            processor: processor::here()?,
            agreed,
            told: Instant::now(),
            begun: false,
        };
        let maps = look::maps(Pid::this())?;
        let (vdso, _) = look::vdso(Pid::this(), &maps)?;
        let port = guest.door.port()?;
        guest.link.send(&ToHome::Listening { port, token, vdso })?;
        let ran = guest.run();
        if let Err(error) = &ran {
            if guest.begun {
                tracing::error!(%error, "the guest is lost with its home, and ends");
            }
            guest.link.send(&ToHome::Ends(error.to_string()))?;
        }
        ran
    }

    fn run(&mut self) -> Result<(), GuestError> {
        loop {
            let (ended, knocks, bodies) = {
                let mut fds = vec![
                    PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.init.socket(), PollFlags::POLLIN),
                    PollFd::new(self.door.as_fd(), PollFlags::POLLIN),
                ];
                let open = self.bodies.iter().filter_map(|(id, body)| Some((*id, body.control.as_ref()?)));
                let (ids, controls): (Vec<i32>, Vec<&OwnedFd>) = open.unzip();
                fds.extend(controls.iter().map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
                // Not longer than a body may live without its home.
                let left = patience().saturating_sub(self.link.unreached()) + Duration::from_millis(1);
                match poll(&mut fds, PollTimeout::try_from(PING.min(left)).unwrap_or(PollTimeout::MAX)) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
                let any: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
                let bodies = ids.into_iter().zip(any[3..].to_vec()).filter_map(|(id, any)| any.then_some(id));
                (any[1], any[2], bodies.collect::<Vec<_>>())
            };
            if knocks {
                self.arrivals()?;
            }
            if ended {
                self.ended()?;
            }
            for tgid in bodies {
                let heard = self.hear_body(tgid);
                self.or_lost(tgid, heard)?;
            }
            while let Some(news) = self.inbox.next() {
                match news {
                    News::Link(Event::Says(ToRemote::Bye)) => return Ok(()),
                    News::Link(Event::Says(message)) => or_gone(self.hear(message))?,
                    News::Link(Event::Broken(_, error)) if !self.begun => return Err(error.into()),
                    News::Link(Event::Broken(connection, error)) => {
                        if self.link.lose(connection) {
                            tracing::warn!(%error, "no connection to the home: its guests stand still until there is");
                        }
                    }
                    News::Link(Event::Ends(error)) => return Err(error.into()),
                    News::Pages { tgid, all: true, .. } => or_gone(self.pages_finished(tgid))?,
                    News::Pages { tgid, connection, all: false } => {
                        let is_it = self.bodies.get(&tgid).is_some_and(|body| body.page_link == connection);
                        if is_it && !self.link.is_lost() {
                            self.pages_anew(tgid)?;
                        }
                    }
                }
            }
            self.look_at_the_clock(patience())?;
            self.tell_use()?;
            if self.link.unreached() > patience() {
                return Err(GuestError::Silent);
            }
        }
    }

    /// Tells home once a second what the bodies use, which is not seen there.
    fn tell_use(&mut self) -> Result<(), GuestError> {
        if !self.begun || self.told.elapsed() < PING || self.link.is_lost() {
            return Ok(());
        }
        self.told = Instant::now();
        // One that has ended meanwhile uses nothing.
        let used = |body: &Body| clock_gettime(clock_getcpuclockid(body.pid?).ok()?).ok();
        let micros = |used: Duration| u64::try_from(used.as_micros()).unwrap_or(u64::MAX);
        let all = self.bodies.iter().filter_map(|(tgid, body)| {
            Some((*tgid, micros(used(body)?.into()), body.pid.is_some_and(look::runs)))
        });
        let all: Vec<(i32, u64, bool)> = all.collect();
        if all.is_empty() {
            return Ok(());
        }
        Ok(self.link.send(&ToHome::Used(all))?)
    }

    fn hear(&mut self, message: ToRemote) -> Result<(), GuestError> {
        tracing::debug!(%message, "home says");
        match message {
            ToRemote::Files(named) => self.look_for(&named),
            ToRemote::Share(sizes, channel) => self.share(&sizes, &channel),
            ToRemote::Unshare(channel) => self.unshare(&channel),
            ToRemote::Build(image, pages) => self.build(*image, &pages),
            ToRemote::Room { tgid, base } => self.make_room(tgid, base),
            ToRemote::Resume => {
                self.begun = true;
                self.files.clear();
                self.rooms.drain().for_each(|(_, room)| room.leave());
                self.bodies.keys().try_for_each(|tgid| self.answer(*tgid, CONTROL_READY, None))?;
                for gate in self.bodies.values_mut().filter_map(|body| body.fills.take()) {
                    // The thread waits for it, unless there are no files.
                    let _heard = gate.send(());
                }
                Ok(self.link.send(&ToHome::Resumed)?)
            }
            ToRemote::Child { parent, tid, slot, process, channel } => {
                let made = self.child(parent, tid, slot, process, &channel);
                self.or_lost(if process { tid } else { parent }, made)
            }
            ToRemote::Channel { tgid, tid, generation, channel } => {
                self.channel(tgid, tid, generation, &channel)
            }
            ToRemote::Over { tid } => self.no_channel(tid),
            ToRemote::Signal { tgid, .. } | ToRemote::Freeze { tgid } | ToRemote::End { tgid }
                if self.bodies.get(&tgid).is_some_and(|body| body.pid.is_none()) =>
            {
                if let Some(body) = self.bodies.get_mut(&tgid) {
                    body.early.push(message);
                }
                Ok(())
            }
            ToRemote::Signal { tgid, tid, info } => self.signal(tgid, tid, info),
            ToRemote::End { tgid } | ToRemote::Taken { tgid } => self.dismiss(tgid),
            ToRemote::Freeze { tgid } => self.freeze(tgid),
            ToRemote::Thaw { tgid } => self.thaw(tgid),
            ToRemote::Forget { tgid, ranges } => {
                if let Some(body) = self.bodies.get(&tgid) {
                    body.known.forget(&ranges);
                }
                Ok(self.link.send(&ToHome::Forgotten { tgid })?)
            }
            // It is heard where all are left.
            ToRemote::Bye => Ok(()),
        }
    }

    /// What a body says by its control socket.
    fn hear_body(&mut self, tgid: i32) -> Result<(), GuestError> {
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        let Some(control) = &body.control else { return Ok(()) };
        let mut message = Control::default();
        let sender = match init::receive_named(control, octets_mut(&mut message)) {
            Ok((got, sender)) if got == CONTROL => sender,
            // It ends; its status comes from the place's first process.
            Ok(_) => {
                body.control = None;
                return Ok(());
            }
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
                body.control = None;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        tracing::debug!(tgid, kind = message.kind, tid = message.tid, ?sender, "a body says");
        match message.kind {
            CONTROL_BORN => {
                body.pid = sender;
                let early = std::mem::take(&mut body.early);
                early.into_iter().try_for_each(|message| or_gone(self.hear(message)))
            }
            CONTROL_MAPPED => self.mapped(tgid),
            CONTROL_READY => Ok(self.link.send(&ToHome::Built)?),
            CONTROL_FAILED => self.failed(tgid),
            CONTROL_PAGES => {
                if let Some(body) = self.bodies.get_mut(&tgid) {
                    body.wants_pages = true;
                    if body.pager.is_none() {
                        body.wants_pages = false;
                        self.answer(tgid, CONTROL_PAGES, None)?;
                    }
                }
                Ok(())
            }
            CONTROL_PARKED => self.parked(tgid, message.tid),
            CONTROL_GONE => self.gone(tgid, message.tid),
            CONTROL_ASKS => Ok(self.link.send(&ToHome::Asks { tgid })?),
            CONTROL_CHANNEL => self.asks_for_channel(tgid, message.tid),
            _ => Ok(()),
        }
    }

    /// Says something to a body.
    fn answer(&self, tgid: i32, kind: u32, fd: Option<BorrowedFd<'_>>) -> Result<(), GuestError> {
        self.say(tgid, &Control { kind, tid: tgid, ..Control::default() }, fd)
    }

    fn say(&self, tgid: i32, message: &Control, fd: Option<BorrowedFd<'_>>) -> Result<(), GuestError> {
        let Some(control) = self.bodies.get(&tgid).and_then(|body| body.control.as_ref()) else {
            return Ok(());
        };
        let fds: Vec<i32> = fd.iter().map(BorrowedFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let content = [IoSlice::new(octets(message))];
        match sendmsg::<()>(control.as_raw_fd(), &content, rights, MsgFlags::MSG_NOSIGNAL, None) {
            // It ends.
            Ok(_) | Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The body's id in this program's namespace.
    fn pid_of(&self, tgid: i32) -> Option<Pid> {
        self.bodies.get(&tgid)?.pid
    }

    /// A body has ended.
    fn ended(&mut self) -> Result<(), GuestError> {
        let (tgid, status) = self.init.ended()?;
        tracing::debug!(tgid, status, "a body has ended");
        self.forget(tgid);
        self.rooms.remove(&tgid);
        let Some(body) = self.bodies.remove(&tgid) else { return Ok(()) };
        if body.pager.is_some() {
            self.orphans(tgid)?;
        }
        if body.over {
            return Ok(());
        }
        if !self.begun {
            // Home keeps what has not run.
            return Err(io::Error::other("a body has ended before it could run").into());
        }
        Ok(self.link.send(&ToHome::Ended { tgid, status })?)
    }

    /// What runs in the memory of a body that has ended will not have the rest of it.
    fn orphans(&mut self, maker: i32) -> Result<(), GuestError> {
        let of_it = |(tgid, body): (&i32, &Body)| (body.maker == Some(maker)).then_some(*tgid);
        let all: Vec<i32> = self.bodies.iter().filter_map(of_it).collect();
        all.into_iter().try_for_each(|tgid| {
            let gone =
                io::Error::other("whoever has made it has ended, and the rest of its memory does not come");
            self.or_lost(tgid, Err(gone.into()))
        })
    }

    /// Ends a body; its end is no news to home.
    fn dismiss(&mut self, tgid: i32) -> Result<(), GuestError> {
        let pid = self.pid_of(tgid);
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        body.over = true;
        if let Some(pid) = pid {
            // ESRCH: it has ended already.
            let _ended = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        if let Some(freezing) = body.frozen.take() {
            freezing.ended(tgid);
        }
        Ok(())
    }
}

/// A body that ends while something is done with it is no failure: its end is told next.
fn or_gone(done: Result<(), GuestError>) -> Result<(), GuestError> {
    match done {
        Err(GuestError::Io(error)) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {
            tracing::debug!(%error, "a body is gone");
            Ok(())
        }
        done => done,
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let bodies: Vec<i32> = self.bodies.keys().copied().collect();
        for tgid in bodies {
            if let Err(error) = self.dismiss(tgid) {
                tracing::debug!(tgid, %error, "a body ends with its place");
            }
        }
    }
}

/// A body's control socket. Whatever comes by our end says who has sent it, by the id that it has for us.
fn control_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    nix::sys::socket::setsockopt(&pair.0, nix::sys::socket::sockopt::PassCred, &true)?;
    Ok(pair)
}
