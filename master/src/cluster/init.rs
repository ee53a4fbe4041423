//! A first cluster.yaml from this machine's interfaces: `tesela init`. Pure: someone else looks at them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::names::is_label;

/// A network interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its IPv4 addresses, each with its network.
    pub addresses: Vec<Ipv4Net>,
    /// Whether it is up, with a carrier.
    pub up: bool,
    /// Whether it is a network card, not something that the kernel made up.
    pub hardware: bool,
    /// Whether the default route goes through it.
    pub default_route: bool,
    /// Another DHCP server that answered on it.
    pub dhcp_server: Option<Ipv4Addr>,
}

/// Why there is no first cluster.yaml to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// Not one Ethernet interface.
    #[error("this machine has no network interface to serve nodes on; see `ip link`")]
    NoInterface,
}

/// Networks to choose from for an interface that has no address yet.
const FREE: [&str; 3] = ["192.168.45.1/24", "172.29.45.1/24", "10.45.45.1/24"];

/// Interfaces that lead to no nodes: this machine's own, those of containers and VPNs, wireless ones.
const NOT_TO_NODES: [&str; 12] =
    ["lo", "docker", "veth", "virbr", "vnet", "tap", "tun", "wg", "wl", "ww", "cali", "flannel"];

/// The interface to serve on: one that the default route does not go through, is up and has an address,
/// as far as there is one.
pub fn choose(interfaces: &[Interface]) -> Option<&Interface> {
    let leads_to_nodes = |interface: &&Interface| {
        !NOT_TO_NODES.iter().any(|kind| interface.name.starts_with(kind))
            // A bridge that is in use does as well as a card.
            && (interface.hardware || (interface.up && network_of(interface).is_some()))
    };
    interfaces
        .iter()
        .filter(leads_to_nodes)
        .min_by_key(|interface| (interface.default_route, !interface.up, network_of(interface).is_none()))
}

/// The text of a first cluster.yaml for a machine called `host` with these interfaces.
///
/// It serves on the interface that is not the default route's, where there is one, for that is the one
/// with the nodes; as a proxy where another DHCP server answers.
///
/// # Errors
/// [`InitError::NoInterface`] where there is nothing to serve on.
pub fn init(host: &str, interfaces: &[Interface]) -> Result<String, InitError> {
    let chosen = choose(interfaces).ok_or(InitError::NoInterface)?;
    let why = match (chosen.default_route, interfaces.iter().any(|other| other.default_route)) {
        (false, true) => "the interface that the default route does not go through",
        (false, false) => "the interface towards the nodes",
        (true, _) => "the only interface; nodes on one of their own are safer",
    };
    let (net, address_note) = match network_of(chosen) {
        Some(net) => (net, "this machine's address there"),
        None => (free_network(interfaces), "not yet this machine's: `ip address add` gives it"),
    };
    let label = host.split('.').next().unwrap_or_default().to_lowercase();
    let name = if is_label(&label) && label != "localhost" { &label } else { "tesela" };
    let said = |text: String, comment: &str| format!("{text:<32} # {comment}\n");
    let addresses = match chosen.dhcp_server {
        Some(server) => {
            said("  dhcp: proxy".to_owned(), &format!("{server} gives the addresses; this master only boots"))
        }
        None => {
            let (first, last) = range(net);
            [
                said(
                    "  dhcp: authoritative".to_owned(),
                    "this master gives the addresses; or proxy: another server does",
                ),
                said(format!("  range: {first}-{last}"), "for machines without an address of their own"),
                said(format!("  # gateway: {}", net.addr()), "if this machine routes for the nodes"),
                said(format!("  # dns: [{}]", net.addr()), "the nodes' name servers"),
            ]
            .concat()
        }
    };
    Ok([
        "# What this cluster is. `tesela check` tells what is wrong with it, `tesela plan` what would change.\n",
        &format!("cluster: {name}\nmaster:\n"),
        &said(format!("  interface: {}", chosen.name), why),
        &said(format!("  address: {net}"), address_note),
        &addresses,
        &said("  unknown: register".to_owned(), "list machines that boot here for the first time; or boot, or ignore"),
        &said("  unknown profile: node".to_owned(), "what `tesela node accept` makes of them"),
        "images:\n  base:\n",
        &said("    from: debian:bookworm".to_owned(), "or host:/, dir:PATH, tar:PATH"),
        "    packages: [openssh-server]\n",
        "profiles:\n  node: {image: base, root: nfs, writes: keep}\n",
        "# One line a node; `tesela node accept` adds them, or write them as\n",
        &format!("#   n1:     {{mac: 68:00:10:37:09:83, {}profile: node}}\n", example(chosen, net, 0)),
        &format!("#   n[2-9]: {{{}profile: node}}\n", example(chosen, net, 1)),
        "nodes:\n",
    ]
    .concat())
}

/// `address: …, ` for the example of a node; nothing in proxy mode, where nodes have none of their own.
fn example(chosen: &Interface, net: Ipv4Net, offset: u32) -> String {
    match chosen.dhcp_server {
        Some(_) => String::new(),
        None => {
            // Ten addresses from .2 on, or behind the master's own where that is one of them.
            let (network, own) = (u32::from(net.network()), u32::from(net.addr()));
            let first = if (2..12).contains(&(own - network)) { own + 1 } else { network + 2 };
            format!("address: {}, ", Ipv4Addr::from(first + offset))
        }
    }
}

/// The first network of an interface that has room for nodes.
fn network_of(interface: &Interface) -> Option<Ipv4Net> {
    interface.addresses.iter().copied().find(|net| {
        let host = net.addr() != net.network() && net.addr() != net.broadcast();
        (8..=29).contains(&net.prefix_len())
            && host
            && !net.addr().is_loopback()
            && !net.addr().is_link_local()
    })
}

/// A network that none of this machine's is part of.
fn free_network(interfaces: &[Interface]) -> Ipv4Net {
    let taken = |net: &Ipv4Net| {
        let all = interfaces.iter().flat_map(|interface| &interface.addresses);
        all.clone().any(|other| net.contains(&other.network()) || other.contains(&net.network()))
    };
    let mut free = FREE.iter().filter_map(|net| net.parse().ok());
    free.find(|net| !taken(net)).unwrap_or(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 45, 1), 24))
}

/// A dynamic range in the middle of a network: .100 to .199 of a /24.
fn range(net: Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    let (network, broadcast) = (u32::from(net.network()), u32::from(net.broadcast()));
    let hosts = broadcast - network - 1;
    match hosts {
        254.. => (Ipv4Addr::from(network + 100), Ipv4Addr::from(network + 199)),
        _ => (Ipv4Addr::from(network + 1 + hosts / 2), Ipv4Addr::from(broadcast - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{DhcpMode, parse};
    use proptest::prelude::*;

    fn interface(name: &str, address: &str, default_route: bool) -> Interface {
        let addresses = address.parse().into_iter().collect();
        Interface {
            name: name.to_owned(),
            addresses,
            up: true,
            hardware: true,
            default_route,
            dhcp_server: None,
        }
    }

    #[test]
    fn the_interface_without_the_default_route_is_chosen() {
        let text = init(
            "Aula.example.org",
            &[
                interface("lo", "127.0.0.1/8", false),
                interface("eth0", "10.0.0.5/24", true),
                interface("docker0", "172.17.0.1/16", false),
                interface("eth1", "192.168.45.1/24", false),
            ],
        )
        .unwrap();
        insta::assert_snapshot!(text);
        let cluster = parse(&text, "cluster.yaml").unwrap();
        assert_eq!((cluster.name.as_str(), cluster.master.interface.as_str()), ("aula", "eth1"));
    }

    #[test]
    fn beside_another_dhcp_server_it_is_a_proxy() {
        let mut only = interface("enp1s0", "192.168.1.20/24", true);
        only.dhcp_server = Some(Ipv4Addr::new(192, 168, 1, 1));
        let text = init("localhost", &[only]).unwrap();
        insta::assert_snapshot!(text);
        assert_eq!(parse(&text, "cluster.yaml").unwrap().master.dhcp, DhcpMode::Proxy);
    }

    #[test]
    fn without_an_address_a_free_network_is_proposed() {
        let interfaces = [interface("eth0", "192.168.45.7/24", true), interface("eth1", "", false)];
        let cluster = parse(&init("m", &interfaces).unwrap(), "cluster.yaml").unwrap();
        assert_eq!(cluster.master.address.to_string(), "172.29.45.1/24");
        assert_eq!(init("m", &[interface("lo", "127.0.0.1/8", false)]), Err(InitError::NoInterface));
    }

    proptest! {
        #[test]
        fn it_always_holds(
            host in ".{0,20}",
            address in any::<u32>(),
            length in 0u8..=32,
            server in any::<Option<u32>>(),
            default_route in any::<bool>(),
        ) {
            let net = Ipv4Net::new(address.into(), length).unwrap();
            let interface = Interface {
                name: "eth0".to_owned(),
                addresses: vec![net],
                up: true,
                hardware: true,
                default_route,
                dhcp_server: server.map(Ipv4Addr::from),
            };
            let text = init(&host, &[interface]).unwrap();
            if let Err(problems) = parse(&text, "cluster.yaml") {
                panic!("{text}\n{problems}");
            }
        }
    }
}
