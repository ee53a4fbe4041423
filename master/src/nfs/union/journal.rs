//! The journal of a node: an append-only file of checksummed records.
//!
//! A header (magic, 8 random octets), then records: length (u32, little endian), checksum (8
//! octets), changes. The checksum covers the random octets, the record's place and its changes, so
//! nothing that lies there from before passes for a record. The first length of 0, or the first
//! record that does not hold, is the end: what a crash left half written, and what was never
//! promised to anyone.
//!
//! Space is taken ahead ([`Journal::reserve`]), before a change is made in memory: a full disk
//! refuses the change and leaves nothing half done. Some of the space is for changes that free some
//! ([`Room::Last`]), so that a full disk can be made less full. Calls that wait for the disk at the same time
//! share one fdatasync. After a failed write nothing more is taken until the master starts anew,
//! for what the disk then holds is not known.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

const MAGIC: &[u8; 8] = b"teseluj1";
const HEADER: u64 = 16;
const RECORD_HEADER: usize = 12;

/// The longest record.
pub const MAX_RECORD: usize = 16 << 20;

/// The journal is written anew when it is this much longer than after the last time, content of files apart.
const COMPACT_AFTER: u64 = 256 << 10;

/// How much space is taken at once, at least and at most.
const AHEAD: std::ops::RangeInclusive<u64> = (16 << 10)..=(1 << 20);

/// What is kept of the space for changes that free some.
const LAST: u64 = 64 << 10;

/// What space is filled with.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Which space a change may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// What is left over the last of it.
    Common,
    /// The last of it too: the change takes something away.
    Last,
}

/// A place in the order of a journal's records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position(u64);

/// An open journal.
pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
    written: Condvar,
}

struct Inner {
    file: Arc<File>,
    salt: [u8; 8],
    /// Where `pending` will be written.
    end: u64,
    /// Records that no one has begun to write.
    pending: Vec<u8>,
    /// The end of the space that is taken.
    allocated: u64,
    /// The length after the last compaction.
    compacted: u64,
    /// After a compaction that failed: what the next one waits for.
    retry: Option<Retry>,
    appended: Position,
    durable: Position,
    writing: bool,
    failed: bool,
}

/// When a compaction that failed is worth another attempt. Not at each change: all that it writes would be written
/// again, with the node waiting.
#[derive(Clone, Copy)]
struct Retry {
    /// The journal has grown to this length,
    grown_to: u64,
    /// or a disk that was full has so much room.
    room: Option<u64>,
}

impl Journal {
    /// Reads the records of a journal, whole ones in their order, and opens it for more.
    ///
    /// # Errors
    /// What the system says; `InvalidData` where the file is no journal, or `take` refuses a record
    /// that is whole.
    pub fn open(path: &Path, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).open(path)?;
        let mut octets = Vec::new();
        file.read_to_end(&mut octets)?;
        let mut allocated = octets.len() as u64;
        let (salt, mut rest) = header(&octets).ok_or_else(|| invalid("not a journal"))?;
        let mut end = HEADER;
        while let Some((record, after)) = next_record(&salt, end, rest) {
            take(record)?;
            end += (rest.len() - after.len()) as u64;
            rest = after;
        }
        if rest.iter().any(|octet| *octet != 0) {
            tracing::info!(journal = %path.display(), at = end, "cut what a crash left half written");
            // Kept for whoever has to find out what happened, should it be more than a crash. A disk that
            // is full, say, must not keep the node from its root.
            if let Err(error) = keep(&path.with_extension("cut"), rest) {
                tracing::warn!(journal = %path.display(), %error, "what was cut cannot be kept");
            }
            // So that nothing of it can follow a record that is written over its beginning.
            file.set_len(end)?;
            file.set_len(allocated)?;
            file.sync_all()?;
            allocated = end;
        }
        Ok(Self::new(path, file, salt, end, allocated))
    }

    /// Makes a journal of these records, whole before it takes its place.
    pub fn create(path: &Path, records: &[Vec<u8>]) -> io::Result<Self> {
        let (file, salt, end) = write_whole(path, records)?;
        Ok(Self::new(path, file, salt, end, end))
    }

    fn new(path: &Path, file: File, salt: [u8; 8], end: u64, allocated: u64) -> Self {
        let inner = Inner {
            file: Arc::new(file),
            salt,
            end,
            pending: Vec::new(),
            allocated,
            compacted: end,
            retry: None,
            appended: Position::default(),
            durable: Position::default(),
            writing: false,
            failed: false,
        };
        Self { path: path.to_owned(), inner: Mutex::new(inner), written: Condvar::new() }
    }

    /// Takes space for records of so many octets of changes in all. One caller at a time (the
    /// writer of the node).
    ///
    /// # Errors
    /// `StorageFull` and what else the system says; the journal is as before.
    pub fn reserve(&self, octets: usize, room: Room) -> io::Result<()> {
        if octets > MAX_RECORD {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let (file, allocated, end) = {
            let inner = self.lock();
            if inner.failed {
                return Err(io::Error::other("the journal could not be written before"));
            }
            let wanted = inner.end + (inner.pending.len() + RECORD_HEADER + octets) as u64;
            let kept = if room == Room::Common { LAST } else { 0 };
            if wanted + kept <= inner.allocated {
                return Ok(());
            }
            let ahead = (wanted / 2).clamp(*AHEAD.start(), *AHEAD.end());
            (Arc::clone(&inner.file), inner.allocated, wanted + LAST + ahead)
        };
        let [from, length] = [allocated, end - allocated].map(i64::try_from);
        let (Ok(from), Ok(length)) = (from, length) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        posix_fallocate(&*file, from, length)?;
        // Zeros over it: a later write into it then changes no metadata of the file system, which costs
        // more to flush than the record itself.
        let mut at = allocated;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
            file.write_all_at(&ZEROS[..count], at)?;
            at += count as u64;
        }
        self.lock().allocated = end;
        Ok(())
    }

    /// Appends a record, for which space was reserved: in memory, until [`Journal::sync`].
    pub fn append(&self, changes: &[u8]) -> Position {
        let mut inner = self.lock();
        let at = inner.end + inner.pending.len() as u64;
        let Inner { salt, pending, .. } = &mut *inner;
        put_record(salt, at, changes, pending);
        inner.appended.0 += 1;
        inner.appended
    }

    /// Returns when the record at a position is on stable storage.
    ///
    /// # Errors
    /// What the system says, to all whose record may not be there.
    pub fn sync(&self, position: Position) -> io::Result<()> {
        let mut inner = self.lock();
        loop {
            if inner.durable >= position {
                return Ok(());
            }
            if inner.failed {
                return Err(io::Error::other("the journal could not be written"));
            }
            if inner.writing {
                inner = self.written.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            inner.writing = true;
            let octets = std::mem::take(&mut inner.pending);
            let (file, at, reached) = (Arc::clone(&inner.file), inner.end, inner.appended);
            inner.end += octets.len() as u64;
            drop(inner);
            let result = file.write_all_at(&octets, at).and_then(|()| file.sync_data());
            inner = self.lock();
            inner.writing = false;
            match result {
                Ok(()) => inner.durable = reached,
                Err(_) => inner.failed = true,
            }
            self.written.notify_all();
            result?;
        }
    }

    /// Whether it has grown enough to be worth writing anew, apart from these octets.
    pub fn is_long(&self, apart: u64) -> bool {
        let inner = self.lock();
        inner.end + inner.pending.len() as u64 > 2 * inner.compacted + COMPACT_AFTER + apart
    }

    /// Whether an attempt to write it anew is due, if the last one failed.
    pub fn may_be_written_anew(&self) -> bool {
        let (length, retry) = {
            let inner = self.lock();
            (inner.end + inner.pending.len() as u64, inner.retry)
        };
        let Some(Retry { grown_to, room }) = retry else { return true };
        // What cannot be told of the disk is no reason to try.
        let free = || statvfs(&self.path).map_or(0, |disk| disk.blocks_available() * disk.fragment_size());
        length >= grown_to || room.is_some_and(|room| free() >= room)
    }

    /// Puts these records in the place of all so far. One caller at a time (the writer).
    ///
    /// # Errors
    /// What the system says; the journal is as before.
    pub fn replace(&self, records: &[Vec<u8>]) -> io::Result<()> {
        let written = write_whole(&self.path, records);
        let mut inner = self.lock();
        let (file, salt, end) = match written {
            Ok(written) => written,
            Err(error) => {
                let octets: u64 = records.iter().map(|record| (RECORD_HEADER + record.len()) as u64).sum();
                // Some more, for others write there too.
                let room = (error.kind() == io::ErrorKind::StorageFull).then_some(2 * octets + LAST);
                let length = inner.end + inner.pending.len() as u64;
                inner.retry = Some(Retry { grown_to: 2 * length + COMPACT_AFTER, room });
                return Err(error);
            }
        };
        while inner.writing {
            inner = self.written.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let appended = inner.appended;
        *inner = Inner {
            file: Arc::new(file),
            salt,
            end,
            pending: Vec::new(),
            allocated: end,
            compacted: end,
            retry: None,
            appended,
            durable: appended,
            writing: false,
            failed: false,
        };
        self.written.notify_all();
        Ok(())
    }

    /// Octets of disk that it takes.
    pub fn size(&self) -> u64 {
        self.lock().allocated
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code between lock and unlock can fail half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(path: &Path, octets: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(octets)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn header(octets: &[u8]) -> Option<([u8; 8], &[u8])> {
    let (salt, rest) = octets.strip_prefix(MAGIC)?.split_first_chunk()?;
    Some((*salt, rest))
}

/// The record at the beginning of `rest`, which lies `at` in the file, and what is after it.
fn next_record<'a>(salt: &[u8; 8], at: u64, rest: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (length, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    if length == 0 || length > MAX_RECORD {
        return None;
    }
    let (record, rest) = rest.split_at_checked(length)?;
    (checksum(salt, at, record) == *sum).then_some((record, rest))
}

fn put_record(salt: &[u8; 8], at: u64, changes: &[u8], out: &mut Vec<u8>) {
    // The reservation has refused what is longer than MAX_RECORD.
    out.extend_from_slice(&u32::try_from(changes.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&checksum(salt, at, changes));
    out.extend_from_slice(changes);
}

fn checksum(salt: &[u8; 8], at: u64, record: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt).update(&at.to_le_bytes()).update(record);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}

/// Writes a journal beside its place, makes it durable, and puts it there.
fn write_whole(path: &Path, records: &[Vec<u8>]) -> io::Result<(File, [u8; 8], u64)> {
    let salt = super::files::random()?;
    let mut octets = [*MAGIC, salt].concat();
    for record in records {
        let at = octets.len() as u64;
        put_record(&salt, at, record, &mut octets);
    }
    let beside = path.with_extension("new");
    let mut options = File::options();
    let mut file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let written = file
        .write_all(&octets)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&beside, path))
        .and_then(|()| super::files::sync_directory_of(path));
    if let Err(error) = written {
        // What is left of it is overwritten next time; its space is wanted now.
        drop(std::fs::remove_file(&beside));
        return Err(error);
    }
    Ok((file, salt, octets.len() as u64))
}

/// The records in the octets of a journal file, up to the first that does not hold.
pub fn records(octets: &[u8]) -> Vec<&[u8]> {
    let Some((salt, mut rest)) = header(octets) else { return Vec::new() };
    let mut records = Vec::new();
    let mut at = HEADER;
    while let Some((record, after)) = next_record(&salt, at, rest) {
        records.push(record);
        at += (rest.len() - after.len()) as u64;
        rest = after;
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> (Journal, Vec<Vec<u8>>) {
        let mut records = Vec::new();
        let journal = Journal::open(path, |record| {
            records.push(record.to_vec());
            Ok(())
        });
        (journal.unwrap(), records)
    }

    #[test]
    fn records_survive_and_a_torn_tail_does_not() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::create(&path, &[b"head".to_vec()]).unwrap();
        let mut ends = vec![journal.lock().end];
        for record in [&b"one"[..], b"two", b"three"] {
            journal.reserve(record.len(), Room::Common).unwrap();
            journal.sync(journal.append(record)).unwrap();
            ends.push(journal.lock().end);
        }
        let whole = std::fs::read(&path).unwrap();
        // What is behind the last record is room that was taken ahead.
        let last = usize::try_from(ends[3]).unwrap();
        for length in (16..last + 64).chain([whole.len()]) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let kept = ends.iter().filter(|end| **end <= length as u64).count();
            let (journal, records) = read(&path);
            assert_eq!(records.len(), kept, "cut at {length}");
            journal.reserve(4, Room::Common).unwrap();
            journal.sync(journal.append(b"more")).unwrap();
            assert_eq!(read(&path).1.len(), kept + 1);
        }
    }

    #[test]
    fn what_cannot_be_kept_of_a_torn_tail_keeps_nobody_from_the_rest() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("journal");
        Journal::create(&path, &[b"head".to_vec()]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"torn"].concat()).unwrap();
        // A directory in its place stands for a disk that takes no file.
        std::fs::create_dir(path.with_extension("cut")).unwrap();
        assert_eq!(read(&path).1, [b"head".to_vec()]);
    }

    #[test]
    fn a_replaced_journal_holds_only_the_new() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::create(&path, &[]).unwrap();
        journal.reserve(3, Room::Common).unwrap();
        let position = journal.append(b"old");
        journal.replace(&[b"new".to_vec()]).unwrap();
        journal.sync(position).unwrap();
        journal.reserve(5, Room::Common).unwrap();
        journal.sync(journal.append(b"newer")).unwrap();
        assert_eq!(read(&path).1, [b"new".to_vec(), b"newer".to_vec()]);
    }

    #[test]
    fn an_attempt_that_failed_is_not_made_again_until_there_is_reason_to() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::create(&path, &[]).unwrap();
        let new = [b"new".to_vec()];
        // A directory in its place stands for a disk that takes no file.
        std::fs::create_dir(path.with_extension("new")).unwrap();
        journal.replace(&new).unwrap_err();
        assert!(!journal.may_be_written_anew());
        let record = vec![0; 64 << 10];
        for _ in 0..4 {
            assert!(!journal.may_be_written_anew());
            journal.reserve(record.len(), Room::Common).unwrap();
            journal.append(&record);
        }
        assert!(journal.may_be_written_anew(), "it has grown");
        journal.replace(&new).unwrap_err();
        assert!(!journal.may_be_written_anew());
        let set_room = |room| journal.lock().retry.as_mut().unwrap().room = Some(room);
        set_room(u64::MAX);
        assert!(!journal.may_be_written_anew(), "no disk has as much");
        set_room(1);
        assert!(journal.may_be_written_anew(), "there is room again");
        std::fs::remove_dir(path.with_extension("new")).unwrap();
        journal.replace(&new).unwrap();
        assert!(journal.may_be_written_anew());
    }

    #[test]
    fn many_wait_for_one_disk() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::create(&path, &[]).unwrap();
        let writer = Mutex::new(());
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let (journal, writer) = (&journal, &writer);
                scope.spawn(move || {
                    for count in 0..50_u8 {
                        let position = {
                            let _one = writer.lock().unwrap();
                            journal.reserve(2, Room::Common).unwrap();
                            journal.append(&[thread, count])
                        };
                        journal.sync(position).unwrap();
                    }
                });
            }
        });
        assert_eq!(read(&path).1.len(), 400);
    }
}
