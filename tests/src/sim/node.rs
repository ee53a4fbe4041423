//! A node of the simulation: the agent's discovery, counts and books, and a processor that jobs share.

use std::net::Ipv4Addr;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tesela_runtime::balance::Books;
use tesela_runtime::discovery::{Core, Run};
use tesela_runtime::load::{Filter, Load, Measured, STANDARD_SPEED, Status};

use super::jobs::speed;

/// The first node's address.
const FIRST: u32 = u32::from_be_bytes([10, 0, 0, 1]);
/// A node's memory, in KiB.
const MEMORY: u64 = 8 << 20;

/// The address of a node.
pub fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + u32::try_from(node).unwrap_or(u32::MAX - FIRST))
}

/// The node at an address.
pub fn index(address: Ipv4Addr) -> usize {
    usize::try_from(u32::from(address) - FIRST).unwrap_or(usize::MAX)
}

/// A node.
pub struct Node {
    /// Who else is there, and what they tell.
    pub core: Core<SmallRng>,
    /// When the core is looked at next.
    pub due: Duration,
    /// What is remembered between two decisions.
    pub books: Books,
    filter: Filter,
    speed: f64,
    /// The jobs that run here, each with what the processor has given to every one when it will be done.
    running: Vec<(usize, f64)>,
    /// What the processor has given so far to one that would have been here all the time, and until when.
    given: (f64, f64),
    /// Jobs whose home this is.
    pub own: Vec<usize>,
    /// Memory of what runs here.
    used: u64,
    /// Changes with what runs here.
    pub turn: u32,
}

impl Node {
    /// The node with this number, from 0 on.
    pub fn new(now: Duration, node: usize, seed: u64) -> Self {
        let run = Run { address: address(node), number: 1 };
        let [one, other] = [2 * seed, 2 * seed + 1].map(SmallRng::seed_from_u64);
        Self {
            core: Core::new(now, run, one, other),
            due: Duration::MAX,
            books: Books::default(),
            filter: Filter::default(),
            speed: speed(node),
            running: Vec::new(),
            given: (0.0, 0.0),
            own: Vec::new(),
            used: 0,
            turn: 0,
        }
    }

    /// Counts what runs; what that has measured, if it has, and as it is told.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
    pub fn count(&mut self) -> Option<(Measured, u32, Load)> {
        let counted = self.filter.count(u32::try_from(self.running.len()).unwrap_or(u32::MAX))?;
        let free = MEMORY.saturating_sub(self.used);
        let util = (counted.now * 100.0).min(100.0) as u8;
        let (told, mean) = (counted.told, counted.mean);
        let measured = Measured { told, mean, processors: 100, util, mem: free, rmem: free, tmem: MEMORY };
        let speed = (self.speed * f64::from(STANDARD_SPEED)) as u32;
        Some((measured, speed, measured.load(speed, Status::UP)))
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// What each that runs here has, in standard processors.
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    pub fn gives(&self) -> f64 {
        self.speed / self.running.len().max(1) as f64
    }

    /// The first of the jobs that will be done, and when that is, in seconds.
    pub fn first_done(&self) -> Option<(usize, f64)> {
        let first = self.running.iter().min_by(|one, other| one.1.total_cmp(&other.1))?;
        Some((first.0, self.given.1 + (first.1 - self.given.0).max(0.0) / self.gives()))
    }

    /// What a job still needs that runs here.
    pub fn left(&mut self, now: f64, job: usize) -> Option<f64> {
        self.advance(now);
        self.running.iter().find(|(other, _)| *other == job).map(|(_, until)| (until - self.given.0).max(0.0))
    }

    /// A job runs here from now on, and needs so much.
    pub fn put(&mut self, now: f64, job: usize, left: f64, memory: u64) {
        self.advance(now);
        self.running.push((job, self.given.0 + left));
        self.used += memory;
        self.turn += 1;
    }

    /// A job runs here no more; what it still needs.
    pub fn take(&mut self, now: f64, job: usize, memory: u64) -> Option<f64> {
        let left = self.left(now, job)?;
        self.running.retain(|(other, _)| *other != job);
        self.used -= memory;
        self.turn += 1;
        Some(left)
    }

    fn advance(&mut self, now: f64) {
        let (given, at) = self.given;
        self.given = (given + (now - at) * self.gives(), now);
    }
}
