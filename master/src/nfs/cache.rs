//! The duplicate request cache: a call that is sent again gets the reply it would have got.
//!
//! Linux sends a call again over a new connection when the old one broke, with the same xid. To do
//! a REMOVE or a RENAME twice would answer an error to what went well, so the replies of such calls are
//! kept; and if the first copy is still being carried out, the second waits for its reply.
//!
//! Entries belong to an address, not to a connection or a port. Each peer has its share of a total
//! and loses only its own oldest ones, so one peer's calls never push out another's.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

use super::connection::budget;

/// Replies kept over all peers: about 6 MB.
const TOTAL: usize = 16 * 1024;
/// Replies kept for one peer, at least and at most.
const SHARE: (usize, usize) = (32, 1024);
/// Peers remembered; beyond it those without a connection are forgotten, longest unseen first.
const MAX_PEERS: usize = 2048;
/// How much of a call is looked at to tell it from another one of the same xid.
const CHECKED: usize = 1024;

/// What tells a call from all others of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    xid: u32,
    procedure: u32,
    checksum: u64,
}

/// All peers' replies. `W` is what waits for the reply of a call that is in progress.
#[derive(Debug)]
pub struct ReplyCache<W> {
    /// Makes a peer's share of the memory for large calls and replies.
    share: usize,
    peers: Mutex<HashMap<IpAddr, Arc<Peer<W>>>>,
    count: Arc<AtomicUsize>,
    opened: AtomicU64,
    hasher: RandomState,
}

/// The replies of one peer.
#[derive(Debug)]
pub struct Peer<W> {
    slots: Mutex<Slots<W>>,
    /// Its share of the memory for large calls and replies, over all its connections.
    share: Arc<Semaphore>,
    peers: Arc<AtomicUsize>,
    last_opened: AtomicU64,
}

#[derive(Debug)]
struct Slots<W> {
    calls: HashMap<Key, Slot<W>>,
    /// The answered ones, oldest first.
    answered: VecDeque<Key>,
}

#[derive(Debug)]
enum Slot<W> {
    InProgress(Vec<W>),
    Answered(Bytes),
}

/// What to do with a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// Carry it out, and then [`Peer::finish`] or [`Peer::abandon`] it.
    New,
    /// Send this reply again.
    Replay(Bytes),
    /// Nothing: whoever carries it out will answer the one who waits, too.
    Waits,
}

impl<W> ReplyCache<W> {
    /// A cache of peers that may each take so many octets for large calls and replies.
    pub fn new(share: usize) -> Self {
        Self {
            share,
            peers: Mutex::default(),
            count: Arc::default(),
            opened: AtomicU64::default(),
            hasher: RandomState::new(),
        }
    }

    /// The replies of the peer at this address, for as long as it has a connection and some time after.
    pub fn peer(&self, address: IpAddr) -> Arc<Peer<W>> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS && !peers.contains_key(&address) {
            let unseen = peers
                .iter()
                .filter(|(_, peer)| Arc::strong_count(peer) == 1)
                .min_by_key(|(_, peer)| peer.last_opened.load(Relaxed))
                .map(|(address, _)| *address);
            if let Some(unseen) = unseen {
                peers.remove(&unseen);
            }
        }
        let peer = peers.entry(address).or_insert_with(|| {
            Arc::new(Peer {
                slots: Mutex::new(Slots { calls: HashMap::new(), answered: VecDeque::new() }),
                share: budget(self.share),
                peers: Arc::clone(&self.count),
                last_opened: AtomicU64::new(0),
            })
        });
        peer.last_opened.store(self.opened.fetch_add(1, Relaxed), Relaxed);
        let peer = Arc::clone(peer);
        self.count.store(peers.len(), Relaxed);
        peer
    }

    /// The key of a call; `call` is the record from the program number on.
    pub fn key(&self, xid: u32, procedure: u32, call: &[u8]) -> Key {
        let checksum = self.hasher.hash_one((call.len(), &call[..call.len().min(CHECKED)]));
        Key { xid, procedure, checksum }
    }
}

impl<W> Peer<W> {
    /// Its share of the memory for large calls and replies.
    pub fn share(&self) -> &Arc<Semaphore> {
        &self.share
    }

    /// Looks a call up, and notes that it is in progress if it is new.
    pub fn begin(&self, key: Key, waiter: impl FnOnce() -> W) -> Begin {
        match self.slots().calls.entry(key) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Slot::InProgress(Vec::new()));
                Begin::New
            }
            std::collections::hash_map::Entry::Occupied(mut slot) => match slot.get_mut() {
                Slot::InProgress(waiting) => {
                    waiting.push(waiter());
                    Begin::Waits
                }
                Slot::Answered(reply) => Begin::Replay(reply.clone()),
            },
        }
    }

    /// Keeps the reply of a call that was carried out; answers who waits for it.
    #[must_use = "the ones that wait have to be answered"]
    pub fn finish(&self, key: Key, reply: &[u8]) -> Vec<W> {
        let mut slots = self.slots();
        let share = (TOTAL / self.peers.load(Relaxed).max(1)).clamp(SHARE.0, SHARE.1);
        while slots.answered.len() >= share {
            let Some(oldest) = slots.answered.pop_front() else { break };
            slots.calls.remove(&oldest);
        }
        slots.answered.push_back(key);
        // Copied, so that a small reply does not keep the whole buffer that it was written in.
        match slots.calls.insert(key, Slot::Answered(Bytes::copy_from_slice(reply))) {
            Some(Slot::InProgress(waiting)) => waiting,
            Some(Slot::Answered(_)) | None => Vec::new(),
        }
    }

    /// Forgets a call that could not be carried out, so that it is tried anew if it comes again.
    #[must_use = "the ones that wait have to be answered"]
    pub fn abandon(&self, key: Key) -> Vec<W> {
        match self.slots().calls.remove(&key) {
            Some(Slot::InProgress(waiting)) => waiting,
            Some(Slot::Answered(_)) | None => Vec::new(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots<W>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_reply_is_replayed_to_the_same_call_only() {
        let cache = ReplyCache::<()>::new(0);
        let peer = cache.peer(HERE);
        let key = cache.key(1, 12, b"remove a");
        assert_eq!(peer.begin(key, || ()), Begin::New);
        assert!(peer.finish(key, b"done").is_empty());
        // The same address with another connection.
        assert_eq!(cache.peer(HERE).begin(key, || ()), Begin::Replay(Bytes::from_static(b"done")));
        for other in
            [cache.key(2, 12, b"remove a"), cache.key(1, 13, b"remove a"), cache.key(1, 12, b"remove b")]
        {
            assert_eq!(peer.begin(other, || ()), Begin::New);
        }
        let elsewhere = cache.peer("192.0.2.1".parse().unwrap());
        assert_eq!(elsewhere.begin(key, || ()), Begin::New);
    }

    #[test]
    fn a_call_in_progress_is_waited_for() {
        let cache = ReplyCache::new(0);
        let peer = cache.peer(HERE);
        let key = cache.key(1, 12, b"");
        assert_eq!(peer.begin(key, || "first"), Begin::New);
        assert_eq!(peer.begin(key, || "second"), Begin::Waits);
        assert_eq!(peer.begin(key, || "third"), Begin::Waits);
        assert_eq!(peer.finish(key, b"done"), ["second", "third"]);
        assert_eq!(peer.begin(key, || "fourth"), Begin::Replay(Bytes::from_static(b"done")));
    }

    #[test]
    fn an_abandoned_call_is_tried_anew() {
        let cache = ReplyCache::new(0);
        let peer = cache.peer(HERE);
        let key = cache.key(1, 12, b"");
        assert_eq!(peer.begin(key, || "first"), Begin::New);
        assert_eq!(peer.begin(key, || "second"), Begin::Waits);
        assert_eq!(peer.abandon(key), ["second"]);
        assert_eq!(peer.begin(key, || "third"), Begin::New);
    }

    #[test]
    fn memory_is_bounded_and_each_peer_has_its_share() {
        let cache = ReplyCache::<()>::new(0);
        let quiet = cache.peer("192.0.2.1".parse().unwrap());
        let kept = cache.key(0, 12, b"");
        assert_eq!(quiet.begin(kept, || ()), Begin::New);
        assert!(quiet.finish(kept, b"kept").is_empty());
        let busy = cache.peer(HERE);
        for xid in 0..10_000 {
            let key = cache.key(xid, 12, b"");
            assert_eq!(busy.begin(key, || ()), Begin::New);
            assert!(busy.finish(key, b"x").is_empty());
        }
        assert_eq!(busy.slots().calls.len(), SHARE.1);
        assert!(matches!(busy.begin(cache.key(9_999, 12, b""), || ()), Begin::Replay(_)));
        assert!(matches!(quiet.begin(kept, || ()), Begin::Replay(_)));
        for host in 0..u32::try_from(MAX_PEERS).unwrap() * 2 {
            cache.peer(IpAddr::V4(host.into()));
        }
        assert!(cache.peers.lock().unwrap().len() <= MAX_PEERS);
        assert!(matches!(cache.peer(HERE).begin(cache.key(9_999, 12, b""), || ()), Begin::Replay(_)));
    }
}
