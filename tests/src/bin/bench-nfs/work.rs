//! What the servers are measured with: raw calls, pipelined, and a tree unpacked as the Linux client does it.

use crate::peers::Peer;
use bytes::Buf;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};
use tesela_tests::nfs::{Args, Client, NFS, opaque, procedure};

/// How long a closed loop runs.
const DURATION: Duration = Duration::from_secs(2);
/// The unit of READ and WRITE.
const BLOCK: usize = 128 * 1024;
/// Octets of the file that is read and of the one that is written.
pub const FILE: usize = 128 * 1024 * 1024;
/// Entries of the large directory.
pub const ENTRIES: usize = 10_000;

/// One figure, higher is better, and the CPU that the server took for one unit of it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Units a second.
    pub rate: f64,
    /// CPU time of the server for a unit, in microseconds.
    pub cpu: f64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// GETATTR over connections × calls in flight.
    GetAttr(usize, usize),
    /// READ of 128 KiB over connections × calls in flight; the unit is a megabyte.
    Read(usize, usize),
    /// WRITE of 128 KiB, COMMIT every 8 MiB; the unit is a megabyte.
    Write,
    /// All of a directory of 10,000 entries; the unit is an entry.
    ReadDirPlus,
    /// A tree unpacked; the unit is a file.
    Untar,
}

impl Work {
    /// All that is measured.
    pub const ALL: [Self; 6] = [
        Self::GetAttr(4, 16),
        Self::GetAttr(1, 1),
        Self::Read(2, 8),
        Self::Write,
        Self::ReadDirPlus,
        Self::Untar,
    ];

    /// What it is called on the command line.
    pub fn name(self) -> String {
        match self {
            Self::GetAttr(connections, depth) => format!("getattr-{connections}x{depth}"),
            Self::Read(..) => "read".into(),
            Self::Write => "write".into(),
            Self::ReadDirPlus => "readdirplus".into(),
            Self::Untar => "untar".into(),
        }
    }

    /// The work of a name.
    pub fn named(name: &str) -> io::Result<Self> {
        Self::ALL.into_iter().find(|work| work.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            io::Error::other(format!("there is no work called {name}; there are {names}"))
        })
    }

    /// Its name and unit in the table.
    pub fn title(self) -> (String, &'static str) {
        match self {
            Self::GetAttr(connections, depth) => (format!("GETATTR {connections} × {depth}"), "calls/s"),
            Self::Read(connections, depth) => (format!("READ 128 KiB {connections} × {depth}"), "MB/s"),
            Self::Write => ("WRITE 128 KiB × 8 with COMMIT".into(), "MB/s"),
            Self::ReadDirPlus => ("READDIRPLUS of 10,000 entries".into(), "entries/s"),
            Self::Untar => ("untar of a source tree".into(), "files/s"),
        }
    }

    /// Measures a server once; `round` tells what is made apart.
    pub fn measure(self, peer: &Peer, tree: &Tree, round: usize) -> io::Result<Sample> {
        let _apart = (self == Self::GetAttr(1, 1)).then(|| peer.apart()).transpose()?;
        let (cpu, start) = (peer.cpu()?, Instant::now());
        let units = match self {
            Self::GetAttr(connections, depth) => closed_loop(peer, connections, depth, |handle, _| {
                (procedure::GETATTR, Args::new().opaque(handle))
            })?,
            Self::Read(connections, depth) => {
                let calls = closed_loop(peer, connections, depth, |handle, number| {
                    let offset = number * BLOCK % FILE;
                    (procedure::READ, Args::new().opaque(handle).u64(offset as u64).u32(word(BLOCK)))
                })?;
                calls * BLOCK as f64 / 1e6
            }
            Self::Write => write(peer)?,
            Self::ReadDirPlus => read_dir_plus(peer)?,
            Self::Untar => tree.unpack(peer, &format!("untar-{round}"))?,
        };
        let seconds = start.elapsed().as_secs_f64();
        let cpu = (peer.cpu()? - cpu).as_secs_f64();
        Ok(Sample { rate: units / seconds, cpu: cpu * 1e6 / units })
    }
}

/// The content of the file that is read.
fn pattern() -> Vec<u8> {
    (0..=250u8).cycle().take(FILE).collect()
}

/// The name of an entry of the large directory.
fn entry(number: usize) -> String {
    format!("entry-number-{number:05}")
}

/// Makes what is read, in a directory.
pub fn make_tree(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory.join("many"))?;
    fs::write(directory.join("file"), pattern())?;
    (0..ENTRIES).try_for_each(|number| fs::write(directory.join("many").join(entry(number)), ""))
}

/// Makes what is read by calls, where it is not there.
pub fn prepare(peer: &Peer) -> io::Result<()> {
    let (mut client, root) = (peer.client()?, peer.root()?);
    if client.walk(&root, "file").is_ok() {
        return Ok(());
    }
    let file = client.make(procedure::CREATE, &root, "file", Args::new().u32(0).mode(Some(0o644)))?;
    for (number, data) in pattern().chunks(1 << 20).enumerate() {
        let place = Args::new().opaque(&file).u64((number << 20) as u64).u32(word(data.len()));
        client.nfs(procedure::WRITE, &place.u32(0).opaque(data))?;
    }
    let many = client.make(procedure::MKDIR, &root, "many", Args::new().mode(Some(0o755)))?;
    for number in 0..ENTRIES {
        client.make(procedure::CREATE, &many, &entry(number), Args::new().u32(0).mode(Some(0o644)))?;
    }
    Ok(())
}

/// Calls for the file as fast as they are answered, with `depth` of them in flight on each connection.
fn closed_loop(
    peer: &Peer,
    connections: usize,
    depth: usize,
    call: impl Fn(&[u8], usize) -> (u32, Args) + Sync,
) -> io::Result<f64> {
    let handle = peer.client()?.walk(&peer.root()?, "file")?;
    let together = Barrier::new(connections);
    let run = || -> io::Result<usize> {
        let mut client = peer.client()?;
        together.wait();
        let deadline = Instant::now() + DURATION;
        let (mut sent, mut answered) = (0, 0);
        loop {
            while sent < answered + depth && Instant::now() < deadline {
                let (procedure, args) = call(&handle, sent);
                client.queue(NFS, procedure, &[&args.0]);
                sent += 1;
            }
            client.flush()?;
            if sent == answered {
                return Ok(answered);
            }
            client.fill()?;
            while let Some(reply) = client.buffered() {
                // From REPLY to the status: accepted, SUCCESS, NFS3_OK.
                if reply[8..28] != [0; 20] {
                    return Err(io::Error::other(format!("{}: a call failed", peer.name)));
                }
                answered += 1;
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_fold(0., |sum, thread| {
            let answered = thread.join().map_err(|_| io::Error::other("a client panicked"))??;
            Ok(sum + answered as f64)
        })
    })
}

fn write(peer: &Peer) -> io::Result<f64> {
    let (mut client, root) = (peer.client()?, peer.root()?);
    let file = client.make(procedure::CREATE, &root, "written", Args::new().u32(0).mode(Some(0o644)))?;
    let data = vec![7; BLOCK];
    for offset in (0..FILE).step_by(8 * BLOCK) {
        for block in 0..8 {
            let place = Args::new().opaque(&file).u64((offset + block * BLOCK) as u64).u32(word(BLOCK));
            client.queue(NFS, procedure::WRITE, &[&place.u32(0).u32(word(BLOCK)).0, &data]);
        }
        client.flush()?;
        let mut committed = true;
        for _ in 0..8 {
            committed &= committed_by(&mut client.reply()?.results()?)?;
        }
        // What has been answered as being on the disk needs no COMMIT.
        if !committed && (offset / BLOCK + 8).is_multiple_of(64) {
            client.nfs(procedure::COMMIT, &Args::new().opaque(&file).u64(0).u32(0))?;
        }
    }
    let removed = Args::new().opaque(&root).opaque(b"written");
    client.nfs(procedure::REMOVE, &removed)?;
    Ok(FILE as f64 / 1e6)
}

fn read_dir_plus(peer: &Peer) -> io::Result<f64> {
    let mut client = peer.client()?;
    let many = client.walk(&peer.root()?, "many")?;
    let (mut listed, deadline) = (0, Instant::now() + DURATION);
    while Instant::now() < deadline {
        let (mut cookie, mut verifier, before) = (0, 0, listed);
        loop {
            let args = Args::new().opaque(&many).u64(cookie).u64(verifier).u32(32 * 1024).u32(32 * 1024);
            let mut page = client.nfs(procedure::READDIRPLUS, &args)?;
            skip_post(&mut page);
            verifier = page.get_u64();
            while page.get_u32() == 1 {
                page.advance(8);
                opaque(&mut page);
                cookie = page.get_u64();
                skip_post(&mut page);
                if page.get_u32() == 1 {
                    opaque(&mut page);
                }
                listed += 1;
            }
            if page.get_u32() == 1 {
                break;
            }
        }
        if listed - before < ENTRIES {
            return Err(io::Error::other(format!("{}: only {} entries", peer.name, listed - before)));
        }
    }
    Ok(listed as f64)
}

/// A tree in memory, in the order in which tar would write it.
pub struct Tree(Vec<(PathBuf, Node)>);

enum Node {
    Directory,
    File(Vec<u8>),
    Symlink(PathBuf),
}

impl Tree {
    /// Reads so many files of a tree.
    pub fn read(root: &Path, files: usize) -> io::Result<Self> {
        let (mut nodes, mut count) = (Vec::new(), 0);
        let mut waiting = vec![PathBuf::new()];
        while let Some(directory) = waiting.pop() {
            let mut entries: Vec<_> = fs::read_dir(root.join(&directory))?.collect::<io::Result<_>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let (kind, path) = (entry.file_type()?, directory.join(entry.file_name()));
                if kind.is_dir() {
                    nodes.push((path.clone(), Node::Directory));
                    waiting.push(path);
                } else if kind.is_symlink() {
                    nodes.push((path, Node::Symlink(fs::read_link(entry.path())?)));
                } else if kind.is_file() && count < files {
                    nodes.push((path, Node::File(fs::read(entry.path())?)));
                    count += 1;
                }
            }
            if count == files {
                break;
            }
        }
        Ok(Self(nodes))
    }

    /// What it holds, in words.
    pub fn describe(&self) -> String {
        let octets: usize =
            self.0.iter().map(|(_, node)| if let Node::File(data) = node { data.len() } else { 0 }).sum();
        format!("{} files, directories and links, {:.1} MB", self.0.len(), octets as f64 / 1e6)
    }

    /// Unpacks it below a new directory, with the calls of tar on a Linux client: one after the other.
    fn unpack(&self, peer: &Peer, name: &str) -> io::Result<f64> {
        let (mut client, root) = (peer.client()?, peer.root()?);
        let top = client.make(procedure::MKDIR, &root, name, Args::new().mode(Some(0o755)))?;
        let mut directories = std::collections::HashMap::from([(PathBuf::new(), top)]);
        for (path, node) in &self.0 {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
            else {
                continue;
            };
            let Some(parent) = directories.get(parent) else { continue };
            let place = Args::new().opaque(parent).opaque(name.as_bytes());
            if client.call(NFS, procedure::LOOKUP, &place)?.get_u32() != 2 {
                return Err(io::Error::other(format!("{}: {} is there already", peer.name, path.display())));
            }
            match node {
                Node::Directory => {
                    let made = client.make(procedure::MKDIR, parent, name, Args::new().mode(Some(0o755)))?;
                    set_times(&mut client, &made)?;
                    directories.insert(path.clone(), made);
                }
                Node::Symlink(target) => {
                    let target = Args::new().mode(None).opaque(target.as_os_str().as_encoded_bytes());
                    client.make(procedure::SYMLINK, parent, name, target)?;
                }
                Node::File(data) => {
                    // O_CREAT and O_EXCL: EXCLUSIVE, and the mode set behind it.
                    let made =
                        client.make(procedure::CREATE, parent, name, Args::new().u32(2).u64(0x7e5e_1a00))?;
                    client.nfs(procedure::SETATTR, &Args::new().opaque(&made).mode(Some(0o644)).u32(0))?;
                    write_file(&mut client, &made, data)?;
                    set_times(&mut client, &made)?;
                }
            }
        }
        Ok(self.0.len() as f64)
    }
}

/// Writes a file as the close of it does: what fits one call is written through at once.
fn write_file(client: &mut Client, file: &[u8], data: &[u8]) -> io::Result<()> {
    const WSIZE: usize = 512 * 1024;
    let stable = if data.len() <= WSIZE { 2 } else { 0 };
    let mut committed = true;
    for (number, block) in data.chunks(WSIZE).enumerate() {
        let place = Args::new().opaque(file).u64((number * WSIZE) as u64).u32(word(block.len()));
        let mut results = client.call(NFS, procedure::WRITE, &place.u32(stable).opaque(block))?;
        committed &= committed_by(&mut results)?;
    }
    if !committed {
        client.nfs(procedure::COMMIT, &Args::new().opaque(file).u64(0).u32(0))?;
    }
    Ok(())
}

fn set_times(client: &mut Client, object: &[u8]) -> io::Result<()> {
    // mode, uid, gid and size as they are, both times to one of the client's, no guard
    let times = Args::new().opaque(object).u32(0).u32(0).u32(0).u32(0);
    let times = times.u32(2).u64(1_700_000_000 << 32).u32(2).u64(1_700_000_000 << 32).u32(0);
    client.nfs(procedure::SETATTR, &times).map(drop)
}

/// Whether a WRITE was answered as being on the disk.
fn committed_by(results: &mut bytes::BytesMut) -> io::Result<bool> {
    match results.get_u32() {
        0 => {}
        status => return Err(io::Error::other(format!("a WRITE failed: status {status}"))),
    }
    if results.get_u32() == 1 {
        results.advance(24);
    }
    skip_post(results);
    results.advance(4);
    Ok(results.get_u32() == 2)
}

fn skip_post(results: &mut bytes::BytesMut) {
    if results.get_u32() == 1 {
        results.advance(84);
    }
}

fn word(len: usize) -> u32 {
    u32::try_from(len).expect("a block is small")
}
