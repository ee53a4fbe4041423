//! Machines become nodes: written into cluster.yaml, and put in force.

use std::net::Ipv4Addr;

use crate::cluster::{InsertError, Mac, NameError, NewNode, NodeSet, insert_nodes};

use super::{ApplyError, Site, replace_file};

/// Why no machine became a node: cluster.yaml is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The names are none.
    #[error("{0}")]
    Names(#[from] NameError),
    /// More names than machines.
    #[error(
        "{names} nodes are asked for and {machines} unknown machines were seen; `tesela node list --unknown` shows them"
    )]
    TooFew {
        /// Names given.
        names: usize,
        /// Machines there are.
        machines: usize,
    },
    /// A name is in use.
    #[error("{0} is a node already")]
    Taken(String),
    /// No profile can be guessed.
    #[error("say which profile with --profile: the cluster has {0}")]
    Profile(String),
    /// The addresses run out.
    #[error("there is no address after {0}")]
    Address(Ipv4Addr),
    /// The text takes no line.
    #[error("{0}")]
    Insert(#[from] InsertError),
    /// Someone changed the file meanwhile.
    #[error("{0} was changed while the nodes were put in; nothing was written: look at it, and try again")]
    Changed(String),
    /// The rest of putting it in force.
    #[error("{0}")]
    Apply(#[from] ApplyError),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Acceptance<'a> {
    /// A name, or a range as `n[1-40]`.
    pub nodes: &'a str,
    /// These machines in this order; empty: unknown ones in the order of arrival.
    pub macs: &'a [Mac],
    /// Their profile.
    pub profile: Option<&'a str>,
    /// The first one's address, counting up.
    pub address: Option<Ipv4Addr>,
}

impl Site {
    /// Makes machines nodes: one line each in cluster.yaml, and in force. All of them or none.
    pub fn accept(&self, wanted: &Acceptance<'_>) -> Result<Vec<(String, Mac)>, AcceptError> {
        let names: NodeSet = wanted.nodes.parse()?;
        let names = names.names();
        let macs: Vec<Mac> = match wanted.macs {
            [] => self.unknown_machines().iter().map(|machine| machine.mac).collect(),
            given => given.to_vec(),
        };
        if macs.len() < names.len() {
            return Err(AcceptError::TooFew { names: names.len(), machines: macs.len() });
        }
        let generation = self.current();
        if let Some(taken) = names.iter().find(|name| generation.cluster.node(name).is_some()) {
            return Err(AcceptError::Taken(taken.clone()));
        }
        let profile = self.profile_for(wanted.profile)?;
        let mut nodes = Vec::new();
        for (i, (name, mac)) in names.iter().zip(&macs).enumerate() {
            let address = wanted.address.map(|first| {
                let step = u32::try_from(i).ok();
                step.and_then(|step| first.to_bits().checked_add(step))
                    .map(Ipv4Addr::from_bits)
                    .ok_or(AcceptError::Address(first))
            });
            nodes.push(NewNode {
                name: name.clone(),
                mac: Some(*mac),
                uuid: None,
                address: address.transpose()?,
                profile: profile.clone(),
            });
        }
        let path = &self.paths().config;
        let read = || {
            std::fs::read_to_string(path).map_err(|source| ApplyError::Read { path: path.clone(), source })
        };
        let before = read()?;
        let after = insert_nodes(&before, &nodes)?;
        if read()? != before {
            return Err(AcceptError::Changed(path.display().to_string()));
        }
        replace_file(path, after.as_bytes())
            .map_err(|source| ApplyError::Write { path: path.clone(), source })?;
        self.apply()?;
        Ok(nodes.into_iter().map(|node| node.name).zip(macs).collect())
    }

    fn profile_for(&self, wanted: Option<&str>) -> Result<String, AcceptError> {
        let cluster = &self.current().cluster;
        let only = || match cluster.profiles.len() {
            1 => cluster.profiles.keys().next().cloned(),
            _ => None,
        };
        wanted.map(str::to_owned).or_else(|| cluster.master.unknown_profile.clone()).or_else(only).ok_or_else(
            || AcceptError::Profile(cluster.profiles.keys().cloned().collect::<Vec<_>>().join(", ")),
        )
    }
}
