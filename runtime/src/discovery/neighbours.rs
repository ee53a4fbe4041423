//! The sockets and the clock of [`Core`], on a node.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{Core, Output, Run, Seal};
use crate::load::Load;

/// UDP port of the announcements, on every node.
pub const PORT: u16 = 7445;
/// Where a node that looks for others speaks to all: of the range that stays within an organisation (RFC 2365).
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 116, 101);
/// More than any datagram that is sent.
const ROOM: usize = 2048;

/// The others, as this node knows them.
pub struct Neighbours {
    core: Mutex<Core<SmallRng>>,
    start: Instant,
    /// Something is to be sent before the next thing is due.
    changed: Notify,
    seal: Seal,
    own: UdpSocket,
    all: UdpSocket,
    /// When what a node says to all was heard last.
    to_all: Mutex<HashMap<Ipv4Addr, Duration>>,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").finish_non_exhaustive()
    }
}

/// The address that this machine has towards another one.
///
/// # Errors
/// Those of connect(2): there is no route.
pub fn own_address(towards: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((towards, PORT))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

impl Neighbours {
    /// Opens the sockets of a node with this address and the cluster's key.
    ///
    /// # Errors
    /// Those of the sockets, and of the kernel's random octets.
    pub async fn open(address: Ipv4Addr, key: &[u8; 32]) -> io::Result<Arc<Self>> {
        let own = UdpSocket::bind((address, PORT)).await?;
        let socket = SockRef::from(&own);
        socket.set_multicast_if_v4(&address)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(false)?;
        let all = everyone(address)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = Run { address, number: u64::try_from(since.as_millis()).unwrap_or(0) };
        let core = Core::new(Duration::ZERO, run, generator()?, generator()?);
        Ok(Arc::new(Self {
            core: Mutex::new(core),
            start: Instant::now(),
            changed: Notify::new(),
            seal: Seal::new(key),
            own,
            all,
            to_all: Mutex::default(),
        }))
    }

    /// Serves for ever.
    pub async fn serve(&self) {
        let (mut one, mut other) = ([0; ROOM], [0; ROOM]);
        loop {
            self.core().elapse(self.start.elapsed());
            self.put_out().await;
            let due = self.core().due().saturating_sub(self.start.elapsed());
            let heard = tokio::select! {
                heard = self.own.recv_from(&mut one) => heard.map(|(length, from)| (&one[..length], from, false)),
                heard = self.all.recv_from(&mut other) => heard.map(|(length, from)| (&other[..length], from, true)),
                () = self.changed.notified() => continue,
                () = sleep(due) => continue,
            };
            match heard {
                Ok((datagram, from, to_all)) => self.take_in(datagram, from, to_all),
                // An earlier datagram could not be delivered (ICMP): its receiver is found dead by itself.
                Err(error) => tracing::debug!(%error, "nothing is heard of a neighbour"),
            }
        }
    }

    fn take_in(&self, datagram: &[u8], from: SocketAddr, to_all: bool) {
        let SocketAddr::V4(from) = from else { return };
        let from = *from.ip();
        if from == self.address() {
            return;
        }
        let Some(content) = self.seal.open(datagram) else {
            tracing::debug!(%from, "sends what is not sealed with this cluster's key");
            return;
        };
        let now = self.start.elapsed();
        if let Err(refused) = self.core().receive(now, from, &content) {
            tracing::debug!(%from, %refused, "a datagram is passed over");
        } else if to_all {
            self.to_all.lock().unwrap_or_else(PoisonError::into_inner).insert(from, now);
        }
    }

    async fn put_out(&self) {
        loop {
            let Some(output) = self.core().output() else { return };
            let (to, content) = match output {
                Output::Send(to, content) => (to, content),
                Output::SendAll(content) => (GROUP, content),
                Output::Up(address) => {
                    tracing::info!(%address, "a neighbour is there");
                    continue;
                }
                Output::Down(address) => {
                    tracing::info!(%address, "a neighbour is gone");
                    continue;
                }
            };
            let sent = match self.seal.seal(&content) {
                Ok(datagram) => self.own.send_to(&datagram, SocketAddrV4::new(to, PORT)).await.map(|_| ()),
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = sent {
                // No route, or a full queue: what is lost is said again in other words.
                tracing::debug!(%to, %error, "a neighbour cannot be told");
            }
        }
    }

    /// This node's address.
    pub fn address(&self) -> Ipv4Addr {
        self.core().run().address
    }

    /// The others that are alive.
    pub fn members(&self) -> Vec<Ipv4Addr> {
        self.core().members().iter().map(|member| member.address).collect()
    }

    /// What a node tells of itself, and how old that is.
    pub fn load_of(&self, address: Ipv4Addr) -> Option<(Load, Duration)> {
        self.core().load_of(self.start.elapsed(), address)
    }

    /// Looks at what all tell of themselves of which this node has heard lately, itself among them, and how old that is:
    /// the latest first.
    pub fn told<T>(&self, look: impl FnOnce(&mut dyn Iterator<Item = (Ipv4Addr, Load, Duration)>) -> T) -> T {
        look(&mut self.core().told(self.start.elapsed()))
    }

    /// Whether what another node says to all is heard; `None`: this one has not been there for long enough to know.
    pub fn hears_by_multicast(&self, address: Ipv4Addr) -> Option<bool> {
        let (now, often) = (self.start.elapsed(), self.core().hellos());
        let last = self.to_all.lock().unwrap_or_else(PoisonError::into_inner).get(&address).copied();
        match last {
            Some(last) if now.saturating_sub(last) < often => Some(true),
            _ if now < often || address == self.address() => None,
            _ => Some(false),
        }
    }

    /// What this node tells of itself from now on; `None`: nothing.
    pub fn tell(&self, load: Option<Load>) {
        self.core().tell(self.start.elapsed(), load);
    }

    /// Tells those that have most to do at once what this node has told last.
    pub fn urge(&self) {
        self.core().urge(self.start.elapsed());
        self.changed.notify_one();
    }

    /// Nodes that are there as the master knows.
    pub fn seeds(&self, seeds: &[Ipv4Addr]) {
        self.core().seeds(self.start.elapsed(), seeds);
        self.changed.notify_one();
    }

    /// Tells the others that this node leaves.
    pub async fn leave(&self) {
        self.core().leave(self.start.elapsed());
        self.put_out().await;
    }

    fn core(&self) -> MutexGuard<'_, Core<SmallRng>> {
        // What it holds is whole between any two of its steps.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What hears all. Another agent of this machine, for another of its networks, hears it as well.
fn everyone(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((GROUP, PORT)).into())?;
    socket.join_multicast_v4(&GROUP, &address)?;
    UdpSocket::from_std(socket.into())
}

fn generator() -> io::Result<SmallRng> {
    let mut seed = <SmallRng as rand::SeedableRng>::Seed::default();
    getrandom::fill(seed.as_mut()).map_err(io::Error::other)?;
    Ok(SmallRng::from_seed(seed))
}
