//! Machines become nodes: written into cluster.yaml, and put in force.

use std::net::Ipv4Addr;

use tesela_runtime::durable;

use crate::cluster::{Cluster, InsertError, Mac, NameError, NewNode, Node, NodeSet, Origin, insert_nodes};

use super::{ApplyError, Generation, Site};

/// Why no machine became a node: cluster.yaml is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The names are none.
    #[error("{0}")]
    Names(#[from] NameError),
    /// More names than machines.
    #[error(
        "{names} nodes are to be given a machine and {machines} unknown machines were seen; `tesela node list --unknown` shows them{hint}"
    )]
    TooFew {
        /// Names without a machine.
        names: usize,
        /// Machines there are.
        machines: usize,
        /// The nodes that would do.
        hint: String,
    },
    /// More machines than names.
    #[error("{machines} machines are named, and {nodes} is {names} without one")]
    TooMany {
        /// What was asked for.
        nodes: String,
        /// Nodes of it that have no machine.
        names: usize,
        /// Machines given.
        machines: usize,
    },
    /// The one name, or all of them, cannot be given a machine.
    #[error("{0}")]
    Passed(Passed),
    /// No profile can be guessed.
    #[error("say which profile with --profile: the cluster has {0}")]
    Profile(String),
    /// Nothing would come of what was given.
    #[error(
        "{flag} would change nothing: cluster.yaml says it for {nodes} already; leave it out, or edit the file"
    )]
    Idle {
        /// `--profile` or `--address`.
        flag: &'static str,
        /// For which nodes.
        nodes: NodeSet,
    },
    /// The addresses run out.
    #[error("there is no address after {0}")]
    Address(Ipv4Addr),
    /// The text takes no line.
    #[error("{0}")]
    Insert(#[from] InsertError),
    /// The file is not what is in force.
    #[error(
        "{0} was edited and not applied; nothing was written: `tesela plan` shows the difference, `tesela apply` puts it in force"
    )]
    Edited(String),
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
    /// The profile of those that cluster.yaml gives none.
    pub profile: Option<&'a str>,
    /// The first one's address, counting up with the names; for those that cluster.yaml gives none.
    pub address: Option<Ipv4Addr>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptances {
    /// Each node with its machine.
    pub nodes: Vec<(String, Mac)>,
    /// Those that were passed over.
    pub passed: Vec<Passed>,
    /// The generation now in force.
    pub generation: u64,
}

/// Nodes that can be given no machine, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{nodes} {why}")]
pub struct Passed {
    /// Which.
    pub nodes: NodeSet,
    /// Why, as the end of a sentence.
    pub why: String,
}

impl Site {
    /// Gives nodes their machines: one line each in cluster.yaml, and in force; all of it or nothing.
    ///
    /// A name that cluster.yaml does not have is a new node. A node of a range keeps all that the range
    /// says of it. A node that is bound to a machine is passed over; alone, it is an error.
    ///
    /// # Errors
    /// [`AcceptError`]; nothing is changed then.
    pub fn accept(&self, wanted: &Acceptance<'_>) -> Result<Acceptances, AcceptError> {
        let names: NodeSet = wanted.nodes.parse()?;
        let _one = self.one_change();
        let now = self.current();
        let (free, passed) = sort_out(&now.cluster, &names);
        if let (true, Some(first)) = (free.is_empty(), passed.first()) {
            return Err(AcceptError::Passed(first.clone()));
        }
        let macs = self.machines_for(wanted, &free)?;
        let nodes = self.new_nodes(&now, wanted, &free, &macs)?;
        let next = self.write_nodes(&now, &nodes)?;
        let generation = self.put_in_force(next)?.number;
        let nodes = nodes.into_iter().map(|node| node.name).zip(macs).collect();
        Ok(Acceptances { nodes, passed, generation })
    }

    fn machines_for(&self, wanted: &Acceptance<'_>, free: &[Free<'_>]) -> Result<Vec<Mac>, AcceptError> {
        let mut macs: Vec<Mac> = match wanted.macs {
            [] => self.unknown_machines().iter().map(|machine| machine.mac).collect(),
            given => given.to_vec(),
        };
        let (names, machines) = (free.len(), macs.len());
        if machines < names {
            let enough: NodeSet = free[..machines].iter().map(|free| free.name).collect();
            let hint = if machines == 0 { String::new() } else { format!("; {enough} would do") };
            return Err(AcceptError::TooFew { names, machines, hint });
        }
        if machines > names && !wanted.macs.is_empty() {
            return Err(AcceptError::TooMany { nodes: wanted.nodes.to_owned(), names, machines });
        }
        macs.truncate(names);
        Ok(macs)
    }

    fn new_nodes(
        &self,
        now: &Generation,
        wanted: &Acceptance<'_>,
        free: &[Free<'_>],
        macs: &[Mac],
    ) -> Result<Vec<NewNode>, AcceptError> {
        let all = || free.iter().map(|free| free.name).collect();
        let takes_profile = free.iter().any(|free| free.of_range.is_none());
        let takes_address = |free: &Free<'_>| free.of_range.is_none_or(|node| node.address.is_none());
        if wanted.profile.is_some() && !takes_profile {
            return Err(AcceptError::Idle { flag: "--profile", nodes: all() });
        }
        if wanted.address.is_some() && !free.iter().any(takes_address) {
            return Err(AcceptError::Idle { flag: "--address", nodes: all() });
        }
        let profile = takes_profile.then(|| profile_for(&now.cluster, wanted.profile)).transpose()?;
        let node = |(free, mac): (&Free<'_>, &Mac)| -> Result<NewNode, AcceptError> {
            let address = wanted.address.filter(|_| takes_address(free));
            Ok(NewNode {
                name: free.name.to_owned(),
                mac: Some(*mac),
                uuid: None,
                address: address.map(|first| counted_up(first, free.place)).transpose()?,
                profile: profile.clone().filter(|_| free.of_range.is_none()),
            })
        };
        free.iter().zip(macs).map(node).collect()
    }

    /// The generation with these nodes, which cluster.yaml now has.
    fn write_nodes(&self, now: &Generation, nodes: &[NewNode]) -> Result<Generation, AcceptError> {
        let path = &self.paths().config;
        let read = || {
            std::fs::read_to_string(path).map_err(|source| ApplyError::Read { path: path.clone(), source })
        };
        let before = read()?;
        if before != now.text {
            return Err(AcceptError::Edited(path.display().to_string()));
        }
        let after = insert_nodes(&before, nodes)?;
        let next = self.prepare(after.clone())?;
        if read()? != before {
            return Err(AcceptError::Changed(path.display().to_string()));
        }
        durable::replace(path, after.as_bytes(), None)
            .map_err(|source| ApplyError::Write { path: path.clone(), source })?;
        Ok(next)
    }
}

/// Whether a node of cluster.yaml can be given a machine: one of a range that is bound to none.
pub fn is_free(node: &Node) -> bool {
    node.mac.is_none() && node.uuid.is_none() && matches!(node.entry, Origin::Range(_))
}

/// A name that can be given a machine.
struct Free<'a> {
    name: &'a str,
    /// Its place among the names that were given, from 0.
    place: usize,
    /// The node of a range that it is already.
    of_range: Option<&'a Node>,
}

fn sort_out<'a>(cluster: &'a Cluster, names: &'a NodeSet) -> (Vec<Free<'a>>, Vec<Passed>) {
    let (mut free, mut bound, mut passed) = (Vec::new(), Vec::new(), Vec::new());
    let by_name: std::collections::HashMap<&str, &Node> =
        cluster.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    for (place, name) in names.names().iter().enumerate() {
        let of_range = by_name.get(name.as_str()).copied();
        match of_range {
            Some(node) if node.mac.is_some() || node.uuid.is_some() => bound.push(name),
            Some(Node { entry: Origin::Node(line), .. }) => passed.push(Passed {
                nodes: [name].into_iter().collect(),
                why: format!("has an entry of its own without a machine: add `mac:` to it, at line {line}"),
            }),
            _ => free.push(Free { name, place, of_range }),
        }
    }
    if !bound.is_empty() {
        let why = match bound[..] {
            [one] => of_machine(by_name[one.as_str()]),
            _ => "are bound to machines already".to_owned(),
        };
        passed.insert(0, Passed { nodes: bound.into_iter().collect(), why });
    }
    (free, passed)
}

/// What a bound node is bound to.
fn of_machine(node: &Node) -> String {
    let known = node.mac.as_ref().map(|mac| (mac.value.to_string(), &mac.origin));
    let known = known.or(node.uuid.as_ref().map(|uuid| (uuid.value.to_string(), &uuid.origin)));
    known.map_or_else(String::new, |(machine, origin)| {
        format!("is bound to {machine} already ({origin}); to give it another machine, change that line")
    })
}

fn counted_up(first: Ipv4Addr, place: usize) -> Result<Ipv4Addr, AcceptError> {
    let address = u32::try_from(place).ok().and_then(|place| first.to_bits().checked_add(place));
    address.map(Ipv4Addr::from_bits).ok_or(AcceptError::Address(first))
}

fn profile_for(cluster: &Cluster, wanted: Option<&str>) -> Result<String, AcceptError> {
    let only = || match cluster.profiles.len() {
        1 => cluster.profiles.keys().next().cloned(),
        _ => None,
    };
    wanted
        .map(str::to_owned)
        .or_else(|| cluster.master.unknown_profile.clone())
        .or_else(only)
        .ok_or_else(|| AcceptError::Profile(cluster.profiles.keys().cloned().collect::<Vec<_>>().join(", ")))
}
