//! Memory that processes share: it moves, once, with all of them.
//!
//! At home it stays what it is, an object of the kernel's (anonymous memory that children have inherited, a
//! segment of System V's, a file); on the other node a file in memory stands for it, which all bodies map. So
//! futexes in it meet there, and what is forked there shares it further. When all of them stand still again,
//! its content goes home, into the object that was always there.
//!
//! What somebody else can reach in another way than by mapping it does not move: he would see it stand still. The
//! processes themselves keep descriptors of memory that they have mapped, and may; what they read and write by them
//! while they are away is what is at home, and who opens it by its name meanwhile sees that, too.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::FileExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Pid, Whence, lseek64};

use super::freeze::FreezeError;
use super::image::{Mapping, Part};
use super::link::{LinkError, Receiver, Sender};
use super::look::{self, Line, PAGE};
use super::sys;

/// Octets of it in a record.
const RUN: u64 = 7 * PAGE;
/// The object of a record that says that all has been sent.
const DONE: u32 = u32::MAX;
/// `PROT_WRITE`
pub const WRITE: u32 = 2;

/// By which /proc/PID/maps tells one from others. A segment of System V's has its id where others have an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    device: (u32, u32),
    inode: u64,
    segment: bool,
}

impl Key {
    fn of(line: &Line) -> Self {
        Self { device: line.device, inode: line.inode, segment: line.name.starts_with("/SYSV") }
    }
}

/// Something that processes share.
#[derive(Debug)]
pub struct Object {
    key: Key,
    file: File,
    size: u64,
    /// It is a file that others find by its name, and no memory.
    of_disk: bool,
}

impl Object {
    /// Octets.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// One that stands for another node's.
    ///
    /// # Errors
    /// Those of memfd_create(2).
    pub fn stand_in(size: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("shared", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(size)?;
        let about = file.metadata()?;
        let device = (nix::sys::stat::major(about.st_dev()), nix::sys::stat::minor(about.st_dev()));
        let number = |part: u64| u32::try_from(part).map_err(io::Error::other);
        let key =
            Key { device: (number(device.0)?, number(device.1)?), inode: about.st_ino(), segment: false };
        Ok(Self { key, file, size, of_disk: false })
    }

    /// A descriptor of it.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// The same, to be written: by the process's rights it may, for it has it mapped so.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn writable(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// A mapping as it travels.
pub fn mapping(line: &Line, objects: &[Object]) -> Mapping {
    let shared = part(line, objects);
    Mapping { shared, copy: line.shared && shared.is_none(), ..line.mapping() }
}

/// What a mapping shows of these.
pub fn part(line: &Line, objects: &[Object]) -> Option<Part> {
    let key = Key::of(line);
    let object = objects.iter().position(|object| line.shared && object.key == key)?;
    Some(Part { object: u32::try_from(object).ok()?, offset: line.offset })
}

/// Whether a mapping shows a file on a disk, and not memory.
pub fn is_of_file(line: &Line, objects: &[Object]) -> bool {
    let object = part(line, objects).and_then(|part| objects.get(usize::try_from(part.object).ok()?));
    object.is_some_and(|object| object.of_disk)
}

/// Adds what these mappings of a process share with others, or could.
pub fn collect(pid: Pid, lines: &[Line], objects: &mut Vec<Object>) -> Result<(), FreezeError> {
    for line in lines.iter().filter(|line| line.shared && !line.is_special()) {
        let key = Key::of(line);
        if objects.iter().any(|object| object.key == key) {
            continue;
        }
        if let Some(reason) = ["anon_inode:[io_uring]", "/[aio]", "anon_inode:"]
            .iter()
            .zip(["io_uring", "aio", "mmap_dev"])
            .find_map(|(name, reason)| line.name.starts_with(name).then_some(reason))
        {
            return Err(FreezeError::CantMove(reason));
        }
        // To open a device is to use it.
        if is_device(line) {
            return Err(FreezeError::CantMove("mmap_dev"));
        }
        let file = File::open(format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end))?;
        // What nobody writes is as good as its own: locale archives, caches.
        if line.protection & WRITE == 0 && !has_writers(&file, key)? {
            continue;
        }
        let kind = fstatfs(&file).map_err(io::Error::from)?.filesystem_type();
        // Neither can be written but by a mapping.
        if kind == HUGETLBFS_MAGIC || sys::is_sealed(&file) {
            return Err(FreezeError::CantMove("shared"));
        }
        let size = file.metadata()?.len();
        objects.push(Object { key, file, size, of_disk: kind != TMPFS_MAGIC });
    }
    Ok(())
}

/// A device's memory. /dev/zero, mapped shared, is memory that those share who have inherited it.
pub fn is_device(line: &Line) -> bool {
    let memory = ["/dev/shm/", "/dev/zero"].iter().any(|memory| line.name.starts_with(memory));
    line.shared && line.name.starts_with("/dev/") && !memory
}

/// Whether somebody has the file open for writing, or mapped so.
fn has_writers(file: &File, key: Key) -> io::Result<bool> {
    if let Some(writers) = sys::has_writers(file)? {
        return Ok(writers);
    }
    // The file system does not say (NFS): so each process is asked.
    let about = file.metadata()?;
    let me = Pid::this().as_raw();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that ends meanwhile has nothing.
        let lines = look::maps(Pid::from_raw(pid)).unwrap_or_default();
        let maps = |line: &Line| line.shared && line.protection & WRITE != 0 && Key::of(line) == key;
        if pid != me && (lines.iter().any(maps) || opens_to_write(pid, &about)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn opens_to_write(pid: i32, about: &fs::Metadata) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|fd| {
        let same = fs::metadata(fd.path())
            .is_ok_and(|other| (other.st_dev(), other.st_ino()) == (about.st_dev(), about.st_ino()));
        let info = || fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_str()?)).ok();
        let flags = |text: String| {
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
            u32::from_str_radix(&flags, 8).ok()
        };
        // O_WRONLY, O_RDWR
        same && info().and_then(flags).is_none_or(|flags| flags & 3 != 0)
    })
}

/// Processes, but for these, that have any of the objects mapped. Fails where somebody has one in another way.
pub fn sharers(objects: &[Object], but: &BTreeSet<i32>) -> Result<BTreeSet<i32>, FreezeError> {
    let mut found = BTreeSet::new();
    let me = Pid::this().as_raw();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that ends meanwhile has nothing.
        if pid != me && !but.contains(&pid) && maps_any(Pid::from_raw(pid), objects).unwrap_or(false) {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn maps_any(pid: Pid, objects: &[Object]) -> io::Result<bool> {
    let lines = look::maps(pid)?;
    Ok(lines.iter().any(|line| part(line, objects).is_some()))
}

/// Fails where somebody could read or write one of the objects by a descriptor: in memory those who move may,
/// for programs keep the descriptor of what they have mapped; a file nobody may.
pub fn alone(objects: &[Object], members: &BTreeSet<i32>) -> Result<(), FreezeError> {
    let mut memory = BTreeSet::new();
    let mut files = BTreeSet::new();
    for object in objects {
        let about = object.file.metadata()?;
        let id = (about.st_dev(), about.st_ino());
        if object.of_disk { &mut files } else { &mut memory }.insert(id);
    }
    let me = Pid::this().as_raw();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if pid == me || (files.is_empty() && members.contains(&pid)) {
            continue;
        }
        // One that ends meanwhile has nothing; nor has a descriptor that is closed.
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in entries.flatten() {
            let Ok(about) = fs::metadata(fd.path()) else { continue };
            let id = (about.st_dev(), about.st_ino());
            if files.contains(&id) || (memory.contains(&id) && !members.contains(&pid)) {
                return Err(FreezeError::CantMove("shared"));
            }
        }
    }
    Ok(())
}

/// Sends the content of the objects; zeros do not travel.
///
/// # Errors
/// Those of the connection and of reading.
pub fn send(objects: &[Object], sender: &mut Sender) -> Result<(), LinkError> {
    let mut record = Vec::new();
    for (number, object) in (0_u32..).zip(objects) {
        for (start, end) in data(&object.file, object.size)? {
            for at in (start..end).step_by(usize::try_from(RUN).unwrap_or(usize::MAX)) {
                record.clear();
                record.extend_from_slice(&number.to_le_bytes());
                record.extend_from_slice(&at.to_le_bytes());
                let head = record.len();
                record.resize(head + usize::try_from(RUN.min(end - at)).unwrap_or(0), 0);
                let got = read(&object.file, &mut record[head..], at)?;
                record.truncate(head + got);
                if record[head..].iter().any(|octet| *octet != 0) {
                    sender.put(&record)?;
                }
            }
        }
    }
    sender.put(&DONE.to_le_bytes())
}

fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], at + got as u64)? {
            0 => break,
            more => got += more,
        }
    }
    Ok(got)
}

/// The ranges of a file that are not holes.
fn data(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let seek = |from: u64, whence| {
            let from = i64::try_from(from).map_err(io::Error::other)?;
            match lseek64(file, from, whence) {
                Ok(found) => Ok(u64::try_from(found).unwrap_or(size)),
                // Nothing from there on.
                Err(nix::errno::Errno::ENXIO) => Ok(size),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        let start = seek(at, Whence::SeekData)?;
        if start >= size {
            break;
        }
        let end = seek(start, Whence::SeekHole)?.min(size);
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}

/// A part of an object's content.
#[derive(Debug)]
pub struct Piece {
    object: usize,
    at: u64,
    content: Vec<u8>,
}

impl Piece {
    /// Octets.
    pub fn length(&self) -> u64 {
        self.content.len() as u64
    }
}

/// Receives what [`send`] sends, for as many objects as these, none longer than they are. `each` is told of each
/// piece.
///
/// # Errors
/// Those of the connection; what comes is not authentic.
pub fn receive(
    objects: &[Object],
    receiver: &mut Receiver,
    mut each: impl FnMut(Piece) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    loop {
        let record = receiver.record()?;
        let (number, rest) = record.split_first_chunk::<4>().ok_or(LinkError::NotAuthentic)?;
        let number = u32::from_le_bytes(*number);
        if number == DONE {
            return Ok(());
        }
        let (at, content) = rest.split_first_chunk::<8>().ok_or(LinkError::NotAuthentic)?;
        let (object, at) = (usize::try_from(number).unwrap_or(usize::MAX), u64::from_le_bytes(*at));
        let size = objects.get(object).map_or(0, Object::size);
        if at.checked_add(content.len() as u64).is_none_or(|end| end > size) {
            return Err(LinkError::NotAuthentic);
        }
        each(Piece { object, at, content: content.to_vec() })?;
    }
}

/// Puts content into objects that have none yet.
///
/// # Errors
/// Those of [`receive`] and of writing.
pub fn fill(objects: &[Object], receiver: &mut Receiver) -> Result<(), LinkError> {
    receive(objects, receiver, |piece| {
        Ok(objects[piece.object].file.write_all_at(&piece.content, piece.at)?)
    })
}

/// Makes these pieces the whole content of objects: what is in none of them is zero.
///
/// # Errors
/// Those of the files.
pub fn replace(objects: &[Object], pieces: &[Piece]) -> io::Result<()> {
    for (number, object) in objects.iter().enumerate() {
        let pieces: Vec<&Piece> = pieces.iter().filter(|piece| piece.object == number).collect();
        let covered: Vec<(u64, u64)> =
            pieces.iter().map(|piece| (piece.at, piece.at + piece.content.len() as u64)).collect();
        let mut target = None;
        let mut change = |content: &[u8], at: u64| {
            let mut old = vec![0; content.len()];
            let got = read(&object.file, &mut old, at)?;
            // A file may have become shorter meanwhile.
            if old[..got] == content[..got] {
                return Ok(());
            }
            let file = match &mut target {
                Some(file) => file,
                target => target.insert(object.writable()?),
            };
            file.write_all_at(&content[..got], at)
        };
        for piece in &pieces {
            change(&piece.content, piece.at)?;
        }
        let zeros = vec![0; usize::try_from(RUN).unwrap_or(0)];
        for (start, end) in super::home::without(&data(&object.file, object.size)?, &covered) {
            for at in (start..end).step_by(zeros.len()) {
                change(&zeros[..usize::try_from(RUN.min(end - at)).unwrap_or(0)], at)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_and_holes_are_zero() {
        let object = Object::stand_in(10 * PAGE + 7).unwrap();
        assert_eq!(data(&object.file, object.size).unwrap(), []);
        object.file.write_all_at(b"end", 10 * PAGE + 4).unwrap();
        object.file.write_all_at(b"first", 10).unwrap();
        assert_eq!(data(&object.file, object.size).unwrap(), [(0, PAGE), (10 * PAGE, 10 * PAGE + 7)]);
        let piece = Piece { object: 0, at: 3 * PAGE, content: b"third".to_vec() };
        replace(std::slice::from_ref(&object), &[piece]).unwrap();
        let mut all = vec![1; 11 * usize::try_from(PAGE).unwrap()];
        assert_eq!(read(&object.file, &mut all, 0).unwrap() as u64, object.size);
        let third = usize::try_from(3 * PAGE).unwrap();
        assert_eq!(&all[third..third + 5], b"third");
        assert!(all[..third].iter().chain(&all[third + 5..10 * third / 3 + 7]).all(|octet| *octet == 0));
    }
}
