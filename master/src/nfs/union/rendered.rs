//! Rendered files: put into a node's root as if renamed over what is there.
//!
//! A file whose rendering changes becomes a new object; the old one keeps its content for those who
//! have it open, until the node's next boot (of more than 1 MiB of them, the oldest go first). What the
//! node itself put in the place of a rendered file, or changed of it, stays until the rendering
//! changes; then it is kept aside and listed.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::UnionError;
use super::node::{Node, OPERATION};
use super::object::{Attributes, Body, DIRECTORY_SIZE, FIRST_OWN, Object, ObjectId, ROOT};
use super::record::{Change, Digest, NewBody};
use super::state::State;
use super::txn::Txn;
use crate::nfs::fs::{Kind, Result, Status, Time};

/// The most octets of rendered files a node.
pub const MOST: usize = 8 << 20;

/// The most octets of replaced rendered files that are kept for those who have them open.
const MOST_RETIRED: u64 = 1 << 20;

/// The most symbolic links on the way to a rendered file (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// A file that a node is to see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenderedFile {
    /// Where: absolute, without `..`. Symbolic links on the way are followed within the node's
    /// root; directories that are missing are made, mode 0755, root's.
    pub path: PathBuf,
    /// What.
    pub kind: RenderedKind,
    /// Permission bits (07777); a symbolic link's are 0777 whatever is said.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a rendered file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RenderedKind {
    /// A regular file with this content.
    File(Arc<[u8]>),
    /// A symbolic link to this.
    Symlink(PathBuf),
    /// A directory: what else is in it stays.
    Directory,
}

/// What became visible.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Paths that changed, came or went.
    pub paths: Vec<PathBuf>,
    /// Directories in which they are: those that a node's kernel has to look at again.
    pub directories: Vec<PathBuf>,
}

/// Where the node's version of a rendered file and the template's differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The rendered path.
    pub path: PathBuf,
    /// Which version the node sees.
    pub state: ConflictState,
}

/// Which version of a rendered file a node sees, where it has one of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConflictState {
    /// The node's: it wrote, replaced or removed the file, and holds until the rendering changes.
    Held,
    /// The template's: the node's version of so many octets is kept aside.
    Aside {
        /// Its size.
        size: u64,
    },
}

impl Node {
    /// Makes these the rendered files: all at once.
    pub(super) fn apply(&self, files: &[RenderedFile]) -> std::result::Result<Applied, UnionError> {
        let octets = record_size(&self.name, files)? + withdrawal_size(&self.read());
        self.change(octets, |txn| Ok(render(txn, files)))
            .map_err(|status| UnionError::Refused { node: self.name.clone(), status })
    }

    /// Where the node has its own version of rendered files.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let state = self.read();
        let held = state.rendered.iter().filter(|(path, what)| as_rendered(&state, path, **what).is_none());
        let held = held.map(|(path, _)| (path, ConflictState::Held));
        let aside = state.asides.iter().map(|(path, id)| {
            let size = state.find(*id).map_or(0, |(attributes, _)| attributes.size);
            (path, ConflictState::Aside { size })
        });
        held.chain(aside).map(|(path, state)| Conflict { path: absolute(path), state }).collect()
    }
}

/// Octets of record that rendering may take.
///
/// # Errors
/// [`UnionError::TooMuch`], or [`UnionError::Path`] for a path that cannot be.
pub fn record_size(node: &str, files: &[RenderedFile]) -> std::result::Result<usize, UnionError> {
    let mut total = 0;
    for file in files {
        let length = match &file.kind {
            RenderedKind::File(content) => content.len(),
            RenderedKind::Symlink(target) => target.as_os_str().len(),
            RenderedKind::Directory => 0,
        };
        let parts = components(&file.path).ok_or_else(|| UnionError::Path {
            node: node.to_owned(),
            path: file.path.clone(),
            what: "not an absolute path without `..`, or with a name of over 255 octets",
        })?;
        total += length + parts.len() * (OPERATION + file.path.as_os_str().len());
    }
    if total > MOST {
        return Err(UnionError::TooMuch { node: node.to_owned() });
    }
    Ok(total)
}

/// Octets of record that taking all rendered files away may take, and freeing what was replaced or
/// kept aside.
pub fn withdrawal_size(state: &State) -> usize {
    let aside: usize = state.asides.values().map(|id| own_below(state, *id)).sum();
    state.rendered.len() * OPERATION + state.retired().count() * GONE + aside * UNLINKED
}

/// How many of the node's own names are in a directory and below it.
fn own_below(state: &State, directory: ObjectId) -> usize {
    let (mut count, mut ahead) = (0, vec![directory]);
    while let Some(directory) = ahead.pop() {
        for (_, _, id) in state.difference(directory).into_iter().flat_map(|own| own.entries_after(0)) {
            count += 1;
            ahead.push(id);
        }
    }
    count
}

/// Octets, and some, of a record that an object is gone.
const GONE: usize = 16;
/// Octets, and some, of a record that an object has a name less, or is gone.
const UNLINKED: usize = 128;

/// Makes these the rendered files of a root.
pub fn render(txn: &mut Txn, files: &[RenderedFile]) -> Applied {
    let mut changed = Vec::new();
    let mut wanted = std::collections::BTreeSet::new();
    for file in files {
        let Some(parts) = components(&file.path) else { continue };
        let key: Box<[u8]> = parts.join(&b'/').into();
        let digest = digest(file);
        if txn.rendered.get(&key).is_none_or(|(_, last)| *last != digest) {
            place(txn, &key, &parts, file, digest);
            changed.push(absolute(&key));
        }
        wanted.insert(key);
    }
    let withdrawn: Vec<Box<[u8]>> =
        txn.rendered.keys().filter(|key| !wanted.contains(*key)).cloned().collect();
    for key in withdrawn {
        withdraw(txn, &key);
        changed.push(absolute(&key));
    }
    free_retired(txn, MOST_RETIRED);
    changed.sort();
    let mut directories: Vec<PathBuf> =
        changed.iter().filter_map(|path| path.parent().map(Path::to_owned)).collect();
    directories.dedup();
    Applied { paths: changed, directories }
}

/// Removes replaced rendered files, the oldest first, until those that are left have at most so
/// many octets.
pub fn free_retired(txn: &mut Txn, most: u64) {
    let mut retired: Vec<(ObjectId, u64)> =
        txn.retired().map(|(id, object)| (id, object.attributes.size)).collect();
    retired.sort_unstable();
    let mut total: u64 = retired.iter().map(|(_, size)| size).sum();
    for (id, size) in retired {
        if total <= most {
            break;
        }
        txn.remove(id);
        total -= size;
    }
}

fn place(txn: &mut Txn, key: &[u8], parts: &[&[u8]], file: &RenderedFile, digest: Digest) {
    let Some((name, above)) = parts.split_last() else { return };
    let Some(parent) = make_way(txn, key, above) else { return };
    let current = txn.child(parent, name);
    let is_directory = matches!(file.kind, RenderedKind::Directory);
    let mut new = Attributes {
        mode: file.mode & 0o7777,
        uid: file.uid,
        gid: file.gid,
        nlink: 1,
        size: 0,
        atime: txn.now,
        mtime: txn.now,
        ctime: txn.now,
        stamp: Time::default(),
        verifier: None,
    };
    let body = match &file.kind {
        RenderedKind::Directory => {
            if let Some(id) = current.filter(|id| txn.directory(*id).is_ok()) {
                let set = |old: &mut Attributes| {
                    (old.mode, old.uid, old.gid) = (new.mode, new.uid, new.gid);
                };
                // It was just found.
                let updated = txn.update(id, set);
                debug_assert!(updated.is_ok());
                txn.log(Change::Rendered(key.into(), Some((id, digest))));
                return;
            }
            (new.nlink, new.size) = (2, DIRECTORY_SIZE);
            NewBody::Directory(parent)
        }
        RenderedKind::File(content) => {
            new.size = content.len() as u64;
            NewBody::Other(Body::Text(Arc::clone(content)))
        }
        RenderedKind::Symlink(target) => {
            let target = octets(target);
            (new.mode, new.size) = (0o777, target.len() as u64);
            NewBody::Other(Body::Symlink(target.into()))
        }
    };
    clear(txn, key, parent, name, current, i32::from(is_directory));
    let id = txn.add(new, body);
    txn.enter(parent, name, id, false);
    txn.log(Change::Rendered(key.into(), Some((id, digest))));
}

/// Makes a name of a directory free, and keeps what it stood for where that was the node's own.
/// What the image has there is only covered.
fn clear(
    txn: &mut Txn,
    key: &[u8],
    parent: ObjectId,
    name: &[u8],
    current: Option<ObjectId>,
    subdirectories: i32,
) {
    let was_directory = current.is_some_and(|id| txn.directory(id).is_ok());
    let updated = txn.names_changed(parent, subdirectories - i32::from(was_directory));
    debug_assert!(updated.is_ok(), "the way to it was just made");
    let Some(id) = current else { return };
    let rendered = txn.rendered.get(key).copied();
    let untouched = rendered.is_some_and(|(last, digest)| last == id && digest_of(txn, id) == Some(digest));
    let plain_image = id < FIRST_OWN && txn.object(id).is_none();
    let entered = txn
        .difference(parent)
        .and_then(|difference| difference.slot(name))
        .is_some_and(|slot| slot.entry.is_some());
    if plain_image && !entered {
        return;
    }
    if !was_directory {
        let updated = txn.update(id, |attributes| {
            attributes.nlink = attributes.nlink.saturating_sub(1);
        });
        debug_assert!(updated.is_ok());
    }
    if !untouched {
        if txn.asides.get(key).is_some_and(|older| *older != id) {
            txn.drop_aside(key);
        }
        txn.log(Change::Aside(key.into(), Some(id)));
    }
}

fn withdraw(txn: &mut Txn, key: &[u8]) {
    let Some((id, digest)) = txn.rendered.get(key).copied() else { return };
    txn.log(Change::Rendered(key.into(), None));
    let Some((parent, name, current)) = locate(txn, key) else { return };
    if current != Some(id) || digest_of(txn, id) != Some(digest) {
        return;
    }
    if txn.directory(id).is_ok() {
        if id < FIRST_OWN || txn.entries(id).next().is_some() {
            return;
        }
        let updated = txn.names_changed(parent, -1);
        debug_assert!(updated.is_ok());
        txn.leave(parent, &name, false);
        txn.remove(id);
        return;
    }
    let image = txn.image_child(parent, &name);
    // The node may have given it names of its own.
    let gone = |attributes: &mut Attributes| attributes.nlink = attributes.nlink.saturating_sub(1);
    let subdirectory = image.is_some_and(|image| txn.directory(image).is_ok());
    let updated = txn.names_changed(parent, i32::from(subdirectory)).and(txn.update(id, gone));
    debug_assert!(updated.is_ok());
    txn.leave(parent, &name, false);
    // What the node had changed of the image's file is in its place again.
    if txn.child(parent, &name).is_some_and(|back| txn.asides.get(key) == Some(&back)) {
        txn.log(Change::Aside(key.into(), None));
        if let Some(back) = image {
            let updated = txn.update(back, |attributes| attributes.nlink += 1);
            debug_assert!(updated.is_ok());
        }
    }
}

/// The directory at the end of a way, with what is missing made and what bars it put aside.
fn make_way(txn: &mut Txn, key: &[u8], above: &[&[u8]]) -> Option<ObjectId> {
    let mut ahead: Vec<Vec<u8>> = above.iter().rev().map(|part| part.to_vec()).collect();
    let mut at = ROOT;
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        match step(txn, at, &part, &mut ahead, &mut links) {
            Step::At(next) => at = next,
            Step::Barred(barred) => {
                clear(txn, key, at, &part, barred, 1);
                let new = Attributes {
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    nlink: 2,
                    size: DIRECTORY_SIZE,
                    atime: txn.now,
                    mtime: txn.now,
                    ctime: txn.now,
                    stamp: Time::default(),
                    verifier: None,
                };
                let id = txn.add(new, NewBody::Directory(at));
                txn.enter(at, &part, id, false);
                at = id;
            }
            Step::TooManyLinks => return None,
        }
    }
    Some(at)
}

enum Step {
    At(ObjectId),
    /// There is nothing, or no directory.
    Barred(Option<ObjectId>),
    TooManyLinks,
}

/// One step of a way; a symbolic link puts its parts `ahead`.
fn step(state: &State, at: ObjectId, part: &[u8], ahead: &mut Vec<Vec<u8>>, links: &mut u32) -> Step {
    match part {
        b"" | b"." => return Step::At(at),
        b".." => return Step::At(state.parent(at)),
        _ => {}
    }
    let Some(next) = state.child(at, part) else { return Step::Barred(None) };
    if let Some(target) = state.target(next) {
        *links += 1;
        if *links > MOST_LINKS {
            return Step::TooManyLinks;
        }
        ahead.extend(target.split(|octet| *octet == b'/').rev().map(<[u8]>::to_vec));
        return Step::At(if target.starts_with(b"/") { ROOT } else { at });
    }
    match state.directory(next) {
        Ok(_) => Step::At(next),
        Err(_) => Step::Barred(Some(next)),
    }
}

/// Where a path of a node leads, its last part not followed: directory, name, object if there is one.
pub fn locate(state: &State, path: &[u8]) -> Option<(ObjectId, Vec<u8>, Option<ObjectId>)> {
    let mut ahead: Vec<Vec<u8>> = path
        .split(|octet| *octet == b'/')
        .filter(|part| !part.is_empty())
        .rev()
        .map(<[u8]>::to_vec)
        .collect();
    let name = ahead.first().cloned()?;
    ahead.remove(0);
    let (mut at, mut links) = (ROOT, 0);
    while let Some(part) = ahead.pop() {
        match step(state, at, &part, &mut ahead, &mut links) {
            Step::At(next) => at = next,
            Step::Barred(_) | Step::TooManyLinks => return None,
        }
    }
    let object = state.child(at, &name);
    Some((at, name, object))
}

/// The parts of a rendered file's path; `None` if it is not one.
fn components(path: &Path) -> Option<Vec<&[u8]>> {
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return None;
    }
    let parts: Vec<&[u8]> = parts
        .map(|part| match part {
            Component::Normal(name) if name.len() <= 255 => Some(octets(Path::new(name))),
            _ => None,
        })
        .collect::<Option<_>>()?;
    (!parts.is_empty()).then_some(parts)
}

fn octets(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

/// A path as it is shown.
pub fn absolute(key: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new("/").join(std::ffi::OsStr::from_bytes(key))
}

fn digest(file: &RenderedFile) -> Digest {
    match &file.kind {
        RenderedKind::File(content) => digest_parts(b'f', file.mode & 0o7777, file.uid, file.gid, content),
        RenderedKind::Symlink(target) => digest_parts(b'l', 0o777, file.uid, file.gid, octets(target)),
        RenderedKind::Directory => digest_parts(b'd', file.mode & 0o7777, file.uid, file.gid, b""),
    }
}

/// The directory and the name of a rendered path where what is there is as it was rendered; `None` where the node
/// has its own version.
pub fn as_rendered(
    state: &State,
    path: &[u8],
    (id, digest): (ObjectId, Digest),
) -> Option<(ObjectId, Vec<u8>)> {
    let (directory, name, at) = locate(state, path)?;
    (at == Some(id) && digest_of(state, id) == Some(digest)).then_some((directory, name))
}

/// The digest that an object would be rendered with; `None` if it cannot have been.
fn digest_of(state: &State, id: ObjectId) -> Option<Digest> {
    let (attributes, kind) = state.find(id).ok()?;
    let (code, content): (u8, &[u8]) = match (state.object(id), kind) {
        (Some(Object { body: Body::Text(text), .. }), _) => (b'f', text),
        (Some(Object { body: Body::Symlink(target), .. }), _) => (b'l', target),
        (_, Kind::Directory) => (b'd', b""),
        _ => return None,
    };
    Some(digest_parts(code, attributes.mode, attributes.uid, attributes.gid, content))
}

fn digest_parts(code: u8, mode: u16, uid: u32, gid: u32, content: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[code]).update(&mode.to_le_bytes());
    hasher.update(&uid.to_le_bytes()).update(&gid.to_le_bytes()).update(content);
    let mut digest = Digest::default();
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

/// The object at a path, every symbolic link followed.
///
/// # Errors
/// `NFS3ERR_NOENT`.
pub fn follow(state: &State, path: &[u8]) -> Result<ObjectId> {
    let mut path = path.to_vec();
    for _ in 0..MOST_LINKS {
        if path.iter().all(|octet| *octet == b'/') {
            return Ok(ROOT);
        }
        let located = locate(state, &path).and_then(|(_, _, object)| object);
        let object = located.ok_or(Status::NFS3ERR_NOENT)?;
        let Some(target) = state.target(object) else { return Ok(object) };
        if target.starts_with(b"/") {
            path = target.to_vec();
        } else {
            let above = path.iter().rposition(|octet| *octet == b'/').map_or(0, |at| at + 1);
            path.truncate(above);
            path.extend_from_slice(target);
        }
    }
    Err(Status::NFS3ERR_NOENT)
}
