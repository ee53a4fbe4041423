//! Leases in SQLite: table `leases`, readable by anyone with `sqlite3`.
//!
//! One thread and one connection of their own; everything that waits is written in one transaction, so
//! that many ACKs share one fsync (WAL, `synchronous=FULL`: a commit is on the disk when it returns). The
//! file is theirs alone: SQLite lets one writer in at a time, and an ACK would wait for the other's.

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
        Self::start(path, connect(path).map_err(|error| unreadable(path, &error))?)
    }

    /// Opens or makes the database, and moves the leases into it that stand in a table `leases` of another
    /// one, if that is there: they once shared the inventory's.
    ///
    /// # Errors
    /// As [`SqliteLeases::open`], for both databases.
    pub fn open_moving(path: &Path, from: &Path) -> Result<Self, StoreError> {
        let mut database = connect(path).map_err(|error| unreadable(path, &error))?;
        if from.exists() {
            move_leases(&mut database, from).map_err(|error| unreadable(from, &error))?;
        }
        Self::start(path, database)
    }

    fn start(path: &Path, database: Connection) -> Result<Self, StoreError> {
        let loaded = load(&database).map_err(|error| unreadable(path, &error))?;
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

fn unreadable(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError { doing: "read", why: format!("{}: {error}", path.display()) }
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

/// Two commits, for SQLite has no durable one over two files in WAL mode: first the leases stand in both,
/// then only here. After a crash in between the first is made again, and changes nothing.
fn move_leases(database: &mut Connection, from: &Path) -> rusqlite::Result<()> {
    database.execute("ATTACH ?1 AS former", [from.to_string_lossy()])?;
    let there = "SELECT EXISTS (SELECT 1 FROM former.sqlite_schema WHERE type = 'table' AND name = 'leases')";
    if database.query_row(there, [], |row| row.get(0))? {
        let moved = database.execute(
            "INSERT OR IGNORE INTO main.leases (address, mac, uuid, state, expires, hostname)
             SELECT address, mac, uuid, state, expires, hostname FROM former.leases",
            [],
        )?;
        database.execute("DROP TABLE former.leases", [])?;
        tracing::info!(moved, from = %from.display(), "the leases have a database of their own now");
    }
    database.execute("DETACH former", [])?;
    Ok(())
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
    fn leases_of_a_shared_database_are_moved_once_and_none_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (own, shared) = (directory.path().join("leases.db"), directory.path().join("tesela.db"));
        let record = "INSERT INTO leases (address, mac, state, expires) VALUES";
        let other = connect(&shared).unwrap();
        other.execute_batch("CREATE TABLE events (id INTEGER PRIMARY KEY)").unwrap();
        let both = format!(
            "{record} ('10.0.0.1', '02:00:00:00:00:01', 'bound', 7), ('10.0.0.2', '02:00:00:00:00:02', 'bound', 7)"
        );
        other.execute_batch(&both).unwrap();
        // As a crash between the two commits leaves it, or a record of this version's: what is here wins.
        connect(&own)
            .unwrap()
            .execute_batch(&format!("{record} ('10.0.0.2', '02:00:00:00:00:03', 'released', 8)"))
            .unwrap();
        let moved = |store: SqliteLeases| -> Vec<_> {
            store.load().unwrap().iter().map(|lease| (lease.address.octets()[3], lease.mac.0[5])).collect()
        };
        assert_eq!(moved(SqliteLeases::open_moving(&own, &shared).unwrap()), [(1, 1), (2, 3)]);
        // The other's tables stay, also where it is open elsewhere, and there is nothing left to move.
        other.execute_batch("INSERT INTO events VALUES (1)").unwrap();
        assert!(other.prepare("SELECT * FROM leases").is_err());
        assert_eq!(moved(SqliteLeases::open_moving(&own, &shared).unwrap()), [(1, 1), (2, 3)]);
        let absent = directory.path().join("absent.db");
        assert_eq!(moved(SqliteLeases::open_moving(&own, &absent).unwrap()), [(1, 1), (2, 3)]);
        assert!(!absent.exists());
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
