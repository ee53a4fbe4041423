//! What a node remembers between two decisions: who is on the way, what nobody's figures show yet, who is left alone.
//!
//! Time is a length since any moment, the same for all calls; it must not go back.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Candidate, Costs, Move, Place, View, decide, would_take};
use crate::load::{Load, Measured, STANDARD_SPEED, Status, running_of};
use crate::wire::Offer;

/// What a node told longer ago than this says nothing about it now.
const OLD: Duration = Duration::from_secs(20);
/// Nodes that a decision looks at: those where its own processes are, and otherwise those that have told most lately.
/// Of so many some have room, and what older ones tell is often not so any more.
const LOOKED_AT: usize = 32;
/// Moves at a time.
const MOVES: usize = 6;
/// What is measured shows who has come or gone only after so long: where it follows at once, and where it follows
/// slowly ([`crate::load::Filter`]).
const SHOWS: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(1000)];
/// Memory shows later: where it comes it has to be sent, and where it goes the copy is given up only then.
const MEMORY_SHOWS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// How long a process that stays, or a node that takes none, is left alone at first, and at the most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(120)];
/// A node that takes none is left alone for so long at the most: its load has changed, and may again; of one that is gone
/// discovery knows sooner.
const NODE_PAUSE: Duration = Duration::from_secs(4);
/// How long a process is left alone that its user has sent somewhere.
const BY_HAND: Duration = Duration::from_secs(60);

/// Who uses more than this share of a processor counts as running, though it waits at the moment.
const BUSY: f64 = 0.2;
/// How long a process that was moved to share the load does not go back where it was.
const BACK: Duration = Duration::from_secs(30);

/// Octets whose sending says how fast memory is sent: of less the other node's own files, which it reads meanwhile, could
/// take as long.
const ENOUGH: u64 = 16 << 20;
/// What a call that is made at home takes at both ends, beside the way there and back: two processes wake up for it.
const ENDS: Duration = Duration::from_micros(60);

/// Why a move was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The process has ended.
    Gone,
    /// The other node does not take it, or cannot be reached.
    Node,
    /// The process cannot move.
    Process,
}

/// Who can be left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whom {
    Process(i32),
    Node(Ipv4Addr),
}

/// A process that is being moved. None: home.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    pid: i32,
    from: Option<Ipv4Addr>,
    to: Option<Ipv4Addr>,
    /// KiB
    memory: u64,
}

/// A process has come to a node, or has gone from there. None: this node.
#[derive(Clone, Copy, Debug)]
struct Change {
    at: Option<Ipv4Addr>,
    came: bool,
    when: Duration,
    /// KiB
    memory: u64,
}

/// What a process that is away uses of the processors there.
#[derive(Clone, Copy, Debug)]
struct Uses {
    /// Since it came.
    all: Duration,
    /// When that was told.
    at: Duration,
    /// It runs or could.
    runs: bool,
}

/// The books of one node.
#[derive(Debug, Default)]
pub struct Books {
    measured: Option<Measured>,
    speed: u32,
    status: Status,
    busy: bool,
    /// When guests came, and their memory in KiB: the measurement does not show them yet.
    came: Vec<(Duration, u64)>,
    under_way: Vec<UnderWay>,
    /// Moves that were made: what those nodes tell does not show them yet.
    made: Vec<Change>,
    /// Who is left alone, until when, and for how long the last time.
    pauses: HashMap<Whom, (Duration, Duration)>,
    /// Since when processes are where they are.
    since: HashMap<i32, (Ipv4Addr, Duration)>,
    /// What those that are away have told that they use.
    uses: HashMap<i32, Uses>,
    /// When processes have left places. None: home.
    left: HashMap<(i32, Option<Ipv4Addr>), Duration>,
    costs: Costs,
}

impl Books {
    /// Takes in what this node has measured of itself; whether it has room from now on and had none before.
    pub fn measure(&mut self, measured: Measured, speed: u32, status: Status) -> bool {
        (self.measured, self.speed, self.status) = (Some(measured), speed, status);
        let was_busy = self.busy;
        self.busy = measured.told + 0.5 >= f64::from(measured.processors) / 100.0;
        was_busy && !self.busy
    }

    /// What this node tells of itself, or would if it were not quiet.
    pub fn load(&self) -> Option<Load> {
        Some(self.measured?.load(self.speed, self.status))
    }

    /// What moves and calls cost, as far as it is known.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// This node, as it tells of itself.
    fn own(&self, address: Ipv4Addr) -> Option<Place> {
        let measured = self.measured?;
        Some(Place { running: measured.told, ..place(address, &measured.load(self.speed, self.status)) })
    }

    /// Whether a process that another node offers is taken; it counts from now on.
    ///
    /// # Errors
    /// Why not, for that node.
    pub fn consider(&mut self, now: Duration, offer: &Offer) -> Result<(), &'static str> {
        let mut place = self.own(Ipv4Addr::UNSPECIFIED).ok_or("it has not measured its load yet")?;
        self.came.retain(|(at, _)| now.saturating_sub(*at) < MEMORY_SHOWS[0]);
        let running = self.came.iter().filter(|(at, _)| now.saturating_sub(*at) < SHOWS[0]);
        place.running += counted(running.count());
        place.free = place.free.saturating_sub(self.came.iter().map(|(_, memory)| memory).sum());
        if !would_take(&place, offer.has, offer.memory, offer.ushered) {
            return Err("its load has changed");
        }
        self.came.push((now, offer.memory));
        Ok(())
    }

    /// What a decision looks at. `told` is what the others have told, and how old that is, latest first; `stay`:
    /// nothing leaves this node to share its load. `None`: nothing was measured yet.
    pub fn view(
        &mut self,
        now: Duration,
        address: Ipv4Addr,
        told: impl IntoIterator<Item = (Ipv4Addr, Load, Duration)>,
        stay: bool,
    ) -> Option<View> {
        self.made.retain(|change| now.saturating_sub(change.when) < OLD);
        self.pauses.retain(|_, (until, pause)| *until + *pause > now);
        self.left.retain(|_, when| now.saturating_sub(*when) < BACK);
        let mut home = self.own(address)?;
        // What is used here falls at once, and what others tell rises at once.
        let [quick, slow] = SHOWS;
        home.running = (self.measured?.mean + self.unseen(now, None, [slow, quick])).max(0.0);
        self.take_up_memory(now, &mut home, None, Duration::ZERO);
        let mut away: HashSet<Ipv4Addr> = self.since.values().map(|(address, _)| *address).collect();
        let mut others = Vec::with_capacity(LOOKED_AT);
        for it @ (address, _, age) in told {
            if age > OLD || (others.len() >= LOOKED_AT && away.is_empty()) {
                break;
            }
            let wanted = away.remove(&address) || others.len() < LOOKED_AT;
            if wanted && address != home.address && !self.rests(Whom::Node(address), now) {
                others.push(it);
            }
        }
        let others = others.into_iter().map(|(address, load, age)| {
            let unseen = self.unseen(now, Some(address), [age + quick, age + slow]);
            let mut place = place(address, &load);
            self.take_up_memory(now, &mut place, Some(address), age);
            Place { running: (place.running + unseen).max(0.0), ..place }
        });
        Some(View { home, others: others.collect(), stay, left: self.left.keys().copied().collect() })
    }

    /// Takes into account the memory that comes to a place and goes from it, and that what it told does not show yet.
    fn take_up_memory(&self, now: Duration, place: &mut Place, at: Option<Ipv4Addr>, age: Duration) {
        for (came, memory) in self.changes(now, at, MEMORY_SHOWS.map(|shows| age + shows)) {
            place.free = if came {
                place.free.saturating_sub(memory)
            } else {
                place.free.saturating_add(memory).min(place.memory)
            };
        }
    }

    /// How many more run there than is measured.
    fn unseen(&self, now: Duration, at: Option<Ipv4Addr>, shows: [Duration; 2]) -> f64 {
        self.changes(now, at, shows).map(|(came, _)| if came { 1.0 } else { -1.0 }).sum()
    }

    /// What is not measured there yet: whether it comes, and its memory in KiB. Who comes is not seen for the first of these
    /// times, who goes for the second.
    fn changes(
        &self,
        now: Duration,
        at: Option<Ipv4Addr>,
        shows: [Duration; 2],
    ) -> impl Iterator<Item = (bool, u64)> {
        let made = self.made.iter().filter(move |it| it.at == at);
        let made = made.filter(move |it| now.saturating_sub(it.when) < shows[usize::from(!it.came)]);
        let under_way =
            self.under_way.iter().flat_map(|it| [(it.from, false, it.memory), (it.to, true, it.memory)]);
        let under_way = under_way.filter(move |(place, ..)| *place == at);
        made.map(|it| (it.came, it.memory)).chain(under_way.map(|(_, came, memory)| (came, memory)))
    }

    /// Forgets what is known of processes that are not away any more.
    pub fn still_away(&mut self, is: impl Fn(i32) -> bool) {
        self.since.retain(|pid, _| is(*pid));
        self.uses.retain(|pid, _| is(*pid));
    }

    /// What a process that is away has used of the processors there since it came, in their time, and whether it runs now
    /// or could.
    pub fn used_away(&mut self, now: Duration, pid: i32, all: Duration, runs: bool) {
        // Less than before: it has gone on to another node meanwhile.
        let before = self.uses.get(&pid).filter(|before| before.all <= all);
        let ran = before.is_some_and(|before| {
            let (used, time) = (all - before.all, now.saturating_sub(before.at));
            used.as_secs_f64() > time.as_secs_f64() * BUSY
        });
        if self.uses.insert(pid, Uses { all, at: now, runs: runs || ran }).is_none() {
            self.uses.retain(|_, uses| now.saturating_sub(uses.at) < OLD);
        }
    }

    /// Whether a process is neither on its way nor left alone.
    pub fn may_move(&self, now: Duration, pid: i32) -> bool {
        !self.under_way.iter().any(|it| it.pid == pid) && !self.rests(Whom::Process(pid), now)
    }

    /// A process of this node that is away at `address`. What it uses there is not seen here, but told; until it is, it
    /// counts as busy, for one that has come this far is no short-lived one.
    pub fn away(&mut self, now: Duration, candidate: Candidate, address: Ipv4Addr) -> Candidate {
        let (at, begun) = self.since.entry(candidate.pid).or_insert((address, now));
        if *at != address {
            (*at, *begun) = (address, now);
        }
        let since = now.saturating_sub(*begun);
        let uses = self.uses.get(&candidate.pid);
        let used = candidate.used + uses.map_or(since, |uses| uses.all).as_secs_f64();
        Candidate { used, runs: uses.is_none_or(|uses| uses.runs), away: Some(address), since, ..candidate }
    }

    /// The moves that are worth while now, with what the other node is told of each; they are under way from now on,
    /// until [`Self::done`] or [`Self::failed`].
    pub fn decide(&mut self, view: &View, candidates: &[Candidate]) -> Vec<(Move, Offer)> {
        let limit = MOVES.saturating_sub(self.under_way.len());
        let moves = decide(view, candidates, &self.costs, limit);
        let with = |it: Move| {
            let candidate = candidates.iter().find(|candidate| candidate.pid == it.pid)?;
            self.under_way.push(UnderWay {
                pid: it.pid,
                from: candidate.away,
                to: it.to,
                memory: candidate.memory,
            });
            Some((it, Offer { has: it.has, memory: candidate.memory, ushered: it.ushered }))
        };
        moves.into_iter().filter_map(with).collect()
    }

    /// A move is made, and took so long.
    pub fn done(&mut self, now: Duration, it: &Move, took: Duration) {
        if let Some(UnderWay { from, to, memory, .. }) = self.arrived(it) {
            let change = |at, came| Change { at, came, when: now, memory };
            self.made.extend([change(from, false), change(to, true)]);
            self.left.insert((it.pid, from), now);
        }
        self.pauses.remove(&Whom::Process(it.pid));
        if let Some(to) = it.to {
            self.pauses.remove(&Whom::Node(to));
            self.costs.base = self.costs.base * 0.9 + took.as_secs_f64().min(5.0) * 0.1;
        }
    }

    /// The memory of a process has been sent: so many octets, in so long a time, by a connection that has been there and
    /// back as fast as that. A little of it says nothing of the rate.
    pub fn sent(&mut self, octets: u64, took: Duration, round_trip: Duration) {
        let (seconds, call) = (took.as_secs_f64(), (ENDS + round_trip).as_secs_f64());
        self.costs.call = self.costs.call * 0.9 + call.min(1.0) * 0.1;
        if octets >= ENOUGH && seconds > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let rate = octets as f64 / 1024.0 / seconds;
            self.costs.rate = self.costs.rate * 0.9 + rate * 0.1;
        }
    }

    /// A move is not made. Whoever that is due to is left alone for a time that doubles.
    pub fn failed(&mut self, now: Duration, it: &Move, why: Failed) {
        self.arrived(it);
        let whom = match (why, it.to) {
            (Failed::Gone, _) => return,
            (Failed::Node, Some(to)) => Whom::Node(to),
            _ => Whom::Process(it.pid),
        };
        let last = self.pauses.get(&whom).map_or(PAUSES[0] / 2, |(_, pause)| *pause);
        let most = if matches!(whom, Whom::Node(_)) { NODE_PAUSE } else { PAUSES[1] };
        let pause = (last * 2).min(most);
        self.pauses.insert(whom, (now + pause, pause));
    }

    /// A user has sent a process where he wants it: it stays there for a while.
    pub fn by_hand(&mut self, now: Duration, pid: i32) {
        self.pauses.insert(Whom::Process(pid), (now + BY_HAND, PAUSES[0] / 2));
    }

    /// A user wants a process to be moved as the load asks: it is left alone no longer.
    pub fn asked(&mut self, pid: i32) {
        self.pauses.remove(&Whom::Process(pid));
    }

    fn arrived(&mut self, it: &Move) -> Option<UnderWay> {
        let at = self.under_way.iter().position(|under_way| under_way.pid == it.pid)?;
        Some(self.under_way.swap_remove(at))
    }

    fn rests(&self, whom: Whom, now: Duration) -> bool {
        self.pauses.get(&whom).is_some_and(|(until, _)| *until > now)
    }
}

fn counted(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn place(address: Ipv4Addr, load: &Load) -> Place {
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

#[cfg(test)]
mod tests;
