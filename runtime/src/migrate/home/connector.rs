//! Makes connections to the remote node for the home's side, which has no time to wait for them.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::News;
use crate::migrate::bell::Bell;
use crate::migrate::image::Token;
use crate::migrate::lasting;
use crate::migrate::link::{Keys, LinkError};

/// How long one attempt may take. A SYN that was lost is sent again after one second (RFC 6298).
pub const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Debug)]
pub enum Wanted {
    /// Another connection for the link: so many messages have been heard.
    Link {
        /// What its keys are made of.
        secret: Keys,
        /// How many messages have been heard.
        heard: u64,
    },
    /// A thread's channel.
    Channel {
        /// Which thread's.
        tid: i32,
        /// How many it has had before.
        generation: u32,
        /// Its keys.
        keys: Keys,
    },
}

/// The connector: a thread of its own, which takes one wish after the other.
#[derive(Debug)]
pub struct Connector {
    wishes: Sender<(u64, Token, Wanted)>,
    epoch: Arc<AtomicU64>,
}

impl Connector {
    /// One that connects to there, and tells here.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(to: SocketAddr, bell: Bell<News>) -> io::Result<Self> {
        let (wishes, wanted) = channel::<(u64, Token, Wanted)>();
        let epoch = Arc::new(AtomicU64::new(0));
        let now = Arc::clone(&epoch);
        std::thread::Builder::new().name("connections".into()).spawn(move || {
            for (epoch, token, wanted) in wanted {
                while now.load(Ordering::SeqCst) == epoch {
                    match connect(to, token).map_err(LinkError::Io).and_then(|stream| meet(stream, &wanted)) {
                        Ok(news) => {
                            bell.ring(news);
                            break;
                        }
                        Err(error) => {
                            tracing::debug!(%error, ?wanted, "not connected yet");
                            std::thread::sleep(PAUSE);
                        }
                    }
                }
            }
        })?;
        Ok(Self { wishes, epoch })
    }

    /// Asks for a connection that says this token. It is tried for until it succeeds.
    pub fn want(&self, token: Token, wanted: Wanted) {
        // The thread ends after this.
        let _taken = self.wishes.send((self.epoch.load(Ordering::SeqCst), token, wanted));
    }

    /// Nothing of what was wanted is wanted any more.
    pub fn forget(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.forget();
    }
}

fn meet(stream: TcpStream, wanted: &Wanted) -> Result<News, LinkError> {
    Ok(match *wanted {
        Wanted::Link { secret, heard } => News::Linked(Box::new(lasting::ask(stream, secret, heard)?)),
        Wanted::Channel { tid, generation, keys } => News::Connected { tid, generation, stream, keys },
    })
}

/// A connection that has said its token.
///
/// # Errors
/// Those of the socket.
pub fn connect(to: SocketAddr, token: Token) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, ATTEMPT)?;
    lasting::notices(&stream)?;
    stream.write_all(&token)?;
    Ok(stream)
}
