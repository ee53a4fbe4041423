//! The messages of the control channel, and those between agents.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::agent::Peer;

/// What a node asks for, at each boot once its root can be mounted, or as it joins: signatures on the keys that it
/// has just made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The node's name, as `tesela.node=` on the kernel command line or the token that is typed gives it.
    pub node: String,
    /// The one-time token of `tesela.token=`, or of `tesela node token`.
    pub token: String,
    /// A PKCS #10 request (RFC 2986, PEM), which proves that the node holds the private key. Of what it
    /// says only the public key is taken.
    pub certificate_request: String,
    /// The ssh host key as one line of OpenSSH (`ssh-ed25519 AAAA…`).
    pub ssh_host_public_key: String,
}

/// The master's answer to an [`EnrollRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EnrollReply {
    /// The keys are signed.
    Enrolled(Enrolled),
    /// They are not.
    Refused(Refusal),
}

/// Signed keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The node's certificate (RFC 5280, PEM): its name as CN, signed by the cluster's CA.
    pub certificate: String,
    /// The ssh host certificate as one line of OpenSSH.
    pub ssh_host_certificate: String,
    /// The key with which members find each other (`discovery`), 32 octets in base64 (RFC 4648).
    pub cluster_key: String,
    /// The agent's configuration, for a member that finds none in its root: one that has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// Why the master signs nothing, and what the node can do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For the console: what was wrong, in one line.
    pub reason: String,
    /// Whether booting again, which brings a new token, can help.
    pub boot_again: bool,
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToMaster {
    /// First of all, once a connection.
    Hello(Hello),
    /// Every [`Welcome::heartbeat_seconds`].
    Heartbeat(Heartbeat),
    /// The answer to [`ToNode::Refresh`].
    Refreshed(Refreshed),
    /// The answer to [`ToNode::Power`].
    Powering(Powering),
}

/// What the master says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToNode {
    /// The answer to [`ToMaster::Hello`]: the node is a member.
    Welcome(Welcome),
    /// The answer to [`ToMaster::Heartbeat`]: the master is alive as well.
    Alive,
    /// Rendered files have changed: look again.
    Refresh(Refresh),
    /// Switch the machine off, or have it boot again.
    Power(Power),
    /// The nodes of the cluster, for a member that finds no list of them in its root: one that has joined.
    Peers(PeersPart),
}

/// Who is speaking. Its name is in its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `/proc/sys/kernel/random/boot_id`: another one means that the node booted in between.
    pub boot_id: String,
    /// The agent's version.
    pub version: String,
    /// `uname -r`.
    pub kernel: String,
    /// Seconds since the kernel started.
    pub uptime_seconds: u64,
}

/// The node is a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Seconds between two heartbeats. Either side that hears nothing for three times as long takes the
    /// connection for dead.
    pub heartbeat_seconds: u32,
    /// Some members that are there, by which this one finds all of them where multicast is dropped.
    #[serde(default)]
    pub seeds: Vec<Ipv4Addr>,
}

/// The node is alive, and how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Load average of the last minute, in hundredths.
    pub load_hundredths: u32,
    /// Memory of the machine, KiB.
    pub memory_total_kib: u64,
    /// Memory that could be had without swapping, KiB.
    pub memory_available_kib: u64,
    /// Seconds since the kernel started.
    pub uptime_seconds: u64,
    /// What the node's clock says, in milliseconds since 1970; none: an agent of before does not tell it.
    #[serde(default)]
    pub clock_ms: Option<i64>,
}

/// A part of the list of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersPart {
    /// Some of them.
    pub peers: Vec<Peer>,
    /// With these, all have been said, and the list counts.
    pub last: bool,
}

impl PeersPart {
    /// A list in as many messages as it takes for each to fit a frame.
    pub fn in_frames(peers: &[Peer]) -> Vec<Self> {
        // A name has 63 octets at the most, and an address 15.
        const ROOM: usize = super::MAX_FRAME / 128;
        let mut parts: Vec<Self> =
            peers.chunks(ROOM).map(|peers| Self { peers: peers.to_vec(), last: false }).collect();
        match parts.last_mut() {
            Some(part) => part.last = true,
            None => parts.push(Self { peers: Vec::new(), last: true }),
        }
        parts
    }
}

/// Files that were rendered anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// Comes back in the answer.
    pub id: u64,
    /// Absolute paths of what appeared, changed or went.
    pub paths: Vec<String>,
}

/// The kernel of this node has looked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// That of the [`Refresh`].
    pub id: u64,
    /// What could not be looked at, and why. A path that is not there is no failure.
    pub failed: Vec<String>,
}

/// How a machine that runs is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// It is switched off.
    Off,
    /// It boots again.
    Reboot,
}

/// The machine is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// Comes back in the answer.
    pub id: u64,
    /// How.
    pub action: PowerAction,
}

/// The machine is ending, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Powering {
    /// That of the [`Power`].
    pub id: u64,
    /// Why it does not; none: it does.
    pub failed: Option<String>,
}

/// What one agent asks of another, once a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// [`Ask::VERSION`] of who asks.
    pub version: u32,
    /// The asking node: its certificate has to say the same.
    pub node: String,
    /// What it wants.
    pub want: Want,
}

/// What an agent can want of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Want {
    /// That it takes in a process.
    TakeIn(Coming),
    /// That it takes home a process of its own, which is a guest of the asking node.
    TakeHome {
        /// The process's id at home.
        pid: i32,
    },
    /// That it knows: the program has failed that kept a guest here, and nothing of the guest is left.
    GuestGone {
        /// The id at home of the process that was sent.
        pid: i32,
        /// The port at home from which it was sent: one process may have been sent several times.
        port: u16,
    },
}

/// A process that wants to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Its id at home.
    pub pid: i32,
    /// Its effective user id.
    pub uid: u32,
    /// The name of its program.
    pub name: String,
    /// It can do what only root can.
    pub privileged: bool,
    /// Its node offers it by itself, to share its load; none: somebody wants it so.
    #[serde(default)]
    pub offer: Option<Offer>,
}

/// What a process has where it is, so that the other node can say whether it would have more there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// In thousandths of a standard processor.
    pub has: u32,
    /// The memory that it takes, in KiB.
    pub memory: u64,
    /// It goes for that.
    pub ushered: bool,
}

impl Ask {
    /// Of what follows on the connection: both agents have to speak the same.
    pub const VERSION: u32 = 3;
}

/// The answer to an [`Ask`]. Where a process is taken in, nothing is sent before the asking side has sent [`GO`],
/// in the open: so neither side's TLS can have read what is not its.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Want::TakeIn`]: TLS is over on this connection; its keys are [`super::mutual::link_keys`].
    /// To [`Want::TakeHome`]: it is at home. To [`Want::GuestGone`]: heard.
    Accepted,
    /// It is not done.
    Refused {
        /// Why, for whoever asked.
        reason: String,
    },
}

/// The octet behind TLS with which the link begins.
pub const GO: u8 = b'G';

impl Refresh {
    /// The paths in as many messages as it takes for each to fit a frame.
    ///
    /// A path longer than Linux's `PATH_MAX` (4096) names nothing on a node and is left out.
    pub fn in_frames(first_id: u64, paths: impl IntoIterator<Item = String>) -> Vec<Refresh> {
        // JSON writes a byte of a path as six at the most (`\u001f`).
        const ROOM: usize = super::MAX_FRAME / 6 - 64;
        let mut messages = Vec::new();
        let (mut room, mut id) = (0, first_id);
        for path in paths.into_iter().filter(|path| path.len() <= 4096) {
            let size = path.len() + 3;
            if size > room {
                messages.push(Refresh { id, paths: Vec::new() });
                (room, id) = (ROOM, id + 1);
            }
            room -= size;
            if let Some(last) = messages.last_mut() {
                last.paths.push(path);
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    #[test]
    fn messages_are_tagged_json_and_unknown_fields_are_passed_over() {
        let welcome = ToNode::Welcome(Welcome { heartbeat_seconds: 5, seeds: Vec::new() });
        assert_eq!(
            serde_json::to_string(&welcome).unwrap(),
            r#"{"type":"welcome","heartbeat_seconds":5,"seeds":[]}"#
        );
        let newer = r#"{"type":"welcome","heartbeat_seconds":5,"colour":"blue"}"#;
        assert_eq!(serde_json::from_str::<ToNode>(newer).unwrap(), welcome);
        assert!(serde_json::from_str::<ToNode>(r#"{"type":"halt"}"#).is_err());
    }

    #[test]
    fn any_number_of_nodes_fits_into_frames() {
        let peer = |number: u32| Peer {
            name: format!("{number:0>63}"),
            address: Some(Ipv4Addr::from(0xFFFF_0000 + number)),
        };
        for count in [0, 1, 5000] {
            let peers: Vec<Peer> = (0..count).map(peer).collect();
            let parts = PeersPart::in_frames(&peers);
            let (last, others) = parts.split_last().unwrap();
            assert!(last.last && others.iter().all(|part| !part.last));
            for part in &parts {
                frame::encode(&ToNode::Peers(part.clone())).unwrap();
            }
            assert_eq!(parts.into_iter().flat_map(|part| part.peers).collect::<Vec<_>>(), peers);
        }
    }

    #[test]
    fn any_number_of_paths_fits_into_frames() {
        let paths: Vec<String> = (0..500).map(|i| format!("/{i}{}", "\u{1}".repeat(i * 8))).collect();
        let messages = Refresh::in_frames(7, paths.clone());
        assert!(messages.len() > 1);
        for (i, message) in messages.iter().enumerate() {
            assert_eq!(message.id, 7 + i as u64);
            frame::encode(&ToNode::Refresh(message.clone())).unwrap();
        }
        let back: Vec<String> = messages.into_iter().flat_map(|message| message.paths).collect();
        assert_eq!(back, paths);
    }
}
