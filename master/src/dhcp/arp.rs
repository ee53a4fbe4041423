//! Address probes ahead of need (RFC 5227, 2.1), without I/O.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Probes for one address, and the time between two of them.
const PROBES: u8 = 3;
const INTERVAL: Duration = Duration::from_secs(1);
/// ANNOUNCE_WAIT: how long after the last probe an answer may come.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between the first probes of two addresses, so that a big range makes no burst.
const SPACING: Duration = Duration::from_millis(2);
/// Addresses under probe at most. A storm of requests takes them before they are done: their probes are for
/// nothing, and those of the next ones must not wait behind thousands of them.
const UNDER_WAY: usize = 512;

#[derive(Debug)]
struct Probe {
    address: Ipv4Addr,
    sent: u8,
    due: Instant,
}

/// What to do next for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send a probe.
    Send(Ipv4Addr),
    /// Nobody answered.
    Done(Ipv4Addr),
}

/// The probes under way.
#[derive(Debug, Default)]
pub(super) struct Prober {
    // Each queue holds probes of one age, so each is in the order of time.
    stages: [VecDeque<Probe>; PROBES as usize + 1],
    last_start: Option<Instant>,
}

impl Prober {
    /// Begins to probe an address.
    pub fn start(&mut self, address: Ipv4Addr, now: Instant) {
        let due = self.last_start.map_or(now, |last| now.max(last + SPACING));
        self.last_start = Some(due);
        self.stages[0].push_back(Probe { address, sent: 0, due });
    }

    /// Whether the next address has to wait.
    pub fn is_full(&self) -> bool {
        self.stages.iter().map(VecDeque::len).sum::<usize>() >= UNDER_WAY
    }

    /// When [`Prober::step`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.stages.iter().filter_map(|stage| stage.front()).map(|probe| probe.due).min()
    }

    /// The next thing that is due.
    pub fn step(&mut self, now: Instant) -> Option<Step> {
        let stage =
            self.stages.iter_mut().find(|stage| stage.front().is_some_and(|probe| probe.due <= now))?;
        let probe = stage.pop_front()?;
        if probe.sent == PROBES {
            return Some(Step::Done(probe.address));
        }
        let sent = probe.sent + 1;
        let wait = if sent == PROBES { PATIENCE } else { INTERVAL };
        self.stages[usize::from(sent)].push_back(Probe { sent, due: now + wait, ..probe });
        Some(Step::Send(probe.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_probed_three_times_and_then_free() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let start = Instant::now();
        let mut prober = Prober::default();
        prober.start(a, start);
        prober.start(b, start);
        let mut seen = Vec::new();
        while let Some(due) = prober.due() {
            while let Some(step) = prober.step(due) {
                seen.push((step, due - start));
            }
        }
        let ms = Duration::from_millis;
        let of_a: Vec<_> = seen
            .iter()
            .filter(|(step, _)| matches!(step, Step::Send(x) | Step::Done(x) if *x == a))
            .collect();
        assert_eq!(
            of_a,
            [
                &(Step::Send(a), ms(0)),
                &(Step::Send(a), ms(1000)),
                &(Step::Send(a), ms(2000)),
                &(Step::Done(a), ms(4000)),
            ]
        );
        assert_eq!(seen.last(), Some(&(Step::Done(b), ms(4002))));
    }

    #[test]
    fn a_storm_leaves_no_more_probes_than_it_may() {
        let (mut prober, start) = (Prober::default(), Instant::now());
        let begun = (0_u32..).take_while(|number| {
            let begins = !prober.is_full();
            prober.start((*number).into(), start);
            begins
        });
        assert_eq!(begun.count(), UNDER_WAY);
        while let Some(due) = prober.due() {
            while prober.step(due).is_some() {}
        }
        assert!(!prober.is_full());
    }
}
