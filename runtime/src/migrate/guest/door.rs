//! The port by which the connections of a process that is here come from its home. Each says by a token which
//! one it is; whoever else connects holds nobody up.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::migrate::image::Token;
use crate::migrate::lasting::notices;

/// How long a connection that is waited for may take while a body is built.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that are not waited for yet, or have not said all of a token: of more the oldest go.
const KEPT: usize = 1024;

/// The port.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    /// The listener, and those that have not said all of a token.
    ready: Epoll,
    /// Those, in the order of their coming, with what they have said.
    silent: Vec<(TcpStream, Vec<u8>)>,
    /// Those that have said one, and have not been asked for.
    early: HashMap<Token, TcpStream>,
}

impl Door {
    /// One at this address.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(address, 0))?;
        listener.set_nonblocking(true)?;
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        ready.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { listener, ready, silent: Vec::new(), early: HashMap::new() })
    }

    /// Its number.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Lets in who has come, and hears who says something, as [`Door::as_fd`] has told.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub fn look(&mut self) -> io::Result<()> {
        self.let_in()?;
        let mut speaking = [EpollEvent::empty(); 64];
        if self.ready.wait(&mut speaking, EpollTimeout::ZERO)? == 0 {
            return Ok(());
        }
        for (mut stream, mut said) in std::mem::take(&mut self.silent) {
            let mut rest = vec![0; Token::default().len() - said.len()];
            match stream.read(&mut rest) {
                Ok(0) => {}
                Ok(length) => {
                    said.extend_from_slice(&rest[..length]);
                    match Token::try_from(said) {
                        Ok(token) => self.known(token, stream),
                        Err(said) => self.silent.push((stream, said)),
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    self.silent.push((stream, said));
                }
                // Whoever goes without a token is nobody that is waited for.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn let_in(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    // It has gone again.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => continue,
                    // There is room again when others go.
                    _ if !self.silent.is_empty() => {
                        tracing::warn!(%error, "a connection that has said nothing makes room");
                        self.silent.remove(0);
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            notices(&stream)?;
            stream.set_nonblocking(true)?;
            if self.silent.len() == KEPT {
                self.silent.remove(0);
            }
            self.ready.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
            self.silent.push((stream, Vec::new()));
        }
    }

    fn known(&mut self, token: Token, stream: TcpStream) {
        let kept =
            self.ready.delete(&stream).map_err(io::Error::from).and_then(|()| stream.set_nonblocking(false));
        if kept.is_ok() && self.early.len() < KEPT {
            self.early.insert(token, stream);
        }
    }

    /// The connection of this token, if it has come.
    pub fn take(&mut self, token: &Token) -> Option<TcpStream> {
        self.early.remove(token)
    }

    /// The connection of this token, when it has come.
    ///
    /// # Errors
    /// `TimedOut`, and those of the sockets.
    pub fn connection(&mut self, token: Token) -> io::Result<TcpStream> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(stream) = self.take(&token) {
                return Ok(stream);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "its home does not connect"));
            }
            let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(Errno::EINTR) => self.look()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
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
            door.look().unwrap();
        }
        assert_eq!(door.silent.len(), KEPT);
        assert_eq!(kept[0].read(&mut [0]).unwrap(), 0, "it has been closed");
    }
}
