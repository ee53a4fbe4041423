//! The control port: where nodes get their keys signed, and where the agents of members stay connected.
//!
//! One TCP port, TLS 1.3 ([`tesela_runtime::wire`] says what is spoken on it). A caller is the node that
//! holds its address ([`Members::at`]), or nobody:
//!
//! - **Enrolment** takes a source port below 1024, which only root on that node can have, and a token
//!   ([`Keys::enroll`]).
//! - **An agent** shows the certificate that this node got last. A later connection of the same node, or
//!   its next enrolment, takes the place of the one before. A node that no longer holds its address is dropped at its next
//!   heartbeat.
//! - **A machine that the master does not boot** (`boot: disk`) is known by its token when it joins, and by its certificate
//!   from then on, wherever it calls from: it holds that address then. It is told the nodes, for it has no root of the
//!   master's to find them in.
//!
//! # Limits
//! [`STRANGERS`] connections that have not yet said who they are, [`STRANGERS_EACH`] from one address,
//! each for [`PATIENCE`] at most, or a second after it was turned away; one agent a node; 64 KiB a message. Who stays silent for three
//! [`HEARTBEAT`]s is gone. With the master stopped, agents come back by themselves, and nothing else on
//! their nodes notices.

mod agents;
mod enroll;
mod metrics;
mod server;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tesela_runtime::agent::Peer;
use tesela_runtime::wire::{FrameError, Heartbeat, Hello};

pub use agents::{Agents, AskError};
pub use metrics::Metrics;
pub use server::serve;

use crate::keys::Keys;

/// Between two heartbeats of an agent.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a caller may take to say who it is, and any one message to be sent.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How many callers may be about to say who they are, at once.
pub const STRANGERS: usize = 512;
/// How many of these from one address.
pub const STRANGERS_EACH: usize = 8;

/// A node as the cluster has it at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What else it is called by; name, full name and address are the principals of its ssh host
    /// certificate.
    pub names: Vec<String>,
    /// It boots from its own disk, and has joined or is about to.
    pub joins: bool,
}

/// What the control port asks and tells. No call may block, save for a lock held for a moment.
pub trait Members: Send + Sync + 'static {
    /// The node that holds this address, if there is one.
    fn at(&self, address: Ipv4Addr) -> Option<Member>;
    /// The master's own address, where it is a member itself.
    fn master(&self) -> Option<Ipv4Addr>;
    /// The node of this name, where it boots from its own disk and may be at this address: a machine joins as it, or has.
    fn joining(&self, node: &str, address: Ipv4Addr) -> Option<Member>;
    /// The configuration of the agent of a node that has joined; `Err` says what is wrong with its template.
    fn agent_config(&self, node: &str) -> Result<String, String>;
    /// The nodes of the cluster, for one that has joined; `None`: it finds them in its root.
    fn peers(&self, node: &str) -> Option<Vec<Peer>>;
    /// The node's keys were signed for this boot.
    fn enrolled(&self, node: &str);
    /// A caller was turned away; `node` where the address is one's.
    fn refused(&self, address: Ipv4Addr, node: Option<&str>, reason: &str);
    /// The node's agent is connected: it is a member.
    fn joined(&self, node: &str, address: Ipv4Addr, hello: &Hello);
    /// It is alive.
    fn heartbeat(&self, node: &str, heartbeat: &Heartbeat);
    /// Its agent's connection ended, and no other one has taken its place.
    fn gone(&self, node: &str, reason: &str);
}

/// What the control port works with.
pub struct Control {
    /// The cluster's keys.
    pub keys: Arc<Keys>,
    /// The TLS side: [`Keys::server_config`].
    pub tls: Arc<ServerConfig>,
    /// The cluster.
    pub members: Arc<dyn Members>,
    /// The agents that are connected; a handle to talk to them is a clone of this.
    pub agents: Agents,
    /// Figures.
    pub metrics: Metrics,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the agent is silent")]
    Silent,
    #[error("the agent closed the connection")]
    Closed,
    #[error("the node no longer holds its address")]
    NotAMember,
    /// By a later connection of the same node, or because it boots anew.
    #[error("the node has connected anew")]
    Replaced,
    #[error("the agent did not begin with hello")]
    NoHello,
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        FrameError::Io(error).into()
    }
}

#[cfg(test)]
mod tests;
