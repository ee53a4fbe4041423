//! What a file is by its content, page by page, and kept as long as the file stays what it was.
//!
//! Only files count that nobody but root changes, for who could change one would find out how to do so unseen: by a
//! mapping, whose times are not exact.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use super::look::PAGE;

/// Octets of SHA-256.
const DIGEST: usize = 32;
/// A smaller file costs more to be named than to be sent.
const SMALLEST: u64 = 8 * PAGE;
/// Where they are kept: in memory that only root reaches.
const KEPT: &str = "/run/tesela/digests";
/// Octets of what is kept at most: enough for files of 8 GiB in all.
const MOST: u64 = 64 << 20;

/// Which file it is, and when it was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    octets: u64,
    /// Seconds and nanoseconds: of its content, of all else.
    changed: [i64; 4],
}

impl Stamp {
    /// `None`: it is no file that counts.
    pub fn of(about: &Metadata) -> Option<Self> {
        const ALL_MAY_READ: u32 = 0o004;
        const OTHERS_MAY_WRITE: u32 = 0o022;
        let is_roots = about.uid() == 0 && about.mode() & (ALL_MAY_READ | OTHERS_MAY_WRITE) == ALL_MAY_READ;
        (about.is_file() && is_roots && about.len() >= SMALLEST).then(|| Self {
            device: about.dev(),
            inode: about.ino(),
            octets: about.len(),
            changed: [about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()],
        })
    }

    /// Octets of the file.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Whole pages of the file.
    pub fn pages(&self) -> u64 {
        self.octets / PAGE
    }

    /// Whether a change from now on would give it other times: clocks of file systems have ticks, and may differ a
    /// little from this one.
    pub fn is_settled(&self) -> bool {
        const TICKS: i64 = 2;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let [content, _, all, _] = self.changed;
        i64::try_from(now).is_ok_and(|now| content.max(all) <= now - TICKS)
    }

    fn head(&self) -> Vec<u8> {
        let times = self.changed.map(i64::cast_unsigned);
        let words = [self.device, self.inode, self.octets].into_iter().chain(times);
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn name(&self) -> String {
        format!("{:x}-{:x}", self.device, self.inode)
    }
}

/// SHA-256 of each whole page of a file. What is behind them is no page of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Digests(Vec<[u8; DIGEST]>);

impl Digests {
    /// Those of an open file: the ones that are kept, or new ones.
    ///
    /// # Errors
    /// Those of reading; the file has become shorter.
    pub fn of(file: &File, stamp: &Stamp) -> io::Result<Self> {
        Self::of_kept(file, stamp, Path::new(KEPT))
    }

    fn of_kept(file: &File, stamp: &Stamp, kept: &Path) -> io::Result<Self> {
        if let Some(digests) = Self::find(stamp, kept) {
            return Ok(digests);
        }
        let settled = stamp.is_settled();
        let digests = Self::read(file, stamp.pages())?;
        if settled && let Err(error) = digests.keep(stamp, kept) {
            tracing::debug!(%error, "what a file is has to be found out again");
        }
        Ok(digests)
    }

    fn read(file: &File, pages: u64) -> io::Result<Self> {
        const AT_ONCE: u64 = 64;
        let mut buffer = vec![0; usize::try_from(AT_ONCE * PAGE).unwrap_or(0)];
        let mut digests = Vec::with_capacity(usize::try_from(pages).unwrap_or(0));
        for first in (0..pages).step_by(usize::try_from(AT_ONCE).unwrap_or(1)) {
            let length = usize::try_from((pages - first).min(AT_ONCE) * PAGE).unwrap_or(0);
            file.read_exact_at(&mut buffer[..length], first * PAGE)?;
            digests
                .extend(pages_of(&buffer[..length]).map(|page| <[u8; DIGEST]>::from(Sha256::digest(page))));
        }
        Ok(Self(digests))
    }

    /// What two files have in common that have the same whole pages, and no others.
    pub fn root(&self) -> [u8; DIGEST] {
        Sha256::digest(self.0.as_flattened()).into()
    }

    /// Whether these are the file's pages from this number on.
    pub fn hold(&self, first: u64, memory: &[u8]) -> bool {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        (first..).zip(pages_of(memory)).all(|(number, page)| {
            self.0.get(number).is_some_and(|digest| *digest == <[u8; DIGEST]>::from(Sha256::digest(page)))
        })
    }

    fn find(stamp: &Stamp, kept: &Path) -> Option<Self> {
        let octets = fs::read(kept.join(stamp.name())).ok()?;
        let (digests, []) = octets.strip_prefix(&stamp.head()[..])?.as_chunks() else { return None };
        (digests.len() as u64 == stamp.pages()).then(|| Self(digests.to_vec()))
    }

    fn keep(&self, stamp: &Stamp, kept: &Path) -> io::Result<()> {
        if let Some(above) = kept.parent() {
            fs::create_dir_all(above)?;
        }
        match DirBuilder::new().mode(0o700).create(kept) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Another program may do so at the same time.
        let new = kept.join(format!("{}.{}", stamp.name(), std::process::id()));
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&[&stamp.head()[..], self.0.as_flattened()].concat())?;
        fs::rename(new, kept.join(stamp.name()))?;
        trim(kept, MOST)
    }
}

/// Has the oldest go, until what is kept has no more than so many octets.
fn trim(kept: &Path, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(kept)? {
        let entry = entry?;
        // Another program may have removed it.
        let Ok(about) = entry.metadata() else { continue };
        files.push((about.modified()?, about.len(), entry.path()));
    }
    files.sort();
    let mut all: u64 = files.iter().map(|(_, octets, _)| octets).sum();
    for (_, octets, path) in files {
        if all <= most {
            break;
        }
        all -= octets;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn pages_of(memory: &[u8]) -> std::slice::ChunksExact<'_, u8> {
    memory.chunks_exact(usize::try_from(PAGE).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of as many pages, and a bit, which is as if it had not been changed for long.
    fn file(directory: &Path, pages: u64) -> (File, Stamp) {
        let path = directory.join("file");
        let content: Vec<u8> = (0..pages * PAGE + 7).map(|at| u8::try_from(at / PAGE).unwrap()).collect();
        fs::write(&path, content).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let about = file.metadata().unwrap();
        let stamp =
            Stamp { device: about.dev(), inode: about.ino(), octets: about.len(), changed: [5, 6, 7, 8] };
        (file, stamp)
    }

    #[test]
    fn pages_are_those_of_the_file_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let (file, stamp) = file(directory.path(), 70);
        let digests = Digests::of_kept(&file, &stamp, &directory.path().join("kept")).unwrap();
        let mut pages = vec![0; usize::try_from(3 * PAGE).unwrap()];
        file.read_exact_at(&mut pages, 66 * PAGE).unwrap();
        assert!(digests.hold(66, &pages) && !digests.hold(65, &pages));
        assert!(!digests.hold(68, &pages), "the last one is not whole");
        assert_eq!(digests.root(), Digests::read(&file, 70).unwrap().root());
        assert_ne!(digests.root(), Digests::read(&file, 69).unwrap().root());
        file.write_all_at(&[1], 67 * PAGE).unwrap();
        file.read_exact_at(&mut pages, 66 * PAGE).unwrap();
        assert!(!digests.hold(66, &pages));
        assert_ne!(digests.root(), Digests::read(&file, 70).unwrap().root());
        file.set_len(PAGE).unwrap();
        assert!(Digests::read(&file, 70).is_err());
    }

    #[test]
    fn what_is_kept_is_that_of_the_file_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let kept = directory.path().join("above/kept");
        let (file, stamp) = file(directory.path(), 9);
        let digests = Digests::of_kept(&file, &stamp, &kept).unwrap();
        assert_eq!(Digests::find(&stamp, &kept).as_ref(), Some(&digests));
        file.write_all_at(&[1], 0).unwrap();
        assert_eq!(Digests::of_kept(&file, &stamp, &kept).unwrap(), digests, "it was not read again");
        let changed = Stamp { changed: [5, 6, 7, 9], ..stamp };
        assert_ne!(Digests::of_kept(&file, &changed, &kept).unwrap(), digests);
        assert_eq!(Digests::find(&stamp, &kept), None);
        let new = Stamp { changed: [i64::MAX, 0, 0, 0], ..stamp };
        assert!(!new.is_settled() && Digests::of_kept(&file, &new, &kept).is_ok());
        assert_eq!(Digests::find(&new, &kept), None, "another change would not be seen");
        trim(&kept, 9 * 32).unwrap();
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 0);
    }

    #[test]
    fn files_count_that_root_alone_changes() {
        let own = Stamp::of(&fs::metadata("/bin/sh").unwrap()).unwrap();
        assert!(own.octets() >= SMALLEST && own.is_settled());
        for other in ["/dev/null", "/tmp", "/etc/hostname"] {
            assert_eq!(Stamp::of(&fs::metadata(other).unwrap()), None, "{other}");
        }
        let ours = tempfile::NamedTempFile::new().unwrap();
        ours.as_file().set_len(SMALLEST).unwrap();
        assert_eq!(Stamp::of(&ours.as_file().metadata().unwrap()), None, "not all may read it");
    }
}
