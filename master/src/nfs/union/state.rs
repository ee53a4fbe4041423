//! A node's root in memory: the image, and all that is otherwise.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use tesela_node_image::index;

use super::handle::Name;
use super::image::Build;
use super::object::{Attributes, Body, Directory, FIRST_OWN, Object, ObjectId, ROOT, Slot, kind_of_image};
use super::record::{Change, Digest, Head, Malformed, NewBody, encode};
use super::recorded::Recorded;
use crate::nfs::fs::{Attr, Before, Caller, Kind, Result, Status};

/// A node's root.
pub struct State {
    /// What it is made on.
    pub head: Head,
    /// The address that its handles are honoured for.
    pub address: Option<IpAddr>,
    /// The image.
    pub build: Arc<Build>,
    /// Whether the node itself has written.
    pub wrote: bool,
    /// What each rendered path is rendered as.
    pub rendered: BTreeMap<Box<[u8]>, (ObjectId, Digest)>,
    /// The node's own version of a rendered path, kept aside.
    pub asides: BTreeMap<Box<[u8]>, ObjectId>,
    /// Which files have content in the journal.
    pub recorded: Recorded,
    objects: HashMap<ObjectId, Object>,
    gone: HashSet<index::Object>,
}

/// Where the content of a regular file is.
pub enum Content {
    /// In the image.
    Image(Arc<Build>, index::Object),
    /// In its data file.
    Data,
    /// Here.
    Text(Arc<[u8]>),
}

impl State {
    /// The root of a node that has nothing but its image.
    pub fn new(head: Head, build: Arc<Build>) -> Self {
        Self {
            head,
            address: None,
            build,
            wrote: false,
            rendered: BTreeMap::new(),
            asides: BTreeMap::new(),
            recorded: Recorded::default(),
            objects: HashMap::new(),
            gone: HashSet::new(),
        }
    }

    /// The object that a handle names, for a caller who may have it.
    ///
    /// # Errors
    /// `NFS3ERR_ACCES` for an address that is not the node's, `NFS3ERR_STALE` for another generation.
    pub fn admit(&self, who: &Caller, name: Name) -> Result<ObjectId> {
        self.admit_address(who)?;
        if name.generation != self.head.generation {
            return Err(Status::NFS3ERR_STALE);
        }
        Ok(name.object)
    }

    /// That the caller has the node's address.
    pub fn admit_address(&self, who: &Caller) -> Result<()> {
        if self.address.is_some_and(|address| address == who.address.to_canonical()) {
            Ok(())
        } else {
            Err(Status::NFS3ERR_ACCES)
        }
    }

    /// An object that is not just the image's.
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }

    /// All objects that are not just the image's.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects.iter().map(|(id, object)| (*id, object))
    }

    /// Whether an object is kept aside for a rendered path.
    pub fn is_aside(&self, id: ObjectId) -> bool {
        self.asides.values().any(|aside| *aside == id)
    }

    /// Objects that are kept only for those who have them open: replaced rendered files.
    pub fn retired(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects()
            .filter(|(id, object)| *id >= FIRST_OWN && object.attributes.nlink == 0 && !self.is_aside(*id))
    }

    /// For what the data file says of an object that has one.
    pub fn object_mut(&mut self, id: ObjectId) -> Option<&mut Object> {
        self.objects.get_mut(&id)
    }

    /// The image's number of an object that it has and the node has not removed.
    pub fn image_object(&self, id: ObjectId) -> Option<index::Object> {
        let object = index::Object::try_from(id).ok()?;
        (id < FIRST_OWN && object <= self.build.index.len() && !self.gone.contains(&object)).then_some(object)
    }

    /// Attributes and kind of an object.
    ///
    /// # Errors
    /// `NFS3ERR_STALE` if it is no more.
    pub fn find(&self, id: ObjectId) -> Result<(Attributes, Kind)> {
        if let Some(Object { attributes, body }) = self.objects.get(&id) {
            let kind = match body {
                Body::Image => self.image_kind(id)?,
                Body::Data | Body::Text(_) => Kind::File,
                Body::Directory(_) => Kind::Directory,
                Body::Symlink(_) => Kind::Symlink,
                Body::Node(kind) => *kind,
            };
            return Ok((*attributes, kind));
        }
        let object = self.image_object(id).ok_or(Status::NFS3ERR_STALE)?;
        let index = &self.build.index;
        let image = index.attributes(object).ok_or(Status::NFS3ERR_STALE)?;
        let attributes = Attributes::of_image(image, index.target(object).len());
        Ok((attributes, kind_of_image(image.kind)))
    }

    fn image_kind(&self, id: ObjectId) -> Result<Kind> {
        let object = self.image_object(id).ok_or(Status::NFS3ERR_STALE)?;
        let image = self.build.index.attributes(object).ok_or(Status::NFS3ERR_STALE)?;
        Ok(kind_of_image(image.kind))
    }

    /// Attributes of a directory.
    ///
    /// # Errors
    /// `NFS3ERR_STALE`, or `NFS3ERR_NOTDIR`.
    pub fn directory(&self, id: ObjectId) -> Result<Attributes> {
        match self.find(id)? {
            (attributes, Kind::Directory) => Ok(attributes),
            _ => Err(Status::NFS3ERR_NOTDIR),
        }
    }

    /// Attributes of a regular file.
    ///
    /// # Errors
    /// `NFS3ERR_STALE`, `NFS3ERR_ISDIR`, or `NFS3ERR_INVAL` for what has no content.
    pub fn file(&self, id: ObjectId) -> Result<Attributes> {
        match self.find(id)? {
            (attributes, Kind::File) => Ok(attributes),
            (_, Kind::Directory) => Err(Status::NFS3ERR_ISDIR),
            _ => Err(Status::NFS3ERR_INVAL),
        }
    }

    /// Attributes as NFS has them.
    pub fn attr(&self, id: ObjectId, attributes: &Attributes, kind: Kind) -> Attr {
        Attr {
            kind,
            mode: attributes.mode.into(),
            nlink: attributes.nlink.max(1),
            uid: attributes.uid,
            gid: attributes.gid,
            size: attributes.size,
            used: attributes.size.div_ceil(4096) * 4096,
            fsid: self.head.number.into(),
            fileid: id,
            atime: attributes.atime,
            mtime: attributes.mtime,
            ctime: attributes.ctime,
        }
    }

    /// [`State::find`] and [`State::attr`].
    pub fn find_attr(&self, id: ObjectId) -> Result<Attr> {
        let (attributes, kind) = self.find(id)?;
        Ok(self.attr(id, &attributes, kind))
    }

    /// How a directory differs from the image's; `None` if it does not.
    pub fn difference(&self, directory: ObjectId) -> Option<&Directory> {
        match &self.objects.get(&directory)?.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// What a name of a directory stands for.
    pub fn child(&self, directory: ObjectId, name: &[u8]) -> Option<ObjectId> {
        let slot = self.difference(directory).and_then(|difference| difference.slot(name));
        match slot {
            Some(Slot { entry: Some((object, _)), .. }) => Some(object),
            Some(Slot { hidden: true, .. }) => None,
            _ => self.image_child(directory, name),
        }
    }

    /// What the image has for a name of a directory.
    pub fn image_child(&self, directory: ObjectId, name: &[u8]) -> Option<ObjectId> {
        let directory = self.image_object(directory)?;
        self.build.index.lookup(directory, name).map(ObjectId::from)
    }

    /// Where `..` of a directory leads.
    pub fn parent(&self, directory: ObjectId) -> ObjectId {
        match (self.difference(directory), self.image_object(directory)) {
            (Some(difference), _) => difference.parent,
            (None, Some(object)) => self.build.index.parent(object).map_or(ROOT, |(parent, _)| parent.into()),
            (None, None) => ROOT,
        }
    }

    /// All names of a directory with their objects.
    pub fn entries(&self, directory: ObjectId) -> impl Iterator<Item = (&[u8], ObjectId)> {
        let difference = self.difference(directory);
        let image = self.image_object(directory);
        let below = image.into_iter().flat_map(|object| self.build.index.read_directory(object, 0));
        let below = below
            .filter(move |(name, _)| difference.is_none_or(|difference| difference.slot(name).is_none()))
            .map(|(name, object)| (name, ObjectId::from(object)));
        let own = difference.into_iter().flat_map(|difference| difference.entries_after(0));
        below.chain(own.map(|(_, name, object)| (name, object)))
    }

    /// How many names the image has in a directory.
    pub fn image_entries(&self, directory: ObjectId) -> usize {
        self.image_object(directory).map_or(0, |object| self.build.index.entry_count(object))
    }

    /// The target of a symbolic link; `None` for anything else.
    pub fn target(&self, id: ObjectId) -> Option<&[u8]> {
        match self.objects.get(&id).map(|object| &object.body) {
            Some(Body::Symlink(target)) => Some(target),
            Some(Body::Image) | None => {
                let object = self.image_object(id)?;
                let kind = self.build.index.attributes(object)?.kind;
                (kind == index::Kind::Symlink).then(|| self.build.index.target(object))
            }
            Some(_) => None,
        }
    }

    /// Where the content of a regular file is.
    ///
    /// # Errors
    /// As [`State::file`].
    pub fn content(&self, id: ObjectId) -> Result<Content> {
        self.file(id)?;
        match self.objects.get(&id).map(|object| &object.body) {
            Some(Body::Data) => Ok(Content::Data),
            Some(Body::Text(text)) => Ok(Content::Text(Arc::clone(text))),
            _ => {
                let object = self.image_object(id).ok_or(Status::NFS3ERR_STALE)?;
                Ok(Content::Image(Arc::clone(&self.build), object))
            }
        }
    }

    /// Makes a change.
    ///
    /// # Errors
    /// [`Malformed`] if it does not fit what is there, which only a damaged journal can bring about.
    pub fn apply(&mut self, change: Change) -> std::result::Result<(), Malformed> {
        match change {
            Change::Head(head) => self.head = head,
            Change::Wrote => self.wrote = true,
            Change::Put(id, attributes, body) => self.put(id, attributes, body)?,
            Change::Gone(id) => {
                self.objects.remove(&id);
                self.recorded.forget(id);
                if let Some(object) = self.image_object(id) {
                    self.gone.insert(object);
                }
            }
            Change::Name(directory, name, slot) => {
                let object = self.objects.get_mut(&directory).ok_or(Malformed)?;
                let Body::Directory(difference) = &mut object.body else { return Err(Malformed) };
                difference.set(&name, slot);
            }
            Change::Rendered(path, Some(what)) => {
                self.rendered.insert(path, what);
            }
            Change::Rendered(path, None) => {
                self.rendered.remove(&path);
            }
            Change::Aside(path, Some(object)) => {
                self.asides.insert(path, object);
            }
            Change::Aside(path, None) => {
                self.asides.remove(&path);
            }
            Change::Content(id, piece) => {
                self.object(id).filter(|object| object.body == Body::Data).ok_or(Malformed)?;
                self.recorded.add(id, &piece);
            }
            Change::Settled(id, number) => self.recorded.settle(id, number),
        }
        Ok(())
    }

    fn put(
        &mut self,
        id: ObjectId,
        attributes: Attributes,
        body: Option<NewBody>,
    ) -> std::result::Result<(), Malformed> {
        if id >= FIRST_OWN {
            self.head.next_object = self.head.next_object.max(id.checked_add(1).ok_or(Malformed)?);
        }
        let image_entries = self.image_entries(id);
        match (self.objects.get_mut(&id), body) {
            (Some(object), body) => {
                object.attributes = attributes;
                match (&mut object.body, body) {
                    (_, None) => {}
                    (Body::Directory(directory), Some(NewBody::Directory(parent))) => {
                        directory.parent = parent;
                    }
                    (old, Some(body)) => *old = body.make(image_entries),
                }
            }
            (None, Some(body)) => {
                let body = body.make(image_entries);
                self.objects.insert(id, Object { attributes, body });
            }
            (None, None) => return Err(Malformed),
        }
        Ok(())
    }

    /// The records from which this state comes back, with the data files.
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        let mut records = vec![Vec::new()];
        let mut put = |change: Change| {
            let record = match records.last_mut() {
                Some(last) if last.len() < SNAPSHOT_RECORD => last,
                _ => records.push_mut(Vec::new()),
            };
            encode(&change, record);
        };
        put(Change::Head(self.head.clone()));
        if self.wrote {
            put(Change::Wrote);
        }
        for object in &self.gone {
            put(Change::Gone((*object).into()));
        }
        for (id, object) in &self.objects {
            put(Change::Put(*id, object.attributes, Some(NewBody::of(&object.body))));
            if let Body::Directory(directory) = &object.body {
                for (name, slot) in directory.slots() {
                    put(Change::Name(*id, name.into(), slot));
                }
            }
        }
        for (path, what) in &self.rendered {
            put(Change::Rendered(path.clone(), Some(*what)));
        }
        for (path, object) in &self.asides {
            put(Change::Aside(path.clone(), Some(*object)));
        }
        records
    }
}

/// How long a record of a snapshot gets before the next begins.
const SNAPSHOT_RECORD: usize = 64 << 10;

/// The attributes that weak cache consistency compares.
pub fn before(attributes: &Attributes) -> Before {
    Before { size: attributes.size, mtime: attributes.mtime, ctime: attributes.ctime }
}
