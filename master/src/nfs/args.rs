//! The arguments of the 22 procedures of NFS version 3 (RFC 1813, section 3.3), decoded and validated.

use super::fs::{Call as CallKind, CreateHow, Handle, Kind, SetAttr, SetTime, Stable, Status, Time};
use super::xdr::{Decoder, Garbage, length};

/// The most octets of one READ or WRITE (`rtmax`, `wtmax`): the most that Linux asks for.
pub const MAX_IO: usize = 1024 * 1024;
/// The longest name (`name_max`).
pub const MAX_NAME: usize = 255;
/// The longest path, of MNT and of a symbolic link (`MNTPATHLEN`; PATH_MAX less its NUL on Linux).
pub const MAX_PATH: usize = 4095;

/// A procedure of NFS version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 1813, section 3.3")]
pub enum Procedure {
    Null,
    GetAttr,
    SetAttr,
    Lookup,
    Access,
    ReadLink,
    Read,
    Write,
    Create,
    MkDir,
    SymLink,
    MkNod,
    Remove,
    RmDir,
    Rename,
    Link,
    ReadDir,
    ReadDirPlus,
    FsStat,
    FsInfo,
    PathConf,
    Commit,
}

impl Procedure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::Null,
        Self::GetAttr,
        Self::SetAttr,
        Self::Lookup,
        Self::Access,
        Self::ReadLink,
        Self::Read,
        Self::Write,
        Self::Create,
        Self::MkDir,
        Self::SymLink,
        Self::MkNod,
        Self::Remove,
        Self::RmDir,
        Self::Rename,
        Self::Link,
        Self::ReadDir,
        Self::ReadDirPlus,
        Self::FsStat,
        Self::FsInfo,
        Self::PathConf,
        Self::Commit,
    ];

    /// The procedure of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its name in RFC 1813, in lower case.
    pub fn name(self) -> &'static str {
        [
            "null",
            "getattr",
            "setattr",
            "lookup",
            "access",
            "readlink",
            "read",
            "write",
            "create",
            "mkdir",
            "symlink",
            "mknod",
            "remove",
            "rmdir",
            "rename",
            "link",
            "readdir",
            "readdirplus",
            "fsstat",
            "fsinfo",
            "pathconf",
            "commit",
        ][self as usize]
    }

    /// What the file system has to do for it.
    pub fn kind(self) -> CallKind {
        match self {
            Self::Read => CallKind::Read,
            Self::Write | Self::Commit => CallKind::Write,
            Self::SetAttr
            | Self::Create
            | Self::MkDir
            | Self::SymLink
            | Self::MkNod
            | Self::Remove
            | Self::RmDir
            | Self::Rename
            | Self::Link => CallKind::Change,
            Self::Null
            | Self::GetAttr
            | Self::Lookup
            | Self::Access
            | Self::ReadLink
            | Self::ReadDir
            | Self::ReadDirPlus
            | Self::FsStat
            | Self::FsInfo
            | Self::PathConf => CallKind::Look,
        }
    }

    /// Whether doing it twice is not as good as doing it once: such a call goes through the reply
    /// cache. WRITE is among them: a copy that lingers in the server could undo a later one.
    pub fn is_replayed(self) -> bool {
        self == Self::Write || self.kind() == CallKind::Change
    }
}

/// A name as it came: judged by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// A name to look up: one component, `.` and `..` too.
    pub fn to_find(self) -> Result<&'a [u8], Status> {
        match self.0 {
            [] => Err(Status::NFS3ERR_ACCES),
            long if long.len() > MAX_NAME => Err(Status::NFS3ERR_NAMETOOLONG),
            name if name.iter().any(|octet| matches!(octet, 0 | b'/')) => Err(Status::NFS3ERR_ACCES),
            name => Ok(name),
        }
    }

    /// A name to make: not `.` or `..`, which are there already.
    pub fn to_make(self) -> Result<&'a [u8], Status> {
        match self.to_find()? {
            b"." | b".." => Err(Status::NFS3ERR_EXIST),
            name => Ok(name),
        }
    }

    /// A name to take away: not `.` or `..`.
    pub fn to_remove(self) -> Result<&'a [u8], Status> {
        match self.to_find()? {
            b"." => Err(Status::NFS3ERR_INVAL),
            b".." => Err(Status::NFS3ERR_EXIST),
            name => Ok(name),
        }
    }
}

/// A directory and a name in it (`diropargs3`).
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The directory.
    pub directory: Handle,
    /// The name in it.
    pub name: Name<'a>,
}

/// What MKNOD is asked to make; only devices, sockets and FIFOs can be made by it.
#[derive(Clone, Copy, Debug)]
pub enum NodeType {
    /// It can be made.
    Makeable(Kind, SetAttr),
    /// A type that MKNOD does not make, or none at all (`NFS3ERR_BADTYPE`).
    Bad,
}

/// The bounds on an answer to READDIR or READDIRPLUS, and where it starts.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// The directory.
    pub directory: Handle,
    /// After which entry.
    pub cookie: u64,
    /// What came with that cookie.
    pub verifier: [u8; 8],
    /// The most octets of the whole result.
    pub max_bytes: usize,
}

/// The arguments of a call.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are those of RFC 1813, section 3.3")]
pub enum Arguments<'a> {
    Null,
    GetAttr(Handle),
    SetAttr { object: Handle, set: SetAttr, guard: Option<Time> },
    Lookup(Place<'a>),
    Access { object: Handle, mask: u32 },
    ReadLink(Handle),
    Read { file: Handle, offset: u64, count: u32 },
    Write { file: Handle, offset: u64, data: &'a [u8], stable: Stable },
    Create { place: Place<'a>, how: CreateHow },
    MkDir { place: Place<'a>, set: SetAttr },
    SymLink { place: Place<'a>, set: SetAttr, target: &'a [u8] },
    MkNod { place: Place<'a>, what: NodeType },
    Remove(Place<'a>),
    RmDir(Place<'a>),
    Rename { from: Place<'a>, to: Place<'a> },
    Link { object: Handle, place: Place<'a> },
    ReadDir(Scan),
    ReadDirPlus(Scan),
    FsStat(Handle),
    FsInfo(Handle),
    PathConf(Handle),
    Commit(Handle),
}

impl<'a> Arguments<'a> {
    /// Decodes the arguments of a procedure. Octets behind them are let pass, as all servers do.
    pub fn decode(procedure: Procedure, octets: &'a [u8]) -> Result<Self, Garbage> {
        let from = &mut Decoder::new(octets);
        Ok(match procedure {
            Procedure::Null => Self::Null,
            Procedure::GetAttr => Self::GetAttr(handle(from)?),
            Procedure::SetAttr => {
                Self::SetAttr { object: handle(from)?, set: set_attr(from)?, guard: from.optional(time)? }
            }
            Procedure::Lookup => Self::Lookup(place(from)?),
            Procedure::Access => Self::Access { object: handle(from)?, mask: from.u32()? },
            Procedure::ReadLink => Self::ReadLink(handle(from)?),
            Procedure::Read => {
                let (file, offset, count) = (handle(from)?, from.u64()?, from.u32()?);
                Self::Read { file, offset, count: count.min(length(MAX_IO)) }
            }
            Procedure::Write => write(from)?,
            Procedure::Create => Self::Create { place: place(from)?, how: create_how(from)? },
            Procedure::MkDir => Self::MkDir { place: place(from)?, set: set_attr(from)? },
            Procedure::SymLink => {
                Self::SymLink { place: place(from)?, set: set_attr(from)?, target: from.opaque(MAX_RECORD)? }
            }
            Procedure::MkNod => Self::MkNod { place: place(from)?, what: node_type(from)? },
            Procedure::Remove => Self::Remove(place(from)?),
            Procedure::RmDir => Self::RmDir(place(from)?),
            Procedure::Rename => Self::Rename { from: place(from)?, to: place(from)? },
            Procedure::Link => Self::Link { object: handle(from)?, place: place(from)? },
            Procedure::ReadDir => {
                let (directory, cookie, verifier) = (handle(from)?, from.u64()?, from.fixed()?);
                Self::ReadDir(Scan { directory, cookie, verifier, max_bytes: bound(from.u32()?) })
            }
            Procedure::ReadDirPlus => {
                let (directory, cookie, verifier) = (handle(from)?, from.u64()?, from.fixed()?);
                // `dircount`, a hint that says less than `maxcount`
                from.u32()?;
                Self::ReadDirPlus(Scan { directory, cookie, verifier, max_bytes: bound(from.u32()?) })
            }
            Procedure::FsStat => Self::FsStat(handle(from)?),
            Procedure::FsInfo => Self::FsInfo(handle(from)?),
            Procedure::PathConf => Self::PathConf(handle(from)?),
            Procedure::Commit => {
                let file = handle(from)?;
                // A range to commit: all is committed, which is allowed and no slower here.
                from.u64()?;
                from.u32()?;
                Self::Commit(file)
            }
        })
    }

    /// About how many octets the reply may take, where that is worth counting beforehand.
    pub fn reply_size(&self) -> usize {
        match self {
            Self::Read { count, .. } => *count as usize,
            Self::ReadDir(scan) | Self::ReadDirPlus(scan) => scan.max_bytes,
            _ => 0,
        }
    }
}

/// Any string in a record is bounded by the record; what is too long for its use is answered so.
const MAX_RECORD: usize = super::record::MAX_RECORD;

/// A page of a directory is never more than this, whatever is asked for.
fn bound(asked: u32) -> usize {
    (asked as usize).min(256 * 1024)
}

fn handle(from: &mut Decoder<'_>) -> Result<Handle, Garbage> {
    Handle::new(from.opaque(64)?).ok_or(Garbage)
}

fn place<'a>(from: &mut Decoder<'a>) -> Result<Place<'a>, Garbage> {
    Ok(Place { directory: handle(from)?, name: Name(from.opaque(MAX_RECORD)?) })
}

fn time(from: &mut Decoder<'_>) -> Result<Time, Garbage> {
    let time = Time { seconds: from.u32()?, nanos: from.u32()? };
    // A wrong count of nanoseconds is let into no file system.
    Ok(Time { nanos: time.nanos.min(999_999_999), ..time })
}

fn set_time(from: &mut Decoder<'_>) -> Result<Option<SetTime>, Garbage> {
    Ok(match from.u32()? {
        0 => None,
        1 => Some(SetTime::Now),
        2 => Some(SetTime::To(time(from)?)),
        _ => return Err(Garbage),
    })
}

fn set_attr(from: &mut Decoder<'_>) -> Result<SetAttr, Garbage> {
    Ok(SetAttr {
        mode: from.optional(Decoder::u32)?.map(|mode| mode & 0o7777),
        uid: from.optional(Decoder::u32)?,
        gid: from.optional(Decoder::u32)?,
        size: from.optional(Decoder::u64)?,
        atime: set_time(from)?,
        mtime: set_time(from)?,
    })
}

fn write<'a>(from: &mut Decoder<'a>) -> Result<Arguments<'a>, Garbage> {
    let (file, offset, count) = (handle(from)?, from.u64()?, from.u32()?);
    let stable = match from.u32()? {
        0 => Stable::Unstable,
        1 => Stable::DataSync,
        2 => Stable::FileSync,
        _ => return Err(Garbage),
    };
    let data = from.opaque(MAX_IO)?;
    let data = data.get(..count as usize).ok_or(Garbage)?;
    Ok(Arguments::Write { file, offset, data, stable })
}

fn create_how(from: &mut Decoder<'_>) -> Result<CreateHow, Garbage> {
    Ok(match from.u32()? {
        0 => CreateHow::Unchecked(set_attr(from)?),
        1 => CreateHow::Guarded(set_attr(from)?),
        2 => CreateHow::Exclusive(from.fixed()?),
        _ => return Err(Garbage),
    })
}

fn node_type(from: &mut Decoder<'_>) -> Result<NodeType, Garbage> {
    let kind = from.u32()?;
    Ok(match kind {
        3 | 4 => {
            let (set, major, minor) = (set_attr(from)?, from.u32()?, from.u32()?);
            let kind = if kind == 3 { Kind::Block(major, minor) } else { Kind::Char(major, minor) };
            NodeType::Makeable(kind, set)
        }
        6 => NodeType::Makeable(Kind::Socket, set_attr(from)?),
        7 => NodeType::Makeable(Kind::Fifo, set_attr(from)?),
        _ => NodeType::Bad,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_rfc() {
        for (number, procedure) in (0..).zip(Procedure::ALL) {
            assert_eq!(procedure as u32, number);
            assert_eq!(Procedure::from_number(number), Some(procedure));
        }
        assert_eq!(Procedure::from_number(21).unwrap().name(), "commit");
        assert_eq!(Procedure::from_number(22), None);
    }

    #[test]
    fn names() {
        assert!(Name(b"a").to_make().is_ok());
        assert!(matches!(Name(b"..").to_find(), Ok(b"..")));
        assert!(matches!(Name(b"..").to_make(), Err(Status::NFS3ERR_EXIST)));
        assert!(matches!(Name(b".").to_remove(), Err(Status::NFS3ERR_INVAL)));
        assert!(matches!(Name(b"a/b").to_find(), Err(Status::NFS3ERR_ACCES)));
        assert!(matches!(Name(b"").to_find(), Err(Status::NFS3ERR_ACCES)));
        assert!(matches!(Name(&[b'a'; 256]).to_find(), Err(Status::NFS3ERR_NAMETOOLONG)));
    }

    #[test]
    fn a_write_of_more_than_it_carries_is_garbage() {
        let words: Vec<u8> =
            [4u32, 1, 0, 0, 5, 0, 4, 0x0102_0304].iter().flat_map(|word| word.to_be_bytes()).collect();
        assert!(Arguments::decode(Procedure::Write, &words).is_err());
    }
}
