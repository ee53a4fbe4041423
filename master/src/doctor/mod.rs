//! `tesela doctor`: the master's part of what [`tesela_runtime::doctor`] does on a node.
//!
//! It asks the running master what it knows, and looks at this machine for the rest; without a master that runs, it says
//! so, and looks at this machine all the same.

mod nodes;
mod services;
mod space;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use tesela_node_image::loaders;
use tesela_runtime::agent::Config;
use tesela_runtime::doctor::firewall::{self, Packet, Way};
pub use tesela_runtime::doctor::{Finding, Report, Verdict};
use tesela_runtime::doctor::{clock, hosts, kernel, members, network, node, read};

use crate::boot::{CONTROL_PORT, NFS_PORT};
use crate::cluster::{self, Cluster, DhcpMode};
use crate::ports::{self, Protocol};
use crate::sntp::Clock;
use crate::web::client;
use crate::web::views::{InForce, NodeView};

/// Looks at this master.
pub fn look(config: &Path, state: &Path, socket: &Path) -> Report {
    let mut found = Vec::new();
    let in_force: Result<InForce, _> = client::get(socket, "/v1/in-force");
    let nodes = client::nodes(socket);
    let text = std::fs::read(config).map_err(|error| format!("{} cannot be read: {error}", config.display()));
    let file = text.and_then(|text| {
        let parsed = cluster::parse_bytes(&text, &config.display().to_string());
        parsed.map(|cluster| (cluster, text)).map_err(|problems| first_line(&problems.to_string()))
    });
    let applied = in_force.as_ref().ok().map(|in_force| &in_force.text[..]);
    let edited =
        file.as_ref().map(|(_, text)| applied.is_some_and(|applied| applied.as_bytes() != &text[..]));
    found.push(services::file(&config.display().to_string(), edited.map_err(|error| &error[..])));
    // What runs is what counts; where nothing does, what would.
    let running = applied.and_then(|text| cluster::parse_bytes(text.as_bytes(), "what is in force").ok());
    let cluster = running.or_else(|| file.ok().map(|(cluster, _)| cluster));
    // Whether one runs is not known where only root may ask it: then it does.
    let runs = !matches!(nodes, Err(client::Error::Connect { .. }));
    found.push(services::runs(&socket.display().to_string(), nodes.as_ref().map(drop)));
    let own = cluster.as_ref().map(|cluster| cluster.master.address.addr());
    found.push(own_name(own, cluster.as_ref().is_some_and(|cluster| cluster.master.member)));
    if let Some(cluster) = &cluster {
        found.extend(of_machine(cluster, runs));
    }
    found.push(space::left(state, space::of(state)));
    if let Ok(nodes) = &nodes {
        found.extend(of_nodes(nodes));
    }
    if let Some(cluster) = &cluster {
        let addresses =
            cluster.nodes.iter().filter_map(|node| Some((node.name.clone(), node.address.as_ref()?.value)));
        let own = (crate::boot::context::master_name(), cluster.master.address.addr());
        found.push(members::numbers(&addresses.chain([own]).collect::<Vec<_>>()));
        found.extend(as_member(cluster, socket));
    }
    Report(found)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn own_name(address: Option<Ipv4Addr>, member: bool) -> Finding {
    let found = hosts::own_name(&read::hosts(), &read::host_name(), address);
    // The services do not ask for it; programs that run on a member do.
    if member { found } else { found.at_most_warn() }
}

/// Address, routes, services, firewall and clock of this machine.
fn of_machine(cluster: &Cluster, runs: bool) -> Vec<Finding> {
    let master = &cluster.master;
    let own = master.address.addr();
    let interfaces = read::interfaces().unwrap_or_default();
    let addresses =
        cluster.nodes.iter().filter_map(|node| Some((node.name.clone(), node.address.as_ref()?.value)));
    let from: Vec<_> = addresses.map(|(name, address)| (name, read::leaving_with(address))).collect();
    let mut found = vec![
        network::address(&interfaces, own, Some((&master.interface, master.address.prefix_len()))),
        network::route(own, &from),
    ];
    let tcp = [("HTTP", master.http_port), ("NFS", NFS_PORT), ("the control channel", CONTROL_PORT)];
    if runs {
        let reached = read::reach(&tcp.map(|(_, port)| SocketAddrV4::new(own, port))).unwrap_or_default();
        let tcp: Vec<_> =
            tcp.into_iter().zip(reached).map(|((name, port), reach)| (name, port, reach)).collect();
        found.push(services::listen(own, &tcp));
    } else {
        let tcp = tcp.map(|(name, port)| (name, Protocol::Tcp, port));
        let udp = [("DHCP", Protocol::Udp, 67), ("DHCP", Protocol::Udp, 4011), ("TFTP", Protocol::Udp, 69)];
        let held = tcp.into_iter().chain(udp).filter_map(|(name, protocol, port)| {
            Some((name, protocol, port, ports::who_holds(protocol, port)?))
        });
        found.push(services::free(&held.collect::<Vec<_>>()));
    }
    found.push(firewall::lets_pass(&read::firewall(), &needed(cluster)));
    found.push(services::has_loaders(loaders::complete().as_ref().copied()));
    found.push(services::in_step(Clock::of_the_kernel().synchronised));
    found
}

/// What nodes send to this machine before they are members.
fn needed(cluster: &Cluster) -> Vec<Packet> {
    let master = &cluster.master;
    let packet = |udp, port, purpose| Packet {
        way: Way::In,
        interface: master.interface.clone(),
        udp,
        port,
        own: master.address.addr(),
        other: cluster.nodes.iter().find_map(|node| node.address.as_ref()).map(|address| address.value),
        purpose,
    };
    let mut needed = vec![
        // Whoever asks for an address has none, and asks all.
        Packet { other: Some(Ipv4Addr::UNSPECIFIED), own: Ipv4Addr::BROADCAST, ..packet(true, 67, "DHCP") },
        packet(true, 69, "TFTP"),
        packet(true, tesela_runtime::sntp::PORT, "the time"),
        packet(false, master.http_port, "HTTP"),
        packet(false, NFS_PORT, "NFS"),
        packet(false, CONTROL_PORT, "keys and agents"),
    ];
    if master.dhcp == DhcpMode::Proxy {
        needed.push(packet(true, 4011, "DHCP of boot clients"));
    }
    needed
}

fn of_nodes(nodes: &[NodeView]) -> Vec<Finding> {
    let seen: Vec<nodes::Seen> = nodes.iter().map(nodes::Seen::of).collect();
    let mut found = nodes::stages(&seen);
    found.push(nodes::versions(env!("CARGO_PKG_VERSION"), &seen));
    let clocks: Vec<_> = seen.iter().filter_map(|node| Some((node.name.clone(), node.ahead_ms?))).collect();
    found.push(clock::of_members(&clocks));
    found
}

/// The master's own agent.
fn as_member(cluster: &Cluster, socket: &Path) -> Vec<Finding> {
    if !cluster.master.member {
        return vec![Finding::ok("agent", "cluster.yaml says `member: false`: the master takes no part")];
    }
    let mut found = kernel::features(&read::kernel_release(), &read::missing_features());
    let path = socket.parent().unwrap_or(Path::new("/run/tesela")).join("member/teselad.json");
    match Config::read(&path) {
        Ok(config) => {
            let own_socket = config.socket();
            found.extend(node::of_member(&config, &own_socket, "tesela-member", config.address));
        }
        Err(error) => found.push(Finding::fail(
            "agent",
            format!("the master's own agent does not know what it is to do: {error}"),
            "the master writes that file when it starts: `systemctl restart tesela`; only root reads it",
        )),
    }
    found
}
