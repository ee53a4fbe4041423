//! Words for a machine that the master does not boot and that is to be a node (`teselad join`).

use tesela_runtime::enroll::join::JoinToken;

use super::Site;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The caller's.
    #[error("there is no node `{0}` in the cluster; `tesela node list` shows all")]
    Unknown(String),
    /// cluster.yaml's.
    #[error(
        "{0} boots from the master, and has its keys signed at each boot: `boot: disk` in its profile is for one that joins"
    )]
    Boots(String),
    /// Ours.
    #[error("the cluster's CA: {0}")]
    Ca(String),
}

impl Site {
    /// What a machine is to be told so that it joins as this node, from now on for a quarter of an hour and once.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join_token(&self, name: &str) -> Result<JoinToken, JoinError> {
        let generation = self.current();
        let node = generation.node(name).ok_or_else(|| JoinError::Unknown(name.to_owned()))?;
        if !node.has_own_system() {
            return Err(JoinError::Boots(name.to_owned()));
        }
        let ca = self.keys().ca_sha256.parse().map_err(JoinError::Ca)?;
        Ok(JoinToken { node: name.to_owned(), ca, secret: self.tokens.issue_join(name) })
    }
}
