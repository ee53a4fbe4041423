//! What was learnt of a node, and what it wrote, goes.

use crate::inventory::{NodeState, Stage};

use super::Site;

/// Why a node was not forgotten: nothing is changed.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Nothing is known of it.
    #[error("nothing is known of a node `{0}`; `tesela node list` shows all nodes of the cluster")]
    Unknown(String),
    /// It runs.
    #[error(
        "{node} is at stage {stage}: power it off and wait until it is `down`, for what it has would go while it runs"
    )]
    Runs {
        /// Which.
        node: String,
        /// How far it is.
        stage: Stage,
    },
    /// The master cannot.
    #[error("{0}")]
    Ours(String),
}

impl Site {
    /// Forgets what was learnt of a node that does not run, and what it wrote if cluster.yaml has it no more;
    /// answers whether it has.
    ///
    /// # Errors
    /// [`ForgetError`].
    pub fn forget(&self, name: &str) -> Result<bool, ForgetError> {
        let is_node = self.current().node(name).is_some();
        let state = self.inventory.node(name);
        if let Some(NodeState { stage, .. }) = state.as_ref().filter(|state| runs(state)) {
            return Err(ForgetError::Runs { node: name.to_owned(), stage: *stage });
        }
        let wrote = match self.roots().filter(|_| !is_node) {
            Some(roots) => roots.forget(name).map_err(ForgetError::Ours)?,
            None => false,
        };
        if !is_node && !wrote && state.is_none() {
            return Err(ForgetError::Unknown(name.to_owned()));
        }
        self.inventory.forget(name);
        Ok(is_node)
    }
}

/// Whether a node runs, or boots and is not stuck: the master has no other word of one whose power was cut.
fn runs(state: &NodeState) -> bool {
    match state.stage {
        Stage::Member | Stage::Silent => true,
        Stage::Powered | Stage::Dhcp | Stage::Down => false,
        _ => state.overran.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::boot::testing;
    use crate::inventory::Sighting;

    #[test]
    fn a_node_that_runs_or_never_was_is_not_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let aula = include_str!("../../../configs/aula.yaml");
        std::fs::write(state.path().join("cluster.yaml"), aula).unwrap();
        let site = testing::open(state.path(), Arc::default()).unwrap();
        assert!(matches!(site.forget("n1000"), Err(ForgetError::Unknown(_))));
        assert!(site.forget("n1").unwrap(), "it is a node, though nothing was learnt of it yet");
        let machine = "02:00:00:00:00:01".parse().unwrap();
        let machine = Sighting { mac: machine, uuid: None, firmware: None, vendor: None, address: None };
        for name in ["n1", "left"] {
            site.inventory.reached(name, Stage::Member, &machine, "is a member");
            assert!(matches!(site.forget(name), Err(ForgetError::Runs { .. })), "{name}");
            site.inventory.reached(name, Stage::Dhcp, &machine, "asks for an address");
            assert_eq!(site.forget(name).unwrap(), name == "n1");
            assert!(site.inventory.node(name).is_none());
        }
        assert!(matches!(site.forget("left"), Err(ForgetError::Unknown(_))));
    }
}
