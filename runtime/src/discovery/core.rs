//! The protocol: octets and time in, octets and times out.
//!
//! - **Who is there**: [`Content::Hello`], to all by multicast and to those that the master has named, at once and then
//!   more and more rarely. Who does not know the sender answers it alone, a few of many.
//! - **Who is alive**: SWIM (Das, Gupta, Motivala 2002), by foca.
//! - **What they tell**: each second the latest of the [`Vector`] to one member at random and to one that has been heard
//!   of most recently.
//!
//! Time is a length since any moment; it must not go back.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{
    Config, Foca, Member, Notification, OwnedNotification, PeriodicParams, PostcardCodec, Runtime, Timer,
};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

use super::vector::{Entry, IN_MESSAGE, Vector};
use super::{Run, replay};
use crate::load::Load;

/// Between two tellings of the load.
pub const TELLING: Duration = Duration::from_secs(1);
/// After the first hello.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between two hellos of one node at the most, where there are up to [`FEW`] members. All hear each one: of more
/// members each says it more rarely, so that all together say it about once a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const FEW: f64 = 10.0;
/// About so many answer the hello of a newcomer, however many hear it.
const ANSWERS: usize = 8;
/// So many hear at once of a node that has room.
const URGED: usize = 3;
/// The longest word of foca's: with what is around it, it fits one frame of Ethernet.
const SWIM_ROOM: usize = 1280;

/// A datagram's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Who sends it.
    pub run: Run,
    /// How many this run has sent before.
    pub number: u64,
    /// What it is.
    pub content: Content,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The sender is there.
    Hello {
        /// It wants to know who else is.
        asks: bool,
        /// The number that the receiver's run has to pass to be believed, for an earlier one had it.
        pass: Option<u64>,
    },
    /// Of foca.
    Swim(Vec<u8>),
    /// The latest that the sender knows.
    Loads(Vec<Entry>),
}

/// Something for the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to one node.
    Send(Ipv4Addr, Vec<u8>),
    /// Send this to whoever hears it.
    SendAll(Vec<u8>),
    /// A node is there.
    Up(Ipv4Addr),
    /// It is gone.
    Down(Ipv4Addr),
}

/// Why a datagram was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has the key, and does not keep to the protocol.
    #[error("it is not what a node of this version sends")]
    NotUnderstood,
    /// It says that another node has sent it.
    #[error("it comes from another address than it says")]
    WrongAddress,
    /// It came before, or is of an earlier run of its sender.
    #[error("it was sent before")]
    Replayed,
}

/// What is due, and when.
#[derive(PartialEq, Eq)]
struct Due {
    at: Duration,
    order: u64,
    timer: Timer<Run>,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The earliest is the greatest, for `BinaryHeap`.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What foca asks for.
#[derive(Default)]
struct Effects {
    now: Duration,
    order: u64,
    due: BinaryHeap<Due>,
    words: Vec<(Run, Vec<u8>)>,
    told: Vec<OwnedNotification<Run>>,
}

impl Runtime<Run> for Effects {
    fn notify(&mut self, notification: Notification<'_, Run>) {
        self.told.push(notification.to_owned());
    }

    fn send_to(&mut self, to: Run, data: &[u8]) {
        self.words.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Run>, after: Duration) {
        self.order += 1;
        self.due.push(Due { at: self.now + after, order: self.order, timer });
    }
}

/// One node's part.
pub struct Core<R: Rng> {
    run: Run,
    foca: Foca<Run, PostcardCodec, R, foca::NoCustomBroadcast>,
    rng: R,
    effects: Effects,
    number: u64,
    version: u32,
    vector: Vector,
    /// Who is alive, in the order of addresses.
    members: Vec<Run>,
    /// The last run of each address that was a member.
    gone: HashMap<Ipv4Addr, u64>,
    heard: HashMap<Ipv4Addr, replay::Window>,
    /// Who has told something of its own most recently.
    recent: Option<Ipv4Addr>,
    seeds: Vec<Ipv4Addr>,
    hello: Duration,
    pause: Duration,
    telling: Duration,
    own: Option<Load>,
    output: VecDeque<Output>,
}

impl<R: Rng + Clone> Core<R> {
    /// A node's part, from now on. The two generators have to differ.
    pub fn new(now: Duration, run: Run, mut rng: R, foca_rng: R) -> Self {
        // Not all at once, where a room of machines is switched on.
        let telling = now + TELLING.mul_f64(rng.random());
        Self {
            run,
            foca: Foca::new(run, config(), foca_rng, PostcardCodec),
            rng,
            effects: Effects::default(),
            number: 0,
            version: 0,
            vector: Vector::default(),
            members: Vec::new(),
            gone: HashMap::new(),
            heard: HashMap::new(),
            recent: None,
            seeds: Vec::new(),
            hello: now,
            pause: FIRST_PAUSE,
            telling,
            own: None,
            output: VecDeque::new(),
        }
    }

    /// The next thing for the outside.
    pub fn output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When [`Self::elapse`] is due.
    pub fn due(&self) -> Duration {
        let timer = self.effects.due.peek().map(|due| due.at);
        timer.into_iter().fold(self.hello.min(self.telling), Duration::min)
    }

    /// Who this is.
    pub fn run(&self) -> Run {
        self.run
    }

    /// The others that are alive, in the order of their addresses.
    pub fn members(&self) -> &[Run] {
        &self.members
    }

    /// What a node tells of itself, and how old that is.
    pub fn load_of(&self, now: Duration, address: Ipv4Addr) -> Option<(Load, Duration)> {
        self.vector.of(now, address)
    }

    /// What all nodes tell of themselves that this one has heard of lately, itself among them, and how old that is: the
    /// latest first.
    pub fn told(&self, now: Duration) -> impl Iterator<Item = (Ipv4Addr, Load, Duration)> {
        self.vector.all(now)
    }

    /// What this node tells of itself from now on; `None`: nothing.
    pub fn tell(&mut self, now: Duration, load: Option<Load>) {
        self.own = load;
        match load {
            Some(load) => {
                self.version = self.version.wrapping_add(1);
                let entry = Entry { run: self.run, version: self.version, age_ms: 0, load };
                self.vector.take(now, &entry);
            }
            None => self.vector.forget(self.run.address),
        }
    }

    /// Tells those that have most to do at once what this node has told last: it has room.
    pub fn urge(&mut self, now: Duration) {
        let busiest = self.vector.busiest(URGED + 1);
        let to: Vec<Ipv4Addr> =
            busiest.into_iter().filter(|it| *it != self.run.address).take(URGED).collect();
        self.say_loads(now, &to);
    }

    /// Nodes that are there as the master knows, for where multicast is dropped.
    pub fn seeds(&mut self, now: Duration, seeds: &[Ipv4Addr]) {
        self.seeds = seeds.iter().copied().filter(|seed| *seed != self.run.address).collect();
        self.hello = now;
        self.pause = FIRST_PAUSE;
        self.elapse(now);
    }

    /// Takes over who is there, and tells nobody: so a simulation begins in the middle.
    pub fn know(&mut self, now: Duration, others: impl Iterator<Item = Run>) {
        self.effects.now = now;
        let others = others.filter(|run| run.address != self.run.address).map(Member::alive);
        // It fails only where foca's own words do not fit a datagram.
        let _known = self.foca.apply_many(others, false, &mut self.effects);
        self.settle();
        self.output = VecDeque::new();
        self.pause = self.longest_pause();
        self.hello = now + self.pause.mul_f64(self.rng.random());
    }

    /// Says that this node leaves.
    pub fn leave(&mut self, now: Duration) {
        self.effects.now = now;
        // It fails only where the word does not fit a datagram, and then the others find out by themselves.
        let _left = self.foca.leave_cluster(&mut self.effects);
        self.settle();
    }

    /// What time brings.
    pub fn elapse(&mut self, now: Duration) {
        self.effects.now = now;
        while self.effects.due.peek().is_some_and(|due| due.at <= now) {
            let Some(due) = self.effects.due.pop() else { break };
            // An error tells of a timer that is out of date.
            let _stale = self.foca.handle_timer(due.timer, &mut self.effects);
        }
        self.settle();
        if self.hello <= now {
            self.say_hello();
            self.hello = now + self.pause.mul_f64(1.0 + self.rng.random::<f64>() / 4.0);
            self.pause = (self.pause * 2).min(self.longest_pause());
        }
        if self.telling <= now {
            self.gossip(now);
            self.telling += TELLING;
            if self.telling <= now {
                // The machine has slept.
                self.telling = now + TELLING;
            }
        }
    }

    /// Takes in what has come from an address.
    ///
    /// # Errors
    /// [`Refused`]: nothing of it was believed.
    pub fn receive(&mut self, now: Duration, from: Ipv4Addr, octets: &[u8]) -> Result<(), Refused> {
        let packet: Packet = postcard::from_bytes(octets).map_err(|_| Refused::NotUnderstood)?;
        let Packet { run, number, content } = packet;
        if run.address != from || from == self.run.address {
            return Err(Refused::WrongAddress);
        }
        self.effects.now = now;
        if !self.heard.entry(from).or_default().is_new(run.number, number) {
            // One whose clock was set back is told, so that it can be heard.
            if matches!(content, Content::Hello { asks: true, .. }) {
                let pass = self.last_run(from);
                if pass.is_some_and(|known| known > run.number) {
                    self.send(from, Content::Hello { asks: false, pass });
                }
            }
            return Err(Refused::Replayed);
        }
        match content {
            Content::Hello { asks, pass } => self.hello_from(run, asks, pass),
            // What foca does not take in is out of date, or of a version that this one does not know.
            Content::Swim(word) => {
                self.foca.handle_data(&word, &mut self.effects).map_err(|_| Refused::NotUnderstood)?;
            }
            Content::Loads(entries) => {
                for entry in entries.iter().take(IN_MESSAGE) {
                    let alive = entry.run.address != self.run.address && self.is_member(entry.run);
                    if alive && self.vector.take(now, entry) && entry.run == run {
                        self.recent = Some(from);
                    }
                }
            }
        }
        self.settle();
        Ok(())
    }

    fn hello_from(&mut self, run: Run, asks: bool, pass: Option<u64>) {
        if let Some(pass) = pass
            && pass >= self.run.number
            && let Some(number) = pass.checked_add(1)
        {
            let next = Run { number, ..self.run };
            if self.foca.change_identity(next, &mut self.effects).is_ok() {
                self.run = next;
            }
        }
        let known = self.is_member(run);
        if !known {
            let alive = Member::alive(run);
            // It fails only where foca's own words do not fit a datagram.
            let _heard = self.foca.apply_many(std::iter::once(alive), true, &mut self.effects);
        }
        if asks {
            // Of very many that hear it a few are enough: the rest comes with what they tell.
            let others = self.foca.num_members().max(1);
            if others <= ANSWERS || self.rng.random_range(0..others) < ANSWERS {
                self.send(run.address, Content::Hello { asks: false, pass: None });
            }
        } else if !known {
            // All that it knows, and not one by one.
            let _asked = self.foca.announce(run, &mut self.effects);
        }
    }

    /// Where an address stands among the members, or would.
    fn place(&self, address: Ipv4Addr) -> Result<usize, usize> {
        self.members.binary_search_by_key(&address, |member| member.address)
    }

    fn is_member(&self, run: Run) -> bool {
        self.place(run.address).is_ok_and(|at| self.members[at] == run)
    }

    fn last_run(&self, address: Ipv4Addr) -> Option<u64> {
        let member = self.place(address).ok().map(|at| self.members[at].number);
        member.or_else(|| self.gone.get(&address).copied())
    }

    #[expect(clippy::cast_precision_loss, reason = "a length of time")]
    fn longest_pause(&self) -> Duration {
        LONGEST_PAUSE.mul_f64((self.members.len() as f64 / FEW).max(1.0))
    }

    /// The time within which each member says hello to all, twice or more often.
    pub fn hellos(&self) -> Duration {
        self.longest_pause() * 3
    }

    fn say_hello(&mut self) {
        let packet = self.packet(Content::Hello { asks: true, pass: None });
        self.output.push_back(Output::SendAll(packet));
        for seed in self.seeds.clone() {
            self.send(seed, Content::Hello { asks: true, pass: None });
        }
    }

    fn gossip(&mut self, now: Duration) {
        if let Some(load) = self.own {
            self.tell(now, Some(load));
        }
        let one = self.members.choose(&mut self.rng).map(|member| member.address);
        let recent = self.recent.filter(|recent| one != Some(*recent) && self.place(*recent).is_ok());
        let to: Vec<Ipv4Addr> = one.into_iter().chain(recent).collect();
        self.say_loads(now, &to);
    }

    fn say_loads(&mut self, now: Duration, to: &[Ipv4Addr]) {
        let entries = self.vector.latest(now, IN_MESSAGE);
        for address in to {
            self.send(*address, Content::Loads(entries.clone()));
        }
    }

    /// Passes on what foca has asked for.
    fn settle(&mut self) {
        for (to, word) in std::mem::take(&mut self.effects.words) {
            self.send(to.address, Content::Swim(word));
        }
        for told in std::mem::take(&mut self.effects.told) {
            match told {
                OwnedNotification::MemberUp(run) => {
                    self.gone.remove(&run.address);
                    match self.place(run.address) {
                        Ok(at) => self.members[at] = run,
                        Err(at) => self.members.insert(at, run),
                    }
                    self.output.push_back(Output::Up(run.address));
                }
                OwnedNotification::MemberDown(run) => {
                    if let Ok(at) = self.place(run.address) {
                        self.members.remove(at);
                    }
                    self.gone.insert(run.address, run.number);
                    self.vector.forget(run.address);
                    // Of the fewer that are left each has to say hello more often.
                    self.hello = self.hello.min(self.effects.now + self.longest_pause());
                    self.output.push_back(Output::Down(run.address));
                }
                OwnedNotification::Rename(_, run) => match self.place(run.address) {
                    Ok(at) => self.members[at] = run,
                    Err(_) => _ = self.gone.insert(run.address, run.number),
                },
                OwnedNotification::Rejoin(run) => self.run = run,
                _ => {}
            }
        }
    }

    fn send(&mut self, to: Ipv4Addr, content: Content) {
        let packet = self.packet(content);
        self.output.push_back(Output::Send(to, packet));
    }

    fn packet(&mut self, content: Content) -> Vec<u8> {
        self.number += 1;
        let packet = Packet { run: self.run, number: self.number, content };
        // It fails for none of these types.
        postcard::to_stdvec(&packet).unwrap_or_default()
    }
}

/// A dead node is found by the others within half a second on the average, and believed dead after two more.
fn config() -> Config {
    let one = NonZeroUsize::MIN;
    let every = |frequency, num_members| Some(PeriodicParams { frequency, num_members });
    Config {
        probe_period: Duration::from_millis(500),
        probe_rtt: Duration::from_millis(200),
        num_indirect_probes: one.saturating_add(2),
        max_transmissions: NonZeroU8::MIN.saturating_add(14),
        suspect_to_down_after: Duration::from_millis(1500),
        remove_down_after: Some(Duration::from_secs(24 * 3600)),
        max_packet_size: one.saturating_add(SWIM_ROOM - 1),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), one),
        periodic_announce_to_down_members: every(Duration::from_secs(15), one),
        periodic_gossip: every(Duration::from_millis(200), one.saturating_add(2)),
    }
}
