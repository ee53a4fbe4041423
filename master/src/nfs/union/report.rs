//! What the command line shows of a node's root, and what is done to it between two boots.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::journal::Room;
use super::node::{Node, OPERATION};
use super::object::{Body, FIRST_OWN, ObjectId, ROOT};
use super::record::{Change, decode};
use super::recorded::Pieces;
use super::rendered::{self, Applied, RenderedFile, absolute, free_retired};
use super::state::State;
use super::txn::Txn;
use super::{Conflict, Union, UnionError, journal};
use crate::nfs::fs::{Attr, Kind, Status};

/// Where a node's root differs from its image by the node's own doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where.
    pub path: PathBuf,
    /// How.
    pub how: How,
}

/// How a path differs from the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// The image has nothing here, or something else.
    Added,
    /// Content or attributes of the image's file differ.
    Changed,
    /// What the image has here is removed.
    Removed,
}

/// What a node costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Octets of disk of the files that it wrote.
    pub data: u64,
    /// Octets of disk of its journal.
    pub journal: u64,
    /// Objects that are kept in memory for it.
    pub objects: usize,
}

/// What is at a path of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its attributes.
    pub attr: Attr,
    /// A regular file's content or a symbolic link's target, as much of it as was asked for.
    pub content: Vec<u8>,
}

impl Union {
    /// What a node sees at a path, symbolic links followed within its root, and at most `most`
    /// octets of it.
    ///
    /// # Errors
    /// [`UnionError::UnknownNode`], [`UnionError::Path`] if there is nothing, [`UnionError::Io`].
    pub fn read_path(&self, node: &str, path: &Path, most: usize) -> Result<Found, UnionError> {
        use std::os::unix::ffi::OsStrExt;
        let node = self.node_named(node)?;
        let nothing = |_: Status| UnionError::Path {
            node: node.name.clone(),
            path: path.to_owned(),
            what: "there is no such file",
        };
        let (id, attr, content) = {
            let state = node.read();
            let id = rendered::follow(&state, path.as_os_str().as_bytes()).map_err(nothing)?;
            (id, state.find_attr(id).map_err(nothing)?, state.content(id).ok())
        };
        let length = usize::try_from(attr.size).unwrap_or(usize::MAX).min(most);
        let content = match content {
            Some(content) if length > 0 => {
                node.content_at(id, &content, 0, length).map_err(UnionError::io(path))?
            }
            _ => Vec::new(),
        };
        Ok(Found { attr, content })
    }

    /// Where a node's root differs from its image by the node's own doing, in the order of the paths.
    ///
    /// # Errors
    /// [`UnionError::UnknownNode`].
    pub fn list(&self, node: &str) -> Result<Vec<Difference>, UnionError> {
        let node = self.node_named(node)?;
        let state = node.read();
        let mut differences = differences(&state);
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(differences)
    }

    /// Where a node has its own version of rendered files.
    ///
    /// # Errors
    /// [`UnionError::UnknownNode`].
    pub fn conflicts(&self, node: &str) -> Result<Vec<Conflict>, UnionError> {
        Ok(self.node_named(node)?.conflicts())
    }

    /// What a node costs.
    ///
    /// # Errors
    /// [`UnionError::UnknownNode`], [`UnionError::Io`].
    pub fn disk_usage(&self, node: &str) -> Result<Usage, UnionError> {
        use std::os::unix::fs::MetadataExt;
        let node = self.node_named(node)?;
        let path = node.directory().join("data");
        let sum = || -> std::io::Result<u64> {
            std::fs::read_dir(&path)?.map(|entry| Ok(entry?.metadata()?.blocks() * 512)).sum()
        };
        let data = sum().map_err(UnionError::io(&path))?;
        let objects = node.read().objects().count();
        Ok(Usage { data, journal: node.journal_size(), objects })
    }
}

/// The build that each node's root is on, as its journal has it, whether the node is served or not. Without
/// its build a root is lost, so none of these may be removed.
///
/// # Errors
/// [`UnionError::Io`].
pub fn builds_in_use(state_dir: &Path) -> Result<Vec<(String, PathBuf)>, UnionError> {
    use std::os::unix::ffi::OsStrExt;
    let nodes = state_dir.join("nodes");
    let entries = match std::fs::read_dir(&nodes) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(UnionError::io(&nodes))?,
    };
    let mut builds = Vec::new();
    for entry in entries {
        let entry = entry.map_err(UnionError::io(&nodes))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path().join("journal");
        let octets = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            octets => octets.map_err(UnionError::io(&path))?,
        };
        let head = journal::records(&octets).first().and_then(|record| decode(record).ok());
        if let Some([Change::Head(head), ..]) = head.as_deref() {
            let build = state_dir.join(std::ffi::OsStr::from_bytes(&head.build));
            builds.push((name, build));
        }
    }
    builds.sort();
    Ok(builds)
}

/// All differences, in no order. What lies deeper than a path can say (PATH_MAX, 4096 octets) no program
/// of the node can name either, and is not listed.
fn differences(state: &State) -> Vec<Difference> {
    const LONGEST: usize = 4096;
    let mut out = Vec::new();
    // Not by recursion: how deep a node's directories lie is for the node to say.
    let mut ahead = vec![(ROOT, Vec::new())];
    while let Some((directory, path)) = ahead.pop() {
        let at = |name: &[u8]| [&path, &b"/"[..], name].concat();
        let slots = state.difference(directory).into_iter().flat_map(|difference| difference.slots());
        for (name, _) in slots.filter(|(_, slot)| slot.hidden && slot.entry.is_none()) {
            out.push(Difference { path: absolute(&at(name)), how: How::Removed });
        }
        for (name, id) in state.entries(directory) {
            let path = at(name);
            let how = if state.image_child(directory, name) != Some(id) {
                Some(How::Added)
            } else if id < FIRST_OWN
                && state.object(id).is_some_and(|object| !matches!(object.body, Body::Directory(_)))
            {
                Some(How::Changed)
            } else {
                None
            };
            let is_rendered = state.rendered.get(&path[1..]).is_some_and(|(rendered, _)| *rendered == id);
            if let Some(how) = how.filter(|_| !is_rendered) {
                out.push(Difference { path: absolute(&path), how });
            }
            if path.len() < LONGEST && state.directory(id).is_ok() {
                ahead.push((id, path));
            }
        }
    }
    out
}

impl Node {
    /// Sweeps what the last run left behind, and renders.
    pub(super) fn swept(&self, files: &[RenderedFile]) -> Result<Applied, UnionError> {
        let refused = |status| UnionError::Refused { node: self.name.clone(), status };
        // A few at a time: however many there are, a record has a longest.
        let left: Vec<(ObjectId, Vec<u8>)> = left_behind(&self.read());
        for left in left.chunks(SWEPT_AT_ONCE) {
            self.change_in(Room::Last, left.len() * OPERATION, |txn| {
                left.iter().for_each(|(directory, name)| sweep(txn, *directory, name));
                Ok(())
            })
            .map_err(refused)?;
        }
        let octets = rendered::record_size(&self.name, files)? + rendered::withdrawal_size(&self.read());
        self.change(octets, |txn| {
            free_retired(txn, 0);
            Ok(rendered::render(txn, files))
        })
        .map_err(refused)
    }
}

/// How many files are swept in one change.
const SWEPT_AT_ONCE: usize = 64;

/// The names that a client gave to files which it had open when they were removed.
fn left_behind(state: &State) -> Vec<(ObjectId, Vec<u8>)> {
    let silly = |name: &[u8]| {
        name.strip_prefix(b".nfs")
            .is_some_and(|rest| rest.len() >= 16 && rest.iter().all(u8::is_ascii_hexdigit))
    };
    let mut found = Vec::new();
    for (id, _) in state.objects() {
        let Some(difference) = state.difference(id) else { continue };
        for (_, name, object) in difference.entries_after(0) {
            if silly(name) && state.find(object).is_ok_and(|(_, kind)| kind != Kind::Directory) {
                found.push((id, name.to_vec()));
            }
        }
    }
    found
}

fn sweep(txn: &mut Txn, directory: ObjectId, name: &[u8]) {
    let Some(id) = txn.child(directory, name) else { return };
    let updated = txn.names_changed(directory, 0);
    debug_assert!(updated.is_ok());
    txn.leave(directory, name, true);
    txn.unlink(id);
}

/// Reads `data` as a journal and makes its changes on the root of a node whose image is empty.
pub(super) fn fuzz_journal(data: &[u8]) {
    use super::image::Build;
    use std::sync::OnceLock;
    static EMPTY: OnceLock<Option<Arc<Build>>> = OnceLock::new();
    let empty = || {
        let directory = std::env::temp_dir().join(format!("tesela-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("root")).ok()?;
        let index = tesela_node_image::index::scan(&directory.join("root")).ok()?;
        index.write(&directory.join(tesela_node_image::index::FILE_NAME)).ok()?;
        let build = Build::load(&directory).ok()?;
        std::fs::remove_dir_all(&directory).ok()?;
        Some(Arc::new(build))
    };
    let Some(build) = EMPTY.get_or_init(empty) else { return };
    let head =
        super::record::Head { number: 1, generation: 1, build: Box::default(), next_object: FIRST_OWN };
    let mut state = State::new(head, Arc::clone(build));
    let mut pieces = Pieces::default();
    let whole = journal::records(data);
    for record in if whole.is_empty() { vec![data] } else { whole } {
        let Ok(changes) = decode(record) else { return };
        for change in changes {
            pieces.note(&change);
            if state.apply(change).is_err() {
                return;
            }
        }
    }
    for record in state.snapshot() {
        assert!(decode(&record).is_ok(), "a snapshot is read back");
    }
    for (id, _) in state.objects() {
        assert!(state.entries(id).count() <= data.len());
        assert!(state.find(id).is_ok() || state.content(id).is_err());
    }
}
