//! Which process runs where.
//!
//! A process that computes gets a share of a node's processors: their speed, divided by how many run for each. It moves
//! where it would be done sooner, with what the move itself costs, and gets clearly more than it has. How long it will
//! still run is not known; of processes whose lives are as those of UNIX's are, one that has used a second of processor
//! time will on the average use another one (Harchol-Balter and Downey 1997). So short-lived ones stay, and old ones
//! with little memory go first.
//!
//! Nothing bounces: no process gains by a move once all nodes give about the same, one more process on the other node
//! counted; and where the load changes faster than that, none goes back where it has just been ([`View::left`]). And
//! nothing floods a node that looks idle: what was sent there counts until its load shows it ([`Place::running`] is for
//! the caller to keep right), and the node itself has the last word ([`would_take`]).
//!
//! Memory comes before load: a node that is about to swap sends its biggest process to one that has room.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What a move has to give more, so that it is made.
const GAIN: f64 = 1.08;
/// How long a process stays where it has come, at least.
pub const STAYS: Duration = Duration::from_secs(3);
/// Targets that are looked at: those that give most.
const TARGETS: usize = 8;
/// What a node keeps of its memory, in percent, before it sends processes away to have more.
const RESERVE: u64 = 6;
/// Of the memory that a node has left, what a process that comes may take, in percent.
const ROOM: u64 = 80;

/// A node, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Where.
    pub address: Ipv4Addr,
    /// The speed of one of its processors; 1 is a standard one.
    pub speed: f64,
    /// Its processors, maybe a part of one.
    pub processors: f64,
    /// Processes that run there, or could.
    pub running: f64,
    /// Memory that is left, in KiB.
    pub free: u64,
    /// All of its memory, in KiB.
    pub memory: u64,
    /// It lets guests in.
    pub open: bool,
}

impl Place {
    /// What each process gets there, in standard processors, with so many more.
    pub fn gives(&self, more: f64) -> f64 {
        let running = (self.running + more).max(1.0);
        self.speed * (self.processors / running).min(1.0)
    }
}

/// A process that could move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub pid: i32,
    /// Processor time that it has used of late, in seconds of a standard processor.
    pub used: f64,
    /// It is running, or could.
    pub runs: bool,
    /// Its memory, in KiB.
    pub memory: u64,
    /// System calls a second of processor time that are made at home.
    pub calls: f64,
    /// It is said to do input and output, and is best at home.
    pub io: bool,
    /// Where it is away; none: it is at home.
    pub away: Option<Ipv4Addr>,
    /// How long it has been where it is.
    pub since: Duration,
}

/// What moves and calls cost, as was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// What any move takes, in seconds.
    pub base: f64,
    /// KiB a second that a move sends.
    pub rate: f64,
    /// What a call that is made at home takes more, in seconds.
    pub call: f64,
}

impl Default for Costs {
    /// Until something has been measured: on a network of 1 Gbit/s.
    fn default() -> Self {
        Self { base: 0.1, rate: 100_000.0, call: 0.000_1 }
    }
}

impl Costs {
    fn of_move(&self, memory: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a length of time")]
        let memory = memory as f64;
        self.base + memory / self.rate.max(1.0)
    }

    /// How much slower a process is away for the calls that it makes at home.
    fn away(&self, candidate: &Candidate) -> f64 {
        1.0 + candidate.calls * self.call
    }
}

/// What is known of this node and all others.
#[derive(Clone, Debug)]
pub struct View {
    /// This one.
    pub home: Place,
    /// The others that are alive, and have told something of themselves.
    pub others: Vec<Place>,
    /// Nothing leaves this node to share its load.
    pub stay: bool,
    /// Processes, each with a place that it has left of late: none goes back there. No place: home.
    pub left: HashSet<(i32, Option<Ipv4Addr>)>,
}

impl View {
    /// Whether there may be something to decide, as far as processes go that are at home.
    pub fn asks(&self) -> bool {
        let better = |place: &Place| place.open && place.gives(1.0) > self.home.gives(0.0);
        self.home.free < self.home.memory / 10 || (!self.stay && self.others.iter().any(better))
    }
}

/// A process that is to move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Its id.
    pub pid: i32,
    /// Where to; none: home.
    pub to: Option<Ipv4Addr>,
    /// What it has where it is, in thousandths of a standard processor.
    pub has: u32,
    /// It goes for the memory that it takes.
    pub ushered: bool,
}

/// Whether a node takes a process that has this much where it is, in thousandths of a standard processor.
pub fn would_take(place: &Place, has: u32, memory: u64, ushered: bool) -> bool {
    place.open && fits(place, memory) && (ushered || place.gives(1.0) * 1000.0 > f64::from(has))
}

fn fits(place: &Place, memory: u64) -> bool {
    let reserve = place.memory / 100 * RESERVE;
    memory <= place.free.saturating_sub(reserve) / 100 * ROOM
}

/// The moves that are worth while now, the most urgent first, `limit` at the most.
pub fn decide(view: &View, candidates: &[Candidate], costs: &Costs, limit: usize) -> Vec<Move> {
    let mut view = view.clone();
    let mut left: Vec<Candidate> = candidates.to_vec();
    let mut moves = usher(&mut view, &mut left, limit);
    while moves.len() < limit {
        let Some((index, to)) = best(&view, &left, costs) else { break };
        let candidate = left.swap_remove(index);
        let has = thousandths(has_now(&view, &candidate, costs));
        shift(&mut view, &candidate, to);
        moves.push(Move { pid: candidate.pid, to, has, ushered: false });
    }
    moves
}

/// What a process has where it is.
fn has_now(view: &View, candidate: &Candidate, costs: &Costs) -> f64 {
    match candidate.away {
        None => view.home.gives(0.0),
        Some(address) => match view.others.iter().find(|place| place.address == address) {
            Some(place) => place.gives(0.0) / costs.away(candidate),
            // Nothing is known of that node, so nothing is done about it.
            None => f64::INFINITY,
        },
    }
}

/// The move that gains most time.
fn best(view: &View, candidates: &[Candidate], costs: &Costs) -> Option<(usize, Option<Ipv4Addr>)> {
    let targets = targets(view);
    let mut best: Option<(f64, usize, Option<Ipv4Addr>)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        if candidate.since < STAYS && candidate.away.is_some() {
            continue;
        }
        let has = has_now(view, candidate, costs);
        // Who turns out to call home all the time is best there, whatever the load.
        let calls = costs.away(candidate) > GAIN;
        let goes_home = candidate.away.is_some() && (candidate.runs || calls);
        let home = goes_home.then_some((None, view.home.gives(1.0)));
        let away = targets.iter().filter(|_| !candidate.io && !view.stay && candidate.runs);
        let away = away.filter(|place| Some(place.address) != candidate.away);
        let away = away.filter(|place| fits(place, candidate.memory));
        let away = away.map(|place| (Some(place.address), place.gives(1.0) / costs.away(candidate)));
        for (to, gets) in home.into_iter().chain(away) {
            let back = view.left.contains(&(candidate.pid, to)) && !(calls && to.is_none());
            if gets < has * GAIN || back {
                continue;
            }
            let gain = candidate.used / has - candidate.used / gets - costs.of_move(candidate.memory);
            if gain > 0.0 && best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, index, to));
            }
        }
    }
    best.map(|(_, index, to)| (index, to))
}

/// Where a process would have most, its memory having room there, whatever a move costs: its user has asked. Where it is,
/// unless it is clearly more; none: home.
pub fn best_place(view: &View, candidate: &Candidate, costs: &Costs) -> Option<Ipv4Addr> {
    let here = (candidate.away, has_now(view, candidate, costs) * GAIN);
    let home = candidate.away.is_some().then_some((None, view.home.gives(1.0)));
    let open = view.others.iter().filter(|place| place.open && fits(place, candidate.memory));
    let away = open.filter(|place| Some(place.address) != candidate.away && !candidate.io);
    let away = away.map(|place| (Some(place.address), place.gives(1.0) / costs.away(candidate)));
    let all = std::iter::once(here).chain(home).chain(away);
    all.max_by(|(_, one), (_, other)| one.total_cmp(other)).and_then(|(place, _)| place)
}

/// The nodes that would give one more process most.
fn targets(view: &View) -> Vec<Place> {
    let mut open: Vec<Place> = view.others.iter().filter(|place| place.open).copied().collect();
    let more = |one: &Place, other: &Place| other.gives(1.0).total_cmp(&one.gives(1.0));
    if open.len() > TARGETS {
        open.select_nth_unstable_by(TARGETS - 1, more);
        open.truncate(TARGETS);
    }
    open.sort_by(more);
    open
}

/// What memory asks for: the biggest process that is at home goes where most is left, until there is enough here again.
fn usher(view: &mut View, candidates: &mut Vec<Candidate>, limit: usize) -> Vec<Move> {
    let mut moves = Vec::new();
    while moves.len() < limit && view.home.free < view.home.memory / 100 * RESERVE {
        let biggest = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.away.is_none() && candidate.memory > 0)
            .max_by_key(|(_, candidate)| candidate.memory)
            .map(|(index, candidate)| (index, *candidate));
        let Some((index, candidate)) = biggest else { break };
        candidates.swap_remove(index);
        let room = view.others.iter().filter(|place| place.open && fits(place, candidate.memory));
        let Some(to) = room.max_by_key(|place| place.free).map(|place| place.address) else { continue };
        shift(view, &candidate, Some(to));
        moves.push(Move { pid: candidate.pid, to: Some(to), has: 0, ushered: true });
    }
    moves
}

/// As it will be after the move.
fn shift(view: &mut View, candidate: &Candidate, to: Option<Ipv4Addr>) {
    let runs = f64::from(u8::from(candidate.runs));
    let mut change = |address: Option<Ipv4Addr>, sign: f64| {
        let place = match address {
            None => Some(&mut view.home),
            Some(address) => view.others.iter_mut().find(|place| place.address == address),
        };
        if let Some(place) = place {
            place.running = (place.running + sign * runs).max(0.0);
            place.free = if sign > 0.0 {
                place.free.saturating_sub(candidate.memory)
            } else {
                place.free.saturating_add(candidate.memory).min(place.memory)
            };
        }
    };
    change(candidate.away, -1.0);
    change(to, 1.0);
}

fn thousandths(share: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let thousandths = (share * 1000.0) as u32;
    thousandths
}
