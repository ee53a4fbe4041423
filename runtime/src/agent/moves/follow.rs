//! A process that becomes another program while it is away (execve(2)) does so at home, and from there it moves again,
//! with what it has started meanwhile, to where it was. So what a shell or `make` starts away runs away.
//!
//! One that was made away and has to go home for a call does so as well, once: most often that is what comes before
//! another program (setrlimit(2), in make).
//!
//! The program that keeps it tells of it ([`AGAIN`](crate::migrate::AGAIN)), and the rest is an ordinary move: with
//! the rights that the process had before, and only if nobody has called its like home meanwhile.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::all::Done;
use super::process::Process;
use super::side::{Kind, Side};
use super::{By, HOMECOMING, MoveError, Moves, may_recall, notes};
use crate::migrate::since_boot;

/// How long it runs at home before it moves: what ends sooner costs more to move than to run.
const SETTLES: Duration = Duration::from_millis(100);

/// Where a process was, and by whose right.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The program that kept it.
    pub side: i32,
    /// Who may move what it has become.
    pub mover: u32,
    /// The node where it was.
    pub node: String,
}

/// A process that is to move again.
#[derive(Debug)]
pub struct Follower {
    pid: i32,
    /// When it was started, in ticks: another one can get its id.
    started: u64,
    /// Since when it runs at home, in time since the kernel's start.
    since: Duration,
    origin: Origin,
}

/// Who is about to move again.
#[derive(Debug)]
pub struct Follows {
    state: Mutex<State>,
    due: UnboundedSender<Follower>,
}

/// A program that is heard.
#[derive(Debug)]
struct Heard {
    /// What it has kept is wanted at home.
    recalled: bool,
    /// Its processes come home only together.
    together: bool,
    /// Who waits until the wish is over that a single process come home.
    fetched: HashMap<i32, oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// The programs that are heard.
    sides: HashMap<i32, Heard>,
    /// Processes that run at home until they move, and the programs that kept them.
    waiting: HashMap<i32, i32>,
}

impl Follows {
    /// And what comes of it, for [`Moves::follow`].
    pub fn new() -> (Arc<Self>, UnboundedReceiver<Follower>) {
        let (due, followers) = unbounded_channel();
        (Arc::new(Self { state: Mutex::default(), due }), followers)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing fails while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to hear a program; `together`: its processes come home only together.
    pub fn listen(self: &Arc<Self>, origin: Origin, together: bool) -> Listener {
        let heard = Heard { recalled: false, together, fetched: HashMap::new() };
        self.state().sides.insert(origin.side, heard);
        Listener { follows: Arc::clone(self), origin }
    }

    fn add(&self, follower: Follower) {
        self.state().waiting.insert(follower.pid, follower.origin.side);
        if let Err(error) = self.due.send(follower) {
            tracing::debug!(%error, "the agent ends");
        }
    }

    /// A process stays where it is.
    pub fn forget(&self, pid: i32) -> bool {
        self.state().waiting.remove(&pid).is_some()
    }

    /// What a program keeps is wanted at home, and what has just become another program, too.
    pub fn recall(&self, side: i32) {
        let mut state = self.state();
        if let Some(heard) = state.sides.get_mut(&side) {
            heard.recalled = true;
        }
        state.waiting.retain(|_, kept_by| *kept_by != side);
    }

    /// Whether single processes of a program's come home: it is heard, and they share no memory.
    pub fn parts(&self, side: i32) -> bool {
        self.state().sides.get(&side).is_some_and(|heard| !heard.together)
    }

    /// A single process of a program's is going to be wanted at home. None: somebody else wants that already, or the
    /// program is not heard.
    pub fn fetch(&self, side: i32, pid: i32) -> Option<Fetch<'_>> {
        let (over, waits) = oneshot::channel();
        match self.state().sides.get_mut(&side)?.fetched.entry(pid) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                place.insert(over);
                Some(Fetch { follows: self, side, pid, waits })
            }
        }
    }

    /// All are wanted at home.
    fn recall_all(&self) {
        let mut state = self.state();
        state.sides.values_mut().for_each(|heard| heard.recalled = true);
        state.waiting.clear();
    }
}

/// The wish that a single process come home, until it is dropped.
pub struct Fetch<'a> {
    follows: &'a Follows,
    side: i32,
    pid: i32,
    waits: oneshot::Receiver<()>,
}

impl Fetch<'_> {
    /// Until it is said to be over, or the program has ended.
    pub async fn waits(mut self) {
        let _over = (&mut self.waits).await;
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        if let Some(heard) = self.follows.state().sides.get_mut(&self.side) {
            heard.fetched.remove(&self.pid);
        }
    }
}

/// Hears a program for as long as it lives.
#[derive(Debug)]
pub struct Listener {
    follows: Arc<Follows>,
    origin: Origin,
}

impl Listener {
    /// A process can move again that runs at home since then, in time since the kernel's start.
    pub fn again(&self, pid: i32, since: Duration) {
        if self.follows.state().sides.get(&self.origin.side).is_none_or(|heard| heard.recalled) {
            return;
        }
        match notes::started(pid) {
            Ok(started) => self.follows.add(Follower { pid, started, since, origin: self.origin.clone() }),
            Err(error) => tracing::debug!(pid, %error, "it has ended at home"),
        }
    }

    /// The wish is over that a process come home.
    pub fn fetched(&self, pid: i32) {
        let mut state = self.follows.state();
        let over = state.sides.get_mut(&self.origin.side).and_then(|heard| heard.fetched.remove(&pid));
        if let Some(over) = over {
            // Who has waited may have given up.
            let _heard = over.send(());
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.follows.state().sides.remove(&self.origin.side);
    }
}

impl Moves {
    /// Moves a process again; those that it has started at home meanwhile follow it.
    pub(super) async fn follow(self: Arc<Self>, follower: Follower) {
        let pid = follower.pid;
        let settled = async {
            let runs = since_boot()?.saturating_sub(follower.since);
            sleep(SETTLES.saturating_sub(runs)).await;
            if self.follows.forget(pid) { self.again(&follower).await } else { Ok(()) }
        };
        match settled.await {
            Ok(()) => {}
            Err(MoveError::NoProcess { .. }) => tracing::debug!(pid, "has ended at home"),
            Err(error) => tracing::info!(pid, %error, "does not move again"),
        }
    }

    async fn again(&self, follower: &Follower) -> Result<(), MoveError> {
        let Follower { pid, started, since, origin } = follower;
        let here = self.config()?.node;
        let process = Process::look(*pid)?.filter(|_| notes::started(*pid).is_ok_and(|now| now == *started));
        let process = process.ok_or(MoveError::NoProcess { pid: *pid })?;
        // Somebody has been faster.
        if Side::away(&process, &here)?.is_some() {
            return Ok(());
        }
        self.move_to(origin.mover, *pid, &origin.node, By::Program).await?;
        let processes = Process::all()?;
        let sides = Side::all(&processes, &here);
        let tick = notes::ticks(1)?;
        for child in processes.values().filter(|child| child.parent == *pid) {
            // It begins away where it was made away, and has always been at home where another program made it.
            let Ok(started) = notes::started(child.pid) else { continue };
            let begun = notes::ticks(started)?;
            if begun + tick > *since && !sides.contains_key(&child.tracer) && !self.is_moving(child.pid) {
                self.follows.add(Follower { pid: child.pid, started, since: begun, origin: origin.clone() });
            }
        }
        Ok(())
    }

    /// Fetches home what descends from a process and is away, as far as the caller may.
    pub(super) async fn fetch_family(&self, caller: u32, pid: i32, here: &str) -> Result<(), MoveError> {
        let away = loop {
            let changed = self.moved.notified();
            let processes = Process::all()?;
            let sides = Side::all(&processes, here);
            let (mut away, mut under_way) = (BTreeMap::new(), None);
            for process in descendants(pid, &processes) {
                if process.may_be_moved_by(caller).is_err() {
                    continue;
                }
                self.follows.forget(process.pid);
                if self.is_moving(process.pid) {
                    under_way = Some(process.pid);
                }
                if let Some(side) = sides.get(&process.tracer)
                    && matches!(side.kind, Kind::Home(_))
                    && may_recall(caller, side).is_ok()
                {
                    self.follows.recall(side.pid);
                    away.insert(side.pid, (process.pid, side.clone()));
                }
            }
            let Some(pid) = under_way else { break away };
            timeout(HOMECOMING, changed).await.map_err(|_| MoveError::Busy { pid })?;
        };
        let mut done = Done::default();
        for (pid, side) in away.into_values() {
            done.note(self.fetch(pid, &side, here).await);
        }
        done.answer().map(drop)
    }

    /// All that is away from here and what keeps it, once nothing is under way any more: nothing goes away again by
    /// itself.
    pub(super) async fn all_away(&self, here: &str) -> Result<HashMap<i32, Side>, MoveError> {
        loop {
            let changed = self.moved.notified();
            self.follows.recall_all();
            let Some(pid) = self.moving().keys().next().copied() else {
                return Ok(Side::all(&Process::all()?, here));
            };
            timeout(HOMECOMING, changed).await.map_err(|_| MoveError::Busy { pid })?;
        }
    }
}

/// Children of a process, and theirs.
fn descendants(pid: i32, processes: &HashMap<i32, Process>) -> Vec<&Process> {
    let mut found: Vec<&Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let children = processes.values().filter(|process| process.parent == parent);
        found.extend(children.clone());
        parents.extend(children.map(|child| child.pid));
    }
    found
}
