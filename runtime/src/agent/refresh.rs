//! Making the kernel's NFS client see at once what was rendered anew.
//!
//! A rendered file that changes is a new object under the old name, and its directory gets a new mtime.
//! The client would find that out by itself, but only when its cached attributes of the directory run
//! out (up to `acdirmax`, 60 s): until then a path walk takes the dentries that it has, and an open gets
//! the old object. `statx(2)` with `AT_STATX_FORCE_SYNC` on the directory sends a GETATTR whatever is
//! cached; as the mtime it brings is another, the client gives the directory a new change verifier, with
//! which no dentry under it (negative ones included) passes revalidation any more, so that the next walk
//! does a LOOKUP and finds the new object. What has the old one open or mapped keeps it.
//!
//! So every directory on the way to a changed path is looked at, from the root down, since a directory
//! can have been replaced as well; then the path itself, for what changed in place.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::sys;
use crate::wire::{Refresh, Refreshed};

/// Looks again at each path and at the directories that lead to it. Blocks for as long as the file
/// server takes.
pub fn look_again(request: &Refresh) -> Refreshed {
    let mut failed = Vec::new();
    for path in to_look_at(request.paths.iter().map(Path::new)) {
        match sys::statx_force_sync(&path) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => failed.push(format!("{}: {error}", path.display())),
        }
    }
    // The answer has to fit a frame; the first few tell what is the matter.
    failed.truncate(8);
    Refreshed { id: request.id, failed }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The paths and all their ancestors, each once, parents first. What is not absolute and plain (`..`) is
/// left out: the master renders no such path.
fn to_look_at<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let plain = |path: &&Path| {
        path.is_absolute() && path.components().all(|part| !matches!(part, Component::ParentDir))
    };
    let all: BTreeSet<&Path> = paths.filter(plain).flat_map(Path::ancestors).collect();
    // Paths are ordered by their components, so a parent comes before its children.
    all.into_iter().map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_come_first_and_once() {
        let paths = ["/etc/ssh/ssh_config", "/etc/hosts", "etc/x", "/a/../b"].map(Path::new);
        let looked_at = to_look_at(paths.into_iter());
        let expected = ["/", "/etc", "/etc/hosts", "/etc/ssh", "/etc/ssh/ssh_config"];
        assert_eq!(looked_at, expected.map(PathBuf::from));
    }

    #[test]
    fn what_is_gone_is_no_failure() {
        let paths = vec!["/etc/hostname/x".into(), "/nonexistent/y".into(), "/".into()];
        assert_eq!(look_again(&Refresh { id: 3, paths }), Refreshed { id: 3, failed: vec![] });
        let long = format!("/{}", "x".repeat(300));
        assert_eq!(look_again(&Refresh { id: 4, paths: vec![long] }).failed.len(), 1);
    }
}
