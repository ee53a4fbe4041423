//! From what cluster.yaml says to what it comes to: references followed, profiles merged, ranges expanded.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::model::{Cluster, DhcpMode, Image, Master, Pool, Share, Unknown};
use super::problem::Problems;
use super::read::{At, List, nearest};
use super::values::{AddressRange, HostNet, Name};
use super::wire::{ClusterWire, ImageWire, MasterWire, PoolWire, ShareWire};
use super::{nodes, settings};

/// Seconds of a lease of the dynamic range, unless `lease` says otherwise.
const DEFAULT_LEASE: u32 = 12 * 3600;

/// `None` only where a problem is noted; a cluster may come back beside noted problems.
pub(super) fn cluster(wire: &ClusterWire, problems: &mut Problems) -> Option<Cluster> {
    let profiles = settings::Profiles::resolve(wire, problems);
    let nodes = nodes::expand(wire, &profiles, problems);
    let master = wire.master.value();
    if let Some(master) = master {
        check_master(master, &profiles, problems);
    }
    Some(Cluster {
        name: wire.cluster.value()?.0.clone(),
        master: self::master(master?)?,
        images: by_name(wire.images.value().into_iter().flat_map(|images| images.iter()), image)?,
        profiles: profiles.into_settings(),
        nodes,
        pools: by_name(wire.pools.value().into_iter().flat_map(|pools| pools.iter()), pool)?,
    })
}

fn by_name<'a, W: 'a, T>(
    wire: impl Iterator<Item = (&'a At<Name>, &'a W)>,
    resolve: impl Fn(&W) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    wire.map(|(name, wire)| Some((name.value.0.clone(), resolve(wire)?))).collect()
}

/// The cluster's network, where it is said.
pub(super) fn network(wire: &ClusterWire) -> Option<Ipv4Net> {
    wire.master.value()?.address.value().map(|HostNet(net)| *net)
}

fn master(wire: &MasterWire) -> Option<Master> {
    Some(Master {
        interface: wire.interface.value()?.0.clone(),
        address: wire.address.value()?.0,
        dhcp: wire.dhcp.value().copied().unwrap_or(DhcpMode::Authoritative),
        range: wire.range.value().map(|AddressRange(first, last)| (*first, *last)),
        lease_seconds: wire.lease.value().map_or(DEFAULT_LEASE, |lease| lease.0),
        gateway: wire.gateway.value().copied(),
        dns: wire.dns.value().map(|dns| dns.values().copied().collect()).unwrap_or_default(),
        unknown: wire.unknown.value().copied().unwrap_or(Unknown::Register),
        unknown_profile: wire.unknown_profile.value().map(|name| name.0.clone()),
        member: wire.member.value().copied().unwrap_or(true),
        http_port: wire
            .ports
            .value()
            .and_then(|ports| ports.http.value())
            .and_then(|port| u16::try_from(port.0).ok())
            .unwrap_or(80),
    })
}

fn check_master(master: &MasterWire, profiles: &settings::Profiles<'_>, problems: &mut Problems) {
    let proxy = master.dhcp.value() == Some(&DhcpMode::Proxy);
    if let (true, Some(range)) = (proxy, master.range.get()) {
        problems
            .add(range.span, "`range` in proxy mode: another DHCP server gives the addresses")
            .mend("remove it, or write `dhcp: authoritative`");
    }
    if let (true, Some(lease)) = (proxy, master.lease.get()) {
        problems
            .add(lease.span, "`lease` in proxy mode: another DHCP server gives the addresses")
            .mend("remove it, or write `dhcp: authoritative`");
    }
    if let Some(HostNet(net)) = master.address.value() {
        if let (false, Some(At { value: AddressRange(first, last), span })) = (proxy, master.range.get()) {
            for end in [first, last] {
                if let Err(why) = host_of(*net, *end) {
                    problems.add(*span, format!("the range's end {end} is {why}")).mend(format!(
                        "the hosts of {} go from {} to {}",
                        net.trunc(),
                        Ipv4Addr::from(u32::from(net.network()) + 1),
                        Ipv4Addr::from(u32::from(net.broadcast()) - 1)
                    ));
                    break;
                }
            }
        }
        if let Some(gateway) = master.gateway.get()
            && let Err(why) = host_of(*net, gateway.value)
        {
            problems
                .add(gateway.span, format!("the gateway {} is {why}", gateway.value))
                .mend("a gateway is a host that the nodes reach directly; remove it if there is none");
        }
    }
    if let Some(unknown) = master.unknown.get()
        && unknown.value == Unknown::Boot
    {
        if master.unknown_profile.is_absent() {
            problems
                .add(unknown.span, "`unknown: boot`, and no profile for it to boot with")
                .mend("add `unknown profile: NAME` beside it");
        }
        if !proxy && master.range.is_absent() {
            problems
                .add(unknown.span, "`unknown: boot`, and no addresses for unknown machines")
                .mend("add `range: FIRST-LAST` beside it");
        }
    }
    if let Some(name) = master.unknown_profile.get()
        && let Some(index) = profiles.find(name, problems)
    {
        profiles.check_boots(index, name.span, "an unknown machine", problems);
    }
}

/// Whether an address is one that a host of this network can have; if not, what it is.
pub(super) fn host_of(net: Ipv4Net, address: Ipv4Addr) -> Result<(), String> {
    match address {
        _ if !net.contains(&address) => Err(format!("outside of the network {}", net.trunc())),
        _ if address == net.network() => Err(format!("the own address of the network {}", net.trunc())),
        _ if address == net.broadcast() => Err(format!("the broadcast address of {}", net.trunc())),
        _ => Ok(()),
    }
}

fn image(wire: &ImageWire) -> Option<Image> {
    Some(Image {
        from: wire.from.value()?.clone(),
        packages: wire
            .packages
            .value()
            .into_iter()
            .flat_map(List::values)
            .map(|package| package.0.clone())
            .collect(),
        post_install: wire.post_install.value().map(|path| path.0.clone()),
        mirror: wire.mirror.value().map(|mirror| mirror.0.clone()),
    })
}

fn pool(wire: &PoolWire) -> Option<Pool> {
    let share = match wire.share.value()? {
        ShareWire::Always => Share::Always,
        ShareWire::Manual => Share::Manual,
        ShareWire::When(when) => Share::When {
            schedule: when.schedule.value().cloned(),
            idle_seconds: when.idle.value().map(|idle| idle.0),
        },
    };
    Some(Pool { share })
}

/// Notes that `name` is none of the `known` ones of this kind.
pub(super) fn no_such<'a>(
    kind: &str,
    name: &At<Name>,
    known: impl Iterator<Item = &'a str> + Clone,
    problems: &mut Problems,
) {
    let problem = problems.add(name.span, format!("there is no {kind} `{}`", name.value));
    if let Some(near) = nearest(&name.value.0, known.clone()) {
        problem.mend(format!("did you mean `{near}`?"));
    } else if known.clone().next().is_some() {
        problem.mend(format!("the {kind}s are: {}", known.take(20).collect::<Vec<_>>().join(", ")));
    } else {
        problem.mend(format!("add it under `{kind}s:`"));
    }
}
