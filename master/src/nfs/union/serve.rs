//! The union as the NFS protocol sees it.

use std::sync::Arc;

use super::Union;
use super::error::status;
use super::handle::Name;
use super::node::Node;
use super::object::ROOT;
use crate::nfs::fs::{
    Attr, Call, Caller, CreateHow, FileSystem, Handle, Made, Make, Page, Read, Result, SetAttr, Space,
    Stable, Status, Time, Wcc, Written,
};

/// Where the roots are exported.
const EXPORTS: &[u8] = b"/nodes/";

impl Union {
    fn open_handle(&self, handle: &Handle) -> Result<(Arc<Node>, Name)> {
        let name = self.shared.key.open(handle)?;
        let table = self.table.load();
        let node = table.by_number.get(&name.node).ok_or(Status::NFS3ERR_STALE)?;
        Ok((Arc::clone(node), name))
    }

    /// Two handles, which are to be of one node.
    fn open_both(&self, one: &Handle, other: &Handle) -> Result<(Arc<Node>, Name, Name)> {
        let (node, one) = self.open_handle(one)?;
        let (_, other) = self.open_handle(other)?;
        if one.node != other.node {
            return Err(Status::NFS3ERR_XDEV);
        }
        Ok((node, one, other))
    }
}

impl FileSystem for Union {
    fn mount(&self, who: &Caller, path: &[u8]) -> Result<Handle> {
        let name = path.strip_prefix(EXPORTS).and_then(|name| std::str::from_utf8(name).ok());
        let table = self.table.load();
        // Whether another node exists is nobody's business.
        let node = name
            .and_then(|name| table.by_name.get(name.trim_end_matches('/')))
            .ok_or(Status::NFS3ERR_ACCES)?;
        let state = node.read();
        state.admit_address(who)?;
        Ok(node.handle(&state, ROOT))
    }

    fn exports(&self, who: &Caller) -> Vec<Vec<u8>> {
        let table = self.table.load();
        let own = table.by_name.values().filter(|node| node.read().admit_address(who).is_ok());
        own.map(|node| [EXPORTS, node.name.as_bytes()].concat()).collect()
    }

    fn may_block(&self, call: Call) -> bool {
        call != Call::Look
    }

    fn getattr(&self, who: &Caller, object: &Handle) -> Result<Attr> {
        let (node, name) = self.open_handle(object)?;
        node.getattr(who, name)
    }

    fn setattr(&self, who: &Caller, object: &Handle, set: &SetAttr, guard: Option<Time>) -> Result<Wcc> {
        let (node, name) = self.open_handle(object)?;
        node.setattr(who, name, set, guard)
    }

    fn lookup(&self, who: &Caller, directory: &Handle, name: &[u8]) -> Result<(Handle, Attr)> {
        let (node, directory) = self.open_handle(directory)?;
        node.lookup(who, directory, name)
    }

    fn access(&self, who: &Caller, object: &Handle, mask: u32) -> Result<(u32, Attr)> {
        let (node, name) = self.open_handle(object)?;
        node.access(who, name, mask)
    }

    fn readlink(&self, who: &Caller, link: &Handle) -> Result<(Vec<u8>, Attr)> {
        let (node, name) = self.open_handle(link)?;
        node.readlink(who, name)
    }

    fn read(&self, who: &Caller, file: &Handle, offset: u64, count: u32) -> Result<Read> {
        let (node, name) = self.open_handle(file)?;
        node.read_file(who, name, offset, count)
    }

    fn write(
        &self,
        who: &Caller,
        file: &Handle,
        offset: u64,
        data: &[u8],
        stable: Stable,
    ) -> Result<Written> {
        let (node, name) = self.open_handle(file)?;
        node.write_file(who, name, offset, data, stable)
    }

    fn commit(&self, who: &Caller, file: &Handle) -> Result<Wcc> {
        let (node, name) = self.open_handle(file)?;
        node.commit_file(who, name)
    }

    fn write_verifier(&self) -> [u8; 8] {
        self.verifier
    }

    fn create(&self, who: &Caller, directory: &Handle, name: &[u8], how: CreateHow) -> Result<Made> {
        let (node, directory) = self.open_handle(directory)?;
        node.create(who, directory, name, how)
    }

    fn make(
        &self,
        who: &Caller,
        directory: &Handle,
        name: &[u8],
        what: Make<'_>,
        set: &SetAttr,
    ) -> Result<Made> {
        let (node, directory) = self.open_handle(directory)?;
        node.make(who, directory, name, &what, set)
    }

    fn link(&self, who: &Caller, object: &Handle, directory: &Handle, name: &[u8]) -> Result<(Attr, Wcc)> {
        let (node, object, directory) = self.open_both(object, directory)?;
        node.link(who, object, directory, name)
    }

    fn remove(&self, who: &Caller, directory: &Handle, name: &[u8]) -> Result<Wcc> {
        let (node, directory) = self.open_handle(directory)?;
        node.remove(who, directory, name)
    }

    fn rmdir(&self, who: &Caller, directory: &Handle, name: &[u8]) -> Result<Wcc> {
        let (node, directory) = self.open_handle(directory)?;
        node.rmdir(who, directory, name)
    }

    fn rename(&self, who: &Caller, from: (&Handle, &[u8]), to: (&Handle, &[u8])) -> Result<(Wcc, Wcc)> {
        let (node, old, new) = self.open_both(from.0, to.0)?;
        node.rename(who, (old, from.1), (new, to.1))
    }

    fn readdir(
        &self,
        who: &Caller,
        directory: &Handle,
        cookie: u64,
        _verifier: [u8; 8],
        max_bytes: usize,
        plus: bool,
    ) -> Result<Page> {
        let (node, directory) = self.open_handle(directory)?;
        node.readdir(who, directory, cookie, max_bytes, plus)
    }

    fn space(&self, who: &Caller, object: &Handle) -> Result<Space> {
        let (node, name) = self.open_handle(object)?;
        node.read().admit(who, name)?;
        let space = nix::sys::statvfs::statvfs(node.directory()).map_err(|error| status(&error.into()))?;
        let block = space.fragment_size();
        Ok(Space {
            total_bytes: space.blocks() * block,
            free_bytes: space.blocks_available() * block,
            total_files: space.files(),
            free_files: space.files_available(),
        })
    }
}
