//! TCP from a source port below 1024, as rresvport(3) makes it.
//!
//! On a node only root can have one. The master takes a node's word (its keys, its boot's stages, its
//! root's handles) from nowhere else, for to the master all users of a node have the same address.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The ports that rresvport(3) takes; those below belong to services.
const PORTS: std::ops::Range<u16> = 512..1024;

/// Connects to `peer` from a port that only root can have.
///
/// # Errors
/// Those of bind(2) and connect(2); `WouldBlock` or `TimedOut` after `timeout`.
pub fn connect_privileged(peer: SocketAddrV4, timeout: Duration) -> io::Result<TcpStream> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let count = PORTS.end - PORTS.start;
    let first = u16::from_ne_bytes(random) % count;
    let timeout = TimeVal::milliseconds(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    for step in 0..count {
        let port = PORTS.start + (first + step) % count;
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // connect(2) waits for as long as a send may take: socket(7), SO_SNDTIMEO.
        setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
        let own = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
        let done = bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &own)
            .and_then(|()| connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(peer)));
        match done {
            Ok(()) => return Ok(TcpStream::from(fd)),
            Err(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL) => {}
            Err(Errno::EINPROGRESS) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EADDRINUSE.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_source_port_is_below_1024() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("it listens on IPv4")
        };
        let _stream = connect_privileged(address, Duration::from_secs(5)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert!(PORTS.contains(&peer.port()), "{peer}");
    }
}
