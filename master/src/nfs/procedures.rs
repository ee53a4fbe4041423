//! The procedures of NFS version 3 over a [`FileSystem`]: arguments in, encoded results out.
//!
//! Where a call fails, the attributes that the reply can carry are fetched anew, so that the client's
//! cache is as good after a failure as after a success; the attributes before the operation are
//! left out then, which tells the client not to trust what it holds.

use super::args::{Arguments, MAX_IO, MAX_NAME, MAX_PATH, NodeType, Place, Scan};
use super::encode::{PLUS_ENTRY, put_attr, put_failed_wcc, put_handle, put_post, put_status, put_wcc};
use super::fs::{Attr, Caller, FileSystem, Handle, Made, Make, Page, Result, SetAttr, Status, Wcc};
use super::xdr::{Encode, length};
use bytes::{BufMut, Bytes, BytesMut};

/// FSINFO: hard links, symbolic links, PATHCONF the same everywhere, times can be set.
const PROPERTIES: u32 = 0x1 | 0x2 | 0x8 | 0x10;
/// The largest size of a file that Linux can work with.
const MAX_FILE_SIZE: u64 = i64::MAX as u64;
/// The unit of READDIR that is best (`dtpref`).
const READDIR_PREFERRED: u32 = 64 * 1024;
/// LINK_MAX of the file systems that a master keeps nodes' writes on.
const LINK_MAX: u32 = 32_000;

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the status is an error.
    pub failed: bool,
    /// The data of a READ, which belongs behind what was encoded; never copied.
    pub data: Option<Bytes>,
}

/// Carries out a call and encodes its results behind what `out` holds.
pub fn execute(fs: &dyn FileSystem, who: &Caller, arguments: &Arguments<'_>, out: &mut BytesMut) -> Outcome {
    let mut data = None;
    let status = Run { fs, who, out }.procedure(arguments, &mut data);
    Outcome { failed: status.is_err(), data }
}

/// A call in progress.
struct Run<'a> {
    fs: &'a dyn FileSystem,
    who: &'a Caller,
    out: &'a mut BytesMut,
}

impl Run<'_> {
    fn procedure(&mut self, arguments: &Arguments<'_>, data: &mut Option<Bytes>) -> Result<()> {
        let (fs, who) = (self.fs, self.who);
        match *arguments {
            Arguments::Null => Ok(()),
            Arguments::GetAttr(object) => {
                let attr = self.status(fs.getattr(who, &object))?;
                put_attr(self.out, &attr);
                Ok(())
            }
            Arguments::SetAttr { object, set, guard } => {
                let result = fs.setattr(who, &object, &set, guard);
                self.wcc(&object, result)
            }
            Arguments::Lookup(place) => self.lookup(place),
            Arguments::Access { object, mask } => {
                let (granted, attr) = self.or_post(&object, fs.access(who, &object, mask))?;
                put_post(self.out, Some(&attr));
                self.out.put_u32(granted & mask);
                Ok(())
            }
            Arguments::ReadLink(link) => {
                let (target, attr) = self.or_post(&link, fs.readlink(who, &link))?;
                put_post(self.out, Some(&attr));
                self.out.put_opaque(&target);
                Ok(())
            }
            Arguments::Read { file, offset, count } => {
                let read = self.or_post(&file, fs.read(who, &file, offset, count))?;
                put_post(self.out, Some(&read.attr));
                self.out.put_u32(length(read.data.len()));
                self.out.put_bool(read.eof);
                self.out.put_u32(length(read.data.len()));
                *data = Some(read.data);
                Ok(())
            }
            Arguments::Write { file, offset, data, stable } => {
                let result = fs.write(who, &file, offset, data, stable);
                let written = self.or_failed_wcc(&[&file], result)?;
                put_wcc(self.out, &written.wcc);
                self.out.put_u32(written.count);
                self.out.put_u32(written.committed as u32);
                self.out.put_slice(&fs.write_verifier());
                Ok(())
            }
            Arguments::Create { place, how } => {
                self.make(place, |name| fs.create(who, &place.directory, name, how))
            }
            Arguments::MkDir { place, set } => self.make_as(place, Make::Directory, &set),
            Arguments::SymLink { place, set, target } => match target {
                [] => self.make(place, |_| Err(Status::NFS3ERR_INVAL)),
                long if long.len() > MAX_PATH => self.make(place, |_| Err(Status::NFS3ERR_NAMETOOLONG)),
                _ if target.contains(&0) => self.make(place, |_| Err(Status::NFS3ERR_INVAL)),
                _ => self.make_as(place, Make::Symlink(target), &set),
            },
            Arguments::MkNod { place, what } => match what {
                NodeType::Makeable(kind, set) => self.make_as(place, Make::Node(kind), &set),
                NodeType::Bad => self.make(place, |_| Err(Status::NFS3ERR_BADTYPE)),
            },
            Arguments::Remove(place) => {
                let result = place.name.to_remove().and_then(|name| fs.remove(who, &place.directory, name));
                self.wcc(&place.directory, result)
            }
            Arguments::RmDir(place) => {
                let result = place.name.to_remove().and_then(|name| fs.rmdir(who, &place.directory, name));
                self.wcc(&place.directory, result)
            }
            Arguments::Rename { from, to } => self.rename(from, to),
            Arguments::Link { object, place } => self.link(&object, place),
            Arguments::ReadDir(scan) => self.readdir(&scan, false),
            Arguments::ReadDirPlus(scan) => self.readdir(&scan, true),
            Arguments::FsStat(object) => self.fs_stat(&object),
            Arguments::FsInfo(object) => {
                let attr = self.status_or_post(fs.getattr(who, &object))?;
                put_post(self.out, Some(&attr));
                // rtmax, rtpref, rtmult; wtmax, wtpref, wtmult; dtpref
                let io = length(MAX_IO);
                self.out.put_words(&[io, io, 4096, io, io, 4096, READDIR_PREFERRED]);
                self.out.put_u64(MAX_FILE_SIZE);
                // time_delta
                self.out.put_words(&[0, 1, PROPERTIES]);
                Ok(())
            }
            Arguments::PathConf(object) => {
                let attr = self.status_or_post(fs.getattr(who, &object))?;
                put_post(self.out, Some(&attr));
                self.out.put_words(&[LINK_MAX, length(MAX_NAME)]);
                // no_trunc, chown_restricted, case_insensitive, case_preserving
                self.out.put_words(&[1, 1, 0, 1]);
                Ok(())
            }
            Arguments::Commit(file) => {
                let result = fs.commit(who, &file);
                self.wcc(&file, result)?;
                self.out.put_slice(&fs.write_verifier());
                Ok(())
            }
        }
    }

    fn lookup(&mut self, place: Place<'_>) -> Result<()> {
        let found = place.name.to_find().and_then(|name| self.fs.lookup(self.who, &place.directory, name));
        let (handle, attr) = self.or_post(&place.directory, found)?;
        put_handle(self.out, &handle);
        put_post(self.out, Some(&attr));
        let directory = self.now(&place.directory);
        put_post(self.out, directory.as_ref());
        Ok(())
    }

    fn make_as(&mut self, place: Place<'_>, what: Make<'_>, set: &SetAttr) -> Result<()> {
        let (fs, who) = (self.fs, self.who);
        self.make(place, |name| fs.make(who, &place.directory, name, what, set))
    }

    fn make(&mut self, place: Place<'_>, make: impl FnOnce(&[u8]) -> Result<Made>) -> Result<()> {
        let made = self.or_failed_wcc(&[&place.directory], place.name.to_make().and_then(make))?;
        self.out.put_bool(true);
        put_handle(self.out, &made.handle);
        put_post(self.out, Some(&made.attr));
        put_wcc(self.out, &made.directory);
        Ok(())
    }

    fn rename(&mut self, from: Place<'_>, to: Place<'_>) -> Result<()> {
        let result = from.name.to_remove().and_then(|old| {
            let new = to.name.to_make()?;
            self.fs.rename(self.who, (&from.directory, old), (&to.directory, new))
        });
        let (source, target) = self.or_failed_wcc(&[&from.directory, &to.directory], result)?;
        put_wcc(self.out, &source);
        put_wcc(self.out, &target);
        Ok(())
    }

    fn link(&mut self, object: &Handle, place: Place<'_>) -> Result<()> {
        let made = place.name.to_make();
        match made.and_then(|name| self.fs.link(self.who, object, &place.directory, name)) {
            Ok((attr, directory)) => {
                put_status(self.out, Status::NFS3_OK);
                put_post(self.out, Some(&attr));
                put_wcc(self.out, &directory);
                Ok(())
            }
            Err(status) => {
                put_status(self.out, status);
                let attr = self.now(object);
                put_post(self.out, attr.as_ref());
                let directory = self.now(&place.directory);
                put_failed_wcc(self.out, directory.as_ref());
                Err(status)
            }
        }
    }

    fn fs_stat(&mut self, object: &Handle) -> Result<()> {
        let space = self.or_post(object, self.fs.space(self.who, object))?;
        let attr = self.now(object);
        put_post(self.out, attr.as_ref());
        let (bytes, files) = ((space.total_bytes, space.free_bytes), (space.total_files, space.free_files));
        for count in [bytes.0, bytes.1, bytes.1, files.0, files.1, files.1] {
            self.out.put_u64(count);
        }
        self.out.put_u32(0); // invarsec: it may change at any time
        Ok(())
    }

    fn readdir(&mut self, scan: &Scan, plus: bool) -> Result<()> {
        let page =
            self.fs.readdir(self.who, &scan.directory, scan.cookie, scan.verifier, scan.max_bytes, plus);
        let start = self.out.len();
        let page = self.or_post(&scan.directory, page)?;
        if self.put_page(&page, scan.max_bytes, plus) {
            return Ok(());
        }
        self.out.truncate(start);
        self.or_post(&scan.directory, Err(Status::NFS3ERR_TOOSMALL))
    }

    /// Writes as much of a page as fits; false if not even one entry does.
    fn put_page(&mut self, page: &Page, max_bytes: usize, plus: bool) -> bool {
        let start = self.out.len();
        put_post(self.out, Some(&page.attr));
        self.out.put_slice(&page.verifier);
        let mut fitting = 0;
        for entry in &page.entries {
            let name = entry.name.len().next_multiple_of(4);
            let size = name + if plus { PLUS_ENTRY } else { 4 + 8 + 4 + 8 };
            // The list's end and `eof` follow.
            if self.out.len() - start + size + 8 > max_bytes {
                break;
            }
            self.out.put_bool(true);
            self.out.put_u64(entry.fileid);
            self.out.put_opaque(&entry.name);
            self.out.put_u64(entry.cookie);
            if plus {
                put_post(self.out, entry.plus.as_ref().map(|(_, attr)| attr));
                self.out.put_bool(entry.plus.is_some());
                if let Some((handle, _)) = &entry.plus {
                    put_handle(self.out, handle);
                }
            }
            fitting += 1;
        }
        self.out.put_bool(false);
        let complete = fitting == page.entries.len();
        self.out.put_bool(complete && page.eof);
        fitting > 0 || page.eof && complete
    }

    /// Status and, of a failure, nothing more.
    fn status<T>(&mut self, result: Result<T>) -> Result<T> {
        put_status(self.out, result.as_ref().err().copied().unwrap_or(Status::NFS3_OK));
        result
    }

    /// Status and, of a failure, attributes that are not there.
    fn status_or_post<T>(&mut self, result: Result<T>) -> Result<T> {
        let result = self.status(result);
        if result.is_err() {
            put_post(self.out, None);
        }
        result
    }

    /// Status and, of a failure, the attributes that `object` has now.
    fn or_post<T>(&mut self, object: &Handle, result: Result<T>) -> Result<T> {
        let result = self.status(result);
        if result.is_err() {
            let now = self.now(object);
            put_post(self.out, now.as_ref());
        }
        result
    }

    /// Status and, of a failure, the weak cache consistency data of these objects.
    fn or_failed_wcc<T>(&mut self, objects: &[&Handle], result: Result<T>) -> Result<T> {
        let result = self.status(result);
        if result.is_err() {
            for object in objects {
                let now = self.now(object);
                put_failed_wcc(self.out, now.as_ref());
            }
        }
        result
    }

    /// Results that are weak cache consistency data and no more.
    fn wcc(&mut self, object: &Handle, result: Result<Wcc>) -> Result<()> {
        let wcc = self.or_failed_wcc(&[object], result)?;
        put_wcc(self.out, &wcc);
        Ok(())
    }

    fn now(&self, object: &Handle) -> Option<Attr> {
        self.fs.getattr(self.who, object).ok()
    }
}
