//! The variables of the templates. templates/README.md lists them for those who write templates.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::cluster::{Cluster, Node};

/// Public halves of the cluster's keys.
#[derive(Clone, Debug, Serialize)]
pub struct Keys {
    /// The CA that signs the members' ssh host keys, as a line of `authorized_keys`.
    pub ssh_host_ca: String,
    /// The CA that signs the members' ssh user keys.
    pub ssh_user_ca: String,
    /// SHA-256 of the cluster CA's certificate (DER), in hexadecimal.
    pub ca_sha256: String,
}

/// What is the same for all nodes.
#[derive(Serialize)]
pub(super) struct Common<'a> {
    cluster: ClusterVariables<'a>,
    master: MasterVariables<'a>,
    nodes: Vec<Member<'a>>,
    keys: &'a Keys,
}

#[derive(Serialize)]
struct ClusterVariables<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct MasterVariables<'a> {
    name: String,
    address: Ipv4Addr,
    network: Ipv4Addr,
    netmask: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    dns: &'a [Ipv4Addr],
    http_port: u16,
    control_port: u16,
    member: bool,
}

#[derive(Serialize)]
struct Member<'a> {
    name: &'a str,
    address: Option<Ipv4Addr>,
}

/// `held`: addresses of nodes that have no fixed one.
pub(super) fn common<'a>(
    cluster: &'a Cluster,
    nodes: &'a [Node],
    held: &Held,
    keys: &'a Keys,
) -> impl Serialize + 'a {
    let master = &cluster.master;
    Common {
        cluster: ClusterVariables { name: &cluster.name },
        master: MasterVariables {
            name: master_name(),
            address: master.address.addr(),
            network: master.address.network(),
            netmask: master.address.netmask(),
            prefix: master.address.prefix_len(),
            gateway: master.gateway,
            dns: &master.dns,
            http_port: master.http_port,
            control_port: super::CONTROL_PORT,
            member: master.member,
        },
        nodes: nodes
            .iter()
            .map(|node| Member { name: &node.name, address: address_of(node, held) })
            .collect(),
        keys,
    }
}

/// The addresses that nodes without a fixed one hold, by their names.
pub type Held = HashMap<String, Ipv4Addr>;

/// The address of a node: its fixed one, or the one that it holds.
pub(super) fn address_of(node: &Node, held: &Held) -> Option<Ipv4Addr> {
    node.address.as_ref().map(|address| address.value).or_else(|| held.get(&node.name).copied())
}

/// The master's host name, as its nodes know it.
pub fn master_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .map(|name| name.split('.').next().unwrap_or("master").to_owned())
        .filter(|name| !name.is_empty() && name != "localhost")
        .unwrap_or_else(|| "master".into())
}

#[derive(Serialize)]
struct NodeVariables<'a> {
    name: &'a str,
    address: Option<Ipv4Addr>,
    mac: Option<String>,
    uuid: Option<String>,
    machine_id: String,
    profile: &'a str,
    image: Option<&'a str>,
    root: crate::cluster::Root,
    gateway: Option<Ipv4Addr>,
    dns: &'a [Ipv4Addr],
    pool: Option<&'a str>,
    share: String,
    speed: Option<u32>,
    trusted: bool,
}

pub(super) fn node<'a>(cluster: &Cluster, node: &'a Node, address: Option<Ipv4Addr>) -> impl Serialize + 'a {
    let settings = node.settings();
    NodeVariables {
        name: &node.name,
        address: node.address.as_ref().map(|a| a.value).or(address),
        mac: node.mac.as_ref().map(|mac| mac.value.to_string()),
        uuid: node.uuid.as_ref().map(|uuid| uuid.value.to_string()),
        machine_id: machine_id(&cluster.name, &node.name),
        profile: &node.choices[0].profile,
        image: settings.image.value.as_deref(),
        root: settings.root.value,
        gateway: settings.gateway.value,
        dns: &settings.dns.value,
        pool: settings.pool.value.as_deref(),
        share: share(cluster, node),
        speed: settings.speed.value,
        trusted: settings.trusted.value,
    }
}

/// When a node shares its load, as its agent reads it (JSON): as its pool does, and always without one.
fn share(cluster: &Cluster, node: &Node) -> String {
    let pool = node.settings().pool.value.as_ref().and_then(|name| cluster.pools.get(name));
    let share = pool.map(|pool| pool.share.clone()).unwrap_or_default();
    // It fails for no value of this type.
    serde_json::to_string(&share).unwrap_or_default()
}

/// A node's machine-id (machine-id(5)): the same at every boot, without a file that keeps it.
fn machine_id(cluster: &str, node: &str) -> String {
    let digest = blake3::derive_key("tesela 2026 machine-id", format!("{cluster}/{node}").as_bytes());
    digest[..16].iter().fold(String::new(), |text, octet| format!("{text}{octet:02x}"))
}
