//! The database half of the inventory: one writer thread, commits grouped.

use std::path::Path;
use std::sync::mpsc;

use rusqlite::{Connection, OptionalExtension, params};

use crate::cluster::Mac;

use super::{Error, Event, Machine, NodeState, Stage, Timestamp};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS machines (
    mac          TEXT PRIMARY KEY,
    uuid         TEXT,
    firmware     TEXT,
    vendor       TEXT,
    address      TEXT,
    first_seen   INTEGER NOT NULL,
    last_seen    INTEGER NOT NULL,
    adopted      INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS nodes (
    name         TEXT PRIMARY KEY,
    state        TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    time         INTEGER NOT NULL,
    node         TEXT,
    mac          TEXT,
    stage        TEXT,
    text         TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_by_node ON events (node, id);
";

/// Events kept in the database; the oldest go first.
const EVENTS_KEPT: i64 = 200_000;

/// What the writer thread is asked to do.
pub(super) enum Write {
    Machine(Machine),
    Node(String, NodeState),
    Event(Event),
    Forget(String),
    ForgetMachine(Mac),
    /// Answered when everything before it is on the disk.
    Flush(mpsc::SyncSender<()>),
}

/// Opens the database as this process's own connection to it.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let failed = |source| Error::Database { path: path.to_owned(), source };
    let connection = Connection::open(path).map_err(failed)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
        .and_then(|()| connection.busy_timeout(std::time::Duration::from_secs(10)))
        .and_then(|()| connection.execute_batch(SCHEMA))
        .map_err(failed)?;
    Ok(connection)
}

pub(super) fn load_machines(db: &Connection) -> rusqlite::Result<Vec<Machine>> {
    let mut rows = db.prepare(
        "SELECT mac, uuid, firmware, vendor, address, first_seen, last_seen, adopted FROM machines",
    )?;
    let machines = rows.query_map([], |row| {
        let text = |i| row.get::<_, Option<String>>(i);
        Ok(text(0)?.and_then(|mac| mac.parse().ok()).map(|mac| {
            Ok::<_, rusqlite::Error>(Machine {
                mac,
                uuid: text(1)?.and_then(|text| text.parse().ok()),
                firmware: text(2)?,
                vendor: text(3)?,
                address: text(4)?.and_then(|text| text.parse().ok()),
                first_seen: Timestamp(row.get(5)?),
                last_seen: Timestamp(row.get(6)?),
                adopted: row.get(7)?,
            })
        }))
    })?;
    machines.filter_map(|row| row.transpose().map(|row| row.and_then(|machine| machine))).collect()
}

pub(super) fn load_nodes(db: &Connection) -> rusqlite::Result<Vec<(String, NodeState)>> {
    let mut rows = db.prepare("SELECT name, state FROM nodes")?;
    let nodes = rows.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let mut out = Vec::new();
    for row in nodes {
        let (name, state) = row?;
        match serde_json::from_str(&state) {
            Ok(state) => out.push((name, state)),
            Err(error) => {
                tracing::warn!(node = name, %error, "the database holds a state that this version cannot read; it starts anew")
            }
        }
    }
    Ok(out)
}

/// The newest `limit` events, oldest first, of one node or of all.
pub(super) fn events(db: &Connection, node: Option<&str>, limit: u32) -> rusqlite::Result<Vec<Event>> {
    let mut rows = db.prepare_cached(
        "SELECT time, node, mac, stage, text FROM events
         WHERE ?1 IS NULL OR node = ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let mut out = rows
        .query_map(params![node, limit], |row| {
            Ok(Event {
                time: Timestamp(row.get(0)?),
                node: row.get(1)?,
                mac: row.get::<_, Option<String>>(2)?.and_then(|text| text.parse().ok()),
                stage: row.get::<_, Option<String>>(3)?.and_then(|name| Stage::from_name(&name)),
                text: row.get(4)?,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    out.reverse();
    Ok(out)
}

/// Whether any event was ever written: tells a first start from a restart.
pub(super) fn is_new(db: &Connection) -> rusqlite::Result<bool> {
    let any: Option<i64> = db.query_row("SELECT id FROM events LIMIT 1", [], |row| row.get(0)).optional()?;
    Ok(any.is_none())
}

/// Writes what arrives, all that waits in one transaction, until the last sender is gone.
pub(super) fn write_all(mut db: Connection, queue: &mpsc::Receiver<Write>) {
    let mut since_trim = 0;
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(10_000));
        since_trim += batch.len();
        if let Err(error) = write_batch(&mut db, &batch, &mut since_trim) {
            tracing::error!(%error, "the database takes no writes; history is lost until it does (is the disk full?)");
        }
        for write in batch {
            if let Write::Flush(done) = write {
                // A caller that stopped waiting is no error.
                let _gone = done.send(());
            }
        }
    }
}

fn write_batch(db: &mut Connection, batch: &[Write], since_trim: &mut usize) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    for write in batch {
        match write {
            Write::Machine(m) => {
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO machines
                         (mac, uuid, firmware, vendor, address, first_seen, last_seen, adopted)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    )?
                    .execute(params![
                        m.mac.to_string(),
                        m.uuid.map(|uuid| uuid.to_string()),
                        m.firmware,
                        m.vendor,
                        m.address.map(|address| address.to_string()),
                        m.first_seen.0,
                        m.last_seen.0,
                        m.adopted,
                    ])?;
            }
            Write::Node(name, state) => {
                let state = serde_json::to_string(state)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO nodes (name, state) VALUES (?1, ?2)")?
                    .execute(params![name, state])?;
            }
            Write::Event(event) => {
                transaction
                    .prepare_cached(
                        "INSERT INTO events (time, node, mac, stage, text) VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![
                        event.time.0,
                        event.node,
                        event.mac.map(|mac| mac.to_string()),
                        event.stage.map(Stage::name),
                        event.text,
                    ])?;
            }
            Write::Forget(name) => {
                transaction.execute("DELETE FROM nodes WHERE name = ?1", [name])?;
            }
            Write::ForgetMachine(mac) => {
                transaction
                    .prepare_cached("DELETE FROM machines WHERE mac = ?1")?
                    .execute([mac.to_string()])?;
            }
            Write::Flush(_) => {}
        }
    }
    if *since_trim > 10_000 {
        *since_trim = 0;
        transaction
            .execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?1", [EVENTS_KEPT])?;
    }
    transaction.commit()
}
