//! The agents that are connected.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tesela_runtime::agent::Peer;
use tesela_runtime::wire::{
    FrameReader, PeersPart, Power, PowerAction, Refresh, ToMaster, ToNode, Welcome, frame,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use super::{Control, Ended, HEARTBEAT, Member, PATIENCE};
use crate::places::Place;

/// How many things a node can be asked for at once before the asker has to wait.
const QUEUE: usize = 16;

/// How many others a node is told of with its welcome.
const SEEDS: usize = 8;

/// The agents that are connected. Clones are handles to the same.
#[derive(Clone, Default)]
pub struct Agents(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    connected: HashMap<String, Connected>,
    last: u64,
}

struct Connected {
    /// Which connection, of all that there were.
    number: u64,
    address: Ipv4Addr,
    requests: mpsc::Sender<Request>,
}

/// What a node is asked for, with who waits to hear what of it failed.
struct Request {
    ask: Ask,
    answer: oneshot::Sender<Vec<String>>,
}

/// The connection numbers it.
enum Ask {
    Refresh(Refresh),
    Power(PowerAction),
}

/// Why a node did not do what it was asked for, as far as is known. It looks again at files by itself within a minute, or
/// sees all anew when it boots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Its agent is not connected, or went while it was asked.
    #[error("the agent is not connected, or too old for this")]
    NotConnected,
    /// It did not answer in time.
    #[error("the agent did not answer within {0:?}")]
    Late(Duration),
    /// It could not look at some of the paths.
    #[error("the node cannot look at {}", .0.join(", "))]
    Failed(Vec<String>),
    /// It cannot.
    #[error("{0}")]
    Refused(String),
}

impl Agents {
    /// The names of the nodes whose agents are connected, in no order.
    pub fn connected(&self) -> Vec<String> {
        self.lock().connected.keys().cloned().collect()
    }

    /// The addresses of the agents that connected last, but this node's: newcomers find each other, too.
    fn some(&self, but: &str) -> Vec<Ipv4Addr> {
        let table = self.lock();
        let mut others: Vec<&Connected> =
            table.connected.iter().filter(|(name, _)| *name != but).map(|(_, other)| other).collect();
        others.sort_unstable_by_key(|other| Reverse(other.number));
        others.iter().take(SEEDS).map(|other| other.address).collect()
    }

    /// Has `node` look again at these absolute paths, and waits until it has, for `patience` at most: an
    /// open on the node that begins after this sees what is there now.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn refresh(
        &self,
        node: &str,
        paths: impl IntoIterator<Item = String>,
        patience: Duration,
    ) -> Result<(), AskError> {
        let failed =
            self.ask(node, Refresh::in_frames(0, paths).into_iter().map(Ask::Refresh), patience).await?;
        if failed.is_empty() { Ok(()) } else { Err(AskError::Failed(failed)) }
    }

    /// Has the machine of `node` end, and waits until it has begun to.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn power(&self, node: &str, action: PowerAction, patience: Duration) -> Result<(), AskError> {
        let failed = self.ask(node, [Ask::Power(action)], patience).await?;
        failed.into_iter().next().map_or(Ok(()), |why| Err(AskError::Refused(why)))
    }

    /// Asks `node` for all this at once; what of it failed.
    async fn ask(
        &self,
        node: &str,
        all: impl IntoIterator<Item = Ask>,
        patience: Duration,
    ) -> Result<Vec<String>, AskError> {
        let requests = self.lock().connected.get(node).map(|connected| connected.requests.clone());
        let requests = requests.ok_or(AskError::NotConnected)?;
        let asked = async {
            let mut answers = Vec::new();
            for ask in all {
                let (answer, answered) = oneshot::channel();
                requests.send(Request { ask, answer }).await.map_err(|_| AskError::NotConnected)?;
                answers.push(answered);
            }
            let mut failed = Vec::new();
            for answered in answers {
                failed.extend(answered.await.map_err(|_| AskError::NotConnected)?);
            }
            Ok(failed)
        };
        timeout(patience, asked).await.unwrap_or(Err(AskError::Late(patience)))
    }

    /// A new connection of a node; the one before it, if any, finds its requests closed.
    fn enter(&self, node: &str, address: Ipv4Addr) -> (u64, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        table.connected.insert(node.to_owned(), Connected { number, address, requests });
        (number, receiver)
    }

    /// Ends the connection of a node's earlier boot, with no word of it.
    pub(super) fn forget(&self, node: &str) {
        self.lock().connected.remove(node);
    }

    /// Whether this connection was still the node's.
    fn leave(&self, node: &str, number: u64) -> bool {
        let mut table = self.lock();
        let own = table.connected.get(node).is_some_and(|connected| connected.number == number);
        if own {
            table.connected.remove(node);
        }
        own
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing that holds it can panic halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the table and the figures right however a conversation ends, cancelled ones included.
struct Presence<'a> {
    control: &'a Control,
    node: String,
    number: u64,
    reason: String,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.control.metrics.agents.dec();
        if self.control.agents.leave(&self.node, self.number) {
            info!(node = self.node, reason = self.reason, "member gone");
            self.control.members.gone(&self.node, &self.reason);
        }
    }
}

pub(super) async fn conversation(
    control: &Control,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    deadline: Instant,
    address: Ipv4Addr,
    member: Member,
    stranger: Place,
) {
    let (read, write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read);
    let hello = match timeout_at(deadline, reader.next()).await {
        Ok(Ok(Some(ToMaster::Hello(hello)))) => hello,
        failed => {
            control.metrics.strangers.inc();
            warn!(node = member.name, ?failed, "{}", Ended::NoHello);
            return;
        }
    };
    drop(stranger);
    let (number, requests) = control.agents.enter(&member.name, address);
    control.metrics.agents.inc();
    let reason = "the master stops".to_owned();
    let mut presence = Presence { control, node: member.name, number, reason };
    info!(node = presence.node, %address, kernel = hello.kernel, "member");
    control.members.joined(&presence.node, address, &hello);
    let mut session = Session {
        control,
        node: presence.node.clone(),
        address,
        write,
        pending: HashMap::new(),
        next_id: 0,
        peers: None,
    };
    presence.reason = session.run(reader, requests).await.to_string();
    // Whoever is still there learns that it ends.
    let _gone_either_way = timeout(PATIENCE, session.write.shutdown()).await;
}

struct Session<'a, W> {
    control: &'a Control,
    node: String,
    address: Ipv4Addr,
    write: W,
    pending: HashMap<u64, oneshot::Sender<Vec<String>>>,
    next_id: u64,
    /// What it was told of the nodes last.
    peers: Option<Vec<Peer>>,
}

impl<W: AsyncWrite + Unpin> Session<'_, W> {
    async fn run(
        &mut self,
        mut reader: FrameReader<impl AsyncRead + Unpin>,
        mut requests: mpsc::Receiver<Request>,
    ) -> Ended {
        let heartbeat_seconds = u32::try_from(HEARTBEAT.as_secs()).unwrap_or(u32::MAX);
        let seeds =
            self.control.members.master().into_iter().chain(self.control.agents.some(&self.node)).collect();
        let mut said = self.say(ToNode::Welcome(Welcome { heartbeat_seconds, seeds })).await;
        if said.is_ok() {
            said = self.tell_peers().await;
        }
        let mut silent_from = Instant::now() + 3 * HEARTBEAT;
        while said.is_ok() {
            said = tokio::select! {
                message = reader.next() => {
                    silent_from = Instant::now() + 3 * HEARTBEAT;
                    match message {
                        Ok(Some(message)) => self.heard(message).await,
                        Ok(None) => Err(Ended::Closed),
                        Err(error) => Err(error.into()),
                    }
                }
                request = requests.recv() => match request {
                    Some(request) => self.ask(request).await,
                    None => Err(Ended::Replaced),
                },
                () = sleep_until(silent_from) => Err(Ended::Silent),
            };
        }
        said.err().unwrap_or(Ended::Closed)
    }

    async fn ask(&mut self, Request { ask, answer }: Request) -> Result<(), Ended> {
        self.next_id += 1;
        let id = self.next_id;
        self.pending.retain(|_, answer| !answer.is_closed());
        self.pending.insert(id, answer);
        let message = match ask {
            Ask::Refresh(refresh) => ToNode::Refresh(Refresh { id, ..refresh }),
            Ask::Power(action) => ToNode::Power(Power { id, action }),
        };
        self.say(message).await
    }

    fn answered(&mut self, id: u64, failed: Vec<String>) {
        if let Some(answer) = self.pending.remove(&id) {
            // Who asked may have stopped waiting.
            let _nobody_waits = answer.send(failed);
        }
    }

    async fn heard(&mut self, message: ToMaster) -> Result<(), Ended> {
        match message {
            ToMaster::Hello(_) => Err(Ended::NoHello),
            ToMaster::Heartbeat(heartbeat) => {
                let still =
                    self.control.members.at(self.address).is_some_and(|member| member.name == self.node);
                if !still {
                    return Err(Ended::NotAMember);
                }
                self.control.metrics.heartbeats.inc();
                self.control.members.heartbeat(&self.node, &heartbeat);
                self.say(ToNode::Alive).await?;
                self.tell_peers().await
            }
            ToMaster::Refreshed(refreshed) => {
                self.answered(refreshed.id, refreshed.failed);
                Ok(())
            }
            ToMaster::Powering(powering) => {
                self.answered(powering.id, powering.failed.into_iter().collect());
                Ok(())
            }
        }
    }

    /// Says which nodes there are, to one that has joined, where that is news.
    async fn tell_peers(&mut self) -> Result<(), Ended> {
        let peers = self.control.members.peers(&self.node);
        if peers != self.peers {
            for part in peers.iter().flat_map(|peers| PeersPart::in_frames(peers)) {
                self.say(ToNode::Peers(part)).await?;
            }
            self.peers = peers;
        }
        Ok(())
    }

    async fn say(&mut self, message: ToNode) -> Result<(), Ended> {
        match timeout(PATIENCE, frame::send(&mut self.write, &message)).await {
            Ok(said) => Ok(said?),
            Err(_) => Err(Ended::Silent),
        }
    }
}
