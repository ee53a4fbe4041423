//! The load of this node: it is measured and told, and processes are moved where they have more.
//!
//! What moves where is for [`crate::balance`] to decide, which keeps the books; here are its eyes and hands. Of this
//! node's own processes those of users move by themselves, root's and daemons' never. A guest is moved by its home alone,
//! which sees this node's load.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Config;
use super::histories::{Histories, Seen};
use super::moves::{MoveError, Moves, Notes};
use crate::balance::{Books, Candidate, Costs, Failed, Move, View, best_place};
use crate::discovery::{Map, Neighbours};
use crate::load::{Load, Measured, Meter, STANDARD_SPEED, Status, speed};
use crate::wire::Offer;
use crate::wire::local::{Answer, Moved, Settings};

/// Between two counts of what runs.
const COUNT: Duration = Duration::from_millis(100);
/// How long the configuration is good before it is read again.
const CONFIG: Duration = Duration::from_secs(5);
/// More than the time between two words of this node's load.
const TELLING: Duration = Duration::from_secs(1);
/// Between two looks at what is away, while something is.
const AWAY: Duration = Duration::from_secs(1);

/// The state of it.
#[derive(Debug)]
pub struct Balancer {
    state: Mutex<State>,
    /// Where the books' time begins.
    start: Instant,
    /// The settings have been looked at.
    turned: Notify,
}

#[derive(Debug, Default)]
struct State {
    books: Books,
    /// Something may be away.
    look: bool,
    /// Processes whose best place somebody waits for.
    asked: Vec<(i32, oneshot::Sender<Option<Ipv4Addr>>)>,
}

impl Default for Balancer {
    fn default() -> Self {
        Self { state: Mutex::default(), start: Instant::now(), turned: Notify::new() }
    }
}

impl Balancer {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing fails while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Whether a process that another node offers by itself is taken.
    ///
    /// # Errors
    /// Why not, for that node.
    pub fn consider(&self, offer: &Offer) -> Result<(), &'static str> {
        self.state().books.consider(self.now(), offer)
    }

    /// A process has been sent off: it may be away from now on.
    pub fn sent_off(&self) {
        self.state().look = true;
    }

    /// The memory of a process has been sent to another node: so many octets, in so long a time, by a connection that has
    /// been there and back as fast as that.
    pub fn sent(&self, octets: u64, took: Duration, round_trip: Duration) {
        self.state().books.sent(octets, took, round_trip);
    }

    /// What a process that is away has used of the processors there since it came, and whether it runs now or could.
    pub fn used_away(&self, pid: i32, all: Duration, runs: bool) {
        self.state().books.used_away(self.now(), pid, all, runs);
    }

    /// What this node tells of itself, or would if it were not quiet.
    pub fn load(&self) -> Option<Load> {
        self.state().books.load()
    }

    /// Waits until what was set before is told; where nothing is told, for no longer than that could take.
    pub async fn is_told(&self) {
        let _told_or_not = timeout(TELLING, self.turned.notified()).await;
    }

    /// A user has sent a process where he wants it.
    pub fn by_hand(&self, pid: i32) {
        self.state().books.by_hand(self.now(), pid);
    }

    /// Where a process would have most now, none: at home; and it is left alone no longer.
    ///
    /// # Errors
    /// It cannot be decided now; the log says why.
    pub async fn best_place(&self, pid: i32) -> Result<Option<Ipv4Addr>, MoveError> {
        let answered = {
            let (answer, answered) = oneshot::channel();
            let mut state = self.state();
            state.books.asked(pid);
            state.asked.push((pid, answer));
            answered
        };
        answered.await.map_err(|_| MoveError::Undecided)
    }

    /// What moves and calls cost, as far as it is known, for whoever asks.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    pub fn told_costs(&self) -> Answer {
        let Costs { base, rate, call } = self.state().books.costs();
        Answer::Costs {
            move_us: (base * 1e6) as u64,
            kib_per_second: rate as u64,
            call_us: (call * 1e6) as u64,
        }
    }

    fn ended(&self, it: &Move, done: Result<(), MoveError>, begun: Duration) {
        let now = self.now();
        let mut state = self.state();
        state.look = true;
        let Err(error) = done else {
            return state.books.done(now, it, now.saturating_sub(begun));
        };
        let why = match error {
            MoveError::NoProcess { .. } | MoveError::Ended { .. } => Failed::Gone,
            MoveError::Peer { .. } | MoveError::NoAddress { .. } => Failed::Node,
            _ => Failed::Process,
        };
        if why != Failed::Gone {
            tracing::debug!(pid = it.pid, %error, "is not moved to share the load");
        }
        state.books.failed(now, it, why);
    }
}

/// What is needed at each turn.
struct Loop {
    moves: Arc<Moves>,
    neighbours: Arc<Neighbours>,
    config: (Config, Instant),
    /// That was set by hand.
    map: Option<Map>,
    measured_speed: u32,
    histories: Histories,
    /// What is away, and when it was looked at.
    away: (Vec<Moved>, Option<Instant>),
}

/// Measures, tells and moves, for ever.
pub async fn keep(moves: Arc<Moves>) {
    let Some(neighbours) = moves.neighbours().cloned() else {
        // The log says why there are none.
        return std::future::pending().await;
    };
    let measured = tokio::task::spawn_blocking(speed::measured).await;
    let config = loop {
        match moves.config() {
            Ok(config) => break config,
            Err(error) => tracing::warn!(%error, "this node does not share its load yet"),
        }
        tokio::time::sleep(CONFIG).await;
    };
    let mut it = Loop {
        moves,
        neighbours,
        config: (config, Instant::now()),
        map: None,
        measured_speed: measured.unwrap_or(STANDARD_SPEED),
        histories: Histories::new(),
        away: (Vec::new(), None),
    };
    it.moves.balancer().state().look = true;
    let mut meter = Meter::of_node();
    let mut ticks = interval(COUNT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_problem = String::new();
    loop {
        ticks.tick().await;
        let turned = match meter.count() {
            Ok(None) => continue,
            Ok(Some(measured)) => {
                let turned = it.turn(measured);
                it.moves.balancer().turned.notify_waiters();
                turned
            }
            Err(error) => {
                it.moves.balancer().state().asked.clear();
                Err(error.into())
            }
        };
        let problem = turned.err().map(|error| error.to_string()).unwrap_or_default();
        if !problem.is_empty() && problem != last_problem {
            tracing::warn!(problem, "this node does not share its load");
        }
        last_problem = problem;
    }
}

impl Loop {
    fn turn(&mut self, measured: Measured) -> Result<(), MoveError> {
        // Who has asked waits no longer than this turn, whatever becomes of it.
        let asked = std::mem::take(&mut self.moves.balancer().state().asked);
        let now = Instant::now();
        if now.saturating_duration_since(self.config.1) > CONFIG {
            self.config = (self.moves.config()?, now);
        }
        let settings = self.config.0.settings()?;
        self.map = self.config.0.map()?;
        let (speed, status) = (self.speed(&settings), status(&settings));
        let told = (!status.has(Status::QUIET)).then(|| measured.load(speed, status));
        self.neighbours.tell(told);
        // Who has nothing to do says so at once to those that have most.
        if self.moves.balancer().state().books.measure(measured, speed, status) && told.is_some() {
            self.neighbours.urge();
        }
        if settings.stay && asked.is_empty() {
            return Ok(());
        }
        let Some(view) = self.view(&settings) else { return Ok(()) };
        self.look_away(now)?;
        if asked.is_empty() && self.away.0.is_empty() && !view.asks() {
            return Ok(());
        }
        let candidates = self.candidates(&settings)?;
        for (pid, answer) in asked {
            // Who has asked may wait no longer.
            let _answered = answer.send(self.best_place(&view, &candidates, pid)?);
        }
        if settings.stay {
            return Ok(());
        }
        let moves = self.moves.balancer().state().books.decide(&view, &candidates);
        for (it, offer) in moves {
            self.begin(it, offer);
        }
        Ok(())
    }

    fn speed(&self, settings: &Settings) -> u32 {
        match (settings.speed, self.config.0.speed) {
            (0, Some(speed)) => speed,
            (0, None) => self.measured_speed,
            (speed, _) => speed,
        }
    }

    fn view(&self, settings: &Settings) -> Option<View> {
        let mapped = |address: &Ipv4Addr| self.map.as_ref().is_none_or(|map| map.id_of(*address).is_some());
        let (balancer, address) = (self.moves.balancer(), self.neighbours.address());
        let (now, stay) = (balancer.now(), settings.lstay || !settings.sharing);
        self.neighbours.told(|told| {
            let told = told.filter(|(address, ..)| mapped(address));
            balancer.state().books.view(now, address, told, stay)
        })
    }

    fn best_place(
        &self,
        view: &View,
        candidates: &[Candidate],
        pid: i32,
    ) -> Result<Option<Ipv4Addr>, MoveError> {
        let costs = self.moves.balancer().state().books.costs();
        let one = |it: &&Candidate| it.pid == pid;
        if let Some(candidate) = candidates.iter().find(one) {
            return Ok(best_place(view, candidate, &costs));
        }
        // It would not move by itself.
        let node = self.away.0.iter().find(|moved| moved.pid == pid).map(|moved| moved.node.clone());
        let peers = self.config.0.peers()?;
        let away = node.and_then(|node| peers.named(&node)?.address);
        let candidate = Candidate {
            pid,
            used: 0.0,
            runs: true,
            memory: self.histories.memory(pid),
            calls: 0.0,
            io: false,
            away,
            since: Duration::MAX,
        };
        Ok(best_place(view, &candidate, &costs))
    }

    /// What is away, where something may be.
    fn look_away(&mut self, now: Instant) -> Result<(), MoveError> {
        let due = self.away.1.is_none_or(|at| now.saturating_duration_since(at) >= AWAY);
        let mut state = self.moves.balancer().state();
        if !due || (self.away.0.is_empty() && !state.look) {
            return Ok(());
        }
        state.look = false;
        drop(state);
        self.away = (self.moves.away()?, Some(now));
        Ok(())
    }

    fn candidates(&mut self, settings: &Settings) -> Result<Vec<Candidate>, MoveError> {
        let notes = Notes::below(self.config.0.kept());
        let note = |pid| notes.inherited(pid);
        let seen = self.histories.look(settings.decay, |pid| note(pid).hints)?;
        let peers = self.config.0.peers()?;
        let away: HashMap<i32, Option<Ipv4Addr>> = self
            .away
            .0
            .iter()
            .map(|moved| (moved.pid, peers.named(&moved.node).and_then(|peer| peer.address)))
            .collect();
        let speed = f64::from(self.speed(settings)) / f64::from(STANDARD_SPEED);
        let now = self.moves.balancer().now();
        let mut state = self.moves.balancer().state();
        let books = &mut state.books;
        books.still_away(|pid| away.contains_key(&pid));
        let mut candidates = Vec::new();
        for process in seen {
            let Seen { pid, runs, memory, used, calls, .. } = process;
            let place = away.get(&pid);
            if (place.is_none() && !runs && memory == 0) || !books.may_move(now, pid) {
                continue;
            }
            let note = note(pid);
            if note.locked {
                continue;
            }
            let io = note.hints.cpu == Some(false);
            let calls = if note.hints.cpu == Some(true) { 0.0 } else { calls };
            let (used, since) = (used.as_secs_f64() * speed, Duration::MAX);
            let here = Candidate { pid, used, runs, memory, calls, io, away: None, since };
            candidates.push(match place {
                None => here,
                Some(Some(address)) => books.away(now, here, *address),
                // Its node is not known any more.
                Some(None) => continue,
            });
        }
        Ok(candidates)
    }

    fn begin(&self, it: Move, offer: Offer) {
        let moves = Arc::clone(&self.moves);
        tokio::spawn(async move {
            let begun = moves.balancer().now();
            let done = moves.move_by_itself(it.pid, it.to, offer).await;
            moves.balancer().ended(&it, done, begun);
        });
    }
}

fn status(settings: &Settings) -> Status {
    let closed = !settings.sharing;
    // Until there is MFS.
    let always = Status::UP.with(Status::NOMFS);
    [
        (settings.stay || closed, Status::STAY),
        (settings.lstay, Status::LSTAY),
        (settings.block || closed, Status::BLOCK),
        (settings.quiet, Status::QUIET),
    ]
    .into_iter()
    .filter(|(is, _)| *is)
    .fold(always, |status, (_, flag)| status.with(flag))
}
