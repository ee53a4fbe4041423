//! Interface, address, route and multicast.

use std::net::Ipv4Addr;

use super::{Finding, list};
use crate::discovery::GROUP;

/// A network interface, as netdevice(7) has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// It is switched on (`IFF_UP`).
    pub up: bool,
    /// It has a link (`IFF_RUNNING`).
    pub running: bool,
    /// It takes multicast (`IFF_MULTICAST`).
    pub multicast: bool,
    /// Its IPv4 addresses, each with the length of its network's prefix.
    pub addresses: Vec<(Ipv4Addr, u8)>,
}

impl Interface {
    fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}

/// The interface with this address.
pub fn holder(interfaces: &[Interface], address: Ipv4Addr) -> Option<&Interface> {
    interfaces.iter().find(|interface| interface.has(address))
}

/// The cluster's address is where it should be. `said`: interface and prefix, where cluster.yaml says them.
pub fn address(interfaces: &[Interface], address: Ipv4Addr, said: Option<(&str, u8)>) -> Finding {
    const WHAT: &str = "address";
    let names = || list(interfaces.iter().map(|interface| &interface.name));
    let holder = holder(interfaces, address);
    if let Some((name, prefix)) = said {
        let Some(named) = interfaces.iter().find(|interface| interface.name == name) else {
            return Finding::fail(
                WHAT,
                format!("there is no interface {name}, which `master: interface:` of cluster.yaml names"),
                format!("name one of these there: {}", names()),
            );
        };
        match named.addresses.iter().find(|(own, _)| *own == address) {
            Some((_, actual)) if *actual != prefix => {
                return Finding::fail(
                    WHAT,
                    format!("{name} has {address}/{actual}, and cluster.yaml says /{prefix}"),
                    "say the same in both: nodes are told the network of cluster.yaml",
                );
            }
            None => {
                let (has, mend) = match holder {
                    Some(other) => (
                        format!(", but {} has", other.name),
                        format!(
                            "say `interface: {}` in cluster.yaml, or give the address to {name}",
                            other.name
                        ),
                    ),
                    None => (
                        String::new(),
                        format!(
                            "`ip address add {address}/{prefix} dev {name}`, and for good in this system's network settings"
                        ),
                    ),
                };
                return Finding::fail(
                    WHAT,
                    format!("{name} has not the address {address} of cluster.yaml{has}"),
                    mend,
                );
            }
            Some(_) => {}
        }
    }
    let Some(holder) = holder else {
        return Finding::fail(
            WHAT,
            format!("no interface has {address}, this machine's address in the cluster"),
            format!("give it to the one that is on the cluster's network, of {}", names()),
        );
    };
    let name = &holder.name;
    if !holder.up {
        let mend = format!("`ip link set {name} up`");
        return Finding::fail(WHAT, format!("{name} with {address} is switched off"), mend);
    }
    if !holder.running {
        return Finding::fail(
            WHAT,
            format!("{name} with {address} has no link"),
            "look at its cable and the switch",
        );
    }
    Finding::ok(WHAT, format!("{name} has {address}"))
}

/// Where packets go. `from`: the address that they would leave with, for each target, or why they do not.
pub fn route(own: Ipv4Addr, from: &[(String, Result<Ipv4Addr, String>)]) -> Finding {
    const WHAT: &str = "route";
    let none: Vec<String> = from
        .iter()
        .filter_map(|(target, from)| from.as_ref().err().map(|error| format!("{target} ({error})")))
        .collect();
    if !none.is_empty() {
        return Finding::fail(
            WHAT,
            format!("no way from here to {}", list(none)),
            "`ip route` shows the routes; the cluster's network has to be one of them",
        );
    }
    let other: Vec<String> = from
        .iter()
        .filter_map(|(target, from)| {
            from.as_ref().ok().filter(|from| **from != own).map(|from| (target, from))
        })
        .map(|(target, from)| format!("{target} (from {from})"))
        .collect();
    if !other.is_empty() {
        return Finding::fail(
            WHAT,
            format!("packets do not leave with {own} to {}", list(other)),
            "another network card's route is more precise: see `ip route get ADDRESS`, and take that route away",
        );
    }
    match from {
        [] => Finding::ok(WHAT, "there is nobody to find a way to yet"),
        [(target, _)] => Finding::ok(WHAT, format!("packets to {target} leave with {own}")),
        all => Finding::ok(WHAT, format!("packets to {} nodes leave with {own}", all.len())),
    }
}

/// Whether multicast can work. `groups`: those that somebody here has joined on the interface; `unheard`: members whose
/// word to all has not been heard though it was due, and of how many, where an agent says so.
pub fn multicast(
    interface: &Interface,
    groups: &[Ipv4Addr],
    agent: bool,
    unheard: Option<(&[String], usize)>,
) -> Finding {
    const WHAT: &str = "multicast";
    let name = &interface.name;
    if !interface.multicast {
        return Finding::warn(
            WHAT,
            format!("{name} takes none: others are found by the master's word alone"),
            format!("`ip link set {name} multicast on`"),
        );
    }
    if !agent {
        return Finding::ok(WHAT, format!("{name} takes it"));
    }
    if !groups.contains(&GROUP) {
        return Finding::fail(
            WHAT,
            format!(
                "nobody here has joined {GROUP} on {name}: the agent hears others by another interface, or not at all"
            ),
            "`systemctl restart teselad` (on the master tesela-member), once the address is as it should be",
        );
    }
    match unheard {
        Some((unheard @ [_, ..], all)) => Finding::warn(
            WHAT,
            format!("{} of {all} members are heard by unicast only: {}", unheard.len(), list(unheard)),
            "the switch may drop multicast (IGMP snooping without a querier): switch snooping off, or a querier on. \
             The cluster works, but a node is found by the master's word alone",
        ),
        Some((_, all @ 1..)) => {
            Finding::ok(WHAT, format!("the other members are heard by it on {name}: all {all}"))
        }
        _ => Finding::ok(WHAT, format!("{GROUP} is joined on {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well, Warn};
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 45, 1);

    fn interface(name: &str, addresses: &[(Ipv4Addr, u8)]) -> Interface {
        Interface { name: name.into(), up: true, running: true, multicast: true, addresses: addresses.into() }
    }

    #[test]
    fn an_address_is_on_the_interface_that_cluster_yaml_names() {
        let eth0 = interface("eth0", &[(Ipv4Addr::new(10, 0, 0, 7), 8)]);
        let eth1 = interface("eth1", &[(OWN, 24)]);
        let both = [eth0.clone(), eth1.clone()];
        let found = |said| address(&both, OWN, said);
        assert_eq!(found(Some(("eth1", 24))), Finding::ok("address", "eth1 has 192.168.45.1"));
        assert_eq!(found(None).verdict, Well);
        let wrong = found(Some(("eth0", 24)));
        assert_eq!(wrong.finding, "eth0 has not the address 192.168.45.1 of cluster.yaml, but eth1 has");
        assert!(wrong.mend.unwrap().starts_with("say `interface: eth1`"));
        assert_eq!(found(Some(("eth1", 16))).finding, "eth1 has 192.168.45.1/24, and cluster.yaml says /16");
        assert_eq!(found(Some(("eth9", 24))).mend.unwrap(), "name one of these there: eth0, eth1");
        let missing = address(&[eth0], OWN, Some(("eth0", 24)));
        assert!(missing.mend.unwrap().starts_with("`ip address add 192.168.45.1/24 dev eth0`"));
        assert_eq!(address(&[], OWN, None).verdict, Fail);
    }

    #[test]
    fn an_interface_is_up_and_has_a_link() {
        let eth1 = interface("eth1", &[(OWN, 24)]);
        let off = Interface { up: false, running: false, ..eth1.clone() };
        assert_eq!(address(&[off], OWN, None).mend.unwrap(), "`ip link set eth1 up`");
        let unplugged = Interface { running: false, ..eth1 };
        assert_eq!(
            address(&[unplugged], OWN, Some(("eth1", 24))).finding,
            "eth1 with 192.168.45.1 has no link"
        );
    }

    #[test]
    fn packets_leave_with_the_clusters_address() {
        let other = Ipv4Addr::new(10, 0, 0, 7);
        let to = |name: &str, from: Result<Ipv4Addr, &str>| (name.to_owned(), from.map_err(str::to_owned));
        assert_eq!(route(OWN, &[]).verdict, Well);
        assert_eq!(
            route(OWN, &[to("the master", Ok(OWN))]).finding,
            "packets to the master leave with 192.168.45.1"
        );
        let wrong = route(OWN, &[to("n1", Ok(OWN)), to("n2", Ok(other))]);
        assert_eq!((wrong.verdict, wrong.finding.ends_with("to n2 (from 10.0.0.7)")), (Fail, true));
        let none = route(OWN, &[to("n1", Err("Network is unreachable")), to("n2", Ok(other))]);
        assert_eq!(none.finding, "no way from here to n1 (Network is unreachable)");
    }

    #[test]
    fn multicast_is_taken_joined_and_heard() {
        let eth1 = interface("eth1", &[(OWN, 24)]);
        let (joined, heard) = (&[GROUP][..], &[][..]);
        let unheard = ["n2".to_owned()];
        assert_eq!(multicast(&eth1, &[], false, None).verdict, Well);
        assert_eq!(multicast(&eth1, joined, true, Some((heard, 0))).verdict, Well);
        assert_eq!(multicast(&eth1, joined, true, None).verdict, Well);
        let all = multicast(&eth1, joined, true, Some((heard, 3)));
        assert_eq!(all.finding, "the other members are heard by it on eth1: all 3");
        let one = multicast(&eth1, joined, true, Some((&unheard, 3)));
        assert_eq!((one.verdict, &one.finding[..]), (Warn, "1 of 3 members are heard by unicast only: n2"));
        assert_eq!(multicast(&eth1, &[], true, None).verdict, Fail);
        let deaf = Interface { multicast: false, ..eth1 };
        assert_eq!(multicast(&deaf, joined, true, None).verdict, Warn);
    }
}
