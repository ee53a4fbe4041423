//! The cluster.yaml of the lab: the given one, in which each virtual machine is one of its nodes.
//!
//! Of each node that is a machine three things are said: the machine's hardware address where the file has
//! none, what its kernel is to be told here, and `trusted`, as lab nodes are. All else stays as it was written,
//! ranges among it: nodes of them can still be given to unknown machines.

use super::Error;
use super::machine::Machine;
use crate::cluster::{Amendment, Boot, Cluster, Node, Said, amend_nodes};

/// What the kernel of a virtual machine is told: its console is the serial line; and an emulated processor may stand still
/// while the kernel compares its clocks, which that takes for a broken timer.
const ARGS: [&str; 2] = ["console=ttyS0", "no_timer_check"];

/// The nodes that a lab can run: those that boot over the network, in the order of the file.
pub fn network_nodes(cluster: &Cluster) -> Vec<&Node> {
    cluster.nodes.iter().filter(|node| node.settings().boot.value == Boot::Network).collect()
}

/// The text of the lab's own cluster.yaml. It is for the caller to parse it again.
pub fn derive(text: &str, cluster: &Cluster, machines: &[Machine]) -> Result<String, Error> {
    let known = machines.iter().filter(|machine| machine.known);
    let amendments = known.filter_map(|machine| Some(amendment(cluster.node(&machine.name)?, machine)));
    let amendments: Vec<Amendment> = amendments.collect();
    amend_nodes(text, &amendments).map_err(|error| Error::Derive(error.to_string()))
}

fn amendment(node: &Node, machine: &Machine) -> Amendment {
    let settings = node.settings();
    let mac = node.mac.is_none().then(|| ("mac", Said::Value(machine.mac.to_string())));
    let trusted = (!settings.trusted.value).then(|| ("trusted", Said::Value("true".to_owned())));
    let is_said = |wanted: &&str| settings.kernel_args.value.iter().any(|arg| arg == wanted);
    let missing: Vec<&str> = ARGS.into_iter().filter(|wanted| !is_said(wanted)).collect();
    let args = (!missing.is_empty()).then_some(("kernel args", Said::Items(missing)));
    Amendment { node: node.name.clone(), settings: mac.into_iter().chain(trusted).chain(args).collect() }
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
        let hardware =
            Hardware::Namespace("10.0.0.2/24".parse().unwrap(), crate::lab::node::Quota::default());
        Machine { name: node.into(), known: true, mac, uuid, port, hardware }
    }

    #[test]
    fn a_virtual_machine_is_a_node_of_the_file_and_all_else_stays() {
        let given = cluster::parse(AULA, "aula.yaml").unwrap();
        let nodes = network_nodes(&given);
        assert_eq!(nodes[0].name, "firstslave");
        assert!(!nodes.iter().any(|node| node.name == "cristina"));
        let text = derive(AULA, &given, &[machine("n1", 1), machine("n3", 3)]).unwrap();
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
        assert_eq!(n3.settings().kernel_args.value, ["mitigations=off", ARGS[0], ARGS[1]]);
        assert!(derived.node("n2").unwrap().mac.is_none());
        assert!(!derived.node("n2").unwrap().settings().trusted.value);
        // What was written stays, and nodes of a range can still be given a machine.
        assert!(AULA.lines().all(|line| text.lines().any(|other| other == line)), "{text}");
        assert!(crate::boot::is_free(derived.node("n2").unwrap()) && !crate::boot::is_free(n3));
        assert_eq!(derive(&text, &derived, &[machine("n1", 1), machine("n3", 3)]).unwrap(), text);
    }

    #[test]
    fn what_a_node_sets_itself_is_written_again() {
        let text = AULA.replace(
            "profile: fast}",
            "profile: fast, writes: discard, kernel args: [quiet], dns: [10.0.0.1]}",
        );
        let given = cluster::parse(&text, "aula.yaml").unwrap();
        let derived = derive(&text, &given, &[machine("n1", 1)]).unwrap();
        let derived = cluster::parse(&derived, "lab").unwrap();
        let (before, after) = (given.node("n1").unwrap().settings(), derived.node("n1").unwrap().settings());
        assert_eq!(before.writes.value, after.writes.value);
        assert_eq!(before.dns.value, after.dns.value);
        for arg in ["mitigations=off", "quiet", ARGS[0], ARGS[1]] {
            assert!(after.kernel_args.value.iter().any(|other| other == arg), "{arg}");
        }
    }
}
