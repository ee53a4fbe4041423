//! A DHCP server for tests and measurements: a fixed policy, the real engine, sockets and store.

pub mod load;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tesela::cluster::Mac;
use tesela::dhcp::{
    BootFile, Client, Config, Decision, Exchange, Kind, Mode, Network, Outcome, Policy, Server, SqliteLeases,
    Terms, serve,
};

/// What a [`FixedPolicy`] is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Interface of the server.
    pub interface: String,
    /// Its address there, with the prefix length.
    pub address: String,
    /// The network that clients are on, where a relay stands between; else that of `address`.
    pub clients: Option<String>,
    /// Who gives addresses.
    pub mode: Mode,
    /// First and last address of the dynamic range.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Machines with an address of their own.
    pub known: HashMap<Mac, Ipv4Addr>,
    /// Whether all other machines count as known as well.
    pub everyone: bool,
    /// Seconds.
    pub lease_seconds: u32,
    /// Addresses probed ahead.
    pub probed_ahead: usize,
}

impl Setup {
    /// An authoritative server for everyone.
    pub fn new(interface: &str, address: &str, range: Option<(Ipv4Addr, Ipv4Addr)>) -> Self {
        Self {
            interface: interface.to_owned(),
            address: address.to_owned(),
            clients: None,
            mode: Mode::Authoritative,
            range,
            known: HashMap::new(),
            everyone: true,
            lease_seconds: 3600,
            probed_ahead: 16,
        }
    }

    /// Starts the server in the network namespace of the calling thread, its leases in this file.
    pub fn start(&self, leases: &Path) -> (Server, Arc<FixedPolicy>) {
        let policy = self.policy();
        let store = SqliteLeases::open(leases).unwrap_or_else(|error| panic!("{error}"));
        let server = serve(self.config(), Arc::clone(&policy) as _, Arc::new(store));
        (server.unwrap_or_else(|error| panic!("{error}")), policy)
    }

    /// The policy that this comes to.
    pub fn policy(&self) -> Arc<FixedPolicy> {
        Arc::new(FixedPolicy::new(self))
    }

    /// The configuration of the server.
    pub fn config(&self) -> Config {
        let address = self.address.parse().unwrap_or_else(|error| panic!("{}: {error}", self.address));
        Config {
            probed_ahead: self.probed_ahead,
            ..Config::new(&self.interface, address, self.mode, self.range)
        }
    }
}

/// Decides by a table, and remembers what it observed.
#[derive(Debug)]
pub struct FixedPolicy {
    setup: Setup,
    server: Ipv4Addr,
    network: Arc<Network>,
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What a [`FixedPolicy`] has observed.
#[derive(Debug, Default)]
pub struct Seen {
    /// What came of every exchange; kept for the first 10,000.
    pub exchanges: Vec<(Mac, Outcome)>,
    /// Addresses that were found in use.
    pub conflicts: Vec<Ipv4Addr>,
}

impl FixedPolicy {
    fn new(setup: &Setup) -> Self {
        let config = setup.config();
        let clients = setup.clients.as_ref().unwrap_or(&setup.address);
        let network = Network {
            prefix: clients.parse().unwrap_or_else(|error| panic!("{clients}: {error}")),
            routers: vec![config.address],
            dns: vec![config.address],
            domain: Some("aula".to_owned()),
            ntp: vec![config.address],
        };
        Self {
            setup: setup.clone(),
            server: config.address,
            network: Arc::new(network),
            seen: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// What came of every exchange so far.
    pub fn seen(&self) -> Vec<(Mac, Outcome)> {
        self.lock().exchanges.clone()
    }

    /// Waits until it holds of what was observed.
    ///
    /// # Panics
    /// It does not in 20 seconds.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let limit = Duration::from_secs(20);
        let waited = self.changed.wait_timeout_while(self.lock(), limit, |seen| !holds(seen));
        let (_seen, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "{what}: not within {limit:?}");
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for FixedPolicy {
    fn decide(&self, client: &Client<'_>) -> Decision {
        let boot = match client.kind {
            Kind::Pxe => Some(BootFile::Tftp { server: self.server, file: "loader".to_owned() }),
            Kind::Http => Some(BootFile::Url(format!("http://{}/boot/shimx64.efi", self.server))),
            Kind::Ipxe => Some(BootFile::Url(format!("http://{}/boot/boot.ipxe", self.server))),
            Kind::Stage1 | Kind::Other => None,
        };
        let address = self.setup.known.get(&client.mac).copied();
        let terms = Terms {
            address,
            network: Arc::clone(&self.network),
            hostname: None,
            lease_seconds: self.setup.lease_seconds,
            boot,
        };
        if address.is_some() || self.setup.everyone {
            Decision::Known(terms)
        } else {
            Decision::Unknown(terms)
        }
    }

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        self.setup.known.values().any(|known| *known == address)
    }

    fn observe(&self, exchange: &Exchange<'_>) {
        let mut seen = self.lock();
        if seen.exchanges.len() < 10_000 {
            seen.exchanges.push((exchange.client.mac, exchange.outcome));
        }
        self.changed.notify_all();
    }

    fn conflict(&self, address: Ipv4Addr, _holder: Mac) {
        self.lock().conflicts.push(address);
        self.changed.notify_all();
    }
}
