//! Who should be there, and who is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Finding, list};
use crate::discovery::{Map, NodeId, PORT};

/// What became of a TCP connection to the agents' port of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It came about.
    Answers,
    /// It was refused: the machine is on, and nobody listens.
    Refuses,
    /// Nothing came back, or nobody has that address.
    Silent,
    /// There is no way.
    NoWay(String),
}

/// Another node that cluster.yaml names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Its address, where it is known.
    pub address: Option<Ipv4Addr>,
    /// The agent here knows it as alive.
    pub up: bool,
    /// Whether it is reached by TCP; none: it was not tried.
    pub reach: Option<Reach>,
}

/// All that should be members are, as the agent here sees it; where one is not, why. `port`: TCP, of the agents.
pub fn all_there(others: &[Other], port: u16) -> Vec<Finding> {
    const WHAT: &str = "members";
    let missing: Vec<&Other> = others.iter().filter(|other| !other.up).collect();
    let up = others.len() - missing.len();
    let so_many = format!("{up} of {} other nodes", others.len());
    if missing.is_empty() {
        return vec![match others {
            [] => Finding::ok(WHAT, "cluster.yaml names no other node"),
            _ => Finding::ok(WHAT, format!("{so_many} are there")),
        }];
    }
    let named = |of: &dyn Fn(&Other) -> bool| {
        let names: Vec<&str> =
            missing.iter().filter(|other| of(other)).map(|other| &other.name[..]).collect();
        (!names.is_empty()).then(|| list(names))
    };
    let reach = |wanted: Reach| move |other: &Other| other.reach.as_ref() == Some(&wanted);
    let mut found = Vec::new();
    if let Some(names) = named(&reach(Reach::Answers)) {
        found.push(Finding::fail(
            WHAT,
            format!("{so_many} are there; answer by TCP, and are not heard by UDP: {names}"),
            format!(
                "a firewall drops UDP port {PORT} on the way: let it pass both ways, here, there and between"
            ),
        ));
    }
    if let Some(names) = named(&reach(Reach::Refuses)) {
        found.push(Finding::fail(
            WHAT,
            format!("{so_many} are there; on, but no agent listens at TCP port {port}: {names}"),
            "`systemctl restart teselad` there; `doctor` there says what is wrong",
        ));
    }
    let lost = missing.iter().filter_map(|other| match &other.reach {
        Some(Reach::NoWay(why)) => Some(format!("{} ({why})", other.name)),
        _ => None,
    });
    let lost: Vec<String> = lost.collect();
    if !lost.is_empty() {
        found.push(Finding::fail(
            WHAT,
            format!("{so_many} are there; no way leads to {}", list(lost)),
            "`ip route` shows the routes: the cluster's network has to be one of them; and no firewall here may refuse it",
        ));
    }
    if let Some(names) = named(&|other| matches!(other.reach, Some(Reach::Silent) | None)) {
        let silent = Finding::fail(
            WHAT,
            format!("{so_many} are there; nothing is heard of {names}"),
            format!(
                "they are off, or a firewall drops UDP port {PORT} and TCP port {port}: `tesela node list` on the \
                 master says at which stage they are"
            ),
        );
        // A machine that is off is nothing wrong; to see nobody is.
        found.push(if up > 0 || !found.is_empty() { silent.at_most_warn() } else { silent });
    }
    found
}

/// Those that are there are reached by TCP too, which moves need. `port`: the agents'.
pub fn reached(others: &[Other], port: u16) -> Finding {
    const WHAT: &str = "TCP";
    let up = || others.iter().filter(|other| other.up);
    let bad: Vec<String> = up()
        .filter_map(|other| match other.reach.as_ref()? {
            Reach::Answers => None,
            Reach::Refuses => Some(format!("{} refuses", other.name)),
            Reach::Silent => Some(format!("{} does not answer", other.name)),
            Reach::NoWay(why) => Some(format!("{}: {why}", other.name)),
        })
        .collect();
    if bad.is_empty() {
        return Finding::ok(WHAT, format!("port {port} of {} members answers", up().count()));
    }
    Finding::fail(
        WHAT,
        format!("no process can move to members that are heard by UDP: {}", list(bad)),
        format!(
            "a firewall drops TCP port {port} on the way: let it pass both ways, here, there and between"
        ),
    )
}

/// The master is reached. `services`: what each is, its TCP port, and what became of a connection to it.
pub fn master(address: Ipv4Addr, services: &[(&str, u16, Reach)]) -> Finding {
    const WHAT: &str = "master";
    let that = |wanted: fn(&Reach) -> bool| -> Vec<String> {
        let such = services.iter().filter(|(_, _, reach)| wanted(reach));
        such.map(|(service, port, _)| format!("{service} (TCP port {port})")).collect()
    };
    let (silent, refused) = (that(|reach| *reach == Reach::Silent), that(|reach| *reach == Reach::Refuses));
    let no_way = services.iter().find_map(|(_, _, reach)| match reach {
        Reach::NoWay(why) => Some(why),
        _ => None,
    });
    if let Some(why) = no_way {
        let mend = "`ip route` shows the routes: the cluster's network has to be one of them; and no firewall here may refuse it";
        return Finding::fail(WHAT, format!("no way leads to {address}: {why}"), mend);
    }
    if !silent.is_empty() {
        let mend = if silent.len() == services.len() {
            "it is off, or a firewall drops these ports: `tesela doctor` there says which"
        } else {
            "a firewall drops that port: `tesela doctor` there says which"
        };
        return Finding::fail(WHAT, format!("{address} does not answer for {}", silent.join(", ")), mend);
    }
    if !refused.is_empty() {
        let mend = "`systemctl restart tesela` there; `tesela doctor` there says what is wrong";
        return Finding::fail(WHAT, format!("{address} refuses {}", refused.join(", ")), mend);
    }
    Finding::ok(WHAT, format!("{address} answers for {}", that(|_| true).join(", ")))
}

/// No two nodes have one number: it is the low 16 bits of the address.
pub fn numbers(nodes: &[(String, Ipv4Addr)]) -> Finding {
    const WHAT: &str = "numbers";
    let mut by_number: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for (name, address) in nodes {
        by_number.entry(NodeId::from(*address)).or_default().push(format!("{name} ({address})"));
    }
    let twice: Vec<String> = by_number
        .into_iter()
        .filter(|(_, nodes)| nodes.len() > 1)
        .map(|(number, nodes)| format!("{number} is that of {}", nodes.join(" and ")))
        .collect();
    if twice.is_empty() {
        return Finding::ok(WHAT, format!("{} nodes have one each", nodes.len()));
    }
    Finding::fail(
        WHAT,
        list(twice),
        "give them addresses that differ in the last two of their four numbers, in cluster.yaml",
    )
}

/// The map that was set by hand holds this node, and no address of the loopback.
pub fn map(map: Option<&str>, own: Ipv4Addr) -> Finding {
    const WHAT: &str = "map";
    let Some(text) = map else {
        return Finding::ok(WHAT, "none is set: nodes find each other by themselves");
    };
    let mend = "mend /etc/openmosix.map and `setpe -w`, or take the map away: `omdiscd`";
    let map = match Map::parse(text, |_| None) {
        Ok(map) => map,
        Err(error) => return Finding::fail(WHAT, error.to_string(), mend),
    };
    if let Some(line) = map.lines().iter().find(|line| line.address.is_loopback()) {
        return Finding::fail(WHAT, format!("it has {}, which is each node itself", line.address), mend);
    }
    match map.id_of(own) {
        Some(_) => Finding::ok(
            WHAT,
            format!("set by hand, {} lines: no other nodes than those take part", map.lines().len()),
        ),
        None => Finding::fail(
            WHAT,
            format!("it was set by hand, and {own}, this node's address, is not in it"),
            mend,
        ),
    }
}

#[cfg(test)]
mod tests;
