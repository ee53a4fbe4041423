//! The seam to what the master knows: who a client is, and what it is to have.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::client::Client;
use super::observe::Exchange;
use crate::cluster::Mac;

/// What the server asks of the rest of the master. All methods are called for each packet, from the
/// server's thread: they must not block.
pub trait Policy: Send + Sync {
    /// Who this is, and what it is to have.
    fn decide(&self, client: &Client<'_>) -> Decision;

    /// Whether the address is promised to some machine, so that the dynamic range must leave it out.
    fn is_reserved(&self, address: Ipv4Addr) -> bool;

    /// What was answered, or why nothing was.
    fn observe(&self, exchange: &Exchange<'_>);

    /// Another machine than the one it was given to uses an address of the range, which is set aside.
    fn conflict(&self, address: Ipv4Addr, holder: Mac);
}

/// What becomes of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A machine of the cluster, or one that is registered: always answered.
    Known(Terms),
    /// A machine that nobody knows: answered only while it boots from the network.
    Unknown(Terms),
    /// Not answered.
    Ignore,
}

/// What a client is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its own address; `None`: one of the dynamic range. Unused in proxy mode.
    pub address: Option<Ipv4Addr>,
    /// The network that it is on. Unused in proxy mode.
    pub network: Arc<Network>,
    /// Option 12.
    pub hostname: Option<Arc<str>>,
    /// Lease time in seconds.
    pub lease_seconds: u32,
    /// What to load next; `None`: nothing, a PXE ROM goes on to its next boot device.
    pub boot: Option<BootFile>,
}

/// What all clients of a network are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The network (options 1 and 28).
    pub prefix: Ipv4Net,
    /// Option 3.
    pub routers: Vec<Ipv4Addr>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
}

/// What to load next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// A file by TFTP: `siaddr`, `file`, and options 66 and 67 where asked for.
    Tftp {
        /// The TFTP server.
        server: Ipv4Addr,
        /// The file's name, at most 127 octets.
        file: String,
    },
    /// A URL, as UEFI HTTP boot and iPXE take it.
    Url(String),
}
