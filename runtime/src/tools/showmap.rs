//! `showmap`: the map of the cluster, as openMosix shows it.

use std::path::PathBuf;

use super::{Ended, ask, other, wants_help};
use crate::wire::local::{Answer, Node, Request, SOCKET};

const USAGE: &str = "\
usage: showmap [--socket PATH]
Shows this node's number, and the numbers and addresses of all nodes that are there.
Exit status: 0 done, 1 not done, 2 wrong usage.";

/// The tool.
pub fn run(words: &[String]) -> Ended {
    if wants_help(words) {
        return Ended::Done(USAGE.to_owned());
    }
    let socket = match words {
        [] => PathBuf::from(SOCKET),
        [option, path] if option == "--socket" => path.into(),
        [word, ..] => return Ended::Usage(format!("`{word}` is not expected\n{USAGE}")),
    };
    match ask(&socket, &Request::Nodes {}) {
        Ok(Answer::Nodes { own, nodes, .. }) => {
            let first = nodes.iter().filter(|node| node.id == own);
            let others = nodes.iter().filter(|node| node.id != own);
            Ended::Done(format!("My Node-Id: {own:#06x}\n\n{}", table(first.chain(others))))
        }
        Ok(answer) => other(&answer),
        Err(ended) => ended,
    }
}

fn table<'a>(nodes: impl Iterator<Item = &'a Node>) -> String {
    let rows = nodes.map(|node| format!("{:#06x}       {:<16} 1", node.id, node.address));
    let head = ["Base Node-Id Address          Count".to_owned(), "-".repeat(36)];
    head.into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::NodeId;

    #[test]
    fn the_map_looks_as_in_the_manual() {
        let node = |address: &str| {
            let address = address.parse().unwrap();
            Node {
                id: NodeId::from(address),
                name: None,
                address,
                up: true,
                age_ms: None,
                load: None,
                multicast: None,
            }
        };
        let nodes = [node("192.168.10.220"), node("192.168.10.78")];
        assert_eq!(
            table(nodes.iter()),
            "Base Node-Id Address          Count\n\
             ------------------------------------\n\
             0x0adc       192.168.10.220   1\n\
             0x0a4e       192.168.10.78    1"
        );
    }
}
