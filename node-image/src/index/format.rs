//! The index file.
//!
//! All numbers are little endian. A header (magic, inodes, entries, octets of names: u32 each), the
//! inodes (56 octets each, in the order of their numbers), the entries (9 octets each), the names,
//! and the blake3 digest of all that comes before it.

use std::path::Path;

use tesela_runtime::durable;

use super::{Attributes, Entry, Index, IndexError, Inode, Kind, MAX_INODES, ROOT, Span, Time};

const MAGIC: &[u8; 8] = b"teselai1";
const HEADER: usize = 20;
const INODE: usize = 56;
const ENTRY: usize = 9;
const DIGEST: usize = blake3::OUT_LEN;

impl Index {
    /// Writes the index file whole: beside its place first, then synced and renamed over it.
    ///
    /// # Errors
    /// [`IndexError::Io`] with the path.
    pub fn write(&self, path: &Path) -> Result<(), IndexError> {
        durable::replace(path, &self.encode(), Some(0o644))
            .map_err(|source| IndexError::Io { path: path.to_owned(), source })
    }

    /// The octets of the index file.
    pub fn encode(&self) -> Vec<u8> {
        let size = HEADER + self.inodes.len() * INODE + self.entries.len() * ENTRY + self.names.len();
        let mut out = Vec::with_capacity(size + DIGEST);
        out.extend_from_slice(MAGIC);
        for length in [self.inodes.len(), self.entries.len(), self.names.len()] {
            // The builder and the parser hold all three within u32.
            put(&mut out, u32::try_from(length).unwrap_or(u32::MAX));
        }
        for inode in &self.inodes {
            encode_inode(inode, &mut out);
        }
        for entry in &self.entries {
            put(&mut out, entry.object);
            put(&mut out, entry.name);
            out.push(entry.length);
        }
        out.extend_from_slice(&self.names);
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// An index from the octets of its file, checked throughout.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] with what does not hold.
    pub fn parse(octets: &[u8]) -> Result<Self, IndexError> {
        let corrupt = IndexError::Corrupt;
        let (body, digest) = octets.split_last_chunk::<DIGEST>().ok_or(corrupt("too short"))?;
        let rest = body.strip_prefix(MAGIC).ok_or(corrupt("not an index of this version"))?;
        if blake3::hash(body) != *digest {
            return Err(corrupt("its checksum does not match"));
        }
        let mut reader = Reader(rest);
        let [inodes, entries, names] = [reader.u32()?, reader.u32()?, reader.u32()?];
        let expected =
            u64::from(inodes) * INODE as u64 + u64::from(entries) * ENTRY as u64 + u64::from(names);
        if reader.0.len() as u64 != expected {
            return Err(corrupt("its length does not match its header"));
        }
        if inodes == 0 || inodes >= MAX_INODES {
            return Err(corrupt("no inodes, or too many"));
        }
        let inodes = (0..inodes).map(|_| decode_inode(&mut reader)).collect::<Result<_, _>>()?;
        let entries = (0..entries)
            .map(|_| Ok(Entry { object: reader.u32()?, name: reader.u32()?, length: reader.u8()? }))
            .collect::<Result<_, IndexError>>()?;
        let index = Self { inodes, entries, names: reader.0.to_vec() };
        index.check().map_err(corrupt)?;
        Ok(index)
    }

    /// That every number leads somewhere, every directory is a tree's and sorted, and links add up.
    fn check(&self) -> Result<(), &'static str> {
        let within =
            |span: Span, length: usize| u64::from(span.start) + u64::from(span.length) <= length as u64;
        let mut names = vec![0_u32; self.inodes.len()];
        let mut subdirectories = vec![0_u32; self.inodes.len()];
        for entry in &self.entries {
            let span = Span { start: entry.name, length: entry.length.into() };
            if !within(span, self.names.len()) {
                return Err("a name outside the names");
            }
            let name = self.name(span);
            if matches!(name, b"" | b"." | b"..") || name.iter().any(|octet| matches!(octet, 0 | b'/')) {
                return Err("a name that is none");
            }
        }
        let mut next_entry = 0;
        for (number, inode) in (ROOT..).zip(&self.inodes) {
            let body_within = match inode.attributes.kind {
                Kind::Directory => within(inode.body, self.entries.len()),
                _ => within(inode.body, self.names.len()),
            };
            if !body_within || !within(inode.name, self.names.len()) {
                return Err("an inode that points outside");
            }
            if inode.parent > number || (inode.parent == number) != (number == ROOT) || inode.parent == 0 {
                return Err("a parent that is not above");
            }
            if inode.attributes.kind != Kind::Directory {
                continue;
            }
            if inode.body.start != next_entry {
                return Err("directories that share entries");
            }
            next_entry += inode.body.length;
            let entries = self.entries(number);
            if !entries.is_sorted_by(|a, b| self.entry_name(a) < self.entry_name(b)) {
                return Err("a directory that is not sorted");
            }
            for entry in entries {
                let child = self.inode(entry.object).ok_or("an entry without an inode")?;
                let at = entry.object as usize - 1;
                names[at] += 1;
                if child.attributes.kind == Kind::Directory {
                    subdirectories[number as usize - 1] += 1;
                    if child.parent != number || names[at] > 1 {
                        return Err("a directory in two places");
                    }
                }
            }
        }
        if next_entry as usize != self.entries.len() {
            return Err("entries of no directory");
        }
        for (number, inode) in (ROOT..).zip(&self.inodes) {
            let at = number as usize - 1;
            let is_directory = inode.attributes.kind == Kind::Directory;
            let links = if is_directory { 2 + subdirectories[at] } else { names[at] };
            let named = if number == ROOT {
                is_directory && names[at] == 0 && inode.name.length == 0
            } else {
                self.lookup(inode.parent, self.name(inode.name)) == Some(number)
            };
            if !named || links != inode.attributes.nlink {
                return Err("names and links do not add up");
            }
        }
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn encode_inode(inode: &Inode, out: &mut Vec<u8>) {
    let Attributes { kind, mode, uid, gid, nlink, mtime, ctime } = inode.attributes;
    let device = |major: u32, minor: u32| u64::from(major) << 32 | u64::from(minor);
    let (code, value) = match kind {
        Kind::File(size) => (1, size),
        Kind::Directory => (2, 0),
        Kind::Block(major, minor) => (3, device(major, minor)),
        Kind::Char(major, minor) => (4, device(major, minor)),
        Kind::Symlink => (5, 0),
        Kind::Socket => (6, 0),
        Kind::Fifo => (7, 0),
    };
    // A name has 255 octets at most: the builder and the parser see to that.
    out.extend_from_slice(&[code, u8::try_from(inode.name.length).unwrap_or(u8::MAX)]);
    out.extend_from_slice(&mode.to_le_bytes());
    out.extend_from_slice(&value.to_le_bytes());
    for number in [
        nlink,
        uid,
        gid,
        mtime.seconds,
        mtime.nanos,
        ctime.seconds,
        ctime.nanos,
        inode.parent,
        inode.name.start,
        inode.body.start,
        inode.body.length,
    ] {
        put(out, number);
    }
}

fn decode_inode(reader: &mut Reader) -> Result<Inode, IndexError> {
    let (code, name_length, mode) = (reader.u8()?, reader.u8()?, reader.u16()?);
    let value = u64::from(reader.u32()?) | u64::from(reader.u32()?) << 32;
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    let high = u32::try_from(value >> 32).unwrap_or(0);
    let kind = match code {
        1 => Kind::File(value),
        2 => Kind::Directory,
        3 => Kind::Block(high, low),
        4 => Kind::Char(high, low),
        5 => Kind::Symlink,
        6 => Kind::Socket,
        7 => Kind::Fifo,
        _ => return Err(IndexError::Corrupt("an unknown kind of inode")),
    };
    if value != 0 && !matches!(code, 1 | 3 | 4) {
        return Err(IndexError::Corrupt("a size or device where none can be"));
    }
    if mode > 0o7777 {
        return Err(IndexError::Corrupt("a mode that is none"));
    }
    let [nlink, uid, gid] = [reader.u32()?, reader.u32()?, reader.u32()?];
    let mut time = || Ok(Time { seconds: reader.u32()?, nanos: reader.u32()? });
    let (mtime, ctime): (Time, Time) = (time()?, time()?);
    if mtime.nanos >= 1_000_000_000 || ctime.nanos >= 1_000_000_000 {
        return Err(IndexError::Corrupt("a time that is none"));
    }
    let attributes = Attributes { kind, mode, uid, gid, nlink, mtime, ctime };
    let parent = reader.u32()?;
    let name = Span { start: reader.u32()?, length: name_length.into() };
    let body = Span { start: reader.u32()?, length: reader.u32()? };
    Ok(Inode { attributes, parent, name, body })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(IndexError::Corrupt("too short"))?;
        self.0 = rest;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, IndexError> {
        Ok(u8::from_le_bytes(self.take()?))
    }
    fn u16(&mut self) -> Result<u16, IndexError> {
        Ok(u16::from_le_bytes(self.take()?))
    }
    fn u32(&mut self) -> Result<u32, IndexError> {
        Ok(u32::from_le_bytes(self.take()?))
    }
}

/// The entry of the fuzz target `image_index`: parses what `data` says with a right digest put to it,
/// and asks every question of what holds.
pub fn fuzz(data: &[u8]) {
    let mut octets = data.to_vec();
    octets.extend_from_slice(blake3::hash(data).as_bytes());
    let Ok(index) = Index::parse(&octets) else {
        return;
    };
    assert_eq!(index.encode(), octets, "an index reads back as it was written");
    for object in 1..=index.len() {
        assert!(index.attributes(object).is_some() && index.path(object).is_some());
        assert!(index.read_directory(object, 0).count() == index.entry_count(object));
        assert!(index.target(object).len() <= octets.len());
    }
}
