//! How far a node's boot has come.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The stages of a boot, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Switched on by us; nothing heard yet.
    Powered,
    /// The firmware asked for an address.
    Dhcp,
    /// The firmware fetched its boot loader.
    Loader,
    /// The loader fetched the kernel.
    Kernel,
    /// stage1 runs and has its lease.
    Stage1,
    /// The root is mounted.
    Root,
    /// The root's init was started.
    Init,
    /// The agent runs.
    Agent,
    /// The agent is connected: the node is a member.
    Member,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Stage; 9] = [
        Stage::Powered,
        Stage::Dhcp,
        Stage::Loader,
        Stage::Kernel,
        Stage::Stage1,
        Stage::Root,
        Stage::Init,
        Stage::Agent,
        Stage::Member,
    ];

    /// How long a node may stay here before it counts as stuck; `None`: for ever.
    ///
    /// Generous for slow firmware: each is about ten times what a slow machine was seen to need.
    pub fn limit(self) -> Option<Duration> {
        let seconds = match self {
            Stage::Powered => 180,
            Stage::Dhcp => 60,
            Stage::Loader => 120,
            Stage::Kernel => 120,
            Stage::Stage1 => 60,
            Stage::Root => 120,
            Stage::Init => 180,
            Stage::Agent => 30,
            Stage::Member => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// The name that users read and the database holds.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Powered => "powered",
            Stage::Dhcp => "dhcp",
            Stage::Loader => "loader",
            Stage::Kernel => "kernel",
            Stage::Stage1 => "stage1",
            Stage::Root => "root",
            Stage::Init => "init",
            Stage::Agent => "agent",
            Stage::Member => "member",
        }
    }

    /// The stage of this name.
    pub fn from_name(name: &str) -> Option<Stage> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
