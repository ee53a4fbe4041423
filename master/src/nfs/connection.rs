//! One TCP connection: reads calls, carries the quick ones out at once, hands the others to the
//! pool, and writes replies as they come.
//!
//! A single task owns all of it. It stops reading while too much waits: replies that the
//! client does not take, calls in progress, or memory that all connections together have used up.

use super::cache::{Begin, Key, Peer, ReplyCache};
use super::counters::Counters;
use super::fs::Caller;
use super::output::{Output, Reply, frame};
use super::pool::Pool;
use super::record::{MAX_RECORD, RecordError, RecordReader};
use super::rpc::{Call, Credential, Denial, Ids, Refusal};
use super::service::{Service, Task};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Calls of one connection that are in progress at a time; the next ones wait in its socket.
const MAX_PENDING: usize = 64;
/// Octets of replies that may wait for one client to take them, before no more calls are read.
const MAX_QUEUED: usize = 2 * 1024 * 1024;
/// Calls and replies from this size on are counted against the bound of all connections together.
const COUNTED: usize = 8 * 1024;
/// The unit of that bound.
const UNIT: usize = 1024;
/// The first port that any user may bind.
const FIRST_OF_ALL: u16 = 1024;
/// How often a connection looks whether it is still of use.
const TICK: Duration = Duration::from_secs(15);
/// A client that leaves a call unfinished or a reply untaken for so long is gone.
const STALLED: Duration = Duration::from_secs(60);
/// A connection without a call for so long is closed; Linux closes its own after 5 minutes, and
/// connects again when it needs to.
const IDLE: Duration = Duration::from_secs(600);
/// How long a shutdown waits for calls in progress and for the client to take their replies.
const DRAIN: Duration = Duration::from_secs(10);

/// What all connections of a server share.
pub struct Shared {
    /// What is served.
    pub service: Service,
    /// Where calls that can block are carried out.
    pub pool: Pool,
    /// The memory, in units of 1024 octets, that calls and replies may take.
    pub budget: Arc<Semaphore>,
    /// Whether calls from a port that any user can have are denied.
    pub only_root_calls: bool,
}

/// Makes a bound on the memory of calls and replies.
pub fn budget(octets: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((octets / UNIT).min(Semaphore::MAX_PERMITS)))
}

/// Memory of a call or reply: of its client's share, and of all.
#[derive(Debug)]
struct Permit {
    _share: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// Why a connection ended, other than by the client or by a shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// Its octets make no sense.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record is no call.
    #[error("a record that is not an RPC call (the client's fault)")]
    NotACall,
    /// The client went away without closing it.
    #[error("nothing moved for {} seconds (the client is gone, or the network)", STALLED.as_secs())]
    Stalled,
}

/// A reply that came from the pool, with its share of the memory bound.
pub struct Finished {
    reply: Reply,
    permit: Option<Permit>,
}

/// Who waits for a call: the connection it came over.
pub type Waiter = mpsc::UnboundedSender<Finished>;

/// A connection being served.
pub struct Connection {
    shared: Arc<Shared>,
    peer: SocketAddr,
    replies: Arc<Peer<Waiter>>,
    hash: Arc<ReplyCache<Waiter>>,
    reader: RecordReader,
    output: Output,
    /// Memory of replies in `output`: given back when the stream has been written up to there.
    held: VecDeque<(u64, Permit)>,
    /// Memory of the long call that is now being read.
    reading: Option<Permit>,
    /// A call for which there is no memory at the moment, and how much it needs.
    starved: Option<(Bytes, usize)>,
    pending: usize,
    finished: (Waiter, mpsc::UnboundedReceiver<Finished>),
    /// The last credential, decoded: it is the same for thousands of calls.
    caller: Option<(Vec<u8>, Arc<Caller>)>,
    closing: bool,
}

impl Connection {
    /// A connection from `peer`.
    pub fn new(shared: Arc<Shared>, cache: &Arc<ReplyCache<Waiter>>, peer: SocketAddr) -> Self {
        Self {
            shared,
            peer,
            replies: cache.peer(peer.ip()),
            hash: Arc::clone(cache),
            reader: RecordReader::default(),
            output: Output::default(),
            held: VecDeque::new(),
            reading: None,
            starved: None,
            pending: 0,
            finished: mpsc::unbounded_channel(),
            caller: None,
            closing: false,
        }
    }

    /// Serves it until the client closes it or `shutdown` is called; calls in progress are still answered.
    pub async fn serve(
        mut self,
        mut stream: TcpStream,
        shutdown: &CancellationToken,
    ) -> Result<(), ConnectionError> {
        let (mut input, output) = stream.split();
        let mut cancelled = pin!(shutdown.cancelled());
        let mut timer = pin!(tokio::time::sleep(TICK));
        let mut moved = Instant::now();
        let mut drained_by = None;
        loop {
            self.take_calls()?;
            self.write(&output)?;
            if self.closing && self.pending == 0 && self.output.is_empty() {
                return Ok(());
            }
            let need = self.need();
            let reads = !self.closing && need.is_none() && self.has_room();
            tokio::select! {
                read = input.read_buf(self.reader.space()), if reads => {
                    let read = read?;
                    self.closing = read == 0;
                    Counters::count(&self.shared.service.counters().received, read);
                    moved = Instant::now();
                }
                Some(first) = self.finished.1.recv(), if self.pending > 0 => {
                    self.finish(first);
                    while let Ok(next) = self.finished.1.try_recv() {
                        self.finish(next);
                    }
                    moved = Instant::now();
                }
                ready = output.ready(Interest::WRITABLE), if !self.output.is_empty() => {
                    ready?;
                    moved = Instant::now();
                }
                permit = acquire(self.replies.share(), &self.shared.budget, need.unwrap_or_default()), if need.is_some() => {
                    match self.starved.take() {
                        Some((record, _)) => self.call(record, permit)?,
                        None => self.reading = permit,
                    }
                    moved = Instant::now();
                }
                () = &mut cancelled, if drained_by.is_none() => {
                    self.closing = true;
                    let by = Instant::now() + DRAIN;
                    timer.as_mut().reset(by);
                    drained_by = Some(by);
                }
                () = &mut timer => {
                    let (now, still) = (Instant::now(), moved.elapsed());
                    let stalls = !self.output.is_empty() || reads && self.reader.is_within_record();
                    if drained_by.is_some_and(|by| now >= by) || stalls && still >= STALLED {
                        return Err(ConnectionError::Stalled);
                    }
                    if self.pending == 0 && still >= IDLE {
                        return Ok(());
                    }
                    if still >= TICK {
                        self.reader.release();
                        self.output.release();
                    }
                    timer.as_mut().reset(now + TICK);
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.starved.is_none() && self.pending < MAX_PENDING && self.output.len() < MAX_QUEUED
    }

    /// The memory that there has to be before this connection goes on.
    fn need(&self) -> Option<usize> {
        match &self.starved {
            Some((_, need)) => Some(*need),
            None if self.reading.is_none() && self.reader.begun() > COUNTED => {
                Some(self.reader.begun().min(MAX_RECORD).div_ceil(UNIT))
            }
            None => None,
        }
    }

    /// Takes the calls that are whole.
    fn take_calls(&mut self) -> Result<(), ConnectionError> {
        while self.has_room() && !self.closing {
            let Some(record) = self.reader.take()? else { break };
            let permit = self.reading.take();
            self.call(record, permit)?;
        }
        Ok(())
    }

    /// Carries out a call or has it carried out; without the memory that it needs it is put by.
    fn call(&mut self, record: Bytes, permit: Option<Permit>) -> Result<(), ConnectionError> {
        let call = match Call::parse(&record) {
            Ok(call) => call,
            Err(Refusal::NotACall) => return Err(ConnectionError::NotACall),
            Err(Refusal::Answer(xid, denial)) => {
                self.deny(xid, denial);
                return Ok(());
            }
        };
        let judged = self.shared.service.judge(&call);
        let (task, who) = match judged.and_then(|task| Ok((task, self.caller(call.credential)?))) {
            Ok(judged) => judged,
            Err(denial) => {
                self.deny(call.xid, denial);
                return Ok(());
            }
        };
        let size = record.len().max(task.reply_size);
        let permit = match permit {
            None if size > COUNTED => {
                let need = size.div_ceil(UNIT);
                match try_acquire(self.replies.share(), &self.shared.budget, need) {
                    None => {
                        self.starved = Some((record, need));
                        return Ok(());
                    }
                    permit => permit,
                }
            }
            permit => permit,
        };
        let key = task.replayed.then(|| self.hash.key(call.xid, call.procedure, &record[12..]));
        if let Some(key) = key {
            match self.replies.begin(key, || self.finished.0.clone()) {
                Begin::New => {}
                Begin::Waits => {
                    self.pending += 1;
                    return Ok(());
                }
                Begin::Replay(head) => {
                    Counters::count(&self.shared.service.counters().replayed, 1);
                    self.output.push(Reply { head, data: Bytes::new() });
                    return Ok(());
                }
            }
        }
        if task.blocks {
            let arguments = record.slice_ref(call.arguments);
            self.submit(task, key, who, arguments, permit);
        } else {
            self.run(task, key, &who, call.arguments);
            self.hold(permit);
        }
        Ok(())
    }

    /// Carries out a quick task.
    fn run(&mut self, task: Task, key: Option<Key>, who: &Caller, arguments: &[u8]) {
        let mut fault = false;
        let service = &self.shared.service;
        let reply = self.output.message(|out| {
            service.run(task, who, arguments, out).unwrap_or_else(|_| {
                fault = true;
                None
            })
        });
        if let Some(key) = key {
            settle(&self.replies, key, reply, fault);
        }
    }

    /// Hands a task to the pool.
    fn submit(
        &mut self,
        task: Task,
        key: Option<Key>,
        who: Arc<Caller>,
        arguments: Bytes,
        permit: Option<Permit>,
    ) {
        self.pending += 1;
        let (shared, replies, back) =
            (Arc::clone(&self.shared), Arc::clone(&self.replies), self.finished.0.clone());
        self.shared.pool.submit(Box::new(move || {
            let mut head = BytesMut::with_capacity(512);
            let mut fault = false;
            let data = frame(&mut head, |out| {
                shared.service.run(task, &who, &arguments, out).unwrap_or_else(|_| {
                    fault = true;
                    None
                })
            });
            // The call's memory goes before its permit does.
            drop(arguments);
            if let Some(key) = key {
                settle(&replies, key, &head, fault);
            }
            // An error means that the connection is gone; the client will ask again over another one.
            let _ = back.send(Finished { reply: Reply { head: head.freeze(), data }, permit });
        }));
    }

    fn finish(&mut self, finished: Finished) {
        self.pending -= 1;
        self.output.push(finished.reply);
        self.hold(finished.permit);
    }

    /// Keeps the memory of what was put into `output` last until it is written.
    fn hold(&mut self, permit: Option<Permit>) {
        self.held.extend(permit.map(|permit| (self.output.end(), permit)));
    }

    fn deny(&mut self, xid: u32, denial: Denial) {
        let service = &self.shared.service;
        self.output.message(|out| {
            service.deny(xid, denial, out);
            None
        });
    }

    /// Writes as much as the socket takes without waiting.
    fn write(&mut self, stream: &WriteHalf<'_>) -> io::Result<()> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = self.output.slices(&mut slices);
            match stream.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    self.output.advance(written);
                    while self.held.front().is_some_and(|(end, _)| *end <= self.output.start()) {
                        self.held.pop_front();
                    }
                    Counters::count(&self.shared.service.counters().sent, written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn caller(&mut self, credential: Credential<'_>) -> Result<Arc<Caller>, Denial> {
        if self.shared.only_root_calls && self.peer.port() >= FIRST_OF_ALL {
            return Err(Denial::WeakCredential);
        }
        let body = match credential {
            Credential::None => &[],
            Credential::Unix(body) => body,
        };
        if let Some((known, caller)) = &self.caller
            && known == body
        {
            return Ok(Arc::clone(caller));
        }
        let ids = Ids::decode(credential).map_err(|_| Denial::BadCredential)?;
        let caller =
            Arc::new(Caller { address: self.peer.ip(), uid: ids.uid, gid: ids.gid, groups: ids.groups });
        self.caller = Some((body.to_vec(), Arc::clone(&caller)));
        Ok(caller)
    }
}

/// Puts the reply of a call into the cache, and answers those that wait for it.
fn settle(replies: &Peer<Waiter>, key: Key, reply: &[u8], fault: bool) {
    let waiting = if fault { replies.abandon(key) } else { replies.finish(key, reply) };
    for waiter in waiting {
        let reply = Reply { head: Bytes::copy_from_slice(reply), data: Bytes::new() };
        // An error means that this connection is gone, too.
        let _ = waiter.send(Finished { reply, permit: None });
    }
}

fn try_acquire(share: &Arc<Semaphore>, all: &Arc<Semaphore>, need: usize) -> Option<Permit> {
    let need = u32::try_from(need).ok()?;
    let take = |budget: &Arc<Semaphore>| Arc::clone(budget).try_acquire_many_owned(need).ok();
    Some(Permit { _share: take(share)?, _all: take(all)? })
}

/// The share first: who waits for his own memory to come back keeps none from the others.
async fn acquire(share: &Arc<Semaphore>, all: &Arc<Semaphore>, need: usize) -> Option<Permit> {
    // Neither fails: a record is bounded, and no budget is ever closed.
    let need = u32::try_from(need).ok()?;
    let share = Arc::clone(share).acquire_many_owned(need).await.ok()?;
    Some(Permit { _share: share, _all: Arc::clone(all).acquire_many_owned(need).await.ok()? })
}
