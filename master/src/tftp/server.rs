//! The tokio shell: takes requests in, has their content opened, hands sessions to the pumps.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::content::Source;
use super::counters::{Counters, add};
use super::options::Bounds;
use super::packet::{self, ErrorCode, Malformed, Request};
use super::pump::{Begin, Handle, Pumps};
use super::registry::{Admission, Registry, Ticket};
use super::session::Session;
use super::{Config, Contents, OpenError, Opening, ServerError};

/// How long a content may take to open; the client has asked again several times by then.
const OPENING: Duration = Duration::from_secs(30);

/// A server whose port is open.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listener: UdpSocket,
    local: SocketAddr,
    counters: Arc<Counters>,
}

impl Server {
    /// Opens the port; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`ServerError::Bind`] where the address or port cannot be had.
    pub fn bind(config: Config) -> Result<Self, ServerError> {
        let open = || {
            let socket = Socket::new(Domain::for_address(config.listen), Type::DGRAM, Some(Protocol::UDP))?;
            if config.listen.is_ipv4() {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            } else {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                // IPv4 clients reach a wildcard socket by mapped addresses.
                socket.set_only_v6(false)?;
            }
            if let Some(interface) = &config.interface {
                socket.bind_device(Some(interface.as_bytes()))?;
            }
            // A room that powers on at once sends its requests at once.
            socket.set_recv_buffer_size(1 << 20)?;
            socket.set_nonblocking(true)?;
            socket.bind(&config.listen.into())?;
            let local = socket.local_addr()?.as_socket().unwrap_or(config.listen);
            Ok((UdpSocket::from_std(socket.into())?, local))
        };
        let (listener, local) =
            open().map_err(|source| ServerError::Bind { address: config.listen, source })?;
        Ok(Self { config, listener, local, counters: Arc::default() })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What it counts; they live as long as anyone holds them.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves until `stop` is cancelled. Then no request is answered any more, running transfers have
    /// [`Config::grace`] to end, and what is left is ended with an ERROR.
    ///
    /// # Errors
    /// [`ServerError::Receive`] where the port fails for good, [`ServerError::Threads`] where no thread can
    /// be had.
    pub async fn run<C: Contents>(
        self,
        contents: Arc<C>,
        stop: CancellationToken,
    ) -> Result<(), ServerError> {
        let observer = Arc::clone(&contents);
        let finished: super::Finished = Arc::new(move |transfer| observer.finished(transfer));
        let threads = self.config.threads.unwrap_or_else(default_threads).max(1);
        let Pumps { handles, threads } =
            Pumps::start(threads, &self.counters, &finished).map_err(ServerError::Threads)?;
        let mut stopping = Stopping { pumps: Arc::clone(&handles), at: None };
        let shared = Arc::new(Shared {
            contents,
            registry: Registry::new(
                self.config.sessions,
                self.config.sessions_per_client,
                Arc::clone(&self.counters),
            ),
            pumps: handles,
            counters: Arc::clone(&self.counters),
            config: self.config.clone(),
        });
        let received = tokio::select! {
            error = self.listen(&shared) => Err(ServerError::Receive(error)),
            () = stop.cancelled() => Ok(()),
        };
        stopping.at = Some(Instant::now() + self.config.grace);
        drop(stopping);
        let ended =
            tokio::task::spawn_blocking(|| threads.into_iter().try_for_each(|thread| thread.join())).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::error!("a TFTP thread panicked");
        }
        received
    }

    /// Takes requests until the socket fails.
    async fn listen<C: Contents>(&self, shared: &Arc<Shared<C>>) -> io::Error {
        let mut buffer = [0; 2048];
        loop {
            match self.listener.async_io(Interest::READABLE, || receive(&self.listener, &mut buffer)).await {
                Ok(Some(Arrival { count, peer, local })) => shared.request(&buffer[..count], peer, local),
                Ok(None) => {}
                // The kernel is short of memory, or a reply of an earlier socket bounced: neither is the end.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(nix::libc::ENOMEM | nix::libc::ENOBUFS | nix::libc::ECONNREFUSED)
                    ) =>
                {
                    tracing::warn!(%error, "a TFTP request could not be received");
                }
                Err(error) => return error,
            }
        }
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// Stops the pumps when dropped: at once, unless a time was set.
struct Stopping {
    pumps: Arc<[Handle]>,
    at: Option<Instant>,
}

impl Drop for Stopping {
    fn drop(&mut self) {
        let at = self.at.unwrap_or_else(Instant::now);
        for pump in self.pumps.iter() {
            pump.stop(at);
        }
    }
}

/// What the listener and the tasks that open contents share.
struct Shared<C> {
    contents: Arc<C>,
    registry: Arc<Registry>,
    pumps: Arc<[Handle]>,
    counters: Arc<Counters>,
    config: Config,
}

impl<C: Contents> Shared<C> {
    fn request(self: &Arc<Self>, datagram: &[u8], peer: SocketAddr, local: IpAddr) {
        let request = match Request::parse(datagram) {
            Ok(request) => request,
            Err(error) => {
                add(&self.counters.malformed, 1);
                tracing::debug!(%peer, %error, "no TFTP request");
                // Errors are never answered with errors, nor is what nobody would wait for an answer to.
                if error == Malformed::Mode {
                    self.refuse(
                        local,
                        peer,
                        ErrorCode::IllegalOperation,
                        "only octet and netascii are served",
                    );
                }
                return;
            }
        };
        if request.write {
            add(&self.counters.refused, 1);
            return self.refuse(local, peer, ErrorCode::AccessViolation, "this server takes no files");
        }
        match self.registry.admit(peer, datagram) {
            Admission::New(ticket) => {
                add(&self.counters.requests, 1);
                let (datagram, shared) = (datagram.to_vec(), Arc::clone(self));
                tokio::spawn(async move { shared.open(datagram, peer, local, ticket).await });
            }
            Admission::Again(running) => {
                let (datagram, shared) = (datagram.to_vec(), Arc::clone(self));
                let runtime = tokio::runtime::Handle::current();
                let retry = move || {
                    let _inside = runtime.enter();
                    shared.request(&datagram, peer, local);
                };
                self.pumps[running.pump].request_again(running.id, Box::new(retry));
            }
            Admission::Opening => {}
            Admission::Full => {
                // No answer: the client asks again, and an ERROR would end its boot.
                add(&self.counters.busy, 1);
                tracing::warn!(%peer, "too many TFTP sessions");
            }
        }
    }

    async fn open(self: Arc<Self>, datagram: Vec<u8>, peer: SocketAddr, local: IpAddr, ticket: Ticket) {
        let started = Instant::now();
        let Ok(request) = Request::parse(&datagram) else { return };
        let opening = Opening { path: request.path, mode: request.mode, peer, local };
        let opened = tokio::time::timeout(OPENING, self.contents.open(opening)).await;
        let (code, reason) = match opened.unwrap_or(Err(OpenError::Busy)) {
            Ok(content) => {
                // Netascii reads the file, and mapping one may too.
                let mode = request.mode;
                let source = tokio::task::spawn_blocking(move || Source::new(content, mode)).await;
                match source.map_err(io::Error::other).flatten() {
                    Ok(source) => return self.begin(&request, source, peer, local, ticket, started),
                    Err(error) => {
                        tracing::warn!(%peer, path = %request.path.escape_ascii(), %error, "a TFTP file cannot be read");
                        (ErrorCode::NotDefined, error.to_string())
                    }
                }
            }
            Err(OpenError::Busy) => {
                add(&self.counters.busy, 1);
                return;
            }
            Err(OpenError::NotFound) => (ErrorCode::FileNotFound, "file not found".to_owned()),
            Err(OpenError::Refused(reason)) => (ErrorCode::AccessViolation, reason),
        };
        add(&self.counters.refused, 1);
        tracing::debug!(%peer, path = %request.path.escape_ascii(), reason, "TFTP refused");
        self.refuse(local, peer, code, &reason);
    }

    fn begin(
        &self,
        request: &Request<'_>,
        source: Source,
        peer: SocketAddr,
        local: IpAddr,
        ticket: Ticket,
        started: Instant,
    ) {
        let socket = match self.socket(local, peer) {
            Ok(socket) => socket,
            Err(error) => {
                add(&self.counters.busy, 1);
                tracing::warn!(%peer, %error, "no socket for a TFTP session");
                return;
            }
        };
        let bounds = Bounds {
            block_size: path_block_size(&socket, peer).min(self.config.block_size),
            window: self.config.window.clamp(1, super::MOST_WINDOW),
        };
        let (terms, offer) = request.options.negotiate(bounds, source.size());
        let session = Session::new(terms, source.size(), offer.is_some(), started);
        let local = socket.local_addr().ok().and_then(|local| local.as_socket()).unwrap_or((local, 0).into());
        let least = self.pumps.iter().enumerate().min_by_key(|(_, handle)| handle.load());
        let Some((pump, handle)) = least else { return };
        ticket.offered(pump);
        handle.begin(Begin {
            session,
            source,
            offer,
            socket,
            ticket,
            path: request.path.into(),
            peer,
            local,
            started,
        });
    }

    /// A socket that speaks from `local` to `peer` and to nobody else.
    fn socket(&self, local: IpAddr, peer: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(interface) = &self.config.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        socket.set_nonblocking(true)?;
        let scope = match peer {
            SocketAddr::V6(peer) => peer.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let local = match local {
            IpAddr::V4(_) => SocketAddr::new(local, 0),
            IpAddr::V6(local) => SocketAddrV6::new(local, 0, 0, scope).into(),
        };
        socket.bind(&local.into())?;
        socket.connect(&peer.into())?;
        Ok(socket)
    }

    fn refuse(&self, local: IpAddr, peer: SocketAddr, code: ErrorCode, reason: &str) {
        let sent = self.socket(local, peer).and_then(|socket| socket.send(&packet::error(code, reason)));
        if let Err(error) = sent {
            tracing::debug!(%peer, %error, "an ERROR could not be sent");
        }
    }
}

/// Octets of a block that fit an unfragmented packet to the peer, as far as the kernel knows the path.
fn path_block_size(socket: &Socket, peer: SocketAddr) -> u16 {
    const UDP_AND_TFTP: i32 = 8 + 4;
    let (mtu, header) = match peer {
        SocketAddr::V4(_) => (getsockopt(&socket.as_fd(), sockopt::IpMtu).unwrap_or(1500), 20),
        // IPV6_MTU has no wrapper; Ethernet's holds wherever IPv6 firmware boots.
        SocketAddr::V6(_) => (1500, 40),
    };
    u16::try_from(mtu - header - UDP_AND_TFTP).unwrap_or(u16::MAX).clamp(512, 65464)
}

struct Arrival {
    count: usize,
    peer: SocketAddr,
    local: IpAddr,
}

/// Receives one datagram with the address that it was sent to; `None` for one that is passed over.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Arrival>> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(nix::libc::in_pktinfo, nix::libc::in6_pktinfo);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let mut local = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let to = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                // What was broadcast is passed over (RFC 1123, 4.2.3.4).
                local = (info.ipi_spec_dst.s_addr == info.ipi_addr.s_addr).then_some(IpAddr::V4(to));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let to = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                local = (!to.is_multicast()).then_some(to.to_canonical());
            }
            _ => {}
        }
    }
    let peer = message.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
        v4.or_else(|| {
            let v6 = address.as_sockaddr_in6()?;
            Some(match v6.ip().to_canonical() {
                IpAddr::V4(v4) => SocketAddr::from((v4, v6.port())),
                IpAddr::V6(ip) => SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()).into(),
            })
        })
    });
    let count = message.bytes;
    Ok(peer.zip(local).filter(|(peer, _)| peer.port() != 0).map(|(peer, local)| Arrival {
        count,
        peer,
        local,
    }))
}
