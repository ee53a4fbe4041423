//! The thread that keeps journals short where data files have to be flushed first: no call waits for it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::Union;

/// What asks the thread. It ends when this is dropped.
pub struct Keeper(Sender<(u32, Duration)>);

/// What the thread is asked by.
pub struct Asked(Receiver<(u32, Duration)>);

impl Keeper {
    /// One that asks a thread which is still to be started.
    pub fn new() -> (Self, Asked) {
        let (ask, asked) = channel();
        (Self(ask), Asked(asked))
    }

    /// Asks that a node's journal be written anew after so long.
    pub fn ask(&self, node: u32, after: Duration) {
        // The thread ends after this only.
        let sent = self.0.send((node, after));
        debug_assert!(sent.is_ok());
    }
}

impl Asked {
    /// Starts the thread.
    pub fn serve(self, union: Weak<Union>) -> io::Result<()> {
        thread::Builder::new().name("nfs-journals".into()).spawn(move || self.run(&union)).map(drop)
    }

    fn run(self, union: &Weak<Union>) {
        let mut due: BTreeSet<(Instant, u32)> = BTreeSet::new();
        loop {
            let asked = match due.first() {
                None => self.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((at, _)) => self.0.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match asked {
                Ok((node, after)) => drop(due.insert((Instant::now() + after, node))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Some((_, node)) = due.first().copied().filter(|(at, _)| *at <= Instant::now()) {
                due.pop_first();
                if let Some(union) = union.upgrade() {
                    union.shorten(node);
                }
            }
        }
    }
}
