//! A node of the lab that is no virtual machine but namespaces of this one: network, processes, mounts, host
//! name, IPC and control groups.
//!
//! Its first program is this one ([`run`]). It does what the firmware, the loader and stage1 do of a boot: it
//! fetches the node's script from the master, has the node's keys signed, and makes its root of the image and
//! what is rendered for it; then it is the init that runs sshd and the agent. So a node is a member in
//! seconds, by the same agent, keys and files as any other.
//!
//! Two such nodes have nothing in common but their kernel and the wire. Each has a root of its own, whose lower
//! layer, the image, nobody writes; the rest of this machine's files is in none of them.
//!
//! Limits: the root is not mounted over NFS, there is no DHCP (so an address is due in cluster.yaml), no
//! systemd, and one kernel and one clock serve all.

mod boot;
mod init;
mod quota;

use std::process::Command;

use ipnet::Ipv4Net;

use super::machine::{Hardware, Machine};
use super::up::own_program;
use super::{Error, Lab};
use crate::cluster::{Cluster, DhcpMode, Master, Node};

pub use boot::{BootError, run};
pub use quota::{Quota, clear};

/// The namespaces beside the network's.
const NAMESPACES: [&str; 8] =
    ["--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork", "--propagation", "private"];

/// Whether a lab of such nodes can be.
pub fn check(cluster: &Cluster, unknown: usize) -> Result<(), Error> {
    let no = |why| Err(Error::NotInNamespaces("what this lab has".to_owned(), why));
    match (cluster.master.dhcp, unknown) {
        (DhcpMode::Proxy, _) => no("they ask no DHCP server, and with `dhcp: proxy` one gives the addresses"),
        (_, 1..) => no("a machine that cluster.yaml does not know boots by DHCP: leave --unknown out"),
        _ => Ok(()),
    }
}

/// The address that the node has from the beginning.
pub fn address(cluster: &Cluster, node: &Node) -> Result<Ipv4Net, Error> {
    let address = node.address.as_ref().ok_or_else(|| {
        Error::NotInNamespaces(node.name.clone(), "it asks no DHCP server: give it an `address:`")
    })?;
    Ok(Ipv4Net::new_assert(address.value, cluster.master.address.prefix_len()))
}

/// Makes its network, with a wire to the lab's bridge.
pub fn plug_in(lab: &Lab, master: &Master, machine: &Machine, address: Ipv4Net) -> Result<(), Error> {
    let namespace = lab.node_namespace(&machine.name);
    let plug = (master.interface.as_str(), machine.port.as_str());
    namespace.create_behind(&lab.namespace(), plug, Some(machine.mac), address)?;
    master.gateway.map_or(Ok(()), |router| namespace.route_by(router))
}

/// What powers it on: it ends with the node's first program.
pub fn first_program(lab: &Lab, machine: &Machine) -> Result<Command, Error> {
    let quota = match machine.hardware {
        Hardware::Namespace(_, quota) => quota,
        Hardware::Vm(_) => Quota::default(),
    };
    let groups = quota.make(&lab.node_group(&machine.name))?;
    // It is in its groups before its namespace of groups begins with them.
    let mut command = lab.node_namespace(&machine.name).detached("sh".as_ref());
    command.args([
        "-ec",
        "until [ \"$1\" = -- ]; do echo $$ > \"$1\"; shift; done; shift; exec \"$@\"",
        "sh",
    ]);
    command.args(groups).args(["--", "unshare"]).args(NAMESPACES).arg(own_program()?);
    // The lab's directory is in the one that `tesela` is given.
    command.arg("--state").arg(lab.state.parent().unwrap_or(&lab.state));
    command.args(["lab", "run-node", &machine.name]);
    Ok(command)
}
