//! Any number of nodes in one program, with a clock that only events move: each has the very code of a node's agent
//! that finds the others ([`Core`]), tells loads, counts and decides ([`Books`](tesela_runtime::balance::Books)).
//! Datagrams are sealed, and come after a while. Processes are numbers: they share their node's processor, and a move
//! stops one for as long as [`Costs`] says.

mod figures;
pub mod jobs;
mod moves;
mod node;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tesela_runtime::discovery::{Output, Run, Seal};

pub use figures::{Figures, Spread};
use jobs::{Job, Pool};
use moves::Step;
use node::{Node, address, index};

/// What a datagram takes, at least; and up to half as much again.
const LATENCY: Duration = Duration::from_micros(200);
/// Between two counts of what runs, as in the agent.
const COUNT: Duration = Duration::from_millis(100);
/// Between two looks at who has what.
const LOOK: Duration = Duration::from_secs(1);
/// Nodes begin within this time.
const BEGIN: Duration = Duration::from_secs(1);

/// What happens.
enum Event {
    /// A datagram comes to a node from another.
    Comes(usize, usize, Rc<[u8]>),
    /// Something may be due in a node's core.
    Core(usize),
    /// A node counts.
    Count(usize),
    /// The next job starts.
    Start,
    /// A job of a node is done, if nothing has changed there since.
    Done(usize, u32),
    /// A move goes on.
    Move(Box<Step>),
    /// Who has what is looked at.
    Look,
}

/// When, and in which order.
struct Due(Duration, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A job, as it stands.
struct Task {
    job: Job,
    /// Where it runs; none: it is being moved, or done, or not started yet.
    at: Option<usize>,
    /// What it still needs, when it was looked at last or stopped.
    left: f64,
    /// What it has used of late at home, and when that was looked at.
    used: (f64, f64),
    /// Nodes that it has left, and when, in seconds.
    been: Vec<(usize, f64)>,
    /// How long it took, in seconds.
    took: Option<f64>,
}

/// All of it.
pub struct World {
    now: Duration,
    order: u64,
    events: BinaryHeap<Reverse<Due>>,
    nodes: Vec<Node>,
    tasks: Vec<Task>,
    /// The next to start.
    next: usize,
    /// Jobs that are started and not done.
    open: usize,
    pool: Pool,
    seal: Seal,
    rng: SmallRng,
    /// What is counted while it is.
    pub figures: Option<Figures>,
}

impl World {
    /// So many nodes, and their jobs in the order of their starts. `joined`: they know each other from the beginning.
    pub fn new(count: usize, jobs: Vec<Job>, joined: bool, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let all = |number| Run { address: address(number), number: 1 };
        let mut world = Self {
            now: Duration::ZERO,
            order: 0,
            events: BinaryHeap::new(),
            nodes: Vec::with_capacity(count),
            tasks: jobs
                .into_iter()
                .map(|job| Task {
                    job,
                    at: None,
                    left: job.length,
                    used: (0.0, 0.0),
                    been: Vec::new(),
                    took: None,
                })
                .collect(),
            next: 0,
            open: 0,
            pool: Pool::of(0..count),
            seal: Seal::new(&[1; 32]),
            rng: SmallRng::seed_from_u64(seed + 1),
            figures: None,
        };
        for number in 0..count {
            let begin = BEGIN.mul_f64(rng.random());
            let mut node = Node::new(begin, number, rng.random::<u32>().into());
            if joined {
                node.core.know(begin, (0..count).map(all));
            }
            world.nodes.push(node);
            world.look_at_core(number);
            world.at(begin + COUNT.mul_f64(rng.random()), Event::Count(number));
        }
        world.await_start();
        world.at(LOOK, Event::Look);
        world
    }

    /// Goes on until then.
    pub fn run_until(&mut self, end: Duration) {
        while self.events.peek().is_some_and(|Reverse(due)| due.0 <= end) {
            let Some(Reverse(Due(at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.happens(event);
        }
        self.now = end;
    }

    /// Whether each node knows that every other one is there, and has heard how much that has to do.
    pub fn all_know_all(&self) -> bool {
        let all = self.nodes.len();
        self.nodes
            .iter()
            .all(|node| node.core.members().len() + 1 == all && node.core.told(self.now).count() == all)
    }

    /// How many jobs run on each node.
    pub fn running(&self) -> Vec<usize> {
        self.nodes.iter().map(Node::running).collect()
    }

    /// How long each job took, in seconds; of one that is not done, how long that is by now.
    pub fn took(&self) -> Vec<f64> {
        let now = self.now.as_secs_f64();
        self.tasks.iter().map(|task| task.took.unwrap_or((now - task.job.start).max(0.0))).collect()
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Due(when, self.order, event)));
    }

    fn latency(&mut self) -> Duration {
        LATENCY.mul_f64(1.0 + self.rng.random::<f64>() / 2.0)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Comes(to, from, datagram) => self.comes(to, from, &datagram),
            Event::Core(node) if self.nodes[node].due <= self.now => {
                self.nodes[node].due = Duration::MAX;
                self.nodes[node].core.elapse(self.now);
                self.put_out(node);
            }
            Event::Count(node) => {
                self.at(self.now + COUNT, Event::Count(node));
                self.count(node);
            }
            Event::Start => self.start(),
            Event::Done(node, turn) if self.nodes[node].turn == turn => self.done(node),
            Event::Move(step) => self.go_on(*step),
            Event::Look => {
                self.at(self.now + LOOK, Event::Look);
                self.look();
            }
            // Something has come in between.
            Event::Core(_) | Event::Done(..) => {}
        }
    }

    fn comes(&mut self, to: usize, from: usize, datagram: &[u8]) {
        if let Some(figures) = &mut self.figures {
            figures.messages += 1;
            figures.octets += datagram.len() as u64;
        }
        if let Some(content) = self.seal.open(datagram) {
            // What is passed over shows in what the node knows.
            let _refused = self.nodes[to].core.receive(self.now, address(from), &content);
            self.put_out(to);
        }
    }

    /// What a node's core has for the outside.
    fn put_out(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].core.output() {
            let (to, content) = match output {
                Output::Send(to, content) => (Some(to), content),
                Output::SendAll(content) => (None, content),
                Output::Up(_) | Output::Down(_) => continue,
            };
            let Ok(datagram) = self.seal.seal(&content) else { continue };
            let datagram: Rc<[u8]> = datagram.into();
            let to = to.map_or(0..self.nodes.len(), |to: Ipv4Addr| index(to)..index(to) + 1);
            for to in to.filter(|to| *to != node) {
                let when = self.now + self.latency();
                self.at(when, Event::Comes(to, node, Rc::clone(&datagram)));
            }
        }
        self.look_at_core(node);
    }

    fn look_at_core(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let due = it.core.due();
        if due < it.due {
            it.due = due;
            self.at(due, Event::Core(node));
        }
    }

    /// The first of what runs on a node will be done then.
    fn await_done(&mut self, node: usize) {
        let turn = self.nodes[node].turn;
        if let Some((_, when)) = self.nodes[node].first_done() {
            self.at(self.now.max(Duration::from_secs_f64(when)), Event::Done(node, turn));
        }
    }

    fn await_start(&mut self) {
        if let Some(task) = self.tasks.get(self.next) {
            self.at(Duration::from_secs_f64(task.job.start), Event::Start);
        }
    }

    fn start(&mut self) {
        let number = self.next;
        self.next += 1;
        self.open += 1;
        let Job { home, length, .. } = self.tasks[number].job;
        self.tasks[number].used = (0.0, self.now.as_secs_f64());
        self.nodes[home].own.push(number);
        self.put(number, home, length);
        self.await_start();
    }

    fn put(&mut self, task: usize, node: usize, left: f64) {
        let memory = self.tasks[task].job.memory;
        (self.tasks[task].at, self.tasks[task].left) = (Some(node), left);
        self.nodes[node].put(self.now.as_secs_f64(), task, left, memory);
        self.await_done(node);
    }

    fn done(&mut self, node: usize) {
        let now = self.now.as_secs_f64();
        let Some((number, _)) = self.nodes[node].first_done() else { return };
        let task = &mut self.tasks[number];
        (task.at, task.took) = (None, Some(now - task.job.start));
        self.open -= 1;
        self.nodes[task.job.home].own.retain(|own| *own != number);
        self.nodes[node].take(now, number, task.job.memory);
        self.await_done(node);
    }

    fn look(&mut self) {
        let Some(figures) = &mut self.figures else { return };
        let alike = self.pool.gives(self.open);
        for node in &self.nodes {
            (0..node.running()).for_each(|_| figures.imbalance.add(alike / node.gives()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_find_each_other_and_a_burst_on_one_of_them_spreads() {
        let job = |start| Job { start, home: 0, length: 100.0, memory: 10_000 };
        // 20 nodes with the speed of 30.
        let mut world = World::new(20, (0..60).map(|_| job(8.0)).collect(), false, 5);
        world.run_until(Duration::from_secs(7));
        assert!(world.all_know_all());
        world.run_until(Duration::from_secs(9));
        assert!(world.running()[0] > 20, "{:?}", world.running());
        world.run_until(Duration::from_secs(15));
        world.figures = Some(Figures::default());
        for second in 16..36 {
            world.run_until(Duration::from_secs(second));
            let running = world.running();
            // Two on each slow one and four on each fast one, or about that.
            let alike =
                |(node, running): (usize, &usize)| (*running as f64 - 2.0 * jobs::speed(node)).abs() < 2.5;
            assert!(running.iter().enumerate().all(alike), "{second}: {running:?}");
        }
        let moves = world.figures.as_ref().unwrap().moves;
        assert!(moves < 20, "{moves} moves once all have about the same");
        assert!(world.all_know_all());
    }

    #[test]
    fn moves_gain_time() {
        let jobs = jobs::trace(20, 40.0, 9);
        let mut world = World::new(20, jobs.clone(), true, 5);
        world.figures = Some(Figures::default());
        world.run_until(Duration::from_secs(50));
        let mean = |takes: Vec<f64>| {
            let all: f64 = takes.iter().zip(&jobs).map(|(took, job)| took / job.length).sum();
            all / f64::from(u32::try_from(jobs.len()).unwrap())
        };
        let [moved, unmoved, ideal] =
            [world.took(), jobs::unmoved(20, &jobs, 50.0), Pool::of(0..20).takes(&jobs, 50.0)].map(mean);
        assert!(ideal < moved && moved < unmoved / 2.0, "{ideal} {moved} {unmoved}");
        let figures = world.figures.unwrap();
        assert!(figures.moves > 0 && figures.age.up_to(0.99) < 8.0);
        assert_eq!(figures.back, 0, "of {} moves went back within 30 s", figures.moves);
    }
}
