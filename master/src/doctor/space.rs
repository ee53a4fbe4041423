//! Room for the state directory: images, nodes' writes and the database.

use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use tesela_runtime::doctor::Finding;

/// Without so much, nodes' writes are refused soon.
const NEEDED: u64 = 256 << 20;
/// What an image takes to be built.
const FOR_AN_IMAGE: u64 = 4 << 30;

/// Octets and files that can still be written where `directory` is; of one that is not there, where it would be.
pub(super) fn of(directory: &Path) -> io::Result<(u64, u64)> {
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let told = statvfs(there)?;
    // Of a file system that makes inodes as they are needed, none are counted.
    let files = if told.files() == 0 { u64::MAX } else { told.files_available() };
    Ok((told.blocks_available() * told.fragment_size(), files))
}

/// Whether there is enough.
pub(super) fn left(directory: &Path, free: io::Result<(u64, u64)>) -> Finding {
    const WHAT: &str = "space";
    let place = directory.display();
    let mend = "take away what is not needed there, or move it to a bigger disk: --state names another place";
    match free {
        Err(error) => Finding::warn(WHAT, format!("{place} cannot be looked at: {error}"), "run it as root"),
        Ok((_, 0..1000)) => Finding::fail(WHAT, format!("{place} has no more inodes (`df -i`)"), mend),
        Ok((free, _)) if free < NEEDED => Finding::fail(
            WHAT,
            format!("{place} has {} MiB left: nodes' writes will be refused", free >> 20),
            mend,
        ),
        Ok((free, _)) if free < FOR_AN_IMAGE => Finding::warn(
            WHAT,
            format!("{place} has {} MiB left: too little to build an image", free >> 20),
            mend,
        ),
        Ok((free, _)) => Finding::ok(WHAT, format!("{place} has {} GiB left", free >> 30)),
    }
}

#[cfg(test)]
mod tests {
    use tesela_runtime::doctor::Verdict::{Fail, Ok as Well, Warn};

    use super::*;

    #[test]
    fn space_is_enough_little_or_gone() {
        let verdict = |free: io::Result<(u64, u64)>| left(Path::new("/s"), free).verdict;
        assert_eq!(verdict(Ok((9 << 30, u64::MAX))), Well);
        assert_eq!(verdict(Ok((1 << 30, 5000))), Warn);
        assert_eq!(verdict(Ok((1 << 20, 5000))), Fail);
        assert_eq!(verdict(Ok((9 << 30, 3))), Fail);
        assert_eq!(verdict(Err(io::ErrorKind::PermissionDenied.into())), Warn);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_looked_at_where_it_would_be() {
        assert!(of(Path::new("/no such directory/state")).unwrap().0 > 0);
    }
}
