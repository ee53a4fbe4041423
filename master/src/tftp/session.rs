//! One read transfer, as a state machine without I/O: packets and time in, what to send and a deadline out.
//!
//! It speaks of blocks by their true number (1 upwards, no rollover) and leaves fetching their octets to
//! the caller, so it allocates nothing and a window can be sent in one system call.
//!
//! Loss is met in three ways. An ACK for a block inside the window, or for the one before it, says that
//! the next one was lost: the window is sent again from there at once (RFC 7440), but not twice within a
//! round trip, for every further block in flight draws another such ACK. Where all that was lost is the
//! end of a window, nothing but silence tells: the last block alone is sent again first, which draws an
//! ACK that says the rest. In a window of one, a repeated ACK draws nothing unless the wait for an answer
//! is over anyway, so duplicates never breed (the Sorcerer's Apprentice, RFC 1123, 4.2.3.1). In a wider
//! one an ACK for the block before the window is an echo, and draws nothing for two round trips, where
//! the flight before was sent twice: UEFI acknowledges every block that it has already.

use std::time::{Duration, Instant};

use super::options::Terms;
use super::packet::FromClient;
use super::rtt::Rtt;

/// Silences before a client that never answered is given up: its address may be forged, and what goes to
/// it must stay little.
const UNANSWERED_SILENCES: u32 = 3;
/// How long a client that has answered before may be silent: two of the longest waits at least.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the caller has to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing now.
    Wait,
    /// The OACK that the session was made with.
    Offer,
    /// DATA packets of consecutive blocks.
    Blocks {
        /// The first of them, 1 upwards.
        first: u64,
        /// How many; at least one, at most the window.
        count: u16,
    },
}

/// How a transfer ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The last block was acknowledged.
    Completed,
    /// The client sent an ERROR. Code 0 or 8 right after the offer is the usual end of a probe for `tsize`.
    Aborted {
        /// The code as sent.
        code: u16,
        /// The message as sent, made printable.
        message: String,
    },
    /// The client answered no more.
    Silent,
    /// The client's port is closed, as ICMP told.
    Unreachable,
    /// The same client port began a new transfer.
    Superseded,
    /// The content could not be read; ours.
    Failed(String),
    /// The server was stopped.
    Stopped,
}

#[derive(Debug)]
enum State {
    /// The OACK is on its way, ACK 0 awaited.
    Offering,
    /// Blocks are on their way.
    Sending,
    Ended(Outcome),
}

/// The state of one read transfer.
#[derive(Debug)]
pub struct Session {
    state: State,
    terms: Terms,
    /// The last block of the file: shorter than the others, perhaps empty.
    last: u64,
    /// The first block not acknowledged.
    base: u64,
    /// The first block after the flight.
    next: u64,
    /// The first block never sent.
    fresh: u64,
    /// The client has sent an ACK, so it is where it says to be.
    answered: bool,
    /// When the flight (or the offer) left, and whether any of it had been sent before.
    sent: Instant,
    repeated: bool,
    /// Blocks of the flight before this one were sent twice: a client may acknowledge each of them again.
    doubled: bool,
    /// Times that the flight was sent again since one was acknowledged whole.
    returns: u32,
    /// Waits for an answer that ended since the last progress.
    silences: u32,
    progress: Instant,
    deadline: Instant,
    rtt: Rtt,
}

impl Session {
    /// A transfer of `size` octets; `offered` says whether it begins with an OACK.
    pub fn new(terms: Terms, size: u64, offered: bool, now: Instant) -> Self {
        Self {
            state: if offered { State::Offering } else { State::Sending },
            terms,
            last: size / u64::from(terms.block_size) + 1,
            base: 1,
            next: 1,
            fresh: 1,
            answered: false,
            sent: now,
            repeated: false,
            doubled: false,
            returns: 0,
            silences: 0,
            progress: now,
            deadline: now,
            rtt: Rtt::new(terms.timeout),
        }
    }

    /// The first thing to send.
    pub fn start(&mut self, now: Instant) -> Action {
        self.deadline = now + self.rtt.timeout();
        match self.state {
            State::Offering => {
                self.sent = now;
                Action::Offer
            }
            State::Sending => self.fly(now),
            State::Ended(_) => Action::Wait,
        }
    }

    /// A datagram from the client's port. What is no ACK or ERROR is passed over: nothing that a stranger
    /// can forge blindly ends a transfer.
    pub fn receive(&mut self, datagram: &[u8], now: Instant) -> Action {
        match FromClient::parse(datagram) {
            Ok(FromClient::Ack(number)) => self.acknowledge(number, now),
            Ok(FromClient::Error { code, message }) => {
                let message =
                    String::from_utf8_lossy(message).chars().filter(|c| !c.is_control()).take(100).collect();
                self.end(Outcome::Aborted { code, message });
                Action::Wait
            }
            Err(_) => Action::Wait,
        }
    }

    /// The client sent its request once more.
    pub fn request_again(&mut self, now: Instant) -> Action {
        if self.answered {
            return Action::Wait;
        }
        self.repeated = true;
        self.deadline = now + self.rtt.timeout();
        match self.state {
            State::Offering => Action::Offer,
            State::Sending => Action::Blocks { first: 1, count: 1 },
            State::Ended(_) => Action::Wait,
        }
    }

    /// The clock; before [`Session::deadline`] it does nothing.
    pub fn expire(&mut self, now: Instant) -> Action {
        if now < self.deadline || self.outcome().is_some() {
            return Action::Wait;
        }
        let lost = if self.answered {
            now - self.progress >= PATIENCE.max(self.rtt.timeout() * 4)
        } else {
            self.silences >= UNANSWERED_SILENCES
        };
        if lost {
            self.end(Outcome::Silent);
            return Action::Wait;
        }
        self.silences += 1;
        self.repeated = true;
        self.rtt.back_off();
        self.deadline = now + self.rtt.timeout();
        match self.state {
            State::Offering => Action::Offer,
            State::Sending if self.silences % 2 == 1 => Action::Blocks { first: self.next - 1, count: 1 },
            State::Sending => self.fly(now),
            State::Ended(_) => Action::Wait,
        }
    }

    /// Ends the transfer, unless it has ended already.
    pub fn end(&mut self, outcome: Outcome) {
        if self.outcome().is_none() {
            self.state = State::Ended(outcome);
        }
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended(outcome) => Some(outcome),
            State::Offering | State::Sending => None,
        }
    }

    /// When [`Session::expire`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the client has acknowledged anything: a datagram with a forged source never does.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// Blocks acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.base - 1
    }

    /// What was agreed.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    fn acknowledge(&mut self, number: u16, now: Instant) -> Action {
        match self.state {
            State::Ended(_) => Action::Wait,
            State::Offering if number == 0 => {
                self.state = State::Sending;
                self.advance(0, now);
                self.fly(now)
            }
            State::Offering => Action::Wait,
            State::Sending => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "block numbers on the wire are modulo 2¹⁶"
                )]
                let before = (self.base - 1) as u16;
                let blocks = u64::from(number.wrapping_sub(before));
                let flight = self.next - self.base;
                if blocks > flight {
                    // Of a window long past, or of none.
                    Action::Wait
                } else if blocks == 0 {
                    let echo = self.doubled && now - self.sent < self.round_trips(1);
                    if self.answered && !echo && self.may_go_back(now) { self.fly(now) } else { Action::Wait }
                } else {
                    self.advance(blocks, now);
                    if self.base > self.last {
                        self.end(Outcome::Completed);
                        Action::Wait
                    } else if blocks == flight || self.may_go_back(now) {
                        self.fly(now)
                    } else {
                        Action::Wait
                    }
                }
            }
        }
    }

    /// Takes note of an answer to `blocks` more blocks.
    fn advance(&mut self, blocks: u64, now: Instant) {
        self.answered = true;
        self.base += blocks;
        if self.base == self.next {
            self.returns = 0;
            self.doubled = self.repeated;
            if !self.repeated {
                self.rtt.measure(now - self.sent);
            }
        }
        self.silences = 0;
        self.progress = now;
        self.deadline = now + self.rtt.timeout();
    }

    /// Whether an ACK that is not for the whole flight may draw a flight at once. Every block that arrives
    /// out of order can draw such an ACK, also when it was only late or double, so while they keep coming
    /// they are heeded ever more rarely, down to where the clock would act anyway.
    fn may_go_back(&self, now: Instant) -> bool {
        let since = now - self.sent;
        if self.terms.window == 1 {
            since >= self.rtt.base()
        } else {
            !self.repeated || since >= self.round_trips(self.returns)
        }
    }

    /// The smoothed round trip doubled so many times, at most the time after which the clock acts.
    fn round_trips(&self, doublings: u32) -> Duration {
        (self.rtt.smoothed() * (1 << doublings.min(16))).min(self.rtt.base())
    }

    /// Sends the window from `base`.
    fn fly(&mut self, now: Instant) -> Action {
        let first = self.base;
        self.next = (first + u64::from(self.terms.window)).min(self.last + 1);
        self.repeated = first < self.fresh;
        self.returns += u32::from(self.repeated);
        self.fresh = self.fresh.max(self.next);
        self.sent = now;
        self.deadline = now + self.rtt.timeout();
        let count = u16::try_from(self.next - first).unwrap_or(self.terms.window);
        Action::Blocks { first, count }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::Mode;
    use super::super::sim::{Link, run};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn terms(block_size: u16, window: u16) -> Terms {
        Terms { block_size, window, timeout: None }
    }

    fn ack(session: &mut Session, number: u16, now: Instant) -> Action {
        let [high, low] = number.to_be_bytes();
        session.receive(&[0, 4, high, low], now)
    }

    /// A windowed session after its offer was taken, 0.1 ms away.
    fn windowed(size: u64, window: u16) -> (Session, Instant) {
        let mut now = Instant::now();
        let mut session = Session::new(terms(100, window), size, true, now);
        assert_eq!(session.start(now), Action::Offer);
        now += MS / 10;
        let count = window.min(u16::try_from(size / 100 + 1).unwrap());
        assert_eq!(ack(&mut session, 0, now), Action::Blocks { first: 1, count });
        (session, now)
    }

    #[test]
    fn lock_step() {
        let now = Instant::now();
        let mut session = Session::new(terms(512, 1), 1024, false, now);
        assert_eq!(session.start(now), Action::Blocks { first: 1, count: 1 });
        assert_eq!(ack(&mut session, 1, now), Action::Blocks { first: 2, count: 1 });
        // The size is a multiple of the block size: an empty block ends it.
        assert_eq!(ack(&mut session, 2, now), Action::Blocks { first: 3, count: 1 });
        assert_eq!(session.outcome(), None);
        assert_eq!(ack(&mut session, 3, now), Action::Wait);
        assert_eq!(session.outcome(), Some(&Outcome::Completed));
        assert_eq!(session.acknowledged(), 3);
    }

    #[test]
    fn repeated_acks_in_lock_step_draw_nothing() {
        let now = Instant::now();
        let mut session = Session::new(terms(512, 1), 5000, false, now);
        session.start(now);
        ack(&mut session, 1, now);
        for _ in 0..10 {
            assert_eq!(ack(&mut session, 1, now + MS), Action::Wait);
        }
    }

    #[test]
    fn a_client_whose_clock_starts_anew_with_each_repeat_comes_to_its_turn() {
        let mut now = Instant::now();
        let mut session = Session::new(terms(512, 1), 5000, false, now);
        session.start(now);
        now += MS / 10;
        ack(&mut session, 1, now);
        // The ACK for block 2 was lost, and atftp does not send it again while block 2 keeps coming.
        let clock = 5000 * MS;
        while session.deadline() - now <= clock {
            now = session.deadline();
            assert_ne!(session.expire(now), Action::Wait, "{:?}", session.outcome());
        }
        now += clock;
        assert_eq!(ack(&mut session, 2, now), Action::Blocks { first: 3, count: 1 });
    }

    #[test]
    fn a_client_error_ends_it_at_once() {
        let (mut session, now) = windowed(10_000, 4);
        assert_eq!(session.receive(b"\0\x05\0\x08User aborted the transfer\0", now), Action::Wait);
        let message = "User aborted the transfer".to_owned();
        assert_eq!(session.outcome(), Some(&Outcome::Aborted { code: 8, message }));
    }

    #[test]
    fn an_ack_inside_the_window_goes_back_once_a_round_trip() {
        let (mut session, now) = windowed(10_000, 8);
        assert_eq!(ack(&mut session, 3, now + MS), Action::Blocks { first: 4, count: 8 });
        // What the blocks behind the gap draw, while the blocks sent again are on their way.
        assert_eq!(ack(&mut session, 3, now + MS), Action::Wait);
        assert_eq!(ack(&mut session, 3, now + MS), Action::Wait);
        // Lost once more.
        assert_eq!(ack(&mut session, 3, now + MS * 2), Action::Blocks { first: 4, count: 8 });
        assert_eq!(ack(&mut session, 11, now + MS * 3), Action::Blocks { first: 12, count: 8 });
    }

    #[test]
    fn an_ack_for_the_block_before_the_window_goes_back_too() {
        let (mut session, now) = windowed(10_000, 8);
        assert_eq!(ack(&mut session, 0, now), Action::Blocks { first: 1, count: 8 });
        assert_eq!(ack(&mut session, 8, now), Action::Blocks { first: 9, count: 8 });
        // The first flight went twice, and this is the echo of its copy; later it is word of a loss.
        assert_eq!(ack(&mut session, 8, now), Action::Wait);
        assert_eq!(ack(&mut session, 8, now + MS), Action::Blocks { first: 9, count: 8 });
    }

    #[test]
    fn a_block_sent_twice_does_not_double_all_that_follow() {
        let (mut session, mut now) = windowed(100_000, 4);
        // The client was slow once: the last block goes again, and all four ACKs come together.
        now = session.deadline().max(now);
        assert_eq!(session.expire(now), Action::Blocks { first: 4, count: 1 });
        let mut due = vec![4, 4];
        let mut sent = 0;
        while session.outcome().is_none() {
            now += MS / 10;
            let mut flights = Vec::new();
            for number in std::mem::take(&mut due) {
                if let Action::Blocks { first, count } = ack(&mut session, number, now) {
                    flights.push((first, count));
                    sent += u64::from(count);
                }
            }
            // As UEFI does: the first copy of a flight draws one ACK, further ones an ACK a block.
            for (i, (first, count)) in flights.iter().enumerate() {
                let last = u16::try_from(first + u64::from(*count) - 1).unwrap();
                due.extend(std::iter::repeat_n(last, if i == 0 { 1 } else { usize::from(*count) }));
            }
        }
        assert_eq!(session.outcome(), Some(&Outcome::Completed));
        assert_eq!(sent, 1001 - 4, "each block behind the first flight goes once");
    }

    #[test]
    fn acks_of_no_window_are_passed_over() {
        let (mut session, now) = windowed(10_000, 8);
        for number in [9, 10, 1000, 65535] {
            assert_eq!(ack(&mut session, number, now), Action::Wait);
        }
        assert_eq!(session.acknowledged(), 0);
        for datagram in
            [&b""[..], b"\0", b"\0\x04\0", b"\0\x03\0\x01x", b"\0\x01a\0octet\0", b"\xff\xff\xff\xff"]
        {
            assert_eq!(session.receive(datagram, now), Action::Wait);
        }
        assert_eq!(session.outcome(), None);
    }

    #[test]
    fn silence_draws_the_last_block_first_then_the_window() {
        let (mut session, now) = windowed(10_000, 8);
        assert_eq!(session.expire(now), Action::Wait);
        let at = session.deadline();
        assert!(at - now <= MS * 5, "{:?}", at - now);
        assert_eq!(session.expire(at), Action::Blocks { first: 8, count: 1 });
        assert_eq!(session.expire(session.deadline()), Action::Blocks { first: 1, count: 8 });
    }

    #[test]
    fn a_silent_client_is_given_up_after_a_bounded_number_of_packets() {
        let (mut session, now) = windowed(1_000_000, 64);
        let mut blocks = 0;
        while session.outcome().is_none() {
            if let Action::Blocks { count, .. } = session.expire(session.deadline()) {
                blocks += u64::from(count);
            }
        }
        assert_eq!(session.outcome(), Some(&Outcome::Silent));
        assert!(session.deadline() - now < PATIENCE * 2);
        assert!(blocks < 64 * 12, "{blocks}");
    }

    #[test]
    fn one_that_never_answered_draws_four_packets() {
        for offered in [false, true] {
            let now = Instant::now();
            let mut session = Session::new(terms(512, 1), 1_000_000, offered, now);
            assert_ne!(session.start(now), Action::Wait);
            let mut packets = 1;
            while session.outcome().is_none() {
                packets += u32::from(session.expire(session.deadline()) != Action::Wait);
            }
            assert_eq!(packets, 4);
        }
    }

    #[test]
    fn a_request_again_draws_the_first_answer_again_until_it_was_acknowledged() {
        let now = Instant::now();
        let mut session = Session::new(terms(512, 1), 5000, true, now);
        session.start(now);
        assert_eq!(session.request_again(now), Action::Offer);
        ack(&mut session, 0, now);
        assert_eq!(session.request_again(now), Action::Wait);
        let mut session = Session::new(terms(512, 1), 5000, false, now);
        session.start(now);
        assert_eq!(session.request_again(now), Action::Blocks { first: 1, count: 1 });
    }

    #[test]
    fn a_slow_client_is_soon_left_in_peace() {
        let mut now = Instant::now();
        let mut session = Session::new(terms(512, 1), 512 * 1000, false, now);
        session.start(now);
        now += MS / 10;
        ack(&mut session, 1, now);
        let mut again = 0;
        for block in 2..=300 {
            // Each answer takes 40 ms from here on.
            let answer = now + MS * 40;
            while session.deadline() < answer {
                again += u32::from(session.expire(session.deadline()) != Action::Wait);
            }
            now = answer;
            ack(&mut session, block, now);
        }
        assert!(again < 10, "{again}");
    }

    #[test]
    fn rollover_over_the_whole_range() {
        let octets: Vec<u8> = (0..8 * 70_000_u32).map(|n| u8::try_from(n / 8 % 253).unwrap()).collect();
        for window in [1, 64] {
            let link = Link { loss: 1, seed: 7, ..Link::default() };
            let run = run(&octets, Mode::Octet, terms(8, window), true, link);
            assert_eq!(run.outcome, Some(Outcome::Completed));
            assert!(run.received == octets, "window {window}");
        }
    }

    #[test]
    fn block_numbers_past_four_gibibytes() {
        let now = Instant::now();
        let size = 5 << 30;
        let mut session = Session::new(terms(1468, 64), size, true, now);
        session.start(now);
        let mut action = ack(&mut session, 0, now);
        while let Action::Blocks { first, count } = action {
            let last = first + u64::from(count) - 1;
            action = ack(&mut session, u16::try_from(last & 0xffff).unwrap(), now);
        }
        assert_eq!(session.outcome(), Some(&Outcome::Completed));
        assert_eq!(session.acknowledged(), size / 1468 + 1);
    }

    #[test]
    fn losses_are_met_fast() {
        let octets = vec![7; 1_468_000];
        let clean = run(&octets, Mode::Octet, terms(1468, 16), true, Link::default());
        assert_eq!(clean.sent, 1001);
        let link = Link { loss: 10, seed: 3, ..Link::default() };
        let lossy = run(&octets, Mode::Octet, terms(1468, 16), true, link);
        assert!(lossy.time < clean.time + MS * 60, "{:?} {:?}", clean.time, lossy.time);
        assert!(lossy.sent < 1300, "{}", lossy.sent);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
        #[test]
        fn every_link_that_lets_something_through_ends_with_the_file(
            size in 0_usize..6000,
            block_size in 8_u16..200,
            window in 1_u16..=64,
            text in any::<bool>(),
            offered in any::<bool>(),
            loss in 0_u64..200,
            duplicates in 0_u64..200,
            reordered in 0_u64..200,
            seed in any::<u64>(),
        ) {
            let octets: Vec<u8> = (0..size).map(|n| b"\rabc\n"[n * n % 5]).collect();
            let window = if offered { window } else { 1 };
            let mode = if text { Mode::Netascii } else { Mode::Octet };
            let clean = run(&octets, mode, terms(block_size, window), offered, Link::default());
            prop_assert_eq!(clean.outcome, Some(Outcome::Completed));
            let link = Link { loss, duplicates, reordered, seed };
            let lossy = run(&octets, mode, terms(block_size, window), offered, link);
            // One that never heard of the client at all may give up: after its offer, or its first block.
            let first = if offered { 0 } else { usize::from(block_size) };
            let unheard = lossy.outcome == Some(Outcome::Silent) && lossy.received.len() <= first;
            prop_assert!(unheard || lossy.received == clean.received, "{:?} {}", lossy.outcome, lossy.received.len());
            // Every block is sent at most as often as the link's faults can explain.
            let blocks = clean.sent;
            prop_assert!(lossy.sent <= blocks * u64::from(window).max(4) + 200, "{} {}", lossy.sent, blocks);
        }
    }
}
