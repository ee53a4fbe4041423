//! One agent and another: whether a process may come, and the keys of the link on which it then does; or that
//! a guest has to be taken home.
//!
//! The two take turns, and neither reads on once it has what is due: an [`Ask`] and a [`Reply`] in TLS, then the
//! octet [`GO`] in the open. So when the link begins, there is nothing in any buffer of TLS, and nothing of
//! TLS's on the way. Who has slipped in the octet has gained nothing: all that follows is sealed.

use std::io;
use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use rustls::ConnectionCommon;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::places::Places;
use super::process::Process;
use super::side::{self, Ends};
use super::{HOMECOMING, Moves};
use crate::agent::{Config, ConfigError};
use crate::enroll::{KeyError, NodeKeys};
use crate::migrate::link::Keys;
use crate::wire::mutual::{self, Side};
use crate::wire::{Ask, Coming, FrameError, FrameReader, GO, Offer, Reply, Want, frame};

/// How long the other agent may take until both have agreed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that have not agreed yet, at a time.
const STRANGERS: usize = 64;
/// Of which one address has at the most so many: a node's users have its address as well.
const OF_ONE: usize = 16;
/// The longest name of a program that is believed, in characters: TASK_COMM_LEN, and room for escapes.
const NAME: usize = 64;

/// Why two agents do not agree.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It does not take the process.
    #[error("{0}")]
    Refused(String),
    /// It is not there, it is not a member, or does not keep to the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Ours: this node's keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// TLS, with one side's keys.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// It is silent.
    #[error("it says nothing for {} s", PATIENCE.as_secs())]
    Silent,
    /// It does not listen to this one.
    #[error(
        "it has hung up: it hears {OF_ONE} of one address at a time, and so many of this node's connections to it \
         wait already. Ask again in {} s",
        PATIENCE.as_secs()
    )]
    HungUp,
    /// Ours: the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<io::Error> for PeerError {
    fn from(error: io::Error) -> Self {
        FrameError::Io(error).into()
    }
}

/// Asks a node's agent to take a process in, and those that share memory with it. What comes back is the link's.
pub async fn send(
    config: &Config,
    node: &str,
    address: Ipv4Addr,
    process: &Process,
    company: &[Process],
    offer: Option<Offer>,
) -> Result<(std::net::TcpStream, Keys), PeerError> {
    let uid = process.uids[1];
    // Where several users share memory, whoever rules one of them there rules all.
    let privileged =
        process.privileged() || company.iter().any(|other| other.privileged() || other.uids[1] != uid);
    let coming = Coming { pid: process.pid, uid, name: process.name.clone(), privileged, offer };
    let agreed = timeout(PATIENCE, async {
        let mut stream = ask(config, node, address, Want::TakeIn(coming)).await?;
        answered(&mut stream).await?;
        let (mut socket, session) = stream.into_inner();
        let keys = end(&session, Side::Asks)?;
        socket.write_all(&[GO]).await?;
        Ok((plain(socket)?, keys))
    });
    agreed.await.unwrap_or(Err(PeerError::Silent))
}

/// Asks the agent of a guest's home to take it home, and waits until it has.
pub async fn send_home(config: &Config, node: &str, address: Ipv4Addr, pid: i32) -> Result<(), PeerError> {
    let asked = timeout(PATIENCE, ask(config, node, address, Want::TakeHome { pid }));
    let mut stream = asked.await.unwrap_or(Err(PeerError::Silent))?;
    timeout(HOMECOMING + PATIENCE, answered(&mut stream)).await.unwrap_or(Err(PeerError::Silent))
}

async fn ask(
    config: &Config,
    node: &str,
    address: Ipv4Addr,
    want: Want,
) -> Result<client::TlsStream<TcpStream>, PeerError> {
    let socket = TcpSocket::new_v4()?;
    if let Some(own) = config.address {
        // It is by this address that the other agent knows us.
        socket.bind(SocketAddrV4::new(own, 0).into())?;
    }
    let stream = socket.connect(SocketAddrV4::new(address, config.agents_port).into()).await?;
    stream.set_nodelay(true)?;
    let (identity, ca) = NodeKeys::identity(&config.keys)?;
    let connector = TlsConnector::from(mutual::asks(identity, ca)?);
    let mut stream = match connector.connect(mutual::name_of(node)?, stream).await {
        Err(error) if matches!(error.kind(), UnexpectedEof | ConnectionReset) => {
            return Err(PeerError::HungUp);
        }
        connected => connected?,
    };
    frame::send(&mut stream, &Ask { version: Ask::VERSION, node: config.node.clone(), want }).await?;
    Ok(stream)
}

async fn answered(stream: &mut client::TlsStream<TcpStream>) -> Result<(), PeerError> {
    match FrameReader::new(stream).next().await? {
        Some(Reply::Accepted) => Ok(()),
        Some(Reply::Refused { reason }) => Err(PeerError::Refused(reason)),
        None => Err(FrameError::Truncated.into()),
    }
}

/// TLS is over: nothing may be left in it.
fn end<T>(session: &ConnectionCommon<T>, side: Side) -> Result<Keys, PeerError> {
    if session.wants_write() {
        return Err(io::Error::other("TLS has something left to say").into());
    }
    Ok(mutual::link_keys(session, side)?)
}

/// As the programs take it, which know no readiness.
fn plain(socket: TcpStream) -> io::Result<std::net::TcpStream> {
    let socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// Takes in what other agents send, for ever.
pub async fn serve(moves: Arc<Moves>, listener: TcpListener) {
    let strangers = Places::new(STRANGERS, OF_ONE);
    loop {
        let permit = strangers.next().await;
        let (socket, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory (accept(2)): some come free as connections end.
                tracing::warn!(%error, "the agents' port cannot accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = strangers.take(permit, from.ip()) else {
            tracing::warn!(%from, "is not heard: {OF_ONE} others of that address have not said yet what they want");
            continue;
        };
        let moves = Arc::clone(&moves);
        tokio::spawn(async move {
            let heard = timeout(PATIENCE, hear(&moves, socket, from)).await.unwrap_or(Err(PeerError::Silent));
            drop(place);
            let done = match heard {
                Ok((config, ask, stream)) => answer(&moves, &config, ask, stream).await,
                // As `doctor` does, to see whether a connection comes about.
                Err(PeerError::Frame(FrameError::Io(error)))
                    if error.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    tracing::debug!(%from, "has gone before it said what it wants");
                    return;
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!(%from, %error, "another agent's wish was not met");
            }
        });
    }
}

/// Who asks for what: a member, and he is let.
async fn hear(
    moves: &Moves,
    socket: TcpStream,
    from: SocketAddr,
) -> Result<(Config, Ask, server::TlsStream<TcpStream>), PeerError> {
    let config = moves.config()?;
    socket.set_nodelay(true)?;
    let (identity, ca) = NodeKeys::identity(&config.keys)?;
    let mut stream = TlsAcceptor::from(mutual::answers(identity, ca)?).accept(socket).await?;
    let ask: Ask = FrameReader::new(&mut stream).next().await?.ok_or(FrameError::Truncated)?;
    match admit(moves, &config, &ask, certificate(&stream), from.ip())? {
        Ok(()) => Ok((config, ask, stream)),
        Err(reason) => Err(refuse(stream, reason).await?),
    }
}

async fn refuse(mut stream: server::TlsStream<TcpStream>, reason: String) -> Result<PeerError, PeerError> {
    frame::send(&mut stream, &Reply::Refused { reason: reason.clone() }).await?;
    // Only courtesy: the reply is whole in itself.
    let _gone_either_way = stream.shutdown().await;
    Ok(PeerError::Refused(reason))
}

async fn answer(
    moves: &Moves,
    config: &Config,
    ask: Ask,
    mut stream: server::TlsStream<TcpStream>,
) -> Result<(), PeerError> {
    match ask.want {
        Want::TakeIn(coming) => timeout(PATIENCE, take_in(config, &ask.node, &coming, stream))
            .await
            .unwrap_or(Err(PeerError::Silent)),
        Want::GuestGone { pid, port } => {
            if let Err(error) = moves.guest_is_gone(config, &ask.node, pid, port) {
                tracing::warn!(pid, node = ask.node, %error, "what keeps its deputy is not told that it is gone");
            }
            Ok(timeout(PATIENCE, frame::send(&mut stream, &Reply::Accepted))
                .await
                .map_err(|_| PeerError::Silent)??)
        }
        Want::TakeHome { pid } => match moves.take_home(config, &ask.node, pid).await {
            Ok(()) => {
                let sent = timeout(PATIENCE, frame::send(&mut stream, &Reply::Accepted)).await;
                Ok(sent.map_err(|_| PeerError::Silent)??)
            }
            Err(error) => {
                let refused = timeout(PATIENCE, refuse(stream, error.to_string())).await;
                Err(refused.map_err(|_| PeerError::Silent)??)
            }
        },
    }
}

async fn take_in(
    config: &Config,
    node: &str,
    coming: &Coming,
    mut stream: server::TlsStream<TcpStream>,
) -> Result<(), PeerError> {
    frame::send(&mut stream, &Reply::Accepted).await?;
    let (mut socket, session) = stream.into_inner();
    let keys = end(&session, Side::Answers)?;
    if socket.read_u8().await? != GO {
        return Err(io::Error::other("what comes is not the beginning of a link").into());
    }
    let name: String = coming.name.chars().filter(|c| !c.is_control()).take(NAME).collect();
    tracing::info!(node, pid = coming.pid, uid = coming.uid, name, "takes a process in");
    // `block` may have been said since, and then nobody would look for this one.
    if config.is_blocked()?.is_some() {
        return Err(io::Error::other("no guests are let in any more").into());
    }
    let user = (!coming.privileged && coming.uid != 0).then_some(coming.uid);
    let home = socket.peer_addr()?;
    let ends = Ends { here: &config.node, there: node };
    let guest = side::take_in(ends, user, plain(socket)?, keys).await?;
    let (config, node, pid) = (config.clone(), node.to_owned(), coming.pid);
    tokio::spawn(async move {
        if !guest.await.unwrap_or(false)
            && let Err(error) = tell_gone(&config, &node, home, pid).await
        {
            // It finds out by itself, later.
            tracing::debug!(node, pid, %error, "its home does not hear that a guest is gone");
        }
    });
    Ok(())
}

/// Tells the home of a guest whose program has failed here: the network is there, and so it need not wait for it.
async fn tell_gone(config: &Config, node: &str, home: SocketAddr, pid: i32) -> Result<(), PeerError> {
    let IpAddr::V4(address) = home.ip() else { return Ok(()) };
    timeout(PATIENCE, async {
        let want = Want::GuestGone { pid, port: home.port() };
        answered(&mut ask(config, node, address, want).await?).await
    })
    .await
    .unwrap_or(Err(PeerError::Silent))
}

fn certificate(stream: &server::TlsStream<TcpStream>) -> Option<&CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates()?.first()
}

/// Whether the wish is let; the reason why not is for whoever has asked.
fn admit(
    moves: &Moves,
    config: &Config,
    ask: &Ask,
    certificate: Option<&CertificateDer<'_>>,
    from: IpAddr,
) -> Result<Result<(), String>, PeerError> {
    let (here, node) = (&config.node, &ask.node);
    if ask.version != Ask::VERSION {
        return Ok(Err(format!("it speaks version {} of the protocol, not {}", Ask::VERSION, ask.version)));
    }
    if !certificate.is_some_and(|certificate| mutual::is_of(certificate, node)) {
        return Ok(Err(format!("the certificate is not that of `{node}`")));
    }
    // The certificate of a node that has left cluster.yaml does not end by itself.
    let Some(peer) = config.peers()?.named(node).cloned() else {
        return Ok(Err(format!("{here} knows no node `{node}`")));
    };
    if let Some(address) = peer.address
        && from != IpAddr::V4(address)
    {
        return Ok(Err(format!("{node} has the address {address}, and the call comes from {from}")));
    }
    let Want::TakeIn(coming) = &ask.want else { return Ok(Ok(())) };
    if let Some(why) = config.is_blocked()? {
        return Ok(Err(format!("{here} lets no guests in: {why}")));
    }
    if (coming.privileged || coming.uid == 0) && !config.trusted {
        return Ok(Err(format!(
            "processes that are root's or have capabilities run only on nodes that are `trusted` in cluster.yaml, \
             and {here} is not"
        )));
    }
    if let Some(offer) = &coming.offer
        && let Err(why) = moves.balancer().consider(offer)
    {
        return Ok(Err(format!("{here} takes none by itself now: {why}")));
    }
    Ok(Ok(()))
}
