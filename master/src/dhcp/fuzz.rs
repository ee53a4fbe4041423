//! The fuzzer's and the property test's way in: datagrams against a whole engine, and what must hold of
//! its answers.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::client::{Client, Kind};
use super::engine::{Destination, Engine, Port, Received};
use super::lease::{Change, Lease, LeaseState, Seconds};
use super::observe::Exchange;
use super::policy::{BootFile, Decision, Network, Policy, Terms};
use super::server::{Config, Mode};
use super::wire::Malformed;
use crate::cluster::Mac;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const LEASE: u32 = 600;

/// Machines whose hardware address ends in 0 to 3 are known, 0 and 1 with an address of their own (the
/// second in the range), 4 is ignored, the others are unknown.
#[derive(Debug)]
struct Rule(Arc<Network>);

impl Rule {
    fn own(mac: Mac) -> Option<Ipv4Addr> {
        match mac.0[5] {
            0 => Some(Ipv4Addr::new(10, 0, 0, 50)),
            1 => Some(Ipv4Addr::new(10, 0, 0, 12)),
            _ => None,
        }
    }
}

impl Policy for Rule {
    fn decide(&self, client: &Client<'_>) -> Decision {
        let boot = match client.kind {
            Kind::Pxe => Some(BootFile::Tftp { server: SERVER, file: "loader".to_owned() }),
            Kind::Http => Some(BootFile::Url("http://10.0.0.1/".to_owned() + &"long/".repeat(60))),
            Kind::Ipxe => Some(BootFile::Url("http://10.0.0.1/boot.ipxe".to_owned())),
            Kind::Stage1 | Kind::Other => None,
        };
        let terms = Terms {
            address: Self::own(client.mac),
            network: Arc::clone(&self.0),
            hostname: Some("n1".into()),
            lease_seconds: LEASE,
            boot,
        };
        match client.mac.0[5] {
            0..=3 => Decision::Known(terms),
            4 => Decision::Ignore,
            _ => Decision::Unknown(terms),
        }
    }

    fn conflict(&self, _address: Ipv4Addr, _holder: Mac) {}

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        [50, 12].contains(&address.octets()[3])
    }

    fn observe(&self, _: &Exchange<'_>) {}
}

/// An engine, and what its store would hold.
#[derive(Debug)]
pub struct Harness {
    engine: Engine,
    config: Config,
    rule: Rule,
    store: HashMap<Ipv4Addr, Lease>,
    now: Seconds,
}

impl Harness {
    /// A server of 10.0.0.0/24 with six dynamic addresses, 10.0.0.10 to 10.0.0.15.
    pub fn new(mode: Mode) -> Self {
        let prefix = ipnet::Ipv4Net::new_assert(SERVER, 24);
        let range = (Ipv4Addr::new(10, 0, 0, 10), Ipv4Addr::new(10, 0, 0, 15));
        let config = Config::new("eth1", prefix, mode, Some(range));
        let network = Network {
            prefix: prefix.trunc(),
            routers: vec![SERVER],
            dns: vec![SERVER; 80],
            domain: Some("aula".to_owned()),
            ntp: vec![SERVER],
        };
        Self {
            engine: Engine::new(config.clone(), Vec::new()),
            config,
            rule: Rule(Arc::new(network)),
            store: HashMap::new(),
            now: 1_000_000,
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, seconds: Seconds) {
        self.now += seconds;
    }

    /// Kills the server and starts it from its store.
    pub fn restart(&mut self) {
        self.engine = Engine::new(self.config.clone(), self.store.values().cloned().collect());
    }

    /// An ARP packet of this machine shows that it uses the address.
    pub fn sighting(&mut self, address: Ipv4Addr, mac: Mac) {
        self.engine.conflict(address, mac, self.now);
    }

    /// Lets the prober do its whole work at once.
    pub fn probe(&mut self) {
        while let Some(address) = self.engine.next_to_probe(&self.rule, self.now) {
            self.engine.probe_done(address);
        }
    }

    /// Gives the engine a datagram, and returns the bytes of the reply.
    ///
    /// # Errors
    /// It is no request.
    ///
    /// # Panics
    /// Where what must hold of the answer does not.
    pub fn feed(&mut self, port: Port, datagram: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let source = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 12), 68);
        let answer = self.engine.handle(&self.rule, Received { source, port, now: self.now }, datagram)?;
        for change in &answer.changes {
            self.apply(change);
        }
        let Some(reply) = answer.reply else { return Ok(None) };
        let bytes = reply.bytes;
        assert!((300..=1472 + 512).contains(&bytes.len()), "a reply of {} octets", bytes.len());
        assert_eq!((bytes[0], &bytes[4..8], &bytes[28..34]), (2, &datagram[4..8], &datagram[28..34]));
        let yiaddr = Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]);
        match bytes[242] {
            6 => {
                assert!(yiaddr.is_unspecified());
                assert!(!matches!(reply.to, Destination::Raw { .. }));
            }
            5 if !yiaddr.is_unspecified() => {
                let lease = self.store.get(&yiaddr).expect("an ACK leaves only with its lease");
                assert_eq!((lease.mac.0.as_slice(), lease.state), (&datagram[28..34], LeaseState::Bound));
                assert_eq!(lease.expires, self.now + Seconds::from(LEASE));
                assert!(answer.changes.contains(&Change::Put(lease.clone())));
            }
            _ => {}
        }
        if !yiaddr.is_unspecified() {
            assert!(self.rule.0.prefix.contains(&yiaddr) && yiaddr != SERVER);
            assert_eq!(self.config.mode, Mode::Authoritative);
        }
        Ok(Some(bytes))
    }

    /// Gives the engine datagrams that came together, with this store.
    #[cfg(test)]
    pub(super) fn batch(
        &mut self,
        leases: &dyn super::Leases,
        datagrams: &[Vec<u8>],
        send: impl Fn(Vec<super::Reply>) + Send + 'static,
    ) {
        let source = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        let datagrams = datagrams.iter().map(|datagram| (&datagram[..], source));
        super::batch::answer(&mut self.engine, &self.rule, leases, (Port::Dhcp, self.now), datagrams, send);
    }

    /// One of the engine's counters.
    #[cfg(test)]
    pub(super) fn count(&self, name: &str) -> u64 {
        self.engine.counters().snapshot().find(|counter| counter.0 == name).expect("a counter").1
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Forget(address) => {
                self.store.remove(address);
            }
            Change::Put(lease) => {
                if let Some(old) = self.store.get(&lease.address)
                    && lease.state == LeaseState::Bound
                    && old.expires > self.now
                {
                    let same = old.mac == lease.mac || (lease.uuid.is_some() && lease.uuid == old.uuid);
                    assert!(same, "{old:?} was given away to {lease:?}");
                    assert_ne!(old.state, LeaseState::Declined);
                }
                self.store.insert(lease.address, lease.clone());
            }
        }
    }
}

/// Reads the data as a series of steps: a control octet, a length octet times four, that many octets of
/// datagram. Panics where the engine does something that it must not.
pub fn fuzz(data: &[u8]) {
    let Some((mode, mut rest)) = data.split_first() else { return };
    let mode = if mode & 1 == 0 { Mode::Authoritative } else { Mode::Proxy };
    let mut harness = Harness::new(mode);
    while let [control, length, more @ ..] = rest {
        let (datagram, after) = more.split_at(more.len().min(usize::from(*length) * 4));
        rest = after;
        harness.wait(Seconds::from(control >> 4) * 60);
        match control & 7 {
            0 => harness.restart(),
            1 => harness.probe(),
            2 => {
                if let Some(seen) = super::frame::parse_arp(datagram) {
                    harness.sighting(seen.address, seen.mac);
                }
                // Only that it does not panic: there is no reply to look at.
                super::scout::offer(datagram, Mac([2, 0, 0, 0, 0, 1]), [1, 2, 3, 4]);
            }
            control => {
                let port = if control == 3 { Port::BootServer } else { Port::Dhcp };
                // A malformed datagram is a result like any other.
                let _malformed = harness.feed(port, datagram);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/dhcp_packet");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            super::fuzz(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 10, "the corpus is not there");
    }
}
