//! A process's memory on its way out, by as many connections as it takes.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::connector::{ATTEMPT, connect};
use crate::migrate::equal::Equal;
use crate::migrate::image::Channel;
use crate::migrate::lasting::hang_up;
use crate::migrate::link::{self, Keys, LinkError};
use crate::migrate::pages::{Source, aside, hold_back};
use crate::migrate::sys;

/// A thread that sends it.
#[derive(Debug)]
pub struct Outgoing {
    /// Opens the gate before which it waits; `None`: it is open.
    gate: Option<mpsc::Sender<()>>,
    /// When that was.
    begun: Option<Instant>,
    octets: Arc<AtomicU64>,
    line: Arc<Line>,
    thread: JoinHandle<Source>,
}

/// What it has taken to send a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Octets of it.
    pub octets: u64,
    /// From when the process ran on the other node until all was there.
    pub took: Duration,
    /// The fastest way there and back that the connection has seen.
    pub round_trip: Duration,
}

#[derive(Debug, Default)]
struct Line {
    /// Another one takes over.
    over: AtomicBool,
    stream: Mutex<Option<TcpStream>>,
}

impl Line {
    fn stream(&self) -> std::sync::MutexGuard<'_, Option<TcpStream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    /// The memory of a process that stands still, but for what the other node has in `equal` files. It is sent once
    /// [`Outgoing::start`] says so.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn new(
        pid: Pid,
        content: &[(u64, u64)],
        equal: &[Equal],
        stream: TcpStream,
        keys: Keys,
    ) -> io::Result<Self> {
        let mut source = Source::new(pid, content, None).without(equal);
        let (line, octets) = (Arc::new(Line::default()), source.octets());
        let own = Arc::clone(&line);
        let (gate, waits) = mpsc::channel();
        let thread = thread::Builder::new().name("pages".into()).spawn(move || {
            // Whoever gives the move up opens nothing.
            if waits.recv().is_ok()
                && let Err(error) = serve(&own, &mut source, stream, keys)
            {
                tracing::debug!(%pid, %error, "no more pages are asked for");
            }
            source
        })?;
        Ok(Self { gate: Some(gate), begun: None, octets, line, thread })
    }

    /// Begins to send. Before that nothing competes for the processors with those who build the body.
    pub fn start(&mut self) {
        if let Some(gate) = self.gate.take() {
            // The thread waits for it.
            let _heard = gate.send(());
            self.begun = Some(Instant::now());
        }
    }

    /// What it has taken, once the other side has said that all is there. `None`: that is not known, for the connection
    /// has broken meanwhile.
    pub fn sent(&self) -> Option<Sent> {
        let took = self.begun?.elapsed();
        let round_trip = sys::fastest_round_trip(self.line.stream().as_ref()?.as_raw_fd()).ok()?;
        Some(Sent { octets: self.octets.load(Ordering::Relaxed), took, round_trip })
    }

    /// Goes on by another connection, behind the records that have come by those before.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn go_on(mut self, received: u64, there: SocketAddr, channel: Channel) -> io::Result<Option<Self>> {
        self.start();
        self.line.over.store(true, Ordering::SeqCst);
        if let Some(stream) = &*self.line.stream() {
            hang_up(stream);
        }
        let Ok(mut source) = self.thread.join() else { return Ok(None) };
        let octets = source.octets();
        let line = Arc::new(Line::default());
        let own = Arc::clone(&line);
        let thread = thread::Builder::new().name("pages".into()).spawn(move || {
            source.go_back(received);
            while !own.over.load(Ordering::SeqCst) {
                let served = connect(there, channel.token)
                    .map_err(LinkError::Io)
                    .map(|stream| serve(&own, &mut source, stream, channel.keys));
                match served {
                    Ok(served) => {
                        tracing::debug!(?served, "no more pages are asked for");
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the memory finds no way yet");
                        thread::sleep(ATTEMPT / 2);
                    }
                }
            }
            source
        })?;
        Ok(Some(Self { gate: None, begun: None, octets, line, thread }))
    }
}

fn serve(line: &Line, source: &mut Source, stream: TcpStream, keys: Keys) -> Result<(), LinkError> {
    hold_back(&stream)?;
    *line.stream() = Some(stream.try_clone()?);
    if line.over.load(Ordering::SeqCst) {
        return Ok(());
    }
    let asks = stream.try_clone()?;
    let (sender, receiver) = link::split(stream, keys)?;
    aside(asks.as_fd(), || source.serve(sender, receiver))
}
