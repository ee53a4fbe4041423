//! How a node comes by its keys.
//!
//! One that boots from the master: stage1 makes two ed25519 keys in memory, one for TLS and one for ssh, and has the cluster's CA sign
//! them ([`enroll`]): over TLS to the CA whose fingerprint is on the kernel command line, with the
//! one-time token that stands beside it, and from a source port below 1024, which no ordinary user of
//! the node can have, though he could read the token. What comes of it is left in a directory of a
//! tmpfs ([`NodeKeys::store`]) and is gone when the node is switched off; no private key is ever on the
//! network, on a disk or in the root.
//!
//! One that the master does not boot does the same once, with a token that somebody types, and keeps its keys on its
//! own disk ([`join`]).

pub mod join;
mod keys;

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use tracing::debug;

pub use keys::{KeyError, NodeKeys, Unsigned, file};

use crate::port;
use crate::wire::{self, EnrollReply, EnrollRequest, FrameError, Refusal, frame, tls};

/// How long the master may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What a node has to know to get its keys signed. It is on the kernel command line of one that boots from the master;
/// on another it is in the token that is typed there ([`join::JoinToken`]).
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The node's name (`tesela.node=`).
    pub node: String,
    /// The master's control port (`tesela.master=`, `tesela.control=`).
    pub master: SocketAddrV4,
    /// The cluster's CA (`tesela.ca=`).
    pub ca: tls::Fingerprint,
    /// The one-time token (`tesela.token=`).
    pub token: String,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The master will not: the node's token, name or address is at fault.
    #[error("the master refuses to sign this node's keys: {}", .0.reason)]
    Refused(Refusal),
    /// The master could not be reached, or is not the one whose CA was named.
    #[error("enrolment at {master}: {source}")]
    Master {
        /// Where.
        master: SocketAddrV4,
        /// What came of it.
        source: FrameError,
    },
    /// Making, reading or writing the keys failed on this side.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl EnrollError {
    /// Whether booting again, which brings a new token, can help.
    pub fn boot_again(&self) -> bool {
        match self {
            EnrollError::Refused(refusal) => refusal.boot_again,
            EnrollError::Master { .. } => true,
            EnrollError::Keys(_) => false,
        }
    }
}

/// Makes the node's keys and has the master sign them, trying for as long as `patience` where the master
/// cannot be reached (it may be starting again). Blocks.
///
/// A token is good for one pair of keys, so asking again after a lost answer is safe within one call,
/// and only there.
///
/// # Errors
/// [`EnrollError`]; a refusal is not tried again.
pub fn enroll(enrolment: &Enrolment, patience: Duration) -> Result<NodeKeys, EnrollError> {
    let unsigned = Unsigned::generate(&enrolment.node)?;
    let request = EnrollRequest {
        node: enrolment.node.clone(),
        token: enrolment.token.clone(),
        certificate_request: unsigned.certificate_request().to_owned(),
        ssh_host_public_key: unsigned.ssh_host_public_key()?,
    };
    let deadline = Instant::now() + patience;
    loop {
        match ask(enrolment, &request) {
            Ok((EnrollReply::Enrolled(enrolled), ca)) => return Ok(unsigned.signed(enrolled, &ca)?),
            Ok((EnrollReply::Refused(refusal), _)) => return Err(EnrollError::Refused(refusal)),
            Err(source) if Instant::now() + PAUSE < deadline => {
                debug!(master = %enrolment.master, error = %source, "enrolment failed, trying again");
                std::thread::sleep(PAUSE);
            }
            Err(source) => return Err(EnrollError::Master { master: enrolment.master, source }),
        }
    }
}

/// One connection: the request, and the reply with the CA that the server showed.
fn ask(
    enrolment: &Enrolment,
    request: &EnrollRequest,
) -> Result<(EnrollReply, rustls::pki_types::CertificateDer<'static>), FrameError> {
    let config = tls::client_config(enrolment.ca, wire::ENROLL, None).map_err(io::Error::other)?;
    let session = ClientConnection::new(config, tls::master_name()).map_err(io::Error::other)?;
    let socket: TcpStream = port::connect_privileged(enrolment.master, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let mut stream = StreamOwned::new(session, socket);
    frame::write(&mut stream, request)?;
    let reply = frame::read(&mut stream)?;
    let ca = stream
        .conn
        .peer_certificates()
        .and_then(|chain| chain.iter().find(|one| tls::Fingerprint::of(one) == enrolment.ca))
        .ok_or_else(|| io::Error::other("the master did not send the CA's certificate"))?
        .clone()
        .into_owned();
    Ok((reply, ca))
}
