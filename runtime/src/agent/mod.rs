//! The agent `teselad`: what makes a booted node a member, and keeps it one.
//!
//! It connects to the master's control port with the node's certificate, says [`Hello`], and is a member
//! with the master's welcome; systemd hears `READY=1` then (sd_notify(3)), and `STATUS=` at each change.
//! From there on it sends a [`Heartbeat`] as often as it was told, and does what the master asks:
//!
//! - **Refresh**: files were rendered anew, and the kernel is made to look again ([`refresh`]).
//! - **Peers**: the list of nodes, for a member that has joined and has no root of the master's.
//!
//! A connection that ends, or on which nothing is heard for three heartbeats, is made again, after a
//! pause that doubles from [`FIRST_PAUSE`] to [`LONGEST_PAUSE`]; the node goes on undisturbed meanwhile,
//! for as long as the master is away. SIGTERM ends the connection cleanly, and the master knows at once.
//!
//! [`moves`] is its part in migration, beside that and whether there is a master or not.
//!
//! [`report`] is the early word, by HTTP, that the node's init runs, and then its agent.

mod balancer;
mod config;
mod facts;
mod histories;
mod idle;
pub mod moves;
mod notify;
mod peers;
mod pool;
pub mod power;
pub mod refresh;
pub mod report;
mod sys;

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{info, warn};

pub use config::{Config, ConfigError};
pub use peers::{Peer, Peers};

use crate::discovery::{self, Neighbours};
use crate::enroll::{KeyError, NodeKeys};
use crate::wire::{self, FrameError, FrameReader, Heartbeat, Hello, ToMaster, ToNode, frame, tls};

/// Before the first new try after a connection ended.
pub const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Between two tries at the most. Up to a quarter more, so that nodes do not all come at once.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long connecting, and the welcome, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a connection to the master ended or did not come about.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The node's keys cannot be used: it has to boot again.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// TLS cannot be set up with them.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection failed, or the master does not keep to the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Too slow or silent.
    #[error("the master says nothing")]
    Silent,
    /// The master closed the connection.
    #[error("the master closed the connection")]
    Closed,
}

impl From<std::io::Error> for SessionError {
    fn from(error: std::io::Error) -> Self {
        FrameError::Io(error).into()
    }
}

/// Is a member until `stop` comes, through any number of connections. The master's own agent has nobody to tell.
pub async fn run(config: &Config, neighbours: Option<&Neighbours>, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    if config.is_masters() {
        notify::tell(&format!("READY=1\nSTATUS=member of {}, which this machine serves", config.cluster));
        stop.await;
        notify::tell("STOPPING=1");
        return;
    }
    // Whoever waits for this program to be started does not wait for a master that may be somewhere else.
    notify::tell(&format!("READY=1\nSTATUS=looks for the master {}", config.master));
    let mut pause = FIRST_PAUSE;
    let mut last_problem = String::new();
    loop {
        let joined = tokio::select! {
            joined = Session::join(config, neighbours) => joined,
            () = &mut stop => break,
        };
        let (ended, was_member) = match joined {
            Ok(session) => (session.serve(config, &mut stop).await, true),
            Err(error) => (Err(error), false),
        };
        let Err(problem) = ended.map_err(|error| error.to_string()) else { break };
        if was_member {
            pause = FIRST_PAUSE;
        }
        if was_member || problem != last_problem {
            warn!(master = %config.master, %problem, "no connection to the master");
            notify::tell(&format!("STATUS=no connection to the master {}: {problem}", config.master));
        }
        last_problem = problem;
        tokio::select! {
            () = sleep(pause.mul_f32(1.0 + facts::random_quarter())) => {}
            () = &mut stop => break,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    notify::tell("STOPPING=1");
}

/// The others, for as long as the agent runs; `None`: they cannot be found, and the log says why.
pub async fn neighbours(config: &Config) -> Option<Arc<Neighbours>> {
    let opened = async {
        let key = NodeKeys::cluster_key(&config.keys).map_err(|error| error.to_string())?;
        let address = config.own_address().map_err(|error| format!("no address of its own: {error}"))?;
        let opened = Neighbours::open(address, &key).await;
        opened.map_err(|error| format!("cannot listen on {address}, UDP port {}: {error}", discovery::PORT))
    };
    match opened.await {
        Ok(neighbours) => Some(neighbours),
        Err(problem) => {
            tracing::error!(problem, "this node does not look for others");
            None
        }
    }
}

/// A connection on which the master said welcome.
struct Session {
    reader: FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    write: WriteHalf<TlsStream<TcpStream>>,
    beat: Duration,
}

impl Session {
    async fn join(config: &Config, neighbours: Option<&Neighbours>) -> Result<Self, SessionError> {
        let stream = within(PATIENCE, connect(config)).await?;
        let (read, mut write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read);
        within(PATIENCE, frame::send(&mut write, &ToMaster::Hello(facts::hello()))).await?;
        let welcome = match within(PATIENCE, reader.next()).await? {
            Some(ToNode::Welcome(welcome)) => welcome,
            Some(_) => return Err(std::io::Error::other("the master did not begin with a welcome").into()),
            None => return Err(SessionError::Closed),
        };
        info!(node = %config.node, master = %config.master, "member");
        notify::tell(&format!("STATUS=member of {} as {}", config.cluster, config.node));
        if let Some(neighbours) = neighbours {
            neighbours.seeds(&welcome.seeds);
        }
        let beat = Duration::from_secs(u64::from(welcome.heartbeat_seconds.clamp(1, 3600)));
        Ok(Session { reader, write, beat })
    }

    /// `Ok` only where `stop` came.
    async fn serve(
        mut self,
        config: &Config,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<(), SessionError> {
        let mut peers = Vec::new();
        let mut beats = tokio::time::interval_at(Instant::now() + self.beat, self.beat);
        let mut silent_from = Instant::now() + 3 * self.beat;
        // What the file system or the init makes wait must not make the heart stop.
        let (done, mut answers) = mpsc::channel(1);
        // The master waits to hear that this machine ends.
        let mut ending = false;
        loop {
            let say = tokio::select! {
                message = self.reader.next() => {
                    silent_from = Instant::now() + 3 * self.beat;
                    match message? {
                        Some(ToNode::Refresh(request)) => {
                            let done = done.clone();
                            tokio::task::spawn_blocking(move || {
                                // The channel is closed where the connection has ended meanwhile.
                                let answer = ToMaster::Refreshed(refresh::look_again(&request));
                                let _nobody_asks_any_more = done.blocking_send(answer);
                            });
                            continue;
                        }
                        Some(ToNode::Power(request)) => {
                            let done = done.clone();
                            ending = true;
                            tokio::task::spawn_blocking(move || {
                                let answer = ToMaster::Powering(power::end(request));
                                let _nobody_asks_any_more = done.blocking_send(answer);
                            });
                            continue;
                        }
                        Some(ToNode::Peers(part)) => {
                            peers.extend(part.peers);
                            if part.last
                                && let Err(problem) = config.set_peers(&std::mem::take(&mut peers))
                            {
                                warn!(%problem, "this node goes on with the nodes that it knows");
                            }
                            continue;
                        }
                        Some(ToNode::Welcome(_) | ToNode::Alive) => continue,
                        None => return Err(SessionError::Closed),
                    }
                }
                Some(answer) = answers.recv() => {
                    ending &= !matches!(answer, ToMaster::Powering(_));
                    answer
                }
                _ = beats.tick() => ToMaster::Heartbeat(facts::heartbeat()),
                () = tokio::time::sleep_until(silent_from) => return Err(SessionError::Silent),
                () = &mut stop => {
                    if ending && let Ok(Some(answer)) = timeout(PATIENCE, answers.recv()).await {
                        within(PATIENCE, frame::send(&mut self.write, &answer)).await?;
                    }
                    // Only courtesy: the master would notice by itself.
                    let _gone_either_way = timeout(PATIENCE, self.write.shutdown()).await;
                    return Ok(());
                }
            };
            within(PATIENCE, frame::send(&mut self.write, &say)).await?;
        }
    }
}

/// What takes longer counts as silence.
async fn within<T, E: Into<SessionError>>(
    patience: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, SessionError> {
    match timeout(patience, future).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(SessionError::Silent),
    }
}

async fn connect(config: &Config) -> Result<TlsStream<TcpStream>, SessionError> {
    let (identity, ca) = NodeKeys::identity(&config.keys)?;
    let tls = tls::client_config(tls::Fingerprint::of(&ca), wire::AGENT, Some(identity))?;
    let socket = TcpStream::connect(SocketAddrV4::new(config.master, config.control_port)).await?;
    socket.set_nodelay(true)?;
    Ok(TlsConnector::from(tls).connect(tls::master_name(), socket).await?)
}
