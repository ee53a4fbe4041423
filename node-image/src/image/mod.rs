//! Root images: made from Debian packages, this machine, a directory or an archive; kept by build.
//!
//! ```text
//! images/NAME/current -> BUILD     swapped in whole
//! images/NAME/BUILD/root/          the tree
//!                   index          its inodes and names (crate::index)
//!                   kernel         initramfs
//!                   root.squashfs  only where a profile has `root: ram`
//!                   build.json     what it was made of, and what was left out
//! images/NAME/.building-PID/       a build that is not done: removed by the next one
//! ```
//!
//! A build is complete and never changes; an older one stays until [`remove_build`] or [`prune`], for
//! nodes may still run from it. All that changes lies in one rename, so a crash or a full disk at any
//! moment leaves the image as it was.

mod archive;
mod build;
mod chroot;
mod copy;
mod debian;
mod digest;
mod fixups;
mod squashfs;
mod store;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use archive::{ArchiveError, fuzz as fuzz_archive};
pub use build::build;
pub use store::{ImageInfo, current, list, prune, remove, remove_build};

use crate::index::IndexError;
use crate::initramfs::InitramfsError;
use crate::kernel::KernelError;

/// What to build.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImageSpec {
    /// Its name: one path component that does not begin with a dot.
    pub name: String,
    /// What it is made from.
    pub source: Source,
    /// Debian packages to add.
    pub packages: Vec<String>,
    /// A program of the master's, run at the end with the image's root as its argument.
    pub post_install: Option<PathBuf>,
    /// Where Debian packages come from; `None`: the master's own sources.
    pub mirror: Option<String>,
    /// Files of the master's that every node gets, each with its path in the image and its mode
    /// (the agent and its unit). They count among what the image is made of.
    pub extra: Vec<ExtraFile>,
    /// Whether a squashfs is wanted (`root: ram`).
    pub squashfs: bool,
    /// Build even where nothing has changed: newer packages may be there.
    pub refresh: bool,
}

/// A file put into an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ExtraFile {
    /// Its path in the image.
    pub path: String,
    /// Its content.
    pub content: FileContent,
    /// Its mode.
    pub mode: u32,
}

/// What a file put into an image holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum FileContent {
    /// This text.
    Text(String),
    /// What this file of the master's holds.
    CopyOf(PathBuf),
    /// It is a symbolic link to this path.
    Link(String),
}

/// `from:` of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Source {
    /// A Debian suite, by mmdebstrap.
    Debian(String),
    /// This machine's own system, from this mount point.
    Host(PathBuf),
    /// A copy of a directory.
    Directory(PathBuf),
    /// A plain, docker-save or OCI archive, also compressed.
    Archive(PathBuf),
}

/// How far a build is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// A step begins.
    Step {
        /// Its number, from 1.
        number: u32,
        /// How many there are.
        of: u32,
        /// What is being done.
        what: String,
    },
    /// Within a step: a line of what a program says.
    Detail(String),
}

/// An image that can be booted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuiltImage {
    /// Its name.
    pub name: String,
    /// The build's id, which is the name of its folder.
    pub build: String,
    /// Its folder.
    pub path: PathBuf,
    /// What is known about it.
    pub info: BuildInfo,
    /// Whether it was there already.
    pub reused: bool,
}

/// `build.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BuildInfo {
    /// Digest of all that the image is made of.
    pub inputs: String,
    /// `from:`, as written in cluster.yaml.
    pub source: String,
    /// `uname -r` of its kernel.
    pub kernel: String,
    /// When it was built, in seconds since 1970.
    pub built_at: u64,
    /// How long that took, in seconds.
    pub seconds: u64,
    /// How many inodes it has.
    pub inodes: u32,
    /// Octets of its regular files.
    pub size: u64,
    /// Octets of the initramfs.
    pub initramfs_size: u64,
    /// Digest of the stage1 in the initramfs.
    pub stage1: String,
    /// Files whose extended attributes, ACLs or file capabilities an NFSv3 root cannot carry, each with
    /// the attributes' names; at most 1000 are named.
    pub dropped_xattrs: Vec<(String, Vec<String>)>,
    /// SHA-256 of `root.squashfs`, in hexadecimal.
    pub squashfs_sha256: Option<String>,
}

/// Why an image could not be built. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The name cannot be one; cluster.yaml is at fault.
    #[error("`{0}` cannot be the name of an image: one path component without a leading dot is due")]
    Name(String),
    /// Another build of the image is running.
    #[error("the image {name} is being built by another process (lock {})", .lock.display())]
    Busy {
        /// The image.
        name: String,
        /// The lock's file.
        lock: PathBuf,
    },
    /// The source is not there or is not what `from:` says; cluster.yaml is at fault.
    #[error("from: {from}: {problem}")]
    Source {
        /// `from:`.
        from: String,
        /// What is wrong.
        problem: String,
    },
    /// The disk is full.
    #[error("no room left in {} while building the image {name}; the build before it is untouched", .path.display())]
    DiskFull {
        /// The image.
        name: String,
        /// Where.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A program is missing on the master.
    #[error("`{program}` is not there: install the Debian package {package} on the master")]
    Missing {
        /// The program.
        program: &'static str,
        /// Its package.
        package: &'static str,
    },
    /// A program failed.
    #[error("{what} failed ({status}){}", said(.output))]
    Program {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: String,
        /// The last lines of what it said.
        output: Vec<String>,
    },
    /// An archive that cannot be taken.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The image has no kernel that can boot.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No initramfs could be made.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// No index could be made.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// There is no such image or build.
    #[error("there is no image {0}; `tesela image list` shows those that are there")]
    Unknown(String),
}

fn said(output: &[String]) -> String {
    output.iter().map(|line| format!("\n  {line}")).collect()
}

/// Names the file in an I/O error.
fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.into();
    move |error| BuildError::File { path, error }
}

impl BuildError {
    /// Says of an error whether the full disk is behind it.
    fn or_disk_full(self, name: &str, path: &std::path::Path) -> Self {
        // A program that ran out of room says so only in words.
        let full = match &self {
            Self::File { error, .. } => error.kind() == io::ErrorKind::StorageFull,
            Self::Program { output, .. } => {
                output.iter().any(|line| line.contains("No space left on device"))
            }
            Self::Archive(ArchiveError::Io { error, .. }) => error.kind() == io::ErrorKind::StorageFull,
            _ => false,
        };
        if full { Self::DiskFull { name: name.to_owned(), path: path.to_owned() } } else { self }
    }
}
