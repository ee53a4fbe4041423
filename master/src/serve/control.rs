//! Enrolment and agents, over the site.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tesela_runtime::wire::{Heartbeat, Hello};

use crate::boot::{Site, Tokens};
use crate::control::{Agents, Member, Members};
use crate::inventory::{Stage, Vitals};
use crate::keys::Keys;

/// How long a node's kernel has to look again.
const REFRESH_PATIENCE: Duration = Duration::from_secs(10);

/// The cluster's keys as the seam's tokens.
pub(super) struct TokensOf(pub(super) Arc<Keys>);

impl Tokens for TokensOf {
    fn issue(&self, node: &str, address: Option<Ipv4Addr>) -> String {
        self.0.issue_token(node, address)
    }

    fn fetched(&self, node: &str) {
        self.0.fetched(node);
    }
}

/// The site as the control port asks it.
pub(super) struct MembersOf(pub(super) Arc<Site>);

impl Members for MembersOf {
    fn at(&self, address: Ipv4Addr) -> Option<Member> {
        let name = self.0.node_at(address)?;
        let cluster = &self.0.current().cluster.name;
        Some(Member { names: vec![name.clone(), format!("{name}.{cluster}"), address.to_string()], name })
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
        let mac = state.and_then(|state| state.mac).or_else(|| {
            let generation = self.0.current();
            generation.node(node).and_then(|node| node.mac.as_ref()).map(|mac| mac.value)
        });
        let Some(mac) = mac else { return };
        let machine = self.0.sighting(mac, None, Some(address));
        let what = format!("is a member ({}, {})", hello.kernel, hello.version);
        self.0.inventory.reached(node, Stage::Member, &machine, &what);
    }

    fn heartbeat(&self, node: &str, heartbeat: &Heartbeat) {
        let Heartbeat { load_hundredths, memory_total_kib, memory_available_kib, uptime_seconds } =
            *heartbeat;
        let vitals = Vitals { load_hundredths, memory_total_kib, memory_available_kib, uptime_seconds };
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
