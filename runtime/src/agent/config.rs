//! `/etc/tesela/teselad.json`, as the master renders it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    /// The directory where stage1 left the node's keys.
    #[serde(default = "Config::default_keys")]
    pub keys: PathBuf,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; the master renders it at the boot of the node", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hold: an override of its template is wrong.
    #[error("{}: {source}; see the template root/etc/tesela/teselad.json on the master", path.display())]
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
        let text = fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| ConfigError::Content { path: path.to_owned(), source })
    }

    fn default_keys() -> PathBuf {
        PathBuf::from("/run/tesela")
    }
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
}
