//! A directory of this host behind the nfsserve crate, as its own example of a mirror has it: paths by number,
//! every call an operation of the host's file system.

use async_trait::async_trait;
use nfsserve::fs_util::{metadata_to_fattr3, path_setattr};
use nfsserve::nfs::{fattr3, fileid3, filename3, nfspath3, nfsstat3, nfsstring, sattr3};
use nfsserve::vfs::{DirEntry, NFSFileSystem, ReadDirResult, VFSCapabilities};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};

/// The directory.
pub struct Mirror {
    names: Mutex<Names>,
}

struct Names {
    paths: Vec<PathBuf>,
    ids: HashMap<PathBuf, fileid3>,
}

impl Mirror {
    /// Mirrors a directory.
    pub fn new(root: PathBuf) -> Self {
        // Number 0 is never used.
        let paths = vec![PathBuf::new(), root.clone()];
        Self { names: Mutex::new(Names { paths, ids: HashMap::from([(root, 1)]) }) }
    }

    fn path(&self, id: fileid3) -> Result<PathBuf, nfsstat3> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(id).map_err(|_| nfsstat3::NFS3ERR_STALE)?;
        names.paths.get(index).cloned().ok_or(nfsstat3::NFS3ERR_STALE)
    }

    fn child(&self, id: fileid3, name: &filename3) -> Result<PathBuf, nfsstat3> {
        Ok(self.path(id)?.join(OsStr::from_bytes(name)))
    }

    fn id(&self, path: &Path) -> fileid3 {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = names.ids.get(path) {
            return *id;
        }
        let id = names.paths.len() as u64;
        names.paths.push(path.to_owned());
        names.ids.insert(path.to_owned(), id);
        id
    }

    async fn found(&self, path: &Path) -> Result<(fileid3, fattr3), nfsstat3> {
        let meta = fs::symlink_metadata(path).await.map_err(status)?;
        let id = self.id(path);
        Ok((id, metadata_to_fattr3(id, &meta)))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "map_err gives it away")]
fn status(error: io::Error) -> nfsstat3 {
    match error.kind() {
        io::ErrorKind::NotFound => nfsstat3::NFS3ERR_NOENT,
        io::ErrorKind::AlreadyExists => nfsstat3::NFS3ERR_EXIST,
        _ => nfsstat3::NFS3ERR_IO,
    }
}

#[async_trait]
impl NFSFileSystem for Mirror {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadWrite
    }

    fn root_dir(&self) -> fileid3 {
        1
    }

    async fn lookup(&self, directory: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        Ok(self.found(&self.child(directory, name)?).await?.0)
    }

    async fn getattr(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        Ok(self.found(&self.path(id)?).await?.1)
    }

    async fn setattr(&self, id: fileid3, set: sattr3) -> Result<fattr3, nfsstat3> {
        path_setattr(&self.path(id)?, &set).await?;
        self.getattr(id).await
    }

    async fn read(&self, id: fileid3, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        let mut file = fs::File::open(self.path(id)?).await.map_err(status)?;
        let len = file.metadata().await.map_err(status)?.len();
        file.seek(SeekFrom::Start(offset)).await.map_err(status)?;
        let want = len.saturating_sub(offset).min(count.into());
        let mut data = vec![0; usize::try_from(want).map_err(|_| nfsstat3::NFS3ERR_IO)?];
        file.read_exact(&mut data).await.map_err(status)?;
        Ok((data, offset + want >= len))
    }

    async fn write(&self, id: fileid3, offset: u64, data: &[u8]) -> Result<fattr3, nfsstat3> {
        let mut file = fs::OpenOptions::new().write(true).open(self.path(id)?).await.map_err(status)?;
        file.seek(SeekFrom::Start(offset)).await.map_err(status)?;
        file.write_all(data).await.map_err(status)?;
        file.flush().await.map_err(status)?;
        // Its replies claim FILE_SYNC, so this is what it owes.
        file.sync_data().await.map_err(status)?;
        self.getattr(id).await
    }

    async fn create(
        &self,
        directory: fileid3,
        name: &filename3,
        set: sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        let path = self.child(directory, name)?;
        fs::File::create(&path).await.map_err(status)?;
        path_setattr(&path, &set).await?;
        self.found(&path).await
    }

    async fn create_exclusive(&self, directory: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        let path = self.child(directory, name)?;
        fs::OpenOptions::new().write(true).create_new(true).open(&path).await.map_err(status)?;
        Ok(self.id(&path))
    }

    async fn mkdir(&self, directory: fileid3, name: &filename3) -> Result<(fileid3, fattr3), nfsstat3> {
        let path = self.child(directory, name)?;
        fs::create_dir(&path).await.map_err(status)?;
        self.found(&path).await
    }

    async fn remove(&self, directory: fileid3, name: &filename3) -> Result<(), nfsstat3> {
        let path = self.child(directory, name)?;
        if fs::symlink_metadata(&path).await.map_err(status)?.is_dir() {
            fs::remove_dir(&path).await.map_err(status)
        } else {
            fs::remove_file(&path).await.map_err(status)
        }
    }

    async fn rename(
        &self,
        from: fileid3,
        old: &filename3,
        to: fileid3,
        new: &filename3,
    ) -> Result<(), nfsstat3> {
        fs::rename(self.child(from, old)?, self.child(to, new)?).await.map_err(status)
    }

    async fn readdir(&self, id: fileid3, after: fileid3, max: usize) -> Result<ReadDirResult, nfsstat3> {
        let mut list = fs::read_dir(self.path(id)?).await.map_err(status)?;
        let mut found = Vec::new();
        while let Some(entry) = list.next_entry().await.map_err(status)? {
            let fileid = self.id(&entry.path());
            if fileid > after {
                found.push((fileid, entry));
            }
        }
        found.sort_by_key(|(fileid, _)| *fileid);
        let end = found.len() <= max;
        let mut entries = Vec::new();
        for (fileid, entry) in found.into_iter().take(max) {
            let attr = metadata_to_fattr3(fileid, &entry.metadata().await.map_err(status)?);
            entries.push(DirEntry { fileid, name: nfsstring(entry.file_name().as_bytes().to_vec()), attr });
        }
        Ok(ReadDirResult { entries, end })
    }

    async fn symlink(
        &self,
        directory: fileid3,
        name: &filename3,
        target: &nfspath3,
        _: &sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        let path = self.child(directory, name)?;
        fs::symlink(OsStr::from_bytes(target), &path).await.map_err(status)?;
        self.found(&path).await
    }

    async fn readlink(&self, id: fileid3) -> Result<nfspath3, nfsstat3> {
        let target = fs::read_link(self.path(id)?).await.map_err(status)?;
        Ok(nfsstring(target.as_os_str().as_bytes().to_vec()))
    }
}
