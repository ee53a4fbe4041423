//! `/etc/tesela/teselad.json` and `peers.json`, as the master renders them, or as `teselad join` writes them.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Peer, Peers};
use crate::balance::Share;
use crate::discovery::{Map, own_address};
use crate::durable;
use crate::wire::AGENTS_PORT;
use crate::wire::local::{Change, Settings};

/// What the agent has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// The master's address.
    pub master: Ipv4Addr,
    /// TCP port of the control channel.
    pub control_port: u16,
    /// TCP port of the master's HTTP, for `teselad report`.
    pub http_port: u16,
    /// The directory with the node's keys, where stage1 or `teselad join` left them.
    #[serde(default = "Config::default_keys")]
    pub keys: PathBuf,
    /// The directory where the agent keeps its own files, in memory; none: that of the keys.
    #[serde(default)]
    pub kept: Option<PathBuf>,
    /// Where openMosix's tree is shown ([`crate::hpc`]); none: nowhere.
    #[serde(default = "Config::default_hpc")]
    pub hpc: Option<PathBuf>,
    /// The node's own address, where it hears other agents; none: all that it has.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// TCP port of the agents, the same on all nodes.
    #[serde(default = "Config::default_agents_port")]
    pub agents_port: u16,
    /// Whether processes of root's from other nodes may run here.
    #[serde(default)]
    pub trusted: bool,
    /// The speed of one of its processors; none: as it is measured.
    #[serde(default)]
    pub speed: Option<u32>,
    /// When this node shares its load.
    #[serde(default)]
    pub share: Share,
    /// The list of nodes ([`super::Peers`]).
    #[serde(default = "Config::default_peers")]
    pub peers: PathBuf,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; the master renders it at the boot of a node, and `teselad join` writes it on a machine with its own system", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hold: an override of its template is wrong.
    #[error("{}: {source}; see the template root{} on the master", path.display(), path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
}

impl Config {
    /// Where it lies on a node.
    pub const PATH: &str = "/etc/tesela/teselad.json";

    /// Reads it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        parsed(path)
    }

    fn default_keys() -> PathBuf {
        PathBuf::from("/run/tesela")
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the field is")]
    fn default_hpc() -> Option<PathBuf> {
        Some(crate::hpc::PLACE.into())
    }

    fn default_agents_port() -> u16 {
        AGENTS_PORT
    }

    fn default_peers() -> PathBuf {
        PathBuf::from("/etc/tesela/peers.json")
    }

    /// Its own address; where none is given, the one that leaves towards the master.
    ///
    /// # Errors
    /// It has none.
    pub fn own_address(&self) -> io::Result<Ipv4Addr> {
        self.address.map_or_else(|| own_address(self.master), Ok)
    }

    /// The agent's socket for the node's own users: [`crate::wire::local::SOCKET`] on a node.
    pub fn socket(&self) -> PathBuf {
        self.kept().join("agent.sock")
    }

    /// The directory where the agent keeps its own files.
    pub fn kept(&self) -> &Path {
        self.kept.as_deref().unwrap_or(&self.keys)
    }

    /// Whether this is the master's own agent.
    pub fn is_masters(&self) -> bool {
        self.address == Some(self.master)
    }

    /// How the node takes part: in memory, so until it boots again.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn settings(&self) -> io::Result<Settings> {
        match fs::read(self.settings_file()) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(error) => Err(error),
        }
    }

    /// Changes how the node takes part, and says how it does then.
    ///
    /// # Errors
    /// Those of reading and writing it down.
    pub fn set(&self, change: &Change) -> io::Result<Settings> {
        let mut settings = self.settings()?;
        settings.change(change);
        let new = self.kept().join("settings.new");
        fs::write(&new, serde_json::to_vec(&settings)?)?;
        fs::rename(new, self.settings_file())?;
        Ok(settings)
    }

    fn settings_file(&self) -> PathBuf {
        self.kept().join("settings.json")
    }

    /// Why no guests are let in, if none are.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn is_blocked(&self) -> io::Result<Option<&'static str>> {
        let settings = self.settings()?;
        Ok(match settings {
            _ if settings.block => Some("`mosctl noblock` there lifts that"),
            _ if !settings.sharing => Some("its pool does not share now; `mosctl share` there lifts that"),
            _ => None,
        })
    }

    /// The map that was set by hand, until the node boots again; none: nodes are found by discovery.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn map(&self) -> io::Result<Option<Map>> {
        match fs::read_to_string(self.kept().join("map")) {
            Ok(text) => Map::parse(&text, |_| None).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets it, or takes it away.
    ///
    /// # Errors
    /// Those of writing it down.
    pub fn set_map(&self, map: Option<&Map>) -> io::Result<()> {
        let path = self.kept().join("map");
        match map {
            Some(map) => {
                let new = self.kept().join("map.new");
                fs::write(&new, map.to_string())?;
                fs::rename(new, path)
            }
            None => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Writes down what the master says that the nodes are.
    ///
    /// # Errors
    /// Those of writing it down.
    pub fn set_peers(&self, peers: &[Peer]) -> io::Result<()> {
        // All may know them, whatever the agent's umask.
        durable::replace(&self.peers, &serde_json::to_vec_pretty(peers)?, Some(0o644))
    }

    /// The nodes of the cluster, as they are now.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn peers(&self) -> Result<Peers, ConfigError> {
        Ok(Peers(parsed(&self.peers)?))
    }
}

fn parsed<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| ConfigError::Content { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_an_error_that_names_the_template() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("teselad.json");
        let good = r#"{"cluster": "aula", "node": "n1", "master": "192.168.45.1", "control_port": 7443,
                       "http_port": 80}"#;
        fs::write(&path, good).unwrap();
        assert_eq!(Config::read(&path).unwrap().keys, Path::new("/run/tesela"));
        fs::write(&path, good.replace("http_port", "htp_port")).unwrap();
        let error = Config::read(&path).unwrap_err().to_string();
        assert!(error.contains("htp_port") && error.contains("template"), "{error}");
    }

    #[test]
    fn every_key_is_in_the_manual() {
        let text = r#"{"cluster": "aula", "node": "n1", "master": "192.168.45.1", "control_port": 1, "http_port": 2}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        let page = include_str!("../../../packaging/man/teselad.8");
        for key in serde_json::to_value(config).unwrap().as_object().unwrap().keys() {
            assert!(page.split([' ', '\n', '"', ',']).any(|word| word == key), "{key}");
        }
    }
}
