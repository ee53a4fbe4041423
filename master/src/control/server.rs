//! The listener: TLS, and which of the two conversations a caller wants.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{Control, Member, PATIENCE, STRANGERS, STRANGERS_EACH, agents, enroll};
use crate::places::{Place, Places};
use tesela_runtime::wire;

/// How long who was turned away still counts as a stranger.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Serves until `stop`; the connections that there are then end as well.
pub async fn serve(control: Arc<Control>, listener: TcpListener, stop: CancellationToken) {
    // Those who have not said who they are.
    let strangers = Places::new(STRANGERS, STRANGERS_EACH);
    let connections = TaskTracker::new();
    loop {
        let (socket, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or memory (accept(2)): some come free as connections end.
                    warn!(%error, "the control port cannot accept");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let Some(stranger) = strangers.take(peer.ip()) else {
            control.metrics.strangers.inc();
            debug!(%peer, "too many connections that have not said who they are");
            continue;
        };
        let (control, stop) = (control.clone(), stop.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection(control, socket, peer, stranger) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection(control: Arc<Control>, socket: TcpStream, peer: SocketAddr, stranger: Place) {
    let deadline = Instant::now() + PATIENCE;
    let stream = match timeout_at(deadline, handshake(&control, socket)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            control.metrics.strangers.inc();
            let error = failed.map_or_else(
                |_| "too slow".to_owned(),
                |failed| match failed {
                    Ok(_) => String::new(),
                    Err(error) => error.to_string(),
                },
            );
            debug!(%peer, error, "no TLS");
            return;
        }
    };
    let Caller { address, member } = Caller::new(&control, peer);
    let node = member.as_ref().map(|member| member.name.clone());
    let reason = match stream.get_ref().1.alpn_protocol() {
        Some(wire::ENROLL) => {
            enroll::conversation(&control, stream, deadline, peer.port(), address, member).await
        }
        Some(wire::AGENT) => match admit_agent(&control, &stream, address, member) {
            Ok(member) => {
                return agents::conversation(&control, stream, deadline, address, member, stranger).await;
            }
            Err(reason) => Some(reason.to_owned()),
        },
        _ => Some("no protocol of ours".to_owned()),
    };
    if let Some(reason) = reason {
        control.metrics.refused.inc();
        warn!(%address, node, reason, "turned away at the control port");
        control.members.refused(address, node.as_deref(), &reason);
        // The place among the strangers stays taken for a while: nobody can fill the log.
        sleep(AFTER_REFUSAL).await;
    }
    drop(stranger);
}

async fn handshake(control: &Control, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    TlsAcceptor::from(control.tls.clone()).accept(socket).await
}

struct Caller {
    address: Ipv4Addr,
    member: Option<Member>,
}

impl Caller {
    fn new(control: &Control, peer: SocketAddr) -> Self {
        match peer.ip().to_canonical() {
            IpAddr::V4(address) => Caller { address, member: control.members.at(address) },
            IpAddr::V6(_) => Caller { address: Ipv4Addr::UNSPECIFIED, member: None },
        }
    }
}

/// The CA has signed the certificate, or TLS would have failed; now it must be this node's, and its last.
fn admit_agent(
    control: &Control,
    stream: &TlsStream<TcpStream>,
    address: Ipv4Addr,
    member: Option<Member>,
) -> Result<Member, &'static str> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or("an agent without a certificate")?;
    let is_current = |member: &Member| control.keys.is_current(&member.name, certificate);
    let member = match member {
        Some(member) if is_current(&member) => return Ok(member),
        member => member,
    };
    // One that has joined may be anywhere.
    let joined = control.keys.holder(certificate).and_then(|node| control.members.joining(&node, address));
    match joined.filter(is_current) {
        Some(joined) => Ok(joined),
        None if member.is_some() => Err("not the certificate that this node got last"),
        None => Err("no node holds this address"),
    }
}
