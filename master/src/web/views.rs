//! What the API says, as the command line reads it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::boot::{Rebase, Site, is_free};
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
    /// Whether `node accept` can give it a machine.
    pub is_free: bool,
    /// Whether it has its own system on its disk, and becomes a member by `teselad join`.
    pub has_own_system: bool,
    /// Where its boot is; `None` if it was never heard of.
    pub state: Option<NodeState>,
    /// What keeps it from its root, or from what is rendered for it.
    pub trouble: Option<String>,
}

impl NodeView {
    /// Of this node now. What was learnt of it and is another's by now does not count.
    /// `troubles`: those of [`Site::troubles`].
    pub fn of(site: &Site, node: &Node, troubles: &HashMap<String, String>) -> Self {
        let state = site.inventory.node(&node.name);
        let is_its_own = |mac: &Mac| {
            let uuid = site.inventory.machine(*mac).and_then(|machine| machine.uuid);
            site.current().node_of(*mac, uuid).is_some_and(|owner| owner.name == node.name)
        };
        let is_nobodys = |address: &Ipv4Addr| site.node_at(*address).is_none_or(|holder| holder == node.name);
        let (mac, address) = state.as_ref().map(|state| (state.mac, state.address)).unwrap_or_default();
        NodeView {
            name: node.name.clone(),
            profile: node.choices[0].profile.clone(),
            address: site.address_of(node).or(address.filter(is_nobodys)),
            mac: node.mac.as_ref().map(|mac| mac.value).or(mac.filter(is_its_own)),
            is_free: is_free(node),
            has_own_system: node.has_own_system(),
            state,
            trouble: troubles.get(&node.name).cloned(),
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied {
    /// The generation now in force.
    pub generation: u64,
    /// Whether it is another than before.
    pub changed: bool,
    /// What is still to be done for all of it to take effect, a sentence each.
    pub due: Vec<String>,
}

/// What is in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InForce {
    /// Its generation.
    pub generation: u64,
    /// cluster.yaml as it was applied.
    pub text: String,
    /// The file that `apply` reads.
    pub config: PathBuf,
    /// Nodes that have their own version of a rendered file, and nodes with a trouble: a line each.
    pub remarks: Vec<String>,
}

/// What is to become of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PowerTo {
    /// Woken by Wake-on-LAN, which its firmware has to allow.
    On,
    /// Switched off by its agent, once its guests are at home.
    Off,
    /// The same, and it boots again.
    Reboot,
}

/// What becomes of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Powered {
    /// Behind the node's name.
    pub said: String,
}

/// With what a machine joins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Joins {
    /// The master's address.
    pub master: Ipv4Addr,
    /// The token.
    pub token: String,
}

/// What `forget` did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Forgotten {
    /// Whether it is a node all the same, which keeps what it wrote.
    pub is_node: bool,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::boot::testing;
    use crate::inventory::{Sighting, Stage};

    const AULA: &str = include_str!("../../../configs/aula.yaml");

    #[test]
    fn a_machine_is_the_node_that_it_is_now_and_no_longer_the_one_that_it_was() {
        let state = tempfile::tempdir().unwrap();
        let mac: Mac = "52:54:00:7e:5e:03".parse().unwrap();
        let entry = format!("  now: {{mac: \"{mac}\", profile: node}}\n  before: {{profile: node}}\npools:");
        std::fs::write(state.path().join("cluster.yaml"), AULA.replace("pools:", &entry)).unwrap();
        let site = testing::open(state.path(), Arc::default()).unwrap();
        let address = Some(Ipv4Addr::new(192, 168, 45, 150));
        let machine = Sighting { mac, uuid: None, firmware: None, vendor: None, address };
        site.inventory.reached("before", Stage::Dhcp, &machine, "asks for an address");
        site.hold("now", Ipv4Addr::new(192, 168, 45, 150), None);
        let view = |node: &str| NodeView::of(&site, site.current().node(node).unwrap(), &HashMap::new());
        assert_eq!((view("before").mac, view("before").address), (None, None));
        assert_eq!((view("now").mac, view("now").address), (Some(mac), address));
    }
}
