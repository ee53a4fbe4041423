//! Many nodes that boot at once against one master: for each DHCP, its loader by TFTP, kernel and
//! initramfs by HTTP, and the NFS calls of a boot that was recorded (tests/data/boot.calls).
//!
//! `bench-fleet [NODES]` prints a table; 500 nodes unless told otherwise.
#![expect(clippy::unwrap_used, reason = "what fails here fails the benchmark")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use bytes::Buf as _;
use socket2::{Domain, Socket, Type};
use tesela_tests::calls::RecordedCall;
use tesela_tests::lab::tesela;
use tesela_tests::netns::Namespace;
use tesela_tests::nfs::procedure::LOOKUP;
use tesela_tests::nfs::{Args, Client, NFS, opaque};
use tesela_tests::ready::start_service;
use tesela_tests::{Ended, cpu_time};

const STATE: &str = "/var/tmp/tesela-bench/fleet";
const MASTER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const CALLS: &str = include_str!("../../data/boot.calls");
/// So many of a thousand calls may end in another way than in the recording: packages are a little newer.
const OTHERS: usize = 20;
/// The network card, as iPXE names the one of a virtual machine.
const CARD: &str = "01-1a-f4-10-00";
/// A request without an answer is sent again after this, so many times.
const AGAIN: Duration = Duration::from_secs(2);
const TRIES: usize = 30;
/// A connection without an octet for so long is given up.
const SILENCE: Duration = Duration::from_secs(120);

fn main() {
    let nodes: u16 = std::env::args().nth(1).map_or(500, |word| word.parse().unwrap());
    let state = Path::new(STATE);
    if state.join("state/nodes").exists() {
        fs::remove_dir_all(state.join("state/nodes")).unwrap();
    }
    fs::create_dir_all(state).unwrap();
    fs::write(state.join("cluster.yaml"), cluster(nodes)).unwrap();
    assert!(master(Command::new(tesela())).args(["image", "build"]).status().unwrap().success());

    let (inside, outside) = (Namespace::new(), Namespace::new());
    inside.link("tesela0", "10.78.0.1/16", &outside, "nodes", "");
    for node in 0..nodes {
        outside.ip(&format!("addr add {}/16 dev nodes", address(node)));
    }
    let mut serve = master(inside.command(tesela().to_str().unwrap()));
    let serve = Ended(start_service(serve.arg("serve"), state));
    let pid = i32::try_from(serve.0.id()).unwrap();
    let before = cpu_time(pid);
    let begun = Instant::now();
    let calls: Vec<RecordedCall> =
        CALLS.lines().map(|line| RecordedCall::parse(line).expect("boot.calls is well-formed")).collect();
    let boots = outside.run(|| fleet(nodes, &calls));
    let all = begun.elapsed();
    print(&boots, calls.len(), all, cpu_time(pid) - before, peak_memory(&serve.0));
}

fn cluster(nodes: u16) -> String {
    let mut text = String::from(
        "cluster: fleet\nmaster: {interface: tesela0, address: 10.78.0.1/16}\n\
         images: {base: {from: \"debian:bookworm\", packages: [openssh-server]}}\n\
         profiles: {node: {image: base}}\nnodes:\n",
    );
    for node in 0..nodes {
        let mac = mac(node).map(|octet| format!("{octet:02x}")).join(":");
        writeln!(text, "  n{node}: {{mac: \"{mac}\", address: {}, profile: node}}", address(node)).unwrap();
    }
    text
}

fn mac(node: u16) -> [u8; 6] {
    let [high, low] = node.to_be_bytes();
    [0x52, 0x54, 0, 0x7e, high, low]
}

fn address(node: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 78, 1, 1)) + u32::from(node))
}

/// `tesela` with this benchmark's own files.
fn master(mut command: Command) -> Command {
    let state = Path::new(STATE);
    command.arg("--config").arg(state.join("cluster.yaml")).arg("--state").arg(state.join("state"));
    command.arg("--socket").arg(state.join("tesela.sock")).stdin(Stdio::null());
    command
}

/// The most memory that it ever had resident, in KiB.
fn peak_memory(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "a table for people")]
fn print(boots: &[io::Result<Boot>], calls: usize, all: Duration, cpu: Duration, memory: u64) {
    let mut times: Vec<Duration> = boots.iter().flatten().map(|boot| boot.taken).collect();
    times.sort();
    let others = boots.iter().flatten().map(|boot| boot.others).max().unwrap_or_default();
    for (node, boot) in boots.iter().enumerate() {
        if let Err(error) = boot {
            eprintln!("n{node}: {error}");
        }
    }
    let seconds = |time: Option<&Duration>| time.map_or(f64::NAN, Duration::as_secs_f64);
    println!("| {} nodes at once | |\n|---|---|", boots.len());
    println!("| booted | {} |", times.len());
    println!("| all done, s | {:.1} |", all.as_secs_f64());
    println!(
        "| a node, median / slowest, s | {:.1} / {:.1} |",
        seconds(times.get(times.len() / 2)),
        seconds(times.last())
    );
    println!("| NFS calls a node | {calls} |");
    println!("| of them with another status than recorded, at most | {others} |");
    println!("| master: peak memory, MiB | {:.0} |", memory as f64 / 1024.0);
    println!("| master: CPU a node, ms | {:.0} |", cpu.as_secs_f64() * 1000.0 / boots.len() as f64);
    assert_eq!(times.len(), boots.len(), "nodes were left behind");
    assert!(others * 1000 <= calls * OTHERS, "the boot is not the recorded one any more: run record-boot");
}

/// One node's boot.
struct Boot {
    taken: Duration,
    /// Calls with another status than in the recording.
    others: usize,
}

type Answers = Arc<Mutex<HashMap<u32, Sender<Vec<u8>>>>>;

/// Boots them all, each in a thread of its own.
fn fleet(nodes: u16, calls: &[RecordedCall]) -> Vec<io::Result<Boot>> {
    let dhcp = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    dhcp.set_broadcast(true).unwrap();
    dhcp.set_recv_buffer_size(8 << 20).unwrap();
    dhcp.bind_device(Some(b"nodes")).unwrap();
    dhcp.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into()).unwrap();
    let dhcp = Arc::new(UdpSocket::from(dhcp));
    let answers = Answers::default();
    let (socket, table) = (Arc::clone(&dhcp), Arc::clone(&answers));
    std::thread::spawn(move || sort_answers(&socket, &table));
    let start = Barrier::new(nodes.into());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..nodes)
            .map(|node| {
                let (answer, inbox) = channel();
                answers.lock().unwrap().insert(node.into(), answer);
                let machine = Machine { node, dhcp: &dhcp, inbox };
                let start = &start;
                let boot = move || {
                    start.wait();
                    let begun = Instant::now();
                    machine.boot(calls).map(|others| Boot { taken: begun.elapsed(), others })
                };
                std::thread::Builder::new().stack_size(512 << 10).spawn_scoped(scope, boot).unwrap()
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// All replies are broadcast to one socket; the transaction's number is the node's.
fn sort_answers(socket: &UdpSocket, table: &Answers) {
    let mut buffer = [0; 2048];
    while let Ok(length) = socket.recv(&mut buffer) {
        let Some(xid) = buffer[..length].get(4..8) else { continue };
        let xid = u32::from_be_bytes(xid.try_into().unwrap());
        if let Some(node) = table.lock().unwrap().get(&xid) {
            // A node that is done listens no more.
            let _done = node.send(buffer[..length].to_vec());
        }
    }
}

struct Machine<'a> {
    node: u16,
    dhcp: &'a UdpSocket,
    inbox: Receiver<Vec<u8>>,
}

impl Machine<'_> {
    fn boot(&self, calls: &[RecordedCall]) -> io::Result<usize> {
        let firmware: &[&[u8]] =
            &[&[60, 32], b"PXEClient:Arch:00000:UNDI:002001", &[93, 2, 0, 0, 94, 3, 1, 2, 1]];
        let loader = self.address_by(firmware)?;
        self.tftp(&loader)?;
        let script = self.address_by(&[firmware, &[&[77, 4], b"iPXE"]].concat())?;
        let script = self.http(&script)?.ok_or_else(|| refused("no script"))?;
        let script = String::from_utf8_lossy(&script).replace("${netX/busid:hexhyp}", CARD);
        for url in script.split_whitespace().filter(|word| word.contains("/images/")) {
            self.http(url)?;
        }
        self.address_by(&[&[60, 6], b"tesela"])?;
        self.root(calls)
    }

    /// The four packets of a DHCP client; the boot file that it is told.
    fn address_by(&self, options: &[&[u8]]) -> io::Result<String> {
        let offer = self.ask(1, options, 2)?;
        let yours: [u8; 4] = offer[16..20].try_into().unwrap();
        let server = option(&offer, 54).unwrap_or_default();
        let wanted = [&[50, 4][..], &yours, &[54, 4], &server].concat();
        let acknowledged = self.ask(3, &[options, &[&wanted]].concat(), 5)?;
        if Ipv4Addr::from(<[u8; 4]>::try_from(&acknowledged[16..20]).unwrap()) != address(self.node) {
            return Err(refused("another address"));
        }
        let field = acknowledged[108..236].split(|octet| *octet == 0).next().unwrap_or_default().to_vec();
        let file = option(&acknowledged, 67).unwrap_or(field);
        Ok(String::from_utf8_lossy(&file).trim_end_matches('\0').to_owned())
    }

    fn ask(&self, kind: u8, options: &[&[u8]], answer: u8) -> io::Result<Vec<u8>> {
        let mut packet = vec![0; 240];
        packet[..4].copy_from_slice(&[1, 1, 6, 0]);
        packet[4..8].copy_from_slice(&u32::from(self.node).to_be_bytes());
        packet[10] = 0x80;
        packet[28..34].copy_from_slice(&mac(self.node));
        packet[236..].copy_from_slice(&[99, 130, 83, 99]);
        packet.extend([53, 1, kind]);
        packet.extend([55, 6, 1, 3, 6, 43, 66, 67]);
        packet.extend(options.concat());
        packet.push(255);
        packet.resize(packet.len().max(300), 0);
        for _ in 0..TRIES {
            self.dhcp.send_to(&packet, (Ipv4Addr::BROADCAST, 67))?;
            let sent = Instant::now();
            while let Some(left) = AGAIN.checked_sub(sent.elapsed()) {
                match self.inbox.recv_timeout(left) {
                    Ok(reply) if option(&reply, 53).as_deref() == Some(&[answer]) => return Ok(reply),
                    Ok(_) => {}
                    Err(_timeout) => break,
                }
            }
        }
        Err(refused("no answer by DHCP"))
    }

    /// RFC 1350 with RFC 2348, a block at a time as PXE does it.
    fn tftp(&self, file: &str) -> io::Result<()> {
        let socket = UdpSocket::bind((address(self.node), 0))?;
        socket.set_read_timeout(Some(AGAIN))?;
        let mut packet = [&[0, 1], file.as_bytes(), b"\0octet\0blksize\x001468\0"].concat();
        let mut to = SocketAddr::from((MASTER, 69));
        let (mut next, mut buffer, mut tries) = (1_u16, [0; 2048], 0);
        loop {
            socket.send_to(&packet, to)?;
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            to = from;
            match (buffer[1], u16::from_be_bytes([buffer[2], buffer[3]])) {
                (3, block) if block == next => {
                    packet = vec![0, 4, buffer[2], buffer[3]];
                    next = next.wrapping_add(1);
                    if length < 4 + 1468 {
                        socket.send_to(&packet, to)?;
                        return Ok(());
                    }
                }
                (6, _) => packet = vec![0, 4, 0, 0],
                (5, _) => return Err(refused("an error by TFTP")),
                _ => {}
            }
        }
    }

    /// `from`: the source port; the kernel of a node mounts from one under 1024, others from any (0).
    fn connect(&self, from: u16, port: u16) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((address(self.node), from)).into())?;
        socket.connect(&SocketAddr::V4(SocketAddrV4::new(MASTER, port)).into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(stream)
    }

    /// Fetches; the body if it is a script's size.
    fn http(&self, url: &str) -> io::Result<Option<Vec<u8>>> {
        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
        let mut stream = self.connect(0, 80)?;
        write!(stream, "GET /{path} HTTP/1.0\r\nHost: {MASTER}\r\n\r\n")?;
        let (mut head, mut buffer, mut whole) = (Vec::new(), vec![0; 64 << 10], 0);
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            whole += length;
            if head.len() < 16 << 10 {
                head.extend_from_slice(&buffer[..length]);
            }
        }
        let end = head
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .ok_or_else(|| refused("no answer by HTTP"))?;
        if !head.starts_with(b"HTTP/1.0 200") && !head.starts_with(b"HTTP/1.1 200") {
            return Err(refused(&format!("{url}: {}", String::from_utf8_lossy(&head[..end]))));
        }
        Ok((head.len() == whole).then(|| head.split_off(end + 4)))
    }

    /// Mounts the root and makes the calls of the recorded boot, one after the other; says how many had
    /// another status than they had then.
    fn root(&self, calls: &[RecordedCall]) -> io::Result<usize> {
        let mut client = Client::over(self.connect(700, 2049)?)?;
        let root = client.mount(&format!("/nodes/n{}", self.node))?;
        let mut handles = HashMap::from([(String::new(), root)]);
        let mut others = 0;
        for call in calls {
            others += usize::from(replay(&mut client, &mut handles, call)? != Some(call.status));
        }
        Ok(others)
    }
}

type Handles = HashMap<String, Vec<u8>>;

/// Makes a call; its status, or `None` where its object is not there.
fn replay(client: &mut Client, handles: &mut Handles, call: &RecordedCall) -> io::Result<Option<u32>> {
    let Some(args) = call.to_wire(|path| handle_of(client, handles, path))? else { return Ok(None) };
    let mut results = client.call(NFS, call.procedure, &args)?;
    let status = results.get_u32();
    if status == 0 {
        call.handles(&mut results, |path, handle| {
            handles.insert(path, handle);
        });
        if let Some((from, to)) = call.moved() {
            move_handles(handles, from, to);
        }
    }
    Ok(Some(status))
}

/// Forgets the handle of a path that is gone, or has it and those below it elsewhere.
fn move_handles(handles: &mut Handles, from: &str, to: Option<&str>) {
    let below = format!("{from}/");
    let moved: Vec<String> =
        handles.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
    for path in moved {
        if let (Some(handle), Some(to)) = (handles.remove(&path), to) {
            handles.insert(format!("{to}{}", &path[from.len()..]), handle);
        }
    }
}

/// The handle of a path; looked up unless it is known.
fn handle_of(client: &mut Client, handles: &mut Handles, path: &str) -> io::Result<Option<Vec<u8>>> {
    if let Some(handle) = handles.get(path) {
        return Ok(Some(handle.clone()));
    }
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let Some(directory) = handle_of(client, handles, directory)? else { return Ok(None) };
    let args = Args::new().opaque(&directory).opaque(name.as_bytes());
    let mut results = client.call(NFS, LOOKUP, &args)?;
    if results.get_u32() != 0 {
        return Ok(None);
    }
    let handle = opaque(&mut results);
    handles.insert(path.to_owned(), handle.clone());
    Ok(Some(handle))
}

/// The value of a DHCP option.
fn option(packet: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut rest = packet.get(240..)?;
    loop {
        match rest {
            [0, after @ ..] => rest = after,
            [255, ..] | [] | [_] => return None,
            [code, length, after @ ..] => {
                let value = after.get(..usize::from(*length))?;
                if *code == wanted {
                    return Some(value.to_vec());
                }
                rest = &after[value.len()..];
            }
        }
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}
