//! The agent's part in migration: it agrees with the other node's agent, and starts the two programs that do
//! the rest (see `migrate`).
//!
//! Two listeners. On the UNIX socket ([`local`]) the node's own users say what is to move, and are told where
//! it is; on [`wire::AGENTS_PORT`](crate::wire::AGENTS_PORT) other agents ask to have a process taken in
//! ([`remote`]). The configuration and the list of nodes are read anew for each request, so what the master
//! changes holds at once.
//!
//! A process of root's, or one with capabilities, goes only to a node that its own agent knows as `trusted`:
//! whoever rules the other node can do at home whatever the process could.

mod all;
mod follow;
mod local;
mod notes;
mod places;
mod process;
mod remote;
mod side;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::balancer::{self, Balancer};
use super::{Config, ConfigError, Peer, sys};
use crate::discovery::{MapError, Neighbours, NodeId};
use crate::migrate;
use crate::wire::Offer;
use crate::wire::local::{Answer, Hint, Moved, Node, Shown};
use follow::{Follower, Follows};
pub use notes::{Fading, Hints, Notes};
use process::Process;
use side::{Ends, Kind, Outcome, Side};

/// How long a process that was told to come home may take before whoever asked is told so.
const HOMECOMING: Duration = Duration::from_secs(60);
/// How long a user's move waits for one that the process makes by itself.
const TURN: Duration = Duration::from_secs(30);

/// Why a process stays that its user has locked; openMosix's word.
const USER_LOCK: &str = "user_lock";

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The caller's.
    #[error("there is no process {pid} on this node")]
    NoProcess {
        /// Its id.
        pid: i32,
    },
    /// The caller's.
    #[error("process {pid} is another user's, or may do more than you: only root can move it")]
    NotYours {
        /// Its id.
        pid: i32,
    },
    /// The caller's.
    #[error("process {pid} never moves: {why}")]
    Never {
        /// Its id.
        pid: i32,
        /// What it is.
        why: &'static str,
    },
    /// The caller's.
    #[error("process {pid} is a guest of {node}: its home moves it")]
    Guest {
        /// Its id here.
        pid: i32,
        /// Its home.
        node: String,
    },
    /// The caller's.
    #[error("only root can {what}")]
    OnlyRoot {
        /// What was asked for.
        what: &'static str,
    },
    /// Others, with which this node shares processes.
    #[error("{count} came home; {}", .failed.join("; "))]
    NotAll {
        /// How many did.
        count: usize,
        /// Why others did not.
        failed: Vec<String>,
    },
    /// Somebody else is faster.
    #[error("process {pid} is being moved already")]
    Busy {
        /// Its id.
        pid: i32,
    },
    /// The caller's, or cluster.yaml's.
    #[error("no node is called `{word}`, nor has it that number or address")]
    NoNode {
        /// What was asked for.
        word: String,
    },
    /// The other node is not there.
    #[error("the address of {node} is not known: it has not booted")]
    NoAddress {
        /// The other node.
        node: String,
    },
    /// The other node's agent, or the network's.
    #[error("the agent of {node} ({address}): {source}")]
    Peer {
        /// The other node.
        node: String,
        /// Its address.
        address: Ipv4Addr,
        /// What came of it.
        source: remote::PeerError,
    },
    /// It does not move. The reason has openMosix's name where it had one.
    #[error("process {pid} stays at home: {reason}")]
    Stays {
        /// Its id.
        pid: i32,
        /// Why.
        reason: String,
    },
    /// Another node's, which asks for what is not so.
    #[error("process {pid} is not on {node}")]
    NotThere {
        /// Its id.
        pid: i32,
        /// The node that has asked.
        node: String,
    },
    /// The other node has not sent it.
    #[error("process {pid} was told to come home from {node}, and has not come within {} s", HOMECOMING.as_secs())]
    StillAway {
        /// Its id.
        pid: i32,
        /// Where it is.
        node: String,
    },
    /// It was away, and has ended instead of coming home.
    #[error("process {pid} has ended on the way home from {node}")]
    Ended {
        /// Its id.
        pid: i32,
        /// Where it was.
        node: String,
    },
    /// The caller's: his map. The words are openMosix's.
    #[error("the supplied table is well-formatted, but my IP address ({address}) is not there!")]
    NotInMap {
        /// This node's own.
        address: Ipv4Addr,
    },
    /// The caller's: his map.
    #[error("the map: {0}")]
    Map(#[from] MapError),
    /// Ours: no key.
    #[error("this node looks for no others: it has no key of the cluster's, or no address; its log says why")]
    Alone,
    /// Ours.
    #[error("this node cannot decide that now: it has not measured its load yet, or its log says why")]
    Undecided,
    /// The configuration's.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Ours, or the kernel's.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Why the agent cannot take part.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {source}")]
pub struct ListenError {
    place: String,
    source: io::Error,
}

/// The agent's part in migration.
#[derive(Debug)]
pub struct Moves {
    config: PathBuf,
    /// Processes of this node that are being moved right now.
    moving: Mutex<HashMap<i32, Way>>,
    /// One of them is where it was to be, or stays.
    moved: Notify,
    follows: Arc<Follows>,
    /// Who else is there; none: this node has no key of the cluster's.
    neighbours: Option<Arc<Neighbours>>,
    balancer: Arc<Balancer>,
}

/// The two places where it listens.
#[derive(Debug)]
pub struct Listeners {
    agents: TcpListener,
    users: UnixListener,
    followers: UnboundedReceiver<Follower>,
}

impl Moves {
    /// Opens both listeners. `path` is where the configuration was read.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn listen(
        config: &Config,
        path: &Path,
        neighbours: Option<Arc<Neighbours>>,
    ) -> Result<(Arc<Self>, Listeners), ListenError> {
        let address = (config.address.unwrap_or(Ipv4Addr::UNSPECIFIED), config.agents_port);
        let agents = TcpListener::bind(address)
            .await
            .map_err(|source| ListenError { place: format!("{}:{}", address.0, address.1), source })?;
        let socket = config.socket();
        let users = local::bind(&socket)
            .map_err(|source| ListenError { place: socket.display().to_string(), source })?;
        let (follows, followers) = Follows::new();
        let (moving, moved) = (Mutex::default(), Notify::new());
        let moves =
            Self { config: path.to_owned(), moving, moved, follows, neighbours, balancer: Arc::default() };
        Ok((Arc::new(moves), Listeners { agents, users, followers }))
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, mut listeners: Listeners) {
        let agents = remote::serve(Arc::clone(&self), listeners.agents);
        let users = local::serve(Arc::clone(&self), listeners.users);
        let follow = async {
            while let Some(follower) = listeners.followers.recv().await {
                tokio::spawn(Arc::clone(&self).follow(follower));
            }
        };
        let pool = super::pool::keep(Arc::clone(&self));
        let balance = balancer::keep(Arc::clone(&self));
        tokio::join!(agents, users, follow, pool, balance);
    }

    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        Config::read(&self.config)
    }

    /// Moves a process at the wish of this user, and says where it is then: to a node, home, or where the load asks.
    async fn migrate(&self, caller: u32, pid: i32, to: &str) -> Result<Answer, MoveError> {
        if to == "balance" {
            return self.balance(caller, pid).await;
        }
        let moved = self.move_to(caller, pid, to, By::User).await?;
        self.balancer.by_hand(pid);
        Ok(moved)
    }

    async fn balance(&self, caller: u32, pid: i32) -> Result<Answer, MoveError> {
        let process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
        process.may_be_moved_by(caller)?;
        let (pid, here) = (process.pid, self.config()?.node);
        // Nobody decides there.
        if self.neighbours.is_none() {
            return Err(MoveError::Alone);
        }
        match self.balancer.best_place(pid).await? {
            Some(address) => self.move_to(caller, pid, &address.to_string(), By::User).await,
            None if Side::away(&process, &here)?.is_some() => {
                self.move_to(caller, pid, "home", By::Load).await
            }
            // With a guest its own home has to be asked.
            None => match Side::guest(&process, &here)? {
                Some(side) => Err(MoveError::Guest { pid, node: side.node }),
                None => Ok(Answer::At { pid, node: here.clone(), home: here }),
            },
        }
    }

    /// Moves a process to share the load, as its user could.
    pub(super) async fn move_by_itself(
        &self,
        pid: i32,
        to: Option<Ipv4Addr>,
        offer: Offer,
    ) -> Result<(), MoveError> {
        let process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
        let to = to.map_or_else(|| "home".to_owned(), |address| address.to_string());
        // Not one that has become root's meanwhile.
        let user = process.uids[1].max(1);
        self.move_to(user, pid, &to, By::Itself(offer)).await.map(|_| ())
    }

    async fn move_to(&self, caller: u32, pid: i32, to: &str, by: By) -> Result<Answer, MoveError> {
        let process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
        let pid = process.pid;
        process.may_be_moved_by(caller)?;
        let started = notes::started(pid).ok();
        let config = self.config()?;
        let target = match to {
            "home" => None,
            word => Some(find(&config, word)?),
        };
        let target = target.filter(|peer| peer.name != config.node);
        let to = target.as_ref().map_or(&config.node, |peer| &peer.name);
        self.follows.forget(pid);
        let _moving = match by {
            By::User | By::Load => self.begin_after(pid, to).await?,
            By::Itself(_) | By::Program => self.begin(pid, to, false)?,
        };
        // What has happened before has made it another one: it has come home, say, and become another program.
        self.follows.forget(pid);
        let same = |_: &Process| notes::started(pid).ok() == started;
        let mut process = Process::look(pid)?.filter(same).ok_or(MoveError::NoProcess { pid })?;
        process.may_be_moved_by(caller)?;
        if Side::of(&process, &config.node).is_some() {
            return Err(MoveError::Never { pid, why: "it is part of the agent" });
        }
        if let Some(side) = Side::guest(&process, &config.node)? {
            return Err(MoveError::Guest { pid, node: side.node });
        }
        let notes = Notes::below(config.kept());
        if target.is_some() && !matches!(by, By::Program) && notes.inherited(pid).locked {
            return Err(MoveError::Stays { pid, reason: USER_LOCK.to_owned() });
        }
        if let Some(side) = Side::away(&process, &config.node)? {
            if target.as_ref().is_some_and(|peer| peer.name == side.node) {
                return Ok(Answer::At { pid, node: side.node, home: config.node });
            }
            may_recall(caller, &side)?;
            if target.is_none() && matches!(by, By::User) {
                // What it has made comes with it.
                self.recall(pid, &side, &config.node).await?;
            } else {
                self.recall_alone(pid, &side, &config.node).await?;
            }
            // It may have become someone else's meanwhile.
            process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
            process.may_be_moved_by(caller)?;
        }
        let node = match target {
            Some(peer) => {
                let company = company(caller, pid, &notes)?;
                self.send_off(&config, &peer, &process, &company, by.offer()).await?;
                self.balancer.sent_off();
                for process in std::iter::once(&process).chain(&company) {
                    if let Err(error) = notes.change(process.pid, |note| note.nmigs += 1) {
                        tracing::warn!(pid = process.pid, %error, "this move is not counted");
                    }
                }
                peer.name
            }
            None => {
                if matches!(by, By::User) {
                    self.fetch_family(caller, pid, &config.node).await?;
                }
                config.node.clone()
            }
        };
        Ok(Answer::At { pid, node, home: config.node })
    }

    /// Sends a process off, and those that share memory with it.
    async fn send_off(
        &self,
        config: &Config,
        peer: &Peer,
        process: &Process,
        company: &[Process],
        offer: Option<Offer>,
    ) -> Result<(), MoveError> {
        let (pid, node) = (process.pid, &peer.name);
        let address = peer.address.ok_or_else(|| MoveError::NoAddress { node: node.clone() })?;
        let (socket, keys) = remote::send(config, node, address, process, company, offer)
            .await
            .map_err(|source| MoveError::Peer { node: node.clone(), address, source })?;
        let ends = Ends { here: &config.node, there: node };
        match side::send_off(process, company, ends, socket, keys, (&self.follows, &self.balancer)).await? {
            Outcome::Away => {
                let with: Vec<i32> = company.iter().map(|process| process.pid).collect();
                tracing::info!(pid, uid = process.uids[1], node, ?with, "away");
                Ok(())
            }
            Outcome::Stays(reason) => Err(MoveError::Stays { pid, reason }),
        }
    }

    /// What is known of a process.
    fn show(&self, pid: i32) -> Result<Answer, MoveError> {
        let process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
        let pid = process.pid;
        let config = self.config()?;
        let here = &config.node;
        let goto = self.moving().get(&pid).map(|way| way.to.clone());
        let away = Side::away(&process, here)?.filter(|_| goto.is_none());
        let guest = Side::guest(&process, here)?;
        let notes = Notes::below(config.kept());
        let (note, locked) = (notes.of(pid)?, notes.inherited(pid).locked);
        let cantmove = match (&away, &guest) {
            (None, None) => process.never().or(locked.then_some(USER_LOCK)).map_or_else(
                || migrate::company(Pid::from_raw(pid)).err().map(|reason| reason.to_string()),
                |why| Some(why.to_owned()),
            ),
            _ => None,
        };
        let at = |side: Option<Side>| side.map_or_else(|| here.clone(), |side| side.node);
        let (place, home) = (at(away), at(guest));
        Ok(Answer::Shown(Shown { pid, place, home, goto, nmigs: note.nmigs, lock: locked, cantmove }))
    }

    /// Keeps a process at home, or no longer.
    fn lock(&self, caller: u32, pid: i32, locked: bool) -> Result<Answer, MoveError> {
        let process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
        process.may_be_moved_by(caller)?;
        Notes::below(self.config()?.kept()).change(process.pid, |note| note.locked = locked)?;
        Ok(Answer::Done {})
    }

    /// What a process is like, as its user says.
    fn hint(&self, caller: u32, pid: i32, hint: Hint) -> Result<Answer, MoveError> {
        let process = Process::look(pid)?.ok_or(MoveError::NoProcess { pid })?;
        process.may_be_moved_by(caller)?;
        let now = notes::in_ticks(migrate::since_boot()?)?;
        Notes::below(self.config()?.kept()).change(process.pid, |note| note.hints.take(hint, now))?;
        Ok(Answer::Done {})
    }

    /// How this node takes part.
    fn settings(&self) -> Result<Answer, MoveError> {
        Ok(Answer::Settings(self.config()?.settings()?))
    }

    /// The nodes that are there, this one among them, and those that are not.
    fn nodes(&self) -> Result<Answer, MoveError> {
        let neighbours = self.neighbours.as_ref().ok_or(MoveError::Alone)?;
        let config = self.config()?;
        let (peers, map) = (config.peers()?, config.map()?);
        let own_address = neighbours.address();
        let node = |address: Ipv4Addr, up: bool| {
            let told = match up {
                false => None,
                true if address == own_address => self.balancer.load().map(|load| (load, Duration::ZERO)),
                true => neighbours.load_of(address),
            };
            let id = match &map {
                Some(map) => map.id_of(address)?,
                None => NodeId::from(address),
            };
            Some(Node {
                id,
                name: peers.at(address).map(|peer| peer.name.clone()),
                address,
                up,
                age_ms: told.map(|(_, age)| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                load: told.map(|(load, _)| load),
                multicast: neighbours.hears_by_multicast(address),
            })
        };
        let mut there = neighbours.members();
        there.push(own_address);
        let missing =
            peers.0.iter().filter_map(|peer| peer.address).filter(|address| !there.contains(address));
        let all = |addresses: &mut dyn Iterator<Item = Ipv4Addr>, up| {
            let mut nodes: Vec<Node> = addresses.filter_map(|address| node(address, up)).collect();
            nodes.sort_unstable_by_key(|node| (node.id, node.address));
            nodes
        };
        let gone = all(&mut missing.collect::<Vec<_>>().into_iter(), false);
        let nodes = all(&mut there.into_iter(), true);
        let own = nodes.iter().find(|node| node.address == own_address);
        let own = own.map_or_else(|| own_address.into(), |node| node.id);
        Ok(Answer::Nodes { own, nodes, gone })
    }

    /// The others.
    pub(super) fn neighbours(&self) -> Option<&Arc<Neighbours>> {
        self.neighbours.as_ref()
    }

    /// What shares the load.
    pub(super) fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// What is away from here and can move by itself: with no other that it shares memory with.
    pub(super) fn away(&self) -> Result<Vec<Moved>, MoveError> {
        let processes = Process::all()?;
        let sides = Side::all(&processes, &self.config()?.node);
        let kept = |side: i32| processes.values().filter(|process| process.tracer == side).count();
        let away = processes.values().filter_map(|process| {
            let side = sides.get(&process.tracer).filter(|side| matches!(side.kind, Kind::Home(_)))?;
            let (pid, node) = (process.pid, side.node.clone());
            let alone = self.follows.parts(side.pid) || kept(side.pid) == 1;
            (alone && !self.is_moving(pid)).then(|| Moved {
                pid,
                here: pid,
                node,
                uid: process.uids[1],
                name: process.name.clone(),
            })
        });
        Ok(away.collect())
    }

    /// All that is away from here, or here from elsewhere, in the order of ids.
    fn list(&self) -> Result<Answer, MoveError> {
        let processes = Process::all()?;
        let sides = Side::all(&processes, &self.config()?.node);
        let (mut away, mut guests) = (Vec::new(), Vec::new());
        for process in processes.values() {
            let row = |pid, side: &Side| Moved {
                pid,
                here: process.pid,
                node: side.node.clone(),
                uid: process.uids[1],
                name: process.name.clone(),
            };
            if let Some(side) = sides.get(&process.tracer)
                && matches!(side.kind, Kind::Home(_))
                && !self.is_moving(process.pid)
            {
                away.push(row(process.pid, side));
            }
            // The first process of a guest's place is ours.
            if let Some(&pid) = process.ids.get(1)
                && pid != 1
                && let Some(side) = above(process, &processes, &sides)
            {
                guests.push(row(pid, side));
            }
        }
        for rows in [&mut away, &mut guests] {
            rows.sort_by(|one, other| (&one.node, one.pid).cmp(&(&other.node, other.pid)));
        }
        Ok(Answer::Listed { away, guests })
    }

    /// Tells a process that is away to come home, and what is kept with it, and waits until it has.
    async fn recall(&self, pid: i32, side: &Side, here: &str) -> Result<(), MoveError> {
        self.fetch(pid, side, here).await?;
        self.is_home(pid, side)
    }

    /// The same without what is kept with it, where that can stay away.
    async fn recall_alone(&self, pid: i32, side: &Side, here: &str) -> Result<(), MoveError> {
        let kept = Process::all()?.values().filter(|process| process.tracer == side.pid).count();
        if kept == 1 || !self.follows.parts(side.pid) {
            return self.recall(pid, side, here).await;
        }
        self.fetch_one(pid, side, here).await?;
        // It may have become another program at home just before, which would follow where it was.
        self.follows.forget(pid);
        self.is_home(pid, side)
    }

    fn is_home(&self, pid: i32, side: &Side) -> Result<(), MoveError> {
        let ended = || MoveError::Ended { pid, node: side.node.clone() };
        let process = Process::look(pid)?.ok_or_else(ended)?;
        if process.has_memory() { Ok(()) } else { Err(ended()) }
    }

    /// Has a side fetch all its processes home, and waits until it has. One that has ended has none left away.
    async fn fetch(&self, pid: i32, side: &Side, here: &str) -> Result<(), MoveError> {
        let Some(keeper) = keeper(side, here)? else {
            let runs = Process::look(side.pid)?.is_some_and(|it| Side::of(&it, here).as_ref() == Some(side));
            return if runs { Err(MoveError::Busy { pid }) } else { Ok(()) };
        };
        self.follows.recall(side.pid);
        sys::signal(&keeper, Signal::SIGUSR1 as i32, 0)?;
        match timeout(HOMECOMING, sys::ended(keeper)).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(MoveError::StillAway { pid, node: side.node.clone() }),
        }
    }

    /// Has a side fetch one of its processes home, and waits until that is there, or has ended.
    async fn fetch_one(&self, pid: i32, side: &Side, here: &str) -> Result<(), MoveError> {
        let is_away = || -> io::Result<bool> {
            let process = Process::look(pid)?;
            Ok(process.map(|process| Side::away(&process, here)).transpose()?.flatten().is_some())
        };
        if let Some(keeper) = keeper(side, here)?
            && let Some(over) = self.follows.fetch(side.pid, pid)
        {
            // One that has ended has none left away.
            if sys::signal(&keeper, migrate::fetch_signal(), pid).is_ok() {
                let _over_or_late = timeout(HOMECOMING, over.waits()).await;
            }
        }
        if is_away()? { Err(MoveError::StillAway { pid, node: side.node.clone() }) } else { Ok(()) }
    }

    fn is_moving(&self, pid: i32) -> bool {
        self.moving().contains_key(&pid)
    }

    fn moving(&self) -> MutexGuard<'_, HashMap<i32, Way>> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, pid: i32, to: &str, by_user: bool) -> Result<Moving<'_>, MoveError> {
        match self.moving().entry(pid) {
            Entry::Occupied(_) => Err(MoveError::Busy { pid }),
            Entry::Vacant(place) => {
                place.insert(Way { to: to.to_owned(), by_user });
                Ok(Moving { moves: self, pid })
            }
        }
    }

    /// A user's move begins once one is over that the user knows nothing of.
    async fn begin_after(&self, pid: i32, to: &str) -> Result<Moving<'_>, MoveError> {
        let begins = async {
            loop {
                let changed = self.moved.notified();
                let is_own = || self.moving().get(&pid).is_some_and(|other| !other.by_user);
                match self.begin(pid, to, true) {
                    Err(MoveError::Busy { .. }) if is_own() => changed.await,
                    begun => return begun,
                }
            }
        };
        timeout(TURN, begins).await.map_err(|_| MoveError::Busy { pid })?
    }
}

/// The node that is meant: with a map set by hand, one of it, by its number there.
fn find(config: &Config, word: &str) -> Result<Peer, MoveError> {
    let (peers, map) = (config.peers()?, config.map()?);
    let by_number = map.as_ref().and_then(|map| map.address_of(word.parse().ok()?));
    let peer = match by_number {
        Some(address) => peers.at(address),
        None => peers.find(word),
    };
    let mapped = |peer: &&Peer| {
        map.as_ref().is_none_or(|map| peer.address.is_some_and(|address| map.id_of(address).is_some()))
    };
    peer.filter(mapped).cloned().ok_or_else(|| MoveError::NoNode { word: word.to_owned() })
}

/// A move that is under way.
#[derive(Clone, Debug)]
struct Way {
    /// The node.
    to: String,
    /// Its user has asked for it.
    by_user: bool,
}

/// By whom a process moves.
#[derive(Clone, Copy, Debug)]
enum By {
    /// Its user.
    User,
    /// Its user, where the load asks for.
    Load,
    /// Itself, to share the load.
    Itself(Offer),
    /// It has become another program where it was: that it is to stay there keeps it from nothing.
    Program,
}

impl By {
    fn offer(self) -> Option<Offer> {
        match self {
            Self::Itself(offer) => Some(offer),
            Self::User | Self::Load | Self::Program => None,
        }
    }
}

/// For as long as it lives, nobody else moves the process.
struct Moving<'a> {
    moves: &'a Moves,
    pid: i32,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.moves.moving().remove(&self.pid);
        self.moves.moved.notify_waiters();
    }
}

/// The guest's side from which a process descends.
fn above<'a>(
    process: &Process,
    processes: &HashMap<i32, Process>,
    sides: &'a HashMap<i32, Side>,
) -> Option<&'a Side> {
    let mut parent = process.parent;
    loop {
        if let Some(side) = sides.get(&parent).filter(|side| side.kind == Kind::Guest) {
            return Some(side);
        }
        parent = processes.get(&parent)?.parent;
    }
}

/// Those that go with a process, for they share memory: this user may move all of them.
fn company(caller: u32, pid: i32, notes: &Notes) -> Result<Vec<Process>, MoveError> {
    let stays = |reason: String| MoveError::Stays { pid, reason };
    let mut company = Vec::new();
    for other in migrate::company(Pid::from_raw(pid)).map_err(|reason| stays(reason.to_string()))? {
        let of = |reason: &str| stays(format!("shared: of process {other}, {reason}"));
        let process = Process::look(other)?.ok_or_else(|| of("ended"))?;
        process.may_be_moved_by(caller).map_err(|error| of(&error.to_string()))?;
        if notes.inherited(other).locked {
            return Err(of(USER_LOCK));
        }
        company.push(process);
    }
    Ok(company)
}

/// All that this side keeps may come home, so the user has to have the right to what it was started for.
fn may_recall(caller: u32, side: &Side) -> Result<(), MoveError> {
    let Kind::Home(with) = side.kind else { return Ok(()) };
    let first = Process::look(with)?.filter(|process| process.tracer == side.pid);
    first.map_or(Ok(()), |process| process.may_be_moved_by(caller))
}

/// The very program of this home's side, if it takes signals already.
fn keeper(side: &Side, here: &str) -> io::Result<Option<OwnedFd>> {
    let keeper = match sys::pidfd(side.pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        keeper => keeper?,
    };
    // Somebody else may have been started with that id before the descriptor was there.
    let is_it =
        |process: &Process| Side::of(process, here).as_ref() == Some(side) && side::takes_signals(process);
    Ok(Process::look(side.pid)?.filter(is_it).map(|_| keeper))
}
