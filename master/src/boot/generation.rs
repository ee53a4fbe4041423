//! One generation of the cluster: what `apply` swaps in as a whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use crate::cluster::{Choice, Cluster, Mac, Node, NodeSet, Origin, Sourced, Uuid};
use crate::render::{self, RenderedFile, Templates};

use super::context::{self, Held};

/// A cluster that holds, with everything rendered from it. Immutable.
#[derive(Clone)]
pub struct Generation {
    /// Counts the applied clusters.
    pub number: u64,
    /// cluster.yaml as it was applied.
    pub text: String,
    /// What it says.
    pub cluster: Cluster,
    /// Machines that boot as nodes without an entry (`unknown: boot`), behind those of the file.
    nodes: Vec<Node>,
    /// The addresses of nodes without a fixed one, as all nodes' files have them.
    held: Held,
    /// None at all only where a master has started beside templates that fail.
    templates: Result<Templates, Arc<render::Error>>,
    /// Nodes whose files have not rendered since the master's start, with why.
    failing: HashMap<String, String>,
    by_name: HashMap<String, usize>,
    by_mac: HashMap<Mac, usize>,
    by_uuid: HashMap<Uuid, usize>,
    by_address: HashMap<Ipv4Addr, usize>,
}

impl Generation {
    /// Loads the templates for a cluster. `adopted`: MACs of machines that boot without an entry; `held`:
    /// addresses that nodes without a fixed one hold.
    ///
    /// # Errors
    /// Of a template that fails.
    pub fn new(
        number: u64,
        text: String,
        cluster: Cluster,
        adopted: &[Mac],
        held: Held,
        overrides: &Path,
        keys: &context::Keys,
    ) -> Result<Self, render::Error> {
        let nodes = nodes_of(&cluster, adopted);
        let templates = Templates::load(Some(overrides), &context::common(&cluster, &nodes, &held, keys))?;
        Ok(Self::with(number, text, cluster, nodes, held, Ok(templates)))
    }

    /// The same for a master's start, at which a template that fails costs the nodes whose files it fails for.
    pub fn at_start(
        number: u64,
        text: String,
        cluster: Cluster,
        adopted: &[Mac],
        overrides: &Path,
        keys: &context::Keys,
    ) -> Self {
        let (nodes, held) = (nodes_of(&cluster, adopted), Held::new());
        let templates = Templates::load(Some(overrides), &context::common(&cluster, &nodes, &held, keys));
        let mut generation = Self::with(number, text, cluster, nodes, held, templates.map_err(Arc::new));
        let failing = generation.nodes.iter().filter_map(|node| {
            let error = generation.rendered(node, None).err()?;
            Some((node.name.clone(), error.to_string()))
        });
        generation.failing = failing.collect();
        generation
    }

    fn with(
        number: u64,
        text: String,
        cluster: Cluster,
        nodes: Vec<Node>,
        held: Held,
        templates: Result<Templates, Arc<render::Error>>,
    ) -> Self {
        let failing = HashMap::new();
        let mut by_name = HashMap::new();
        let mut by_mac = HashMap::new();
        let mut by_uuid = HashMap::new();
        let mut by_address = HashMap::new();
        for (i, node) in nodes.iter().enumerate() {
            by_name.insert(node.name.clone(), i);
            by_mac.extend(node.mac.as_ref().map(|mac| (mac.value, i)));
            by_uuid.extend(node.uuid.as_ref().map(|uuid| (uuid.value, i)));
            by_address.extend(node.address.as_ref().map(|address| (address.value, i)));
        }
        Self { number, text, cluster, nodes, held, templates, failing, by_name, by_mac, by_uuid, by_address }
    }

    /// Nodes whose files have not rendered since the master's start, with why.
    pub fn failing(&self) -> &HashMap<String, String> {
        &self.failing
    }

    /// The same, nodes that fail alike together.
    pub fn failing_alike(&self) -> BTreeMap<&str, NodeSet> {
        let mut alike: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for node in &self.nodes {
            if let Some(error) = self.failing.get(&node.name) {
                alike.entry(error).or_default().push(&node.name);
            }
        }
        alike.into_iter().map(|(error, nodes)| (error, nodes.into_iter().collect())).collect()
    }

    fn templates(&self) -> Result<&Templates, render::Error> {
        self.templates.as_ref().map_err(|error| render::Error::SinceStart(Arc::clone(error)))
    }

    /// The same with other addresses of nodes that have no fixed one.
    ///
    /// # Errors
    /// Of a template that fails with them.
    pub fn with_held(&self, held: Held, keys: &context::Keys) -> Result<Self, render::Error> {
        let common = context::common(&self.cluster, &self.nodes, &held, keys);
        let templates = match &self.templates {
            Ok(templates) => Ok(templates.with_common(&common)?),
            Err(error) => Err(Arc::clone(error)),
        };
        Ok(Self { templates, held, ..self.clone() })
    }

    /// The addresses of nodes without a fixed one, as all nodes' files have them.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// All nodes: those of the file in its order, then the adopted ones.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.by_name.get(name).map(|i| &self.nodes[*i])
    }

    /// The address of one of its nodes, fixed or held.
    pub fn address_of(&self, node: &Node) -> Option<Ipv4Addr> {
        context::address_of(node, &self.held)
    }

    /// The node that a machine is. A UUID counts before a MAC: docks and dongles share MACs.
    pub fn node_of(&self, mac: Mac, uuid: Option<Uuid>) -> Option<&Node> {
        uuid.and_then(|uuid| self.by_uuid.get(&uuid))
            .or_else(|| self.by_mac.get(&mac))
            .map(|i| &self.nodes[*i])
    }

    /// The node with this fixed address.
    pub fn node_at(&self, address: Ipv4Addr) -> Option<&Node> {
        self.by_address.get(&address).map(|i| &self.nodes[*i])
    }

    /// What a node's root gets from the templates. `address`: the one it holds, where it has no fixed one.
    pub fn rendered(
        &self,
        node: &Node,
        address: Option<Ipv4Addr>,
    ) -> Result<Vec<RenderedFile>, render::Error> {
        self.templates()?.root_of(&context::node(&self.cluster, node, address))
    }

    /// One of the loaders' scripts.
    pub fn script<T: serde::Serialize>(&self, name: &str, variables: &T) -> Result<String, render::Error> {
        self.templates()?.boot(name, variables)
    }
}

/// All nodes: those of the file in its order, then the adopted ones.
fn nodes_of(cluster: &Cluster, adopted: &[Mac]) -> Vec<Node> {
    let mut nodes = cluster.nodes.clone();
    // One that was accepted since has an entry.
    let entered: HashSet<Mac> = nodes.iter().filter_map(|node| Some(node.mac.as_ref()?.value)).collect();
    let adopted = adopted.iter().filter(|mac| !entered.contains(*mac));
    nodes.extend(adopted.filter_map(|mac| adopted_node(cluster, *mac)));
    nodes
}

/// The node that an unknown machine is under `unknown: boot`.
fn adopted_node(cluster: &Cluster, mac: Mac) -> Option<Node> {
    let profile = cluster.master.unknown_profile.as_ref()?;
    let settings = Arc::new(cluster.profiles.get(profile)?.clone());
    Some(Node {
        name: adopted_name(mac),
        entry: Origin::Default,
        mac: Some(Sourced { value: mac, origin: Origin::Default }),
        uuid: None,
        address: None,
        profile_origin: Origin::Default,
        choices: vec![Choice { profile: profile.clone(), settings }],
    })
}

/// The name of a machine that boots without an entry: `m` and its MAC's digits.
pub fn adopted_name(mac: Mac) -> String {
    mac.0.iter().fold(String::from("m"), |name, octet| format!("{name}{octet:02x}"))
}
