//! A node's own report, and a member's part in the master's.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::firewall::{Packet, Way};
use super::members::Other;
use super::{Finding, Report, agent, clock, firewall, hosts, kernel, members, network, read};
use crate::agent::{Config, Peer};
use crate::discovery::{self, Map};
use crate::sntp;
use crate::wire::local::{self, Answer, Node, Request};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at this node. `socket`: the agent's, unless the one of the configuration.
pub fn look(config: &Path, socket: Option<&Path>) -> Report {
    let mut found = kernel::features(&read::kernel_release(), &read::missing_features());
    let path = config;
    let config = Config::read(path).map_err(|error| error.to_string());
    let address = match &config {
        Ok(config) => {
            found.push(Finding::ok("configuration", format!("{} holds: {}", path.display(), config.node)));
            config.address.or_else(|| read::leaving_with(config.master).ok())
        }
        Err(error) => {
            let mend = "a node has it by its boot from the master, a machine with its own system by `teselad join`; on the \
                        master itself run `tesela doctor`";
            found.push(Finding::fail("configuration", error, mend));
            None
        }
    };
    found.push(hosts::own_name(&read::hosts(), &read::host_name(), address));
    match &config {
        Ok(config) => {
            found.extend(towards_master(config, address));
            let own_socket = config.socket();
            found.extend(of_member(config, socket.unwrap_or(&own_socket), "teselad", address));
            // Where they cannot be read that is told already.
            found.extend(config.peers().ok().map(|peers| members::numbers(&numbered(&peers.0))));
        }
        Err(_) => {
            let socket = socket.unwrap_or(Path::new(local::SOCKET));
            let answered = ask(socket, Request::Nodes {}).map(drop);
            found.push(agent::answers(
                &socket.display().to_string(),
                answered.as_ref().map_err(|it| &it[..]).copied(),
                "teselad",
            ));
        }
    }
    Report(found)
}

/// Address, route, services and time of the master, as a node sees them.
fn towards_master(config: &Config, address: Option<Ipv4Addr>) -> Vec<Finding> {
    let mut found = Vec::new();
    let master = config.master;
    if let (Some(address), Ok(interfaces)) = (address, read::interfaces()) {
        found.push(network::address(&interfaces, address, None));
        found
            .push(network::route(address, &[(format!("the master ({master})"), read::leaving_with(master))]));
    } else {
        found.push(network::route(master, &[(format!("the master ({master})"), read::leaving_with(master))]));
    }
    let services = [("the control channel", config.control_port), ("HTTP", config.http_port)];
    let targets = services.map(|(_, port)| SocketAddrV4::new(master, port));
    if let Ok(reached) = read::reach(&targets) {
        let services: Vec<_> = services
            .into_iter()
            .zip(reached)
            .map(|((service, port), reach)| (service, port, reach))
            .collect();
        found.push(members::master(master, &services));
    }
    let ahead = clock::ask(master, sntp::PORT).map_err(|error| error.to_string());
    found.push(clock::against_master(ahead));
    found
}

/// What every member needs, the master's own agent as well. `unit`: what runs the agent.
pub fn of_member(config: &Config, socket: &Path, unit: &str, address: Option<Ipv4Addr>) -> Vec<Finding> {
    let answered = ask(socket, Request::Nodes {});
    let told = answered.as_ref().map(drop).map_err(|error| &error[..]);
    let mut found = vec![agent::answers(&socket.display().to_string(), told, unit)];
    let nodes = match answered {
        Ok(Answer::Nodes { nodes, .. }) => nodes,
        _ => Vec::new(),
    };
    if let Ok(Answer::Settings(settings)) = ask(socket, Request::Settings {}) {
        found.push(agent::sharing(&settings));
    }
    let map = match ask(socket, Request::Map {}) {
        Ok(Answer::Map { map }) => map,
        _ => None,
    };
    if let Some(address) = address {
        found.extend(around(address, config.agents_port, &nodes));
        if !nodes.is_empty() {
            found.push(members::map(map.as_deref(), address));
        }
    }
    match config.peers() {
        Ok(peers) => {
            if !nodes.is_empty() {
                let others = others(config, &peers.0, map.as_deref(), &nodes);
                found.extend(members::all_there(&others, config.agents_port));
                if others.iter().any(|other| other.up) {
                    found.push(members::reached(&others, config.agents_port));
                }
            }
        }
        Err(error) => {
            let mend = "look at the template of that file on the master, and `tesela apply`";
            found.push(Finding::fail("members", error.to_string(), mend));
        }
    }
    found
}

/// Multicast and firewall on the interface of the cluster.
fn around(address: Ipv4Addr, agents_port: u16, nodes: &[Node]) -> Vec<Finding> {
    let interfaces = read::interfaces().unwrap_or_default();
    let Some(interface) = network::holder(&interfaces, address) else { return Vec::new() };
    let other = nodes.iter().map(|node| node.address).find(|other| *other != address);
    let known: Vec<&Node> = nodes.iter().filter(|node| node.multicast.is_some()).collect();
    let name = |node: &Node| node.name.clone().unwrap_or_else(|| node.address.to_string());
    let unheard: Vec<String> =
        known.iter().filter(|node| node.multicast == Some(false)).map(|node| name(node)).collect();
    let groups = read::groups(&interface.name).unwrap_or_default();
    let packet = |way, udp, port, purpose| Packet {
        way,
        interface: interface.name.clone(),
        udp,
        port,
        own: address,
        other,
        purpose,
    };
    let packets = [Way::In, Way::Out].map(|way| {
        [
            packet(way, true, discovery::PORT, "members find each other"),
            packet(way, false, agents_port, "processes move"),
        ]
    });
    vec![
        network::multicast(interface, &groups, !nodes.is_empty(), Some((&unheard, known.len()))),
        firewall::lets_pass(&read::firewall(), packets.as_flattened()),
    ]
}

fn numbered(peers: &[Peer]) -> Vec<(String, Ipv4Addr)> {
    peers.iter().filter_map(|peer| Some((peer.name.clone(), peer.address?))).collect()
}

/// The nodes that should be there besides this one; with a map, those of the map.
fn others(config: &Config, peers: &[Peer], map: Option<&str>, nodes: &[Node]) -> Vec<Other> {
    let map = map.and_then(|text| Map::parse(text, |_| None).ok());
    let in_map = |peer: &&Peer| match (&map, peer.address) {
        (Some(map), Some(address)) => map.id_of(address).is_some(),
        _ => true,
    };
    let named = peers.iter().filter(|peer| peer.name != config.node).filter(in_map);
    let mut others: Vec<Other> = named
        .map(|peer| {
            let up = nodes.iter().any(|node| node.up && Some(node.address) == peer.address);
            Other { name: peer.name.clone(), address: peer.address, up, reach: None }
        })
        .collect();
    let targets: Vec<SocketAddrV4> = others
        .iter()
        .filter_map(|other| other.address.map(|address| SocketAddrV4::new(address, config.agents_port)))
        .collect();
    let reached = read::reach(&targets).unwrap_or_default();
    let with_address = others.iter_mut().filter(|other| other.address.is_some());
    for (other, reach) in with_address.zip(reached) {
        other.reach = Some(reach);
    }
    others
}

/// Asks the agent; one that does not answer in time holds up nothing.
fn ask(socket: &Path, request: Request) -> Result<Answer, String> {
    let (sender, receiver) = mpsc::channel();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        // Whoever asks may have stopped waiting.
        let _nobody_waits = sender.send(local::ask(&socket, &request));
    });
    let answer = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match answer {
        Ok(Answer::Failed { reason }) => Err(reason),
        Ok(answer) => Ok(answer),
        Err(error) => Err(error.to_string()),
    }
}
