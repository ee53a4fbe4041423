//! What the API says, as the command line reads it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::boot::{Rebase, Site};
use crate::cluster::{Mac, Node};
use crate::inventory::NodeState;

/// A node and where its boot is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its profile.
    pub profile: String,
    /// Its address: the fixed one, or the one that it holds.
    pub address: Option<Ipv4Addr>,
    /// Its hardware address, where known.
    pub mac: Option<Mac>,
    /// Where its boot is; `None` if it was never heard of.
    pub state: Option<NodeState>,
}

impl NodeView {
    /// Of this node now.
    pub fn of(site: &Site, node: &Node) -> Self {
        let state = site.inventory.node(&node.name);
        NodeView {
            name: node.name.clone(),
            profile: node.choices[0].profile.clone(),
            address: site.address_of(node).or(state.as_ref().and_then(|s| s.address)),
            mac: node.mac.as_ref().map(|mac| mac.value).or(state.as_ref().and_then(|s| s.mac)),
            state,
        }
    }
}

/// A node with all its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeDetail {
    /// In short.
    #[serde(flatten)]
    pub view: NodeView,
    /// The build of its image that it is on, and the newest; `None` where its root is not served from here.
    pub build: Option<Rebase>,
    /// Every setting with its origin.
    pub settings: serde_json::Value,
    /// The same for people.
    pub shown: String,
    /// Paths where the node's own version was kept aside for the template's.
    pub conflicts: Vec<String>,
}

/// Machines are to become nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accept {
    /// A name, or a range as `n[1-40]`.
    pub nodes: String,
    /// These machines in this order; empty: unknown machines in the order of arrival.
    pub macs: Vec<Mac>,
    /// The profile of those that cluster.yaml gives none; `None`: the master's `unknown profile`, or the only one.
    pub profile: Option<String>,
    /// The first one's address, counting up with the names, for those that cluster.yaml gives none; `None`: from
    /// the dynamic range, or as the other DHCP server says.
    pub address: Option<Ipv4Addr>,
}

/// What became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// Name and machine of each.
    pub nodes: Vec<(String, Mac)>,
    /// Those that were passed over, each with why.
    pub passed: Vec<String>,
    /// The generation now in force.
    pub generation: u64,
}

/// What `apply` did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The generation now in force.
    pub generation: u64,
    /// Whether it is another than before.
    pub changed: bool,
}
