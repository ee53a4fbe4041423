//! A load of TFTP clients, each with its address, as one process that costs less than any server.
//!
//! The clients speak through one packet socket: what a server's core pays for the far end is then the
//! delivery of a frame, as with a real network card, and a core of clients can outrun a core of server.
//! They follow RFC 1350 and 7440: a window is acknowledged by its last block, a gap at once but only once,
//! and after a second of silence what has arrived is acknowledged again.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "packet fields and arguments of system calls, all small"
)]

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

const FRAME: usize = 2048;
const BATCH: usize = 64;
const HEADERS: usize = 14 + 20 + 8;
const PATIENCE: Duration = Duration::from_secs(1);

/// What to ask for, and how badly the network behaves.
#[derive(Clone, Debug)]
pub struct Load {
    /// Index of the interface that the clients sit on.
    pub interface: u32,
    /// Hardware address of the server.
    pub server_mac: [u8; 6],
    /// The server.
    pub server: Ipv4Addr,
    /// The first client's address; the others count up.
    pub first_client: Ipv4Addr,
    /// How many.
    pub clients: u8,
    /// File that all fetch, again and again.
    pub file: String,
    /// Octets of it.
    pub size: u64,
    /// Window asked for; 1 asks for none.
    pub window: u16,
    /// Packets lost, in each direction, of a million.
    pub loss: u32,
    /// How long.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Result {
    /// Octets of files received in order.
    pub bytes: u64,
    /// From the first request to the last packet.
    pub time: Duration,
    /// The window that the server granted.
    pub window: u16,
}

struct Client {
    address: Ipv4Addr,
    port: u16,
    server_port: u16,
    window: u16,
    block_size: usize,
    expected: u64,
    in_window: u16,
    /// The gap before `expected` has been acknowledged.
    told: bool,
    heard: Instant,
    bytes: u64,
}

/// The MAC that the clients answer from.
pub const CLIENT_MAC: [u8; 6] = [2, 0x54, 0x46, 0x54, 0x50, 1];

/// Runs the load to its end, and `at_end` while the transfers still run.
///
/// # Errors
/// Those of the packet socket.
pub fn run<T>(load: &Load, at_end: impl FnOnce() -> T) -> io::Result<(Result, T)> {
    let mut wire = Wire::open(load)?;
    let began = Instant::now();
    let mut clients: Vec<Client> = (0..load.clients)
        .map(|index| Client {
            address: Ipv4Addr::from_bits(load.first_client.to_bits() + u32::from(index)),
            port: 20_000 + u16::from(index),
            server_port: 69,
            window: 1,
            block_size: 512,
            expected: 0,
            in_window: 0,
            told: false,
            heard: began,
            bytes: 0,
        })
        .collect();
    for client in &mut clients {
        wire.request(load, client, began);
    }
    wire.flush()?;
    let mut buffers = vec![[0_u8; FRAME]; BATCH];
    let mut now = began;
    let mut checked = began;
    while now - began < load.time {
        let lengths = wire.receive(&mut buffers)?;
        now = Instant::now();
        for (buffer, length) in buffers.iter().zip(lengths) {
            wire.take(load, &mut clients, &buffer[..length], now);
        }
        if now - checked > Duration::from_millis(50) {
            checked = now;
            for client in clients.iter_mut().filter(|client| now - client.heard > PATIENCE) {
                client.heard = now;
                client.in_window = 0;
                if client.expected <= 1 {
                    wire.request(load, client, now);
                } else {
                    wire.acknowledge(client);
                }
            }
        }
        wire.flush()?;
    }
    let bytes = clients.iter().map(|client| client.bytes).sum();
    let window = clients.iter().map(|client| client.window).max().unwrap_or(1);
    let ended = at_end();
    for client in &clients {
        wire.datagram(client, client.server_port, b"\0\x05\0\0done\0");
    }
    wire.flush()?;
    Ok((Result { bytes, time: now - began, window }, ended))
}

struct Wire {
    socket: OwnedFd,
    server_mac: [u8; 6],
    server: Ipv4Addr,
    loss: u32,
    random: u64,
    out: Vec<([u8; 256], usize)>,
}

impl Wire {
    fn open(load: &Load) -> io::Result<Self> {
        let protocol = (libc::ETH_P_IP as u16).to_be();
        // SAFETY: plain system calls on a descriptor that is owned from here on, with values that live.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let socket = OwnedFd::from_raw_fd(fd);
            let size: libc::c_int = 64 << 20;
            let patience = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
            option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &size)?;
            option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
            option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32)?;
            let mut address: libc::sockaddr_ll = mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = load.interface as i32;
            let length = mem::size_of_val(&address) as u32;
            if libc::bind(fd, (&raw const address).cast(), length) < 0 {
                return Err(io::Error::last_os_error());
            }
            socket
        };
        let (server_mac, server, loss) = (load.server_mac, load.server, load.loss);
        Ok(Self { socket, server_mac, server, loss, random: 1, out: Vec::new() })
    }

    fn lost(&mut self) -> bool {
        if self.loss == 0 {
            return false;
        }
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % 1_000_000 < u64::from(self.loss)
    }

    /// Queues a datagram of a client.
    fn datagram(&mut self, client: &Client, port: u16, payload: &[u8]) {
        let mut frame = [0; 256];
        frame[..6].copy_from_slice(&self.server_mac);
        frame[6..12].copy_from_slice(&CLIENT_MAC);
        frame[12..14].copy_from_slice(&[8, 0]);
        let ip_length = (28 + payload.len()) as u16;
        frame[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17]);
        frame[16..18].copy_from_slice(&ip_length.to_be_bytes());
        frame[26..30].copy_from_slice(&client.address.octets());
        frame[30..34].copy_from_slice(&self.server.octets());
        let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame[34..36].copy_from_slice(&client.port.to_be_bytes());
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame[38..40].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
        frame[HEADERS..HEADERS + payload.len()].copy_from_slice(payload);
        self.out.push((frame, HEADERS + payload.len()));
    }

    fn request(&mut self, load: &Load, client: &mut Client, now: Instant) {
        // A port of its own for each file, or a late packet of the last one would be taken for this one's.
        client.port = 20_000 + (client.port - 20_000 + 256) % 40_000;
        client.server_port = 69;
        client.expected = 0;
        client.window = 1;
        client.block_size = 512;
        client.in_window = 0;
        client.heard = now;
        let mut packet = format!("\0\u{1}{}\0octet\0blksize\x001468\0", load.file).into_bytes();
        if load.window > 1 {
            packet.extend(format!("windowsize\0{}\0", load.window).bytes());
        }
        self.datagram(client, 69, &packet);
    }

    fn acknowledge(&mut self, client: &Client) {
        if !self.lost() {
            let [.., high, low] = client.expected.saturating_sub(1).to_be_bytes();
            self.datagram(client, client.server_port, &[0, 4, high, low]);
        }
    }

    fn take(&mut self, load: &Load, clients: &mut [Client], frame: &[u8], now: Instant) {
        let Some(datagram) = frame.get(HEADERS..) else { return };
        if frame[14] != 0x45 || frame[23] != 17 || datagram.len() < 4 {
            return;
        }
        let to = u32::from_be_bytes([frame[30], frame[31], frame[32], frame[33]]);
        let Some(client) = clients.get_mut(to.wrapping_sub(load.first_client.to_bits()) as usize) else {
            return;
        };
        if u16::from_be_bytes([frame[36], frame[37]]) != client.port || self.lost() {
            return;
        }
        let from = u16::from_be_bytes([frame[34], frame[35]]);
        let length = usize::from(u16::from_be_bytes([frame[38], frame[39]])) - 8;
        let datagram = &datagram[..length.min(datagram.len())];
        match datagram[1] {
            6 if client.expected <= 1 => {
                client.server_port = from;
                client.expected = 1;
                client.heard = now;
                let text = String::from_utf8_lossy(&datagram[2..]).to_ascii_lowercase();
                let mut words = text.split('\0');
                while let (Some(name), Some(value)) = (words.next(), words.next()) {
                    match name {
                        "blksize" => client.block_size = value.parse().unwrap_or(512),
                        "windowsize" => client.window = value.parse().unwrap_or(1),
                        _ => {}
                    }
                }
                self.acknowledge(client);
            }
            3 if from == client.server_port => {
                client.heard = now;
                let wire = u16::from_be_bytes([datagram[2], datagram[3]]);
                if wire != client.expected as u16 {
                    // Ahead: something is missing. The last one again: our ACK was lost.
                    let again = wire.wrapping_add(1) == client.expected as u16;
                    if again || !client.told && client.window > 1 {
                        client.told = true;
                        client.in_window = 0;
                        self.acknowledge(client);
                    }
                    return;
                }
                client.told = false;
                client.expected += 1;
                client.in_window += 1;
                client.bytes += (datagram.len() - 4) as u64;
                let last = datagram.len() - 4 < client.block_size;
                if last || client.in_window >= client.window {
                    client.in_window = 0;
                    self.acknowledge(client);
                }
                if last {
                    self.request(load, client, now);
                }
            }
            _ => {}
        }
    }

    fn receive(&mut self, buffers: &mut [[u8; FRAME]]) -> io::Result<Vec<usize>> {
        let mut slices: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: FRAME })
            .collect();
        let mut messages = headers(&mut slices);
        // SAFETY: each header points to one iovec, and that to a buffer of its length; all outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        match usize::try_from(count) {
            Ok(count) => Ok(messages[..count].iter().map(|message| message.msg_len as usize).collect()),
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    Ok(vec![])
                }
                error => Err(error),
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut slices: Vec<libc::iovec> = self
            .out
            .iter_mut()
            .map(|(frame, length)| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: *length })
            .collect();
        let mut messages = headers(&mut slices);
        let mut rest = &mut messages[..];
        while !rest.is_empty() {
            // SAFETY: as in `receive`; the frames lie in `self.out`, which stays.
            let sent =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            match usize::try_from(sent) {
                Ok(sent) => rest = &mut rest[sent..],
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        self.out.clear();
        Ok(())
    }
}

fn headers(slices: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    let header = |slice: &mut libc::iovec| {
        // SAFETY: all zeros is a valid message header: no address, no control data.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = slice;
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    slices.iter_mut().map(header).collect()
}

fn option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = mem::size_of::<T>() as u32;
    // SAFETY: the value is read for its own length.
    match unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
