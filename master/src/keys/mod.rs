//! The keys of the cluster: its CA, what the CA signs, and one-time tokens.
//!
//! | file in STATE/keys | what | made |
//! |---|---|---|
//! | `ca.pem` | the cluster's CA: its ed25519 key and its certificate | once |
//! | `ssh_host_ca`, `ssh_user_ca` | the CAs of ssh host and user certificates (OpenSSH, ed25519) | once |
//! | `ssh_master`, `ssh_master-cert.pub` | the key with which this machine opens nodes, and its certificate | once |
//! | `ssh_known_hosts` | the host CA, as `ssh` reads it | at every start |
//! | `enrolled/NODE` | when the token was issued with which NODE got its last certificate, and which that is | at every boot of NODE |
//!
//! The directory is for its owner alone. Each file is written beside its place, synced and renamed, under
//! a lock on the directory, so that neither a crash nor a second process leaves half of one.
//!
//! # What ends a certificate
//! Nothing here has an end in time, for the clock of a diskless PC is often wrong and the master would
//! have to outlive every renewal. A node's certificate ends with its next one (at each boot), and with
//! the node itself when it leaves cluster.yaml: the control port honours only the certificate that it
//! issued last to the node that holds the caller's address. A machine that has joined (`boot: disk`) keeps its certificate
//! until it joins again, and may call from another address: it holds that one then. Host certificates for ssh are honoured by the
//! nodes for the names and addresses of the members that their rendered `ssh_known_hosts` and
//! `shosts.equiv` list, and for no other.
//!
//! # Tokens
//! A token says when it was issued, and carries a MAC over that, the node and its address; so it needs no
//! memory, and a restart of the master between boot script and enrolment costs nothing. It is good for
//! [`TOKEN_LIFE`] from then or from the last file that the node's loader fetched ([`Keys::fetched`]), and
//! once: what it enrols is on the disk before the answer leaves. The same token with the same key gets
//! the same certificate again, so an answer that was lost can be asked for again.

mod enrolled;
pub mod fuzz;
mod ssh;
mod store;
mod token;
mod x509;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tesela_runtime::enroll::{KeyError, NodeKeys, Unsigned};
use tesela_runtime::wire::tls::Fingerprint;
use tesela_runtime::wire::{EnrollRequest, Enrolled};

pub use ssh::{MASTER_PRINCIPAL, client_arguments};
pub use token::{JOIN_LIFE, TOKEN_LIFE, TokenError};

use enrolled::{Enrolment, Register};

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written: the machine's fault.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of keys does not hold what it should.
    #[error(
        "{} does not hold {expected}: {problem}; restore it from a copy, or remove the directory for a \
         new CA (every node then has to boot again)",
        path.display()
    )]
    Content {
        /// Which.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Making a key or a certificate failed: ours.
    #[error("cannot make {what}: {problem}")]
    Make {
        /// What.
        what: &'static str,
        /// Why.
        problem: String,
    },
    /// The node's request is not one: the node's fault.
    #[error("the request for a certificate does not hold: {0}")]
    Request(String),
    /// The node's token is not good: the node's fault, or it took too long.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// The keys of a cluster.
pub struct Keys {
    ca: x509::Ca,
    ssh: ssh::Cas,
    tokens: token::Tokens,
    enrolled: Register,
}

/// A node that asks for its keys to be signed, with its place in the cluster.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub node: &'a str,
    /// The address that it has, and calls from.
    pub address: Ipv4Addr,
    /// It joins, and does not boot.
    pub joins: bool,
    /// What other members call it by, its address included: the principals of its ssh certificate.
    pub names: Vec<String>,
}

impl Keys {
    /// Opens STATE/keys, and makes what is not there.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Content`], [`Error::Make`].
    pub fn open(directory: &Path, cluster: &str) -> Result<Self, Error> {
        let store = store::Store::open(directory)?;
        let ca = x509::Ca::open(&store, cluster)?;
        Ok(Keys {
            tokens: token::Tokens::new(ca.secret("enrolment token")),
            ssh: ssh::Cas::open(&store, cluster)?,
            enrolled: Register::open(&directory.join("enrolled"))?,
            ca,
        })
    }

    /// What nodes know the CA by: `tesela.ca=` on their kernel command line.
    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.ca.certificate())
    }

    /// The public half of the CA of host certificates, as one line of OpenSSH.
    pub fn ssh_host_ca(&self) -> &str {
        &self.ssh.host_ca_line
    }

    /// The public half of the CA of user certificates, as one line of OpenSSH.
    pub fn ssh_user_ca(&self) -> &str {
        &self.ssh.user_ca_line
    }

    /// The TLS side of the control port, with a key of its own that nobody keeps.
    ///
    /// # Errors
    /// [`Error::Make`].
    pub fn server_config(&self, address: Ipv4Addr) -> Result<Arc<ServerConfig>, Error> {
        self.ca.server_config(address)
    }

    /// A token for a node that is being sent its boot script. `address`: the one that it will call from;
    /// `None` where another DHCP server may give it a new one in between.
    pub fn issue_token(&self, node: &str, address: Option<Ipv4Addr>) -> String {
        self.tokens.issue(node, address, token::now())
    }

    /// A token for a machine that is to join as this node, good for [`JOIN_LIFE`] and once.
    pub fn issue_join_token(&self, node: &str) -> String {
        self.tokens.issue_join(node, token::now())
    }

    /// The node's loader has just fetched a file (kernel, initramfs): its token's life starts anew.
    pub fn fetched(&self, node: &str) {
        self.tokens.fetched(node, token::now());
    }

    /// Checks the token, signs the keys, and puts on record that this token is used and this certificate
    /// is the node's. Writes to the disk.
    ///
    /// # Errors
    /// [`Error::Token`] and [`Error::Request`] are the node's; the others are ours.
    pub fn enroll(&self, candidate: &Candidate<'_>, request: &EnrollRequest) -> Result<Enrolled, Error> {
        let now = token::now();
        let issued = self.issued(candidate, request, now)?;
        let certificate = self.ca.sign_node(candidate.node, &request.certificate_request)?;
        let ssh_host_certificate =
            self.ssh.sign_host(candidate.node, &request.ssh_host_public_key, &candidate.names)?;
        let enrolment = Enrolment { issued, certificate: Fingerprint::of(certificate.der()) };
        self.enrolled.record(candidate.node, enrolment, now)?;
        Ok(self.signed(certificate.pem(), ssh_host_certificate))
    }

    /// Whether the token is one for this node. It can still be used.
    ///
    /// # Errors
    /// [`Error::Token`].
    pub fn check(&self, candidate: &Candidate<'_>, request: &EnrollRequest) -> Result<(), Error> {
        self.issued(candidate, request, token::now()).map(drop)
    }

    fn issued(&self, candidate: &Candidate<'_>, request: &EnrollRequest, now: u64) -> Result<u64, Error> {
        Ok(if candidate.joins {
            self.tokens.check_join(&request.token, candidate.node, now)?
        } else {
            self.tokens.check(&request.token, candidate.node, candidate.address, now)?
        })
    }

    /// Keys for an agent of the master's own, made and signed as a node's are.
    ///
    /// # Errors
    /// [`Error::Make`].
    pub fn own(&self, node: &str, address: Ipv4Addr) -> Result<NodeKeys, Error> {
        let make = |problem: KeyError| Error::Make {
            what: "keys for the master's own agent",
            problem: problem.to_string(),
        };
        let unsigned = Unsigned::generate(node).map_err(make)?;
        let certificate = self.ca.sign_node(node, unsigned.certificate_request())?;
        let names = [node.to_owned(), address.to_string()];
        let host_key = unsigned.ssh_host_public_key().map_err(make)?;
        let ssh_host_certificate = self.ssh.sign_host(node, &host_key, &names)?;
        let signed = self.signed(certificate.pem(), ssh_host_certificate);
        unsigned.signed(signed, self.ca.certificate()).map_err(make)
    }

    fn signed(&self, certificate: String, ssh_host_certificate: String) -> Enrolled {
        let cluster_key = base64::engine::general_purpose::STANDARD.encode(self.ca.secret("discovery"));
        Enrolled { certificate, ssh_host_certificate, cluster_key, config: None }
    }

    /// The node that got this certificate last.
    pub fn holder(&self, certificate: &CertificateDer<'_>) -> Option<String> {
        self.enrolled.holder(Fingerprint::of(certificate))
    }

    /// Whether this is the certificate that the node got last.
    pub fn is_current(&self, node: &str, certificate: &CertificateDer<'_>) -> bool {
        self.enrolled.current(node) == Some(Fingerprint::of(certificate))
    }
}

#[cfg(test)]
mod tests;
