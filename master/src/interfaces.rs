//! This machine's network interfaces, as the kernel tells them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::cluster::Interface;

/// Every interface, by name; whether another DHCP server answers on one is not looked at.
///
/// # Errors
/// The kernel does not tell.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
    let default_routes = default_routes(&std::fs::read_to_string("/proc/net/route")?);
    for entry in getifaddrs()? {
        let name = entry.interface_name;
        let interface = interfaces.entry(name.clone()).or_insert_with(|| Interface {
            default_route: default_routes.contains(&name),
            hardware: Path::new("/sys/class/net").join(&name).join("device").exists(),
            name,
            addresses: Vec::new(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
            dhcp_server: None,
        });
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
        if let (Some(address), Some(mask)) = (ip(entry.address), ip(entry.netmask))
            && let Ok(net) = Ipv4Net::with_netmask(address, mask)
        {
            interface.addresses.push(net);
        }
    }
    Ok(interfaces.into_values().collect())
}

/// The interfaces that a default route goes through (`proc_net_route`: destination and mask in hexadecimal).
fn default_routes(table: &str) -> Vec<String> {
    let default = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let zero =
            |index: usize| fields.get(index).and_then(|field| u32::from_str_radix(field, 16).ok()) == Some(0);
        zero(1) && zero(7)
    };
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    table.lines().skip(1).filter(default).filter_map(name).collect()
}

/// This machine's name, as `hostname` prints it.
///
/// # Errors
/// The kernel does not tell.
pub fn host_name() -> io::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_loopback_interface_is_told() {
        let all = list().unwrap();
        let lo = all.iter().find(|interface| interface.name == "lo").unwrap();
        assert!(!lo.default_route);
        assert!(lo.addresses.is_empty() || lo.addresses.iter().any(|net| net.contains(&Ipv4Addr::LOCALHOST)));
    }

    #[test]
    fn a_default_route_is_one_to_everywhere() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n";
        assert_eq!(default_routes(table), ["eth0"]);
    }
}
