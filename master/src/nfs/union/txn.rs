//! One change of a node's root: made in memory and, in the same order, one record of the journal.
//!
//! What could refuse a change is asked before the first method that changes anything: from there on
//! it is made whole.

use nix::time::{ClockId, clock_gettime};

use super::object::{Attributes, Body, Directory, Object, ObjectId, Slot};
use super::record::{Change, NewBody, encode};
use super::state::{State, before};
use crate::nfs::fs::{Kind, Result, Status, Time, Wcc};

/// The clock that file systems take their times from, so that those of data files fit in.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    Time {
        seconds: u32::try_from(time.tv_sec()).unwrap_or(0),
        nanos: u32::try_from(time.tv_nsec()).unwrap_or(0),
    }
}

/// This time, or if it is not after `last`, the next after it: so each change shows, though the clock
/// moves in steps of milliseconds. A `last` that is far ahead was set by someone, and is left behind.
pub fn after(now: Time, last: Time) -> Time {
    if now > last || last.seconds > now.seconds.saturating_add(1) {
        now
    } else if last.nanos < 999_999_999 {
        Time { nanos: last.nanos + 1, ..last }
    } else {
        Time { seconds: last.seconds.saturating_add(1), nanos: 0 }
    }
}

/// A change in the making.
pub struct Txn<'a> {
    /// When it is made.
    pub now: Time,
    state: &'a mut State,
    record: Vec<u8>,
    unlinked: Vec<ObjectId>,
}

impl std::ops::Deref for Txn<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        self.state
    }
}

impl<'a> Txn<'a> {
    /// A change that holds nothing yet.
    pub fn new(state: &'a mut State) -> Self {
        Self { now: now(), state, record: Vec::new(), unlinked: Vec::new() }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.record.is_empty()
    }

    /// The record, and the objects whose data files are of no more use once it is written.
    pub fn finish(self) -> (Vec<u8>, Vec<ObjectId>) {
        (self.record, self.unlinked)
    }

    /// Makes a change as it is.
    pub fn log(&mut self, change: Change) {
        encode(&change, &mut self.record);
        let fits = self.state.apply(change).is_ok();
        debug_assert!(fits, "a change names what is there");
    }

    /// That the node itself has written.
    pub fn by_node(&mut self) {
        if !self.state.wrote {
            self.log(Change::Wrote);
        }
    }

    /// Changes attributes of an object, and its ctime.
    ///
    /// # Errors
    /// `NFS3ERR_STALE` if it is no more; nothing is changed.
    pub fn update(&mut self, id: ObjectId, change: impl FnOnce(&mut Attributes)) -> Result<Wcc> {
        self.update_with(id, change, None)
    }

    /// Changes attributes of an object and what it is.
    ///
    /// # Errors
    /// As [`Txn::update`].
    pub fn update_with(
        &mut self,
        id: ObjectId,
        change: impl FnOnce(&mut Attributes),
        body: Option<NewBody>,
    ) -> Result<Wcc> {
        let (old, kind) = self.state.find(id)?;
        let mut new = old;
        change(&mut new);
        new.ctime = after(self.now, old.ctime);
        let body = body.or_else(|| match (self.state.object(id), kind) {
            (Some(_), _) => None,
            (None, Kind::Directory) => Some(NewBody::Directory(self.state.parent(id))),
            (None, _) => Some(NewBody::Other(Body::Image)),
        });
        self.log(Change::Put(id, new, body));
        Ok(Wcc { before: before(&old), after: self.state.find_attr(id)? })
    }

    /// Notes that the names of a directory have changed, and its number of subdirectories by so much.
    ///
    /// # Errors
    /// As [`Txn::update`].
    pub fn names_changed(&mut self, directory: ObjectId, subdirectories: i32) -> Result<Wcc> {
        let now = self.now;
        self.update(directory, |attributes| {
            // By which a client tells that its names are out of date.
            attributes.mtime = after(now, attributes.mtime);
            attributes.nlink = attributes.nlink.saturating_add_signed(subdirectories);
        })
    }

    /// Makes an object that has no name yet.
    pub fn add(&mut self, attributes: Attributes, body: NewBody) -> ObjectId {
        let id = self.state.head.next_object;
        self.log(Change::Put(id, attributes, Some(body)));
        id
    }

    /// Puts a name into a directory that has been updated in this change (or before), over what the
    /// image has there; `hide`: for good, also when this entry goes.
    pub fn enter(&mut self, directory: ObjectId, name: &[u8], id: ObjectId, hide: bool) {
        let Some(difference) = self.state.difference(directory) else { return };
        let hidden = difference.slot(name).is_some_and(|slot| slot.hidden)
            || hide && self.state.image_child(directory, name).is_some();
        let entry = Some((id, difference.next_cookie()));
        self.log(Change::Name(directory, name.into(), Slot { hidden, entry }));
    }

    /// Takes a name away; `hide`: what the image has there as well.
    pub fn leave(&mut self, directory: ObjectId, name: &[u8], hide: bool) {
        let old = self.state.difference(directory).and_then(|difference| difference.slot(name));
        let hidden =
            old.is_some_and(|slot| slot.hidden) || hide && self.state.image_child(directory, name).is_some();
        self.log(Change::Name(directory, name.into(), Slot { hidden, entry: None }));
    }

    /// Takes one name from an object's count; with the last one it is gone, unless it is kept aside.
    pub fn unlink(&mut self, id: ObjectId) {
        match self.state.find(id) {
            Ok((attributes, kind))
                if kind != Kind::Directory && (attributes.nlink > 1 || self.state.is_aside(id)) =>
            {
                // It was found, so it is there to be updated.
                let updated =
                    self.update(id, |attributes| attributes.nlink = attributes.nlink.saturating_sub(1));
                debug_assert!(updated.is_ok());
            }
            Ok(_) => self.remove(id),
            Err(_) => {}
        }
    }

    /// Lets go of what was kept aside for a rendered path. It stays where it has names of its own.
    pub fn drop_aside(&mut self, path: &[u8]) {
        let Some(id) = self.state.asides.get(path).copied() else { return };
        self.log(Change::Aside(path.into(), None));
        match self.state.find(id) {
            Ok((_, Kind::Directory)) => {
                self.empty(id);
                self.remove(id);
            }
            Ok((attributes, _)) if attributes.nlink == 0 => self.remove(id),
            Ok(_) | Err(_) => {}
        }
    }

    /// Removes an object, with all that only it leads to.
    pub fn remove(&mut self, id: ObjectId) {
        if let Some(Object { body: Body::Data, .. }) = self.state.object(id) {
            self.unlinked.push(id);
        }
        self.log(Change::Gone(id));
    }

    /// Removes what a directory holds of the node's own, before it is removed itself.
    pub fn empty(&mut self, directory: ObjectId) {
        // Not by recursion: how deep a node's directories lie is for the node to say.
        let first = directory;
        let mut ahead = vec![first];
        while let Some(directory) = ahead.pop() {
            let entries: Vec<ObjectId> =
                self.state.difference(directory).into_iter().flat_map(own_entries).collect();
            for id in entries {
                if self.state.difference(id).is_some() {
                    ahead.push(id);
                } else {
                    self.unlink(id);
                }
            }
            if directory != first {
                self.remove(directory);
            }
        }
    }
}

fn own_entries(directory: &Directory) -> impl Iterator<Item = ObjectId> {
    directory.entries_after(0).map(|(_, _, id)| id)
}

/// That an entry may be made: there is none yet.
///
/// # Errors
/// `NFS3ERR_EXIST`.
pub fn free(state: &State, directory: ObjectId, name: &[u8]) -> Result<()> {
    match state.child(directory, name) {
        None => Ok(()),
        Some(_) => Err(Status::NFS3ERR_EXIST),
    }
}
