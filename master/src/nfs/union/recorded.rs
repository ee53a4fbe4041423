//! Content of files that is on the disk in the journal, and maybe nowhere else yet.
//!
//! To flush a new file is a commit of the whole file system; to flush a record is one write. So a small
//! stable WRITE puts its data into the journal, and into the data file without a flush. After a crash the
//! pieces are written into the data files again, in their order. What else changes such a file first
//! has it flushed and the journal say so ([`Change::Settled`]): no piece comes back over what is newer.
//! Before the journal is written anew, which takes no piece along, all data files are flushed.
//!
//! [`Change::Settled`]: super::record::Change::Settled

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::object::{Body, ObjectId};
use super::record::Change;
use super::state::State;

/// The longest data of a WRITE that goes through the journal. For what is longer a flush of its own costs
/// little more than to write it twice.
pub const LONGEST: usize = 256 << 10;

/// The octets of pieces with which a journal is long.
pub const LONG: u64 = 4 << 20;

/// The octets of pieces with which a journal takes no more of them, until it has been written anew.
pub const MOST: u64 = 4 * LONG;

/// The octets of pieces that are worth writing the journal anew, when the node has been quiet.
pub const WORTH: u64 = 64 << 10;

/// A piece of a file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Later pieces of the node have higher ones.
    pub number: u64,
    /// Where in the file.
    pub offset: u64,
    /// What is there.
    pub data: Box<[u8]>,
    /// Whether the file ends with it.
    pub is_last: bool,
}

/// Which files have pieces in the journal that are not settled.
#[derive(Default, Debug)]
pub struct Recorded {
    last: HashMap<ObjectId, u64>,
    next: u64,
    octets: u64,
}

impl Recorded {
    /// The number of the next piece.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of a file's last piece, if it has one.
    pub fn last(&self, id: ObjectId) -> Option<u64> {
        self.last.get(&id).copied()
    }

    /// Whether no file has one.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// Octets of all pieces in the journal, settled or not.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Notes a piece.
    pub fn add(&mut self, id: ObjectId, piece: &Piece) {
        self.last.insert(id, piece.number);
        self.next = self.next.max(piece.number.saturating_add(1));
        self.octets += piece.data.len() as u64;
    }

    /// Notes that a file's pieces up to this one are in its data file for good.
    pub fn settle(&mut self, id: ObjectId, number: u64) {
        if self.last(id).is_some_and(|last| last <= number) {
            self.forget(id);
        }
    }

    /// Notes that a file is no more.
    pub fn forget(&mut self, id: ObjectId) {
        self.last.remove(&id);
    }

    /// Notes that the journal was written anew. Numbers go on: of the old ones someone may still speak.
    pub fn clear(&mut self) {
        self.last.clear();
        self.octets = 0;
    }
}

/// The pieces of a journal that is read.
#[derive(Default)]
pub struct Pieces(HashMap<ObjectId, Vec<Piece>>);

impl Pieces {
    /// Takes what a change says of them.
    pub fn note(&mut self, change: &Change) {
        match change {
            Change::Content(id, piece) => self.0.entry(*id).or_default().push(piece.clone()),
            Change::Settled(id, number) => {
                if let Some(pieces) = self.0.get_mut(id) {
                    pieces.retain(|piece| piece.number > *number);
                }
            }
            Change::Gone(id) => drop(self.0.remove(id)),
            _ => {}
        }
    }

    /// Writes them into the data files, which a crash may have left without them.
    pub fn write(self, state: &State, data: &Path) -> io::Result<()> {
        for (id, pieces) in self.0 {
            let Some(object) = state.object(id).filter(|object| object.body == Body::Data) else { continue };
            if pieces.is_empty() {
                continue;
            }
            let mut options = File::options();
            options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let file = options.open(data.join(format!("{id:x}")))?;
            for piece in pieces {
                file.write_all_at(&piece.data, piece.offset)?;
                if piece.is_last {
                    file.set_len(piece.offset + piece.data.len() as u64)?;
                }
            }
            // So that it does not pass for a write since.
            let stamp = object.attributes.stamp;
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(stamp.seconds.into(), stamp.nanos))?;
        }
        Ok(())
    }
}
