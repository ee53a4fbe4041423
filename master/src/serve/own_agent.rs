//! What the master's own agent is told (`master: {member: true}`): its keys, its configuration and the list of nodes, as
//! a node has them of stage1 and of its templates.
//!
//! The agent is root's, and another service (`tesela-member.service`). It reads what this one leaves beside the socket, in
//! memory, and keeps its own files in a directory of root's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tesela_runtime::agent::{Config, Peer};
use tesela_runtime::enroll::KeyError;

use crate::boot::{CONTROL_PORT, Generation, Site, context};
use crate::cluster::Share;
use crate::keys::{self, Keys};

/// Where root's agent keeps its own files, beside the directory that this service writes.
const KEPT: &str = "agent";

/// Why the master is no member.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("a node has the master's own name, {0}: give one of them another")]
    Name(String),
    #[error(transparent)]
    Sign(#[from] keys::Error),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Leaves it in `directory`, now and with each generation. Where that cannot be, the master is no member, and says so.
pub(super) fn tell(site: &Arc<Site>, keys: &Keys, directory: PathBuf) {
    let told = take_away(&directory).and_then(|()| {
        if site.current().cluster.master.member { begin(site, keys, &directory) } else { Ok(false) }
    });
    let problem = match told {
        Ok(false) => return,
        Ok(true) => None,
        Err(problem) => Some(problem),
    };
    if let Some(problem) = problem {
        let what = format!("the master is no member itself: {problem}");
        tracing::error!("{what}");
        site.inventory.event(None, None, None, what);
        return;
    }
    site.tell(move |generation| {
        if let Err(problem) = write_peers(generation, &directory) {
            tracing::error!(%problem, "the master's own agent goes on with the nodes that it knows");
        }
    });
}

/// What an earlier run has left would be taken for this one's.
fn take_away(directory: &Path) -> Result<(), Problem> {
    let file = directory.join("teselad.json");
    match fs::remove_file(&file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Problem::Write { path: file, source }),
        _ => Ok(()),
    }
}

fn begin(site: &Site, keys: &Keys, directory: &Path) -> Result<bool, Problem> {
    let generation = site.current();
    let master = &generation.cluster.master;
    let node = context::master_name();
    if generation.node(&node).is_some() {
        return Err(Problem::Name(node));
    }
    let address = master.address.addr();
    keys.own(&node, address)?.store(directory)?;
    write_peers(&generation, directory)?;
    let beside = directory.parent().unwrap_or(directory);
    let config = Config {
        cluster: generation.cluster.name.clone(),
        node,
        master: address,
        control_port: CONTROL_PORT,
        http_port: master.http_port,
        keys: directory.to_owned(),
        kept: Some(beside.join(KEPT)),
        hpc: Some(tesela_runtime::hpc::PLACE.into()),
        address: Some(address),
        agents_port: tesela_runtime::wire::AGENTS_PORT,
        // Whoever rules a node could do as root here what a process of root's from there does.
        trusted: false,
        speed: None,
        share: Share::Always,
        peers: directory.join("peers.json"),
    };
    // Last: with it the agent begins.
    write(directory, "teselad.json", &config)?;
    Ok(true)
}

fn write_peers(generation: &Generation, directory: &Path) -> Result<(), Problem> {
    write(directory, "peers.json", &peers(generation))
}

/// The members of the cluster.
pub(super) fn peers(generation: &Generation) -> Vec<Peer> {
    let master = &generation.cluster.master;
    let own = Peer { name: context::master_name(), address: Some(master.address.addr()) };
    let node = |node| generation.address_of(node);
    let nodes = generation.nodes().iter().map(|it| Peer { name: it.name.clone(), address: node(it) });
    master.member.then_some(own).into_iter().chain(nodes).collect()
}

/// Whoever reads it finds the old one or the new one.
fn write(directory: &Path, name: &str, content: &impl serde::Serialize) -> Result<(), Problem> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = serde_json::to_vec_pretty(content)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&new, text))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|source| Problem::Write { path, source })
}
