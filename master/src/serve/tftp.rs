//! TFTP's questions answered by the seam.

use std::sync::Arc;

use crate::boot::{File, FileError, Request, Site};
use crate::tftp::{Content, Contents, OpenError, Opening, Outcome, Transfer, normalise};

/// The seam's files.
pub(super) struct BySite(pub(super) Arc<Site>);

impl Contents for BySite {
    async fn open(&self, opening: Opening<'_>) -> Result<Content, OpenError> {
        let Ok(path) = normalise(opening.path) else {
            return Err(OpenError::Refused("the path leaves the served tree".into()));
        };
        let peer = opening.peer.ip().to_canonical();
        let site = Arc::clone(&self.0);
        // It may wait for the disk.
        let opened = tokio::task::spawn_blocking(move || {
            let request = Request { path: &path, query: "", peer };
            match site.file(&request) {
                Ok(File::Made(bytes)) => Ok(Content::from(bytes)),
                Ok(File::OnDisk(path)) => std::fs::File::open(&path)
                    .and_then(Content::from_file)
                    .map_err(|error| FileError::Ours(format!("{}: {error}", path.display()))),
                Err(error) => Err(error),
            }
        });
        let opened = opened.await.unwrap_or_else(|error| Err(FileError::Ours(error.to_string())));
        opened.map_err(|error| match error {
            FileError::NotFound => OpenError::NotFound,
            FileError::Refused(why) => OpenError::Refused(why),
            FileError::Ours(why) => {
                tracing::error!(%peer, path = %opening.path.escape_ascii(), "{why}");
                OpenError::Refused(why)
            }
        })
    }

    fn finished(&self, transfer: &Transfer) {
        tracing::debug!(%transfer, "TFTP");
        if transfer.outcome == Outcome::Completed {
            let what = format!("{} by TFTP", transfer.path.escape_ascii());
            self.0.fetched(transfer.peer.ip().to_canonical(), &what);
        }
    }
}
