//! The other DHCP server of a cluster with `dhcp: proxy`: dnsmasq at an address of its own.
//!
//! It stands where a site's router does: in a namespace behind a port of the lab's bridge, at the
//! cluster's gateway where that is another machine than the master. It gives addresses and knows nothing
//! of booting.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use super::namespace::Namespace;
use super::{Error, Lab};
use crate::cluster::Master;

pub const DNSMASQ: &str = "/usr/sbin/dnsmasq";
/// Hosts of the network that are looked at for a free range: a lab needs few.
const LOOKED_AT: usize = 1024;

/// Makes its namespace and starts it. It ends as all of a lab does, with its namespace.
pub fn start(lab: &Lab, namespace: &Namespace, bridge: &str, master: &Master) -> Result<(), Error> {
    let plan = Plan::of(master).ok_or_else(|| Error::NoRoom { network: master.address.trunc() })?;
    let own = lab.other_namespace();
    let address = Ipv4Net::new_assert(plan.server, master.address.prefix_len());
    own.create_behind(namespace, (bridge, "dhcp0"), None, address)?;
    let mut command = own.command(DNSMASQ);
    command.args(["--conf-file=/dev/null", "--port=0", "--leasefile-ro", "--no-ping", "--pid-file"]);
    // It goes into the background once it serves, and says before what stands against it.
    command.args(["--interface=eth0", "--bind-interfaces", "--log-dhcp"]);
    command.arg(format!("--log-facility={}", lab.state.join("other-dhcp.log").display()));
    command.arg(format!("--dhcp-range={},{},1h", plan.range.0, plan.range.1));
    command.arg(format!("--dhcp-option=option:router,{}", plan.server));
    for server in &master.dns {
        command.arg(format!("--dhcp-option=option:dns-server,{server}"));
    }
    let said = command.output().map_err(Error::io("run", Path::new(DNSMASQ)))?;
    if said.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    Err(Error::Command { command: DNSMASQ.to_owned(), stderr })
}

/// Its address and its range.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    server: Ipv4Addr,
    range: (Ipv4Addr, Ipv4Addr),
}

impl Plan {
    /// `None` where the network has no two addresses left.
    fn of(master: &Master) -> Option<Self> {
        let own = master.address.addr();
        let network = master.address.trunc();
        let hosts: Vec<Ipv4Addr> = network.hosts().take(LOOKED_AT).collect();
        let taken = |host: &Ipv4Addr| *host == own || master.dns.contains(host);
        let gateway = master.gateway.filter(|gateway| *gateway != own && network.contains(gateway));
        let server = gateway.or_else(|| hosts.iter().rfind(|host| !taken(host)).copied())?;
        let free = hosts.split(|host| *host == server || taken(host)).max_by_key(|run| run.len())?;
        Some(Self { server, range: (*free.first()?, *free.last()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster;

    fn plan(master: &str) -> Option<Plan> {
        let text = format!(
            "cluster: c\nmaster: {{interface: eth1, dhcp: proxy, {master}}}\nimages: {{i: {{from: debian:bookworm}}}}\n\
             profiles: {{p: {{image: i}}}}\nnodes: {{n1: {{mac: 52:54:00:00:00:01, profile: p}}}}\n"
        );
        Plan::of(&cluster::parse(&text, "c.yaml").unwrap_or_else(|problems| panic!("{problems}")).master)
    }

    #[test]
    fn it_takes_the_gateway_and_the_widest_gap() {
        let at = |last| Ipv4Addr::new(10, 0, 0, last);
        let found = plan("address: 10.0.0.50/24, gateway: 10.0.0.1, dns: [10.0.0.60]").unwrap();
        assert_eq!(found, Plan { server: at(1), range: (at(61), at(254)) });
        // The master is the gateway: the last host is free for it.
        let found = plan("address: 10.0.0.1/24, gateway: 10.0.0.1").unwrap();
        assert_eq!(found, Plan { server: at(254), range: (at(2), at(253)) });
        assert_eq!(plan("address: 10.0.0.1/30"), None);
    }
}
