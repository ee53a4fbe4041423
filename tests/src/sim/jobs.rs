//! What nodes have to do in the simulation, and how it would be done without moves, or with moves that cost nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// The shortest and the longest of a [`trace`]'s jobs, in seconds of a standard processor.
const LENGTHS: [f64; 2] = [1.0, 60.0];
/// The share of the nodes' speed that is asked for.
const LOAD: f64 = 0.6;
/// Jobs of a burst; half of all jobs come in bursts.
const BURST: usize = 20;
/// Of so many nodes one has bursts.
const BURSTING: usize = 10;
/// The least and the most memory of a job, in KiB.
const MEMORY: [f64; 2] = [1024.0, 262_144.0];

/// A job.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// When it is started, in seconds.
    pub start: f64,
    /// On which node, from 0 on.
    pub home: usize,
    /// Seconds of a standard processor that it takes.
    pub length: f64,
    /// Its memory, in KiB.
    pub memory: u64,
}

/// The speed of a node's processor: every other one is twice as fast.
pub fn speed(node: usize) -> f64 {
    if node.is_multiple_of(2) { 1.0 } else { 2.0 }
}

/// Jobs for so many nodes until then, in the order of their starts. One in t is longer than t times the shortest, as
/// UNIX's processes are (Harchol-Balter and Downey 1997), up to the longest.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "in range"
)]
pub fn trace(nodes: usize, until: f64, seed: u64) -> Vec<Job> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let [shortest, longest] = LENGTHS;
    let mean = shortest * (longest / shortest).ln() / (1.0 - shortest / longest);
    let all: f64 = (0..nodes).map(speed).sum();
    // Of each group of jobs, one or a burst: as many jobs in bursts as alone.
    let groups = all * LOAD / mean / 2.0 * (1.0 + 1.0 / BURST as f64);
    let alone = BURST as f64 / (BURST as f64 + 1.0);
    let (mut jobs, mut now) = (Vec::new(), 0.0);
    loop {
        now -= (1.0 - rng.random::<f64>()).ln() / groups;
        if now >= until {
            return jobs;
        }
        let (count, home) = if rng.random_bool(alone) {
            (1, rng.random_range(0..nodes))
        } else {
            (BURST, rng.random_range(0..nodes.div_ceil(BURSTING)) * BURSTING)
        };
        for _ in 0..count {
            let share = rng.random::<f64>() * (1.0 - shortest / longest);
            let memory = (MEMORY[0] * (MEMORY[1] / MEMORY[0]).powf(rng.random())) as u64;
            jobs.push(Job { start: now, home, length: shortest / (1.0 - share), memory });
        }
    }
}

/// What each job gets of processors with these speeds, fastest first, where so many share them alike and none has more
/// than a whole one.
pub struct Pool(Vec<f64>);

impl Pool {
    /// Of these nodes.
    pub fn of(nodes: impl Iterator<Item = usize>) -> Self {
        let mut speeds: Vec<f64> = nodes.map(speed).collect();
        speeds.sort_by(|one, other| other.total_cmp(one));
        let mut sum = 0.0;
        Self(
            speeds
                .iter()
                .map(|speed| {
                    sum += speed;
                    sum
                })
                .collect(),
        )
    }

    /// In standard processors.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    pub fn gives(&self, jobs: usize) -> f64 {
        let sum = self.0.get(jobs.saturating_sub(1)).or(self.0.last());
        sum.map_or(0.0, |sum| sum / jobs.max(1) as f64)
    }

    /// How long each of these jobs takes, in seconds, if nobody looks after `end`.
    pub fn takes(&self, jobs: &[Job], end: f64) -> Vec<f64> {
        let mut takes: Vec<f64> = jobs.iter().map(|job| (end - job.start).max(0.0)).collect();
        // All that run get the same, so each ends when all together have got so much more than at its start.
        let mut running: BinaryHeap<Reverse<(Ordered, usize)>> = BinaryHeap::new();
        let (mut now, mut got, mut next) = (0.0, 0.0, 0);
        loop {
            let gives = self.gives(running.len());
            let starts = jobs.get(next).map_or(f64::INFINITY, |job| job.start);
            let ends =
                running.peek().map_or(f64::INFINITY, |Reverse((until, _))| now + (until.0 - got) / gives);
            let then = starts.min(ends);
            if then >= end {
                return takes;
            }
            got += if running.is_empty() { 0.0 } else { (then - now) * gives };
            now = then;
            if starts <= ends {
                running.push(Reverse((Ordered(got + jobs[next].length), next)));
                next += 1;
            } else if let Some(Reverse((_, job))) = running.pop() {
                takes[job] = now - jobs[job].start;
            }
        }
    }
}

/// How long each job takes where none moves.
pub fn unmoved(nodes: usize, jobs: &[Job], end: f64) -> Vec<f64> {
    let mut of: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for (index, job) in jobs.iter().enumerate() {
        of[job.home].push(index);
    }
    let mut takes = vec![0.0; jobs.len()];
    for (node, of) in of.iter().enumerate() {
        let here: Vec<Job> = of.iter().map(|index| jobs[*index]).collect();
        for (index, time) in of.iter().zip(Pool::of(std::iter::once(node)).takes(&here, end)) {
            takes[*index] = time;
        }
    }
    takes
}

/// A number that is one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_share_what_there_is() {
        let job = |start, home, length| Job { start, home, length, memory: 0 };
        let jobs = [job(0.0, 0, 2.0), job(1.0, 0, 1.0), job(50.0, 1, 4.0), job(90.0, 0, 99.0)];
        // One of speed 1: both are done at 3. The fast one is alone.
        assert_eq!(unmoved(2, &jobs, 100.0), [3.0, 2.0, 2.0, 10.0]);
        // Together the two have a speed of 3, and the first alone one of 2: it is done as the second begins.
        assert_eq!(Pool::of(0..2).takes(&jobs[..2], 100.0), [1.0, 0.5]);
        assert_eq!([1, 2, 4].map(|count| Pool::of(0..2).gives(count)), [2.0, 1.5, 0.75]);
    }

    #[test]
    fn a_trace_asks_for_what_it_should() {
        let jobs = trace(100, 200.0, 3);
        let asked: f64 = jobs.iter().map(|job| job.length).sum();
        assert!((0.5..0.7).contains(&(asked / (150.0 * 200.0))), "{asked}");
        assert!(jobs.is_sorted_by_key(|job| job.start) && jobs.iter().all(|job| job.home < 100));
    }
}
