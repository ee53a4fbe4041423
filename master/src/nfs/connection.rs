//! One TCP connection: reads calls, carries the quick ones out at once, and has the others carried out
//! beside; who carries out a call also writes its reply ([`Outbox`]).
//!
//! A call that can block and comes alone is carried out by the very thread that read it, while another
//! takes over what that thread did besides, this connection too: so a client that waits for each reply
//! waits for no thread. Of calls that come together each gets a thread of the [`Pool`].
//!
//! It stops reading while too much waits: replies that the client does not take, calls in progress, or
//! memory that all connections together have used up.

use super::cache::{Begin, Key, Peer, ReplyCache};
use super::counters::Counters;
use super::fs::Caller;
use super::outbox::Outbox;
use super::output::{Reply, frame};
use super::pool::Pool;
use super::record::{MAX_RECORD, RecordError, RecordReader};
use super::rpc::{Call, Credential, Denial, Ids, Refusal};
use super::service::{Service, Task};
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
    /// Where calls that can block are carried out, of which several came together.
    pub pool: Pool,
    /// A place for each further thread that may carry out a call which came alone.
    pub alone: Arc<Semaphore>,
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
pub struct Permit {
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

/// Who waits for a call: the connection it came over.
pub type Waiter = Arc<Outbox>;

/// A connection being served.
pub struct Connection {
    shared: Arc<Shared>,
    peer: SocketAddr,
    replies: Arc<Peer<Waiter>>,
    hash: Arc<ReplyCache<Waiter>>,
    input: OwnedReadHalf,
    outbox: Arc<Outbox>,
    reader: RecordReader,
    /// Memory of the long call that is now being read.
    reading: Option<Permit>,
    /// A call for which there is no memory at the moment, and how much it needs.
    starved: Option<(Bytes, usize)>,
    /// The last credential, decoded: it is the same for thousands of calls.
    caller: Option<(Vec<u8>, Arc<Caller>)>,
    /// Whether another thread can take over from one that carries out a call.
    hands_over: bool,
    closing: bool,
}

impl Connection {
    /// A connection from `peer`, within a runtime.
    pub fn new(
        shared: Arc<Shared>,
        cache: &Arc<ReplyCache<Waiter>>,
        peer: SocketAddr,
        stream: TcpStream,
    ) -> Self {
        let (input, output) = stream.into_split();
        Self {
            outbox: Arc::new(Outbox::new(Arc::clone(&shared), output)),
            shared,
            peer,
            replies: cache.peer(peer.ip()),
            hash: Arc::clone(cache),
            input,
            reader: RecordReader::default(),
            reading: None,
            starved: None,
            caller: None,
            hands_over: Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread,
            closing: false,
        }
    }

    /// Serves it until the client closes it or `shutdown` is called; calls in progress are still answered.
    pub async fn serve(mut self, shutdown: &CancellationToken) -> Result<(), ConnectionError> {
        let mut cancelled = pin!(shutdown.cancelled());
        let mut timer = pin!(tokio::time::sleep(TICK));
        let mut moved = Instant::now();
        let mut written = 0;
        let mut drained_by = None;
        let outbox = Arc::clone(&self.outbox);
        loop {
            self.take_calls()?;
            let standing = outbox.flush(self.closing)?;
            if self.closing && standing.pending == 0 && standing.queued == 0 {
                return Ok(());
            }
            let need = self.need();
            let reads = !self.closing && need.is_none() && standing.room;
            if reads && self.reader.has_whole() {
                // There was no room for it before the replies to those before it were written.
                continue;
            }
            tokio::select! {
                read = self.input.read_buf(self.reader.space()), if reads => {
                    let read = read?;
                    self.closing = read == 0;
                    Counters::count(&self.shared.service.counters().received, read);
                    moved = Instant::now();
                }
                () = outbox.changed() => moved = Instant::now(),
                ready = outbox.writable(), if standing.queued > 0 => {
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
                    let now = Instant::now();
                    if written != standing.written {
                        (written, moved) = (standing.written, now);
                    }
                    let still = now - moved;
                    let stalls = standing.queued > 0 || reads && self.reader.is_within_record();
                    if drained_by.is_some_and(|by| now >= by) || stalls && still >= STALLED {
                        return Err(ConnectionError::Stalled);
                    }
                    if standing.pending == 0 && still >= IDLE {
                        return Ok(());
                    }
                    if still >= TICK {
                        self.reader.release();
                        outbox.release();
                    }
                    timer.as_mut().reset(now + TICK);
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.starved.is_none() && self.outbox.has_room()
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
        if !task.blocks && !task.replayed {
            let service = &self.shared.service;
            // A fault has been logged and answered.
            self.outbox
                .message(permit, |out| service.run(task, &who, call.arguments, out).unwrap_or_default());
            return Ok(());
        }
        let key = task.replayed.then(|| self.hash.key(call.xid, call.procedure, &record[12..]));
        if let Some(key) = key {
            let waits = || {
                self.outbox.begin();
                Arc::clone(&self.outbox)
            };
            match self.replies.begin(key, waits) {
                Begin::New => {}
                Begin::Waits => return Ok(()),
                Begin::Replay(head) => {
                    Counters::count(&self.shared.service.counters().replayed, 1);
                    self.outbox.push(Reply { head, data: Bytes::new() }, None);
                    return Ok(());
                }
            }
        }
        let errand = Errand {
            shared: Arc::clone(&self.shared),
            replies: Arc::clone(&self.replies),
            task,
            key,
            who,
            arguments: record.slice_ref(call.arguments),
        };
        if !task.blocks {
            self.outbox.push(errand.carry_out(), permit);
            return Ok(());
        }
        let alone = self.outbox.begin() == 1 && self.hands_over && !self.reader.is_within_record();
        let outbox = Arc::clone(&self.outbox);
        let job = move || outbox.finish(errand.carry_out(), permit);
        match alone.then(|| Arc::clone(&self.shared.alone).try_acquire_owned()) {
            Some(Ok(place)) => {
                // This thread takes it up next, when this connection waits; another goes on with the rest.
                tokio::spawn(async move {
                    tokio::task::block_in_place(job);
                    drop(place);
                });
            }
            Some(Err(_)) | None => self.shared.pool.submit(Box::new(job)),
        }
        Ok(())
    }

    fn deny(&self, xid: u32, denial: Denial) {
        self.outbox.message(None, |out| {
            self.shared.service.deny(xid, denial, out);
            None
        });
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

/// A call with all that it takes to carry it out, on whichever thread.
struct Errand {
    shared: Arc<Shared>,
    replies: Arc<Peer<Waiter>>,
    task: Task,
    key: Option<Key>,
    who: Arc<Caller>,
    arguments: Bytes,
}

impl Errand {
    /// Carries it out: the reply, which all have got by then that wait for another copy of the call. The
    /// call's memory is given back.
    fn carry_out(self) -> Reply {
        let mut head = BytesMut::with_capacity(512);
        let mut fault = false;
        let data = frame(&mut head, |out| {
            self.shared.service.run(self.task, &self.who, &self.arguments, out).unwrap_or_else(|_| {
                fault = true;
                None
            })
        });
        if let Some(key) = self.key {
            settle(&self.replies, key, &head, fault);
        }
        Reply { head: head.freeze(), data }
    }
}

/// Puts the reply of a call into the cache, and answers those that wait for it.
fn settle(replies: &Peer<Waiter>, key: Key, reply: &[u8], fault: bool) {
    let waiting = if fault { replies.abandon(key) } else { replies.finish(key, reply) };
    for waiter in waiting {
        waiter.finish(Reply { head: Bytes::copy_from_slice(reply), data: Bytes::new() }, None);
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
