//! The TFTP server with clients that nobody here wrote, in private network namespaces.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tesela::tftp::{Config, Content, Contents, OpenError, Opening, Outcome, Server, Transfer, normalise};
use tesela_tests::netns::Namespace;
use tokio_util::sync::CancellationToken;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// An address of the server that no route would choose as source.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// Serves `size/N` (N octets of a pattern), `text` and `file`, and hands on what it hears.
struct Files {
    heard: Mutex<mpsc::Sender<Transfer>>,
    file: Content,
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|n| u8::try_from(n * 7 % 251).expect("under 251")).collect()
}

impl Contents for Files {
    async fn open(&self, opening: Opening<'_>) -> Result<Content, OpenError> {
        let path = normalise(opening.path).map_err(|error| OpenError::Refused(error.to_string()))?;
        match path.split_once('/') {
            Some(("size", size)) => Ok(Bytes::from(pattern(size.parse().expect("a size"))).into()),
            None if path == "text" => Ok(Bytes::from_static(b"one\ntwo\rthree\r\nfour").into()),
            None if path == "file" => Ok(self.file.clone()),
            None if path == "busy" => Err(OpenError::Busy),
            _ => Err(OpenError::NotFound),
        }
    }

    fn finished(&self, transfer: &Transfer) {
        // The test may have ended.
        drop(self.heard.lock().expect("no panic").send(transfer.clone()));
    }
}

struct World {
    /// Dropped first: the server runs in its namespace.
    server: Running,
    heard: Mutex<mpsc::Receiver<Transfer>>,
    client: Namespace,
    namespace: Namespace,
    directory: tempfile::TempDir,
}

struct Running {
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the server panicked");
        }
    }
}

fn world(config: Config) -> World {
    let (namespace, client) = (Namespace::new(), Namespace::new());
    namespace.link("eth0", &format!("{SERVER}/24"), &client, "eth0", "10.9.0.10/24");
    namespace.ip(&format!("addr add {SECOND}/24 dev eth0"));
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("file"), pattern(3_000_000)).expect("a file");
    let file = fs::File::open(directory.path().join("file")).expect("a file");
    let (hear, heard) = mpsc::channel();
    let files = Files { heard: Mutex::new(hear), file: Content::from_file(file).expect("a mapping") };
    let stop = CancellationToken::new();
    let (ready, is_ready) = mpsc::channel();
    let (name, stopped) = (namespace.name().to_owned(), stop.clone());
    let thread = thread::spawn(move || {
        let path = fs::File::open(format!("/run/netns/{name}")).expect("the namespace");
        nix::sched::setns(path, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        // Sessions' sockets are made where the runtime's only thread is: in the namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = Server::bind(config).expect("port 69");
            ready.send(()).expect("the test waits");
            server.run(Arc::new(files), stopped).await.expect("serving");
        });
    });
    is_ready.recv().expect("the server starts");
    World {
        server: Running { stop, thread: Some(thread) },
        heard: Mutex::new(heard),
        client,
        namespace,
        directory,
    }
}

impl World {
    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command: Command = self.client.command(program);
        command.current_dir(self.directory.path()).args(arguments).output().expect("a client")
    }

    /// What a client wrote; curl makes no file of an empty one.
    fn fetched(&self, name: &str) -> Vec<u8> {
        let path = self.directory.path().join(name);
        if !path.exists() {
            return Vec::new();
        }
        let octets = fs::read(&path).expect("what was fetched");
        fs::remove_file(path).expect("what was fetched");
        octets
    }

    fn hears(&self) -> Transfer {
        self.heard.lock().expect("no panic").recv_timeout(Duration::from_secs(30)).expect("a transfer ends")
    }

    /// Loses packets of a namespace's input: one of `of`.
    fn lose(&self, of: u32) {
        let rules = format!(
            "table inet loss {{\nchain input {{\ntype filter hook input priority 0\n\
             meta l4proto udp numgen random mod {of} 0 drop\n}}\n}}\n"
        );
        for namespace in [&self.client, &self.namespace] {
            let path = self.directory.path().join("loss.nft");
            fs::write(&path, &rules).expect("rules");
            let output = namespace.command("nft").arg("-f").arg(&path).output().expect("nft");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// The longest block that a client here asks for.
const LONGEST_BLOCK: u64 = 1468;
/// The most blocks that are on their way.
const WINDOW: u64 = 8;

/// Fetches a file with each client and compares it.
fn fetch_with_all(world: &World, size: usize) {
    let expected = pattern(size);
    let url = format!("tftp://{SERVER}/size/{size}");
    let name = format!("size/{size}");
    let get = format!("get {name} out");
    let server = SERVER.to_string();
    let clients: [(&str, &[&str]); 6] = [
        ("curl", &["-sS", "-o", "out", &url]),
        ("curl", &["-sS", "--tftp-no-options", "-o", "out", &url]),
        ("curl", &["-sS", "--tftp-blksize", "1468", "-o", "out", &url]),
        ("tftp", &["-m", "binary", &server, "-c", "get", &name, "out"]),
        ("atftp", &["--get", "-r", &name, "-l", "out", &server]),
        (
            "atftp",
            &[
                "--option",
                "blksize 1468",
                "--option",
                "windowsize 8",
                "--get",
                "-r",
                &name,
                "-l",
                "out",
                &server,
            ],
        ),
    ];
    for (program, arguments) in clients {
        let output = world.run(program, arguments);
        let got = world.fetched("out");
        assert!(got == expected, "{program} {arguments:?} {get}: {} octets, {output:?}", got.len());
        let transfer = world.hears();
        // curl closes its port on an empty file without an ACK.
        let completed = transfer.outcome == Outcome::Completed || size == 0;
        // On a bad link the last ACK may be lost, and the client gone when the last block comes again.
        let parted = transfer.outcome == Outcome::Unreachable
            && size as u64 - transfer.bytes <= WINDOW * LONGEST_BLOCK;
        assert!(completed || parted, "{program} {arguments:?}: {transfer}");
        assert_eq!(transfer.size, size as u64, "{program} {arguments:?}");
        assert!(parted || transfer.bytes == size as u64, "{program} {arguments:?}: {transfer}");
    }
}

#[test]
fn clients_of_others_fetch_files() {
    let world = world(Config::default());
    for size in [0, 1, 511, 512, 513, 1468 * 8, 700_000] {
        fetch_with_all(&world, size);
    }
}

#[test]
fn clients_of_others_fetch_files_over_a_bad_link() {
    let world = world(Config::default());
    world.lose(50);
    fetch_with_all(&world, 60_000);
}

#[test]
fn block_numbers_roll_over_with_curl() {
    let world = world(Config::default());
    let output =
        world.run("curl", &["-sS", "--tftp-blksize", "32", "-o", "out", &format!("tftp://{SERVER}/file")]);
    assert!(world.fetched("out") == pattern(3_000_000), "{output:?}");
}

#[test]
fn netascii_is_converted_back_by_the_client() {
    let world = world(Config::default());
    let output = world.run("tftp", &["-m", "ascii", &SERVER.to_string(), "-c", "get", "text", "out"]);
    // The client turns CR LF into LF, and CR NUL into CR.
    assert_eq!(world.fetched("out"), b"one\ntwo\rthree\r\nfour", "{output:?}");
    assert_eq!(world.hears().size, 23);
}

#[test]
fn what_is_not_there_or_not_allowed() {
    let world = world(Config::default());
    let curl = |path: &str| {
        world.run("curl", &["-sS", "--path-as-is", "-o", "out", &format!("tftp://{SERVER}/{path}")])
    };
    assert_eq!(curl("nothing").status.code(), Some(68), "file not found");
    assert_eq!(curl("../../etc/passwd").status.code(), Some(69), "access violation");
    fs::write(world.directory.path().join("up"), "x").expect("a file");
    let put = world.run("curl", &["-sS", "-T", "up", &format!("tftp://{SERVER}/up")]);
    assert_eq!(put.status.code(), Some(69), "access violation");
}

fn client_socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.9.0.10:2070").expect("the client's port");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (count, from) = socket.recv_from(&mut buffer).expect("an answer");
    (buffer[..count].to_vec(), from)
}

#[test]
fn a_rom_probes_the_size_and_asks_again_from_the_same_port() {
    let world = world(Config::default());
    world.client.run(|| {
        let rom = client_socket();
        for _ in 0..5 {
            rom.send_to(b"\0\x01size/5000\0octet\0tsize\x000\0", (SERVER, 69)).expect("sent");
            let (oack, from) = receive(&rom);
            assert_eq!(oack, b"\0\x06tsize\x005000\0");
            assert_ne!(from.port(), 69);
            rom.send_to(b"\0\x05\0\x08aborted\0", from).expect("sent");
            rom.send_to(b"\0\x01size/5000\0octet\0blksize\x001456\0", (SERVER, 69)).expect("sent");
            let (oack, again) = receive(&rom);
            assert_eq!(oack, b"\0\x06blksize\x001456\0");
            assert_ne!(again, from, "a transfer of its own");
            rom.send_to(b"\0\x05\0\0no more\0", again).expect("sent");
        }
    });
    for _ in 0..10 {
        assert!(matches!(world.hears().outcome, Outcome::Aborted { .. }));
    }
}

#[test]
fn a_new_request_from_the_port_of_a_running_transfer_replaces_it_once_it_is_acknowledged() {
    let world = world(Config::default());
    world.client.run(|| {
        let rom = client_socket();
        rom.send_to(b"\0\x01size/5000\0octet\0", (SERVER, 69)).expect("sent");
        let (first, old) = receive(&rom);
        assert_eq!(&first[..4], b"\0\x03\0\x01");
        rom.send_to(b"\0\x04\0\x01", old).expect("sent");
        assert_eq!(&receive(&rom).0[..4], b"\0\x03\0\x02");
        // The machine was reset.
        rom.send_to(b"\0\x01size/10\0octet\0", (SERVER, 69)).expect("sent");
        let (data, new) = loop {
            let (data, from) = receive(&rom);
            if from != old {
                break (data, from);
            }
        };
        assert_eq!(data, [&b"\0\x03\0\x01"[..], &pattern(10)].concat());
        rom.send_to(b"\0\x04\0\x01", new).expect("sent");
    });
    let mut outcomes = [world.hears().outcome, world.hears().outcome];
    outcomes.sort_by_key(|outcome| *outcome != Outcome::Completed);
    assert_eq!(outcomes, [Outcome::Completed, Outcome::Superseded]);
}

#[test]
fn the_answer_leaves_from_the_address_that_was_asked() {
    let world = world(Config::default());
    world.client.run(|| {
        let rom = client_socket();
        for address in [SERVER, SECOND] {
            rom.send_to(b"\0\x01nothing\0octet\0", (address, 69)).expect("sent");
            let (error, from) = receive(&rom);
            assert_eq!(&error[..4], b"\0\x05\0\x01");
            assert_eq!(from.ip(), address);
            rom.send_to(b"\0\x01size/1\0octet\0", (address, 69)).expect("sent");
            let (data, from) = receive(&rom);
            assert_eq!((data.len(), from.ip()), (5, address.into()));
            rom.send_to(b"\0\x04\0\x01", from).expect("sent");
            assert_eq!(world.hears().outcome, Outcome::Completed);
        }
    });
}

#[test]
fn a_closed_port_ends_the_transfer() {
    let world = world(Config::default());
    world.client.run(|| {
        let rom = client_socket();
        rom.send_to(b"\0\x01size/5000\0octet\0", (SERVER, 69)).expect("sent");
        let (_, from) = receive(&rom);
        rom.send_to(b"\0\x04\0\x01", from).expect("sent");
    });
    assert_eq!(world.hears().outcome, Outcome::Unreachable);
}

#[test]
fn stopping_ends_what_runs() {
    let world = world(Config { grace: Duration::ZERO, ..Config::default() });
    world.client.run(|| {
        let rom = client_socket();
        rom.send_to(b"\0\x01size/5000\0octet\0tsize\x000\0", (SERVER, 69)).expect("sent");
        let (_, from) = receive(&rom);
        world.server.stop.cancel();
        loop {
            let (packet, sender) = receive(&rom);
            assert_eq!(sender, from);
            if packet[1] == 5 {
                break;
            }
        }
    });
    assert_eq!(world.hears().outcome, Outcome::Stopped);
}

#[test]
fn too_many_sessions_go_unanswered_until_one_ends() {
    let world = world(Config { sessions_per_client: 1, ..Config::default() });
    world.client.run(|| {
        let (rom, other) = (client_socket(), UdpSocket::bind("10.9.0.10:2071").expect("a port"));
        rom.send_to(b"\0\x01size/9\0octet\0", (SERVER, 69)).expect("sent");
        let (_, from) = receive(&rom);
        other.send_to(b"\0\x01size/9\0octet\0", (SERVER, 69)).expect("sent");
        // A request behind it that is answered shows that it was passed over.
        rom.send_to(b"\0\x02w\0octet\0", (SERVER, 69)).expect("sent");
        while receive(&rom).0[1] != 5 {}
        other.set_nonblocking(true).expect("a flag");
        assert!(other.recv(&mut [0; 9]).is_err());
        rom.send_to(b"\0\x04\0\x01", from).expect("sent");
        assert_eq!(world.hears().outcome, Outcome::Completed);
        other.set_nonblocking(false).expect("a flag");
        other.send_to(b"\0\x01size/9\0octet\0", (SERVER, 69)).expect("sent");
        assert_eq!(receive(&other).0.len(), 13);
    });
}
