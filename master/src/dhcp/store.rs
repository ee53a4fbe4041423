//! Leases in SQLite: table `leases`, readable by anyone with `sqlite3`.
//!
//! One thread and one connection of their own; everything that waits is written in one transaction, so
//! that many ACKs share one fsync (WAL, `synchronous=FULL`: a commit is on the disk when it returns). A
//! file that nobody else writes to is best: SQLite lets one writer in at a time, and an ACK would wait
//! for the other's.

use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, params};

use super::lease::{Change, Lease, LeaseState, Leases, StoreError, Then};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS leases (
    address   TEXT PRIMARY KEY,
    mac       TEXT NOT NULL,
    uuid      TEXT,
    state     TEXT NOT NULL CHECK (state IN ('bound', 'released', 'declined')),
    expires   INTEGER NOT NULL,  -- seconds since 1970
    hostname  TEXT
) STRICT, WITHOUT ROWID;
";
/// Calls of [`Leases::commit`] that may wait; the next one blocks until the disk has caught up.
const WAITING: usize = 64;
/// Pages of the write-ahead log before it is folded into the database: seldom enough that the cost of it
/// spreads over thousands of leases, and still at most 16 MB.
const WAL_PAGES: u32 = 4000;

/// Leases in an SQLite database. Dropping it waits until everything is written.
#[derive(Debug)]
pub struct SqliteLeases {
    loaded: Vec<Lease>,
    queue: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

struct Job {
    changes: Vec<Change>,
    then: Then,
}

impl SqliteLeases {
    /// Opens or makes the database.
    ///
    /// # Errors
    /// It cannot be opened, or what is in it cannot be read: the disk's fault, or of who else wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: rusqlite::Error| StoreError {
            doing: "read",
            why: format!("{}: {error}", path.display()),
        };
        let database = connect(path).map_err(failed)?;
        let loaded = load(&database).map_err(failed)?;
        let (queue, jobs) = mpsc::sync_channel(WAITING);
        let writer = std::thread::Builder::new()
            .name("leases".to_owned())
            .spawn(move || write_all(database, &jobs))
            .map_err(|error| StoreError { doing: "written", why: format!("no thread: {error}") })?;
        Ok(Self { loaded, queue: Some(queue), writer: Some(writer) })
    }
}

impl Leases for SqliteLeases {
    fn load(&self) -> Result<Vec<Lease>, StoreError> {
        Ok(self.loaded.clone())
    }

    fn commit(&self, changes: Vec<Change>, then: Then) {
        let job = Job { changes, then };
        let unsent = match &self.queue {
            Some(queue) => queue.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some(job) = unsent {
            (job.then)(Err(StoreError { doing: "written", why: "the writer has ended".to_owned() }));
        }
    }
}

impl Drop for SqliteLeases {
    fn drop(&mut self) {
        self.queue = None;
        // A `then` may hold the last reference to us, in which case we are the writer.
        let writer = self.writer.take().filter(|writer| writer.thread().id() != std::thread::current().id());
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the leases had panicked");
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

fn load(database: &Connection) -> rusqlite::Result<Vec<Lease>> {
    let mut rows = database.prepare("SELECT address, mac, uuid, state, expires, hostname FROM leases")?;
    let leases = rows.query_map([], |row| {
        let text = |i| row.get::<_, String>(i);
        let record = (text(0)?, text(1)?, row.get::<_, Option<String>>(2)?, text(3)?, row.get::<_, i64>(4)?);
        let (address, mac, uuid, state, expires) = &record;
        let lease = || {
            Some(Lease {
                address: address.parse().ok()?,
                mac: mac.parse().ok()?,
                uuid: uuid.as_ref().and_then(|uuid| uuid.parse().ok()),
                state: match state.as_str() {
                    "bound" => LeaseState::Bound,
                    "released" => LeaseState::Released,
                    "declined" => LeaseState::Declined,
                    _ => return None,
                },
                expires: u64::try_from(*expires).ok()?,
                hostname: row.get(5).ok()?,
            })
        };
        let lease = lease();
        if lease.is_none() {
            tracing::warn!(?record, "a lease in the database cannot be read; it is left out");
        }
        Ok(lease)
    })?;
    leases.filter_map(Result::transpose).collect()
}

fn write_all(mut database: Connection, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(jobs.try_iter().take(WAITING));
        let result = write(&mut database, group.iter().flat_map(|job| &job.changes))
            .map_err(|error| StoreError { doing: "written", why: error.to_string() });
        for job in group {
            (job.then)(result.clone());
        }
    }
}

fn write<'c>(database: &mut Connection, changes: impl Iterator<Item = &'c Change>) -> rusqlite::Result<()> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for change in changes {
        match change {
            Change::Put(lease) => {
                let state = match lease.state {
                    LeaseState::Bound => "bound",
                    LeaseState::Released => "released",
                    LeaseState::Declined => "declined",
                };
                let uuid = lease.uuid.map(|uuid| uuid.to_string());
                let expires = i64::try_from(lease.expires).unwrap_or(i64::MAX);
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO leases (address, mac, uuid, state, expires, hostname)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![
                        lease.address.to_string(),
                        lease.mac.to_string(),
                        uuid,
                        state,
                        expires,
                        lease.hostname
                    ])?;
            }
            Change::Forget(address) => {
                transaction
                    .prepare_cached("DELETE FROM leases WHERE address = ?1")?
                    .execute([address.to_string()])?;
            }
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Mac, Uuid};

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.db");
        let lease = |last, state| Lease {
            address: [10, 0, 0, last].into(),
            mac: Mac([2, 0, 0, 0, 0, last]),
            uuid: (last == 1).then_some(Uuid([last; 16])),
            state,
            expires: 1_800_000_000,
            hostname: (last == 2).then(|| "n2".to_owned()),
        };
        let kept =
            [lease(1, LeaseState::Bound), lease(2, LeaseState::Released), lease(3, LeaseState::Declined)];
        let store = SqliteLeases::open(&path).unwrap();
        let (done, wait) = mpsc::channel();
        let mut changes: Vec<_> = kept.iter().cloned().map(Change::Put).collect();
        changes.push(Change::Put(lease(4, LeaseState::Bound)));
        changes.push(Change::Forget([10, 0, 0, 4].into()));
        store.commit(changes, Box::new(move |result| done.send(result.is_ok()).unwrap()));
        assert_eq!(wait.recv(), Ok(true));
        // A second reader sees it while the first still runs.
        assert_eq!(SqliteLeases::open(&path).unwrap().load().unwrap(), kept);
        drop(store);
        assert_eq!(SqliteLeases::open(&path).unwrap().load().unwrap(), kept);
    }

    #[test]
    fn a_store_that_cannot_write_says_so_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.db");
        let store = SqliteLeases::open(&path).unwrap();
        connect(&path).unwrap().execute_batch("DROP TABLE leases").unwrap();
        let (done, wait) = mpsc::channel();
        let forget = || vec![Change::Forget([10, 0, 0, 4].into())];
        let then =
            |done: mpsc::Sender<bool>| -> Then { Box::new(move |result| done.send(result.is_ok()).unwrap()) };
        store.commit(forget(), then(done.clone()));
        assert_eq!(wait.recv(), Ok(false));
        connect(&path).unwrap();
        store.commit(forget(), then(done));
        assert_eq!(wait.recv(), Ok(true));
    }
}
