//! The port by which the connections of a process that is here come from its home. Each says by a token which
//! one it is; whoever else connects holds nobody up.

use std::collections::HashMap;
use std::io::ErrorKind::{ConnectionAborted, WouldBlock};
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::migrate::image::Token;

/// How long a connection that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one may take that has begun to say its token.
const WORD: Duration = Duration::from_secs(1);
/// Connections that are not waited for yet, or have said nothing: of more the oldest go.
const KEPT: usize = 1024;

/// The port.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    /// Those that have said nothing yet, in the order of their coming.
    silent: Vec<TcpStream>,
    /// Those that have come before they were asked for.
    early: HashMap<Token, TcpStream>,
}

impl Door {
    /// One at this address.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(address, 0))?;
        // What it accepts is not so.
        listener.set_nonblocking(true)?;
        Ok(Self { listener, silent: Vec::new(), early: HashMap::new() })
    }

    /// Its number.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Lets in one that has come, as [`Door::as_fd`] has told.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn let_in(&mut self) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            // It has gone again.
            Err(error) if matches!(error.kind(), WouldBlock | ConnectionAborted) => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        if self.silent.len() == KEPT {
            self.silent.remove(0);
        }
        self.silent.push(stream);
        Ok(())
    }

    /// The connection of this token, when it has come.
    ///
    /// # Errors
    /// `TimedOut`, and those of the sockets.
    pub fn connection(&mut self, token: Token) -> io::Result<TcpStream> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(stream) = self.early.remove(&token) {
                return Ok(stream);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "its home does not connect"));
            }
            let (comes, mut speaks) = self.look(left)?;
            let speaking: Vec<TcpStream> =
                self.silent.extract_if(.., |_| speaks.next().unwrap_or(false)).collect();
            for mut stream in speaking {
                // Whoever does not know a token is nobody that is waited for.
                stream.set_read_timeout(Some(WORD))?;
                let mut said = Token::default();
                if stream.read_exact(&mut said).is_ok() && self.early.len() < KEPT {
                    stream.set_read_timeout(None)?;
                    self.early.insert(said, stream);
                }
            }
            if comes {
                self.let_in()?;
            }
        }
    }

    /// Whether one more comes, and which of the silent ones say something, once anything of that is so.
    fn look(&self, at_most: Duration) -> io::Result<(bool, impl Iterator<Item = bool> + use<>)> {
        let fds = std::iter::once(self.listener.as_fd()).chain(self.silent.iter().map(TcpStream::as_fd));
        let mut ready: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll(&mut ready, PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX))?;
        let mut ready = ready.iter().map(|one| one.any() == Some(true)).collect::<Vec<_>>().into_iter();
        Ok((ready.next().unwrap_or(false), ready))
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn strangers_hold_nobody_up() {
        let mut door = Door::open(Ipv4Addr::LOCALHOST.into()).unwrap();
        let connect = || TcpStream::connect(("127.0.0.1", door.port().unwrap())).unwrap();
        let silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
        let said = |token: u8, word: u8| {
            let mut stream = connect();
            stream.write_all(&[token; 16]).unwrap();
            stream.write_all(&[word]).unwrap();
            stream
        };
        let (_second, _first) = (said(2, b'b'), said(1, b'a'));
        for (token, word) in [(1, b'a'), (2, b'b')] {
            let mut found = [0];
            door.connection([token; 16]).unwrap().read_exact(&mut found).unwrap();
            assert_eq!(found, [word]);
        }
        assert_eq!(door.silent.len(), silent.len());
    }

    #[test]
    fn of_too_many_strangers_the_oldest_goes() {
        let mut door = Door::open(Ipv4Addr::LOCALHOST.into()).unwrap();
        let port = door.port().unwrap();
        let mut kept = Vec::new();
        for _ in 0..=KEPT {
            kept.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
            door.let_in().unwrap();
        }
        assert_eq!(door.silent.len(), KEPT);
        assert_eq!(kept[0].read(&mut [0]).unwrap(), 0, "it has been closed");
    }
}
