//! Moving a node's own writes to another build of its image.
//!
//! The node's root is walked once; where it differs from its old image, the same difference is made on
//! the new one: what it wrote, replaced or removed stays so, all else is the new image's. Directories
//! and files of the old image that the node moved are those of the new one, found by their old path; what
//! the new one lacks is copied. Objects that the node had changed in content become its own.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use tesela_node_image::index;

use super::image::Build;
use super::node::{Node, build_name};
use super::object::{Attributes, Body, FIRST_OWN, Object, ObjectId, ROOT, Slot};
use super::record::{Change, Head, NewBody};
use super::rendered::{self, RenderedFile, as_rendered};
use super::state::State;
use super::txn::Txn;
use super::{Union, UnionError};
use crate::nfs::fs::Kind;

impl Union {
    /// Where a node changed what the image changes too, on the way from the build that it is on to
    /// the one that it is to have: the node's version would hold.
    ///
    /// # Errors
    /// [`UnionError::UnknownNode`]; [`UnionError::Image`] or [`UnionError::Io`] if a build cannot be read.
    pub fn rebase_conflicts(&self, node: &str) -> Result<Vec<PathBuf>, UnionError> {
        let node = self.node_named(node)?;
        let build = self.build(&node.name, &node.next().0)?;
        let differences = self.list(&node.name)?;
        let state = node.read();
        let mut conflicts = Vec::new();
        for path in differences.into_iter().map(|difference| difference.path) {
            if differs(&state.build, &build, &path)? {
                conflicts.push(path);
            }
        }
        Ok(conflicts)
    }

    /// Moves what a node wrote to the build that it is to have, and renders. Its handles are stale
    /// from then on, so a node that runs has to boot again.
    ///
    /// # Errors
    /// As [`Union::booted`]; nothing is changed then.
    pub fn rebase(&self, node: &str, files: &[RenderedFile]) -> Result<(), UnionError> {
        let node = self.node_named(node)?;
        let (image_dir, _) = node.next();
        let build = self.build(&node.name, &image_dir)?;
        rendered::record_size(&node.name, files)?;
        node.remake(|old| {
            let head = Head {
                generation: old.head.generation.wrapping_add(1),
                build: build_name(&self.shared, &image_dir),
                ..old.head.clone()
            };
            let mut new = State::new(head, build);
            let mut txn = Txn::new(&mut new);
            let mut mover = Mover::new(&node, old);
            mover.run(&mut txn).map_err(UnionError::io(node.directory()))?;
            rendered::render(&mut txn, files);
            count_links(&mut txn);
            Ok((new, ()))
        })
    }
}

/// Whether two builds have another object at a path: by kind, owner, mode and content. A time says nothing, for
/// an image that is built anew has new ones; nor do those of a directory, whose names are looked at one by one.
fn differs(old: &Build, new: &Build, path: &Path) -> Result<bool, UnionError> {
    let at = |build: &Build| {
        let object = build.index.find(path)?;
        Some((object, *build.index.attributes(object)?))
    };
    let ((old_object, was), (new_object, is)) = match (at(old), at(new)) {
        (Some(old), Some(new)) => (old, new),
        (old, new) => return Ok(old.is_some() != new.is_some()),
    };
    if was.kind != is.kind || was.kind == index::Kind::Directory {
        return Ok(was.kind != is.kind);
    }
    if (was.mode, was.uid, was.gid) != (is.mode, is.uid, is.gid) {
        return Ok(true);
    }
    match was.kind {
        index::Kind::File(_) => {
            let same = || same_content(old.open(old_object)?, new.open(new_object)?);
            same().map(|same| !same).map_err(UnionError::io(path))
        }
        _ => Ok(old.index.target(old_object) != new.index.target(new_object)),
    }
}

fn same_content(old: File, new: File) -> std::io::Result<bool> {
    let (mut old, mut new) = (BufReader::new(old), BufReader::new(new));
    loop {
        let (was, is) = (old.fill_buf()?, new.fill_buf()?);
        let count = was.len().min(is.len());
        if count == 0 || was[..count] != is[..count] {
            return Ok(was.is_empty() && is.is_empty());
        }
        old.consume(count);
        new.consume(count);
    }
}

struct Mover<'a> {
    node: &'a Node,
    old: &'a State,
    /// What has become of the old root's objects.
    moved: HashMap<ObjectId, ObjectId>,
    /// Directories, old and new, whose names are still to be made. Not by recursion: how deep they lie is
    /// for the node to say.
    ahead: Vec<(ObjectId, ObjectId)>,
    /// Directories and names of what is as it was rendered, and is rendered anew. Further names that the node gave
    /// to it are the node's.
    rendered: HashSet<(ObjectId, Vec<u8>)>,
}

impl<'a> Mover<'a> {
    fn new(node: &'a Node, old: &'a State) -> Self {
        let own = old.rendered.iter().filter(|(_, (id, _))| *id >= FIRST_OWN);
        let rendered = own.filter_map(|(path, what)| as_rendered(old, path, *what)).collect();
        Self { node, old, moved: HashMap::new(), ahead: Vec::new(), rendered }
    }

    fn run(&mut self, txn: &mut Txn) -> std::io::Result<()> {
        if self.old.wrote {
            txn.log(Change::Wrote);
        }
        self.moved.insert(ROOT, ROOT);
        self.attributes(txn, ROOT, ROOT, ROOT);
        self.ahead.push((ROOT, ROOT));
        self.go_on(txn)?;
        for (path, what) in &self.old.rendered {
            // The node's own version holds until the rendering changes.
            if what.0 >= FIRST_OWN && as_rendered(self.old, path, *what).is_none() {
                txn.log(Change::Rendered(path.clone(), Some(*what)));
            }
        }
        for (path, id) in &self.old.asides {
            let id = self.object(txn, *id, ROOT)?;
            txn.log(Change::Aside(path.clone(), Some(id)));
        }
        self.go_on(txn)
    }

    /// Makes the names of all directories that are ahead.
    fn go_on(&mut self, txn: &mut Txn) -> std::io::Result<()> {
        while let Some((was, new)) = self.ahead.pop() {
            self.directory(txn, was, new)?;
        }
        Ok(())
    }

    /// Makes in the directory `new` what is otherwise in the old root's directory `was`.
    fn directory(&mut self, txn: &mut Txn, was: ObjectId, new: ObjectId) -> std::io::Result<()> {
        let old = self.old;
        let hidden = old.difference(was).into_iter().flat_map(|difference| difference.slots());
        for (name, slot) in hidden {
            if slot.hidden && slot.entry.is_none() && txn.image_child(new, name).is_some() {
                self.touch(txn, new);
                txn.log(Change::Name(new, name.into(), Slot { hidden: true, entry: None }));
            }
        }
        for (name, id) in old.entries(was) {
            if self.rendered.contains(&(was, name.to_vec())) {
                continue;
            }
            let as_in_image = old.image_child(was, name) == Some(id);
            let kept = matches!(old.object(id), Some(Object { body: Body::Data, .. }));
            if as_in_image && !kept {
                self.image_entry(txn, (was, new), name, id)?;
                continue;
            }
            let id = self.object(txn, id, new)?;
            self.touch(txn, new);
            txn.enter(new, name, id, true);
        }
        Ok(())
    }

    /// A name that is as in the old image, and so is to be as in the new one.
    fn image_entry(
        &mut self,
        txn: &mut Txn,
        (_, parent): (ObjectId, ObjectId),
        name: &[u8],
        id: ObjectId,
    ) -> std::io::Result<()> {
        let is_directory = self.old.directory(id).is_ok();
        let same_kind = |new: &ObjectId| {
            let kinds = (self.old.find(id), txn.find(*new));
            matches!(kinds, (Ok((_, old)), Ok((_, new))) if old == new)
        };
        match txn.image_child(parent, name).filter(same_kind) {
            Some(new) => {
                self.moved.insert(id, new);
                self.attributes(txn, id, new, parent);
                if is_directory {
                    self.ahead.push((id, new));
                }
            }
            // The new image has it no more: the node keeps no more of it than what it added there.
            None if is_directory && self.adds_below(id) => {
                let attributes = self.of(id);
                let new = txn.add(attributes, NewBody::Directory(parent));
                self.moved.insert(id, new);
                self.touch(txn, parent);
                txn.enter(parent, name, new, true);
                self.ahead.push((id, new));
            }
            None => {}
        }
        Ok(())
    }

    /// Whether there is anything of the node's own in a directory or below.
    fn adds_below(&self, directory: ObjectId) -> bool {
        let mut ahead = vec![directory];
        while let Some(directory) = ahead.pop() {
            for (_, id) in self.old.entries(directory) {
                if id >= FIRST_OWN || matches!(self.old.object(id), Some(Object { body: Body::Data, .. })) {
                    return true;
                }
                if self.old.directory(id).is_ok() {
                    ahead.push(id);
                }
            }
        }
        false
    }

    /// The object that an old one becomes, made if it is not yet.
    fn object(&mut self, txn: &mut Txn, id: ObjectId, parent: ObjectId) -> std::io::Result<ObjectId> {
        if let Some(new) = self.moved.get(&id) {
            return Ok(*new);
        }
        let attributes = self.of(id);
        let counterpart = self.counterpart(txn, id);
        let new = match self.old.object(id).map(|object| &object.body) {
            Some(Body::Data) => {
                let new = self.own(txn, id, attributes, NewBody::Other(Body::Data));
                self.link_data(id, new)?;
                new
            }
            Some(body) if id >= FIRST_OWN => {
                let body = match body {
                    Body::Directory(_) => NewBody::Directory(parent),
                    other => NewBody::Other(other.clone()),
                };
                self.own(txn, id, attributes, body)
            }
            _ => match counterpart {
                Some(new) => {
                    self.attributes(txn, id, new, parent);
                    new
                }
                None => self.copied(txn, id, attributes, parent)?,
            },
        };
        self.moved.insert(id, new);
        if self.old.directory(id).is_ok() {
            self.ahead.push((id, new));
        }
        Ok(new)
    }

    /// The new image's object at the path of the old image's.
    fn counterpart(&self, txn: &Txn, id: ObjectId) -> Option<ObjectId> {
        let path = self.old.build.index.path(index::Object::try_from(id).ok()?)?;
        let new = ObjectId::from(txn.build.index.find(&path)?);
        let same = txn.find(new).ok()?.1 == self.old.find(id).ok()?.1;
        (same && !self.moved.values().any(|taken| *taken == new)).then_some(new)
    }

    /// An object of the old image that the new one lacks, as the node's own.
    fn copied(
        &mut self,
        txn: &mut Txn,
        id: ObjectId,
        attributes: Attributes,
        parent: ObjectId,
    ) -> std::io::Result<ObjectId> {
        let body = match self.old.find(id) {
            Ok((_, Kind::Directory)) => NewBody::Directory(parent),
            Ok((_, Kind::File)) => NewBody::Other(Body::Data),
            Ok((_, Kind::Symlink)) => {
                NewBody::Other(Body::Symlink(self.old.target(id).unwrap_or_default().into()))
            }
            Ok((_, kind)) => NewBody::Other(Body::Node(kind)),
            Err(_) => return Err(std::io::ErrorKind::NotFound.into()),
        };
        let new = txn.add(attributes, body);
        if let Ok(content) = self.old.content(id) {
            self.node.copy(new, &content, u64::MAX)?;
        }
        Ok(new)
    }

    /// An object of the node's own: with its number, unless that is the image's.
    fn own(&self, txn: &mut Txn, id: ObjectId, attributes: Attributes, body: NewBody) -> ObjectId {
        if id < FIRST_OWN {
            return txn.add(attributes, body);
        }
        txn.log(Change::Put(id, attributes, Some(body)));
        id
    }

    /// The same data file by another number; the old one is swept when no one has it any more.
    fn link_data(&self, id: ObjectId, new: ObjectId) -> std::io::Result<()> {
        if id == new {
            return Ok(());
        }
        match std::fs::hard_link(self.node.data_path(id), self.node.data_path(new)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => super::files::sync_directory_of(&self.node.data_path(new)),
        }
    }

    /// Gives `new` of the new image the attributes that the node gave to `was` of the old.
    fn attributes(&self, txn: &mut Txn, was: ObjectId, new: ObjectId, parent: ObjectId) {
        let Some(Object { attributes: set, .. }) = self.old.object(was) else { return };
        let Some(image) = self.old.build.index.attributes(index::Object::try_from(was).unwrap_or(0)) else {
            return;
        };
        let is_directory = self.old.directory(was).is_ok();
        let same = (image.mode, image.uid, image.gid) == (set.mode, set.uid, set.gid);
        if same && !is_directory {
            return;
        }
        let body = is_directory.then_some(NewBody::Directory(parent));
        let change = |attributes: &mut Attributes| {
            if !same {
                (attributes.mode, attributes.uid, attributes.gid) = (set.mode, set.uid, set.gid);
            }
        };
        let updated = txn.update_with(new, change, body);
        debug_assert!(updated.is_ok());
    }

    fn of(&self, id: ObjectId) -> Attributes {
        // Only asked of objects that were just found in the old root.
        let found = self.old.find(id).map(|(attributes, _)| attributes);
        found.unwrap_or_else(|_| unreachable!("a root's names lead to objects"))
    }

    /// Makes a directory one that can have names of its own.
    fn touch(&self, txn: &mut Txn, directory: ObjectId) {
        if txn.difference(directory).is_none() {
            let updated = txn.update(directory, |_| {});
            debug_assert!(updated.is_ok());
        }
    }
}

/// Sets the link counts by the names that there are.
fn count_links(txn: &mut Txn) {
    let mut counts: HashMap<ObjectId, u32> = HashMap::from([(ROOT, 2)]);
    let mut ahead = vec![ROOT];
    while let Some(directory) = ahead.pop() {
        for (_, id) in txn.entries(directory) {
            if txn.directory(id).is_ok() {
                counts.insert(id, 2);
                *counts.entry(directory).or_default() += 1;
                ahead.push(id);
            } else {
                *counts.entry(id).or_default() += 1;
            }
        }
    }
    for (id, count) in counts {
        if txn.find(id).is_ok_and(|(attributes, _)| attributes.nlink != count) {
            let updated = txn.update(id, |attributes| attributes.nlink = count);
            debug_assert!(updated.is_ok());
        }
    }
}
