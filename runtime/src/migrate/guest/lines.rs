//! The bodies' ends of the channels, and what else home connects.
//!
//! Whatever is waited for from home comes by a connection with a token ([`super::door`]), and nobody stands still
//! for it but the thread whose it is. A thread that finds its channel broken asks for another one by its body's
//! control socket; where there is none yet, home hears of it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tesela_shim::layout::{CONTROL_CHANNEL, CONTROL_CHILD, CONTROL_CHILD_SOCKET, Control};

use super::{Body, Guest, GuestError, News, control_pair};
use crate::migrate::image::{Channel, ToHome, Token};
use crate::migrate::known::Known;
use crate::migrate::lasting::{SILENCE, hang_up};
use crate::migrate::link::{self, Keys};
use crate::migrate::pages::{Source, hold_back};
use crate::migrate::shared::{self, Object};

/// A connection that is waited for.
#[derive(Debug)]
pub struct Wanted {
    /// Whose it is.
    pub tgid: i32,
    /// Since when.
    pub since: Instant,
    /// When home was last asked for it.
    pub asked: Instant,
    /// Its keys.
    pub keys: Keys,
    /// What for.
    pub purpose: Purpose,
}

impl Wanted {
    /// One from now on.
    pub fn new(tgid: i32, keys: Keys, purpose: Purpose) -> Self {
        let now = Instant::now();
        Self { tgid, since: now, asked: now, keys, purpose }
    }
}

/// What a connection is for.
#[derive(Debug)]
pub enum Purpose {
    /// The channel of this thread, the so-many-eth that it gets.
    Channel {
        /// Its id.
        tid: i32,
        /// How many it has had before.
        generation: u32,
    },
    /// The rest of a body's memory.
    Pages,
    /// The way home of what the bodies share.
    Unshare,
    /// The way home of a body's memory.
    Homeward(Pid, Vec<(u64, u64)>, Arc<Known>),
}

/// A thread's channel, as this side has it.
#[derive(Debug, Default)]
pub struct Line {
    /// How many there have been before the last one that has come.
    generation: u32,
    /// The one that the thread has.
    given: Option<TcpStream>,
    /// The next one.
    fresh: Option<(TcpStream, Keys)>,
    /// It stands still until it has it.
    asks: bool,
    /// The thread has not begun: it does so with its channel.
    child: Option<Child>,
}

/// A thread or process that is about to be made.
#[derive(Debug)]
struct Child {
    /// By whom.
    parent: i32,
    /// Where it is a process: its end of its control socket.
    control: Option<OwnedFd>,
}

impl Line {
    /// That of a thread that begins with it.
    pub fn begins_with(stream: TcpStream) -> Self {
        Self { given: Some(stream), ..Self::default() }
    }
}

impl Guest {
    /// Waits for a connection, which may be there already.
    pub(super) fn want(&mut self, token: Token, wanted: Wanted) -> Result<(), GuestError> {
        match self.door.take(&token) {
            Some(stream) => self.comes(wanted, stream),
            None => {
                self.wanted.insert(token, wanted);
                Ok(())
            }
        }
    }

    /// Connections have come.
    pub(super) fn arrivals(&mut self) -> Result<(), GuestError> {
        self.door.look()?;
        if let Some(stream) = self.door.take(&self.token) {
            self.link_anew(stream)?;
        }
        let here: Vec<(Token, TcpStream)> =
            self.wanted.keys().filter_map(|token| Some((*token, self.door.take(token)?))).collect();
        for (token, stream) in here {
            if let Some(wanted) = self.wanted.remove(&token) {
                self.comes(wanted, stream)?;
            }
        }
        Ok(())
    }

    fn link_anew(&mut self, stream: TcpStream) -> Result<(), GuestError> {
        match self.link.answer(stream) {
            Ok(connection) => self.link.take_up(connection)?,
            Err(error) => {
                tracing::warn!(%error, "who has connected does not show that it is the home");
                return Ok(());
            }
        }
        tracing::info!("the home is there again");
        let ids: Vec<i32> =
            self.bodies.iter().filter(|(_, body)| body.pager.is_some()).map(|(tgid, _)| *tgid).collect();
        ids.into_iter().try_for_each(|tgid| self.pages_anew(tgid))
    }

    fn comes(&mut self, wanted: Wanted, stream: TcpStream) -> Result<(), GuestError> {
        let Wanted { tgid, keys, purpose, .. } = wanted;
        let done = match purpose {
            Purpose::Channel { tid, generation } => self.channel_comes(tgid, tid, generation, stream, keys),
            Purpose::Pages => self.pages_come(tgid, stream, keys),
            Purpose::Unshare => unshare(Arc::clone(&self.objects), stream, keys),
            Purpose::Homeward(pid, content, known) => homeward(pid, &content, known, stream, keys),
        };
        self.or_lost(tgid, done)
    }

    /// What cannot be done for a body ends that one, and no other.
    pub(super) fn or_lost(&mut self, tgid: i32, done: Result<(), GuestError>) -> Result<(), GuestError> {
        match super::or_gone(done) {
            Err(GuestError::Io(error)) => {
                tracing::warn!(tgid, %error, "a body cannot go on");
                let Some(pid) = self.pid_of(tgid) else { return self.never_begins(tgid) };
                // ESRCH: it has ended already. Its end is news for home.
                let _ended = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
                // Whatever it has said before is not heard any more: that it is ready least of all.
                body.control = None;
                if let Some(freezing) = body.frozen.take() {
                    freezing.ended(tgid);
                }
                Ok(())
            }
            done => done,
        }
    }

    /// A process that was to be made is not.
    fn never_begins(&mut self, tgid: i32) -> Result<(), GuestError> {
        self.forget(tgid);
        let Some(mut body) = self.bodies.remove(&tgid) else { return Ok(()) };
        if let Some(child) = body.lines.get_mut(&tgid).and_then(|line| line.child.take()) {
            self.say(child.parent, &Control { kind: CONTROL_CHILD, tid: tgid, ..Control::default() }, None)?;
        }
        if body.over { Ok(()) } else { Ok(self.link.send(&ToHome::Ended { tgid, status: libc::SIGKILL })?) }
    }

    /// Nothing is waited for on this one's behalf.
    pub(super) fn forget(&mut self, tgid: i32) {
        self.wanted.retain(|_, wanted| wanted.tgid != tgid);
    }

    /// A child that is being made.
    pub(super) fn child(
        &mut self,
        parent: i32,
        tid: i32,
        slot: u32,
        process: bool,
        channel: &Channel,
    ) -> Result<(), GuestError> {
        let Some(body) = self.bodies.get_mut(&parent) else { return Ok(()) };
        let tgid = if process { tid } else { parent };
        let mut child = Child { parent, control: None };
        if process {
            let (ours, theirs) = control_pair()?;
            child.control = Some(theirs);
            // Home has made a copy, too, of what it holds.
            let (image, known) = (Arc::clone(&body.image), Arc::clone(&body.known));
            // One with a memory of its own is made once all of that has come.
            let maker = body.pager.as_ref().map(|_| parent).or(body.maker);
            self.bodies.insert(tid, Body { known, maker, ..Body::new(None, ours, image) });
        }
        if let Some(body) = self.bodies.get_mut(&tgid) {
            body.threads.insert(tid, slot);
            body.lines.insert(tid, Line { child: Some(child), ..Line::default() });
        }
        self.channel(tgid, tid, 0, channel)
    }

    /// Home connects a channel for a thread.
    pub(super) fn channel(
        &mut self,
        tgid: i32,
        tid: i32,
        generation: u32,
        channel: &Channel,
    ) -> Result<(), GuestError> {
        // Only the last one is connected.
        self.wanted
            .retain(|_, wanted| !matches!(wanted.purpose, Purpose::Channel { tid: of, .. } if of == tid));
        let purpose = Purpose::Channel { tid, generation };
        self.want(channel.token, Wanted::new(tgid, channel.keys, purpose))
    }

    fn channel_comes(
        &mut self,
        tgid: i32,
        tid: i32,
        generation: u32,
        stream: TcpStream,
        keys: Keys,
    ) -> Result<(), GuestError> {
        let Some(line) = self.bodies.get_mut(&tgid).and_then(|body| body.lines.get_mut(&tid)) else {
            return Ok(());
        };
        line.generation = generation;
        let kept = stream.try_clone()?;
        if let Some(Child { parent, control }) = line.child.take() {
            line.given = Some(kept);
            let given = Control {
                kind: CONTROL_CHILD,
                tid,
                send: keys.send,
                receive: keys.receive,
                ..Control::default()
            };
            self.say(parent, &given, Some(stream.as_fd()))?;
            let Some(control) = control else { return Ok(()) };
            let own = Control { kind: CONTROL_CHILD_SOCKET, tid, ..Control::default() };
            return self.say(parent, &own, Some(control.as_fd()));
        }
        // Whoever waits for something on the old one finds that it is broken, and asks.
        if let Some(old) = &line.given {
            hang_up(old);
        }
        line.fresh = Some((stream, keys));
        if line.asks { self.give_channel(tgid, tid) } else { Ok(()) }
    }

    /// A thread finds its channel broken.
    pub(super) fn asks_for_channel(&mut self, tgid: i32, tid: i32) -> Result<(), GuestError> {
        let Some(line) = self.bodies.get_mut(&tgid).and_then(|body| body.lines.get_mut(&tid)) else {
            return Ok(());
        };
        line.asks = true;
        if line.fresh.is_some() {
            return self.give_channel(tgid, tid);
        }
        let generation = line.generation;
        Ok(self.link.send(&ToHome::Lost { tid, generation })?)
    }

    fn give_channel(&mut self, tgid: i32, tid: i32) -> Result<(), GuestError> {
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        let Some((slot, line)) = body.threads.get(&tid).copied().zip(body.lines.get_mut(&tid)) else {
            return Ok(());
        };
        let Some((stream, keys)) = line.fresh.take() else { return Ok(()) };
        line.asks = false;
        line.given = Some(stream.try_clone()?);
        let given =
            Control { kind: CONTROL_CHANNEL, tid, send: keys.send, receive: keys.receive, slot: slot.into() };
        self.say(tgid, &given, Some(stream.as_fd()))
    }

    /// A thread's deputy has ended, and so does the thread.
    pub(super) fn no_channel(&mut self, tid: i32) -> Result<(), GuestError> {
        let body = self.bodies.iter_mut().find(|(_, body)| body.lines.contains_key(&tid));
        let Some((tgid, body)) = body else { return Ok(()) };
        let (tgid, Some(slot)) = (*tgid, body.threads.get(&tid).copied()) else { return Ok(()) };
        body.lines.remove(&tid);
        self.say(tgid, &Control { kind: CONTROL_CHANNEL, tid, slot: slot.into(), ..Control::default() }, None)
    }

    /// The rest of a body's memory has to come by another connection.
    pub(super) fn pages_anew(&mut self, tgid: i32) -> Result<(), GuestError> {
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        let Some(pager) = &body.pager else { return Ok(()) };
        pager.hang_up();
        body.page_link += 1;
        let received = pager.received();
        self.wanted.retain(|_, wanted| wanted.tgid != tgid || !matches!(wanted.purpose, Purpose::Pages));
        let (channel, keys) = Channel::new()?;
        self.link.send(&ToHome::Pages { tgid, received, channel })?;
        self.want(channel.token, Wanted::new(tgid, keys, Purpose::Pages))
    }

    fn pages_come(&mut self, tgid: i32, stream: TcpStream, keys: Keys) -> Result<(), GuestError> {
        let Some(body) = self.bodies.get_mut(&tgid) else { return Ok(()) };
        let Some(pager) = body.pager.clone() else { return Ok(()) };
        hold_back(&stream)?;
        let (sender, receiver) = link::split(stream, keys)?;
        pager.ask_by(sender)?;
        let number = body.page_link;
        self.receive_pages(tgid, number, pager, receiver)
    }

    /// Puts a body's memory into place, until all has come or the connection breaks.
    pub(super) fn receive_pages(
        &self,
        tgid: i32,
        connection: u32,
        pager: Arc<crate::migrate::pages::Pager>,
        mut receiver: link::Receiver,
    ) -> Result<(), GuestError> {
        let bell = self.bell.clone();
        std::thread::Builder::new().name("pages".into()).spawn(move || {
            let received = pager.receive(&mut receiver);
            if let Err(error) = &received {
                tracing::debug!(tgid, %error, "its memory does not come by this connection any more");
            }
            bell.ring(News::Pages { tgid, connection, all: received.is_ok() });
        })?;
        Ok(())
    }

    /// What has been waited for too long while home was there.
    pub(super) fn look_at_the_clock(&mut self, patience: Duration) -> Result<(), GuestError> {
        if self.link.is_lost() {
            // It all begins anew.
            let now = Instant::now();
            self.wanted.values_mut().for_each(|wanted| (wanted.since, wanted.asked) = (now, now));
            return Ok(());
        }
        let mut pages = Vec::new();
        for wanted in self.wanted.values_mut().filter(|wanted| wanted.asked.elapsed() > SILENCE) {
            // Home may think that it is connected, and has not heard of its end.
            wanted.asked = Instant::now();
            match wanted.purpose {
                Purpose::Channel { tid, generation } => self.link.send(&ToHome::Lost { tid, generation })?,
                Purpose::Pages => pages.push(wanted.tgid),
                Purpose::Unshare | Purpose::Homeward(..) => {}
            }
        }
        for tgid in pages {
            self.pages_anew(tgid)?;
        }
        let late = self.wanted.values().filter(|wanted| {
            wanted.since.elapsed() > patience
                && !matches!(wanted.purpose, Purpose::Unshare | Purpose::Homeward(..))
        });
        let late: Vec<i32> = late.map(|wanted| wanted.tgid).collect();
        for tgid in late {
            self.forget(tgid);
            let silent = io::Error::new(io::ErrorKind::TimedOut, "its home does not connect it");
            self.or_lost(tgid, Err(silent.into()))?;
        }
        Ok(())
    }
}

fn unshare(objects: Arc<Vec<Object>>, stream: TcpStream, keys: Keys) -> Result<(), GuestError> {
    let (mut sender, _receiver) = link::split(stream, keys)?;
    std::thread::Builder::new().name("unshare".into()).spawn(move || {
        if let Err(error) = shared::send(&objects, &mut sender) {
            tracing::debug!(%error, "what is shared has not gone home");
        }
    })?;
    Ok(())
}

fn homeward(
    pid: Pid,
    content: &[(u64, u64)],
    known: Arc<Known>,
    stream: TcpStream,
    keys: Keys,
) -> Result<(), GuestError> {
    let (sender, receiver) = link::split(stream, keys)?;
    let mut source = Source::new(pid, content, Some(known));
    std::thread::Builder::new().name("homeward".into()).spawn(move || {
        if let Err(error) = source.serve(sender, receiver) {
            tracing::debug!(%pid, %error, "its memory has gone home");
        }
    })?;
    Ok(())
}
