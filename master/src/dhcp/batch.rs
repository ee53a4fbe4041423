//! Datagrams that came together: each is answered for itself, and their leases become durable together.

use std::net::SocketAddrV4;
use std::sync::atomic::Ordering;

use super::engine::{Engine, Port, Received, Reply};
use super::lease::{Leases, Seconds};
use super::policy::Policy;

/// Answers datagrams that came to one port: replies that promise nothing at once, and the others once all leases
/// of the batch are durable, by whichever thread knows. Where these cannot be made so, none of the others leaves.
/// What is no DHCP request costs only itself.
pub(super) fn answer<'d>(
    engine: &mut Engine,
    policy: &dyn Policy,
    leases: &dyn Leases,
    (port, now): (Port, Seconds),
    datagrams: impl Iterator<Item = (&'d [u8], SocketAddrV4)>,
    send: impl Fn(Vec<Reply>) + Send + 'static,
) {
    let (mut ready, mut after_commit, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    for (datagram, source) in datagrams {
        match engine.handle(policy, Received { source, port, now }, datagram) {
            Ok(mut answer) => {
                let replies = if answer.changes.is_empty() { &mut ready } else { &mut after_commit };
                replies.extend(answer.reply.take());
                changes.append(&mut answer.changes);
            }
            Err(error) => tracing::debug!(%source, %error, "not a DHCP request"),
        }
    }
    if !ready.is_empty() {
        send(ready);
    }
    if changes.is_empty() {
        return;
    }
    let counters = engine.counters().clone();
    leases.commit(
        changes,
        Box::new(move |result| match result {
            Ok(()) => send(after_commit),
            Err(error) => {
                counters.store_errors.fetch_add(after_commit.len() as u64, Ordering::Relaxed);
                tracing::error!(%error, "{} DHCP replies are held back", after_commit.len());
            }
        }),
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Mutex, mpsc};

    use rusqlite::Connection;

    use super::super::fuzz::Harness;
    use super::super::lease::{Change, Lease, LeaseState, StoreError, Then};
    use super::super::server::Mode;
    use super::super::store::SqliteLeases;
    use super::super::tests::{ACK, OFFER, US, at, message};
    use super::*;

    /// The machines that hold an address in this database.
    fn stored(path: &Path) -> Vec<(u8, u8)> {
        let leases = SqliteLeases::open(path).unwrap().load().unwrap();
        let bound = leases.iter().filter(|lease| lease.state == LeaseState::Bound);
        bound.map(|lease| (lease.mac.0[5], lease.address.octets()[3])).collect()
    }

    fn take(mac: u8, address: u8) -> Vec<u8> {
        message(3, mac, 0, &[(50, &at(address)), (54, &US)])
    }

    /// Message type, machine and address of replies, in their order.
    fn brief(replies: &[Reply]) -> Vec<(u8, u8, u8)> {
        replies.iter().map(|reply| (reply.bytes[242], reply.bytes[33], reply.bytes[19])).collect()
    }

    /// All that leaves of a batch.
    fn replies(harness: &mut Harness, store: &SqliteLeases, batch: &[Vec<u8>]) -> Vec<(u8, u8, u8)> {
        let (sent, replies) = mpsc::channel();
        harness.batch(store, batch, move |replies| sent.send(brief(&replies)).unwrap());
        // It ends once nobody is left who could send.
        replies.iter().flatten().collect()
    }

    #[test]
    fn a_bad_packet_costs_only_itself_and_each_lease_stands_before_its_ack_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.db");
        let store = SqliteLeases::open(&path).unwrap();
        let mut harness = Harness::new(Mode::Authoritative);
        let mut no_magic = take(1, 12);
        no_magic[236] = 0;
        let batch = [take(2, 10), vec![1; 20], message(1, 0, 0, &[]), no_magic, vec![], take(3, 11)];
        let (sent, replies) = mpsc::channel();
        let database = path.clone();
        harness.batch(&store, &batch, move |replies| {
            sent.send((brief(&replies), stored(&database))).unwrap();
        });
        assert_eq!(replies.recv().unwrap().0, [(OFFER, 0, 50)]);
        assert_eq!(replies.recv().unwrap(), (vec![(ACK, 2, 10), (ACK, 3, 11)], vec![(2, 10), (3, 11)]));
        let counted = ["received", "malformed", "store_errors"].map(|name| harness.count(name));
        assert_eq!(counted, [6, 3, 0]);
    }

    #[test]
    fn no_ack_leaves_of_a_batch_whose_commit_fails_and_who_asks_again_gets_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.db");
        let store = SqliteLeases::open(&path).unwrap();
        let mut harness = Harness::new(Mode::Authoritative);
        // The first lease of the two can be written, the second cannot.
        let other = Connection::open(&path).unwrap();
        let full = "CREATE TRIGGER full BEFORE INSERT ON leases WHEN NEW.address = '10.0.0.11'
                    BEGIN SELECT RAISE(ABORT, 'disk full'); END";
        other.execute_batch(full).unwrap();
        let batch = [take(2, 10), message(1, 0, 0, &[]), take(3, 11)];
        assert_eq!(replies(&mut harness, &store, &batch), [(OFFER, 0, 50)]);
        assert_eq!((harness.count("store_errors"), stored(&path)), (2, vec![]));
        other.execute_batch("DROP TRIGGER full").unwrap();
        assert_eq!(replies(&mut harness, &store, &batch), [(OFFER, 0, 50), (ACK, 2, 10), (ACK, 3, 11)]);
        assert_eq!(stored(&path), [(2, 10), (3, 11)]);
    }

    /// A store that has been asked and has not answered yet.
    #[derive(Default)]
    struct Slow(Mutex<Vec<Then>>);

    impl Leases for Slow {
        fn load(&self) -> Result<Vec<Lease>, StoreError> {
            Ok(Vec::new())
        }

        fn commit(&self, _: Vec<Change>, then: Then) {
            self.0.lock().unwrap().push(then);
        }
    }

    #[test]
    fn an_ack_waits_for_the_store_and_none_leaves_where_it_ends_without_an_answer() {
        let (store, mut harness) = (Slow::default(), Harness::new(Mode::Authoritative));
        let (sent, replies) = mpsc::channel();
        for batch in [take(2, 10), take(3, 11)] {
            let sent = sent.clone();
            harness.batch(&store, &[batch], move |replies| sent.send(brief(&replies)).unwrap());
        }
        drop(sent);
        assert_eq!(replies.try_recv(), Err(mpsc::TryRecvError::Empty));
        let mut waiting = store.0.into_inner().unwrap();
        waiting.remove(0)(Ok(()));
        drop(waiting);
        assert_eq!(replies.iter().collect::<Vec<_>>(), [[(ACK, 2, 10)]]);
    }
}
