//! What can go wrong with the nodes' roots, apart from what a node is answered.

use std::io;
use std::path::{Path, PathBuf};

use tesela_node_image::index::IndexError;

use crate::nfs::fs::Status;

/// Why something could not be done to a node's root.
#[derive(Debug, thiserror::Error)]
pub enum UnionError {
    /// The state directory cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The journal is whole, yet says what cannot be: a fault of this program or of the disk.
    #[error(
        "{path}: the journal of the node's writes does not hold; move the directory away to start \
         the node without them"
    )]
    Journal {
        /// Where.
        path: PathBuf,
    },
    /// The index of the node's image cannot be read.
    #[error("node {node}: {source}; `tesela image build {image} --refresh` builds the image anew")]
    Image {
        /// The node.
        node: String,
        /// Its image.
        image: String,
        /// Why.
        source: IndexError,
    },
    /// What the node wrote is kept, and the build that it wrote it on is no more.
    #[error(
        "node {node}: what it wrote is kept, and the build {} that it wrote it on cannot be read ({source}): bring \
         that back, or move {} away to have the node begin without its writes",
        build.display(),
        writes.display()
    )]
    Lost {
        /// The node.
        node: String,
        /// Where the build was.
        build: PathBuf,
        /// Where the writes are.
        writes: PathBuf,
        /// Why the build cannot be read.
        source: IndexError,
    },
    /// There is no such node.
    #[error("there is no node {0} with an NFS root")]
    UnknownNode(String),
    /// There is no such path on the node.
    #[error("node {node}: {path}: {what}")]
    Path {
        /// The node.
        node: String,
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The rendered files of one node are too much.
    #[error("node {node}: the rendered files have over {} octets in all", super::rendered::MOST)]
    TooMuch {
        /// The node.
        node: String,
    },
    /// A change was refused as a node's own would be.
    #[error("node {node}: {status:?}")]
    Refused {
        /// The node.
        node: String,
        /// Why.
        status: Status,
    },
}

/// A node that is not served.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unserved {
    /// Which; `None`: none of them is.
    pub node: Option<String>,
    /// Why.
    pub error: UnionError,
}

impl UnionError {
    /// What the system says of a path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// What a node is answered when the master's disk fails.
pub fn status(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Status::NFS3ERR_NOSPC,
        io::ErrorKind::FileTooLarge => Status::NFS3ERR_FBIG,
        _ => {
            tracing::error!(%error, "the disk of the nodes' writes fails");
            Status::NFS3ERR_IO
        }
    }
}
