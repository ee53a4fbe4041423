//! The load of this node: it is measured and told, and processes are moved where they have more.
//!
//! What moves where is for [`balance`] to decide; here are its eyes and hands. Of this node's own processes those of users
//! move by themselves, root's and daemons' never. A guest is moved by its home alone, which sees this node's load.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::Config;
use super::histories::{Histories, Seen};
use super::moves::{MoveError, Moves, Notes};
use crate::balance::{self, Candidate, Costs, Move, Place, View, would_take};
use crate::discovery::{Map, Neighbours};
use crate::load::{Load, Measured, Meter, STANDARD_SPEED, Status, running_of, speed};
use crate::wire::Offer;
use crate::wire::local::{Answer, Moved, Settings};

/// Between two counts of what runs.
const COUNT: Duration = Duration::from_millis(100);
/// How long the configuration is good before it is read again.
const CONFIG: Duration = Duration::from_secs(5);
/// Between two looks at what is away, while something is.
const AWAY: Duration = Duration::from_secs(1);
/// What a node told longer ago than this says nothing about it now.
const OLD: Duration = Duration::from_secs(20);
/// Moves at a time.
const MOVES: usize = 6;
/// What is measured shows who has come only after so long.
const SHOWS: Duration = Duration::from_millis(600);
/// How long a process that stays, or a node that takes none, is left alone at first, and at the most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(120)];

/// The state of it.
#[derive(Debug, Default)]
pub struct Balancer(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    measured: Option<Measured>,
    speed: u32,
    status: Status,
    /// Guests that came, and when: the measurement does not show them yet.
    came: Vec<Instant>,
    /// Processes that are being moved, and where to; none: home.
    under_way: Vec<(i32, Option<Ipv4Addr>)>,
    /// Where processes have gone, and when: what that node tells does not show them yet.
    gone: Vec<(Ipv4Addr, Instant)>,
    /// Who is left alone, until when, and for how long the last time.
    pauses: HashMap<Whom, (Instant, Duration)>,
    /// Since when processes are where they are.
    since: HashMap<i32, (Ipv4Addr, Instant)>,
    costs: Costs,
    /// Something may be away.
    look: bool,
}

/// Who can be left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whom {
    Process(i32),
    Node(Ipv4Addr),
}

impl Balancer {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing fails while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a process that another node offers by itself is taken; `Err` says why not, for that node.
    pub fn consider(&self, offer: &Offer) -> Result<(), String> {
        let mut state = self.state();
        let now = Instant::now();
        let Some(mut place) = state.own(Ipv4Addr::UNSPECIFIED) else {
            return Err("it has not measured its load yet".to_owned());
        };
        state.came.retain(|at| now.saturating_duration_since(*at) < SHOWS);
        place.running += counted(state.came.len());
        if !would_take(&place, offer.has, offer.memory, offer.ushered) {
            return Err("its load has changed".to_owned());
        }
        state.came.push(now);
        Ok(())
    }

    /// A process has been sent off: it may be away from now on.
    pub fn sent_off(&self) {
        self.state().look = true;
    }

    /// The same for whoever asks.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    pub fn told_costs(&self) -> Answer {
        let Costs { base, rate, call } = self.costs();
        Answer::Costs {
            move_us: (base * 1e6) as u64,
            kib_per_second: rate as u64,
            call_us: (call * 1e6) as u64,
        }
    }

    /// What moves and calls cost, as far as it is known.
    pub fn costs(&self) -> Costs {
        self.state().costs
    }
}

fn counted(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

impl State {
    /// This node.
    fn own(&self, address: Ipv4Addr) -> Option<Place> {
        let measured = self.measured?;
        Some(Place {
            address,
            speed: f64::from(self.speed) / f64::from(STANDARD_SPEED),
            processors: f64::from(measured.processors) / 100.0,
            running: measured.told,
            free: measured.mem,
            memory: measured.tmem,
            open: !self.status.has(Status::BLOCK),
        })
    }

    fn rests(&self, whom: Whom, now: Instant) -> bool {
        self.pauses.get(&whom).is_some_and(|(until, _)| *until > now)
    }

    fn rest(&mut self, whom: Whom, now: Instant) {
        let last = self.pauses.get(&whom).map_or(PAUSES[0] / 2, |(_, pause)| *pause);
        let pause = (last * 2).min(PAUSES[1]);
        self.pauses.insert(whom, (now + pause, pause));
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
    idle: bool,
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
        idle: true,
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
            Ok(Some(measured)) => it.turn(measured),
            Err(error) => Err(error.into()),
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
        let now = Instant::now();
        if now.saturating_duration_since(self.config.1) > CONFIG {
            self.config = (self.moves.config()?, now);
        }
        let settings = self.config.0.settings()?;
        self.map = self.config.0.map()?;
        let (speed, status) = (self.speed(&settings), status(&settings));
        self.tell(&measured, speed, status);
        {
            let mut state = self.moves.balancer().state();
            (state.measured, state.speed, state.status) = (Some(measured), speed, status);
        }
        if settings.stay {
            return Ok(());
        }
        let view = self.view(&settings, &measured, now);
        let short = view.home.free < view.home.memory / 10;
        let better = view.others.iter().any(|place| place.open && place.gives(1.0) > view.home.gives(0.0));
        self.look_away(now)?;
        if self.away.0.is_empty() && !short && (view.stay || !better) {
            return Ok(());
        }
        let candidates = self.candidates(&settings, now)?;
        let costs = self.moves.balancer().costs();
        let free = MOVES.saturating_sub(self.moves.balancer().state().under_way.len());
        for it in balance::decide(&view, &candidates, &costs, free) {
            self.begin(it, &candidates);
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

    fn tell(&mut self, measured: &Measured, speed: u32, status: Status) {
        let told = (!status.has(Status::QUIET)).then(|| measured.load(speed, status));
        self.neighbours.tell(told);
        // Who has nothing to do says so at once to those that have most.
        let idle = measured.told + 0.5 < f64::from(measured.processors) / 100.0;
        if idle && !self.idle && told.is_some() {
            self.neighbours.urge();
        }
        self.idle = idle;
    }

    fn view(&self, settings: &Settings, measured: &Measured, now: Instant) -> View {
        let mut state = self.moves.balancer().state();
        let State { gone, pauses, .. } = &mut *state;
        gone.retain(|(_, at)| now.saturating_duration_since(*at) < OLD);
        pauses.retain(|_, (until, pause)| *until + *pause > now);
        let place = |address: Ipv4Addr| {
            let (load, age) = self.neighbours.load_of(address)?;
            if age > OLD || state.rests(Whom::Node(address), now) {
                return None;
            }
            let unseen = |at: Instant| now.saturating_duration_since(at) < age + SHOWS;
            let gone = state.gone.iter().filter(|(to, at)| *to == address && unseen(*at)).count();
            let coming = state.under_way.iter().filter(|(_, to)| *to == Some(address)).count();
            Some(Place { running: running_of(&load) + counted(gone + coming), ..of_load(address, &load) })
        };
        let mapped = |address: &Ipv4Addr| self.map.as_ref().is_none_or(|map| map.id_of(*address).is_some());
        let others = self.neighbours.members().into_iter().filter(mapped).filter_map(place).collect();
        let mut home = state.own(self.neighbours.address()).unwrap_or(Place {
            address: self.neighbours.address(),
            speed: 1.0,
            processors: 1.0,
            running: 0.0,
            free: measured.mem,
            memory: measured.tmem,
            open: true,
        });
        // Those that are on their way still count here, or not yet.
        let [leaving, coming] = [true, false]
            .map(|away| counted(state.under_way.iter().filter(|(_, to)| to.is_some() == away).count()));
        home.running = (measured.mean - leaving + coming).max(0.0);
        View { home, others, stay: settings.lstay || !settings.sharing }
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

    fn candidates(&mut self, settings: &Settings, now: Instant) -> Result<Vec<Candidate>, MoveError> {
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
        let mut state = self.moves.balancer().state();
        let State { since, .. } = &mut *state;
        since.retain(|pid, _| away.contains_key(pid));
        let mut candidates = Vec::new();
        for process in seen {
            let Seen { pid, runs, memory, used, calls, .. } = process;
            let place = away.get(&pid);
            if place.is_none() && !runs && memory == 0 {
                continue;
            }
            if state.under_way.iter().any(|(moving, _)| *moving == pid)
                || state.rests(Whom::Process(pid), now)
            {
                continue;
            }
            let note = note(pid);
            if note.locked {
                continue;
            }
            let io = note.hints.cpu == Some(false);
            let calls = if note.hints.cpu == Some(true) { 0.0 } else { calls };
            let mut candidate = Candidate {
                pid,
                used: used.as_secs_f64(),
                runs,
                memory,
                calls,
                io,
                away: None,
                since: Duration::MAX,
            };
            if let Some(place) = place {
                // Its node is not known any more.
                let Some(address) = *place else { continue };
                let (at, begun) = state.since.entry(pid).or_insert((address, now));
                if *at != address {
                    (*at, *begun) = (address, now);
                }
                let here = now.saturating_duration_since(*begun);
                // What it uses there is not seen here; one that has come this far is no short-lived one.
                candidate = Candidate {
                    used: candidate.used + here.as_secs_f64(),
                    runs: true,
                    away: Some(address),
                    since: here,
                    ..candidate
                };
            }
            candidates.push(candidate);
        }
        Ok(candidates)
    }

    fn begin(&self, it: Move, candidates: &[Candidate]) {
        let Some(candidate) = candidates.iter().find(|candidate| candidate.pid == it.pid).copied() else {
            return;
        };
        let moves = Arc::clone(&self.moves);
        let mut state = moves.balancer().state();
        state.under_way.push((it.pid, it.to));
        drop(state);
        let moves = Arc::clone(&self.moves);
        tokio::spawn(async move {
            let offer = Offer { has: it.has, memory: candidate.memory, ushered: it.ushered };
            let begun = Instant::now();
            let done = moves.move_by_itself(it.pid, it.to, offer).await;
            moves.balancer().state().ended(&it, done, begun);
        });
    }
}

impl State {
    fn ended(&mut self, it: &Move, done: Result<(), MoveError>, begun: Instant) {
        let now = Instant::now();
        self.under_way.retain(|(pid, _)| *pid != it.pid);
        self.look = true;
        let Err(error) = done else {
            if let Some(to) = it.to {
                self.gone.push((to, now));
                self.pauses.remove(&Whom::Node(to));
                let took = now.saturating_duration_since(begun).as_secs_f64();
                self.costs.base = self.costs.base * 0.9 + took.min(5.0) * 0.1;
            }
            self.pauses.remove(&Whom::Process(it.pid));
            return;
        };
        let whom = match (&error, it.to) {
            (MoveError::NoProcess { .. } | MoveError::Ended { .. }, _) => return,
            (MoveError::Peer { .. } | MoveError::NoAddress { .. }, Some(to)) => Whom::Node(to),
            _ => Whom::Process(it.pid),
        };
        tracing::debug!(pid = it.pid, %error, "is not moved to share the load");
        self.rest(whom, now);
    }
}

fn of_load(address: Ipv4Addr, load: &Load) -> Place {
    Place {
        address,
        speed: f64::from(load.speed) / f64::from(STANDARD_SPEED),
        processors: f64::from(load.cpus) / 100.0,
        running: running_of(load),
        free: load.mem,
        memory: load.tmem,
        open: load.status.has(Status::UP) && !load.status.has(Status::BLOCK),
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
