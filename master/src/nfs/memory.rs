//! A [`FileSystem`] in memory: for tests, fuzzing and measuring the protocol half by itself.
//!
//! It does what NFS version 3 can express, and checks no permissions: everybody is root.

use super::fs::{
    Attr, Before, Call, Caller, CreateHow, Entry, FileSystem, Handle, Kind, Made, Make, Page, Read, Result,
    SetAttr, SetTime, Space, Stable, Status, Time, Wcc, Written,
};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

const ROOT: u64 = 1;
/// Cookies of `.` and `..`; names come after them.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Files are held in one piece, so a wild offset must not take all memory.
const MAX_SIZE: u64 = 1 << 30;

/// The file system.
#[derive(Debug)]
pub struct Memory {
    nodes: RwLock<Nodes>,
    /// The bound on all files together, in octets.
    capacity: u64,
    blocking: bool,
}

#[derive(Debug)]
struct Nodes {
    all: HashMap<u64, Node>,
    last: u64,
    used: u64,
}

#[derive(Debug)]
struct Node {
    attr: Attr,
    body: Body,
    verifier: Option<[u8; 8]>,
}

#[derive(Debug)]
enum Body {
    File(Vec<u8>),
    Directory(Directory),
    Symlink(Vec<u8>),
    Other,
}

#[derive(Debug)]
struct Directory {
    parent: u64,
    /// For each name the object and the cookie.
    names: BTreeMap<Vec<u8>, (u64, u64)>,
    cookies: BTreeMap<u64, Vec<u8>>,
    last_cookie: u64,
}

impl Memory {
    /// An empty root directory that may grow to `capacity` octets; `blocking` says whether calls are
    /// to be taken as ones that can block, and so go through the pool.
    pub fn new(capacity: u64, blocking: bool) -> Self {
        let mut nodes = Nodes { all: HashMap::new(), last: 0, used: 0 };
        nodes.add(Kind::Directory, directory(ROOT), &SetAttr { mode: Some(0o755), ..SetAttr::default() });
        Self { nodes: RwLock::new(nodes), capacity, blocking }
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Nodes> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Nodes> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(&self, nodes: &mut Nodes, id: u64, size: u64) -> Result<()> {
        let Node { attr, body: Body::File(data), .. } = nodes.all.get(&id).ok_or(Status::NFS3ERR_STALE)?
        else {
            return Err(Status::NFS3ERR_INVAL);
        };
        if size > MAX_SIZE {
            return Err(Status::NFS3ERR_FBIG);
        }
        let used = nodes.used - data.len() as u64 + size;
        if size > attr.size && used > self.capacity {
            return Err(Status::NFS3ERR_NOSPC);
        }
        nodes.used = used;
        let node = nodes.node_mut(id)?;
        if let Body::File(data) = &mut node.body {
            data.resize(usize::try_from(size).map_err(|_| Status::NFS3ERR_FBIG)?, 0);
        }
        (node.attr.size, node.attr.used) = (size, size);
        node.attr.mtime = now();
        node.attr.ctime = node.attr.mtime;
        Ok(())
    }

    fn set(&self, nodes: &mut Nodes, id: u64, set: &SetAttr) -> Result<()> {
        if let Some(size) = set.size {
            self.resize(nodes, id, size)?;
        }
        nodes.node_mut(id)?.set(set);
        Ok(())
    }
}

impl FileSystem for Memory {
    fn mount(&self, _: &Caller, path: &[u8]) -> Result<Handle> {
        let nodes = self.read_lock();
        let names = path.split(|octet| *octet == b'/').filter(|name| !name.is_empty());
        let id = names.into_iter().try_fold(ROOT, |id, name| nodes.find(id, name))?;
        Ok(to_handle(id))
    }

    fn exports(&self, _: &Caller) -> Vec<Vec<u8>> {
        vec![b"/".to_vec()]
    }

    fn may_block(&self, _: Call) -> bool {
        self.blocking
    }

    fn getattr(&self, _: &Caller, object: &Handle) -> Result<Attr> {
        Ok(self.read_lock().node(of(object)?)?.attr)
    }

    fn setattr(&self, _: &Caller, object: &Handle, set: &SetAttr, guard: Option<Time>) -> Result<Wcc> {
        let (mut nodes, id) = (self.lock(), of(object)?);
        let before = nodes.node(id)?.before();
        if guard.is_some_and(|guard| guard != before.ctime) {
            return Err(Status::NFS3ERR_NOT_SYNC);
        }
        self.set(&mut nodes, id, set)?;
        nodes.wcc(id, before)
    }

    fn lookup(&self, _: &Caller, directory: &Handle, name: &[u8]) -> Result<(Handle, Attr)> {
        let nodes = self.read_lock();
        let id = nodes.find(of(directory)?, name)?;
        Ok((to_handle(id), nodes.node(id)?.attr))
    }

    fn access(&self, _: &Caller, object: &Handle, mask: u32) -> Result<(u32, Attr)> {
        Ok((mask & 0x3f, self.read_lock().node(of(object)?)?.attr))
    }

    fn readlink(&self, _: &Caller, link: &Handle) -> Result<(Vec<u8>, Attr)> {
        match self.read_lock().node(of(link)?)? {
            Node { body: Body::Symlink(target), attr, .. } => Ok((target.clone(), *attr)),
            _ => Err(Status::NFS3ERR_INVAL),
        }
    }

    fn read(&self, _: &Caller, file: &Handle, offset: u64, count: u32) -> Result<Read> {
        let nodes = self.read_lock();
        let node = nodes.node(of(file)?)?;
        let Body::File(data) = &node.body else { return Err(not_a_file(node)) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        let end = start.saturating_add(count as usize).min(data.len());
        let eof = end == data.len();
        Ok(Read { data: Bytes::copy_from_slice(&data[start..end]), eof, attr: node.attr })
    }

    fn write(&self, _: &Caller, file: &Handle, offset: u64, data: &[u8], stable: Stable) -> Result<Written> {
        let (mut nodes, id) = (self.lock(), of(file)?);
        let node = nodes.node(id)?;
        let Body::File(old) = &node.body else { return Err(not_a_file(node)) };
        let before = node.before();
        let end = offset.checked_add(data.len() as u64).ok_or(Status::NFS3ERR_FBIG)?;
        if !data.is_empty() {
            let size = end.max(old.len() as u64);
            self.resize(&mut nodes, id, size)?;
            if let Body::File(content) = &mut nodes.node_mut(id)?.body {
                let start = usize::try_from(offset).map_err(|_| Status::NFS3ERR_FBIG)?;
                content[start..start + data.len()].copy_from_slice(data);
            }
        }
        let count = u32::try_from(data.len()).map_err(|_| Status::NFS3ERR_INVAL)?;
        Ok(Written { count, committed: stable, wcc: nodes.wcc(id, before)? })
    }

    fn commit(&self, _: &Caller, file: &Handle) -> Result<Wcc> {
        let (nodes, id) = (self.read_lock(), of(file)?);
        let node = nodes.node(id)?;
        nodes.wcc(id, node.before())
    }

    fn write_verifier(&self) -> [u8; 8] {
        *b"memory!!"
    }

    fn create(&self, _: &Caller, directory: &Handle, name: &[u8], how: CreateHow) -> Result<Made> {
        let (mut nodes, parent) = (self.lock(), of(directory)?);
        let before = nodes.node(parent)?.before();
        let (set, verifier) = match how {
            CreateHow::Unchecked(set) | CreateHow::Guarded(set) => (set, None),
            CreateHow::Exclusive(verifier) => (SetAttr::default(), Some(verifier)),
        };
        let id = match nodes.find(parent, name) {
            Ok(id) => {
                let node = nodes.node(id)?;
                let taken = match how {
                    CreateHow::Unchecked(_) => node.attr.kind == Kind::File,
                    CreateHow::Guarded(_) => false,
                    CreateHow::Exclusive(verifier) => node.verifier == Some(verifier),
                };
                if !taken {
                    return Err(Status::NFS3ERR_EXIST);
                }
                if let Some(size) = set.size {
                    self.resize(&mut nodes, id, size)?;
                }
                id
            }
            Err(Status::NFS3ERR_NOENT) => {
                let id = nodes.add(Kind::File, Body::File(Vec::new()), &set);
                nodes.node_mut(id)?.verifier = verifier;
                nodes.enter(parent, name, id)?;
                self.set(&mut nodes, id, &set)?;
                id
            }
            Err(status) => return Err(status),
        };
        nodes.made(id, parent, before)
    }

    fn make(&self, _: &Caller, parent: &Handle, name: &[u8], what: Make<'_>, set: &SetAttr) -> Result<Made> {
        let (mut nodes, parent) = (self.lock(), of(parent)?);
        let before = nodes.node(parent)?.before();
        match nodes.find(parent, name) {
            Ok(_) => return Err(Status::NFS3ERR_EXIST),
            Err(Status::NFS3ERR_NOENT) => {}
            Err(status) => return Err(status),
        }
        let id = match what {
            Make::Directory => nodes.add(Kind::Directory, directory(parent), set),
            Make::Symlink(target) => nodes.add(Kind::Symlink, Body::Symlink(target.to_vec()), set),
            Make::Node(kind) => nodes.add(kind, Body::Other, set),
        };
        nodes.enter(parent, name, id)?;
        nodes.made(id, parent, before)
    }

    fn link(&self, _: &Caller, object: &Handle, directory: &Handle, name: &[u8]) -> Result<(Attr, Wcc)> {
        let (mut nodes, id, parent) = (self.lock(), of(object)?, of(directory)?);
        let before = nodes.node(parent)?.before();
        if nodes.node(id)?.attr.kind == Kind::Directory {
            return Err(Status::NFS3ERR_INVAL);
        }
        match nodes.find(parent, name) {
            Ok(_) => return Err(Status::NFS3ERR_EXIST),
            Err(Status::NFS3ERR_NOENT) => {}
            Err(status) => return Err(status),
        }
        nodes.enter(parent, name, id)?;
        let node = nodes.node_mut(id)?;
        node.attr.nlink += 1;
        node.attr.ctime = now();
        let attr = node.attr;
        Ok((attr, nodes.wcc(parent, before)?))
    }

    fn remove(&self, _: &Caller, directory: &Handle, name: &[u8]) -> Result<Wcc> {
        let (mut nodes, parent) = (self.lock(), of(directory)?);
        let before = nodes.node(parent)?.before();
        let id = nodes.find(parent, name)?;
        if nodes.node(id)?.attr.kind == Kind::Directory {
            return Err(Status::NFS3ERR_ISDIR);
        }
        nodes.leave(parent, name)?;
        nodes.wcc(parent, before)
    }

    fn rmdir(&self, _: &Caller, directory: &Handle, name: &[u8]) -> Result<Wcc> {
        let (mut nodes, parent) = (self.lock(), of(directory)?);
        let before = nodes.node(parent)?.before();
        let id = nodes.find(parent, name)?;
        if !nodes.directory(id)?.names.is_empty() {
            return Err(Status::NFS3ERR_NOTEMPTY);
        }
        nodes.leave(parent, name)?;
        nodes.wcc(parent, before)
    }

    fn rename(&self, _: &Caller, from: (&Handle, &[u8]), to: (&Handle, &[u8])) -> Result<(Wcc, Wcc)> {
        let (mut nodes, source, target) = (self.lock(), of(from.0)?, of(to.0)?);
        let before = (nodes.node(source)?.before(), nodes.node(target)?.before());
        let id = nodes.find(source, from.1)?;
        if nodes.is_within(target, id) {
            return Err(Status::NFS3ERR_INVAL);
        }
        let both = match nodes.find(target, to.1) {
            Ok(there) if there == id => true,
            Ok(there) => {
                match (nodes.directory(id).is_ok(), nodes.directory(there)) {
                    (true, Err(_)) => return Err(Status::NFS3ERR_NOTDIR),
                    (false, Ok(_)) => return Err(Status::NFS3ERR_ISDIR),
                    (true, Ok(old)) if !old.names.is_empty() => return Err(Status::NFS3ERR_NOTEMPTY),
                    _ => nodes.leave(target, to.1)?,
                }
                false
            }
            Err(Status::NFS3ERR_NOENT) => false,
            Err(status) => return Err(status),
        };
        if !both {
            nodes.enter(target, to.1, id)?;
            nodes.unname(source, from.1)?;
        }
        Ok((nodes.wcc(source, before.0)?, nodes.wcc(target, before.1)?))
    }

    fn readdir(
        &self,
        _: &Caller,
        directory: &Handle,
        cookie: u64,
        _: [u8; 8],
        max_bytes: usize,
        plus: bool,
    ) -> Result<Page> {
        let (nodes, id) = (self.read_lock(), of(directory)?);
        let attr = nodes.node(id)?.attr;
        let list = nodes.directory(id)?;
        let entry = |cookie, name: &[u8], id| -> Result<Entry> {
            let plus = if plus { Some((to_handle(id), nodes.node(id)?.attr)) } else { None };
            Ok(Entry { fileid: id, name: name.to_vec(), cookie, plus })
        };
        let dots = [(DOT, &b"."[..], id), (DOT_DOT, b"..", list.parent)];
        let dots = dots.into_iter().filter(|dot| dot.0 > cookie);
        let names = list.cookies.range((Bound::Excluded(cookie.max(DOT_DOT)), Bound::Unbounded));
        let names = names.filter_map(|(cookie, name)| Some((*cookie, &name[..], list.names.get(name)?.0)));
        let mut rest = dots.chain(names).peekable();
        let (mut entries, mut size) = (Vec::new(), 0);
        while let Some((cookie, name, id)) = rest.next_if(|_| size < max_bytes) {
            size += name.len() + if plus { 130 } else { 24 };
            entries.push(entry(cookie, name, id)?);
        }
        Ok(Page { entries, eof: rest.peek().is_none(), verifier: [0; 8], attr })
    }

    fn space(&self, _: &Caller, _: &Handle) -> Result<Space> {
        let nodes = self.read_lock();
        Ok(Space {
            total_bytes: self.capacity,
            free_bytes: self.capacity.saturating_sub(nodes.used),
            total_files: 1 << 20,
            free_files: (1 << 20) - nodes.all.len().min(1 << 20) as u64,
        })
    }
}

impl Nodes {
    fn node(&self, id: u64) -> Result<&Node> {
        self.all.get(&id).ok_or(Status::NFS3ERR_STALE)
    }

    fn node_mut(&mut self, id: u64) -> Result<&mut Node> {
        self.all.get_mut(&id).ok_or(Status::NFS3ERR_STALE)
    }

    fn directory(&self, id: u64) -> Result<&Directory> {
        match &self.node(id)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NFS3ERR_NOTDIR),
        }
    }

    /// The directory, to change its names; its times change with them.
    fn names(&mut self, id: u64) -> Result<&mut Directory> {
        let node = self.node_mut(id)?;
        node.attr.mtime = now();
        node.attr.ctime = node.attr.mtime;
        match &mut node.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NFS3ERR_NOTDIR),
        }
    }

    fn find(&self, directory: u64, name: &[u8]) -> Result<u64> {
        let list = self.directory(directory)?;
        match name {
            b"." => Ok(directory),
            b".." => Ok(list.parent),
            _ => list.names.get(name).map(|found| found.0).ok_or(Status::NFS3ERR_NOENT),
        }
    }

    fn is_within(&self, mut id: u64, ancestor: u64) -> bool {
        while id != ancestor {
            match self.directory(id) {
                Ok(list) if list.parent != id => id = list.parent,
                _ => return false,
            }
        }
        true
    }

    fn add(&mut self, kind: Kind, body: Body, set: &SetAttr) -> u64 {
        self.last += 1;
        let (fileid, time) = (self.last, now());
        let (nlink, mode) = if kind == Kind::Directory { (2, 0o755) } else { (1, 0o644) };
        let size = if let Body::Symlink(target) = &body { target.len() as u64 } else { 0 };
        let attr = Attr {
            kind,
            mode,
            nlink,
            uid: 0,
            gid: 0,
            size,
            used: size,
            fsid: 1,
            fileid,
            atime: time,
            mtime: time,
            ctime: time,
        };
        let mut node = Node { attr, body, verifier: None };
        node.set(set);
        self.all.insert(fileid, node);
        fileid
    }

    fn enter(&mut self, parent: u64, name: &[u8], id: u64) -> Result<()> {
        if let Body::Directory(list) = &mut self.node_mut(id)?.body {
            list.parent = parent;
            self.node_mut(parent)?.attr.nlink += 1;
        }
        let list = self.names(parent)?;
        list.last_cookie += 1;
        list.names.insert(name.to_vec(), (id, list.last_cookie));
        list.cookies.insert(list.last_cookie, name.to_vec());
        Ok(())
    }

    /// Takes a name away, and what it named too if that was the last one.
    fn leave(&mut self, parent: u64, name: &[u8]) -> Result<()> {
        let id = self.unname(parent, name)?;
        let node = self.node_mut(id)?;
        node.attr.nlink -= 1;
        node.attr.ctime = now();
        if node.attr.nlink == 0 || node.attr.kind == Kind::Directory {
            // A link's target has a size, too, but takes none of the capacity.
            let taken = if let Body::File(data) = &node.body { data.len() as u64 } else { 0 };
            self.used -= taken;
            self.all.remove(&id);
        }
        Ok(())
    }

    fn unname(&mut self, parent: u64, name: &[u8]) -> Result<u64> {
        let list = self.names(parent)?;
        let (id, cookie) = list.names.remove(name).ok_or(Status::NFS3ERR_NOENT)?;
        list.cookies.remove(&cookie);
        if self.node(id)?.attr.kind == Kind::Directory {
            self.node_mut(parent)?.attr.nlink -= 1;
        }
        Ok(id)
    }

    fn wcc(&self, id: u64, before: Before) -> Result<Wcc> {
        Ok(Wcc { before, after: self.node(id)?.attr })
    }

    fn made(&self, id: u64, parent: u64, before: Before) -> Result<Made> {
        Ok(Made { handle: to_handle(id), attr: self.node(id)?.attr, directory: self.wcc(parent, before)? })
    }
}

impl Node {
    fn before(&self) -> Before {
        Before { size: self.attr.size, mtime: self.attr.mtime, ctime: self.attr.ctime }
    }

    /// Sets all but the size.
    fn set(&mut self, set: &SetAttr) {
        let attr = &mut self.attr;
        let time = |set| match set {
            SetTime::Now => now(),
            SetTime::To(time) => time,
        };
        attr.mode = set.mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.map_or(attr.atime, time);
        attr.mtime = set.mtime.map_or(attr.mtime, time);
        attr.ctime = now();
    }
}

fn directory(parent: u64) -> Body {
    Body::Directory(Directory {
        parent,
        names: BTreeMap::new(),
        cookies: BTreeMap::new(),
        last_cookie: DOT_DOT,
    })
}

fn not_a_file(node: &Node) -> Status {
    if node.attr.kind == Kind::Directory { Status::NFS3ERR_ISDIR } else { Status::NFS3ERR_INVAL }
}

fn to_handle(id: u64) -> Handle {
    Handle::new(&id.to_be_bytes()).expect("eight octets fit")
}

fn of(handle: &Handle) -> Result<u64> {
    let octets = handle.as_bytes().try_into().map_err(|_| Status::NFS3ERR_BADHANDLE)?;
    Ok(u64::from_be_bytes(octets))
}

fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { seconds: u32::try_from(now.as_secs()).unwrap_or(u32::MAX), nanos: now.subsec_nanos() }
}
