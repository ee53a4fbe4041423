//! The cluster.yaml of the lab: the given one, in which each virtual machine is one of its nodes.
//!
//! Only the `nodes:` part is written anew, a line a node: with the virtual machine's hardware address
//! where the file has none, its console on the serial line, and `trusted`, as lab nodes are.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::machine::Machine;
use crate::cluster::{Boot, Cluster, Node};

const CONSOLE: &str = "console=ttyS0";

/// The nodes that a lab can run: those that boot over the network, in the order of the file.
pub fn network_nodes(cluster: &Cluster) -> Vec<&Node> {
    cluster.nodes.iter().filter(|node| node.settings().boot.value == Boot::Network).collect()
}

/// The text of the lab's own cluster.yaml. It is for the caller to parse it again.
pub fn derive(text: &str, cluster: &Cluster, machines: &[Machine]) -> String {
    let mut nodes = String::from("nodes:\n");
    for node in &cluster.nodes {
        let machine = machines.iter().find(|machine| machine.known && machine.name == node.name);
        // A map of strings and lists: JSON is YAML's flow style.
        let _infallible =
            writeln!(nodes, "  {}: {}", node.name, Value::Object(entry(cluster, node, machine)));
    }
    let (before, after) = around_nodes(text);
    format!("{before}{nodes}{after}")
}

fn entry(cluster: &Cluster, node: &Node, machine: Option<&Machine>) -> Map<String, Value> {
    let mut entry = own_settings(node);
    let mac = node.mac.as_ref().map(|mac| mac.value).or(machine.map(|machine| machine.mac));
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            entry.insert(key.to_owned(), value);
        }
    };
    set("mac", mac.map(|mac| mac.to_string().into()));
    set("uuid", node.uuid.as_ref().map(|uuid| uuid.value.to_string().into()));
    set("address", node.address.as_ref().map(|address| address.value.to_string().into()));
    set("profile", Some(node.choices.iter().map(|choice| choice.profile.clone()).collect::<Vec<_>>().into()));
    if machine.is_some() {
        set("trusted", Some(true.into()));
    }
    let arguments = kernel_args(cluster, node, machine.is_some());
    set("kernel args", (!arguments.is_empty()).then(|| arguments.into()));
    entry
}

/// The node's kernel arguments as changes to those of its profile: lists add up, and `~` takes away.
fn kernel_args(cluster: &Cluster, node: &Node, with_console: bool) -> Vec<String> {
    let whole = &node.settings().kernel_args.value;
    let profile = cluster.profiles.get(&node.choices[0].profile);
    let inherited = profile.map_or(&[][..], |profile| &profile.kernel_args.value);
    let has_console = whole.iter().any(|arg| arg == CONSOLE);
    let taken_away = inherited.iter().filter(|arg| !whole.contains(arg)).map(|arg| format!("~{arg}"));
    let added = whole.iter().filter(|arg| !inherited.contains(arg)).cloned();
    taken_away.chain(added).chain((with_console && !has_console).then(|| CONSOLE.to_owned())).collect()
}

/// What the node's own entry sets on top of its profiles, as it is written there.
fn own_settings(node: &Node) -> Map<String, Value> {
    let Ok(Value::Object(settings)) = serde_json::to_value(node.settings()) else { return Map::new() };
    let said_here = |origin: &Value| origin.get("node").or(origin.get("range")).is_some();
    settings
        .into_iter()
        .filter(|(key, sourced)| key != "kernel_args" && said_here(&sourced["origin"]))
        .map(|(key, mut sourced)| {
            let value = match sourced["value"].take() {
                // A fixed map of members is written as a plain list.
                Value::Object(mut members) if members.contains_key("map") => members["map"].take(),
                value => value,
            };
            (key.replace('_', " "), value)
        })
        .collect()
}

/// The text before and after the `nodes:` part: up to the next key that begins a line.
fn around_nodes(text: &str) -> (&str, &str) {
    let mut offset = 0;
    let mut start = None;
    for line in text.split_inclusive('\n') {
        match start {
            None if line.starts_with("nodes:") => start = Some(offset),
            Some(start) if line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '"' || c == '\'') => {
                return (&text[..start], &text[offset..]);
            }
            _ => {}
        }
        offset += line.len();
    }
    (&text[..start.unwrap_or(text.len())], "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster;
    use crate::lab::machine::Hardware;

    const AULA: &str = include_str!("../../../configs/aula.yaml");

    fn machine(node: &str, last: u8) -> Machine {
        let mac = cluster::Mac([0x52, 0x54, 0, 0, 0, last]);
        let (uuid, port) = (cluster::Uuid([1; 16]), String::new());
        let hardware = Hardware::Namespace("10.0.0.2/24".parse().unwrap());
        Machine { name: node.into(), known: true, mac, uuid, port, hardware }
    }

    #[test]
    fn a_virtual_machine_is_a_node_of_the_file_and_all_else_stays() {
        let given = cluster::parse(AULA, "aula.yaml").unwrap();
        let nodes = network_nodes(&given);
        assert_eq!(nodes[0].name, "firstslave");
        assert!(!nodes.iter().any(|node| node.name == "cristina"));
        let text = derive(AULA, &given, &[machine("n1", 1), machine("n3", 3)]);
        let derived = cluster::parse(&text, "lab").unwrap();
        assert_eq!(derived.nodes.len(), given.nodes.len());
        assert_eq!(derived.pools, given.pools);
        for (before, after) in given.nodes.iter().zip(&derived.nodes) {
            assert_eq!(before.name, after.name);
            let address = |node: &Node| node.address.as_ref().map(|address| address.value);
            assert_eq!(address(before), address(after));
            assert_eq!(before.settings().speed.value, after.settings().speed.value);
        }
        let n3 = derived.node("n3").unwrap();
        assert_eq!(n3.mac.as_ref().unwrap().value.0[5], 3);
        assert!(n3.settings().trusted.value);
        assert_eq!(n3.settings().kernel_args.value, ["mitigations=off", CONSOLE]);
        assert!(derived.node("n2").unwrap().mac.is_none());
        assert!(!derived.node("n2").unwrap().settings().trusted.value);
    }

    #[test]
    fn what_a_node_sets_itself_is_written_again() {
        let text = AULA.replace(
            "profile: fast}",
            "profile: fast, writes: discard, kernel args: [quiet], dns: [10.0.0.1]}",
        );
        let given = cluster::parse(&text, "aula.yaml").unwrap();
        let derived = cluster::parse(&derive(&text, &given, &[machine("n1", 1)]), "lab").unwrap();
        let (before, after) = (given.node("n1").unwrap().settings(), derived.node("n1").unwrap().settings());
        assert_eq!(before.writes.value, after.writes.value);
        assert_eq!(before.dns.value, after.dns.value);
        for arg in ["mitigations=off", "quiet", CONSOLE] {
            assert!(after.kernel_args.value.iter().any(|other| other == arg), "{arg}");
        }
    }
}
