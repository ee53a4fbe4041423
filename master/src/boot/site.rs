//! The cluster in force and what is known of its machines, for all services.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwap;
use tesela_runtime::durable;
use tokio::sync::Notify;

use crate::cluster::{self, Cluster, Effect, Mac, Node, Problems, Uuid};
use crate::inventory::{Inventory, Machine, Sighting, Stage, Timestamp};
use crate::render::{self, RenderedFile};

use super::context::{self, Held};
use super::cuts::Cuts;
use super::{Generation, Rebase, neighbour};

/// Where a master's files are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// cluster.yaml.
    pub config: PathBuf,
    /// `/var/lib/tesela`.
    pub state: PathBuf,
    /// `/etc/tesela/templates`.
    pub templates: PathBuf,
}

/// Why a cluster was not applied: the one in force goes on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// cluster.yaml cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no cluster.yaml.
    #[error(
        "there is no {}: `tesela init` writes a first one from this machine's interfaces, and --config names another",
        .0.display()
    )]
    Missing(PathBuf),
    /// It does not hold.
    #[error("{0}")]
    DoesNotHold(Box<Problems>),
    /// A template fails.
    #[error("{0}")]
    Template(#[from] render::Error),
    /// The state directory takes no writes.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something of the master's that the running services cannot follow.
    #[error("`master: {0}` changed, which takes a restart of the services: `systemctl restart tesela`")]
    NeedsRestart(String),
}

/// Gives out the one-time tokens with which stage1 enrols.
pub trait Tokens: Send + Sync {
    /// A token for this node; `address`: the one that it will enrol from, where that is sure.
    fn issue(&self, node: &str, address: Option<Ipv4Addr>) -> String;
    /// A token for a machine that joins as this node.
    fn issue_join(&self, node: &str) -> String;
    /// The node's loader has fetched a file: the token's life starts anew.
    fn fetched(&self, node: &str);
}

/// The nodes' roots, which follow the cluster in force.
pub trait Roots: Send + Sync {
    /// A new generation is in force.
    fn follow(&self, site: &Site);
    /// A node holds another address than before, and what is rendered from it changes.
    fn moved(&self, site: &Site, node: &str, address: Ipv4Addr);
    /// A node holds no address any more.
    fn vacated(&self, node: &str);
    /// A node boots and is about to mount its root. `Err` says why it cannot.
    fn booting(&self, site: &Site, node: &str) -> Result<(), String>;
    /// The folder of the build that a node has at its next boot; `None` where it has no root here yet.
    fn next_build(&self, site: &Site, node: &str) -> Option<PathBuf>;
    /// Takes away for good what a node wrote that is in cluster.yaml no more; whether there was anything. `Err`
    /// says why it stays.
    fn forget(&self, node: &str) -> Result<bool, String>;
    /// Moves what a node wrote to the build that it is to have, or only tells what that would be.
    /// `Err` says why it cannot; nothing is changed then.
    fn rebase(&self, site: &Site, node: &Node, only_look: bool) -> Result<Rebase, String>;
    /// The content of a path as the node sees it now; `Err` says why there is none.
    fn read(&self, site: &Site, node: &str, path: &str) -> Result<Vec<u8>, String>;
    /// What is wrong now, by the names of the nodes that it keeps from their roots or from what is rendered.
    fn troubles(&self, site: &Site) -> HashMap<String, String>;
    /// The paths where a node's own version was kept aside for the template's.
    fn conflicts(&self, node: &str) -> Vec<String>;
}

/// The cluster in force.
pub struct Site {
    /// What was learnt of the machines.
    pub inventory: Arc<Inventory>,
    paths: Paths,
    keys: context::Keys,
    pub(super) tokens: Arc<dyn Tokens>,
    roots: OnceLock<Arc<dyn Roots>>,
    current: ArcSwap<Generation>,
    /// Held by whoever makes the next generation.
    changing: Mutex<()>,
    pub(super) cuts: Cuts,
    /// Addresses that nodes without a fixed one hold now, with when they may be another's.
    held: RwLock<HashMap<String, (Ipv4Addr, Option<Timestamp>)>>,
    held_changed: Notify,
    followers: Mutex<Vec<Follower>>,
}

/// Is told of each generation that is put in force.
type Follower = Box<dyn Fn(&Generation) + Send + Sync>;

impl Site {
    /// Puts in force what a master begins with. A template that fails then costs those nodes whose files it
    /// fails for: they keep the files that they had, and boot once it is mended.
    ///
    /// # Errors
    /// [`ApplyError::Write`].
    pub fn open(
        beginning: Beginning,
        inventory: Arc<Inventory>,
        keys: context::Keys,
        tokens: Arc<dyn Tokens>,
    ) -> Result<Self, ApplyError> {
        let Beginning { paths, number, text, cluster, refused } = beginning;
        if let Some(problems) = refused {
            tracing::error!("cluster.yaml does not hold; generation {number} goes on");
            let told = format!("generation {number} goes on, for cluster.yaml does not hold: {problems}");
            inventory.event(None, None, None, told);
        }
        let adopted = inventory.adopted();
        let templates = &paths.templates;
        let generation = Generation::at_start(number, text, cluster, &adopted, templates, &keys);
        for (error, nodes) in generation.failing_alike() {
            let told = format!(
                "{nodes} keep the files that they had, and do not boot, until this is mended: {error}"
            );
            inventory.event(None, None, None, told);
        }
        store_applied(&paths.state, &generation)?;
        Ok(Self {
            inventory,
            paths,
            keys,
            tokens,
            roots: OnceLock::new(),
            current: ArcSwap::from_pointee(generation),
            changing: Mutex::new(()),
            cuts: Cuts::default(),
            held: RwLock::default(),
            held_changed: Notify::new(),
            followers: Mutex::default(),
        })
    }

    /// Says who serves the roots; once, before the services start.
    pub fn serve_roots(&self, roots: Arc<dyn Roots>) {
        roots.follow(self);
        if self.roots.set(roots).is_err() {
            tracing::error!("who serves the roots is said twice; the first one stays");
        }
    }

    /// Who serves the roots.
    pub fn roots(&self) -> Option<&dyn Roots> {
        self.roots.get().map(AsRef::as_ref)
    }

    /// Has a service told of each generation from now on, before whoever made it hears that it is in force.
    pub fn tell(&self, follower: impl Fn(&Generation) + Send + Sync + 'static) {
        self.followers().push(Box::new(follower));
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Public halves of the cluster's keys.
    pub fn keys(&self) -> &context::Keys {
        &self.keys
    }

    /// Who gives out tokens.
    pub(super) fn tokens(&self) -> &dyn Tokens {
        &*self.tokens
    }

    /// The generation in force.
    pub fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Where the files are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Reads cluster.yaml and the templates again and puts them in force as a whole, or changes nothing.
    pub fn apply(&self) -> Result<Arc<Generation>, ApplyError> {
        let _one = self.one_change();
        let next = self.prepare(read(&self.paths.config)?)?;
        self.put_in_force(next)
    }

    /// Reads the templates again; the cluster stays as it was applied, whatever cluster.yaml says by now.
    pub fn reload_templates(&self) -> Result<Arc<Generation>, ApplyError> {
        let _one = self.one_change();
        let now = self.current();
        let next = self.generation(now.number, now.text.clone(), now.cluster.clone())?;
        self.put_in_force(next)
    }

    /// A machine without an entry becomes a node (`unknown: boot`).
    pub fn adopt(&self, mac: Mac) -> Result<Arc<Generation>, ApplyError> {
        self.inventory.adopt(mac);
        self.reload_templates()
    }

    /// Held by whoever makes the next generation, from its reading to its being in force.
    pub(super) fn one_change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation of a text of cluster.yaml, to be put in force; nothing is changed yet.
    pub(super) fn prepare(&self, text: String) -> Result<Generation, ApplyError> {
        let cluster = parse(&text, &self.paths.config)?;
        let before = self.current();
        let restarting = cluster::plan(&before.cluster, &cluster).master;
        let restarting: Vec<_> = restarting
            .into_iter()
            .filter(|change| change.effect >= Effect::Restart)
            .map(|c| c.setting)
            .collect();
        if !restarting.is_empty() {
            return Err(ApplyError::NeedsRestart(restarting.join(", ")));
        }
        let number = before.number + u64::from(text != before.text);
        self.generation(number, text, cluster)
    }

    fn generation(&self, number: u64, text: String, cluster: Cluster) -> Result<Generation, ApplyError> {
        let adopted = self.inventory.adopted();
        let (held, templates) = (self.held(), &self.paths.templates);
        let next = Generation::new(number, text, cluster, &adopted, held, templates, &self.keys)?;
        render_all(&next)?;
        Ok(next)
    }

    pub(super) fn put_in_force(&self, next: Generation) -> Result<Arc<Generation>, ApplyError> {
        store_applied(&self.paths.state, &next)?;
        Ok(self.swap_in(next))
    }

    fn swap_in(&self, next: Generation) -> Arc<Generation> {
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        self.followers().iter().for_each(|follower| follower(&next));
        if let Some(roots) = self.roots() {
            roots.follow(self);
        }
        next
    }

    /// A node without a fixed address holds this one now, at least until then (`None`: who gave it does not say).
    pub fn hold(&self, node: &str, address: Ipv4Addr, until: Option<Timestamp>) {
        // An address has one holder: whoever had it before has it no longer.
        self.let_go(|name, other, _| other == address && name != node);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let before = held.insert(node.into(), (address, until));
        drop(held);
        if before.map(|(address, _)| address) != Some(address) {
            if let Some(roots) = self.roots() {
                roots.moved(self, node, address);
            }
            self.held_changed.notify_one();
        }
    }

    /// A machine that is no node has this address now: whichever node held it holds it no longer, and
    /// what calls from there is not the node.
    pub fn vacate(&self, address: Ipv4Addr) {
        self.let_go(|_, other, _| other == address);
    }

    /// A node gave its address back.
    pub fn give_back(&self, node: &str, address: Ipv4Addr) {
        self.let_go(|name, other, _| name == node && other == address);
    }

    /// Addresses whose time is over are no longer the nodes' that had them, unless their roots hang on them.
    pub fn let_go_expired(&self, now: Timestamp) {
        let in_use = |node: &str| self.inventory.node(node).is_some_and(|state| state.stage.has_root());
        self.let_go(|name, _, until| until.is_some_and(|until| until < now) && !in_use(name));
    }

    fn let_go(&self, over: impl Fn(&str, Ipv4Addr, Option<Timestamp>) -> bool) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let gone = held.extract_if(|name, (address, until)| over(name, *address, *until));
        let gone: Vec<String> = gone.map(|(name, _)| name).collect();
        drop(held);
        if let Some(roots) = self.roots() {
            gone.iter().for_each(|node| roots.vacated(node));
        }
        if !gone.is_empty() {
            self.held_changed.notify_one();
        }
    }

    /// Returns once an address that nodes without a fixed one hold is another, since the last such call.
    pub async fn held_changed(&self) {
        self.held_changed.notified().await;
    }

    /// Puts the addresses that nodes hold by now into all nodes' files. Nothing is done where these have them
    /// already.
    ///
    /// # Errors
    /// Of a template that fails with them; all files are then as they were.
    pub fn list_held(&self) -> Result<(), ApplyError> {
        let _one = self.one_change();
        let (now, held) = (self.current(), self.held());
        if *now.held() != held {
            let next = now.with_held(held, &self.keys)?;
            render_all(&next)?;
            self.swap_in(next);
            tracing::info!("all nodes' files have the addresses that nodes hold");
        }
        Ok(())
    }

    fn held(&self) -> Held {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.iter().map(|(name, (address, _))| (name.clone(), *address)).collect()
    }

    /// Whether the machine `mac` may act as `node` from `peer`: the node's fixed address, or the one that it
    /// holds. Where nobody has told us of that (another DHCP server gave it), the wire says whose it is,
    /// and the node holds it from then on.
    pub fn is_at(&self, node: &Node, mac: Mac, peer: Ipv4Addr) -> bool {
        if self.address_of(node) == Some(peer) {
            return true;
        }
        let is_its_own = node.address.is_none() && neighbour(peer.into()) == Some(mac);
        if is_its_own {
            self.hold(&node.name, peer, None);
        }
        is_its_own
    }

    /// The address of a node: its fixed one, or the one that it holds.
    pub fn address_of(&self, node: &Node) -> Option<Ipv4Addr> {
        let held = || {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            held.get(&node.name).map(|(address, _)| *address)
        };
        node.address.as_ref().map(|address| address.value).or_else(held)
    }

    /// The name of the node at an address.
    pub fn node_at(&self, address: Ipv4Addr) -> Option<String> {
        if let Some(node) = self.current().node_at(address) {
            return Some(node.name.clone());
        }
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|(_, (holder, _))| *holder == address).map(|(name, _)| name.clone())
    }

    /// The loader of the node at this address fetched a file.
    pub fn fetched(&self, peer: IpAddr, what: &str) {
        if let IpAddr::V4(address) = peer
            && let Some(node) = self.node_at(address)
        {
            self.tokens.fetched(&node);
            self.inventory.fetched(&node, what);
        }
    }

    /// Whether a machine is a node whose firmware or loader is at work.
    pub fn is_in_loader(&self, mac: Mac) -> bool {
        let generation = self.current();
        let state = generation.node_of(mac, None).and_then(|node| self.inventory.node(&node.name));
        state.is_some_and(|state| matches!(state.stage, Stage::Dhcp | Stage::Loader))
    }

    /// What a node sees at each templated path.
    pub fn rendered(&self, node: &Node) -> Result<Vec<RenderedFile>, render::Error> {
        self.current().rendered(node, self.address_of(node))
    }

    /// What is wrong now, by the names of the nodes that it keeps from their roots or from what is rendered.
    pub fn troubles(&self) -> HashMap<String, String> {
        let mut troubles = self.roots().map(|roots| roots.troubles(self)).unwrap_or_default();
        troubles.extend(self.current().failing().clone());
        troubles
    }

    /// The machines that were seen and are no node.
    pub fn unknown_machines(&self) -> Vec<Machine> {
        let generation = self.current();
        let mut machines = self.inventory.machines();
        machines.retain(|machine| generation.node_of(machine.mac, machine.uuid).is_none());
        machines
    }

    /// What is known of a machine, for the inventory's calls.
    pub fn sighting(&self, mac: Mac, uuid: Option<Uuid>, address: Option<Ipv4Addr>) -> Sighting {
        let known = self.inventory.machine(mac);
        Sighting {
            mac,
            uuid: uuid.or(known.as_ref().and_then(|m| m.uuid)),
            firmware: None,
            vendor: None,
            address: address.or(known.and_then(|m| m.address)),
        }
    }
}

fn read(path: &Path) -> Result<String, ApplyError> {
    std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ApplyError::Missing(path.into()),
        _ => ApplyError::Read { path: path.into(), source },
    })
}

fn parse(text: &str, path: &Path) -> Result<Cluster, ApplyError> {
    cluster::parse(text, &path.to_string_lossy())
        .map_err(|problems| ApplyError::DoesNotHold(Box::new(problems)))
}

/// Every node's files must render before any node sees one of them; but for those that have not since the start.
fn render_all(generation: &Generation) -> Result<(), render::Error> {
    let mut nodes = generation.nodes().iter().filter(|node| !generation.failing().contains_key(&node.name));
    nodes.try_for_each(|node| generation.rendered(node, None).map(drop))
}

/// `STATE/applied.yaml` is the cluster in force, its first line the number of its generation.
pub fn applied_path(state: &Path) -> PathBuf {
    state.join("applied.yaml")
}

const NUMBER_LINE: &str = "# tesela generation ";

/// What a master begins with.
pub struct Beginning {
    /// The cluster.
    pub cluster: Cluster,
    paths: Paths,
    number: u64,
    text: String,
    /// What is wrong with cluster.yaml, where the cluster is that of `applied.yaml`.
    refused: Option<Box<Problems>>,
}

impl Beginning {
    /// Reads `paths.config`, and changes nothing. Where that does not hold (it is just being edited, say), what
    /// was in force goes on: the roots of all running nodes hang on it.
    ///
    /// # Errors
    /// [`ApplyError`]; that it does not hold only where nothing was in force before.
    pub fn read(paths: Paths) -> Result<Self, ApplyError> {
        let text = read(&paths.config)?;
        let applied = applied(&paths.state)?;
        match (parse(&text, &paths.config), applied) {
            (Ok(cluster), None) => Ok(Beginning { paths, number: 1, text, cluster, refused: None }),
            (Ok(cluster), Some((number, before))) => {
                let number = number.saturating_add(u64::from(before != text)).max(1);
                Ok(Beginning { paths, number, text, cluster, refused: None })
            }
            (Err(ApplyError::DoesNotHold(problems)), Some((number, text))) => {
                // Another version of this program may have had another mind of it.
                let Ok(cluster) = parse(&text, &applied_path(&paths.state)) else {
                    return Err(ApplyError::DoesNotHold(problems));
                };
                Ok(Beginning { paths, number, text, cluster, refused: Some(problems) })
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// The number and text of the generation that was in force last, if there was any.
fn applied(state: &Path) -> Result<Option<(u64, String)>, ApplyError> {
    let path = applied_path(state);
    let applied = match std::fs::read_to_string(&path) {
        Ok(applied) => applied,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ApplyError::Read { path, source }),
    };
    let (first, text) = applied.split_once('\n').unwrap_or((&applied, ""));
    let number = first.strip_prefix(NUMBER_LINE).and_then(|number| number.parse().ok()).unwrap_or(0);
    Ok(Some((number, text.to_owned())))
}

fn store_applied(state: &Path, generation: &Generation) -> Result<(), ApplyError> {
    let path = applied_path(state);
    let text = format!("{NUMBER_LINE}{}\n{}", generation.number, generation.text);
    durable::replace(&path, text.as_bytes(), None).map_err(|source| ApplyError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::testing;

    const AULA: &str = include_str!("../../../configs/aula.yaml");

    fn open(state: &Path) -> Result<Site, ApplyError> {
        testing::open(state, Arc::default())
    }

    #[test]
    fn a_start_counts_generations_and_goes_on_beside_a_file_that_does_not_hold() {
        let state = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(state.path().join("cluster.yaml"), text).unwrap();
        write("cluster: [");
        assert!(matches!(open(state.path()), Err(ApplyError::DoesNotHold(_))), "nothing was in force");
        write(AULA);
        assert_eq!(open(state.path()).unwrap().current().number, 1);
        assert_eq!(open(state.path()).unwrap().current().number, 1, "as it was");
        let edited = format!("{AULA}# edited\n");
        write(&edited);
        assert_eq!(open(state.path()).unwrap().current().number, 2, "two texts have two numbers");
        write(&edited.replace("profile: fast", "proflie: fast"));
        let site = open(state.path()).unwrap();
        assert_eq!((site.current().number, site.current().text.as_str()), (2, edited.as_str()));
        let told = site.inventory.history(None, 1).unwrap();
        assert!(told[0].text.contains("goes on") && told[0].text.contains("proflie"), "{}", told[0].text);
        assert!(matches!(site.apply(), Err(ApplyError::DoesNotHold(_))));
    }

    #[test]
    fn an_address_has_one_holder_and_none_when_a_stranger_has_it() {
        let state = tempfile::tempdir().unwrap();
        let text = AULA.replace("\npools:", "\n  free: {mac: 02:00:00:00:00:01, profile: node}\npools:");
        std::fs::write(state.path().join("cluster.yaml"), text).unwrap();
        let site = open(state.path()).unwrap();
        let address = Ipv4Addr::new(192, 168, 45, 150);
        site.hold("free", address, None);
        assert_eq!(site.node_at(address).as_deref(), Some("free"));
        site.hold("another", address, None);
        assert_eq!(site.node_at(address).as_deref(), Some("another"));
        assert_eq!(site.address_of(site.current().node("free").unwrap()), None);
        site.vacate(address);
        assert_eq!(site.node_at(address), None);
    }
}
