//! The lab: the master's services and virtual nodes in a private network namespace of this machine.
//!
//! `up` takes any cluster.yaml. It makes a namespace with a bridge that bears the name and address of
//! the cluster's own interface, runs `tesela serve` inside it just as on a real master, and powers on
//! one machine for each of the first N nodes that boot over the network: a virtual machine, or
//! namespaces of this one ([`node`]). Nothing of it reaches the networks of this machine. Further machines can be
//! unknown to the cluster; a cluster with `dhcp: proxy` gets another DHCP server in a namespace beside.
//!
//! What belongs to a lab is found again by its network namespaces: every process that `up` starts lives in one,
//! and nothing else does. So `down` needs no record to be right, and cleans up after an `up` that died
//! half way.
//!
//! Limits: it needs root (namespaces, taps, port 67), and QEMU with the firmware that Debian ships.

mod accel;
mod access;
mod console;
mod derive;
mod given;
mod machine;
mod namespace;
pub mod node;
mod other;
mod power;
mod progress;
mod record;
mod up;

use std::io;
use std::path::{Path, PathBuf};

pub use access::{exec, ssh};
pub use console::attach as console;
pub use machine::{Firmware, Kind};
use namespace::Namespace;
pub use power::{Power, power};
pub use up::{UpOptions, down, restart, status, up};

/// The lab of this state directory has the plain name as its namespace's.
const DEFAULT_STATE: &str = "/var/lib/tesela/lab";

/// One lab, known by its state directory.
#[derive(Clone, Debug)]
pub struct Lab {
    state: PathBuf,
}

impl Lab {
    /// The lab under `state`, a directory as the master's own: `state/lab`. It may be up or not.
    pub fn new(state: &Path) -> Result<Self, Error> {
        let state = std::path::absolute(state).map_err(Error::io("find", state))?.join("lab");
        Ok(Self { state })
    }

    /// The cluster.yaml that the lab's master serves: the given one, with the virtual machines' addresses.
    pub fn config(&self) -> PathBuf {
        self.state.join("cluster.yaml")
    }

    /// The master's state directory (its `--state`).
    pub fn master_state(&self) -> PathBuf {
        self.state.join("master")
    }

    /// The socket of the lab's master.
    pub fn socket(&self) -> PathBuf {
        self.state.join("tesela.sock")
    }

    /// What the lab's master logs.
    pub fn master_log(&self) -> PathBuf {
        self.state.join("master.log")
    }

    /// What belongs to one virtual machine: console log and socket, firmware variables, QEMU's own words.
    pub fn machine_dir(&self, node: &str) -> PathBuf {
        self.state.join("machines").join(node)
    }

    fn namespace(&self) -> Namespace {
        Namespace::named(&self.namespace_name())
    }

    /// Where the other DHCP server of a cluster with `dhcp: proxy` runs.
    fn other_namespace(&self) -> Namespace {
        Namespace::named(&format!("{}-dhcp", self.namespace_name()))
    }

    /// The network of a node that is namespaces.
    fn node_namespace(&self, machine: &str) -> Namespace {
        Namespace::named(&format!("{}{machine}", self.node_prefix()))
    }

    /// The name of a node's control groups.
    fn node_group(&self, machine: &str) -> String {
        format!("{}{machine}", self.node_prefix())
    }

    /// No other lab's namespaces and control groups begin like this: their names go on with hexadecimal digits.
    fn node_prefix(&self) -> String {
        format!("{}-node-", self.namespace_name())
    }

    /// Ends all processes of the lab and removes its networks; `true` if there was anything.
    fn clear(&self) -> Result<bool, Error> {
        let mut found = false;
        for namespace in Namespace::all(&self.node_prefix())? {
            found |= namespace.remove()?;
        }
        found |= node::clear(&self.node_prefix())?;
        found |= self.other_namespace().remove()?;
        Ok(self.namespace().remove()? || found)
    }

    fn namespace_name(&self) -> String {
        if self.state == Path::new(DEFAULT_STATE) {
            return "tesela-lab".to_owned();
        }
        let digest = blake3::hash(self.state.as_os_str().as_encoded_bytes()).to_hex();
        format!("tesela-lab-{}", &digest[..8])
    }
}

/// Why a lab could not do what it was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[expect(missing_docs, reason = "each message says what its variant is")]
pub enum Error {
    #[error("the lab needs root, for it makes a network namespace: run it with sudo")]
    NotRoot,
    #[error("{0} is not here: install it with `sudo apt-get install {1}`")]
    Missing(PathBuf, &'static str),
    #[error("a lab is already up: `tesela lab status` shows it, `tesela lab down` ends it")]
    AlreadyUp,
    #[error("no lab is up: `sudo tesela lab up` starts one")]
    NotUp,
    #[error("the lab has no node {name}; it has {}", .known.join(", "))]
    UnknownNode { name: String, known: Vec<String> },
    #[error("{name} is powered off: `tesela lab power {name} on`")]
    PoweredOff { name: String },
    #[error("{name} is on already: `tesela lab power {name} reset` starts it again")]
    PoweredOn { name: String },
    #[error("{0}")]
    Cluster(String),
    #[error("the lab's machines cannot be put into the cluster.yaml: {0}")]
    Derive(String),
    #[error("{wanted} virtual nodes are asked for, and {} of {} boot over the network: add nodes, or give --nodes {}", .network, .file.display(), .network)]
    TooFewNodes { wanted: usize, network: usize, file: PathBuf },
    #[error(
        "the network {network} has no room for another DHCP server and its range: give `master: address:` a wider one"
    )]
    NoRoom { network: ipnet::Ipv4Net },
    #[error("the images could not be built ({status}): what is wrong is said above")]
    Image { status: std::process::ExitStatus },
    #[error("`{command}` failed: {stderr}")]
    Command { command: String, stderr: String },
    #[error("the lab's master ended ({status}); the end of {}:\n{tail}", .log.display())]
    MasterEnded { status: String, log: PathBuf, tail: String },
    #[error("the lab's master does not answer at {}: {reason}", .socket.display())]
    MasterSilent { socket: PathBuf, reason: String },
    #[error("{name} has no console, for it is namespaces; what its first program says is in {}", .log.display())]
    NoConsole { name: String, log: PathBuf },
    #[error("{0} cannot be a node made of namespaces: {1}")]
    NotInNamespaces(String, &'static str),
    #[error("{name}: {source}")]
    Boot { name: String, source: node::BootError },
    #[error("{name} ended ({status}): {said}")]
    MachineEnded { name: String, status: String, said: String },
    #[error("not all nodes became members:\n{0}")]
    Stuck(String),
    #[error(
        "ssh did not reach {name}; it is at stage {stage}: `tesela lab console {name}` shows what it says"
    )]
    NotReached { name: String, stage: String },
    #[error("{name} has no address by DHCP yet; it is at stage {stage}")]
    NoAddress { name: String, stage: String },
    #[error("{what} {}: {source}", .path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// An error of the system while it did `what` with `path`; for `map_err`.
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
