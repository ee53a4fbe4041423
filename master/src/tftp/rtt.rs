//! How long to wait for an answer: the estimator of RFC 6298 with the bounds of a local network.
//!
//! A window of one has no other sign of a loss than silence, so the time before the first retransmission
//! is what a lost packet costs. It follows the measured round trip down to a few milliseconds; every
//! silence doubles it, and it stays doubled until an answer to a packet that was sent once (Karn), so a
//! client that is slow by nature is soon left in peace.

use std::time::Duration;

/// The least wait: some firmware polls its NIC from a timer of this order.
const FLOOR: Duration = Duration::from_millis(5);
/// The wait before anything was measured.
const INITIAL: Duration = Duration::from_secs(1);
/// The longest wait where the client did not ask for another: longer than the clock of any client (5 s in
/// atftp and tftp-hpa). Some pass over a block that they have and start their clock anew with each, and
/// would never come to send the lost ACK again if the block kept coming.
const CEILING: Duration = Duration::from_secs(6);

/// Smoothed round trip and retransmission timeout of one transfer.
#[derive(Clone, Debug)]
pub struct Rtt {
    measured: Option<Measured>,
    timeout: Duration,
    ceiling: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    smoothed: Duration,
    variation: Duration,
}

impl Rtt {
    /// Nothing measured yet; `agreed` is the `timeout` option, the longest wait if it was sent.
    pub fn new(agreed: Option<Duration>) -> Self {
        Self { measured: None, timeout: INITIAL, ceiling: agreed.unwrap_or(CEILING) }
    }

    /// Takes in the time between a packet that was sent once and its answer.
    pub fn measure(&mut self, trip: Duration) {
        let now = match self.measured {
            None => Measured { smoothed: trip, variation: trip / 2 },
            Some(Measured { smoothed, variation }) => Measured {
                smoothed: (smoothed * 7 + trip) / 8,
                variation: (variation * 3 + smoothed.abs_diff(trip)) / 4,
            },
        };
        self.measured = Some(now);
        self.timeout = self.base();
    }

    /// Silence: doubles the wait.
    pub fn back_off(&mut self) {
        self.timeout = (self.timeout * 2).min(self.ceiling);
    }

    /// How long to wait now before sending again.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The wait without any doubling.
    pub fn base(&self) -> Duration {
        self.measured.map_or(INITIAL, |m| (m.smoothed + m.variation * 4).max(FLOOR)).min(self.ceiling)
    }

    /// The smoothed round trip: an answer sooner after a packet than this is no answer to it.
    pub fn smoothed(&self) -> Duration {
        self.measured.map_or(FLOOR, |m| m.smoothed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_network_between_its_bounds() {
        let mut rtt = Rtt::new(None);
        assert_eq!(rtt.timeout(), INITIAL);
        rtt.measure(Duration::from_micros(80));
        assert_eq!(rtt.timeout(), FLOOR);
        for _ in 0..100 {
            rtt.measure(Duration::from_millis(30));
        }
        assert!((30..40).contains(&rtt.timeout().as_millis()), "{rtt:?}");
    }

    #[test]
    fn doubles_until_an_answer() {
        let mut rtt = Rtt::new(None);
        rtt.measure(Duration::from_micros(80));
        for _ in 0..3 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), FLOOR * 8);
        for _ in 0..20 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), CEILING);
        rtt.measure(Duration::from_micros(80));
        assert_eq!(rtt.timeout(), FLOOR);
    }

    #[test]
    fn the_agreed_timeout_is_the_ceiling() {
        let mut rtt = Rtt::new(Some(Duration::from_secs(6)));
        for _ in 0..20 {
            rtt.back_off();
        }
        assert_eq!(rtt.timeout(), Duration::from_secs(6));
    }
}
