//! A client and a link to try sessions on: it loses, doubles and reorders packets, in virtual time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::content::{Content, Source};
use super::options::Terms;
use super::packet::{self, Mode};
use super::session::{Action, Outcome, Session};

/// What a link does to packets, each in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    pub loss: u64,
    pub duplicates: u64,
    pub reordered: u64,
    pub seed: u64,
}

/// How a simulated transfer went.
#[derive(Debug)]
pub struct Run {
    pub received: Vec<u8>,
    pub outcome: Option<Outcome>,
    /// DATA packets that left the server.
    pub sent: u64,
    pub time: Duration,
}

/// A client after RFC 7440: acknowledges each window, and what it has at once where a block is missing.
struct Client {
    terms: Terms,
    received: Vec<u8>,
    expected: u64,
    in_window: u16,
    /// It has heard of the transfer.
    begun: bool,
    done: bool,
    heard: Instant,
}

enum Packet {
    ToClient(Vec<u8>),
    ToServer([u8; 4]),
}

struct World {
    link: Link,
    now: Instant,
    random: u64,
    events: BTreeMap<(Instant, u64), Packet>,
    serial: u64,
}

impl World {
    fn chance(&mut self, thousandths: u64) -> bool {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 1000 < thousandths
    }

    fn send(&mut self, make: impl Fn() -> Packet) {
        let copies = if self.chance(self.link.duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance(self.link.loss) {
                continue;
            }
            let late = if self.chance(self.link.reordered) { 400 } else { 0 };
            self.serial += 1;
            // One after the other, as on a wire: 12 µs a full packet at 1 Gb/s.
            let queue = self.events.len() as u64 * 12;
            let at = self.now + Duration::from_micros(50 + queue + late);
            self.events.insert((at, self.serial), make());
        }
    }
}

impl Client {
    /// Takes a packet in; the block to acknowledge, if any.
    fn receive(&mut self, packet: &[u8]) -> Option<u16> {
        self.begun = true;
        if packet[1] == 6 {
            return (self.expected == 1).then_some(0);
        }
        let wire = u16::from_be_bytes([packet[2], packet[3]]);
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2¹⁶ on the wire")]
        let expected = self.expected as u16;
        if wire != expected {
            self.in_window = 0;
            // Ahead: something is missing; behind: our ACK may be lost.
            return Some(expected.wrapping_sub(1));
        }
        let data = &packet[packet::DATA_HEADER..];
        self.received.extend(data);
        self.expected += 1;
        self.in_window += 1;
        self.done = data.len() < self.terms.block_size.into();
        if self.done || self.in_window == self.terms.window {
            self.in_window = 0;
            return Some(wire);
        }
        None
    }
}

/// Runs a transfer to its end.
pub fn run(octets: &[u8], mode: Mode, terms: Terms, offered: bool, link: Link) -> Run {
    let began = Instant::now();
    let mut source = Source::new(Content::from(Bytes::copy_from_slice(octets)), mode).unwrap();
    let mut session = Session::new(terms, source.size(), offered, began);
    let mut client = Client {
        terms,
        received: Vec::new(),
        expected: 1,
        in_window: 0,
        begun: false,
        done: false,
        heard: began,
    };
    let mut world = World { link, now: began, random: link.seed, events: BTreeMap::new(), serial: 0 };
    let (mut sent, mut scratch) = (0, Vec::new());
    let mut action = session.start(began);
    loop {
        match action {
            Action::Wait => {}
            Action::Offer => world.send(|| Packet::ToClient(vec![0, 6])),
            Action::Blocks { first, count } => {
                assert!(count > 0 && count <= terms.window, "{action:?}");
                for block in (first..).take(count.into()) {
                    let data = source.blocks(block, 1, terms.block_size, &mut scratch).unwrap();
                    let packet = [&packet::data_header(block), data].concat();
                    sent += 1;
                    world.send(|| Packet::ToClient(packet.clone()));
                }
            }
        }
        let ended = session.outcome().is_some();
        if ended && world.events.is_empty() {
            break;
        }
        // Its own patience.
        let client_due = (client.begun && !client.done).then(|| client.heard + Duration::from_secs(1));
        let due = client_due.map_or(session.deadline(), |due| due.min(session.deadline()));
        let next = world.events.first_key_value().map(|((at, _), _)| *at);
        match next {
            Some(at) if ended || at <= due => {
                let Some(((at, _), packet)) = world.events.pop_first() else { break };
                world.now = at;
                action = Action::Wait;
                match packet {
                    Packet::ToClient(packet) => {
                        client.heard = at;
                        if let Some(number) = client.receive(&packet) {
                            let [high, low] = number.to_be_bytes();
                            world.send(|| Packet::ToServer([0, 4, high, low]));
                        }
                    }
                    Packet::ToServer(packet) => action = session.receive(&packet, at),
                }
            }
            _ if let Some(client_due) = client_due.filter(|due| *due < session.deadline()) => {
                // That ends first: it says once more what it has.
                world.now = client_due;
                client.heard = client_due;
                client.in_window = 0;
                let [.., high, low] = (client.expected - 1).to_be_bytes();
                world.send(|| Packet::ToServer([0, 4, high, low]));
                action = Action::Wait;
            }
            _ => {
                world.now = world.now.max(session.deadline());
                action = session.expire(world.now);
            }
        }
    }
    Run { received: client.received, outcome: session.outcome().cloned(), sent, time: world.now - began }
}
