//! The seam between the NFS protocol and what is served.
//!
//! Types are those of RFC 1813, validated: a name is one path component without `/` and NUL, at most
//! 255 octets, never `.` or `..` where something is made or removed (the protocol half has checked).
//! Every method is called from several threads at once and may block on the disk; `may_block` tells
//! the protocol half which calls to keep off the thread that reads the connection.

use std::net::IpAddr;

/// The status of a failed call, as it goes on the wire (`nfsstat3`).
pub use nfsserve::nfs::nfsstat3 as Status;

/// What every call answers.
pub type Result<T> = std::result::Result<T, Status>;

/// Who calls: the peer's address and its AUTH_UNIX credential (RFC 5531, appendix A).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The peer's address, which a handle is checked against.
    pub address: IpAddr,
    /// User id; 65534 for AUTH_NONE.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups, at most 16.
    pub groups: Vec<u32>,
}

/// An opaque file handle, at most 64 octets (`nfs_fh3`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    len: u8,
    bytes: [u8; 64],
}

impl Handle {
    /// A handle of these octets; `None` if there are more than 64.
    pub fn new(octets: &[u8]) -> Option<Self> {
        let mut bytes = [0; 64];
        bytes.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(Self { len: u8::try_from(octets.len()).ok()?, bytes })
    }

    /// Its octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Seconds and nanoseconds since 1970 (`nfstime3`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Seconds.
    pub seconds: u32,
    /// Nanoseconds, under 10⁹.
    pub nanos: u32,
}

/// The type of a file (`ftype3`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A block device with its major and minor number.
    Block(u32, u32),
    /// A character device with its major and minor number.
    Char(u32, u32),
    /// A symbolic link.
    Symlink,
    /// A socket.
    Socket,
    /// A FIFO.
    Fifo,
}

/// Attributes of an object (`fattr3`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Its type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Octets.
    pub size: u64,
    /// Octets of disk it takes.
    pub used: u64,
    /// File system id.
    pub fsid: u64,
    /// The number of the object: stable, never reused.
    pub fileid: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
}

/// A time to set (`set_atime`, `set_mtime`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The server's now.
    Now,
    /// This.
    To(Time),
}

/// Attributes to set (`sattr3`): `None` leaves as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Octets.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
}

/// Attributes before an operation (`wcc_attr`), for the client's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// Octets.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
}

/// Weak cache consistency data (`wcc_data`): taken under the same lock as the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wcc {
    /// Before it.
    pub before: Before,
    /// After it.
    pub after: Attr,
}

/// How CREATE makes a file (`createhow3`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateHow {
    /// An existing file is taken (and its size set, if said).
    Unchecked(SetAttr),
    /// An existing file is an error.
    Guarded(SetAttr),
    /// An existing file is an error unless made by this very verifier; kept over a restart.
    Exclusive([u8; 8]),
}

/// What MKNOD, MKDIR and SYMLINK make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Make<'a> {
    /// MKDIR.
    Directory,
    /// SYMLINK to this target.
    Symlink(&'a [u8]),
    /// MKNOD of a device, socket or FIFO: never [`Kind::File`], `Directory` or `Symlink`.
    Node(Kind),
}

/// A new object: its handle, attributes, and what became of its directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// Handle of the object.
    pub handle: Handle,
    /// Its attributes.
    pub attr: Attr,
    /// Its directory.
    pub directory: Wcc,
}

/// How far a WRITE has to go before it is answered (`stable_how`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stable {
    /// Memory.
    Unstable,
    /// Data on the disk.
    DataSync,
    /// Data and attributes on the disk.
    FileSync,
}

/// What READ returned.
#[derive(Debug)]
pub struct Read {
    /// The octets; shorter than asked only at the end of the file.
    pub data: bytes::Bytes,
    /// Whether the end was reached.
    pub eof: bool,
    /// Attributes after it.
    pub attr: Attr,
}

/// What WRITE returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Octets taken.
    pub count: u32,
    /// How far they got.
    pub committed: Stable,
    /// What became of the file.
    pub wcc: Wcc,
}

/// One entry of a directory. `.` and `..` are entries too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The number of the object.
    pub fileid: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// Where to go on after it: stable while the directory changes around it, never 0.
    pub cookie: u64,
    /// Handle and attributes, where `plus` was asked for.
    pub plus: Option<(Handle, Attr)>,
}

/// A page of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Entries in the order of their cookies.
    pub entries: Vec<Entry>,
    /// Whether the last entry of the directory is among them.
    pub eof: bool,
    /// The cookie verifier.
    pub verifier: [u8; 8],
    /// Attributes of the directory.
    pub attr: Attr,
}

/// Space and files (FSSTAT); the `free` figures are those available to the caller too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Octets in all.
    pub total_bytes: u64,
    /// Octets free.
    pub free_bytes: u64,
    /// Files in all.
    pub total_files: u64,
    /// Files free.
    pub free_files: u64,
}

/// Which calls can block on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// GETATTR, LOOKUP, ACCESS, READLINK, READDIR(PLUS), FSSTAT: memory only, as a rule.
    Look,
    /// READ.
    Read,
    /// WRITE and COMMIT.
    Write,
    /// All that change names or attributes.
    Change,
}

/// What the NFS server serves.
///
/// Permissions are checked here, by the caller's ids against mode and owner as a local file system
/// would (root passes; the owner of a file may always read and write it, since the client checks
/// at open time only). `Status::NFS3ERR_STALE` answers a handle that names nothing,
/// `NFS3ERR_BADHANDLE` one that was not made here, `NFS3ERR_ACCES` one of another node.
/// A change is on stable storage when its method returns, but for [`Stable::Unstable`].
pub trait FileSystem: Send + Sync + 'static {
    /// MNT: the root handle of an exported path; `NFS3ERR_ACCES` if the caller has no right to it.
    fn mount(&self, who: &Caller, path: &[u8]) -> Result<Handle>;
    /// EXPORT: the paths that this caller may mount.
    fn exports(&self, who: &Caller) -> Vec<Vec<u8>>;
    /// Whether a kind of call can block.
    fn may_block(&self, call: Call) -> bool;

    /// GETATTR.
    fn getattr(&self, who: &Caller, object: &Handle) -> Result<Attr>;
    /// SETATTR; `guard`: only if the ctime is still this, else `NFS3ERR_NOT_SYNC`.
    fn setattr(&self, who: &Caller, object: &Handle, set: &SetAttr, guard: Option<Time>) -> Result<Wcc>;
    /// LOOKUP, `.` and `..` too: the object with its attributes.
    fn lookup(&self, who: &Caller, directory: &Handle, name: &[u8]) -> Result<(Handle, Attr)>;
    /// ACCESS: the bits of `mask` (RFC 1813 ACCESS3_*) that the caller has, with the attributes.
    fn access(&self, who: &Caller, object: &Handle, mask: u32) -> Result<(u32, Attr)>;
    /// READLINK: the target with the attributes.
    fn readlink(&self, who: &Caller, link: &Handle) -> Result<(Vec<u8>, Attr)>;
    /// READ.
    fn read(&self, who: &Caller, file: &Handle, offset: u64, count: u32) -> Result<Read>;
    /// WRITE.
    fn write(&self, who: &Caller, file: &Handle, offset: u64, data: &[u8], stable: Stable)
    -> Result<Written>;
    /// COMMIT of all unstable writes to a file.
    fn commit(&self, who: &Caller, file: &Handle) -> Result<Wcc>;
    /// The write verifier: another one after each start of the master, since unstable writes may be lost.
    fn write_verifier(&self) -> [u8; 8];
    /// CREATE.
    fn create(&self, who: &Caller, directory: &Handle, name: &[u8], how: CreateHow) -> Result<Made>;
    /// MKDIR, SYMLINK, MKNOD.
    fn make(
        &self,
        who: &Caller,
        directory: &Handle,
        name: &[u8],
        what: Make<'_>,
        set: &SetAttr,
    ) -> Result<Made>;
    /// LINK: a further name for `object`: its attributes after it, and the directory.
    fn link(&self, who: &Caller, object: &Handle, directory: &Handle, name: &[u8]) -> Result<(Attr, Wcc)>;
    /// REMOVE: a name of anything but a directory.
    fn remove(&self, who: &Caller, directory: &Handle, name: &[u8]) -> Result<Wcc>;
    /// RMDIR: an empty directory.
    fn rmdir(&self, who: &Caller, directory: &Handle, name: &[u8]) -> Result<Wcc>;
    /// RENAME, over an existing target as rename(2) does: both directories.
    fn rename(&self, who: &Caller, from: (&Handle, &[u8]), to: (&Handle, &[u8])) -> Result<(Wcc, Wcc)>;
    /// READDIR and READDIRPLUS: entries after `cookie` (0: from the start), in about `max_bytes` on
    /// the wire. `NFS3ERR_BAD_COOKIE` if the verifier no longer holds.
    fn readdir(
        &self,
        who: &Caller,
        directory: &Handle,
        cookie: u64,
        verifier: [u8; 8],
        max_bytes: usize,
        plus: bool,
    ) -> Result<Page>;
    /// FSSTAT.
    fn space(&self, who: &Caller, object: &Handle) -> Result<Space>;
}
