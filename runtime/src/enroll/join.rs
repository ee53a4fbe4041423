//! `teselad join`: a machine that the master does not boot becomes a member.
//!
//! `tesela node token NODE` on the master prints a token: the node's name, the fingerprint of the cluster's CA, and what is
//! good for one enrolment within a quarter of an hour. With it the machine's keys are signed as those of a node that boots
//! are, and kept on its disk ([`KEYS`]), where its agent finds them from then on.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{EnrollError, Enrolment, NodeKeys, enroll};
use crate::agent::{Config, ConfigError};
use crate::durable;
use crate::wire::tls::Fingerprint;

/// Where such a machine has its keys.
pub const KEYS: &str = "/var/lib/tesela/agent";
/// Where its agent keeps its own files, in memory.
const KEPT: &str = "/run/tesela";
/// How long the master may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a machine joins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The node that it is to be.
    pub node: String,
    /// The cluster's CA.
    pub ca: Fingerprint,
    /// The one-time token.
    pub secret: String,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.node, self.ca, self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(node), Some(ca), Some(secret), None) if !node.is_empty() && !secret.is_empty() => {
                Ok(Self { node: node.to_owned(), ca: ca.parse()?, secret: secret.to_owned() })
            }
            _ => Err(format!(
                "`{text}` is no token: `tesela node token NODE` on the master prints one, NODE:CA:SECRET"
            )),
        }
    }
}

/// Why a machine has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The caller's.
    #[error("only root can have this machine join a cluster")]
    NotRoot,
    /// It is a member of another one.
    #[error("this machine is {node} of the cluster {cluster} already; to leave that one remove {}", path.display())]
    Member {
        /// Its name there.
        node: String,
        /// Which.
        cluster: String,
        /// The agent's configuration.
        path: PathBuf,
    },
    /// What is there already cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The master, or the token.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// The master's.
    #[error("the master sends no configuration for an agent: it boots this node from the network")]
    NoConfig,
    /// The master's: a template of its is wrong.
    #[error("the configuration that the master sends does not hold: {0}")]
    Content(#[from] serde_json::Error),
    /// This machine's.
    #[error("{}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Has this machine's keys signed, and leaves what its agent needs: the configuration at `path`, the keys in `keys`.
/// Returns what the agent will read. Blocks.
///
/// # Errors
/// [`JoinError`]; a machine that was no member before is none then.
pub fn join(master: SocketAddrV4, token: &JoinToken, path: &Path, keys: &Path) -> Result<Config, JoinError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(JoinError::NotRoot);
    }
    let before = match Config::read(path) {
        Ok(config) => Some(config),
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let enrolment = Enrolment { node: token.node.clone(), master, ca: token.ca, token: token.secret.clone() };
    // Before the token is used up.
    let is_of = |keys: &Path| NodeKeys::identity(keys).is_ok_and(|(_, ca)| Fingerprint::of(&ca) == token.ca);
    if let Some(config) = before
        && (config.keys != keys || config.node != token.node || !is_of(keys))
    {
        let Config { node, cluster, .. } = config;
        return Err(JoinError::Member { node, cluster, path: path.to_owned() });
    }
    let signed = enroll(&enrolment, PATIENCE)?;
    let mut config: Config = serde_json::from_str(signed.config().ok_or(JoinError::NoConfig)?)?;
    (config.master, config.control_port) = (*master.ip(), master.port());
    config.keys = keys.to_owned();
    config.kept = Some(KEPT.into());
    config.peers = keys.join("peers.json");
    signed.store(keys).map_err(EnrollError::from)?;
    // The master says who there is once the agent is connected.
    let failed = |path: &Path, source| JoinError::Write { path: path.to_owned(), source };
    config.set_peers(&[]).map_err(|source| failed(&config.peers, source))?;
    let text = serde_json::to_vec_pretty(&config)?;
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = made.and_then(|()| durable::replace(path, &text, Some(0o644)));
    written.map_err(|source| failed(path, source))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let token = JoinToken { node: "cristina".into(), ca: Fingerprint([7; 32]), secret: "ab12".into() };
        assert_eq!(token.to_string().parse::<JoinToken>(), Ok(token));
        let ca = "07".repeat(32);
        for text in ["", "x", "a:b:c", &format!("a:{ca}"), &format!(":{ca}:s"), &format!("a:{ca}:s:t")] {
            assert!(text.parse::<JoinToken>().is_err(), "{text}");
        }
    }
}
