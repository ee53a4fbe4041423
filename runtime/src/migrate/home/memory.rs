//! A process's memory on its way out, by as many connections as it takes.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use nix::unistd::Pid;

use super::connector::{ATTEMPT, connect};
use crate::migrate::equal::Equal;
use crate::migrate::image::Channel;
use crate::migrate::lasting::hang_up;
use crate::migrate::link::{self, Keys, LinkError};
use crate::migrate::pages::{Source, aside, hold_back};

/// A thread that sends it.
#[derive(Debug)]
pub struct Outgoing {
    /// Opens the gate before which it waits; `None`: it is open.
    gate: Option<mpsc::Sender<()>>,
    line: Arc<Line>,
    thread: JoinHandle<Source>,
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
        let line = Arc::new(Line::default());
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
        Ok(Self { gate: Some(gate), line, thread })
    }

    /// Begins to send. Before that nothing competes for the processors with those who build the body.
    pub fn start(&mut self) {
        if let Some(gate) = self.gate.take() {
            // The thread waits for it.
            let _heard = gate.send(());
        }
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
        Ok(Some(Self { gate: None, line, thread }))
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
