//! A TFTP server for boot clients: RFC 1350, with the options of RFC 2347, 2348 (`blksize`), 2349
//! (`tsize`, `timeout`) and 7440 (`windowsize`), in the modes octet and netascii.
//!
//! It reads only: a write request is refused. What a path means is not known here, see [`Contents`].
//!
//! Limits: no multicast (RFC 2090) and no `mail`. A block is at most what the path carries in one packet,
//! and 1468 octets by default. Block numbers go over from 65535 to 0, so files may be of any size. What a
//! forged source address can draw is one packet of at most a default block, sent four times.
//!
//! [`session`] is the protocol without I/O; [`pump`] moves its blocks on threads of its own; [`server`]
//! takes requests in under tokio; [`registry`] bounds them.

pub mod content;
mod counters;
pub mod fuzz;
mod netascii;
pub mod options;
pub mod packet;
pub mod path;
mod pump;
mod registry;
mod rtt;
mod server;
pub mod session;
#[cfg(test)]
mod sim;
mod spin;
mod sys;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use content::Content;
pub use counters::Counters;
pub use packet::Mode;
pub use path::normalise;
pub use server::Server;
pub use session::Outcome;

/// The widest window that can be configured, in blocks.
pub const MOST_WINDOW: u16 = 64;

/// Where and within which bounds to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port of the requests; with an unspecified address, answers leave from the one that the
    /// request came to.
    pub listen: SocketAddr,
    /// The only interface to serve on (SO_BINDTODEVICE), if any.
    pub interface: Option<String>,
    /// The greatest block granted, in octets; what fits the path MTU may be less.
    pub block_size: u16,
    /// The widest window granted, in blocks, at most [`MOST_WINDOW`].
    pub window: u16,
    /// Sessions at once; one holds a socket and about a kilobyte. Beyond, requests go unanswered.
    pub sessions: usize,
    /// Sessions at once of one address.
    pub sessions_per_client: usize,
    /// Threads that move blocks; one a processor, at most 8, if not given.
    pub threads: Option<usize>,
    /// How long running transfers may go on when the server is stopped.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 69).into(),
            interface: None,
            block_size: 1468,
            window: MOST_WINDOW,
            sessions: 2048,
            sessions_per_client: 32,
            threads: None,
            grace: Duration::from_secs(2),
        }
    }
}

/// What a client asks to read.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The file name as sent; [`normalise`] makes a path of it.
    pub path: &'a [u8],
    /// The mode.
    pub mode: Mode,
    /// The client.
    pub peer: SocketAddr,
    /// The address that it asked.
    pub local: IpAddr,
}

/// Where contents come from, and who hears what was fetched.
pub trait Contents: Send + Sync + 'static {
    /// Opens what a path means for this client. May take its time: other requests do not wait for it.
    fn open(&self, opening: Opening<'_>) -> impl Future<Output = Result<Content, OpenError>> + Send;

    /// A transfer has ended. Called on a thread that moves blocks: it must not block.
    fn finished(&self, transfer: &Transfer) {
        tracing::debug!(%transfer, "TFTP");
    }
}

/// Why a content cannot be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none; the client's loader often only tries.
    #[error("file not found")]
    NotFound,
    /// This client must not have it; the reason goes to its screen.
    #[error("refused: {0}")]
    Refused(String),
    /// Not now: the client gets no answer, so it asks again.
    #[error("busy")]
    Busy,
}

/// A transfer that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The client.
    pub peer: SocketAddr,
    /// The address and port that served it.
    pub local: SocketAddr,
    /// The file name as sent.
    pub path: Box<[u8]>,
    /// Octets of the whole, as sent.
    pub size: u64,
    /// Octets acknowledged.
    pub bytes: u64,
    /// Blocks sent more than once.
    pub retransmitted: u64,
    /// From the request to the end.
    pub duration: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, path, size, bytes, retransmitted, duration, outcome, .. } = self;
        let path = path.escape_ascii();
        write!(
            f,
            "{peer} {path}: {outcome:?}, {bytes} of {size} octets in {duration:.3?}, {retransmitted} blocks again"
        )
    }
}

/// Why the server cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port cannot be opened: taken, not permitted, or the address is not this machine's.
    #[error("TFTP cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread or epoll can be had; ours.
    #[error("TFTP cannot start its threads: {0}")]
    Threads(io::Error),
    /// The port fails for good; ours.
    #[error("TFTP cannot receive requests: {0}")]
    Receive(io::Error),
}

/// Hears of ended transfers.
type Finished = Arc<dyn Fn(&Transfer) + Send + Sync>;
