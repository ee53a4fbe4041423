//! The nodes of the cluster, as the master lists them in `/etc/tesela/peers.json`.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its number: its place in cluster.yaml, from 1 on.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its address, where it is known.
    pub address: Option<Ipv4Addr>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(pub Vec<Peer>);

impl Peers {
    /// The node that a user means: by its name, its number or its address.
    pub fn find(&self, word: &str) -> Option<&Peer> {
        let by_name = self.0.iter().find(|peer| peer.name == word);
        by_name.or_else(|| {
            let (id, address) = (word.parse::<u32>().ok(), word.parse::<Ipv4Addr>().ok());
            self.0.iter().find(|peer| id == Some(peer.id) || (address.is_some() && peer.address == address))
        })
    }

    /// The node of this name.
    pub fn named(&self, name: &str) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_name_number_and_address() {
        let peer = |id, name: &str, address: Option<&str>| Peer {
            id,
            name: name.into(),
            address: address.map(|text| text.parse().unwrap()),
        };
        let peers = Peers(vec![peer(1, "n1", None), peer(2, "n2", Some("10.0.0.2")), peer(3, "2", None)]);
        let found = |word| peers.find(word).map(|peer| peer.id);
        assert_eq!(["n1", "1", "n2", "10.0.0.2", "3"].map(found), [1, 1, 2, 2, 3].map(Some));
        // A name wins over a number.
        assert_eq!(found("2"), Some(3));
        assert_eq!(["n4", "4", "10.0.0.3", "", "-1"].map(found), [None; 5]);
    }
}
