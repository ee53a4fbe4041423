//! Follows what is rendered from: the templates of `/etc/tesela/templates`, an edit of which is in force a
//! moment after it is saved, and the addresses that nodes without a fixed one hold.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::boot::Site;

/// Puts each change of the templates in force until `stop`. A template that fails changes nothing, and is
/// told in the log and the history.
pub(super) async fn templates(site: Arc<Site>, stop: CancellationToken) {
    let directory = site.paths().templates.clone();
    let mut watch = match watch_tree(&directory) {
        Ok(Some(watch)) => watch,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "edits of templates are seen at `tesela apply` only");
            return;
        }
    };
    loop {
        tokio::select! {
            ready = watch.readable() => match ready {
                Ok(mut ready) => {
                    let edited = ready.get_inner().is_edited();
                    ready.clear_ready();
                    match edited {
                        // Which events they were does not matter: everything is read again.
                        Ok(true) => {}
                        Ok(false) => continue,
                        Err(error) => {
                            tracing::warn!(%error, "edits of templates are seen at `tesela apply` only");
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "edits of templates are seen at `tesela apply` only");
                    return;
                }
            },
            () = stop.cancelled() => return,
        }
        // New directories are to be followed as well.
        if let Err(error) = watch.get_mut().add_tree(&directory) {
            tracing::warn!(%error, "a directory of templates is not followed");
        }
        let site_now = Arc::clone(&site);
        let outcome = tokio::task::spawn_blocking(move || site_now.reload_templates()).await;
        match outcome {
            Ok(Ok(_)) => {
                site.inventory.event(None, None, None, "templates were edited, and are in force".into())
            }
            Ok(Err(error)) => {
                site.inventory.event(
                    None,
                    None,
                    None,
                    format!("templates were edited, and the old ones stay in force: {error}"),
                );
            }
            Err(error) => tracing::error!(%error, "reading the templates again failed"),
        }
    }
}

/// After so long without another address that changed, all nodes' files get those that did …
const QUIET: Duration = Duration::from_millis(500);
/// … and after so long in any case: a room that is switched on is rendered a few times, not once a node.
const LONGEST: Duration = Duration::from_secs(5);

/// Puts the addresses that nodes hold into all nodes' files, until `stop`. A lease that is renewed changes none.
pub(super) async fn held_addresses(site: Arc<Site>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = site.held_changed() => {}
            () = stop.cancelled() => return,
        }
        let last = Instant::now() + LONGEST;
        while timeout_at(last.min(Instant::now() + QUIET), site.held_changed()).await.is_ok() {
            if Instant::now() >= last || stop.is_cancelled() {
                break;
            }
        }
        let listing = Arc::clone(&site);
        match tokio::task::spawn_blocking(move || listing.list_held()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let told = format!("the addresses that nodes hold are not in their files: {error}");
                site.inventory.event(None, None, None, told);
            }
            Err(error) => tracing::error!(%error, "listing the nodes' addresses failed"),
        }
    }
}

/// An inotify descriptor that tokio can wait for.
struct Watch {
    inotify: Inotify,
    directories: HashMap<WatchDescriptor, PathBuf>,
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Watch {
    fn add_tree(&mut self, directory: &Path) -> nix::Result<()> {
        let edits = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ONLYDIR;
        let watched = self.inotify.add_watch(directory, edits)?;
        self.directories.insert(watched, directory.to_owned());
        let entries = std::fs::read_dir(directory)
            .map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Takes all events there are; whether any of them is of an edit that is whole.
    fn is_edited(&self) -> nix::Result<bool> {
        let mut edited = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => edited |= events.iter().any(|event| !self.is_begun(event)),
                Err(nix::errno::Errno::EAGAIN) => return Ok(edited),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether an event only tells of a regular file that is being written: empty now, or half of what it
    /// will be, it counts once it is closed.
    fn is_begun(&self, event: &InotifyEvent) -> bool {
        let path = event.name.as_ref().zip(self.directories.get(&event.wd));
        let path = path.map(|(name, directory)| directory.join(name));
        // A link to a file that was there has more than one name.
        let new = |path: PathBuf| {
            std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
        };
        event.mask.contains(AddWatchFlags::IN_CREATE) && path.is_some_and(new)
    }
}

fn watch_tree(directory: &Path) -> nix::Result<Option<AsyncFd<Watch>>> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let mut watch = Watch { inotify, directories: HashMap::new() };
    watch.add_tree(directory)?;
    #[expect(deprecated, reason = "a Watch keeps one descriptor for life, which is all that is asked of it")]
    AsyncFd::new(watch).map(Some).map_err(|_| nix::errno::Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_counts_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        let mut watch = Watch { inotify, directories: HashMap::new() };
        watch.add_tree(directory.path()).unwrap();
        let path = |name: &str| directory.path().join(name);
        let file = std::fs::File::create(path("motd")).unwrap();
        assert!(!watch.is_edited().unwrap(), "made, and still open");
        drop(file);
        assert!(watch.is_edited().unwrap(), "closed");
        std::os::unix::fs::symlink("motd", path("link")).unwrap();
        assert!(watch.is_edited().unwrap(), "a symbolic link is whole at once");
        std::fs::hard_link(path("motd"), path("name")).unwrap();
        assert!(watch.is_edited().unwrap(), "another name of a file that is whole");
        std::fs::create_dir(path("etc")).unwrap();
        assert!(watch.is_edited().unwrap(), "a directory is to be followed");
        watch.add_tree(directory.path()).unwrap();
        let file = std::fs::File::create(path("etc/hosts")).unwrap();
        assert!(!watch.is_edited().unwrap(), "made in a new directory");
        drop(file);
        assert!(watch.is_edited().unwrap());
        std::fs::remove_file(path("etc/hosts")).unwrap();
        assert!(watch.is_edited().unwrap(), "gone");
    }
}
