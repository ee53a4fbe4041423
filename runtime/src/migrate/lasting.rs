//! The link between the two sides of a process that is away. It outlasts its connections.
//!
//! Messages are numbered, and a side keeps each until the other has said that it has it. Where a connection breaks,
//! or nothing comes by it any more, home makes another one: each side says how much it has heard, and the other
//! says the rest again. So every message arrives, once and in order, or the link ends.
//!
//! ```text
//! home                                         remote node
//! the link's token · a random number     ──▶
//!                                        ◀──   a random number
//! Heard, sealed with this connection's keys ──▶                 only now the old connection goes
//!                                        ◀──   Heard
//! ```
//! A connection has keys of its own, made of the link's secret and both numbers: no key seals two connections.
//!
//! Each side says every [`PING`] that it is there, by threads of their own: whatever holds up the one that does the
//! work, the other side hears of this one, and is heard.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::bell::Bell;
use super::link::{self, Keys, LinkError, Receiver, Sender};

/// How often each side says that it is there.
pub const PING: Duration = Duration::from_secs(1);
/// A connection by which nothing has come for so long is given up, for one that works again at once when the
/// network does: TCP itself waits ever longer between two tries.
pub const SILENCE: Duration = Duration::from_secs(5);
/// How long the other side may take to read, and to go on in the middle of a message.
const SLOW: Duration = Duration::from_secs(10);
/// How long it may take to agree on another connection.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Octets of a random number.
const NONCE: usize = 32;

/// What the link has to tell.
#[derive(Debug)]
pub enum Event<R> {
    /// The other side says this.
    Says(R),
    /// The connection of this number is of no more use.
    Broken(u64, LinkError),
    /// The other side cannot be understood, on any connection.
    Ends(LinkError),
}

/// What travels.
#[derive(Serialize, Deserialize)]
enum Word {
    /// I am there: this is the number so-and-so that I say so; of yours I have heard that one, and of all messages
    /// so many.
    Ping { number: u64, seen: u64, heard: u64 },
    /// A message.
    Say(#[serde(with = "serde_bytes")] Vec<u8>),
}

/// The first word on another connection: how many messages this side has heard.
#[derive(Serialize, Deserialize)]
struct Heard(u64);

/// The link, as one side has it.
#[derive(Debug)]
pub struct Lasting<R> {
    state: Arc<Mutex<State>>,
    secret: Keys,
    bell: Arc<dyn Tell<R>>,
}

/// Where events go.
pub trait Tell<R>: Send + Sync + std::fmt::Debug {
    /// Takes one. `false`: nobody hears any more.
    fn tell(&self, event: Event<R>) -> bool;
}

impl<R: Send, T: From<Event<R>> + Send + 'static> Tell<R> for Bell<T>
where
    Self: Sync + std::fmt::Debug,
{
    fn tell(&self, event: Event<R>) -> bool {
        self.ring(event.into())
    }
}

#[derive(Debug)]
struct State {
    /// The connection that is in use; `None`: it is broken.
    sender: Option<Sender>,
    /// Its number.
    connection: u64,
    /// Messages that the other side may not have, and the number of the first.
    kept: VecDeque<Vec<u8>>,
    first: u64,
    /// How many messages have come.
    heard: u64,
    /// The last ping that was said, and those that are not answered yet.
    ping: u64,
    pings: VecDeque<(u64, Instant)>,
    /// The last one that has come.
    seen: u64,
    heard_at: Instant,
    /// When the last ping was said that the other side has heard.
    reached_at: Instant,
}

impl State {
    fn say(&mut self, word: &Word) {
        let Some(sender) = self.sender.as_mut() else { return };
        if let Err(error) = sender.send(word) {
            // Whoever receives hears of it.
            tracing::debug!(%error, "nothing more can be said on this connection");
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.hang_up();
        }
    }

    /// Nothing more is heard by this connection either.
    fn give_up(&mut self) {
        self.hang_up();
        self.connection += 1;
    }

    /// The other side has so many messages.
    fn has(&mut self, heard: u64) -> Result<(), LinkError> {
        let new = heard.checked_sub(self.first).ok_or(LinkError::NotAuthentic)?;
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        if new > self.kept.len() {
            return Err(LinkError::NotAuthentic);
        }
        self.kept.drain(..new);
        self.first = heard;
        Ok(())
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A change is whole before anything can fail.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another connection, on which both sides have agreed.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    receiver: Receiver,
    /// How many messages the other side has heard.
    has: u64,
    /// This side had said nothing before that the other one has heard by it.
    reached: Instant,
}

impl<R: DeserializeOwned + Send + 'static> Lasting<R> {
    /// A link on its first connection.
    ///
    /// # Errors
    /// Those of the socket and of making threads.
    pub fn new(stream: TcpStream, secret: Keys, bell: impl Tell<R> + 'static) -> io::Result<Self> {
        let now = Instant::now();
        let state = State {
            sender: None,
            connection: 0,
            kept: VecDeque::new(),
            first: 0,
            heard: 0,
            ping: 0,
            pings: VecDeque::new(),
            seen: 0,
            heard_at: now,
            reached_at: now,
        };
        let lasting = Self { state: Arc::new(Mutex::new(state)), secret, bell: Arc::new(bell) };
        patient(&stream)?;
        let (sender, receiver) = link::split(stream, derived(secret, &[0; NONCE], &[0; NONCE]))?;
        lasting.take_up(Connection { sender, receiver, has: 0, reached: now }).map_err(io::Error::other)?;
        let state = Arc::downgrade(&lasting.state);
        std::thread::Builder::new().name("pings".into()).spawn(move || pings(&state))?;
        Ok(lasting)
    }

    /// Says something, now or on the next connection.
    ///
    /// # Errors
    /// It cannot be put.
    pub fn send(&self, message: &impl Serialize) -> Result<(), LinkError> {
        let word = Word::Say(postcard::to_allocvec(message)?);
        let mut state = self.locked();
        state.say(&word);
        if let Word::Say(octets) = word {
            state.kept.push_back(octets);
        }
        Ok(())
    }

    /// Goes on on another connection: what the other side has not heard is said again.
    ///
    /// # Errors
    /// The other side has not been told what it says that it has; no thread can be made.
    pub fn take_up(&self, connection: Connection) -> Result<(), LinkError> {
        let Connection { sender, receiver, has, reached } = connection;
        let mut state = self.locked();
        state.give_up();
        state.has(has)?;
        (state.heard_at, state.reached_at) = (Instant::now(), reached);
        // What was said on the old one may never arrive: it tells nothing of the new one.
        state.pings.clear();
        state.sender = Some(sender);
        let again: Vec<Word> = state.kept.iter().cloned().map(Word::Say).collect();
        for word in &again {
            state.say(word);
        }
        let (shared, bell, number) = (Arc::clone(&self.state), Arc::clone(&self.bell), state.connection);
        std::thread::Builder::new()
            .name("link".into())
            .spawn(move || receive(receiver, &shared, number, &*bell))
            .map_err(LinkError::Io)?;
        Ok(())
    }

    /// Gives a connection up, unless another one is in use already. `true`: from now on there is none.
    pub fn lose(&self, connection: u64) -> bool {
        let mut state = self.locked();
        let is_it = state.connection == connection;
        if is_it {
            state.give_up();
        }
        is_it
    }

    /// Gives the connection up if nothing has come by it for long: its number.
    pub fn silent(&self) -> Option<u64> {
        let state = self.locked();
        (state.sender.is_some() && state.heard_at.elapsed() > SILENCE).then_some(state.connection)
    }

    /// There is no connection.
    pub fn is_lost(&self) -> bool {
        self.locked().sender.is_none()
    }

    /// For how long nothing has been heard of the other side.
    pub fn unheard(&self) -> Duration {
        self.locked().heard_at.elapsed()
    }

    /// For how long the other side may not have heard of this one.
    pub fn unreached(&self) -> Duration {
        self.locked().reached_at.elapsed()
    }

    /// How many messages have come.
    pub fn heard(&self) -> u64 {
        self.locked().heard
    }

    /// The remote side's part of agreeing on another connection, which has said the link's token. Once home has
    /// shown who it is, nothing more is heard by the one that was in use.
    ///
    /// # Errors
    /// Those of the connection; who asks is not the home.
    pub fn answer(&self, mut stream: TcpStream) -> Result<Connection, LinkError> {
        let (own, mut other) = (random()?, [0; NONCE]);
        stream.set_read_timeout(Some(HANDSHAKE))?;
        stream.read_exact(&mut other)?;
        stream.write_all(&own)?;
        let keys = derived(self.secret, &other, &own);
        let (mut sender, mut receiver) = link::split(stream.try_clone()?, keys)?;
        let Heard(has) = receiver.receive()?;
        // What home has not answered yet may not have reached it.
        let reached = self.locked().reached_at;
        let heard = {
            let mut state = self.locked();
            state.give_up();
            state.heard
        };
        sender.send(&Heard(heard))?;
        patient(&stream)?;
        Ok(Connection { sender, receiver, has, reached })
    }

    /// What another connection's keys are made of.
    pub fn secret(&self) -> Keys {
        self.secret
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

impl<R> Drop for Lasting<R> {
    fn drop(&mut self) {
        locked(&self.state).hang_up();
    }
}

/// Sends at once what is said, and finds out where it does not arrive (tcp(7), TCP_USER_TIMEOUT): TCP by itself
/// tries for a quarter of an hour.
///
/// # Errors
/// Those of the socket.
pub fn notices(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let milliseconds = u32::try_from(SLOW.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(stream, sockopt::TcpUserTimeout, &milliseconds)?)
}

/// A message is not waited for in the middle for ever, and who does not read is not written to.
fn patient(stream: &TcpStream) -> io::Result<()> {
    /// A message that fits is not waited for: an image has some pages in it.
    const OCTETS: usize = 256 << 10;
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::SndBuf, &OCTETS)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(Some(SLOW))
}

fn pings(state: &Weak<Mutex<State>>) {
    while let Some(shared) = state.upgrade() {
        {
            let mut state = locked(&shared);
            state.ping += 1;
            let (number, seen, heard) = (state.ping, state.seen, state.heard);
            if state.sender.is_some() {
                state.pings.push_back((number, Instant::now()));
                state.say(&Word::Ping { number, seen, heard });
            }
        }
        drop(shared);
        std::thread::sleep(PING);
    }
}

/// Hears the other side on one connection, until that breaks or another one is in use.
fn receive<R: DeserializeOwned>(
    mut receiver: Receiver,
    shared: &Mutex<State>,
    connection: u64,
    bell: &dyn Tell<R>,
) {
    loop {
        let alive = || locked(shared).heard_at = Instant::now();
        let word = match receiver.receive_while::<Word>(alive) {
            Ok(word) => word,
            Err(error) => {
                bell.tell(Event::Broken(connection, error));
                return;
            }
        };
        let mut state = locked(shared);
        if state.connection != connection {
            return;
        }
        let understood = match word {
            Word::Ping { number, seen, heard } => {
                state.seen = number;
                while let Some((_, said_at)) = state.pings.pop_front_if(|(number, _)| *number <= seen) {
                    state.reached_at = said_at;
                }
                state.has(heard).map(|()| true)
            }
            Word::Say(octets) => postcard::from_bytes(&octets).map_err(LinkError::from).map(|message| {
                state.heard += 1;
                bell.tell(Event::Says(message))
            }),
        };
        match understood {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                bell.tell(Event::Ends(error));
                return;
            }
        }
    }
}

/// One connection's keys.
fn derived(secret: Keys, home: &[u8; NONCE], remote: &[u8; NONCE]) -> Keys {
    let one = |key: &[u8]| {
        Sha256::new().chain_update(b"tesela link").chain_update(key).chain_update(home).chain_update(remote)
    };
    Keys { send: one(&secret.send).finalize().into(), receive: one(&secret.receive).finalize().into() }
}

fn random() -> io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

/// Home's part of agreeing on another connection, which has been made and has said the link's token.
///
/// # Errors
/// Those of the connection; what answers is not the other side.
pub fn ask(mut stream: TcpStream, secret: Keys, heard: u64) -> Result<Connection, LinkError> {
    let (reached, own, mut other) = (Instant::now(), random()?, [0; NONCE]);
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.write_all(&own)?;
    stream.read_exact(&mut other)?;
    let (mut sender, mut receiver) = link::split(stream.try_clone()?, derived(secret, &own, &other))?;
    sender.send(&Heard(heard))?;
    let Heard(has) = receiver.receive()?;
    patient(&stream)?;
    Ok(Connection { sender, receiver, has, reached })
}

/// Gives a connection up.
pub fn hang_up(stream: &TcpStream) {
    // ENOTCONN: it has gone already.
    let _gone = stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;
    use std::thread;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::migrate::bell::{Inbox, bell};

    #[derive(Debug)]
    struct Told(Event<u32>);

    impl From<Event<u32>> for Told {
        fn from(event: Event<u32>) -> Self {
            Self(event)
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    struct Side {
        link: Lasting<u32>,
        inbox: Inbox<Told>,
    }

    impl Side {
        fn next(&self) -> Event<u32> {
            loop {
                if let Some(Told(event)) = self.inbox.next() {
                    return event;
                }
                let rings = poll(
                    &mut [PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::from(60_000_u16),
                );
                assert_eq!(rings, Ok(1), "nothing comes");
            }
        }

        fn hears(&self, wanted: std::ops::Range<u32>) {
            for number in wanted {
                match self.next() {
                    Event::Says(said) => assert_eq!(said, number),
                    other => panic!("{other:?}"),
                }
            }
        }

        fn breaks(&self) {
            match self.next() {
                Event::Broken(connection, _) => assert!(self.link.lose(connection)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn linked() -> ([Side; 2], TcpStream) {
        let (ours, theirs) = pair();
        let raw = ours.try_clone().unwrap();
        let keys = Keys::random().unwrap();
        let side = |stream, keys| {
            let (bell, inbox) = bell::<Told>().unwrap();
            Side { link: Lasting::new(stream, keys, bell).unwrap(), inbox }
        };
        ([side(ours, keys), side(theirs, keys.turned())], raw)
    }

    #[test]
    fn every_message_arrives_once_and_in_order() {
        let ([home, remote], mut raw) = linked();
        let mut said = 0;
        for _ in 0..4 {
            let heard = said;
            let say = |upto: u32, said: &mut u32| {
                for number in *said..upto {
                    home.link.send(&number).unwrap();
                    remote.link.send(&number).unwrap();
                }
                *said = upto;
            };
            say(said + 3, &mut said);
            remote.hears(heard..said);
            // Home has heard none of these yet, and some that are said now arrive while others do not.
            say(said + 3, &mut said);
            hang_up(&raw);
            say(said + 3, &mut said);
            home.hears(heard..heard + 3);
            let mut home_heard = heard + 3;
            let mut remote_heard = heard + 3;
            for (side, count) in [(&home, &mut home_heard), (&remote, &mut remote_heard)] {
                loop {
                    match side.next() {
                        Event::Says(number) => {
                            assert_eq!(number, *count);
                            *count += 1;
                        }
                        Event::Broken(connection, _) => {
                            assert!(side.link.lose(connection));
                            break;
                        }
                        Event::Ends(error) => panic!("{error}"),
                    }
                }
            }
            assert!(home.link.is_lost() && remote.link.is_lost());
            say(said + 3, &mut said);
            let (ours, theirs) = pair();
            raw = ours.try_clone().unwrap();
            let (secret, count) = (home.link.secret(), home.link.heard());
            let asks = thread::spawn(move || ask(ours, secret, count).unwrap());
            remote.link.take_up(remote.link.answer(theirs).unwrap()).unwrap();
            home.link.take_up(asks.join().unwrap()).unwrap();
            home.hears(home_heard..said);
            remote.hears(remote_heard..said);
        }
    }

    #[test]
    fn who_does_not_know_the_secret_breaks_nothing() {
        let ([home, remote], raw) = linked();
        let (ours, theirs) = pair();
        let stranger = thread::spawn(move || ask(ours, Keys::random().unwrap(), 0));
        assert!(matches!(remote.link.answer(theirs), Err(LinkError::NotAuthentic)));
        assert!(stranger.join().unwrap().is_err());
        home.link.send(&7_u32).unwrap();
        remote.hears(7..8);
        hang_up(&raw);
        home.breaks();
        remote.breaks();
    }

    #[test]
    fn no_two_connections_have_the_same_keys() {
        let secret = Keys::random().unwrap();
        let (one, other) = ([1; NONCE], [2; NONCE]);
        let keys =
            [derived(secret, &one, &other), derived(secret, &other, &one), derived(secret, &one, &one)];
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
        assert!(derived(secret.turned(), &one, &other) == keys[0].turned(), "both sides have the same");
        assert!(keys.iter().all(|keys| keys.send != keys.receive && *keys != secret));
    }
}
