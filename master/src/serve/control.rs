//! Enrolment and agents, over the site.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tesela_runtime::agent::{Config, Peer};
use tesela_runtime::wire::{Heartbeat, Hello};

use super::own_agent;
use crate::boot::{Site, Tokens, neighbour};
use crate::cluster::Node;
use crate::control::{Agents, Member, Members};
use crate::inventory::{Stage, Timestamp, Vitals};
use crate::keys::Keys;
use crate::render::Content;

/// How long a node's kernel has to look again.
const REFRESH_PATIENCE: Duration = Duration::from_secs(10);

/// The cluster's keys as the seam's tokens.
pub(super) struct TokensOf(pub(super) Arc<Keys>);

impl Tokens for TokensOf {
    fn issue(&self, node: &str, address: Option<Ipv4Addr>) -> String {
        self.0.issue_token(node, address)
    }

    fn issue_join(&self, node: &str) -> String {
        self.0.issue_join_token(node)
    }

    fn fetched(&self, node: &str) {
        self.0.fetched(node);
    }
}

/// The site as the control port asks it.
pub(super) struct MembersOf(pub(super) Arc<Site>);

impl MembersOf {
    fn member(&self, name: String, address: Ipv4Addr, joins: bool) -> Member {
        let cluster = &self.0.current().cluster.name;
        Member { names: vec![name.clone(), format!("{name}.{cluster}"), address.to_string()], name, joins }
    }
}

impl Members for MembersOf {
    fn at(&self, address: Ipv4Addr) -> Option<Member> {
        let name = self.0.node_at(address)?;
        let joins = self.0.current().node(&name).is_some_and(Node::has_own_system);
        Some(self.member(name, address, joins))
    }

    fn joining(&self, node: &str, address: Ipv4Addr) -> Option<Member> {
        let generation = self.0.current();
        let node = generation.node(node).filter(|node| node.has_own_system())?;
        // Not at the address of another one, which hangs on it.
        let here = self.0.node_at(address).is_none_or(|other| other == node.name)
            && node.address.as_ref().is_none_or(|fixed| fixed.value == address);
        here.then(|| self.member(node.name.clone(), address, true))
    }

    fn agent_config(&self, node: &str) -> Result<String, String> {
        let node = self.0.current().node(node).cloned().ok_or("it is no node any more")?;
        let files = self.0.rendered(&node).map_err(|error| error.to_string())?;
        let config = files.into_iter().find_map(|file| match file.content {
            Content::File(octets) if file.path == Config::PATH => String::from_utf8(octets.to_vec()).ok(),
            _ => None,
        });
        config.ok_or_else(|| format!("no template renders {}", Config::PATH))
    }

    fn peers(&self, node: &str) -> Option<Vec<Peer>> {
        let generation = self.0.current();
        generation.node(node).filter(|node| node.has_own_system())?;
        Some(own_agent::peers(&generation))
    }

    fn master(&self) -> Option<Ipv4Addr> {
        let master = &self.0.current().cluster.master;
        master.member.then(|| master.address.addr())
    }

    fn enrolled(&self, node: &str) {
        self.0.inventory.event(Some(node), None, None, "its keys were signed".into());
    }

    fn refused(&self, address: Ipv4Addr, node: Option<&str>, reason: &str) {
        let text = format!("{address} was refused at the control port: {reason}");
        self.0.inventory.event(node, None, None, text);
    }

    fn joined(&self, node: &str, address: Ipv4Addr, hello: &Hello) {
        let state = self.0.inventory.node(node);
        let joined =
            self.0.current().node(node).is_some_and(|node| node.has_own_system() && node.address.is_none());
        if joined {
            self.0.hold(node, address, None);
        }
        let mac = state.and_then(|state| state.mac).or_else(|| {
            let generation = self.0.current();
            generation.node(node).and_then(|node| node.mac.as_ref()).map(|mac| mac.value)
        });
        // A machine that nobody has seen boot is known by what it is called on the network.
        let mac = mac.or_else(|| neighbour(address.into()));
        let what = format!("is a member ({}, {})", hello.kernel, hello.version);
        self.0.inventory.joined(node, mac, address, &what);
        self.0.inventory.agent_is(node, &hello.version);
    }

    fn heartbeat(&self, node: &str, heartbeat: &Heartbeat) {
        let Heartbeat { load_hundredths, memory_total_kib, memory_available_kib, uptime_seconds, clock_ms } =
            *heartbeat;
        let ahead_ms = clock_ms.map(|clock| clock.saturating_sub(Timestamp::now().0));
        let vitals =
            Vitals { load_hundredths, memory_total_kib, memory_available_kib, uptime_seconds, ahead_ms };
        self.0.inventory.heard(node, vitals);
    }

    fn gone(&self, node: &str, reason: &str) {
        self.0.inventory.lost(node, &format!("its agent is gone: {reason}"));
    }
}

/// Has nodes look again at what changed in their roots, each in its own time.
pub(super) fn refresh(site: &Arc<Site>, agents: &Agents) -> super::roots::Refresh {
    let (site, agents, runtime) = (Arc::clone(site), agents.clone(), tokio::runtime::Handle::current());
    Box::new(move |node, paths| {
        let (site, agents, node) = (Arc::clone(&site), agents.clone(), node.to_owned());
        runtime.spawn(async move {
            let told = match agents.refresh(&node, paths.iter().cloned(), REFRESH_PATIENCE).await {
                Ok(()) => format!("sees what changed in {}", paths.join(", ")),
                // A node that does not run sees everything when it boots.
                Err(error)
                    if site.inventory.node(&node).is_some_and(|state| state.stage == Stage::Member) =>
                {
                    format!("may see what changed in {} late: {error}", paths.join(", "))
                }
                Err(_) => return,
            };
            site.inventory.event(Some(&node), None, None, told);
        });
    })
}
