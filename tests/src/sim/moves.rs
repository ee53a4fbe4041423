//! Counting, deciding and moving in the simulation.

use std::time::Duration;

use tesela_runtime::balance::{Candidate, Costs, Failed, Move};
use tesela_runtime::wire::Offer;
use tesela_runtime::wire::local::Decay;

use super::node::{address, index};
use super::{Event, World};

/// A process that is back so soon where it was has bounced, in seconds.
const SOON: f64 = 30.0;

/// A step of a move.
#[derive(Clone, Copy)]
pub struct Step {
    home: usize,
    it: Move,
    offer: Offer,
    begun: Duration,
    to: Next,
}

#[derive(Clone, Copy)]
enum Next {
    /// The other node is asked.
    Ask,
    /// It has answered.
    Answered(bool),
    /// The process is there.
    Arrive,
}

impl World {
    pub(super) fn count(&mut self, node: usize) {
        let now = self.now;
        let it = &mut self.nodes[node];
        let Some((measured, speed, load)) = it.count() else { return };
        it.core.tell(now, Some(load));
        if it.books.measure(measured, speed, load.status) {
            it.core.urge(now);
            self.put_out(node);
        }
        let it = &mut self.nodes[node];
        let Some(view) = it.books.view(now, address(node), it.core.told(now), false) else { return };
        if let Some(figures) = &mut self.figures {
            #[expect(clippy::cast_precision_loss, reason = "some thousand")]
            figures.known.add(view.others.len() as f64);
            for place in &view.others {
                let told = it.core.load_of(now, place.address);
                figures.age.add(told.map_or(0.0, |(_, age)| age.as_secs_f64()));
            }
        }
        let away = |task: &usize| self.tasks[*task].at.is_none_or(|at| at != node);
        if !it.own.iter().any(away) && !view.asks() {
            return;
        }
        let candidates = self.candidates(node);
        for (it, offer) in self.nodes[node].books.decide(&view, &candidates) {
            let step = Step { home: node, it, offer, begun: now, to: Next::Ask };
            let when = now + self.latency();
            self.at(when, Event::Move(Box::new(step)));
            if let (Some(to), Some(figures)) = (it.to, &mut self.figures)
                && let Some((_, age)) = self.nodes[node].core.load_of(now, to)
            {
                figures.age_chosen.add(age.as_secs_f64());
            }
        }
    }

    /// What the agent sees of its own processes. One that is away uses nothing at home.
    fn candidates(&mut self, node: usize) -> Vec<Candidate> {
        let now = self.now.as_secs_f64();
        let decay = Decay::default();
        let home = &mut self.nodes[node];
        let mut candidates = Vec::with_capacity(home.own.len());
        let own = std::mem::take(&mut home.own);
        home.books.still_away(|pid| own.iter().any(|own| pid_of(*own) == pid));
        for number in &own {
            let task = &mut self.tasks[*number];
            let (before, at) = task.used;
            let mut used = before * decay.kept(decay.slow, now - at);
            if task.at == Some(node)
                && let Some(left) = home.left(now, *number)
            {
                used += task.left - left;
                task.left = left;
            }
            task.used = (used, now);
            let pid = pid_of(*number);
            if !home.books.may_move(self.now, pid) {
                continue;
            }
            let (memory, since) = (task.job.memory, Duration::MAX);
            let here = Candidate { pid, used, runs: true, memory, calls: 0.0, io: false, away: None, since };
            candidates.push(match task.at {
                Some(at) if at != node => home.books.away(self.now, here, address(at)),
                _ => here,
            });
        }
        home.own = own;
        candidates
    }

    pub(super) fn go_on(&mut self, step: Step) {
        let Step { home, it, offer, begun, to } = step;
        let Ok(number) = usize::try_from(it.pid) else { return };
        let now = self.now.as_secs_f64();
        match to {
            Next::Ask => {
                let takes = |to| self.nodes[index(to)].books.consider(self.now, &offer).is_ok();
                let to = Next::Answered(it.to.is_none_or(takes));
                let when = self.now + self.latency();
                self.at(when, Event::Move(Box::new(Step { to, ..step })));
            }
            Next::Answered(false) => {
                if let Some(figures) = &mut self.figures {
                    figures.refused += 1;
                }
                self.nodes[home].books.failed(self.now, &it, Failed::Node);
            }
            Next::Answered(true) => {
                let memory = self.tasks[number].job.memory;
                let stopped = self.tasks[number]
                    .at
                    .and_then(|at| Some((at, self.nodes[at].take(now, number, memory)?)));
                let Some((at, left)) = stopped else {
                    return self.nodes[home].books.failed(self.now, &it, Failed::Gone);
                };
                (self.tasks[number].at, self.tasks[number].left) = (None, left);
                self.tasks[number].been.push((at, now));
                self.await_done(at);
                // From one foreign node to another it goes by way of home.
                let ways = if at != home && it.to.is_some() { 2 } else { 1 };
                let when = self.now + takes(memory) * ways;
                self.at(when, Event::Move(Box::new(Step { to: Next::Arrive, ..step })));
            }
            Next::Arrive => {
                let at = it.to.map_or(home, index);
                let task = &self.tasks[number];
                if let Some(figures) = &mut self.figures {
                    figures.moves += 1;
                    let back = |(place, left): &(usize, f64)| *place == at && now - left < SOON;
                    figures.back += u64::from(task.been.iter().any(back));
                }
                self.nodes[home].books.done(self.now, &it, self.now.saturating_sub(begun));
                self.put(number, at, task.left);
            }
        }
    }
}

/// What a move takes: what the agent believes before it has measured any.
#[expect(clippy::cast_precision_loss, reason = "a length of time")]
fn takes(memory: u64) -> Duration {
    let Costs { base, rate, .. } = Costs::default();
    Duration::from_secs_f64(base + memory as f64 / rate)
}

fn pid_of(task: usize) -> i32 {
    i32::try_from(task).unwrap_or(i32::MAX)
}
