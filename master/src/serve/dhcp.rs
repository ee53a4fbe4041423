//! DHCP's questions answered by the cluster in force.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::mpsc::TrySendError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::boot::firmware::{self, Firmware, Next, Program};
use crate::boot::{Generation, Site};
use crate::cluster::{Boot, Cluster, DhcpMode, Loader, Mac, Node, Unknown};
use crate::dhcp::{
    self, Arch, BootFile, Client, Config, Decision, Exchange, Kind, LeaseState, Leases, Mode, Network,
    Outcome, Policy, Server, Silence, StartError, Terms,
};
use crate::inventory::{Sighting, Stage, Timestamp};

use super::ServeError;

/// A machine that boots in this time after its loader's first step still does the same boot.
const LOADER_MS: u64 = 120_000;
/// The same trouble of the same machine is told once in so long.
const TROUBLE_PAUSE: Duration = Duration::from_secs(60);
/// Machines that wait to be taken in.
const ADOPTING: usize = 256;
/// Machines whose troubles are remembered.
const TROUBLES_KEPT: usize = 1000;

/// The policy: a view of the site.
pub(super) struct ByCluster {
    site: Arc<Site>,
    network: Mutex<Option<(u64, Arc<Network>)>>,
    adopt: std::sync::mpsc::SyncSender<Mac>,
    troubles: Mutex<HashMap<Mac, Instant>>,
}

/// Starts the server, and the thread that takes unknown machines in (`unknown: boot`).
pub(super) fn start(site: &Arc<Site>, leases: Arc<dyn Leases>) -> Result<Arc<Server>, StartError> {
    let (adopt, queue) = std::sync::mpsc::sync_channel(ADOPTING);
    let adopting = Arc::clone(site);
    let thread = std::thread::Builder::new().name("adopt".into()).spawn(move || {
        while let Ok(mac) = queue.recv() {
            if adopting.current().node_of(mac, None).is_none()
                && let Err(error) = adopting.adopt(mac)
            {
                adopting.inventory.event(None, Some(mac), None, format!("cannot boot it: {error}"));
            }
        }
    });
    thread.map_err(|source| StartError::Socket { what: "a thread cannot be started".into(), source })?;
    let config = config(&site.current().cluster);
    let server = dhcp::serve(config, Arc::new(ByCluster::new(Arc::clone(site), adopt)), leases)?;
    let server = Arc::new(server);
    // The server holds the site, by its policy.
    let running = Arc::downgrade(&server);
    site.tell(move |generation| {
        if let Some(server) = running.upgrade()
            && !server.reconfigure(self::config(&generation.cluster))
        {
            tracing::error!("DHCP goes on as it was: interface and address cannot change while it runs");
        }
    });
    Ok(server)
}

/// Nodes without a fixed address hold what their leases say, over a restart too; and where another server
/// gives the addresses, what their roots were seen to hang on.
pub(super) fn hold_known(site: &Site, leases: &dyn Leases) -> Result<(), ServeError> {
    let generation = site.current();
    for lease in leases.load().map_err(StartError::from)? {
        let node = generation.node_of(lease.mac, lease.uuid).filter(|node| node.address.is_none());
        if let (Some(node), LeaseState::Bound) = (node, lease.state) {
            site.hold(&node.name, lease.address, Some(at_second(lease.expires)));
        }
    }
    for node in generation.nodes().iter().filter(|node| site.address_of(node).is_none()) {
        let state = site.inventory.node(&node.name).filter(|state| state.stage.has_root());
        if let Some(address) = state.and_then(|state| state.address)
            && site.node_at(address).is_none()
        {
            site.hold(&node.name, address, None);
        }
    }
    site.list_held()?;
    Ok(())
}

fn at_second(seconds: u64) -> Timestamp {
    Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
}

/// What the DHCP server is told of a cluster.
pub(super) fn config(cluster: &Cluster) -> Config {
    let master = &cluster.master;
    let mode = match master.dhcp {
        DhcpMode::Authoritative => Mode::Authoritative,
        DhcpMode::Proxy => Mode::Proxy,
    };
    Config::new(&master.interface, master.address, mode, master.range)
}

impl ByCluster {
    /// Machines that boot without an entry are sent to `adopt`.
    pub(super) fn new(site: Arc<Site>, adopt: std::sync::mpsc::SyncSender<Mac>) -> Self {
        Self { site, network: Mutex::default(), adopt, troubles: Mutex::default() }
    }

    fn network(&self, generation: &Generation) -> Arc<Network> {
        let mut kept = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, network)) = &*kept
            && *number == generation.number
        {
            return Arc::clone(network);
        }
        let master = &generation.cluster.master;
        let network = Arc::new(Network {
            prefix: master.address.trunc(),
            routers: master.gateway.into_iter().collect(),
            dns: master.dns.clone(),
            domain: Some(generation.cluster.name.clone()),
            ntp: vec![master.address.addr()],
        });
        *kept = Some((generation.number, Arc::clone(&network)));
        network
    }

    fn terms(&self, generation: &Generation, node: Option<&Node>, client: &Client<'_>) -> Terms {
        let settings = node.map(Node::settings);
        let loader = settings.map_or(Loader::Auto, |s| s.loader.value);
        let from_disk = settings.is_some_and(|s| s.boot.value == Boot::Disk);
        let mut network = self.network(generation);
        if let Some(s) = settings
            && (s.gateway.value != generation.cluster.master.gateway
                || s.dns.value != generation.cluster.master.dns)
        {
            let own = Network {
                routers: s.gateway.value.into_iter().collect(),
                dns: s.dns.value.clone(),
                ..(*network).clone()
            };
            network = Arc::new(own);
        }
        Terms {
            address: node.and_then(|node| node.address.as_ref()).map(|address| address.value),
            network,
            hostname: node.map(|node| node.name.as_str().into()),
            lease_seconds: generation.cluster.master.lease_seconds,
            boot: if from_disk { None } else { self.boot_file(generation, client, loader) },
        }
    }

    fn boot_file(&self, generation: &Generation, client: &Client<'_>, loader: Loader) -> Option<BootFile> {
        let master = &generation.cluster.master;
        let url = |path: &str| format!("http://{}:{}/{path}", master.address.addr(), master.http_port);
        match firmware::next(firmware_of(client), program_of(client), loader, master.dhcp) {
            Next::Tftp(file) => Some(BootFile::Tftp { server: master.address.addr(), file: file.to_owned() }),
            Next::Http(file) if file == firmware::IPXE_SCRIPT => {
                let uuid = client.uuid.map(|uuid| format!("&uuid={uuid}")).unwrap_or_default();
                Some(BootFile::Url(url(&format!("{file}?mac={}{uuid}", client.mac))))
            }
            Next::Http(file) => Some(BootFile::Url(url(file))),
            Next::Nothing => None,
            Next::Refuse(why) => {
                self.trouble(client.mac, why);
                None
            }
        }
    }

    fn trouble(&self, mac: Mac, why: &str) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        troubles.retain(|_, told| now.duration_since(*told) < TROUBLE_PAUSE);
        if troubles.len() < TROUBLES_KEPT && troubles.insert(mac, now).is_none() {
            let generation = self.site.current();
            let node = generation.node_of(mac, None).map(|node| node.name.as_str());
            self.site.inventory.event(node, Some(mac), None, format!("cannot boot it: {why}"));
        }
    }

    /// A firmware or iPXE asked: the start of a boot, unless the loader of one is at work.
    fn boot_seen(&self, node: &Node, machine: &Sighting, client: &Client<'_>) {
        let state = self.site.inventory.node(&node.name);
        let in_loader = state.is_some_and(|state| {
            state.stage == Stage::Loader && Timestamp::now().since(state.since) < LOADER_MS
        });
        match client.kind {
            Kind::Ipxe if in_loader => {}
            Kind::Pxe | Kind::Http | Kind::Ipxe => {
                self.site.inventory.reached(
                    &node.name,
                    Stage::Dhcp,
                    machine,
                    "its firmware asks for an address",
                );
            }
            Kind::Stage1 | Kind::Other => {}
        }
    }
}

impl Policy for ByCluster {
    fn conflict(&self, address: Ipv4Addr, holder: Mac) {
        let told = format!("{address} is in use by a machine that was not given it; it is set aside");
        self.site.inventory.event(None, Some(holder), None, told);
    }

    fn decide(&self, client: &Client<'_>) -> Decision {
        let generation = self.site.current();
        if let Some(node) = generation.node_of(client.mac, client.uuid) {
            return Decision::Known(self.terms(&generation, Some(node), client));
        }
        match generation.cluster.master.unknown {
            Unknown::Ignore => Decision::Ignore,
            Unknown::Register => Decision::Unknown(self.terms(&generation, None, client)),
            Unknown::Boot => {
                // Once it is a node it is found above; until then it loads what every machine loads first.
                // One that finds no place in the queue asks again.
                if client.kind.is_boot()
                    && let Err(TrySendError::Disconnected(mac)) = self.adopt.try_send(client.mac)
                {
                    tracing::warn!(%mac, "nobody takes unknown machines in any more");
                }
                Decision::Unknown(self.terms(&generation, None, client))
            }
        }
    }

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        let generation = self.site.current();
        let master = &generation.cluster.master;
        generation.node_at(address).is_some()
            || master.gateway == Some(address)
            || master.dns.contains(&address)
    }

    fn observe(&self, exchange: &Exchange<'_>) {
        let client = exchange.client;
        let generation = self.site.current();
        let node = generation.node_of(client.mac, client.uuid);
        let address = match exchange.outcome {
            Outcome::Acknowledged(address) | Outcome::BootAcknowledged(address) => Some(address),
            _ => None,
        };
        let firmware = matches!(client.kind, Kind::Pxe | Kind::Http | Kind::Ipxe)
            .then(|| firmware_name(client.arch.unwrap_or(Arch::Bios)));
        let machine = Sighting {
            mac: client.mac,
            uuid: client.uuid,
            vendor: firmware.as_ref().map(|_| String::from_utf8_lossy(client.vendor_class).into_owned()),
            firmware,
            address,
        };
        match exchange.outcome {
            Outcome::Silent(Silence::Architecture(_) | Silence::NoAddress) => {
                self.site.inventory.saw(&machine);
                if let Outcome::Silent(why) = exchange.outcome {
                    self.trouble(client.mac, &why.to_string());
                }
            }
            Outcome::Silent(_) => {}
            Outcome::Declined(address) => {
                self.site.inventory.event(
                    node.map(|n| n.name.as_str()),
                    Some(client.mac),
                    None,
                    format!("{address} is in use by another machine; it is set aside"),
                );
            }
            _ => {
                if client.kind.is_boot() || node.is_some() {
                    self.site.inventory.saw(&machine);
                }
                let Some(node) = node else {
                    if let Some(address) = address {
                        self.site.vacate(address);
                    }
                    return;
                };
                if matches!(exchange.outcome, Outcome::Offered(_) | Outcome::BootOffered) {
                    self.boot_seen(node, &machine, client);
                }
                if node.address.is_some() {
                    return;
                }
                match exchange.outcome {
                    Outcome::Acknowledged(address) => {
                        let lease = i64::from(generation.cluster.master.lease_seconds);
                        let until = Timestamp(Timestamp::now().0 + 1000 * lease);
                        self.site.hold(&node.name, address, Some(until));
                    }
                    Outcome::BootAcknowledged(address) => self.site.hold(&node.name, address, None),
                    Outcome::Released(address) => self.site.give_back(&node.name, address),
                    _ => {}
                }
            }
        }
    }
}

fn firmware_of(client: &Client<'_>) -> Firmware {
    match client.arch {
        None | Some(Arch::Bios) => Firmware::Bios,
        Some(Arch::EfiX64) => Firmware::Uefi,
        Some(Arch::HttpX64) => Firmware::UefiHttp,
        Some(Arch::EfiIa32 | Arch::HttpIa32 | Arch::Other(_)) => Firmware::Other,
    }
}

fn program_of(client: &Client<'_>) -> Program {
    match client.kind {
        Kind::Pxe | Kind::Http => Program::Firmware,
        Kind::Ipxe => Program::Ipxe,
        Kind::Stage1 => Program::Stage1,
        Kind::Other => Program::Other,
    }
}

/// As `tesela node list` shows it.
fn firmware_name(arch: Arch) -> String {
    match arch {
        Arch::Bios => "bios".into(),
        Arch::EfiX64 => "uefi".into(),
        Arch::HttpX64 => "uefi-http".into(),
        Arch::EfiIa32 => "uefi-ia32".into(),
        Arch::HttpIa32 => "uefi-http-ia32".into(),
        Arch::Other(code) => format!("arch-{code}"),
    }
}
