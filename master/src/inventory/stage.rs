//! How far a node's boot has come, and what becomes of a member whose agent is heard no more.
//!
//! A boot goes through the stages in their order, up to `member`. A member whose agent's connection ends is
//! `silent`; heard again it is a member, and if it is not within the limit it is `down`, until it boots
//! anew or its agent is back after all. All of that is here: [`Stage::told`], [`Stage::fallen_silent`],
//! [`Stage::after_limit`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The stages of a boot, in their order, and those of a member that was lost.
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
    /// It was a member, and its agent's connection is lost.
    Silent,
    /// It was a member, and its agent was not heard of for longer than the limit of `silent`.
    Down,
}

/// What it means for a node that it is told to have reached a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its boot goes on, or its agent is back.
    On,
    /// It is there already.
    Again,
    /// Another boot begins.
    Anew,
    /// Nothing: the agent was started again, or tells what its connection told already.
    Known,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Stage; 11] = [
        Stage::Powered,
        Stage::Dhcp,
        Stage::Loader,
        Stage::Kernel,
        Stage::Stage1,
        Stage::Root,
        Stage::Init,
        Stage::Agent,
        Stage::Member,
        Stage::Silent,
        Stage::Down,
    ];

    /// What it means that a node in this stage is told to have reached another one.
    pub fn told(self, reached: Stage) -> Told {
        match (self, reached) {
            (Stage::Silent | Stage::Down, Stage::Member) => Told::On,
            // Nothing but a boot speaks for a node that is down.
            (Stage::Down, _) => Told::Anew,
            (now, reached) if reached == now => Told::Again,
            (now, reached) if reached > now => Told::On,
            (_, reached) if reached > Stage::Stage1 => Told::Known,
            _ => Told::Anew,
        }
    }

    /// The stage of a node whose agent's connection has ended.
    pub fn fallen_silent(self) -> Stage {
        if self == Stage::Member { Stage::Silent } else { self }
    }

    /// The stage that follows by itself when this one's limit is over; `None`: the node is stuck here.
    pub fn after_limit(self) -> Option<Stage> {
        (self == Stage::Silent).then_some(Stage::Down)
    }

    /// Whether the node's root may be in use: its boot has come so far, and nothing says that it is off.
    pub fn has_root(self) -> bool {
        (Stage::Stage1..=Stage::Silent).contains(&self)
    }

    /// How long a node may stay here before it counts as stuck; `None`: for ever.
    ///
    /// Generous for slow firmware: each is about ten times what a slow machine was seen to need. `silent` is
    /// four times as long as it takes to notice silence, and ten times as long as an agent takes to come back
    /// to a master that was started again.
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
            Stage::Silent => 60,
            Stage::Member | Stage::Down => return None,
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
            Stage::Silent => "silent",
            Stage::Down => "down",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_goes_on_in_order_and_an_early_stage_begins_another() {
        use Stage::{Agent, Dhcp, Init, Kernel, Member, Root, Stage1};
        for (now, reached, told) in [
            (Dhcp, Kernel, Told::On),
            (Kernel, Kernel, Told::Again),
            (Member, Member, Told::Again),
            (Member, Init, Told::Known),
            (Member, Agent, Told::Known),
            (Init, Root, Told::Known),
            (Member, Dhcp, Told::Anew),
            (Init, Stage1, Told::Anew),
        ] {
            assert_eq!(now.told(reached), told, "{now} {reached}");
        }
    }

    #[test]
    fn who_was_lost_is_back_by_its_agent_or_boots() {
        use Stage::{Agent, Dhcp, Down, Init, Member, Silent};
        for (now, reached, told) in [
            (Silent, Member, Told::On),
            (Silent, Agent, Told::Known),
            (Silent, Dhcp, Told::Anew),
            (Down, Member, Told::On),
            (Down, Init, Told::Anew),
            (Down, Dhcp, Told::Anew),
        ] {
            assert_eq!(now.told(reached), told, "{now} {reached}");
        }
        for stage in Stage::ALL {
            assert_eq!(stage.fallen_silent() == Silent, matches!(stage, Member | Silent), "{stage}");
            // What follows by itself follows after a time.
            assert!(stage.after_limit().is_none() || stage.limit().is_some(), "{stage}");
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
        }
    }
}
