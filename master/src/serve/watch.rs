//! Follows the templates of `/etc/tesela/templates`: an edit is in force a moment after it is saved.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::boot::Site;

/// Puts each change of the templates in force until `stop`. A template that fails changes nothing, and is
/// told in the log and the history.
pub(super) async fn templates(site: Arc<Site>, stop: CancellationToken) {
    let directory = site.paths().templates.clone();
    let watch = match watch_tree(&directory) {
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
                    // The events themselves do not matter: everything is read again.
                    let drained = watch.get_ref().0.read_events();
                    ready.clear_ready();
                    if let Err(error) = drained && error != nix::errno::Errno::EAGAIN {
                        tracing::warn!(%error, "edits of templates are seen at `tesela apply` only");
                        return;
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
        if let Err(error) = add_tree(&watch.get_ref().0, &directory) {
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

/// An inotify descriptor that tokio can wait for.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn watch_tree(directory: &Path) -> nix::Result<Option<AsyncFd<Watch>>> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    add_tree(&inotify, directory)?;
    #[expect(deprecated, reason = "a Watch keeps one descriptor for life, which is all that is asked of it")]
    AsyncFd::new(Watch(inotify)).map(Some).map_err(|_| nix::errno::Errno::EINVAL)
}

fn add_tree(inotify: &Inotify, directory: &Path) -> nix::Result<()> {
    let edits = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(directory, edits)?;
    let entries = std::fs::read_dir(directory)
        .map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_tree(inotify, &entry.path())?;
        }
    }
    Ok(())
}
