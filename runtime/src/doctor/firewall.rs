//! Firewall rules of this machine that drop what the cluster sends.
//!
//! A packet is led through the chains as nftables does it (nft(8)) and iptables (iptables(8)); [`nft`] and [`iptables`]
//! read the rules as those programs list them, with what each rule makes of that packet. What cannot be known of it (a
//! set that is not listed, a rate, a mark) is taken for what lets it pass: so what is called dropped is dropped.

pub mod iptables;
pub mod nft;

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::{Finding, list};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To this machine.
    In,
    /// From this machine.
    Out,
}

/// The first packet of something that the cluster needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which way.
    pub way: Way,
    /// The interface by which it comes or goes.
    pub interface: String,
    /// UDP, not TCP.
    pub udp: bool,
    /// The port to which it goes.
    pub port: u16,
    /// This machine's address.
    pub own: Ipv4Addr,
    /// The other's, where one is known.
    pub other: Option<Ipv4Addr>,
    /// What it is for.
    pub purpose: &'static str,
}

impl Packet {
    fn protocol(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    fn source(&self) -> Option<Ipv4Addr> {
        if self.way == Way::In { self.other } else { Some(self.own) }
    }

    fn destination(&self) -> Option<Ipv4Addr> {
        if self.way == Way::In { Some(self.own) } else { self.other }
    }
}

/// What a rule does with a packet that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
    Nothing,
    Unknown,
}

/// A rule, as it is for one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// Whether it is about the packet; none: that is not known.
    about: Option<bool>,
    then: Then,
}

/// A chain of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain {
    /// The kernel leads the packet into it; otherwise only another chain does.
    is_base: bool,
    /// What passes its end is dropped.
    drops: bool,
    rules: Vec<Rule>,
}

/// Chains by their names: `inet filter input`. A chain that is jumped to has the whole name, too.
type Chains = HashMap<String, Chain>;

/// How a packet leaves a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Accepted,
    Dropped,
    AtTheEnd,
    Unknown,
}

/// Rules that jump in a circle are refused by the kernel; what is deeper than this is taken for unknown.
const DEEPEST: usize = 32;

/// The first of the base chains that surely drops the packet.
fn dropping(chains: &Chains) -> Option<&str> {
    let mut bases: Vec<_> = chains.iter().filter(|(_, chain)| chain.is_base).collect();
    bases.sort_by_key(|(name, _)| *name);
    let drops = |chain: &Chain| match through(chain, chains, 0) {
        Left::Dropped => true,
        Left::AtTheEnd => chain.drops,
        Left::Accepted | Left::Unknown => false,
    };
    bases.into_iter().find(|(_, chain)| drops(chain)).map(|(name, _)| &name[..])
}

fn through(chain: &Chain, chains: &Chains, depth: usize) -> Left {
    if depth > DEEPEST {
        return Left::Unknown;
    }
    let down =
        |name: &String| chains.get(name).map_or(Left::Unknown, |chain| through(chain, chains, depth + 1));
    for Rule { about, then } in &chain.rules {
        if *about == Some(false) {
            continue;
        }
        let left = match then {
            Then::Nothing => continue,
            Then::Accept => Left::Accepted,
            Then::Drop => Left::Dropped,
            Then::Unknown => Left::Unknown,
            Then::Return => Left::AtTheEnd,
            Then::Jump(name) => match down(name) {
                Left::AtTheEnd => continue,
                left => left,
            },
            Then::Goto(name) => down(name),
        };
        match (about, left) {
            (Some(_), left) => return left,
            // Where it is not about the packet, the next rule is; where it is, it drops it.
            (None, Left::Dropped) => {}
            (None, _) => return Left::Unknown,
        }
    }
    Left::AtTheEnd
}

/// What this machine's rules are, as the programs list them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Of `nft -j list ruleset`; none: there is no such program.
    pub nft: Option<Result<String, String>>,
    /// Of `iptables-save`; none: there is no such program.
    pub iptables: Option<Result<String, String>>,
}

/// Whether these packets pass.
pub fn lets_pass(listed: &Listed, packets: &[Packet]) -> Finding {
    const WHAT: &str = "firewall";
    let mut dropped: Vec<String> = Vec::new();
    let mut mends: Vec<String> = Vec::new();
    for packet in packets {
        let by_nft = listed.nft.as_ref().and_then(|text| nft::drops(text.as_ref().ok()?, packet));
        let by_iptables =
            || listed.iptables.as_ref().and_then(|text| iptables::drops(text.as_ref().ok()?, packet));
        let Some((chain, mend)) = by_nft.or_else(by_iptables) else { continue };
        let (protocol, port) = (packet.protocol().to_uppercase(), packet.port);
        let way = if packet.way == Way::In { "to" } else { "out to" };
        dropped.push(format!("{way} {protocol} port {port} ({}) by the chain {chain}", packet.purpose));
        mends.push(format!("`{mend}`"));
    }
    if !dropped.is_empty() {
        let mend = format!("{}, and for good in this system's firewall settings", mends.join(", "));
        return Finding::fail(WHAT, format!("drops what goes {}", list(dropped)), mend);
    }
    let unread = [("nft", &listed.nft), ("iptables-save", &listed.iptables)].into_iter();
    let unread = unread.filter_map(|(name, text)| Some((name, text.as_ref()?.as_ref().err()?))).next();
    match (unread, listed) {
        (Some((name, error)), _) => Finding::warn(
            WHAT,
            format!("{name} does not tell the rules: {error}"),
            "only root sees them: run it as root",
        ),
        (None, Listed { nft: None, iptables: None }) => {
            Finding::ok(WHAT, "there is neither nft nor iptables-save here, so rules are not looked at")
        }
        (None, _) => {
            let ports = packets.iter().map(|packet| format!("{} {}", packet.protocol(), packet.port));
            let mut once: Vec<String> = Vec::new();
            for port in ports {
                if !once.contains(&port) {
                    once.push(port);
                }
            }
            Finding::ok(WHAT, format!("no rule here drops {}", once.join(", ")))
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
