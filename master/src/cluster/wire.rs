//! What cluster.yaml says, key by key: nothing is merged, expanded or compared yet.
//!
//! The comment of each key is what the JSON Schema says of it.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::model::Schedule;
use super::model::{Boot, DhcpMode, ImageSource, Loader, ProfileAddress, Root, Unknown, Writes};
use super::names::NamePattern;
use super::problem::Problems;
use super::read::{List, Named, Read, mapping, read_mapping};
use super::tree::{Kind, Tree};
use super::values::{
    AbsolutePath, AddressRange, Duration, Edit, HostNet, Interface, KernelArg, Label, Mirror, Name, Number,
    Package, Service, Text,
};
use super::{Mac, Uuid};

mapping! {
    /// A cluster: its master, what its nodes boot, and the nodes.
    ClusterWire {
        /// The cluster's name: a DNS label, and the DNS domain of its nodes.
        "cluster" required => cluster: Label,
        /// The machine that serves.
        "master" required => master: MasterWire,
        /// Images by name: what nodes boot into.
        "images" => images: Named<Name, ImageWire>,
        /// Profiles by name: what several nodes have in common.
        "profiles" => profiles: Named<Name, ProfileWire>,
        /// Nodes by name. A name with a range, as n[1-16], counts names and addresses up; an entry of one of these names alone refines that node, and its keys win.
        "nodes" => nodes: Named<NamePattern, NodeWire>,
        /// Pools by name: nodes that share their load.
        "pools" => pools: Named<Name, PoolWire>,
    }
}

mapping! {
    /// The machine that serves.
    MasterWire {
        /// The network interface towards the nodes.
        "interface" required => interface: Interface,
        /// The master's own address, with the length of the cluster's network: 192.168.45.1/24.
        "address" required => address: HostNet,
        /// Whether this master gives addresses, or another DHCP server does (proxy).
        "dhcp" => dhcp: DhcpMode,
        /// First and last address for machines that have none of their own: 192.168.45.100-192.168.45.199.
        "range" => range: AddressRange,
        /// How long a machine has an address of the range (default 12h).
        "lease" => lease: Duration,
        /// The nodes' default gateway.
        "gateway" => gateway: Ipv4Addr,
        /// The nodes' name servers.
        "dns" => dns: List<Ipv4Addr>,
        /// What an unknown machine that boots is given: it is listed (register, the default), booted, or ignored.
        "unknown" => unknown: Unknown,
        /// The profile of unknown machines with `unknown: boot`, and of `tesela node accept`.
        "unknown profile" => unknown_profile: Name,
        /// Whether the master is a member of the cluster itself (default true).
        "member" => member: bool,
        /// Ports other than the usual ones.
        "ports" => ports: PortsWire,
    }
}

mapping! {
    /// Ports other than the usual ones.
    PortsWire {
        /// TCP port of HTTP (default 80).
        "http" => http: Number<1, 65535>,
    }
}

mapping! {
    /// An image: a whole system that nodes boot into.
    ImageWire {
        /// What it is made from: debian:SUITE, host:/, dir:PATH or tar:PATH.
        "from" required => from: ImageSource,
        /// Debian packages to add.
        "packages" => packages: List<Package>,
        /// A program of the master, run at the end of the build with the image's root as its argument.
        "post install" => post_install: AbsolutePath,
        /// Where Debian packages come from, unless from the master's own sources.
        "mirror" => mirror: Mirror,
    }
}

mapping! {
    /// What a profile or a node can set.
    SettingsWire {
        /// Whether the machine boots from the master (network, the default) or from its own disk.
        "boot" => boot: Boot,
        /// The image that it boots into.
        "image" => image: Name,
        /// How its root arrives: over NFS (the default), or as a whole into memory.
        "root" => root: Root,
        /// Whether the node's own writes are there again at its next boot (keep, the default).
        "writes" => writes: Writes,
        /// Which boot loader the firmware is sent.
        "loader" => loader: Loader,
        /// Words to add to the kernel command line; ~word takes an inherited one away.
        "kernel args" => kernel_args: List<Edit<KernelArg>>,
        /// Default gateway, unless the master's.
        "gateway" => gateway: Ipv4Addr,
        /// Name servers, unless the master's.
        "dns" => dns: List<Ipv4Addr>,
        /// The pool that it shares its load in.
        "pool" => pool: Name,
        /// Speed, where a standard CPU has 10000, unless measured.
        "speed" => speed: Number<1, 1_000_000>,
        /// Whether processes of root may move here on request.
        "trusted" => trusted: bool,
        /// Who the members are: by discovery (the default), or a fixed map.
        "members" => members: MembersWire,
        /// Services to start, stop and restart when the profile is entered.
        "services" => services: ServicesWire,
        /// A script run when the profile is entered.
        "script" => script: Text,
    }
}

mapping! {
    /// What several nodes have in common, or one of the settings that a laptop goes between.
    ProfileWire {
        /// Profiles that this one adds to; the later one wins.
        "inherits" => inherits: List<Name>,
        /// The machine's address while it has this profile: dhcp, or fixed with the length of its network.
        "address" => address: ProfileAddress,
        ..settings: SettingsWire
    }
}

mapping! {
    /// A machine.
    NodeWire {
        /// Its hardware address; for a range of nodes a list, one for each.
        "mac" => mac: List<Mac>,
        /// Its UUID; for a range of nodes a list, one for each.
        "uuid" => uuid: List<Uuid>,
        /// Its address; for a range of nodes that of the first.
        "address" => address: Ipv4Addr,
        /// The profile that it has, or those that it can have, the default first; only an entry that refines a node of a range can do without.
        "profile" => profile: List<Name>,
        ..settings: SettingsWire
    }
}

mapping! {
    /// What to do with services when the profile is entered; ~name takes an inherited one away.
    ServicesWire {
        /// Services to start.
        "start" => start: List<Edit<Service>>,
        /// Services to stop.
        "stop" => stop: List<Edit<Service>>,
        /// Services to restart.
        "restart" => restart: List<Edit<Service>>,
    }
}

mapping! {
    /// A line of a map of members.
    MapLineWire {
        /// The first id.
        "id" required => id: Number<1, 65535>,
        /// The first address.
        "address" required => address: Ipv4Addr,
        /// How many members (default 1).
        "count" => count: Number<1, 65535>,
    }
}

mapping! {
    /// Nodes that share their load.
    PoolWire {
        /// When its nodes share: always, manual, or a schedule and an idle time.
        "share" required => share: ShareWire,
    }
}

mapping! {
    /// When nodes share.
    WhenWire {
        /// In these hours: mon-fri 20:00-07:00.
        "schedule" => schedule: Schedule,
        /// When nobody has used the machine for so long: 15m.
        "idle" => idle: Duration,
    }
}

/// `discover`, or lines of a map.
#[derive(Clone, Debug)]
pub(super) enum MembersWire {
    Discover,
    Map(List<MapLineWire>),
}

impl Read for MembersWire {
    fn read(tree: &Tree<'_>, problems: &mut Problems) -> Option<Self> {
        match &tree.kind {
            Kind::List(_) => List::read(tree, problems).map(MembersWire::Map),
            Kind::Scalar(word) if word == "discover" => Some(MembersWire::Discover),
            other => {
                problems
                    .add(
                        tree.span,
                        format!("here belongs `discover` or a map of members, and this is {}", other.what()),
                    )
                    .mend("write `discover`, or lines as [{id: 1, address: 192.168.0.1, count: 2}]");
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"anyOf": [{"const": "discover"}, {"type": "array", "items": MapLineWire::schema()}]})
    }
}

/// `always`, `manual`, or when.
#[derive(Clone, Debug)]
pub(super) enum ShareWire {
    Always,
    Manual,
    When(WhenWire),
}

impl Read for ShareWire {
    fn read(tree: &Tree<'_>, problems: &mut Problems) -> Option<Self> {
        match &tree.kind {
            Kind::Map(_) => read_mapping(tree, problems).map(ShareWire::When),
            Kind::Scalar(word) if word == "always" => Some(ShareWire::Always),
            Kind::Scalar(word) if word == "manual" => Some(ShareWire::Manual),
            other => {
                problems
                    .add(
                        tree.span,
                        format!("here belongs when the pool shares, and this is {}", other.what()),
                    )
                    .mend("write always, manual, or {schedule: \"mon-fri 20:00-07:00\", idle: 15m}");
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"anyOf": [{"enum": ["always", "manual"]}, WhenWire::schema()]})
    }
}
