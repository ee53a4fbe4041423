//! The listener: TLS, and which of the two conversations a caller wants.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{Control, Member, PATIENCE, STRANGERS, STRANGERS_EACH, agents, enroll};
use tesela_runtime::wire;

/// How long who was turned away still counts as a stranger.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Serves until `stop`; the connections that there are then end as well.
pub async fn serve(control: Arc<Control>, listener: TcpListener, stop: CancellationToken) {
    let strangers = Strangers::default();
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
        let Some(stranger) = strangers.admit(peer.ip()) else {
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

async fn connection(control: Arc<Control>, socket: TcpStream, peer: SocketAddr, stranger: Stranger) {
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
        Some(wire::AGENT) => match admit_agent(&control, &stream, member) {
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
    member: Option<Member>,
) -> Result<Member, &'static str> {
    let member = member.ok_or("no node holds this address")?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match certificate {
        None => Err("an agent without a certificate"),
        Some(certificate) if control.keys.is_current(&member.name, certificate) => Ok(member),
        Some(_) => Err("not the certificate that this node got last"),
    }
}

/// Those who have not said who they are, counted by address.
#[derive(Clone, Default)]
struct Strangers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place among them, given back on drop.
pub(super) struct Stranger {
    all: Strangers,
    address: IpAddr,
}

impl Strangers {
    fn admit(&self, address: IpAddr) -> Option<Stranger> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(&address).copied().unwrap_or(0);
        if own >= STRANGERS_EACH || counts.values().sum::<usize>() >= STRANGERS {
            return None;
        }
        counts.insert(address, own + 1);
        Some(Stranger { all: self.clone(), address })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_counted_by_address_and_forgotten() {
        let strangers = Strangers::default();
        let address = |i: usize| IpAddr::from([10, 0, 0, u8::try_from(i).unwrap()]);
        let mut all: Vec<Stranger> =
            (0..STRANGERS_EACH).filter_map(|_| strangers.admit(address(1))).collect();
        assert_eq!(all.len(), STRANGERS_EACH);
        assert!(strangers.admit(address(1)).is_none());
        for i in 2..200 {
            all.extend((0..STRANGERS_EACH).filter_map(|_| strangers.admit(address(i))));
        }
        assert_eq!(all.len(), STRANGERS);
        drop(all);
        assert!(strangers.0.lock().unwrap().is_empty());
        assert!(strangers.admit(address(1)).is_some());
    }
}
