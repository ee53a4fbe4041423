//! The image as one file, for roots in memory.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{BuildError, Progress, at, chroot};

/// Packs `root` into `out`, the same octets for the same tree; gives its SHA-256 in hexadecimal.
pub fn build(root: &Path, out: &Path, progress: &mut dyn FnMut(Progress)) -> Result<String, BuildError> {
    let mut command = Command::new("mksquashfs");
    command.arg(root).arg(out);
    command.args(["-noappend", "-no-progress", "-quiet", "-no-xattrs", "-mkfs-time", "0"]);
    command.args(["-comp", "zstd", "-Xcompression-level", "12", "-b", "256K"]);
    // mksquashfs takes no time from this variable and from the command line at once.
    command.env_remove("SOURCE_DATE_EPOCH");
    chroot::run(&mut command, "mksquashfs", ("mksquashfs", "squashfs-tools"), progress)?;
    let mut hash = Sha256::new();
    let mut file = File::open(out).map_err(at(out))?;
    io::copy(&mut file, &mut hash).map_err(at(out))?;
    Ok(hash.finalize().iter().map(|octet| format!("{octet:02x}")).collect())
}
