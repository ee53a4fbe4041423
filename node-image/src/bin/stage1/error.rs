//! What can stop a node on its way to its root.

use std::io;
use std::path::PathBuf;

use tesela_node_image::stage1::cmdline::CmdlineError;
use tesela_node_image::stage1::modules::ModuleListError;

/// Why a node cannot boot, in words for whoever stands before its screen.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The boot script is at fault.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The initramfs is at fault: build the image again.
    #[error("the initramfs is damaged: {0}; build the image again")]
    Modules(#[from] ModuleListError),
    /// A file of the kernel's or of ours.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A mount.
    #[error("cannot mount {what}: {error}{}", .hint)]
    Mount {
        /// What.
        what: String,
        /// Why.
        error: io::Error,
        /// What to look at.
        hint: &'static str,
    },
    /// No interface has come up.
    #[error("no network interface to boot from{wanted}; {seen}")]
    NoInterface {
        /// ` with the address …`, where BOOTIF names one.
        wanted: String,
        /// Interfaces and network devices that are there.
        seen: String,
    },
    /// Nobody gave an address.
    #[error("no DHCP server gave {interface} an address in {seconds} s{detail}")]
    NoLease {
        /// The interface.
        interface: String,
        /// How long it was asked for.
        seconds: u64,
        /// What a server said.
        detail: String,
    },
    /// Setting an interface up.
    #[error("cannot {what} of {interface}: {error}")]
    Interface {
        /// The interface.
        interface: String,
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// HTTP from the master.
    #[error("http://{master}{path}: {problem}")]
    Http {
        /// Address and port.
        master: String,
        /// The path asked for.
        path: String,
        /// What went wrong.
        problem: String,
    },
    /// The master did not sign the node's keys.
    #[error("{0}")]
    Enroll(String),
    /// The new root cannot be entered.
    #[error("cannot enter the new root: {0}")]
    Switch(String),
}

/// Names the file in an I/O error.
pub fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BootError {
    let path = path.into();
    move |error| BootError::File { path, error }
}
