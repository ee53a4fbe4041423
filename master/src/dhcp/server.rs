//! The shell: sockets, prober and store around one engine, in one thread.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::arp::{Prober, Step};
use super::engine::{Destination, Engine, Port, Reply};
use super::lease::{Leases, Seconds, StoreError};
use super::observe::{Counters, count};
use super::policy::Policy;
use super::{batch, frame, sys};
use crate::cluster::Mac;
use crate::ports;

/// Octets of queued requests: some 5000 of them, which a busy machine answers before a client asks again.
const QUEUE: usize = 4 << 20;

/// Whether this server gives addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does, and says no to what is wrong.
    Authoritative,
    /// Another server does; this one only says what to boot.
    Proxy,
}

/// What a server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The interface towards the nodes.
    pub interface: String,
    /// Our address on it, which is our server identifier.
    pub address: Ipv4Addr,
    /// Our network on it.
    pub network: Ipv4Net,
    /// Whether we give addresses.
    pub mode: Mode,
    /// First and last address of the dynamic range.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// How many free addresses are kept probed by ARP (256 is plenty); 0: none is probed.
    pub probed_ahead: usize,
    /// Seconds that an address stays unused after it was found in use by someone else.
    pub set_aside_seconds: u32,
}

impl Config {
    /// The usual: 256 addresses probed ahead, ten minutes set aside.
    pub fn new(interface: &str, address: Ipv4Net, mode: Mode, range: Option<(Ipv4Addr, Ipv4Addr)>) -> Self {
        Self {
            interface: interface.to_owned(),
            address: address.addr(),
            network: address.trunc(),
            mode,
            range,
            probed_ahead: 256,
            set_aside_seconds: 600,
        }
    }

    /// Our own address, and those that no host can have.
    pub(super) fn is_never_given(&self, address: Ipv4Addr) -> bool {
        address == self.address || address == self.network.network() || address == self.network.broadcast()
    }
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The interface is not there.
    #[error(
        "there is no network interface `{wanted}` (there are: {present}); set `master: interface:` in cluster.yaml"
    )]
    NoInterface {
        /// The one that cluster.yaml names.
        wanted: String,
        /// Those that are there.
        present: String,
    },
    /// The interface has another address.
    #[error(
        "{interface} has {found}, not {wanted}; give it that address, or mend `master: address:` in cluster.yaml"
    )]
    OtherAddress {
        /// The interface.
        interface: String,
        /// The address that cluster.yaml says.
        wanted: Ipv4Addr,
        /// Those that it has.
        found: String,
    },
    /// Someone else has the port.
    #[error("UDP port {port} is taken by {holder}; stop that, or use another interface")]
    PortTaken {
        /// The port.
        port: u16,
        /// Who has it.
        holder: String,
    },
    /// A socket could not be made.
    #[error("{what}: {source}; DHCP needs CAP_NET_BIND_SERVICE and CAP_NET_RAW")]
    Socket {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The leases cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    config: Mutex<Config>,
    counters: Arc<Counters>,
    commands: Sender<Command>,
    /// A byte written here wakes the thread.
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Command {
    Reconfigure(Config),
    Stop,
}

/// Starts a server in a thread of its own, in the network namespace of the calling thread.
///
/// # Errors
/// Everything that stands against it: see [`StartError`].
pub fn serve(config: Config, policy: Arc<dyn Policy>, leases: Arc<dyn Leases>) -> Result<Server, StartError> {
    let nic = check_interface(&config)?;
    let engine = Engine::new(config.clone(), leases.load()?);
    let counters = Arc::clone(engine.counters());
    let outbox = Arc::new(Outbox {
        dhcp: udp_socket(&config.interface, 67)?,
        boot_server: udp_socket(&config.interface, 4011)?,
        raw: packet_socket(&nic, None)?,
        nic,
        address: config.address,
        counters: Arc::clone(&counters),
    });
    let arp = packet_socket(&outbox.nic, Some(sys::ETHERTYPE_ARP))?;
    let (waker, woken) = UnixStream::pair()
        .and_then(|(waker, woken)| woken.set_nonblocking(true).map(|()| (waker, woken)))
        .map_err(|source| StartError::Socket {
            what: "a pair of sockets cannot be made".to_owned(),
            source,
        })?;
    let (commands, inbox) = mpsc::channel();
    let worker = Worker { engine, policy, leases, outbox, arp, prober: Prober::default(), inbox, woken };
    let thread = std::thread::Builder::new()
        .name("dhcp".to_owned())
        .spawn(move || worker.run())
        .map_err(|source| StartError::Socket { what: "a thread cannot be started".to_owned(), source })?;
    Ok(Server { config: Mutex::new(config), counters, commands, waker, thread: Some(thread) })
}

impl Server {
    /// What it counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Works by another configuration from the next datagram on. Returns false, and changes nothing, where
    /// interface or address differ: that takes a new server.
    pub fn reconfigure(&self, config: Config) -> bool {
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if (&config.interface, config.address) != (&current.interface, current.address) {
            return false;
        }
        if *current != config {
            *current = config.clone();
            self.tell(Command::Reconfigure(config));
        }
        true
    }

    /// Whether its thread still runs. It ends by itself only if the engine panics.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn tell(&self, command: Command) {
        // Both fail only where the thread is gone, and then there is nobody to tell.
        if self.commands.send(command).is_ok()
            && let Err(error) = io::Write::write_all(&mut &self.waker, &[1])
        {
            tracing::warn!(%error, "the DHCP thread cannot be woken");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the DHCP thread had panicked");
        }
    }
}

/// A network interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nic {
    pub index: u32,
    pub mac: Mac,
}

impl Nic {
    /// The interface of this name, if it is there.
    pub fn find(name: &str) -> nix::Result<Option<Self>> {
        let link = getifaddrs()?.filter(|entry| entry.interface_name == name).find_map(|entry| {
            let address = entry.address?;
            let link = address.as_link_addr()?;
            Some(Self { index: u32::try_from(link.ifindex()).ok()?, mac: Mac(link.addr()?) })
        });
        Ok(link)
    }
}

/// Whether the interface is there and has the server's address.
///
/// # Errors
/// [`StartError::NoInterface`], [`StartError::OtherAddress`]; [`StartError::Socket`] where that cannot be seen.
pub fn check(config: &Config) -> Result<(), StartError> {
    check_interface(config).map(drop)
}

fn check_interface(config: &Config) -> Result<Nic, StartError> {
    let failed = |source: nix::Error| StartError::Socket {
        what: "the interfaces cannot be listed".to_owned(),
        source: source.into(),
    };
    let Some(nic) = Nic::find(&config.interface).map_err(failed)? else {
        let mut present: Vec<_> = getifaddrs().map_err(failed)?.map(|entry| entry.interface_name).collect();
        present.sort();
        present.dedup();
        return Err(StartError::NoInterface {
            wanted: config.interface.clone(),
            present: present.join(", "),
        });
    };
    let addresses: Vec<Ipv4Addr> = getifaddrs()
        .map_err(failed)?
        .filter(|entry| entry.interface_name == config.interface)
        .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
        .collect();
    if addresses.contains(&config.address) {
        return Ok(nic);
    }
    let found = addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
    let found = if found.is_empty() { "no IPv4 address".to_owned() } else { found };
    Err(StartError::OtherAddress { interface: config.interface.clone(), wanted: config.address, found })
}

fn udp_socket(interface: &str, port: u16) -> Result<Socket, StartError> {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_broadcast(true)?;
        // More than the system's limit takes CAP_NET_ADMIN; without it the limit itself has to do.
        if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &QUEUE).is_err() {
            socket.set_recv_buffer_size(QUEUE)?;
        }
        socket.set_send_buffer_size(QUEUE)?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(socket)
    };
    open().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = ports::who_holds(ports::Protocol::Udp, port);
            StartError::PortTaken {
                port,
                holder: holder.unwrap_or_else(|| "a program that cannot be seen from here".to_owned()),
            }
        }
        _ => StartError::Socket { what: format!("UDP port {port} on {interface} cannot be opened"), source },
    })
}

fn packet_socket(nic: &Nic, ethertype: Option<u16>) -> Result<OwnedFd, StartError> {
    sys::packet_socket(nic.index, ethertype)
        .map_err(|source| StartError::Socket { what: "a packet socket cannot be opened".to_owned(), source })
}

/// Where replies leave, from any thread.
#[derive(Debug)]
struct Outbox {
    dhcp: Socket,
    boot_server: Socket,
    raw: OwnedFd,
    nic: Nic,
    address: Ipv4Addr,
    counters: Arc<Counters>,
}

impl Outbox {
    fn send(&self, port: Port, replies: &[Reply]) {
        let (socket, from) = match port {
            Port::Dhcp => (&self.dhcp, 67),
            Port::BootServer => (&self.boot_server, 4011),
        };
        let from = SocketAddrV4::new(self.address, from);
        let mut frames = Vec::new();
        let mut datagrams = Vec::with_capacity(replies.len());
        for reply in replies {
            match reply.to {
                Destination::Raw { mac, address } => {
                    frames.push((mac.0, frame::udp(from, SocketAddrV4::new(address, 68), &reply.bytes)));
                }
                Destination::Broadcast => {
                    datagrams.push((SocketAddrV4::new(Ipv4Addr::BROADCAST, 68), reply.bytes.as_slice()));
                }
                Destination::Unicast(to) => datagrams.push((to, reply.bytes.as_slice())),
            }
        }
        let frames: Vec<_> = frames.iter().map(|(mac, bytes)| (*mac, bytes.as_slice())).collect();
        let failed = sys::send_udp(socket.as_fd(), self.address, &datagrams)
            + sys::send_packets(self.raw.as_fd(), self.nic.index, sys::ETHERTYPE_IP, &frames);
        self.counters.send_errors.fetch_add(failed as u64, Ordering::Relaxed);
    }
}

/// What the thread works with.
struct Worker {
    engine: Engine,
    policy: Arc<dyn Policy>,
    leases: Arc<dyn Leases>,
    outbox: Arc<Outbox>,
    arp: OwnedFd,
    prober: Prober,
    inbox: Receiver<Command>,
    woken: UnixStream,
}

impl Worker {
    fn run(mut self) {
        let mut taken = sys::Batch::new();
        loop {
            let [dhcp, boot_server, arp] = self.wait().unwrap_or_else(|error| {
                tracing::error!(%error, "DHCP cannot wait for requests");
                std::thread::sleep(Duration::from_millis(100));
                [true; 3]
            });
            loop {
                match self.inbox.try_recv() {
                    Ok(Command::Reconfigure(config)) => self.engine.reconfigure(config),
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => break,
                }
            }
            if dhcp {
                self.answer(Port::Dhcp, &mut taken);
            }
            if boot_server {
                self.answer(Port::BootServer, &mut taken);
            }
            if arp {
                self.watch_arp();
            }
            self.probe();
        }
    }

    /// Waits until there is something to do. Returns at which socket: that of port 67, of 4011, of ARP.
    fn wait(&mut self) -> io::Result<[bool; 3]> {
        // Addresses may become free at any time, so the pool is looked at once a second at least.
        let next = self
            .prober
            .due()
            .map_or(Duration::from_secs(1), |due| due.saturating_duration_since(Instant::now()));
        let timeout = PollTimeout::try_from(next.min(Duration::from_secs(1)) + Duration::from_millis(1))
            .unwrap_or(PollTimeout::MAX);
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [
            readable(self.outbox.dhcp.as_fd()),
            readable(self.outbox.boot_server.as_fd()),
            readable(self.arp.as_fd()),
            readable(self.woken.as_fd()),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok([false; 3]),
            Err(error) => return Err(error.into()),
        }
        // An error of a socket counts as well: to receive tells it.
        let [dhcp, boot_server, arp, woken] = fds.map(|fd| fd.any() != Some(false));
        // What woke us is in the channel; the octets only had to come.
        if woken
            && let Err(error) = io::Read::read(&mut &self.woken, &mut [0; 64])
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
        Ok([dhcp, boot_server, arp])
    }

    /// Answers what has come to a port, at most one batch.
    fn answer(&mut self, port: Port, taken: &mut sys::Batch) {
        let socket = match port {
            Port::Dhcp => &self.outbox.dhcp,
            Port::BootServer => &self.outbox.boot_server,
        };
        if let Err(error) = taken.receive(socket.as_fd()) {
            tracing::warn!(%error, "DHCP requests cannot be received");
            return;
        }
        let outbox = Arc::clone(&self.outbox);
        let send = move |replies: Vec<Reply>| outbox.send(port, &replies);
        let (policy, leases) = (&*self.policy, &*self.leases);
        batch::answer(&mut self.engine, policy, leases, (port, seconds()), taken.datagrams(), send);
    }

    /// Looks at the ARP packets that passed: who uses an address that we did not give it?
    fn watch_arp(&mut self) {
        let mut buffer = [0; 64];
        let now = seconds();
        for _ in 0..sys::BATCH {
            let length = match sys::receive_packet(self.arp.as_fd(), &mut buffer) {
                Ok(Some((length, _))) => length,
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "ARP packets cannot be received"),
            };
            let Some(seen) =
                frame::parse_arp(&buffer[..length]).filter(|seen| seen.mac != self.outbox.nic.mac)
            else {
                continue;
            };
            if self.engine.conflict(seen.address, seen.mac, now) {
                self.policy.conflict(seen.address, seen.mac);
            }
        }
    }

    fn probe(&mut self) {
        let now = Instant::now();
        while !self.prober.is_full()
            && let Some(address) = self.engine.next_to_probe(&*self.policy, seconds())
        {
            self.prober.start(address, now);
        }
        while let Some(step) = self.prober.step(now) {
            match step {
                Step::Send(address) => {
                    let packet = frame::arp_probe(self.outbox.nic.mac, address);
                    let arp = sys::ETHERTYPE_ARP;
                    if sys::send_packets(
                        self.arp.as_fd(),
                        self.outbox.nic.index,
                        arp,
                        &[([0xff; 6], &packet)],
                    ) > 0
                    {
                        count(&self.outbox.counters.send_errors);
                    }
                }
                Step::Done(address) => self.engine.probe_done(address),
            }
        }
    }
}

fn seconds() -> Seconds {
    // A clock before 1970 reads as 0: leases then run from there, and nothing breaks.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
