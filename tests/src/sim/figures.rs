//! What a simulation finds out.

use std::time::Duration;

/// How often a value came, in steps of a thousandth.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    counts: Vec<u64>,
    all: u64,
    sum: f64,
}

impl Spread {
    /// The most that is told apart.
    const MOST: f64 = 60_000.0;

    /// Takes in a value, which is not negative.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is bounded")]
    pub fn add(&mut self, value: f64) {
        let step = (value * 1000.0).min(Self::MOST) as usize;
        if self.counts.len() <= step {
            self.counts.resize(step + 1, 0);
        }
        self.counts[step] += 1;
        self.all += 1;
        self.sum += value;
    }

    /// The value that a share of them does not pass.
    #[expect(clippy::cast_precision_loss, reason = "figures of a table")]
    pub fn up_to(&self, share: f64) -> f64 {
        let mut below = 0;
        for (step, count) in self.counts.iter().enumerate() {
            below += count;
            if below as f64 >= self.all as f64 * share {
                return step as f64 / 1000.0;
            }
        }
        0.0
    }

    /// The mean.
    #[expect(clippy::cast_precision_loss, reason = "figures of a table")]
    pub fn mean(&self) -> f64 {
        self.sum / self.all.max(1) as f64
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all
    }
}

/// What was counted, of all rounds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Nodes, times the seconds that were measured.
    pub node_seconds: f64,
    /// Datagrams that came.
    pub messages: u64,
    /// What was in them as they travel, without the headers of UDP and below.
    pub octets: u64,
    /// Processor time of this program, for the simulated nodes and for simulating.
    pub processor: Duration,
    /// Of each entry that a decision looked at, in seconds.
    pub age: Spread,
    /// Of the entry of the node where a process is sent, in seconds.
    pub age_chosen: Spread,
    /// Nodes of which a decision knew something of late.
    pub known: Spread,
    /// What a job would have if all shared all nodes alike, over what it has; each second, of each job.
    pub imbalance: Spread,
    /// Moves that were made.
    pub moves: u64,
    /// Moves to where the process had been within 30 seconds.
    pub back: u64,
    /// Moves that the other node refused.
    pub refused: u64,
    /// How long a job took, over what it takes alone on a standard processor: as it was; where no process moves; where
    /// all share all nodes alike at no cost.
    pub slowdown: [Spread; 3],
}

impl Figures {
    /// So many a node and second.
    #[expect(clippy::cast_precision_loss, reason = "figures of a table")]
    pub fn rate(&self, count: u64) -> f64 {
        count as f64 / self.node_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_a_mean_and_shares() {
        let mut spread = Spread::default();
        assert_eq!((spread.mean(), spread.up_to(0.5)), (0.0, 0.0));
        (1..=100).for_each(|value| spread.add(f64::from(value) / 10.0));
        assert_eq!([0.5, 0.99, 1.0].map(|share| spread.up_to(share)), [5.0, 9.9, 10.0]);
        assert!((spread.mean() - 5.05).abs() < 1e-9 && spread.count() == 100);
        spread.add(1e9);
        assert_eq!(spread.up_to(1.0), 60.0);
    }
}
