//! A raw client of NFS version 3 over TCP: it sends what it is told, pipelined if wished, and can
//! be as rude as a test needs.

use bytes::{Buf, BufMut, BytesMut};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tesela::nfs::{FileSystem, Limits, Server};
use tesela_runtime::port::connect_privileged;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// NFS version 3.
pub const NFS: (u32, u32) = (100_003, 3);
/// MOUNT version 3.
pub const MOUNT: (u32, u32) = (100_005, 3);

/// Procedure numbers (RFC 1813, section 3.3).
pub mod procedure {
    #![expect(missing_docs, reason = "the names are those of RFC 1813, section 3.3")]
    pub const GETATTR: u32 = 1;
    pub const SETATTR: u32 = 2;
    pub const LOOKUP: u32 = 3;
    pub const ACCESS: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const READ: u32 = 6;
    pub const WRITE: u32 = 7;
    pub const CREATE: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const SYMLINK: u32 = 10;
    pub const MKNOD: u32 = 11;
    pub const REMOVE: u32 = 12;
    pub const RMDIR: u32 = 13;
    pub const RENAME: u32 = 14;
    pub const LINK: u32 = 15;
    pub const READDIR: u32 = 16;
    pub const READDIRPLUS: u32 = 17;
    pub const FSSTAT: u32 = 18;
    pub const FSINFO: u32 = 19;
    pub const PATHCONF: u32 = 20;
    pub const COMMIT: u32 = 21;
}

/// Arguments being written.
#[derive(Clone, Debug, Default)]
pub struct Args(pub Vec<u8>);

impl Args {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An unsigned int.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.put_u32(value);
        self
    }

    /// An unsigned hyper.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.put_u64(value);
        self
    }

    /// Opaque data, a string or a handle.
    pub fn opaque(mut self, data: &[u8]) -> Self {
        put_opaque(&mut self.0, data);
        self
    }

    /// Octets as they are.
    pub fn raw(mut self, data: &[u8]) -> Self {
        self.0.put_slice(data);
        self
    }

    /// Attributes to set (`sattr3`): only a mode, or none at all.
    pub fn mode(self, mode: Option<u32>) -> Self {
        let args = match mode {
            Some(mode) => self.u32(1).u32(mode),
            None => self.u32(0),
        };
        // uid, gid, size, atime, mtime
        args.u32(0).u32(0).u32(0).u32(0).u32(0)
    }
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    /// What was read, from `taken` to `filled`.
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    output: Vec<u8>,
    xid: u32,
    credential: Vec<u8>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Of which call.
    pub xid: u32,
    /// What follows the xid and the word REPLY, up to the end of the record.
    pub rest: BytesMut,
}

impl Reply {
    /// The results of a call that was carried out.
    ///
    /// # Errors
    /// If it was denied, with the words of the denial.
    pub fn results(mut self) -> io::Result<BytesMut> {
        // MSG_ACCEPTED, AUTH_NONE, an empty verifier, SUCCESS
        if self.rest.len() < 16 || self.rest[..16] != [0; 16] {
            return Err(io::Error::other(format!("denied: {:?}", &self.rest[..])));
        }
        self.rest.advance(16);
        Ok(self.rest)
    }
}

impl Client {
    /// Connects as root by AUTH_UNIX, from a port that only root can have.
    ///
    /// # Errors
    /// If it cannot connect.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let SocketAddr::V4(address) = address else { return Err(io::ErrorKind::Unsupported.into()) };
        Self::over(connect_privileged(address, PATIENCE)?)
    }

    /// A client over a stream that is connected.
    ///
    /// # Errors
    /// If the stream takes no options.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut credential = Vec::new();
        credential.put_u32(1);
        // stamp, an empty machine name, uid, gid, no groups
        put_opaque(&mut credential, &[0; 20]);
        credential.put_slice(&[0; 8]);
        Ok(Self {
            stream,
            input: vec![0; 256 * 1024],
            taken: 0,
            filled: 0,
            output: Vec::new(),
            xid: 1,
            credential,
        })
    }

    /// The stream, for rude things.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Uses this transaction id for the next call.
    pub fn next_xid(&mut self, xid: u32) {
        self.xid = xid;
    }

    /// Puts a call into the output; [`Client::flush`] sends it. The answer has the xid returned.
    pub fn queue(&mut self, program: (u32, u32), procedure: u32, args: &[&[u8]]) -> u32 {
        let xid = self.xid;
        self.xid = self.xid.wrapping_add(1);
        let len = 24 + self.credential.len() + args.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(len).expect("a call is short");
        for word in [len | 1 << 31, xid, 0, 2, program.0, program.1, procedure] {
            self.output.put_u32(word);
        }
        self.output.put_slice(&self.credential);
        for part in args {
            self.output.put_slice(part);
        }
        xid
    }

    /// Sends what was put into the output.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// The next reply.
    ///
    /// # Errors
    /// If the connection broke or ended.
    pub fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(record) = self.buffered() {
                let mut rest = BytesMut::from(record);
                let xid = rest.get_u32();
                rest.advance(4);
                return Ok(Reply { xid, rest });
            }
            self.fill()?;
        }
    }

    /// The next reply as it came, without its record mark, if it is here.
    pub fn buffered(&mut self) -> Option<&[u8]> {
        let waiting = &self.input[self.taken..self.filled];
        let mark = u32::from_be_bytes(*waiting.first_chunk()?);
        let len = 4 + (mark & !(1 << 31)) as usize;
        if waiting.len() < len {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
            if self.input.len() < len {
                self.input.resize(len, 0);
            }
            return None;
        }
        let start = self.taken + 4;
        self.taken += len;
        Some(&self.input[start..self.taken])
    }

    /// Waits for more from the server.
    ///
    /// # Errors
    /// If the connection broke or ended.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        }
        let read = self.stream.read(&mut self.input[self.filled..])?;
        self.filled += read;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Calls, and waits for the results.
    ///
    /// # Errors
    /// If the connection broke or the call was denied.
    pub fn call(&mut self, program: (u32, u32), procedure: u32, args: &Args) -> io::Result<BytesMut> {
        let xid = self.queue(program, procedure, &[&args.0]);
        self.flush()?;
        let reply = self.reply()?;
        if reply.xid != xid {
            return Err(io::Error::other(format!("the reply has xid {}, not {xid}", reply.xid)));
        }
        reply.results()
    }

    /// Calls NFS; the results begin behind the status.
    ///
    /// # Errors
    /// As [`Client::call`], and if the status is an error.
    pub fn nfs(&mut self, procedure: u32, args: &Args) -> io::Result<BytesMut> {
        let mut results = self.call(NFS, procedure, args)?;
        match results.get_u32() {
            0 => Ok(results),
            status => Err(io::Error::other(format!("procedure {procedure}: status {status}"))),
        }
    }

    /// Mounts a path: its handle.
    ///
    /// # Errors
    /// As [`Client::nfs`].
    pub fn mount(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let mut results = self.call(MOUNT, 1, &Args::new().opaque(path.as_bytes()))?;
        match results.get_u32() {
            0 => Ok(opaque(&mut results)),
            status => Err(io::Error::other(format!("mount: status {status}"))),
        }
    }

    /// Looks up a path from a directory: the handle.
    ///
    /// # Errors
    /// As [`Client::nfs`].
    pub fn walk(&mut self, directory: &[u8], path: &str) -> io::Result<Vec<u8>> {
        let mut handle = directory.to_vec();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let args = Args::new().opaque(&handle).opaque(name.as_bytes());
            handle = opaque(&mut self.nfs(procedure::LOOKUP, &args)?);
        }
        Ok(handle)
    }

    /// Makes something by CREATE (unchecked), MKDIR, SYMLINK or MKNOD, whose arguments behind the place
    /// are `what`: the handle.
    ///
    /// # Errors
    /// As [`Client::nfs`].
    pub fn make(&mut self, procedure: u32, directory: &[u8], name: &str, what: Args) -> io::Result<Vec<u8>> {
        let args = Args::new().opaque(directory).opaque(name.as_bytes()).raw(&what.0);
        let mut results = self.nfs(procedure, &args)?;
        results.advance(4);
        Ok(opaque(&mut results))
    }
}

/// Takes opaque data off the front of results.
pub fn opaque(from: &mut BytesMut) -> Vec<u8> {
    let len = from.get_u32() as usize;
    let data = from[..len].to_vec();
    from.advance(len.next_multiple_of(4));
    data
}

fn put_opaque(out: &mut Vec<u8>, data: &[u8]) {
    out.put_u32(u32::try_from(data.len()).expect("data are short"));
    out.put_slice(data);
    out.put_bytes(0, data.len().next_multiple_of(4) - data.len());
}

/// A server on a port of its own on this host, with threads of its own; it is shut down when dropped.
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    /// The server.
    pub server: Server,
    shutdown: CancellationToken,
    /// Taken when it is shut down.
    running: Option<(Runtime, JoinHandle<()>)>,
}

impl Serving {
    /// Starts serving `fs`.
    ///
    /// # Errors
    /// If the host has no more threads or ports.
    pub fn start(fs: Arc<dyn FileSystem>, limits: Limits) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), fs, limits)
    }

    /// Starts serving `fs` at an address.
    ///
    /// # Errors
    /// If the host has no more threads, or the address cannot be bound.
    pub fn start_at(address: SocketAddr, fs: Arc<dyn FileSystem>, limits: Limits) -> io::Result<Self> {
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let (address, server) = (listener.local_addr()?, Server::new(fs, limits)?);
        let shutdown = CancellationToken::new();
        let serving = server.clone();
        let token = shutdown.clone();
        let task = runtime.spawn(async move { serving.serve(listener, token).await });
        Ok(Self { address, server, shutdown, running: Some((runtime, task)) })
    }

    /// A new client of it.
    ///
    /// # Errors
    /// If it cannot connect.
    pub fn client(&self) -> io::Result<Client> {
        Client::connect(self.address)
    }

    /// Asks it to end, without waiting.
    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some((runtime, task)) = self.running.take() {
            // The task has nothing to tell; that it panicked would show in the test itself.
            let _ = runtime.block_on(task);
        }
    }
}
