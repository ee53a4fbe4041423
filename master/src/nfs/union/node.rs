//! A node: its root, its journal, its data files.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::error::{UnionError, status};
use super::files::{Files, Owner, random};
use super::handle::{Key, Name};
use super::image::Build;
use super::journal::{Journal, Room};
use super::keeper::Keeper;
use super::object::{FIRST_OWN, ObjectId};
use super::record::{Change, Head, decode};
use super::recorded::{self, Pieces};
use super::state::State;
use super::txn::Txn;
use super::{NodeExport, Writes};
use crate::nfs::fs::{Handle, Result, Time};

/// Numbers that are passed over at each start: handles to objects whose record a crash took may
/// have been seen.
const PASSED_OVER: ObjectId = 1024;

/// Octets of changes that are reserved for an operation, apart from names and targets.
pub const OPERATION: usize = 2048;

/// What all nodes share.
pub struct Shared {
    /// Makes and opens handles.
    pub key: Key,
    /// Open files.
    pub files: Files,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Keeps journals short.
    pub keeper: Keeper,
}

/// A node.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its number, which no other ever had.
    pub number: u32,
    /// What all nodes share.
    pub shared: Arc<Shared>,
    /// What it takes at its next boot.
    next: Mutex<(PathBuf, Writes)>,
    directory: PathBuf,
    /// Held by the one that changes the root, over any wait for the disk that comes before the
    /// change in memory; so that those who only look never wait for the disk.
    writer: Mutex<()>,
    state: RwLock<State>,
    journal: Journal,
    /// Copying up: one object at a time of each of these.
    copying: [Mutex<()>; 8],
    data: Data,
    /// What the keeper of journals was last asked of this one.
    asked: Mutex<Asked>,
}

/// The directory of the data files.
struct Data {
    directory: File,
    /// Whether files were made in it since it was last flushed.
    changed: Mutex<bool>,
    /// Whether data could not be flushed: what the disk then holds is not known, so the journal keeps what
    /// it has of it until the master starts anew.
    failed: AtomicBool,
}

/// When a journal is to be written anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Asked {
    Never,
    Soon,
    Now,
}

/// How long a journal keeps the content of files that could be let go of.
const SOON: Duration = Duration::from_secs(30);

/// How a node gets at builds, shared with the others.
pub type Builds<'a> = dyn Fn(&Path) -> std::result::Result<Arc<Build>, UnionError> + 'a;

impl Node {
    /// Brings a node's root back from its journal, or makes it on the export's build.
    pub fn open(
        shared: &Arc<Shared>,
        number: u32,
        export: &NodeExport,
        builds: &Builds,
    ) -> std::result::Result<Self, UnionError> {
        let directory = shared.state_dir.join("nodes").join(&export.name);
        let data = directory.join("data");
        std::fs::create_dir_all(&data).map_err(UnionError::io(&data))?;
        let path = directory.join("journal");
        let existing = path.exists().then(|| replay(shared, number, &path, export, builds)).transpose()?;
        let (mut state, journal) = match existing {
            Some(Some((state, journal))) => (state, journal),
            // Nothing of the node's own was on a build that is there no more: as if it were new.
            Some(None) | None => {
                let build = builds(&export.image_dir)?;
                let head = Head {
                    number,
                    generation: fresh_generation().map_err(UnionError::io(&path))?,
                    build: build_name(shared, &export.image_dir),
                    next_object: FIRST_OWN,
                };
                let state = State::new(head, build);
                let journal = Journal::create(&path, &state.snapshot()).map_err(UnionError::io(&path))?;
                (state, journal)
            }
        };
        state.address = export.address.map(|address| address.to_canonical());
        settle_data(&mut state, &data).map_err(UnionError::io(&data))?;
        let data = Data {
            directory: File::open(&data).map_err(UnionError::io(&data))?,
            // What a master that was killed, or the replay, has put there may not have been flushed.
            changed: Mutex::new(true),
            failed: AtomicBool::default(),
        };
        Ok(Self {
            name: export.name.clone(),
            number,
            shared: Arc::clone(shared),
            next: Mutex::new((export.image_dir.clone(), export.writes)),
            directory,
            writer: Mutex::default(),
            state: RwLock::new(state),
            journal,
            copying: Default::default(),
            data,
            asked: Mutex::new(Asked::Never),
        })
    }

    /// What it takes at its next boot.
    pub fn next(&self) -> (PathBuf, Writes) {
        lock(&self.next).clone()
    }

    /// Sets what it takes at its next boot.
    pub fn set_next(&self, image_dir: &Path, writes: Writes) {
        *lock(&self.next) = (image_dir.to_owned(), writes);
    }

    /// Sets the address that its handles are honoured for.
    pub fn set_address(&self, address: Option<IpAddr>) {
        self.write().address = address.map(|address| address.to_canonical());
    }

    /// The root, to look at.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root, for what no record speaks of: the address, and what data files say.
    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle of an object.
    pub fn handle(&self, state: &State, object: ObjectId) -> Handle {
        let generation = state.head.generation;
        self.shared.key.seal(Name { node: self.number, generation, object })
    }

    /// Makes a change of at most so many octets of record, and returns when it is on stable storage.
    /// `make` refuses before it changes anything.
    ///
    /// # Errors
    /// What `make` answers; `NFS3ERR_NOSPC` and `NFS3ERR_IO` with nothing changed, or `NFS3ERR_IO`
    /// where it is not known whether the change will be there after a restart.
    pub fn change<T>(&self, octets: usize, make: impl FnOnce(&mut Txn) -> Result<T>) -> Result<T> {
        self.change_in(Room::Common, octets, make)
    }

    /// [`Node::change`], for one that may take the last of the room.
    ///
    /// # Errors
    /// As [`Node::change`].
    pub fn change_in<T>(
        &self,
        room: Room,
        octets: usize,
        make: impl FnOnce(&mut Txn) -> Result<T>,
    ) -> Result<T> {
        self.change_after(room, octets, || Ok(()), |txn, ()| make(txn))
    }

    /// [`Node::change_in`], with something to be done before when no one else changes anything, while
    /// those who only look can go on.
    ///
    /// # Errors
    /// As [`Node::change`], and those of `prepare`.
    pub fn change_after<P, T>(
        &self,
        room: Room,
        octets: usize,
        prepare: impl FnOnce() -> Result<P>,
        make: impl FnOnce(&mut Txn, P) -> Result<T>,
    ) -> Result<T> {
        let (value, unlinked, position) = {
            let writer = lock(&self.writer);
            self.keep_short(&writer);
            self.journal.reserve(octets, room).map_err(|error| {
                self.make_room(&error);
                status(&error)
            })?;
            let prepared = prepare()?;
            let mut state = self.write();
            let mut txn = Txn::new(&mut state);
            let value = make(&mut txn, prepared);
            debug_assert!(value.is_ok() || txn.is_empty(), "a change is made whole or refused");
            let value = value?;
            let (record, unlinked) = txn.finish();
            debug_assert!(record.len() <= octets, "{} octets over {octets}", record.len());
            let position = (!record.is_empty()).then(|| self.journal.append(&record));
            (value, unlinked, position)
        };
        if let Some(position) = position {
            self.journal.sync(position).map_err(|error| status(&error))?;
        }
        self.discard_data(&unlinked);
        Ok(value)
    }

    /// Puts another root in the place of this one: journal, memory, data files. `make` gets the
    /// present one and refuses, or answers the new one.
    pub fn remake<T>(
        &self,
        make: impl FnOnce(&State) -> std::result::Result<(State, T), UnionError>,
    ) -> std::result::Result<T, UnionError> {
        let _writer = lock(&self.writer);
        self.settle_all().map_err(UnionError::io(&self.directory))?;
        let (mut new, value) = make(&self.read())?;
        self.journal.replace(&new.snapshot()).map_err(UnionError::io(&self.directory))?;
        let mut state = self.write();
        new.address = state.address;
        new.recorded = std::mem::take(&mut state.recorded);
        new.recorded.clear();
        *state = new;
        self.shared.files.forget_all(Owner::Node(self.number));
        let data = self.directory.join("data");
        settle_data(&mut state, &data).map_err(UnionError::io(&data))?;
        Ok(value)
    }

    /// Writes the journal anew when it has grown long, or has it done where data must be flushed for it.
    fn keep_short(&self, writer: &MutexGuard<()>) {
        let (octets, is_empty) = {
            let recorded = &self.read().recorded;
            (recorded.octets(), recorded.is_empty())
        };
        let is_long = octets > recorded::LONG || self.journal.is_long(octets);
        let (wanted, after) = match is_long && self.journal.may_be_written_anew() {
            true if is_empty => return self.write_anew(writer),
            true => (Asked::Now, Duration::ZERO),
            false if !is_long && octets > recorded::WORTH => (Asked::Soon, SOON),
            false => return,
        };
        self.ask(wanted, after);
    }

    /// Has the journal let go of content if there was no room for more.
    fn make_room(&self, error: &io::Error) {
        let is_worth_it = || self.read().recorded.octets() > recorded::WORTH;
        if error.kind() == io::ErrorKind::StorageFull && is_worth_it() && self.journal.may_be_written_anew() {
            self.ask(Asked::Now, Duration::ZERO);
        }
    }

    fn ask(&self, wanted: Asked, after: Duration) {
        let mut asked = lock(&self.asked);
        if *asked < wanted {
            *asked = wanted;
            self.shared.keeper.ask(self.number, after);
        }
    }

    /// Writes the journal anew, after the data of which it has content was flushed.
    pub fn shorten(&self) {
        // Once while all others go on, so that there is little to be flushed when they have to wait.
        let flushed = self.settle_all();
        let writer = lock(&self.writer);
        match flushed.and_then(|()| self.settle_all()) {
            Ok(()) => self.write_anew(&writer),
            Err(error) => {
                tracing::error!(node = self.name, %error, "the disk does not take data of the node")
            }
        }
    }

    fn write_anew(&self, _writer: &MutexGuard<()>) {
        let snapshot = self.read().snapshot();
        match self.journal.replace(&snapshot) {
            Ok(()) => self.write().recorded.clear(),
            Err(error) => tracing::warn!(node = self.name, %error, "the journal stays long"),
        }
        *lock(&self.asked) = Asked::Never;
    }

    /// Flushes all data files of which the journal has content: at once, for each by itself would be a commit
    /// of the file system.
    fn settle_all(&self) -> io::Result<()> {
        if self.read().recorded.is_empty() {
            return Ok(());
        }
        if self.data.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("data could not be flushed before"));
        }
        // It tells of errors since the directory was opened or this was last asked.
        nix::unistd::syncfs(&self.data.directory).map_err(|error| {
            self.data.failed.store(true, Ordering::Relaxed);
            error.into()
        })
    }

    /// Octets of disk of the journal.
    pub fn journal_size(&self) -> u64 {
        self.journal.size()
    }

    /// The directory of its journal and data.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the data file of an object is.
    pub fn data_path(&self, object: ObjectId) -> PathBuf {
        self.directory.join("data").join(format!("{object:x}"))
    }

    /// The data file of an object, made if there is none yet.
    pub fn data_file(&self, object: ObjectId) -> io::Result<Arc<File>> {
        self.shared.files.get(Owner::Node(self.number), object, || {
            use std::os::unix::fs::OpenOptionsExt;
            let path = self.data_path(object);
            let mut options = File::options();
            options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let file = options.create(true).truncate(false).open(&path)?;
                    *lock(&self.data.changed) = true;
                    Ok(file)
                }
                result => result,
            }
        })
    }

    /// Makes a data file durable, and that it is there; and has the journal say so where it has content of it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync_data(&self, id: ObjectId, file: &File) -> Result<()> {
        let last = {
            // Who puts content into the file and into the journal has done either both or none.
            let _writer = lock(&self.writer);
            self.read().recorded.last(id)
        };
        self.flush(file).map_err(|error| status(&error))?;
        let Some(number) = last else { return Ok(()) };
        self.change_in(Room::Last, OPERATION, |txn| {
            if txn.recorded.last(id).is_some() {
                txn.log(Change::Settled(id, number));
            }
            Ok(())
        })
    }

    fn flush(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        let mut changed = lock(&self.data.changed);
        if *changed {
            self.data.directory.sync_all()?;
            *changed = false;
        }
        Ok(())
    }

    /// Held while an object is copied up.
    pub fn copying(&self, object: ObjectId) -> MutexGuard<'_, ()> {
        lock(&self.copying[usize::try_from(object % 8).unwrap_or(0)])
    }

    /// Removes data files that no record names any more.
    pub fn discard_data(&self, objects: &[ObjectId]) {
        for &object in objects {
            self.shared.files.forget(Owner::Node(self.number), object);
            match std::fs::remove_file(self.data_path(object)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It is swept at the next start.
                Err(error) => tracing::warn!(node = self.name, %error, "a data file stays"),
            }
        }
    }
}

/// A mutex whose holder may have panicked: what it guards is never left half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first generation of a root that is made without a journal: random, since handles of one
/// whose journal was taken away may still be about.
fn fresh_generation() -> io::Result<u32> {
    Ok(u32::from_le_bytes(random()?) >> 1)
}

/// A build's directory as the journal names it.
pub fn build_name(shared: &Shared, directory: &Path) -> Box<[u8]> {
    use std::os::unix::ffi::OsStrExt;
    directory.strip_prefix(&shared.state_dir).unwrap_or(directory).as_os_str().as_bytes().into()
}

/// The root that a journal tells of; `None` where it is on a build that is no more, and has nothing
/// of the node's own.
fn replay(
    shared: &Arc<Shared>,
    number: u32,
    path: &Path,
    export: &NodeExport,
    builds: &Builds,
) -> std::result::Result<Option<(State, Journal)>, UnionError> {
    use std::os::unix::ffi::OsStrExt;
    let mut changes = Vec::new();
    let malformed = || UnionError::Journal { path: path.to_owned() };
    let journal = Journal::open(path, |record| {
        changes.extend(decode(record).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?);
        Ok(())
    })
    .map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => malformed(),
        _ => UnionError::io(path)(error),
    })?;
    let Some(Change::Head(head)) = changes.first() else { return Err(malformed()) };
    if head.number != number {
        return Err(malformed());
    }
    let directory = shared.state_dir.join(std::ffi::OsStr::from_bytes(&head.build));
    let build = match builds(&directory) {
        Ok(build) => build,
        Err(error) => {
            let kept = changes.contains(&Change::Wrote) && export.writes == Writes::Keep;
            return match error {
                UnionError::Image { node, source, .. } if kept => {
                    let writes = path.parent().unwrap_or(path).to_owned();
                    Err(UnionError::Lost { node, build: directory, writes, source })
                }
                error if kept => Err(error),
                _ => Ok(None),
            };
        }
    };
    let mut state = State::new(head.clone(), build);
    let mut pieces = Pieces::default();
    for change in changes {
        pieces.note(&change);
        state.apply(change).map_err(|_| malformed())?;
    }
    let data = path.with_file_name("data");
    pieces.write(&state, &data).map_err(UnionError::io(&data))?;
    state.head.next_object += PASSED_OVER;
    Ok(Some((state, journal)))
}

/// Takes size and mtime from the data files, and sweeps those that no object has.
fn settle_data(state: &mut State, data: &Path) -> io::Result<()> {
    use super::object::Body;
    use std::os::unix::fs::MetadataExt;
    let mut sizes = std::collections::HashMap::new();
    for entry in std::fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        let object = name.to_str().and_then(|name| ObjectId::from_str_radix(name, 16).ok());
        let has_data = |id: &ObjectId| state.object(*id).is_some_and(|object| object.body == Body::Data);
        match object.filter(has_data) {
            Some(id) => {
                let metadata = entry.metadata()?;
                sizes.insert(id, (metadata.len(), time_of(metadata.mtime(), metadata.mtime_nsec())));
            }
            None => std::fs::remove_file(entry.path())?,
        }
    }
    let ids: Vec<ObjectId> =
        state.objects().filter(|(_, object)| object.body == Body::Data).map(|(id, _)| id).collect();
    for id in ids {
        let Some(object) = state.object_mut(id) else { continue };
        let attributes = &mut object.attributes;
        let Some((size, mtime)) = sizes.get(&id) else {
            attributes.size = 0;
            continue;
        };
        attributes.size = *size;
        if attributes.stamp != *mtime {
            (attributes.stamp, attributes.mtime) = (*mtime, *mtime);
            attributes.ctime = attributes.ctime.max(*mtime);
        }
    }
    Ok(())
}

/// A time of the system as NFS has it.
pub fn time_of(seconds: i64, nanos: i64) -> Time {
    Time { seconds: u32::try_from(seconds).unwrap_or(0), nanos: u32::try_from(nanos).unwrap_or(0) }
}
