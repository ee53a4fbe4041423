//! The resolved model of a cluster.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde::Serialize;
pub use tesela_runtime::balance::{Schedule, Share};

use super::{Mac, Uuid};

/// A validated cluster: what every other module of the master works from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// The cluster's name: a DNS label, and the DNS domain of its nodes.
    pub name: String,
    /// The machine that serves.
    pub master: Master,
    /// Images by name.
    pub images: BTreeMap<String, Image>,
    /// Profiles by name, each with what it inherits merged in.
    pub profiles: BTreeMap<String, Settings>,
    /// Nodes in the order of the file, ranges expanded (counting up). Names are unique.
    pub nodes: Vec<Node>,
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
}

/// The `master:` part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Master {
    /// The network interface towards the nodes.
    pub interface: String,
    /// The master's own address and the cluster's network.
    pub address: Ipv4Net,
    /// Whether this master gives addresses, or another DHCP server does.
    pub dhcp: DhcpMode,
    /// First and last address of the dynamic range, both included.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Lease time in seconds of a dynamic address (`lease: 12h`).
    pub lease_seconds: u32,
    /// Default gateway of the nodes.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers of the nodes.
    pub dns: Vec<Ipv4Addr>,
    /// What an unknown machine that boots is given.
    pub unknown: Unknown,
    /// The profile that `unknown: boot` and `tesela node accept` use unless told otherwise.
    pub unknown_profile: Option<String>,
    /// Whether the master is a member itself.
    pub member: bool,
    /// TCP port of HTTP (`ports: {http: 80}`).
    pub http_port: u16,
}

/// Who gives the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpMode {
    /// This master does.
    Authoritative,
    /// Another server does; this one only adds the boot options (proxyDHCP).
    Proxy,
}

/// What an unknown machine that boots is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It is listed, shown a message, and boots its own disk until someone accepts it.
    Register,
    /// It boots as a node with the profile `unknown_profile`, named after its MAC.
    Boot,
    /// It is not answered.
    Ignore,
}

/// A value and the place in cluster.yaml that it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it was said.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Nobody said it: the default.
    Default,
    /// The `master:` part, at this line (from 1).
    Master(usize),
    /// A profile, at this line.
    Profile(String, usize),
    /// The node's own entry, at this line.
    Node(usize),
    /// The entry of the range that the node is of, at this line; addresses are counted up from it.
    Range(usize),
    /// A list to which each of these added, in this order.
    Merged(Vec<Origin>),
}

/// Everything a profile can set, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Network boot, or the machine's own disk.
    pub boot: Sourced<Boot>,
    /// The image's name; `None` only with `boot: disk`.
    pub image: Sourced<Option<String>>,
    /// How the root arrives.
    pub root: Sourced<Root>,
    /// What becomes of the node's writes at its next boot.
    pub writes: Sourced<Writes>,
    /// Which loader the firmware is sent.
    pub loader: Sourced<Loader>,
    /// Extra words for the kernel command line.
    pub kernel_args: Sourced<Vec<String>>,
    /// Default gateway.
    pub gateway: Sourced<Option<Ipv4Addr>>,
    /// Name servers.
    pub dns: Sourced<Vec<Ipv4Addr>>,
    /// The pool's name.
    pub pool: Sourced<Option<String>>,
    /// Speed relative to a standard CPU at 10000; `None`: measured.
    pub speed: Sourced<Option<u32>>,
    /// Whether processes of root may move here on request.
    pub trusted: Sourced<bool>,
    /// `address:` of the profile itself (laptops): fixed, or by DHCP.
    pub address: Sourced<ProfileAddress>,
    /// Members: by discovery, or a fixed map.
    pub members: Sourced<Members>,
    /// Services to start, stop and restart when the profile is entered.
    pub services: Sourced<Services>,
    /// A script run when the profile is entered.
    pub script: Sourced<Option<String>>,
}

/// Where a machine boots from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Boot {
    /// From the master.
    Network,
    /// From its own disk.
    Disk,
}

/// How the root arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// Over NFS: the union that the master makes.
    Nfs,
    /// A squashfs over HTTP into memory, with an overlay in memory.
    Ram,
}

/// What becomes of the node's writes at its next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Writes {
    /// They stay.
    Keep,
    /// They go.
    Discard,
}

/// Which boot loader the firmware is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Loader {
    /// The one that suits the firmware best.
    Auto,
    /// iPXE (undionly.kpxe or ipxe.efi).
    Ipxe,
    /// shim and GRUB, all signed (UEFI only).
    Grub,
}

/// `address:` in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileAddress {
    /// Nothing said: the node's own.
    Node,
    /// From whatever DHCP server is there.
    Dhcp,
    /// Fixed.
    Fixed(Ipv4Net),
}

/// Who the members are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Members {
    /// By discovery.
    Discover,
    /// A fixed map, as /etc/openmosix.map has it.
    Map(Vec<MapLine>),
}

/// A line of a map: `count` nodes with ids from `id` and addresses from `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapLine {
    /// First id.
    pub id: u32,
    /// First address.
    pub address: Ipv4Addr,
    /// How many.
    pub count: u32,
}

/// What to do with services when a profile is entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Services {
    /// Started.
    pub start: Vec<String>,
    /// Stopped.
    pub stop: Vec<String>,
    /// Restarted.
    pub restart: Vec<String>,
}

/// A node with its profiles resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name: a DNS label.
    pub name: String,
    /// Its entry in cluster.yaml: its own, where it has one, or its range's.
    pub entry: Origin,
    /// Known by this hardware address.
    pub mac: Option<Sourced<Mac>>,
    /// Known by this UUID.
    pub uuid: Option<Sourced<Uuid>>,
    /// Its address; `None` in proxy mode, or where the dynamic range serves it.
    pub address: Option<Sourced<Ipv4Addr>>,
    /// Where the profiles of `choices` were said.
    pub profile_origin: Origin,
    /// The profiles that it can have, the default first, each with the node's own settings on top;
    /// at least one.
    pub choices: Vec<Choice>,
}

/// One profile that a node can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The profile's name.
    pub profile: String,
    /// What it comes to on this node; the nodes of a range share it.
    pub settings: Arc<Settings>,
}

impl Node {
    /// What the node has unless it chose another profile.
    pub fn settings(&self) -> &Settings {
        &self.choices[0].settings
    }

    /// Whether it has its own system on its disk, and becomes a member by `teselad join`.
    pub fn has_own_system(&self) -> bool {
        self.settings().boot.value == Boot::Disk
    }
}

impl Cluster {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The addresses that machines without one of their own are given: the range without what is reserved.
    pub fn dynamic_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, last) = self.master.range.map_or((1, 0), |(first, last)| (first.into(), last.into()));
        let nodes = self.nodes.iter().filter_map(|node| node.address.as_ref()).map(|address| address.value);
        let reserved: HashSet<Ipv4Addr> = nodes
            .chain([self.master.address.addr()])
            .chain(self.master.gateway)
            .chain(self.master.dns.clone())
            .collect();
        (first..=last)
            .map(|address: u32| Ipv4Addr::from(address))
            .filter(move |address| !reserved.contains(address))
    }
}

/// An image to build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// What it is made from.
    pub from: ImageSource,
    /// Debian packages to add.
    pub packages: Vec<String>,
    /// A program run at the end of the build with the image's root as its first argument.
    pub post_install: Option<PathBuf>,
    /// Where Debian packages come from; `None`: the master's own sources.
    pub mirror: Option<String>,
}

/// `from:` of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageSource {
    /// `debian:SUITE`, by mmdebstrap.
    Debian(String),
    /// `host:/`: the master's own system.
    Host(PathBuf),
    /// `dir:PATH`.
    Dir(PathBuf),
    /// `tar:PATH`: a plain, docker-save or OCI archive.
    Tar(PathBuf),
}

/// A pool of nodes that share load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// When its nodes share.
    pub share: Share,
}
