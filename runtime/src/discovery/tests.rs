//! Nodes on a network that is a queue.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;
use crate::load::{Load, Status};

const DELAY: Duration = Duration::from_micros(200);

struct Net {
    now: Duration,
    nodes: BTreeMap<Ipv4Addr, Core<SmallRng>>,
    /// When, from whom, to whom.
    queue: BTreeMap<(Duration, u64), (Ipv4Addr, Ipv4Addr, Vec<u8>)>,
    sent: u64,
    said_to_all: u64,
    multicast: bool,
    seed: u64,
}

fn at(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn load(of: u32) -> Load {
    Load { load: of, speed: 10_000, cpus: 100, util: 0, mem: 1, rmem: 1, tmem: 1, status: Status::UP }
}

impl Net {
    fn new(multicast: bool) -> Self {
        let (nodes, queue) = (BTreeMap::new(), BTreeMap::new());
        Self { now: Duration::from_secs(100), nodes, queue, sent: 0, said_to_all: 0, multicast, seed: 7 }
    }

    fn start(&mut self, number: u8, clock: u64) {
        self.seed += 2;
        let [one, other] = [self.seed, self.seed + 1].map(SmallRng::seed_from_u64);
        let run = Run { address: at(number), number: clock };
        let mut core = Core::new(self.now, run, one, other);
        core.tell(self.now, Some(load(number.into())));
        self.nodes.insert(at(number), core);
    }

    fn put_out(&mut self, from: Ipv4Addr) {
        let others: Vec<Ipv4Addr> = self.nodes.keys().copied().filter(|other| *other != from).collect();
        while let Some(output) = self.nodes.get_mut(&from).and_then(Core::output) {
            self.said_to_all += u64::from(matches!(output, Output::SendAll(_)));
            let (to, octets) = match output {
                Output::Send(to, octets) => (vec![to], octets),
                Output::SendAll(octets) if self.multicast => (others.clone(), octets),
                _ => continue,
            };
            for to in to {
                self.sent += 1;
                self.queue.insert((self.now + DELAY, self.sent), (from, to, octets.clone()));
            }
        }
    }

    fn run_until(&mut self, end: Duration) {
        loop {
            let due = self.nodes.iter().map(|(address, core)| (core.due(), *address)).min();
            let arrival = self.queue.keys().next().map(|(time, _)| *time);
            let next = due.map(|(time, _)| time).into_iter().chain(arrival).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next)
                && let Some((_, (from, to, octets))) = self.queue.pop_first()
            {
                if let Some(core) = self.nodes.get_mut(&to) {
                    // That it was passed over shows in what the node knows.
                    let _refused = core.receive(self.now, from, &octets);
                    self.put_out(to);
                }
            } else if let Some((_, address)) = due {
                self.nodes.get_mut(&address).unwrap().elapse(self.now);
                self.put_out(address);
            }
        }
        self.now = end;
    }

    /// Runs until this holds; how long that took.
    fn until(&mut self, what: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !what(self) {
            self.run_until(self.now + Duration::from_millis(20));
            assert!(self.now - start < Duration::from_secs(60), "never");
        }
        self.now - start
    }

    fn all_know_all(&self) -> bool {
        self.nodes.values().all(|core| {
            let known: Vec<Ipv4Addr> = core.members().iter().map(|member| member.address).collect();
            let others = self.nodes.keys().copied().filter(|other| *other != core.run().address);
            known == others.collect::<Vec<_>>()
        })
    }
}

#[test]
fn a_room_that_is_switched_on_knows_itself_at_once() {
    let mut net = Net::new(true);
    for number in 1..=40 {
        net.start(number, 1_000);
    }
    let took = net.until(Net::all_know_all);
    assert!(took < Duration::from_secs(2), "{took:?}");
    net.start(41, 1_000);
    let took = net.until(Net::all_know_all);
    assert!(took < Duration::from_secs(2), "one more: {took:?}");
}

#[test]
fn where_multicast_is_dropped_one_member_that_the_master_names_is_enough() {
    let mut net = Net::new(false);
    for number in 1..=12 {
        net.start(number, 1_000);
    }
    net.run_until(net.now + Duration::from_secs(1));
    assert!(net.nodes.values().all(|core| core.members().is_empty()));
    for number in 2..=12 {
        let now = net.now;
        net.nodes.get_mut(&at(number)).unwrap().seeds(now, &[at(number - 1)]);
        net.put_out(at(number));
    }
    let took = net.until(Net::all_know_all);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_dead_node_is_out_of_all_maps_and_comes_back() {
    let mut net = Net::new(true);
    for number in 1..=8 {
        net.start(number, 1_000);
    }
    net.until(Net::all_know_all);
    net.run_until(net.now + Duration::from_secs(5));
    net.nodes.remove(&at(3));
    let took = net.until(Net::all_know_all);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(net.nodes.values().all(|core| core.load_of(net.now, at(3)).is_none()), "its load went with it");
    net.start(3, 2_000);
    let took = net.until(Net::all_know_all);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_node_that_leaves_says_so() {
    let mut net = Net::new(true);
    for number in 1..=5 {
        net.start(number, 1_000);
    }
    net.until(Net::all_know_all);
    let now = net.now;
    net.nodes.get_mut(&at(2)).unwrap().leave(now);
    net.put_out(at(2));
    net.nodes.remove(&at(2));
    let took = net.until(Net::all_know_all);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_clock_that_was_set_back_keeps_no_node_out() {
    let mut net = Net::new(true);
    for number in 1..=4 {
        net.start(number, 5_000);
    }
    net.until(Net::all_know_all);
    // It is started anew before the others have missed it, and with a clock of years ago.
    net.start(2, 10);
    net.run_until(net.now + Duration::from_secs(1));
    let took = net.until(Net::all_know_all);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(net.nodes[&at(2)].run().number > 5_000);
    let heard = |net: &Net| net.nodes.values().all(|core| core.load_of(net.now, at(2)).is_some());
    net.until(heard);
}

#[test]
fn loads_reach_all_and_are_not_old() {
    let mut net = Net::new(true);
    for number in 1..=20 {
        net.start(number, 1_000);
    }
    net.run_until(net.now + Duration::from_secs(15));
    for core in net.nodes.values() {
        for number in 1..=20 {
            let (told, age) = core.load_of(net.now, at(number)).expect("told");
            assert_eq!(told.load, u32::from(number));
            assert!(age < Duration::from_secs(8), "{age:?}");
        }
    }
    // One that is quiet is a member, and nothing is known of it once what it told has gone.
    let now = net.now;
    net.nodes.get_mut(&at(9)).unwrap().tell(now, None);
    assert_eq!(net.nodes[&at(9)].load_of(now, at(9)), None);
}

#[test]
fn of_many_each_says_hello_more_rarely() {
    let mut net = Net::new(true);
    for number in 1..=30 {
        net.start(number, 1_000);
    }
    let all: Vec<Run> = net.nodes.values().map(Core::run).collect();
    for core in net.nodes.values_mut() {
        core.know(net.now, all.iter().copied());
    }
    assert!(net.all_know_all());
    net.run_until(net.now + Duration::from_secs(60));
    let said = std::mem::take(&mut net.said_to_all);
    assert!((45..=65).contains(&said), "about one a second: {said}");
    // One that is left alone says it as often as it did in the beginning.
    let alone = *net.nodes.keys().next().unwrap();
    net.nodes.retain(|address, _| *address == alone);
    net.until(Net::all_know_all);
    net.said_to_all = 0;
    net.run_until(net.now + Duration::from_secs(60));
    assert!((4..=8).contains(&net.said_to_all), "{}", net.said_to_all);
}

#[test]
fn what_is_made_up_or_sent_again_changes_nothing() {
    let mut net = Net::new(true);
    net.start(1, 1_000);
    let now = net.now;
    let core = net.nodes.get_mut(&at(1)).unwrap();
    let hello = |run, number| {
        let content = Content::Hello { asks: true, pass: None };
        postcard::to_stdvec(&Packet { run, number, content }).unwrap()
    };
    let run = Run { address: at(2), number: 1_000 };
    assert_eq!(core.receive(now, at(3), &hello(run, 1)), Err(Refused::WrongAddress));
    let own = Run { address: at(1), number: 9_000 };
    assert_eq!(core.receive(now, at(1), &hello(own, 1)), Err(Refused::WrongAddress));
    assert_eq!(core.receive(now, at(2), &[]), Err(Refused::NotUnderstood));
    assert!(core.members().is_empty());
    assert_eq!(core.receive(now, at(2), &hello(run, 1)), Ok(()));
    assert_eq!(core.members(), [run]);
    assert_eq!(core.receive(now, at(2), &hello(run, 1)), Err(Refused::Replayed));
    // A word of one about another that is no member.
    let entry = |address, load_of| Entry {
        run: Run { address, number: 1_000 },
        version: 1,
        age_ms: 0,
        load: load(load_of),
    };
    let content = Content::Loads(vec![entry(at(2), 5), entry(at(7), 5), entry(at(1), 99)]);
    let loads = postcard::to_stdvec(&Packet { run, number: 2, content }).unwrap();
    assert_eq!(core.receive(now, at(2), &loads), Ok(()));
    assert_eq!(core.load_of(now, at(2)).map(|(load, _)| load.load), Some(5));
    assert_eq!(core.load_of(now, at(7)), None);
    assert_eq!(core.load_of(now, at(1)).map(|(load, _)| load.load), Some(1), "its own word counts");
}
