//! `setpe`: the map of the cluster by hand, and `omdiscd`: by discovery.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;

use super::mosctl::nodes;
use super::{Ended, ask, other, wants_help};
use crate::discovery::{Map, own_address};
use crate::wire::local::{Answer, ByHand, Change, Request, SOCKET};

const USAGE: &str = "\
usage: setpe [--socket PATH] -w|-W [-f FILE|-]
       setpe [--socket PATH] -r [-f FILE|-]
       setpe [--socket PATH] -off
  -w     take the map of the cluster from a file; /etc/openmosix.map, hpc.map or mosix.map unless said, - is the
         standard input. This node shares its load with the nodes of the map, and no others, until it boots again
  -r     write the map that is in force, to the standard output unless said
  -off   no map: this node shares its load with nobody
A line of a map is the first number of a node, its address, and how many nodes follow, or ALIAS.
Exit status: 0 done, 1 not done, 2 wrong usage.";

const OMDISCD: &str = "\
usage: omdiscd [--socket PATH] [-n] [-i INTERFACE]
Lets this node find the others by itself, in place of a map; its agent does so for as long as it runs.
  -n    stay, and write each node that is found
  -i    the interface of the cluster, where there is no default route
Exit status: 0 done, 1 not done, 2 wrong usage.";

/// Where openMosix looks for a map, in this order.
const FILES: [&str; 3] = ["/etc/openmosix.map", "/etc/hpc.map", "/etc/mosix.map"];
/// Between two looks at who is there.
const LOOKS: Duration = Duration::from_millis(500);

/// `setpe`.
pub fn run(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(USAGE.to_owned());
    }
    let (mut socket, mut file, mut act) = (PathBuf::from(SOCKET), None, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = match word.as_str() {
            "--socket" | "-f" => words.next(),
            "-w" | "-W" | "-r" | "-off" if act.is_none() => {
                act = Some(word.as_str());
                continue;
            }
            _ => return Ended::Usage(format!("`{word}` is not expected\n{USAGE}")),
        };
        match value {
            None => return Ended::Usage(format!("{word} wants a file\n{USAGE}")),
            Some(path) if word == "-f" => file = Some(path.clone()),
            Some(path) => socket = path.into(),
        }
    }
    let done = match act {
        Some("-r") => show(&socket, file.as_deref()),
        Some("-off") => off(&socket),
        Some(_) => set(&socket, file.as_deref()),
        None => return Ended::Usage(format!("-w, -r or -off is due\n{USAGE}")),
    };
    done.unwrap_or_else(|ended| ended)
}

fn set(socket: &Path, file: Option<&str>) -> Result<Ended, Ended> {
    let (name, text) = read(file).map_err(Ended::Failed)?;
    let map = Map::parse(&text, resolve).map_err(|error| Ended::Failed(format!("{name}: {error}")))?;
    map_said(socket, Some(map.to_string()))?;
    said(socket, ByHand::Pool)
}

/// The first of the files that is there.
fn read(file: Option<&str>) -> Result<(String, String), String> {
    match file {
        Some("-") => {
            let mut text = String::new();
            let read = io::stdin().read_to_string(&mut text);
            read.map(|_| ("the standard input".to_owned(), text)).map_err(|error| error.to_string())
        }
        Some(file) => fs::read_to_string(file)
            .map(|text| (file.to_owned(), text))
            .map_err(|error| format!("{file}: {error}")),
        None => FILES
            .iter()
            .find_map(|file| fs::read_to_string(file).ok().map(|text| ((*file).to_owned(), text)))
            .ok_or_else(|| format!("there is no {}: -f names another file", FILES.join(", nor "))),
    }
}

/// Numeric names, and those of /etc/hosts.
fn resolve(host: &str) -> Option<Ipv4Addr> {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let line = hosts.lines().find(|line| {
        let words = line.split('#').next().unwrap_or_default();
        words.split_whitespace().skip(1).any(|name| name == host)
    });
    let known = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    known.or_else(|| {
        let mut found = (host, 0).to_socket_addrs().ok()?;
        found.find_map(
            |address| if let std::net::IpAddr::V4(address) = address.ip() { Some(address) } else { None },
        )
    })
}

fn show(socket: &Path, file: Option<&str>) -> Result<Ended, Ended> {
    let map = match ask(socket, &Request::Map {})? {
        Answer::Map { map: Some(map) } => map,
        Answer::Map { map: None } => {
            let (_, nodes) = nodes(socket)?;
            nodes
                .iter()
                .map(|node| format!("{:<8} {:<16} 1\n", node.id.0, node.address.to_string()))
                .collect()
        }
        answer => return Err(other(&answer)),
    };
    match file {
        None | Some("-") => Ok(Ended::Done(map.trim_end().to_owned())),
        Some(file) => match fs::write(file, map) {
            Ok(()) => Ok(Ended::Done(String::new())),
            Err(error) => Err(Ended::Failed(format!("{file}: {error}"))),
        },
    }
}

fn off(socket: &Path) -> Result<Ended, Ended> {
    map_said(socket, None)?;
    said(socket, ByHand::No)
}

fn map_said(socket: &Path, map: Option<String>) -> Result<(), Ended> {
    match ask(socket, &Request::SetMap { map })? {
        Answer::Done {} => Ok(()),
        answer => Err(other(&answer)),
    }
}

fn said(socket: &Path, share: ByHand) -> Result<Ended, Ended> {
    match ask(socket, &Request::Set(Change { share: Some(share), ..Change::default() }))? {
        Answer::Settings(_) => Ok(Ended::Done(String::new())),
        answer => Err(other(&answer)),
    }
}

/// `omdiscd`.
pub fn omdiscd(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(OMDISCD.to_owned());
    }
    let (mut socket, mut interface, mut stays) = (PathBuf::from(SOCKET), None, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match (word.as_str(), words.as_slice().first()) {
            ("-n", _) => stays = true,
            ("-i", Some(name)) => {
                interface = Some(name.clone());
                words.next();
            }
            ("--socket", Some(path)) => {
                socket = path.into();
                words.next();
            }
            _ => return Ended::Usage(format!("`{word}` is not expected, or wants another word\n{OMDISCD}")),
        }
    }
    discover(&socket, interface.as_deref(), stays).unwrap_or_else(|ended| ended)
}

fn discover(socket: &Path, interface: Option<&str>, stays: bool) -> Result<Ended, Ended> {
    let address = match interface {
        Some(name) => address_of(name).map_err(Ended::Failed)?,
        // Any that is not on this network.
        None => own_address(Ipv4Addr::new(192, 0, 2, 1)).map_err(|error| {
            Ended::Failed(format!(
                "Unable to determine address of default interface. This may happen because there is no default \
                 route configured. Without a default route, an interface must be specified (-i): {error}\n\
                 Unable to initialize network. Exiting."
            ))
        })?,
    };
    let (_, known) = nodes(socket)?;
    if !known.iter().any(|node| node.address == address) {
        let own: Vec<String> = known.iter().map(|node| node.address.to_string()).collect();
        return Err(Ended::Failed(format!(
            "this node has the address {address} there, and its agent looks for others by another: the addresses that \
             are known are {}. Which one it takes is said by `address` in {}",
            own.join(", "),
            crate::agent::Config::PATH
        )));
    }
    map_said(socket, None)?;
    let done = said(socket, ByHand::Pool)?;
    if !stays {
        return Ok(done);
    }
    let mut seen = Vec::new();
    loop {
        let (own, nodes) = nodes(socket)?;
        let found: Vec<_> = nodes.iter().map(|node| (node.id, node.address)).collect();
        if found != seen {
            let mut text = format!(
                "openMosix configuration changed: This is openMosix #{own} (of {} configured)\n",
                found.len()
            );
            for (id, address) in &found {
                text += &format!("openMosix #{id} is at IP address {address}\n");
            }
            let told = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
            told.map_err(|error| Ended::Failed(error.to_string()))?;
            seen = found;
        }
        std::thread::sleep(LOOKS);
    }
}

fn address_of(interface: &str) -> Result<Ipv4Addr, String> {
    let mut there = false;
    for one in getifaddrs().map_err(|error| error.to_string())? {
        if one.interface_name == interface {
            there = true;
            if let Some(address) = one.address.as_ref().and_then(|address| address.as_sockaddr_in()) {
                return Ok(address.ip());
            }
        }
    }
    Err(if there {
        format!("the interface {interface} has no IPv4 address")
    } else {
        format!("there is no interface {interface}: `ip link` lists those that there are")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_openmosixs() {
        let of = |tool: fn(&[String]) -> Ended, line: &str| {
            tool(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        for (line, problem) in
            [("", "-w, -r or -off is due"), ("-w -r", "`-r` is not expected"), ("-w -f", "-f wants a file")]
        {
            assert!(matches!(of(run, line), Ended::Usage(text) if text.starts_with(problem)), "{line}");
        }
        let failed = of(run, "-w -f /nonexistent/map");
        assert!(matches!(failed, Ended::Failed(text) if text.starts_with("/nonexistent/map: No such file")));
        let failed = of(omdiscd, "-n -i nosuch0");
        assert!(matches!(failed, Ended::Failed(text) if text.starts_with("there is no interface nosuch0")));
        assert_eq!(address_of("lo"), Ok(Ipv4Addr::LOCALHOST));
        assert!(matches!(of(omdiscd, "-i"), Ended::Usage(_)));
    }
}
