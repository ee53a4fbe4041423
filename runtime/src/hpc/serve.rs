//! What the kernel asks of `/hpc` (fuse(4)), in a thread of the agent's.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, SessionACL, TimeOrNow, WriteFlags,
};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::tree::{Caller, Entry, Source, Tree};
use crate::wire::local::{self, Answer, Request};

/// Where it is.
pub const PLACE: &str = "/hpc";

/// Nothing is kept by the kernel: all of it may be another at the next look.
const NOT_KEPT: Duration = Duration::ZERO;

/// Mounts it there, over what an agent before this one has left, for as long as what comes back lives. `socket` is the agent's.
///
/// # Errors
/// Those of mount(2): there is no /dev/fuse, or the kernel has no FUSE.
pub fn mount(place: &Path, socket: PathBuf) -> io::Result<BackgroundSession> {
    // EINVAL: nothing is mounted there.
    while umount2(place, MntFlags::MNT_DETACH).is_ok() {}
    fs::create_dir_all(place)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("hpc".to_owned()),
        MountOption::NoExec,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    config.acl = SessionACL::All;
    fuser::spawn_mount(Hpc(Tree(Agent { socket })), place, &config)
}

/// The agent, by its socket.
struct Agent {
    socket: PathBuf,
}

impl Source for Agent {
    fn ask(&self, uid: u32, request: Request) -> io::Result<Answer> {
        local::ask(&self.socket, &Request::As { uid, request: Box::new(request) })
    }
}

struct Hpc(Tree<Agent>);

fn attributes(entry: Entry) -> FileAttr {
    let directory = entry.is_directory();
    FileAttr {
        ino: INodeNo(entry.inode()),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if directory { FileType::Directory } else { FileType::RegularFile },
        perm: entry.mode(),
        nlink: if directory { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn caller(request: &fuser::Request) -> Caller {
    Caller { uid: request.uid(), pid: request.pid().cast_signed() }
}

fn number(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno as i32)
}

fn entry(inode: INodeNo) -> Result<Entry, fuser::Errno> {
    Entry::of_inode(inode.0).ok_or(fuser::Errno::ENOENT)
}

impl Filesystem for Hpc {
    fn lookup(&self, request: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = entry(parent).and_then(|directory| {
            let name = name.to_str().ok_or(fuser::Errno::ENOENT)?;
            self.0.find(directory, name, caller(request)).map_err(number)
        });
        match found {
            Ok(entry) => reply.entry(&NOT_KEPT, &attributes(entry), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(
        &self,
        _request: &fuser::Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match entry(inode) {
            Ok(entry) => reply.attr(&NOT_KEPT, &attributes(entry)),
            Err(error) => reply.error(error),
        }
    }

    /// `echo 1 >` truncates the file first, which has no length; nothing else of it can be changed.
    fn setattr(
        &self,
        _request: &fuser::Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match entry(inode) {
            Ok(_) if mode.is_some() || uid.is_some() || gid.is_some() => reply.error(fuser::Errno::EPERM),
            Ok(entry) => reply.attr(&NOT_KEPT, &attributes(entry)),
            Err(error) => reply.error(error),
        }
    }

    /// Past the cache: the length of what is read is not known before.
    fn open(&self, _request: &fuser::Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        request: &fuser::Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match entry(inode).and_then(|file| self.0.read(file, caller(request)).map_err(number)) {
            Ok(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = text.len().min(start.saturating_add(size as usize));
                reply.data(&text.as_bytes()[start..end]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        request: &fuser::Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = entry(inode).and_then(|file| {
            // What is written comes in one piece, from the beginning.
            let text = std::str::from_utf8(data).ok().filter(|_| offset == 0).ok_or(fuser::Errno::EINVAL)?;
            self.0.write(file, text, caller(request)).map_err(number)
        });
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _request: &fuser::Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn readdir(
        &self,
        request: &fuser::Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = entry(inode).and_then(|it| self.0.list(it, caller(request)).map_err(number));
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        let own = [(".".to_owned(), inode.0, true), ("..".to_owned(), 1, true)];
        let rows = own
            .into_iter()
            .chain(entries.into_iter().map(|(name, entry)| (name, entry.inode(), entry.is_directory())));
        for (index, (name, number, directory)) in
            (1_u64..).zip(rows).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            let kind = if directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(number), index, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
