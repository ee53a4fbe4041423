//! The listening half: accepts connections, bounds their number, outlives every error of theirs.

use super::cache::ReplyCache;
use super::connection::{Connection, Shared, Waiter, budget};
use super::counters::Counters;
use super::fs::FileSystem;
use super::mount::Mounts;
use super::pool::Pool;
use super::rpc::{Call, Ids, Refusal};
use super::service::{Programs, Service};
use bytes::BytesMut;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bounds on what clients can make the server take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address; Linux opens one a mount, 16 at most (`nconnect`).
    pub per_client: usize,
    /// Octets of large calls and replies of all connections together.
    pub memory: usize,
    /// Threads for calls that can block on the disk, and as many again for those that come alone.
    pub threads: usize,
    /// Whether calls count only from a port under 1024, which on a client only root can have: who calls
    /// says himself which user he is.
    pub only_root_calls: bool,
}

impl Default for Limits {
    fn default() -> Self {
        let memory = 96 * 1024 * 1024;
        Self { connections: 4096, per_client: 64, memory, threads: 16, only_root_calls: true }
    }
}

/// A server of NFS version 3 and MOUNT, or a portmapper.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    cache: Arc<ReplyCache<Waiter>>,
    limits: Limits,
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// So many clients take all the memory for large calls and replies; one takes its share at the most.
const SHARES: usize = 4;
/// What one call or reply takes at the most; a share is never less.
const LARGEST: usize = super::record::MAX_RECORD + 4096;

/// How long no connection is accepted after an error that says the host is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// A server of NFS and MOUNT over `fs`.
    ///
    /// # Errors
    /// If its threads cannot be started.
    pub fn new(fs: Arc<dyn FileSystem>, limits: Limits) -> io::Result<Self> {
        Self::of(Programs::Nfs { fs, mounts: Mounts::default() }, limits)
    }

    /// A portmapper that tells where NFS and MOUNT are.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn portmapper(nfs: SocketAddr) -> io::Result<Self> {
        let limits = Limits {
            connections: 256,
            per_client: 16,
            threads: 0,
            only_root_calls: false,
            ..Limits::default()
        };
        Self::of(Programs::Portmapper(nfs), limits)
    }

    fn of(programs: Programs, limits: Limits) -> io::Result<Self> {
        let service = Service::new(programs, Arc::default());
        let pool = Pool::start(limits.threads)?;
        Ok(Self {
            shared: Arc::new(Shared {
                service,
                pool,
                alone: Arc::new(Semaphore::new(limits.threads)),
                budget: budget(limits.memory),
                only_root_calls: limits.only_root_calls,
            }),
            cache: Arc::new(ReplyCache::new((limits.memory / SHARES).max(LARGEST))),
            limits,
            clients: Arc::default(),
        })
    }

    /// What the server counts.
    pub fn counters(&self) -> &Arc<Counters> {
        self.shared.service.counters()
    }

    /// Serves what `listener` accepts until `shutdown`; returns when every call in progress is answered.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => match self.admit(peer) {
                    Some(place) => {
                        connections.spawn(self.clone().connection(stream, peer, place, shutdown.clone()));
                    }
                    None => Counters::count(&self.counters().refused, 1),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an NFS connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    /// Answers the portmapper's calls over UDP until `shutdown`.
    pub async fn serve_datagrams(&self, socket: UdpSocket, shutdown: CancellationToken) {
        // A call of the portmapper with the longest credential and verifier.
        let mut datagram = [0; 2048];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut datagram) => received,
                () = shutdown.cancelled() => return,
            };
            let sent = match received {
                Ok((len, peer)) => match self.datagram(&datagram[..len], peer) {
                    Some(reply) => socket.send_to(&reply, peer).await.map(drop),
                    None => Ok(()),
                },
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "a portmapper's datagram was lost");
            }
        }
    }

    /// The reply to a call that came in a datagram, if it was one.
    fn datagram(&self, datagram: &[u8], peer: SocketAddr) -> Option<BytesMut> {
        let mut reply = BytesMut::new();
        let service = &self.shared.service;
        let denial = match Call::parse(datagram) {
            Err(Refusal::NotACall) => return None,
            Err(Refusal::Answer(xid, denial)) => (xid, denial),
            Ok(call) => match service.judge(&call) {
                Err(denial) => (call.xid, denial),
                Ok(task) => {
                    let who = super::fs::Caller {
                        address: peer.ip(),
                        uid: Ids::NOBODY,
                        gid: Ids::NOBODY,
                        groups: Vec::new(),
                    };
                    // A fault has been logged and answered.
                    let _ = service.run(task, &who, call.arguments, &mut reply);
                    return Some(reply);
                }
            },
        };
        service.deny(denial.0, denial.1, &mut reply);
        Some(reply)
    }

    async fn connection(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        place: Place,
        shutdown: CancellationToken,
    ) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "a socket option was refused");
        }
        let connection = Connection::new(Arc::clone(&self.shared), &self.cache, peer, stream);
        match connection.serve(&shutdown).await {
            Ok(()) => tracing::debug!(%peer, "NFS connection closed"),
            Err(error) => tracing::info!(%peer, %error, "NFS connection closed"),
        }
        drop(place);
    }

    /// Finds a place for a connection, unless there are too many.
    fn admit(&self, peer: SocketAddr) -> Option<Place> {
        let counters = self.counters();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = clients.get(&peer.ip()).copied().unwrap_or_default();
        if of_client >= self.limits.per_client
            || counters.open.load(Relaxed) >= self.limits.connections as u64
        {
            tracing::warn!(%peer, "NFS connection refused: too many");
            return None;
        }
        clients.insert(peer.ip(), of_client + 1);
        counters.accepted.fetch_add(1, Relaxed);
        counters.open.fetch_add(1, Relaxed);
        Some(Place { clients: Arc::clone(&self.clients), counters: Arc::clone(counters), client: peer.ip() })
    }
}

/// A connection's place among those allowed; given back when dropped.
struct Place {
    clients: Arc<Mutex<HashMap<IpAddr, usize>>>,
    counters: Arc<Counters>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Relaxed);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Replies go out at once, and a client that lost its power is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
