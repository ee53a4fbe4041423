//! What was learnt: machines seen, the boot stage of each node, the history of both.
//!
//! Readers see memory; one thread writes the database (SQLite, WAL; `sqlite3 tesela.db` reads it).
//! History is written within moments, not before the call returns: what must be on the disk before an
//! answer leaves (leases) has its own store in [`leases`](crate::dhcp).

mod stage;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, mpsc};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::cluster::{Mac, Uuid};
pub use stage::{Stage, Told};

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The system clock's now.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// Milliseconds from `earlier` to this; 0 if the clock went back.
    pub fn since(self, earlier: Timestamp) -> u64 {
        u64::try_from(self.0 - earlier.0).unwrap_or(0)
    }
}

/// A machine that was seen on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its hardware address.
    pub mac: Mac,
    /// Its UUID, where the firmware tells.
    pub uuid: Option<Uuid>,
    /// `bios`, `uefi`, `uefi-http`, …, where known.
    pub firmware: Option<String>,
    /// The vendor class (option 60) as sent.
    pub vendor: Option<String>,
    /// Its last known address.
    pub address: Option<Ipv4Addr>,
    /// When it was seen first.
    pub first_seen: Timestamp,
    /// When it was seen last.
    pub last_seen: Timestamp,
    /// Whether it boots as a node without an entry in cluster.yaml (`unknown: boot`).
    pub adopted: bool,
}

/// What one packet told of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Hardware address.
    pub mac: Mac,
    /// UUID.
    pub uuid: Option<Uuid>,
    /// Firmware.
    pub firmware: Option<String>,
    /// Vendor class.
    pub vendor: Option<String>,
    /// Address.
    pub address: Option<Ipv4Addr>,
}

/// Where a node's boot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The stage reached.
    pub stage: Stage,
    /// Since when.
    pub since: Timestamp,
    /// The machine that boots as this node.
    pub mac: Option<Mac>,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Its firmware.
    pub firmware: Option<String>,
    /// What it fetched last.
    pub fetched: Option<String>,
    /// When its agent was heard last.
    pub heard: Option<Timestamp>,
    /// What the agent said then of how the node is.
    pub vitals: Option<Vitals>,
    /// Its agent's version, of its last greeting.
    #[serde(default)]
    pub agent: Option<String>,
    /// A failure that the node itself reported during this boot.
    pub failure: Option<String>,
    /// The stage whose limit this boot overran, if one was.
    pub overran: Option<Stage>,
    /// Milliseconds from the first sign of this boot to `member`.
    pub boot_ms: Option<u64>,
    /// When this boot was first heard of.
    pub booting_since: Timestamp,
}

/// How a node is, as its agent tells with each heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Load average of the last minute, in hundredths.
    pub load_hundredths: u32,
    /// Its memory, KiB.
    pub memory_total_kib: u64,
    /// Memory that could be had without swapping, KiB.
    pub memory_available_kib: u64,
    /// Seconds since its kernel started.
    pub uptime_seconds: u64,
    /// By how many milliseconds its clock is ahead of the master's, where it tells.
    #[serde(default)]
    pub ahead_ms: Option<i64>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// To which node.
    pub node: Option<String>,
    /// To which machine.
    pub mac: Option<Mac>,
    /// The stage that it reached by it.
    pub stage: Option<Stage>,
    /// What, in a sentence's words.
    pub text: String,
}

/// What can go wrong with the inventory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be used.
    #[error("the database {} cannot be used: {source}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The thread that writes could not be started.
    #[error("cannot start the database's thread: {0}")]
    Thread(std::io::Error),
}

#[derive(Default)]
struct State {
    machines: HashMap<Mac, Machine>,
    nodes: BTreeMap<String, NodeState>,
}

/// The inventory.
pub struct Inventory {
    path: PathBuf,
    state: RwLock<State>,
    reader: Mutex<Connection>,
    writer: Mutex<mpsc::Sender<store::Write>>,
    events: broadcast::Sender<Event>,
    new: bool,
}

/// A sighting younger than this changes nothing in the database.
const SIGHTING_GRAIN_MS: u64 = 60_000;
/// Machines kept in memory and in the database: a flood of made-up MACs ends here.
const MACHINES_KEPT: usize = 20_000;

impl Inventory {
    /// Opens `STATE/tesela.db`, or makes it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Database { path: path.to_owned(), source };
        let db = store::open(path)?;
        let new = store::is_new(&db).map_err(failed)?;
        let machines = store::load_machines(&db).map_err(failed)?;
        let mut nodes = store::load_nodes(&db).map_err(failed)?;
        // No agent is connected yet: whoever was a member has to show it again, and has its time for it anew.
        for (_, state) in &mut nodes {
            let silent = state.stage.fallen_silent();
            if silent == Stage::Silent {
                (state.stage, state.since) = (silent, Timestamp::now());
            }
        }
        let reader = store::open(path)?;
        let (writer, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("inventory".into())
            .spawn(move || store::write_all(db, &queue))
            .map_err(Error::Thread)?;
        Ok(Self {
            path: path.to_owned(),
            state: RwLock::new(State {
                machines: machines.into_iter().map(|m| (m.mac, m)).collect(),
                nodes: nodes.into_iter().collect(),
            }),
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
            events: broadcast::channel(4096).0,
            new,
        })
    }

    /// Whether the database was made by this start.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// A packet told something of a machine.
    pub fn saw(&self, sighting: &Sighting) {
        let now = Timestamp::now();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !state.machines.contains_key(&sighting.mac) {
            if state.machines.len() >= MACHINES_KEPT {
                self.make_room(&mut state);
            }
            self.event(None, Some(sighting.mac), None, "seen for the first time".into());
        }
        let machine = state.machines.entry(sighting.mac).or_insert_with(|| Machine {
            mac: sighting.mac,
            uuid: None,
            firmware: None,
            vendor: None,
            address: None,
            first_seen: now,
            last_seen: Timestamp(0),
            adopted: false,
        });
        let before = machine.clone();
        machine.uuid = sighting.uuid.or(machine.uuid);
        machine.address = sighting.address.or(machine.address);
        if sighting.firmware.is_some() {
            machine.firmware.clone_from(&sighting.firmware);
            machine.vendor.clone_from(&sighting.vendor);
        }
        let told = *machine != before;
        let stale = now.since(machine.last_seen) > SIGHTING_GRAIN_MS;
        machine.last_seen = now;
        if told || stale {
            let machine = machine.clone();
            self.write(store::Write::Machine(machine));
        }
    }

    /// Forgets an eighth of the machines, those that were not seen for longest, but none that boots as a node
    /// without an entry: a flood of made-up addresses keeps no real machine out.
    fn make_room(&self, state: &mut State) {
        let mut known: Vec<_> = state
            .machines
            .values()
            .filter(|machine| !machine.adopted)
            .map(|machine| (machine.last_seen, machine.mac))
            .collect();
        known.sort_unstable();
        for (_, mac) in known.into_iter().take(MACHINES_KEPT / 8) {
            state.machines.remove(&mac);
            self.write(store::Write::ForgetMachine(mac));
        }
    }

    /// A node reached a stage. A stage before the present one is the start of another boot ([`Stage::told`]).
    pub fn reached(&self, node: &str, stage: Stage, machine: &Sighting, what: &str) {
        self.reach(node, stage, Some(machine.mac), machine.address, machine.firmware.clone(), what);
    }

    /// The agent of a node is here. Of a machine that was never seen to boot the hardware address may not be known: the
    /// one beyond a router has none here.
    pub fn joined(&self, node: &str, mac: Option<Mac>, address: Ipv4Addr, what: &str) {
        self.reach(node, Stage::Member, mac, Some(address), None, what);
    }

    fn reach(
        &self,
        node: &str,
        stage: Stage,
        mac: Option<Mac>,
        address: Option<Ipv4Addr>,
        firmware: Option<String>,
        what: &str,
    ) {
        let now = Timestamp::now();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let known = state.nodes.get(node);
        let told = known.map_or(Told::Anew, |known| known.stage.told(stage));
        let mut next = match (told, known) {
            (Told::Known, _) => return,
            (Told::On | Told::Again, Some(known)) => known.clone(),
            _ => NodeState::new(stage, now),
        };
        next.mac = mac.or(next.mac);
        next.address = address.or(next.address);
        next.firmware = firmware.or(next.firmware);
        if told != Told::Again {
            (next.stage, next.since) = (stage, now);
        }
        if stage == Stage::Member {
            next.heard = Some(now);
            next.boot_ms.get_or_insert(now.since(next.booting_since));
        }
        self.write(store::Write::Node(node.into(), next.clone()));
        state.nodes.insert(node.into(), next);
        if told != Told::Again {
            self.event(Some(node), mac, Some(stage), what.into());
        }
    }

    /// A node fetched something: for `node list`, and history.
    pub fn fetched(&self, node: &str, what: &str) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = state.nodes.get_mut(node) {
            entry.fetched = Some(what.into());
            self.write(store::Write::Node(node.into(), entry.clone()));
            self.event(Some(node), entry.mac, None, format!("fetched {what}"));
        }
    }

    /// A node's agent was heard. It is kept in memory, and on the disk with the node's next change.
    pub fn heard(&self, node: &str, vitals: Vitals) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = state.nodes.get_mut(node) {
            (entry.heard, entry.vitals) = (Some(Timestamp::now()), Some(vitals));
            drop(state);
            tracing::debug!(node, "its agent was heard");
        }
    }

    /// The version of a node's agent, as it greets. It is on the disk with the node's next change.
    pub fn agent_is(&self, node: &str, version: &str) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = state.nodes.get_mut(node) {
            entry.agent = Some(version.to_owned());
        }
    }

    /// The agent's connection was lost.
    pub fn lost(&self, node: &str, why: &str) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = state.nodes.get_mut(node) {
            self.fall(node, entry, entry.stage.fallen_silent(), why);
        }
    }

    /// Puts a node into a stage that it did not reach by a step of its boot.
    fn fall(&self, node: &str, entry: &mut NodeState, stage: Stage, why: &str) {
        if entry.stage != stage {
            (entry.stage, entry.since) = (stage, Timestamp::now());
            self.write(store::Write::Node(node.into(), entry.clone()));
            self.event(Some(node), entry.mac, Some(stage), why.into());
        }
    }

    /// A node reported a failure of its boot.
    pub fn failed(&self, node: &str, why: &str) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = state.nodes.get_mut(node) {
            entry.failure = Some(why.into());
            self.write(store::Write::Node(node.into(), entry.clone()));
            self.event(Some(node), entry.mac, None, why.into());
        }
    }

    /// Sees to the nodes that have been in a stage for longer than its limit: the stage that follows by itself
    /// is theirs, or they are marked as stuck, once a boot.
    pub fn mark_overruns(&self) {
        self.mark_overruns_at(Timestamp::now());
    }

    fn mark_overruns_at(&self, now: Timestamp) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for (name, entry) in &mut state.nodes {
            let Some(limit) = entry.stage.limit() else { continue };
            if u128::from(now.since(entry.since)) <= limit.as_millis() {
                continue;
            }
            if let Some(next) = entry.stage.after_limit() {
                let why = format!("its agent was not heard of for {} s", limit.as_secs());
                self.fall(name, entry, next, &why);
            } else if entry.overran.is_none() {
                entry.overran = Some(entry.stage);
                self.write(store::Write::Node(name.clone(), entry.clone()));
                let text = format!("still in stage {} after {} s", entry.stage, limit.as_secs());
                self.event(Some(name), entry.mac, None, text);
            }
        }
    }

    /// Takes a node, or a machine that never became one, out of the inventory.
    pub fn forget(&self, node: &str) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.nodes.remove(node);
        self.write(store::Write::Forget(node.into()));
        self.event(Some(node), None, None, "forgotten".into());
    }

    /// Something that happened to the master or a node, for the history.
    pub fn event(&self, node: Option<&str>, mac: Option<Mac>, stage: Option<Stage>, text: String) {
        let event = Event { time: Timestamp::now(), node: node.map(Into::into), mac, stage, text };
        self.write(store::Write::Event(event.clone()));
        // Whoever reads of it in the log finds it in the history.
        tracing::info!(
            node = event.node,
            mac = mac.map(tracing::field::display),
            stage = stage.map(Stage::name),
            "{}",
            event.text
        );
        // Nobody listening is the usual case.
        let _nobody = self.events.send(event);
    }

    /// Events from now on.
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The newest `limit` events, oldest first, of one node or of all.
    pub fn history(&self, node: Option<&str>, limit: u32) -> Result<Vec<Event>, Error> {
        self.flush();
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        store::events(&reader, node, limit)
            .map_err(|source| Error::Database { path: self.path.clone(), source })
    }

    /// Where this node's boot is; `None` if it was never heard of.
    pub fn node(&self, name: &str) -> Option<NodeState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).nodes.get(name).cloned()
    }

    /// The machine with this hardware address, if it was seen.
    pub fn machine(&self, mac: Mac) -> Option<Machine> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).machines.get(&mac).cloned()
    }

    /// A machine that was seen boots as a node from now on, without an entry in cluster.yaml.
    pub fn adopt(&self, mac: Mac) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = state.machines.get_mut(&mac).filter(|machine| !machine.adopted) {
            machine.adopted = true;
            self.write(store::Write::Machine(machine.clone()));
            self.event(None, Some(mac), None, "boots as a node without an entry".into());
        }
    }

    /// Machines that boot without an entry, in the order of arrival.
    pub fn adopted(&self) -> Vec<Mac> {
        self.machines().into_iter().filter(|machine| machine.adopted).map(|machine| machine.mac).collect()
    }

    /// All machines, in the order of arrival.
    pub fn machines(&self) -> Vec<Machine> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = state.machines.values().cloned().collect();
        all.sort_by_key(|m| (m.first_seen, m.mac));
        all
    }

    /// Returns when all that was recorded before is on the disk.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.write(store::Write::Flush(done));
        // The writer ends only with the inventory itself.
        let _ended = wait.recv();
    }

    fn write(&self, write: store::Write) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.send(write).is_err() {
            tracing::error!("the database's thread has ended; history is no longer written");
        }
    }
}

impl NodeState {
    fn new(stage: Stage, now: Timestamp) -> Self {
        Self {
            stage,
            since: now,
            mac: None,
            address: None,
            firmware: None,
            fetched: None,
            heard: None,
            vitals: None,
            agent: None,
            failure: None,
            overran: None,
            boot_ms: None,
            booting_since: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Sighting {
        Sighting {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            uuid: None,
            firmware: Some("bios".into()),
            vendor: Some("PXEClient".into()),
            address: Some(Ipv4Addr::new(192, 168, 45, 11)),
        }
    }

    #[test]
    fn a_boot_goes_on_and_an_earlier_stage_begins_another() {
        let dir = tempfile::tempdir().unwrap();
        let inventory = Inventory::open(&dir.path().join("tesela.db")).unwrap();
        assert!(inventory.is_new());
        for stage in [Stage::Dhcp, Stage::Loader, Stage::Kernel, Stage::Member] {
            inventory.reached("n1", stage, &machine(), "reached");
        }
        let state = inventory.node("n1").unwrap();
        assert_eq!(state.stage, Stage::Member);
        assert!(state.boot_ms.is_some());
        inventory.reached("n1", Stage::Dhcp, &machine(), "asked for an address");
        let state = inventory.node("n1").unwrap();
        assert_eq!((state.stage, state.boot_ms), (Stage::Dhcp, None));
    }

    #[test]
    fn a_flood_of_machines_keeps_no_real_one_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tesela.db");
        let inventory = Inventory::open(&path).unwrap();
        inventory.saw(&machine());
        inventory.adopt(machine().mac);
        let flood = |number: usize| {
            let [.., a, b, c, d] = number.to_be_bytes();
            inventory.saw(&Sighting { mac: Mac([6, 0, a, b, c, d]), ..machine() });
        };
        (0..MACHINES_KEPT + 10).for_each(flood);
        let late = Mac([2, 0, 0, 0, 0, 2]);
        inventory.saw(&Sighting { mac: late, ..machine() });
        inventory.flush();
        drop(inventory);
        let inventory = Inventory::open(&path).unwrap();
        assert!(inventory.machines().len() <= MACHINES_KEPT);
        assert!(inventory.machine(late).is_some() && inventory.machine(machine().mac).is_some());
    }

    #[test]
    fn history_and_machines_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tesela.db");
        let inventory = Inventory::open(&path).unwrap();
        inventory.saw(&machine());
        inventory.reached("n1", Stage::Dhcp, &machine(), "asked for an address");
        inventory.fetched("n1", "undionly.kpxe");
        inventory.failed("n1", "no kernel");
        inventory.flush();
        drop(inventory);
        let inventory = Inventory::open(&path).unwrap();
        assert!(!inventory.is_new());
        assert_eq!(inventory.machines()[0].firmware.as_deref(), Some("bios"));
        let state = inventory.node("n1").unwrap();
        assert_eq!(state.fetched.as_deref(), Some("undionly.kpxe"));
        assert_eq!(state.failure.as_deref(), Some("no kernel"));
        let texts: Vec<_> = inventory.history(Some("n1"), 10).unwrap().into_iter().map(|e| e.text).collect();
        assert_eq!(texts, ["asked for an address", "fetched undionly.kpxe", "no kernel"]);
    }

    #[test]
    fn a_machine_that_was_never_seen_to_boot_is_a_member_without_a_hardware_address() {
        let dir = tempfile::tempdir().unwrap();
        let inventory = Inventory::open(&dir.path().join("tesela.db")).unwrap();
        let address = Ipv4Addr::new(192, 0, 2, 7);
        inventory.joined("n1", None, address, "is a member");
        let state = inventory.node("n1").unwrap();
        assert_eq!((state.stage, state.mac, state.address), (Stage::Member, None, Some(address)));
        // What is known of it stays known.
        inventory.reached("n1", Stage::Dhcp, &machine(), "asks for an address");
        inventory.joined("n1", None, address, "is a member");
        assert_eq!(inventory.node("n1").unwrap().mac, Some(machine().mac));
    }

    #[test]
    fn a_member_whose_agent_is_gone_is_silent_and_then_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tesela.db");
        let inventory = Inventory::open(&path).unwrap();
        let stage = |inventory: &Inventory| inventory.node("n1").unwrap().stage;
        let after = |seconds: i64| Timestamp(Timestamp::now().0 + 1000 * seconds);
        inventory.reached("n1", Stage::Dhcp, &machine(), "asks");
        inventory.lost("n1", "no member yet");
        assert_eq!(stage(&inventory), Stage::Dhcp, "only a member falls silent");
        inventory.reached("n1", Stage::Member, &machine(), "is a member");
        let vitals = Vitals {
            load_hundredths: 7,
            memory_total_kib: 2,
            memory_available_kib: 1,
            uptime_seconds: 9,
            ahead_ms: Some(-3),
        };
        inventory.agent_is("n1", "0.1.0");
        inventory.heard("n1", vitals);
        inventory.lost("n1", "its agent is gone");
        let state = inventory.node("n1").unwrap();
        assert_eq!((state.stage, state.vitals), (Stage::Silent, Some(vitals)));
        assert_eq!(state.agent.as_deref(), Some("0.1.0"));
        inventory.mark_overruns_at(after(59));
        assert_eq!(stage(&inventory), Stage::Silent);
        inventory.reached("n1", Stage::Member, &machine(), "is back");
        inventory.lost("n1", "its agent is gone");
        inventory.mark_overruns_at(after(61));
        assert_eq!(stage(&inventory), Stage::Down);
        let boot_ms = inventory.node("n1").unwrap().boot_ms;
        inventory.reached("n1", Stage::Member, &machine(), "is back after all");
        assert_eq!((stage(&inventory), inventory.node("n1").unwrap().boot_ms), (Stage::Member, boot_ms));
        inventory.flush();
        let stages: Vec<_> =
            inventory.history(Some("n1"), 20).unwrap().into_iter().filter_map(|event| event.stage).collect();
        use Stage::{Dhcp, Down, Member, Silent};
        assert_eq!(stages, [Dhcp, Member, Silent, Member, Silent, Down, Member]);
        drop(inventory);
        let inventory = Inventory::open(&path).unwrap();
        assert_eq!(stage(&inventory), Stage::Silent, "after a restart its agent has to show itself");
    }
}
