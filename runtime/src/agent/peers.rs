//! The nodes of the cluster, as the master lists them in `/etc/tesela/peers.json`, or says by the agent's channel to one
//! that it does not boot.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::discovery::NodeId;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its address, where it is known.
    pub address: Option<Ipv4Addr>,
}

impl Peer {
    /// Its number, where its address is known.
    pub fn id(&self) -> Option<NodeId> {
        self.address.map(NodeId::from)
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(pub Vec<Peer>);

impl Peers {
    /// The node that a user means: by its name, its number or its address.
    pub fn find(&self, word: &str) -> Option<&Peer> {
        let by_name = self.0.iter().find(|peer| peer.name == word);
        by_name.or_else(|| {
            let (id, address) = (word.parse::<NodeId>().ok(), word.parse::<Ipv4Addr>().ok());
            let is = |peer: &Peer| {
                (id.is_some() && peer.id() == id) || (address.is_some() && peer.address == address)
            };
            self.0.iter().find(|peer| is(peer))
        })
    }

    /// The node of this address.
    pub fn at(&self, address: Ipv4Addr) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.address == Some(address))
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
        let peer = |name: &str, address: Option<&str>| Peer {
            name: name.into(),
            address: address.map(|text| text.parse().unwrap()),
        };
        let peers = Peers(vec![peer("n1", None), peer("n2", Some("10.0.0.2")), peer("2", None)]);
        let found = |word| peers.find(word).map(|peer| peer.name.as_str());
        assert_eq!(["n1", "n2", "10.0.0.2", "0x2"].map(found), ["n1", "n2", "n2", "n2"].map(Some));
        // A name wins over a number.
        assert_eq!(found("2"), Some("2"));
        assert_eq!(["n4", "4", "10.0.0.3", "", "-1"].map(found), [None; 5]);
    }
}
