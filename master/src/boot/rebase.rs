//! A node that keeps its writes goes to a newer build of its image.

use serde::{Deserialize, Serialize};

use crate::cluster::{Boot, Root};
use crate::inventory::{NodeState, Stage};

use super::Site;

/// What a rebase is, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebase {
    /// The build that the node was on: IMAGE/BUILD.
    pub from: String,
    /// The newest one.
    pub to: String,
    /// Whether the node has writes that are kept; without, it takes the newest build at its next boot by itself.
    pub kept: bool,
    /// Paths that the node and the newer build both changed: the node's version holds.
    pub conflicts: Vec<String>,
}

impl Rebase {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.from == self.to || !self.kept
    }
}

/// How a rebase is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebaseHow {
    /// Only tell what it would be.
    pub only_look: bool,
    /// Although the node seems to run.
    pub force: bool,
}

/// Why a node was not rebased: nothing is changed.
#[derive(Debug, thiserror::Error)]
pub enum RebaseError {
    /// There is no such node.
    #[error("there is no node `{0}` in the cluster; `tesela node list` shows all")]
    UnknownNode(String),
    /// It has no root here.
    #[error("{0} has no NFS root: it takes the newest build at each boot by itself")]
    NoRoot(String),
    /// It runs, on the root that would change under it.
    #[error(
        "{node} is at stage {stage}, and its root would be stale at once: power it off and wait until it is `down`; or give --force, and boot it again"
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
    /// Moves what a node wrote to the newest build of its image; the node must not run.
    ///
    /// # Errors
    /// [`RebaseError`].
    pub fn rebase(&self, name: &str, how: RebaseHow) -> Result<Rebase, RebaseError> {
        let generation = self.current();
        let node = generation.node(name).ok_or_else(|| RebaseError::UnknownNode(name.to_owned()))?;
        let settings = node.settings();
        if settings.boot.value != Boot::Network || settings.root.value != Root::Nfs {
            return Err(RebaseError::NoRoot(name.to_owned()));
        }
        let roots = self.roots().ok_or_else(|| RebaseError::Ours("the roots are not served yet".into()))?;
        let look = roots.rebase(self, node, true).map_err(RebaseError::Ours)?;
        if how.only_look || look.is_idle() {
            return Ok(look);
        }
        let running = self.inventory.node(name).filter(seems_to_run);
        if let Some(NodeState { stage, .. }) = running.filter(|_| !how.force) {
            return Err(RebaseError::Runs { node: name.to_owned(), stage });
        }
        let done = roots.rebase(self, node, false).map_err(RebaseError::Ours)?;
        let text = format!("its writes were moved from {} to {}", done.from, done.to);
        self.inventory.event(Some(name), None, None, text);
        Ok(done)
    }
}

/// Whether a node is on its root, or about to be with the kernel of the build that it is on.
fn seems_to_run(state: &NodeState) -> bool {
    let about_to = matches!(state.stage, Stage::Loader | Stage::Kernel) && state.overran.is_none();
    about_to || state.stage.has_root()
}
