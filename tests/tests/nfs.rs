//! The NFS server over real sockets: what a connection does, and clients that nobody here wrote.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use bytes::{Buf, BytesMut};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use tesela::nfs::fs::{
    Attr, Call, Caller, CreateHow, Handle, Made, Make, Page, Result as FsResult, SetAttr, Space, Stable,
    Time, Wcc, Written,
};
use tesela::nfs::memory::Memory;
use tesela::nfs::{FileSystem, Limits, Server};
use tesela_tests::nfs::{Args, Client, MOUNT, NFS, Serving, opaque, procedure};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

fn memory(blocking: bool) -> Arc<Memory> {
    Arc::new(Memory::new(1 << 30, blocking))
}

fn serving(blocking: bool) -> Serving {
    Serving::start(memory(blocking), Limits::default()).unwrap()
}

/// Runs the test with calls that are carried out at once, and with ones that go through the pool.
fn both(test: impl Fn(&Serving)) {
    test(&serving(false));
    test(&serving(true));
}

fn unchecked() -> Args {
    Args::new().u32(0).mode(Some(0o644))
}

#[test]
fn all_22_procedures_answer() {
    both(|serving| {
        let client = &mut serving.client().unwrap();
        let root = client.mount("/").unwrap();
        assert!(client.call(NFS, 0, &Args::new()).unwrap().is_empty());
        let file = client.make(procedure::CREATE, &root, "file", unchecked()).unwrap();
        let directory = client.make(procedure::MKDIR, &root, "directory", Args::new().mode(None)).unwrap();
        let target = Args::new().mode(None).opaque(b"file");
        let symlink = client.make(procedure::SYMLINK, &root, "symlink", target).unwrap();
        let device = Args::new().u32(4).mode(Some(0o620)).u32(5).u32(1);
        let console = client.make(procedure::MKNOD, &root, "console", device).unwrap();
        let mut attr = client.nfs(procedure::GETATTR, &Args::new().opaque(&console)).unwrap();
        assert_eq!((attr.get_u32(), attr.get_u32()), (4, 0o620), "a character device of this mode");
        let handle = || Args::new().opaque(&file);
        for (procedure, args) in [
            (procedure::GETATTR, handle()),
            (procedure::SETATTR, handle().mode(Some(0o600)).u32(0)),
            (procedure::LOOKUP, Args::new().opaque(&root).opaque(b"file")),
            (procedure::ACCESS, handle().u32(0x3f)),
            (procedure::READLINK, Args::new().opaque(&symlink)),
            (procedure::WRITE, handle().u64(0).u32(5).u32(0).opaque(b"hello")),
            (procedure::READ, handle().u64(0).u32(100)),
            (procedure::COMMIT, handle().u64(0).u32(0)),
            (procedure::LINK, handle().opaque(&directory).opaque(b"hard")),
            (procedure::READDIR, Args::new().opaque(&root).u64(0).u64(0).u32(4096)),
            (procedure::READDIRPLUS, Args::new().opaque(&root).u64(0).u64(0).u32(4096).u32(4096)),
            (procedure::FSSTAT, Args::new().opaque(&root)),
            (procedure::FSINFO, Args::new().opaque(&root)),
            (procedure::PATHCONF, Args::new().opaque(&root)),
            (
                procedure::RENAME,
                Args::new().opaque(&directory).opaque(b"hard").opaque(&root).opaque(b"moved"),
            ),
            (procedure::REMOVE, Args::new().opaque(&root).opaque(b"moved")),
            (procedure::RMDIR, Args::new().opaque(&root).opaque(b"directory")),
        ] {
            client.nfs(procedure, &args).unwrap();
        }
        let counted: u64 = serving.server.counters().procedures().map(|(_, calls, _)| calls).sum();
        assert_eq!(counted, 23);
        assert!(serving.server.counters().procedures().all(|(_, calls, errors)| calls > 0 && errors == 0));
    });
}

#[test]
fn a_failure_carries_the_attributes_of_its_directory() {
    both(|serving| {
        let client = &mut serving.client().unwrap();
        let root = client.mount("/").unwrap();
        let place = Args::new().opaque(&root).opaque(b"missing");
        let mut results = client.call(NFS, procedure::LOOKUP, &place).unwrap();
        assert_eq!(
            (results.get_u32(), results.get_u32(), results.get_u32()),
            (2, 1, 2),
            "NOENT, a directory"
        );
        let mut results = client.call(NFS, procedure::REMOVE, &place).unwrap();
        assert_eq!(
            (results.get_u32(), results.get_u32(), results.get_u32()),
            (2, 0, 1),
            "nothing before, but after"
        );
        let dot = Args::new().opaque(&root).opaque(b"..");
        let mut results = client.call(NFS, procedure::RMDIR, &dot).unwrap();
        assert_eq!(results.get_u32(), 17);
    });
}

#[test]
fn reads_and_writes_of_all_sizes_come_back() {
    both(|serving| {
        let client = &mut serving.client().unwrap();
        let root = client.mount("/").unwrap();
        let file = client.make(procedure::CREATE, &root, "file", unchecked()).unwrap();
        for size in [0usize, 1, 2, 3, 4, 2047, 2048, 2049, 8192, 131_073, 1 << 20] {
            let data: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let count = u32::try_from(size).unwrap();
            client
                .nfs(procedure::WRITE, &Args::new().opaque(&file).u64(0).u32(count).u32(2).opaque(&data))
                .unwrap();
            let mut results =
                client.nfs(procedure::READ, &Args::new().opaque(&file).u64(0).u32(count)).unwrap();
            results.advance(4 + 84 + 4 + 4);
            assert_eq!(opaque(&mut results), data, "{size} octets");
            assert!(results.is_empty());
        }
    });
}

#[test]
fn a_directory_of_3000_entries_is_read_whole_and_once() {
    both(|serving| {
        let client = &mut serving.client().unwrap();
        let root = client.mount("/").unwrap();
        for number in 0..3000 {
            client.make(procedure::CREATE, &root, &format!("file-{number}"), unchecked()).unwrap();
        }
        for plus in [false, true] {
            let mut names = Vec::new();
            let mut cookie = 0;
            loop {
                let args = Args::new().opaque(&root).u64(cookie).u64(0).u32(8192);
                let mut page = if plus {
                    client.nfs(procedure::READDIRPLUS, &args.u32(8192)).unwrap()
                } else {
                    client.nfs(procedure::READDIR, &args).unwrap()
                };
                assert!(page.len() <= 8192);
                page.advance(4 + 84 + 8);
                while page.get_u32() == 1 {
                    page.advance(8);
                    names.push(opaque(&mut page));
                    cookie = page.get_u64();
                    if plus {
                        page.advance(4 + 84 + 4);
                        opaque(&mut page);
                    }
                }
                if page.get_u32() == 1 {
                    break;
                }
            }
            assert_eq!(names.len(), 3002);
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 3002);
        }
        let mut results =
            client.call(NFS, procedure::READDIR, &Args::new().opaque(&root).u64(0).u64(0).u32(100)).unwrap();
        assert_eq!(results.get_u32(), 10_005, "TOOSMALL");
    });
}

#[test]
fn calls_are_answered_however_they_are_cut() {
    both(|serving| {
        let client = &mut serving.client().unwrap();
        let root = client.mount("/").unwrap();
        let args = Args::new().opaque(&root);
        // In single octets, and all at once.
        let mut call = Vec::new();
        let wire = wire_call(7, NFS, procedure::GETATTR, &args.0);
        call.extend_from_slice(&(0x10u32.to_be_bytes()));
        call.extend_from_slice(&wire[4..20]);
        let rest = u32::try_from(wire.len() - 20).unwrap() | 1 << 31;
        call.extend_from_slice(&rest.to_be_bytes());
        call.extend_from_slice(&wire[20..]);
        for octet in &call {
            client.stream().write_all(&[*octet]).unwrap();
        }
        assert_eq!(client.reply().unwrap().xid, 7);
        let burst: Vec<u8> =
            (0..500).flat_map(|xid| wire_call(xid, NFS, procedure::GETATTR, &args.0)).collect();
        client.stream().write_all(&burst).unwrap();
        let mut xids: Vec<u32> = (0..500).map(|_| client.reply().unwrap().xid).collect();
        xids.sort_unstable();
        assert_eq!(xids, (0..500).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_not_served_is_denied_and_the_connection_goes_on() {
    let serving = serving(false);
    let client = &mut serving.client().unwrap();
    let mut denied = |program, procedure| -> BytesMut {
        client.next_xid(5);
        client.queue(program, procedure, &[]);
        client.flush().unwrap();
        let mut rest = client.reply().unwrap().rest;
        rest.advance(12);
        rest
    };
    assert_eq!(denied((100_003, 2), 0)[..], [0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3], "PROG_MISMATCH");
    assert_eq!(denied((100_005, 1), 0)[..], [0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3], "PROG_MISMATCH");
    assert_eq!(denied((100_227, 3), 0)[..], [0, 0, 0, 1], "PROG_UNAVAIL");
    assert_eq!(denied(NFS, 22)[..], [0, 0, 0, 3], "PROC_UNAVAIL");
    assert_eq!(denied(MOUNT, 6)[..], [0, 0, 0, 3], "PROC_UNAVAIL");
    assert_eq!(denied(NFS, 1)[..], [0, 0, 0, 4], "GARBAGE_ARGS");
    // AUTH_NONE is nobody; RPCSEC_GSS is refused.
    client.stream().write_all(&wire_call_auth(9, 6)).unwrap();
    assert_eq!(client.reply().unwrap().rest[..], [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1], "AUTH_BADCRED");
    assert!(client.mount("/").is_ok());
}

#[test]
fn a_stream_that_makes_no_sense_is_closed() {
    let serving = serving(false);
    for nonsense in
        [&[0x7f, 0xff, 0xff, 0xff][..], &[0x80, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 1], b"GET / HTTP/1.1\r\n\r\n"]
    {
        let client = &mut serving.client().unwrap();
        client.stream().write_all(nonsense).unwrap();
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ = client.stream().read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    assert!(serving.client().unwrap().mount("/").is_ok());
}

#[test]
fn a_call_sent_again_over_another_connection_gets_the_same_reply() {
    both(|serving| {
        let first = &mut serving.client().unwrap();
        let root = first.mount("/").unwrap();
        first.make(procedure::CREATE, &root, "file", unchecked()).unwrap();
        let remove = Args::new().opaque(&root).opaque(b"file");
        first.next_xid(77);
        let reply = first.call(NFS, procedure::REMOVE, &remove).unwrap();
        let second = &mut serving.client().unwrap();
        second.next_xid(77);
        assert_eq!(second.call(NFS, procedure::REMOVE, &remove).unwrap(), reply);
        // Another transaction is another call.
        assert_eq!(second.call(NFS, procedure::REMOVE, &remove).unwrap().get_u32(), 2);
    });
}

#[test]
fn a_call_sent_again_while_it_is_in_progress_is_done_once_and_answered_everywhere() {
    let (gate, opened) = Gate::new();
    let serving = Serving::start(gate, Limits::default()).unwrap();
    let first = &mut serving.client().unwrap();
    let root = first.mount("/").unwrap();
    let directory = [&Args::new().opaque(&root).opaque(b"made").mode(None).0[..]];
    first.next_xid(5);
    first.queue(NFS, procedure::MKDIR, &directory);
    first.flush().unwrap();
    opened.entered.recv().unwrap();
    let second = &mut serving.client().unwrap();
    second.next_xid(5);
    second.queue(NFS, procedure::MKDIR, &directory);
    // A quick call behind it is answered meanwhile, which shows that the one before it has been taken.
    let quick = second.queue(NFS, procedure::GETATTR, &[&Args::new().opaque(&root).0]);
    second.flush().unwrap();
    assert_eq!(second.reply().unwrap().xid, quick);
    // The first connection breaks; what it began is finished all the same.
    first.stream().shutdown(Shutdown::Both).unwrap();
    opened.go.send(()).unwrap();
    let reply = second.reply().unwrap();
    assert_eq!(reply.xid, 5);
    assert_eq!(reply.results().unwrap().get_u32(), 0, "made, not there already");
}

#[test]
fn calls_at_the_disk_hold_up_neither_their_own_connection_nor_others() {
    let (gate, opened) = Gate::new();
    let serving = Serving::start(gate, Limits { threads: 1, ..Limits::default() }).unwrap();
    let mut clients: Vec<Client> = (0..5).map(|_| serving.client().unwrap()).collect();
    let root = clients[0].mount("/").unwrap();
    // One is carried out where it was read, one in the pool's only thread, the others wait for that.
    let made: Vec<u32> = clients
        .iter_mut()
        .zip(["a", "b", "c", "d", "e"])
        .map(|(client, name)| {
            let args = Args::new().opaque(&root).opaque(name.as_bytes()).mode(None);
            let xid = client.queue(NFS, procedure::MKDIR, &[&args.0]);
            client.flush().unwrap();
            xid
        })
        .collect();
    opened.entered.recv().unwrap();
    for client in &mut clients {
        client.nfs(procedure::GETATTR, &Args::new().opaque(&root)).unwrap();
    }
    for _ in &made {
        opened.go.send(()).unwrap();
    }
    for (client, xid) in clients.iter_mut().zip(made) {
        let reply = client.reply().unwrap();
        assert_eq!(reply.xid, xid);
        assert_eq!(reply.results().unwrap().get_u32(), 0);
    }
}

#[test]
fn calls_that_came_together_are_all_answered_however_long_the_replies() {
    both(|serving| {
        let client = &mut serving.client().unwrap();
        // A call that is left lying would be answered only when the server next looks about, after 15 s.
        client.stream().set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let root = client.mount("/").unwrap();
        let file = client.make(procedure::CREATE, &root, "file", unchecked()).unwrap();
        let data = vec![1; 64 << 10];
        let write = Args::new().opaque(&file).u64(0).u32(64 << 10).u32(2).opaque(&data);
        client.nfs(procedure::WRITE, &write).unwrap();
        let read = Args::new().opaque(&file).u64(0).u32(64 << 10);
        for _ in 0..3 {
            for _ in 0..150 {
                client.queue(NFS, procedure::READ, &[&read.0]);
            }
            client.flush().unwrap();
            for _ in 0..150 {
                assert_eq!(client.reply().unwrap().rest.len(), 16 + 4 + 4 + 84 + 4 + 4 + 4 + (64 << 10));
            }
        }
    });
}

#[test]
fn a_shutdown_answers_what_is_in_progress() {
    let (gate, opened) = Gate::new();
    let serving = Serving::start(gate, Limits::default()).unwrap();
    let client = &mut serving.client().unwrap();
    let root = client.mount("/").unwrap();
    let xid = client.queue(NFS, procedure::MKDIR, &[&Args::new().opaque(&root).opaque(b"made").mode(None).0]);
    client.flush().unwrap();
    opened.entered.recv().unwrap();
    serving.begin_shutdown();
    opened.go.send(()).unwrap();
    assert_eq!(client.reply().unwrap().xid, xid);
    drop(serving);
    assert!(client.reply().is_err());
}

#[test]
fn a_panic_of_the_file_system_costs_its_call_only() {
    let (gate, opened) = Gate::new();
    let serving = Serving::start(gate, Limits::default()).unwrap();
    let client = &mut serving.client().unwrap();
    let root = client.mount("/").unwrap();
    drop(opened);
    client.queue(NFS, procedure::MKDIR, &[&Args::new().opaque(&root).opaque(b"made").mode(None).0]);
    client.flush().unwrap();
    assert_eq!(client.reply().unwrap().rest[12..], [0, 0, 0, 5], "SYSTEM_ERR");
    assert!(client.nfs(procedure::GETATTR, &Args::new().opaque(&root)).is_ok());
}

#[test]
fn a_port_that_any_user_can_have_is_denied() {
    let serving = serving(false);
    let root = serving.client().unwrap().mount("/").unwrap();
    let mut user = Client::over(std::net::TcpStream::connect(serving.address).unwrap()).unwrap();
    for (program, procedure, args) in
        [(MOUNT, 1, Args::new().opaque(b"/")), (NFS, procedure::GETATTR, Args::new().opaque(&root))]
    {
        user.queue(program, procedure, &[&args.0]);
        user.flush().unwrap();
        // MSG_DENIED, AUTH_ERROR, AUTH_TOOWEAK
        assert_eq!(user.reply().unwrap().rest[..], [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5]);
    }
}

#[test]
fn connections_are_bounded_for_each_client() {
    let limits = Limits { per_client: 2, ..Limits::default() };
    let serving = Serving::start(memory(false), limits).unwrap();
    let (mut first, mut second) = (serving.client().unwrap(), serving.client().unwrap());
    assert!(first.mount("/").is_ok() && second.mount("/").is_ok());
    assert!(serving.client().unwrap().mount("/").is_err());
    drop(first);
    // The place is free as soon as the server has seen the end of the first one.
    while serving.client().unwrap().mount("/").is_err() {}
    assert!(second.mount("/").is_ok());
}

/// A client at another address of this machine's.
fn from(address: &str, serving: &Serving) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&serving.address.into()).unwrap();
    Client::over(socket.into()).unwrap()
}

#[test]
fn a_client_that_takes_no_replies_takes_no_memory_and_holds_up_nobody() {
    let limits = Limits { memory: 4 << 20, ..Limits::default() };
    let serving = Serving::start(memory(true), limits).unwrap();
    let lazy = &mut serving.client().unwrap();
    let root = lazy.mount("/").unwrap();
    let file = lazy.make(procedure::CREATE, &root, "file", unchecked()).unwrap();
    let data = vec![1; 1 << 20];
    let write = Args::new().opaque(&file).u64(0).u32(1 << 20).u32(2).opaque(&data);
    lazy.nfs(procedure::WRITE, &write).unwrap();
    let read = Args::new().opaque(&file).u64(0).u32(1 << 20);
    for _ in 0..100 {
        lazy.queue(NFS, procedure::READ, &[&read.0]);
    }
    lazy.flush().unwrap();
    // Small calls of others need no memory of the common bound, and their large ones still find some.
    let other = &mut from("127.0.0.2:600", &serving);
    let results = other.nfs(procedure::READ, &Args::new().opaque(&file).u64(0).u32(1 << 20)).unwrap();
    assert!(results.len() > 1 << 20);
    for _ in 0..100 {
        other.nfs(procedure::GETATTR, &Args::new().opaque(&root)).unwrap();
    }
    for _ in 0..100 {
        assert_eq!(lazy.reply().unwrap().rest.len(), 16 + 4 + 4 + 84 + 4 + 4 + 4 + (1 << 20));
    }
}

#[test]
fn libnfs_lists_copies_and_reads() {
    both(|serving| {
        let port = serving.address.port();
        let url = |path: &str| format!("nfs://127.0.0.1/{path}?nfsport={port}&mountport={port}&version=3");
        let client = &mut serving.client().unwrap();
        let root = client.mount("/").unwrap();
        client.make(procedure::MKDIR, &root, "directory", Args::new().mode(Some(0o755))).unwrap();
        let local = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(local.path().join("up"), &data).unwrap();
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(
                output.status.success(),
                "{program} {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            output.stdout
        };
        let up = local.path().join("up");
        run("nfs-cp", &[up.to_str().unwrap(), &url("directory/copy")]);
        assert_eq!(run("nfs-cat", &[&url("directory/copy")]), data);
        let down = local.path().join("down");
        run("nfs-cp", &[&url("directory/copy"), down.to_str().unwrap()]);
        assert!(std::fs::read(down).unwrap() == data);
        let list = String::from_utf8(run("nfs-ls", &["-R", &url("")])).unwrap();
        assert!(list.contains("copy") && list.contains("12000000"), "{list}");
    });
}

#[test]
fn the_portmapper_answers_over_tcp_and_udp() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = Server::portmapper(SocketAddr::from(([127, 0, 0, 1], 2049))).unwrap();
    let (listener, socket) = runtime.block_on(async {
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap())
    });
    let (stream, datagrams) = (listener.local_addr().unwrap(), socket.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let (over_tcp, over_udp, token, other) = (server.clone(), server, shutdown.clone(), shutdown.clone());
    let serving = runtime.spawn(async move {
        tokio::join!(over_tcp.serve(listener, token), over_udp.serve_datagrams(socket, other));
    });
    let nfs = Args::new().u32(100_003).u32(3).u32(6).u32(0);
    let mut answer = Client::connect(stream).unwrap().call((100_000, 2), 3, &nfs).unwrap();
    assert_eq!(answer.get_u32(), 2049);
    let asker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    asker.send_to(b"no call", datagrams).unwrap();
    asker.send_to(&wire_call(3, (100_000, 2), 3, &nfs.0)[4..], datagrams).unwrap();
    let mut reply = [0; 100];
    let (len, _) = asker.recv_from(&mut reply).unwrap();
    assert_eq!(reply[..len], *[&[0, 0, 0, 3, 0, 0, 0, 1][..], &[0; 16], &[0, 0, 8, 1]].concat());
    shutdown.cancel();
    runtime.block_on(serving).unwrap();
}

/// A call with its record mark; the credential is AUTH_NONE.
fn wire_call(xid: u32, program: (u32, u32), procedure: u32, args: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + args.len()).unwrap() | 1 << 31;
    let header = [len, xid, 0, 2, program.0, program.1, procedure, 0, 0, 0, 0];
    let mut call: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
    call.extend_from_slice(args);
    call
}

/// NULL with a credential of this flavour.
fn wire_call_auth(xid: u32, flavour: u32) -> Vec<u8> {
    let mut call = wire_call(xid, NFS, 0, &[]);
    call[28..32].copy_from_slice(&flavour.to_be_bytes());
    call
}

/// A file system whose MKDIR says that it was entered, and waits until it may go on; it panics if
/// nobody will ever say so.
struct Gate {
    memory: Memory,
    entered: mpsc::SyncSender<()>,
    go: std::sync::Mutex<mpsc::Receiver<()>>,
}

struct Opener {
    entered: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

impl Gate {
    fn new() -> (Arc<Self>, Opener) {
        let (entered, seen) = mpsc::sync_channel(8);
        let (go, going) = mpsc::channel();
        let gate = Self { memory: Memory::new(1 << 20, false), entered, go: std::sync::Mutex::new(going) };
        (Arc::new(gate), Opener { entered: seen, go })
    }
}

impl FileSystem for Gate {
    fn mount(&self, who: &Caller, path: &[u8]) -> FsResult<Handle> {
        assert_eq!(who.address, IpAddr::from([127, 0, 0, 1]));
        self.memory.mount(who, path)
    }
    fn exports(&self, who: &Caller) -> Vec<Vec<u8>> {
        self.memory.exports(who)
    }
    fn may_block(&self, call: Call) -> bool {
        call == Call::Change
    }
    fn make(
        &self,
        who: &Caller,
        directory: &Handle,
        name: &[u8],
        what: Make<'_>,
        set: &SetAttr,
    ) -> FsResult<Made> {
        // Without an opener this fails, which is the panic that is wanted.
        let go = self.go.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.entered.send(()).unwrap();
        go.recv().unwrap();
        self.memory.make(who, directory, name, what, set)
    }
    fn getattr(&self, who: &Caller, object: &Handle) -> FsResult<Attr> {
        self.memory.getattr(who, object)
    }
    fn setattr(&self, who: &Caller, object: &Handle, set: &SetAttr, guard: Option<Time>) -> FsResult<Wcc> {
        self.memory.setattr(who, object, set, guard)
    }
    fn lookup(&self, who: &Caller, directory: &Handle, name: &[u8]) -> FsResult<(Handle, Attr)> {
        self.memory.lookup(who, directory, name)
    }
    fn access(&self, who: &Caller, object: &Handle, mask: u32) -> FsResult<(u32, Attr)> {
        self.memory.access(who, object, mask)
    }
    fn readlink(&self, who: &Caller, link: &Handle) -> FsResult<(Vec<u8>, Attr)> {
        self.memory.readlink(who, link)
    }
    fn read(&self, who: &Caller, file: &Handle, offset: u64, count: u32) -> FsResult<tesela::nfs::fs::Read> {
        self.memory.read(who, file, offset, count)
    }
    fn write(
        &self,
        who: &Caller,
        file: &Handle,
        offset: u64,
        data: &[u8],
        stable: Stable,
    ) -> FsResult<Written> {
        self.memory.write(who, file, offset, data, stable)
    }
    fn commit(&self, who: &Caller, file: &Handle) -> FsResult<Wcc> {
        self.memory.commit(who, file)
    }
    fn write_verifier(&self) -> [u8; 8] {
        self.memory.write_verifier()
    }
    fn create(&self, who: &Caller, directory: &Handle, name: &[u8], how: CreateHow) -> FsResult<Made> {
        self.memory.create(who, directory, name, how)
    }
    fn link(&self, who: &Caller, object: &Handle, directory: &Handle, name: &[u8]) -> FsResult<(Attr, Wcc)> {
        self.memory.link(who, object, directory, name)
    }
    fn remove(&self, who: &Caller, directory: &Handle, name: &[u8]) -> FsResult<Wcc> {
        self.memory.remove(who, directory, name)
    }
    fn rmdir(&self, who: &Caller, directory: &Handle, name: &[u8]) -> FsResult<Wcc> {
        self.memory.rmdir(who, directory, name)
    }
    fn rename(&self, who: &Caller, from: (&Handle, &[u8]), to: (&Handle, &[u8])) -> FsResult<(Wcc, Wcc)> {
        self.memory.rename(who, from, to)
    }
    fn readdir(
        &self,
        who: &Caller,
        directory: &Handle,
        cookie: u64,
        verifier: [u8; 8],
        max_bytes: usize,
        plus: bool,
    ) -> FsResult<Page> {
        self.memory.readdir(who, directory, cookie, verifier, max_bytes, plus)
    }
    fn space(&self, who: &Caller, object: &Handle) -> FsResult<Space> {
        self.memory.space(who, object)
    }
}
