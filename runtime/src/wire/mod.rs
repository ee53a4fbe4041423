//! What travels between agents, and between an agent and the master.
//!
//! Between two agents: [`mutual`] TLS with the ALPN protocol [`MIGRATE`] on the port [`AGENTS_PORT`], one [`Ask`]
//! and one [`Reply`]; then the connection becomes the link of a process that is away (see `migrate`). What an
//! agent is asked on its own node is in [`local`]. The rest is the control channel, between a node and the
//! master on the control port.
//!
//! One TCP port, TLS 1.3 only. The ALPN protocol says which of two conversations it is:
//!
//! | ALPN | who speaks | what |
//! |---|---|---|
//! | [`ENROLL`] | stage1 or `teselad join`, from a source port below 1024, without a certificate | one [`EnrollRequest`], one [`EnrollReply`] |
//! | [`AGENT`] | the agent, with the node's certificate | [`ToMaster`] one way, [`ToNode`] the other |
//!
//! Both carry JSON messages in frames of a 32-bit big-endian length and as many bytes, at most
//! [`MAX_FRAME`] ([`frame`]). A field that is not known is passed over, so that the agent of an older
//! image understands a newer master; what cannot be passed over needs a new ALPN name.
//!
//! Nothing here trusts a clock: the master is known by the digest of its CA ([`tls`]), which stands on
//! the node's kernel command line, and certificates have no end in time. What ends them is said by the
//! master (see its `keys` module).

pub mod frame;
pub mod fuzz;
pub mod local;
mod messages;
pub mod mutual;
pub mod tls;

pub use frame::{Deframer, FrameError, FrameReader, MAX_FRAME};
pub use messages::*;

/// ALPN name of the conversation in which a node gets its certificates.
pub const ENROLL: &[u8] = b"tesela-enroll/1";
/// ALPN name of the conversation between the agent of a member and the master.
pub const AGENT: &[u8] = b"tesela-agent/1";
/// ALPN name of the conversation in which an agent takes in a process of another's.
pub const MIGRATE: &[u8] = b"tesela-migrate/1";

/// TCP port on which the master hears nodes: enrolment and the agents' channel.
pub const CONTROL_PORT: u16 = 7443;
/// TCP port on which an agent hears the others.
pub const AGENTS_PORT: u16 = 7444;

/// The name in the master's certificate. A node's name has no dot, so none can have this one.
pub const MASTER_NAME: &str = "master.tesela";
