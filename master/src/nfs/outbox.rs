//! The way out of a connection: whoever carries out a call writes its reply to the socket at once, so
//! that no reply waits until another thread has been woken.
//!
//! The connection's task is woken only where it has something to do about it: what the socket did not
//! take is left to it, and so is reading on when there is room again.

use super::connection::{Permit, Shared};
use super::counters::Counters;
use super::output::{Output, Reply};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::Interest;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// Calls of one connection that are in progress at a time; the next ones wait in its socket.
const MAX_PENDING: usize = 64;
/// Octets of replies that may wait for one client to take them, before no more calls are read.
const MAX_QUEUED: usize = 2 * 1024 * 1024;

/// The replies of one connection, and how many calls are still to be answered.
pub struct Outbox {
    shared: Arc<Shared>,
    stream: OwnedWriteHalf,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    output: Output,
    /// Memory of replies in `output`: given back when the stream has been written up to there.
    held: VecDeque<(u64, Permit)>,
    pending: usize,
    /// Whether the task waits until this is otherwise.
    watched: bool,
    /// What became of a write that was not the task's own.
    broken: Option<io::Error>,
}

/// How things stand after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Calls in progress.
    pub pending: usize,
    /// Octets that the socket has not taken.
    pub queued: usize,
    /// Octets that it has taken since the connection began.
    pub written: u64,
    /// Whether more calls may be taken on.
    pub room: bool,
}

impl Outbox {
    /// The way out of a connection over this stream.
    pub fn new(shared: Arc<Shared>, stream: OwnedWriteHalf) -> Self {
        Self { shared, stream, state: Mutex::default(), changed: Notify::new() }
    }

    /// Whether more calls may be taken on.
    pub fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Appends the reply to a quick call, to be written with others by [`Outbox::flush`].
    pub fn message(&self, permit: Option<Permit>, write: impl FnOnce(&mut BytesMut) -> Option<Bytes>) {
        let mut state = self.lock();
        state.output.message(write);
        state.hold(permit);
    }

    /// Appends a reply that was made elsewhere, to be written by [`Outbox::flush`].
    pub fn push(&self, reply: Reply, permit: Option<Permit>) {
        let mut state = self.lock();
        state.output.push(reply);
        state.hold(permit);
    }

    /// Counts a call that [`Outbox::finish`] will answer; says how many there are.
    pub fn begin(&self) -> usize {
        let mut state = self.lock();
        state.pending += 1;
        state.pending
    }

    /// Answers a call that was begun, from any thread.
    pub fn finish(&self, reply: Reply, permit: Option<Permit>) {
        let mut state = self.lock();
        state.pending -= 1;
        state.output.push(reply);
        state.hold(permit);
        // After an error the client is gone; it will ask again over another connection.
        if state.broken.is_none() {
            state.broken = self.write(&mut state).err();
        }
        if state.watched || state.broken.is_some() || !state.output.is_empty() {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Writes as much as the socket takes without waiting. The task that is `closing`, or has no room, is
    /// told by [`Outbox::changed`] of every call that is finished from then on.
    ///
    /// # Errors
    /// If the connection broke, here or under [`Outbox::finish`].
    pub fn flush(&self, closing: bool) -> io::Result<Standing> {
        let mut state = self.lock();
        if let Some(error) = state.broken.take() {
            return Err(error);
        }
        self.write(&mut state)?;
        let room = state.has_room();
        state.watched = closing || !room;
        Ok(Standing {
            pending: state.pending,
            queued: state.output.len(),
            written: state.output.start(),
            room,
        })
    }

    /// Waits until the task has to [`Outbox::flush`] again because of a call that was finished.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until the socket takes more.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Gives memory back if nothing waits.
    pub fn release(&self) {
        self.lock().output.release();
    }

    fn write(&self, state: &mut State) -> io::Result<()> {
        while !state.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = state.output.slices(&mut slices);
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    state.output.advance(written);
                    while state.held.front().is_some_and(|(end, _)| *end <= state.output.start()) {
                        state.held.pop_front();
                    }
                    Counters::count(&self.shared.service.counters().sent, written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A call that panics has been caught before it could leave this half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.pending < MAX_PENDING && self.output.len() < MAX_QUEUED
    }

    /// Keeps the memory of what was put into `output` last until it is written.
    fn hold(&mut self, permit: Option<Permit>) {
        self.held.extend(permit.map(|permit| (self.output.end(), permit)));
    }
}
